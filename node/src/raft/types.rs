//! openraft's type parameters, once. Above this file nobody sees a `RaftTypeConfig`.

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use openraft::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};

/// A command as it travels through openraft: opaque bytes.
#[derive(Clone)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What a machine replied, on its way back to the proposer. Its type is known to `Group<M>` only; entries
/// without a command have none. The mutex makes it `Sync`, as openraft asks; it is only ever moved.
pub(crate) struct Reply(parking_lot::Mutex<Option<Box<dyn Any + Send>>>);

impl Reply {
    pub(crate) fn new(reply: Option<Box<dyn Any + Send>>) -> Reply {
        Reply(parking_lot::Mutex::new(reply))
    }

    pub(crate) fn into_inner(self) -> Option<Box<dyn Any + Send>> {
        self.0.into_inner()
    }
}

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = (),
);

pub(crate) type RaftEntry = EntryOf<Types>;
pub(crate) type RaftLogId = LogIdOf<Types>;
pub(crate) type RaftVote = VoteOf<Types>;
pub(crate) type RaftMembership = StoredMembershipOf<Types>;
pub(crate) type LeaderId = openraft::alias::LeaderIdOf<Types>;
