//! Shard groups: each is one shard's log of record batches.
//!
//! Owns sequence numbers, arrival stamps, what a reader may see, and which calls were stored
//! before. Invariant: within a shard, sequence numbers strictly rise and arrival times never fall;
//! a read shows only committed records; a shard takes records from its opening to its seal, and
//! none twice while it remembers it (docs/deduplication.md). Must not know streams' names, other
//! shards beyond what parents hand over, or how a request came in.

mod appender;
mod command;
mod handle;
mod handover;
mod load;
mod machine;
mod queue;
mod reader;
mod registry;
mod rounds;
#[cfg(test)]
mod testing;
mod window;

use tristream_proto::domain::{NodeId, RecordPosition, StoredRecord, Timestamp};

use crate::raft::ProposeError;

pub use handle::{Handle, Retained};
pub use handover::{Inheritance, Inherited, Opening, Sealed, WindowPart};
pub use load::{Load, Observed};
pub use registry::Shards;
pub use rounds::Rounds;

/// Why records were not stored, or may not have been. Only `Unknown` leaves that open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another node leads the shard, or none.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// Too many bytes wait at this shard already.
    #[error("{waiting_bytes} bytes wait at this shard already")]
    Throttled {
        /// How many.
        waiting_bytes: usize,
    },
    /// The disk of a replica is nearly full. Certainly not stored; again when there is room.
    #[error("no room: {0}")]
    StorageFull(String),
    /// No quorum, or the shard is closing.
    #[error("the shard is not available: {0}")]
    Unavailable(String),
    /// The shard was sealed: its children take the records. Certainly not stored here.
    #[error("the shard is sealed")]
    Sealed,
    /// No entry can hold such a put. Never will.
    #[error("invalid: {0}")]
    Invalid(String),
    /// They may be stored or may yet be.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
}

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not the leader: only the leader can confirm the tip.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// No quorum, or the shard is closing.
    #[error("the shard is not available: {0}")]
    Unavailable(String),
    /// The log could not be read or holds what is no batch.
    #[error("the shard's log cannot be read: {0}")]
    Damaged(String),
}

/// Committed records of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In order; may be empty before the tip too (entries without records).
    pub records: Vec<StoredRecord>,
    /// Where the next read goes on.
    pub next: RecordPosition,
    /// Nothing more is known to be committed here.
    pub at_tip: bool,
    /// The shard is sealed and `next` is its end: nothing will ever follow.
    pub at_end: bool,
    /// Arrival of the newest record known to be committed here.
    pub newest_arrival: Option<Timestamp>,
}

impl From<ProposeError> for ReadError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => ReadError::NotLeader { leader },
            // A barrier that was not confirmed changed nothing.
            ProposeError::Unavailable(why) | ProposeError::Unknown(why) => {
                ReadError::Unavailable(why)
            }
        }
    }
}
