//! Consensus: one Raft group per shard and one for the metadata, on the shared log.
//!
//! The only floor that may write the word `openraft`; upper floors see `Machine`, `Group`, `Groups` and the
//! errors here. Invariant: a proposal answered `Ok` is durable on a majority and applied here.
//! Must not know what a command means.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tristream_proto::domain::{GroupId, NodeId};

use crate::log::{Entry, EntryId};

/// The state that a group replicates. `apply` must be deterministic: no clock, no randomness, no I/O.
pub trait Machine: Send + 'static {
    /// What a proposer gets back.
    type Reply: Send + 'static;

    /// Applies one committed command. A command that the machine does not know stops the group on this
    /// node: it is never skipped.
    fn apply(&mut self, at: EntryId, command: &Bytes) -> Result<Self::Reply, MachineError>;

    /// Notes that an entry without a command (blank, membership) was applied.
    fn advance(&mut self, _at: EntryId) {}

    /// The whole state as of the last applied entry.
    fn checkpoint(&self) -> Bytes;

    /// Replaces the state by a checkpoint.
    fn restore(&mut self, checkpoint: Bytes) -> Result<(), MachineError>;

    /// The last entry covered by what the machine keeps on disk by itself; `None` = use the log's
    /// checkpoint.
    fn applied(&self) -> Option<EntryId> {
        None
    }

    /// Whether an entry may be applied only once it is durable in the local log, so that what the machine
    /// keeps is never ahead of the log.
    fn wants_durable(&self) -> bool {
        false
    }

    /// Forgets everything: what the machine keeps is ahead of the durable log, which is replayed now.
    fn reset(&mut self) {}

    /// Bytes of commands applied after which the state is checkpointed into the log.
    fn checkpoint_every_bytes(&self) -> u64 {
        16 << 20
    }
}

/// A machine cannot go on: an unknown command, or a damaged checkpoint.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct MachineError(pub String);

/// Why a proposal has no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none. Certainly did not happen.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// No quorum in sight, or the group is closing. Certainly did not happen.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It may have happened or may still happen: leadership was lost, or the deadline passed.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// A group as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// Current term.
    pub term: u64,
    /// The voters; empty until the group is initialised.
    pub members: Vec<NodeId>,
    /// Last entry of the local log.
    pub last_index: Option<u64>,
    /// Newest entry known to be committed.
    pub committed: Option<u64>,
    /// Newest entry applied here.
    pub applied: Option<u64>,
    /// On the leader: how far each replica is known to have the log. Empty elsewhere.
    pub matched: Vec<(NodeId, Option<u64>)>,
    /// On the leader: milliseconds since each other replica last answered, `None` when it never did.
    /// Empty elsewhere.
    pub silent_ms: Vec<(NodeId, Option<u64>)>,
    /// Milliseconds since a quorum last answered; on the leader only.
    pub quorum_ack_age_ms: Option<u64>,
    /// Set when the group stopped on this node, with the reason.
    pub stopped: Option<String>,
}

/// A handle on one open group.
pub struct Group<M: Machine> {
    _machine: std::marker::PhantomData<fn() -> M>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Group { _machine: self._machine }
    }
}

/// A proposal in the leader's log, waiting to be applied.
pub type Proposal<R> = BoxFuture<'static, Result<(EntryId, R), ProposeError>>;

impl<M: Machine> Group<M> {
    /// The group's id.
    pub fn id(&self) -> GroupId {
        unimplemented!()
    }

    /// Puts `command` into the log, when this node leads in `term` (or in any term, when `None`). Returns
    /// when the entry has its place, so that two calls in a row keep their order; the future it returns
    /// resolves when the command is committed and applied. It has no deadline: the caller sets one.
    pub async fn propose(
        &self,
        _command: Bytes,
        _term: Option<u64>,
    ) -> Result<Proposal<M::Reply>, ProposeError> {
        unimplemented!()
    }

    /// The index up to which a read must have applied to see everything acked before now. Confirms
    /// leadership with a quorum. Leader only.
    pub async fn read_barrier(&self, _deadline: Duration) -> Result<u64, ProposeError> {
        unimplemented!()
    }

    /// Entries from `from` that are applied here, up to about `bytes_max` bytes (at least one).
    pub async fn read(&self, _from: u64, _bytes_max: usize) -> io::Result<Vec<Entry>> {
        unimplemented!()
    }

    /// Index of the newest applied entry; changes as entries are applied.
    pub fn applied(&self) -> watch::Receiver<Option<u64>> {
        unimplemented!()
    }

    /// How the group stands.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Resolves when leader or term differ from what they were, and gives the new status.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        unimplemented!()
    }

    /// Runs `look` on the machine's current state.
    pub fn inspect<T>(&self, _look: impl FnOnce(&M) -> T) -> T {
        unimplemented!()
    }
}

/// Who leads a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// Whether it is this node, confirmed by a quorum and with everything of earlier terms applied here.
    pub ready_here: bool,
}

/// The groups open on this node.
#[derive(Clone)]
pub struct Groups {
    _inner: Arc<()>,
}

impl Groups {
    /// Opens a group on this node: restores `machine` from the newest checkpoint and replays what is
    /// committed after it.
    pub async fn open<M: Machine>(&self, _id: GroupId, _machine: M) -> anyhow::Result<Group<M>> {
        unimplemented!()
    }

    /// Gives a new group its members. Called on one node, the preferred leader; harmless when repeated.
    pub async fn initialize(&self, _id: GroupId, _members: &[NodeId]) -> anyhow::Result<()> {
        unimplemented!()
    }

    /// Hands leadership of `id` to `to`, when this node leads and `to` has the whole log.
    pub async fn hand_over(&self, _id: GroupId, _to: NodeId) -> anyhow::Result<()> {
        unimplemented!()
    }

    /// Status of an open group of whatever kind.
    pub fn status(&self, _id: GroupId) -> Option<Status> {
        unimplemented!()
    }

    /// Ids of the open groups.
    pub fn ids(&self) -> Vec<GroupId> {
        unimplemented!()
    }

    /// Closes a group; its log stays.
    pub async fn close(&self, _id: GroupId) {
        unimplemented!()
    }

    /// Closes a group and removes its log for good.
    pub async fn destroy(&self, _id: GroupId) -> io::Result<()> {
        unimplemented!()
    }
}
