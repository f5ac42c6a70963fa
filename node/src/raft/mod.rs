//! Consensus: one Raft group per shard and one for the metadata, on the shared log.
//!
//! The only floor that may write the word `openraft`; upper floors see `Machine`, `Group`, `Groups` and the
//! errors here. Invariant: a proposal answered `Ok` is durable on a majority and applied here.
//! Must not know what a command means.
//!
//! ```text
//!  Group::propose --> openraft core --> LogStore ----------> log (fsync) --.
//!                         |                                                | both peers' acks
//!                         '--> Connection --> PeerStream ==gRPC==> Inbound-' and the local one commit
//!                                                                          v
//!  Proposal resolves <---------------- StateMachine::apply <---------- committed
//! ```

mod convert;
mod founding;
mod group;
mod groups;
mod inbound;
mod liveness;
mod log_store;
mod network;
mod overtaken;
mod peer;
mod peer_stream;
mod repair;
mod snapshot;
mod state_machine;
mod types;

use bytes::Bytes;
use tristream_proto::domain::NodeId;

use crate::log::EntryId;

pub use group::{Group, Proposal};
pub use groups::{Config, Groups};
pub use inbound::Inbound;

/// Under which name the consensus library logs. It reports an absent peer several times a second and group.
pub const LOG_TARGET: &str = "openraft";

/// The state that a group replicates. `apply` must be deterministic: no clock, no randomness, no I/O.
pub trait Machine: Send + 'static {
    /// What a proposer gets back.
    type Reply: Send + 'static;

    /// Applies one committed command. A command that the machine does not know stops the group on this
    /// node: it is never skipped.
    fn apply(&mut self, at: EntryId, command: &Bytes) -> Result<Self::Reply, MachineError>;

    /// What a planted bug replies before the command is applied; `None` where none is planted.
    #[cfg(planted)]
    fn foretell(&self, _at: EntryId, _command: &Bytes) -> Option<Self::Reply> {
        None
    }

    /// When the command's leader made it, in milliseconds, for commands whose stamps never fall as the
    /// log goes on; 0 for others. The log keeps it beside the entry and finds entries by it.
    fn stamp_ms(_command: &Bytes) -> u64 {
        0
    }

    /// Notes that an entry without a command (blank, membership) was applied.
    fn advance(&mut self, _at: EntryId) {}

    /// The whole state as of the last applied entry.
    fn checkpoint(&self) -> Bytes;

    /// Replaces the state by a checkpoint.
    fn restore(&mut self, checkpoint: Bytes) -> Result<(), MachineError>;

    /// The last entry that the machine has persisted by itself; `None` when it relies on checkpoints in the
    /// log. Asked once, when the group is opened.
    fn applied(&self) -> Option<EntryId> {
        None
    }

    /// Whether the machine persists itself: an entry is applied only once it is durable in the local log,
    /// so that the machine's state is never ahead of the log.
    fn wants_durable(&self) -> bool {
        false
    }

    /// Forgets everything: the persisted state is ahead of the log and is rebuilt from it.
    fn reset(&mut self) {}

    /// Bytes of commands applied after which the state is checkpointed into the log.
    fn checkpoint_every_bytes(&self) -> u64 {
        16 << 20
    }

    /// The last entry that nobody needs any more; `None` when every one is. The log is purged up to the
    /// newest checkpoint that is no further.
    fn purgeable(&self) -> Option<u64> {
        None
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
    /// Everything up to here was purged from the local log.
    pub purged: Option<u64>,
    /// On the leader: how far each replica is known to have the log. Empty elsewhere.
    pub matched: Vec<(NodeId, Option<u64>)>,
    /// Milliseconds since a quorum last answered; on the leader only.
    pub quorum_ack_age_ms: Option<u64>,
    /// On the leader: milliseconds since each other replica last answered, `None` when it never did.
    /// Empty elsewhere.
    pub silent_ms: Vec<(NodeId, Option<u64>)>,
    /// Set when the group stopped on this node, with the reason.
    pub stopped: Option<String>,
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
