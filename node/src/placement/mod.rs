//! Which groups are open here, and what carries a stream from CREATING to ACTIVE and from DELETING
//! to gone.
//!
//! A stream's groups are those of its shards and of the children of reshards under way.
//!
//! Owns the reconciling of this node's groups with the metadata view. Invariant: a group is
//! destroyed only when the view proves that it was deleted (ids are never reused). Must not know
//! requests.
//!
//! ```text
//!  metadata view --> reconcile      opens and destroys groups here     every node
//!                --> first_leader   elects leaders of new groups       the preferred leader
//!                --> stream_keeper  CREATING -> ACTIVE, DELETING -> .  the metadata leader
//!  group status  --> balance        hands leadership to the preferred  the group's leader
//! ```
//!
//! Each is a loop around a pure decision. None waits for another: whatever one finds undone, it
//! does.

mod balance;
mod first_leader;
mod reconcile;
mod retries;
mod stream_keeper;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::sync::watch;
use tristream_proto::domain::{GroupId, NodeId, Shard};

use crate::metadata::{self, StreamStatus, View};
use crate::raft::Groups;
use crate::shard::Shards;
use crate::tasks::Tasks;

pub use retries::Retries;

/// What placement works on.
pub struct Parts {
    /// This node.
    pub me: NodeId,
    /// The metadata group, open.
    pub metadata: metadata::Handle,
    /// The shards of this node.
    pub shards: Shards,
    /// The groups of this node.
    pub groups: Groups,
    /// The groups that the log had when it was opened: what a crash left of deleted ones is cleared
    /// away.
    pub logged: Vec<GroupId>,
    /// How long a preferred leader must be back and caught up before leadership returns to it.
    pub rebalance_after: Duration,
}

/// What the rest of the node may know of placement. Clones are cheap.
#[derive(Clone)]
pub struct Handle {
    /// Whether the group of every shard that the view places here is open, but for children of
    /// reshards under way, which nobody asks yet. Says nothing of how old the view is.
    pub groups_open: watch::Receiver<bool>,
}

/// Starts placement; it ends with the node.
pub fn start(parts: Parts, tasks: &Tasks) -> Handle {
    let Parts { me, metadata, shards, groups, logged, rebalance_after } = parts;
    let (groups_open, present) =
        reconcile::spawn(me, metadata.clone(), shards, groups.clone(), logged, tasks);
    first_leader::spawn(me, metadata.clone(), groups.clone(), present.clone(), tasks);
    stream_keeper::spawn(metadata.clone(), groups.clone(), present, tasks);
    balance::spawn(me, metadata, groups, rebalance_after, tasks);
    Handle { groups_open }
}

/// The shards whose groups may have no entries yet: those of streams that are being created, and the
/// children of reshards under way. A shard is served only when a majority has an entry of its group,
/// so one that is served is never among them.
fn new_shards(view: &View) -> impl Iterator<Item = &Shard> {
    view.streams.values().flat_map(|stream| {
        let (mapped, children) = match stream.status {
            StreamStatus::Creating => (stream.map.shards(), &stream.reshards[..]),
            StreamStatus::Active | StreamStatus::Updating => (&[][..], &stream.reshards[..]),
            StreamStatus::Deleting => (&[][..], &[][..]),
        };
        mapped.iter().chain(children.iter().flat_map(|reshard| &reshard.children))
    })
}

/// Whether a group of new shards takes entries, as this node sees it: somebody leads it, and an
/// entry behind the first is committed. The first entry names the members and every replica
/// writes it; one behind it was made by a leader that a majority follows.
pub fn takes_entries(groups: &Groups, group: GroupId) -> bool {
    let status = groups.status(group);
    status.is_some_and(|s| s.leader.is_some() && s.committed.is_some_and(|index| index > 0))
}
