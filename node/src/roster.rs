//! The nodes of the cluster: who they are, in which AZ, and where they are reached.
//!
//! Made once at start from the identity (ids) and the configuration (addresses). Must not know who is
//! alive.

use tristream_proto::domain::NodeId;

/// A node and its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Its availability zone.
    pub az: String,
    /// host:port of gRPC, for peers and native clients.
    pub peer: String,
    /// host:port of the Kinesis and admin door.
    pub kinesis: String,
}

/// All nodes, by rising id, and which of them this one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// Name of the cluster, made when it was founded.
    pub cluster: String,
    /// This node.
    pub me: NodeId,
    /// All nodes, this one too.
    pub members: Vec<Member>,
}

impl Roster {
    /// The node of this id.
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Everybody but this node.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.node != self.me)
    }

    /// All ids, rising.
    pub fn ids(&self) -> Vec<NodeId> {
        self.members.iter().map(|member| member.node).collect()
    }
}
