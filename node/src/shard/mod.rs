//! Shard groups: each is one shard's log of record batches.
//!
//! Owns sequence numbers, arrival stamps, and what a reader may see. Invariant: within a shard, sequence
//! numbers strictly rise and arrival times never fall; a read shows only committed records. Must not know
//! streams' names, other shards, or how a request came in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tristream_proto::domain::{
    GroupId, NodeId, ReadFrom, Record, RecordPosition, SequenceNumber, Shard, StoredRecord,
    Timestamp,
};

use crate::raft::Leadership;

/// Where records were stored: consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Number of the first record.
    pub first: SequenceNumber,
    /// How many records.
    pub count: u32,
}

impl Placed {
    /// The numbers of all records, in the order in which they were given.
    pub fn numbers(self) -> impl Iterator<Item = SequenceNumber> {
        (0..u64::from(self.count))
            .map(move |i| SequenceNumber { counter: self.first.counter + i, ..self.first })
    }
}

/// Why records were not stored, or may not have been.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// No quorum, or the shard is closing.
    #[error("the shard is not available: {0}")]
    Unavailable(String),
    /// No entry can hold such a put. Never will.
    #[error("invalid: {0}")]
    Invalid(String),
    /// They may be stored or may yet be.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
}

/// Why a read has no answer.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// Arrival of the newest record known to be committed here.
    pub newest_arrival: Option<Timestamp>,
}

/// A handle on one open shard of this node.
#[derive(Clone)]
pub struct Handle {
    _inner: Arc<()>,
}

impl Handle {
    /// The shard as the metadata describe it.
    pub fn shard(&self) -> &Shard {
        unimplemented!()
    }

    /// Stores `records` in one entry, in this order. Answers when they are durable on a majority, or with
    /// an error that says whether they may be. Leader only.
    pub async fn append(
        &self,
        _records: Vec<Record>,
        _deadline: Duration,
    ) -> Result<Placed, AppendError> {
        unimplemented!()
    }

    /// Committed records from `from` on, as far as this replica knows them: at most `count_max` records and
    /// about `bytes_max` bytes (at least one record where there is one).
    pub async fn read(
        &self,
        _from: RecordPosition,
        _count_max: usize,
        _bytes_max: usize,
    ) -> Result<Page, ReadError> {
        unimplemented!()
    }

    /// The position at which a read of `from` begins, by what this replica knows to be committed.
    pub async fn seek(&self, _from: ReadFrom) -> Result<RecordPosition, ReadError> {
        unimplemented!()
    }

    /// The log index that a linearizable read must have applied. Leader only; calls at the same time share
    /// one round.
    pub async fn read_barrier(&self, _deadline: Duration) -> Result<u64, ReadError> {
        unimplemented!()
    }

    /// Waits until this replica has applied `index`; `false` when the deadline passed first.
    pub async fn wait_applied(&self, _index: u64, _deadline: Duration) -> bool {
        unimplemented!()
    }

    /// Index of the newest applied entry; wakes readers at the tip.
    pub fn watch_applied(&self) -> watch::Receiver<Option<u64>> {
        unimplemented!()
    }

    /// Who leads the shard.
    pub fn leadership(&self) -> Leadership {
        unimplemented!()
    }
}

/// The shards open on this node.
#[derive(Clone)]
pub struct Shards {
    _inner: Arc<()>,
}

impl Shards {
    /// Opens the shard's group on this node. Harmless when it is open.
    pub async fn open(&self, _shard: &Shard) -> anyhow::Result<Handle> {
        unimplemented!()
    }

    /// The open shard of this group.
    pub fn get(&self, _group: GroupId) -> Option<Handle> {
        unimplemented!()
    }

    /// Groups of the open shards.
    pub fn ids(&self) -> Vec<GroupId> {
        unimplemented!()
    }

    /// Closes the shard and gives its log's space back, for good.
    pub async fn destroy(&self, _group: GroupId) -> anyhow::Result<()> {
        unimplemented!()
    }
}
