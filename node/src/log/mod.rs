//! The shared segmented log: one per node, for all groups.
//!
//! Owns durability. Invariant: whoever was told `Ok` for an append, a vote or a truncation finds it again
//! after any crash; a torn tail is cut, and what an unproven tail held is made durable again before it
//! is reported. Must not know Raft's rules or what a payload means.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tristream_proto::domain::{GroupId, NodeId};

use crate::disk::Disk;
use crate::entropy::Entropy;
use crate::metrics::Metrics;
use crate::tasks::Tasks;

/// Identity of an entry: Raft's log id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Term of the leader that made the entry.
    pub term: u64,
    /// That leader.
    pub node: NodeId,
    /// Position in the group's log, from 0.
    pub index: u64,
}

/// What an entry is; the log keeps it and does not care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A leader's first entry.
    Blank = 1,
    /// A command for the group's machine.
    Command = 2,
    /// The group's members.
    Membership = 3,
}

/// One entry of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term, leader, index.
    pub id: EntryId,
    /// What it is.
    pub kind: EntryKind,
    /// Its bytes.
    pub payload: Bytes,
}

/// What the log knows of a group when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Everything up to here was purged.
    pub purged: Option<EntryId>,
    /// The last entry (or `purged` when none is left).
    pub last: Option<EntryId>,
    /// The saved vote, opaque.
    pub vote: Option<Bytes>,
    /// The newest committed id that was saved, never beyond `last`.
    pub committed: Option<EntryId>,
    /// The newest checkpoint and the last entry it covers; never beyond `last`.
    pub checkpoint: Option<(EntryId, Bytes)>,
}

/// Called once when a write is durable, or failed.
pub type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the segments.
    pub dir: PathBuf,
    /// A segment is sealed when it reaches this size.
    pub segment_bytes: u64,
    /// Bytes of recent payloads kept in memory for replication, apply and readers.
    pub tail_bytes: usize,
    /// Bytes that may wait for the commit thread; appends beyond it wait for room.
    pub queue_bytes: usize,
}

/// The log of a node. Clones are handles.
#[derive(Clone)]
pub struct Log {}

/// One group's part of the log. Clones are handles.
#[derive(Clone)]
pub struct GroupLog {}

impl Log {
    /// Opens or creates the log: scans what is there, cuts a torn tail, rewrites the unproven tail durably.
    pub async fn open(
        _config: Config,
        _disk: Arc<dyn Disk>,
        _entropy: Arc<dyn Entropy>,
        _tasks: Tasks,
        _metrics: Arc<Metrics>,
    ) -> io::Result<Log> {
        unimplemented!()
    }

    /// The groups that have anything in the log and were not removed.
    pub fn groups(&self) -> Vec<GroupId> {
        unimplemented!()
    }

    /// A handle on `group`, which may be new.
    pub fn group(&self, _group: GroupId) -> GroupLog {
        unimplemented!()
    }

    /// Forgets a group for good: durable when it returns; its space comes back in the background.
    /// A removed id is never used again.
    pub async fn remove(&self, _group: GroupId) -> io::Result<()> {
        unimplemented!()
    }

    /// Makes everything accepted so far durable and closes the segment. The node is stopping.
    pub async fn close(&self) -> io::Result<()> {
        unimplemented!()
    }
}

impl GroupLog {
    /// What is known of the group now.
    pub fn state(&self) -> GroupState {
        unimplemented!()
    }

    /// Appends entries (consecutive, following the last). They are readable when this returns and durable
    /// when `flushed` is called with `Ok`. Waits only for room in the queue.
    pub async fn append(&self, _entries: Vec<Entry>, _flushed: Flushed) -> io::Result<()> {
        unimplemented!()
    }

    /// Removes the entries after `last` (all when `None`); durable when it returns.
    pub async fn truncate_after(&self, _last: Option<u64>) -> io::Result<()> {
        unimplemented!()
    }

    /// Removes the entries up to `upto`; durable when it returns.
    pub async fn purge(&self, _upto: EntryId) -> io::Result<()> {
        unimplemented!()
    }

    /// Saves the vote; durable when it returns.
    pub async fn save_vote(&self, _vote: Bytes) -> io::Result<()> {
        unimplemented!()
    }

    /// Notes the committed id, without a sync of its own.
    pub fn save_committed(&self, _committed: Option<EntryId>) {
        unimplemented!()
    }

    /// Keeps a machine's state as of `applied`, which must be in the log. Not awaited by anyone: it becomes
    /// durable with the next sync, after the entries it covers.
    pub async fn checkpoint(&self, _applied: EntryId, _state: Bytes) -> io::Result<()> {
        unimplemented!()
    }

    /// Entries of `range` from its start, up to about `bytes_max` (at least one when there is one).
    /// Ends early at the end of the log. Asking below the purge point is an error.
    pub async fn read(&self, _range: Range<u64>, _bytes_max: usize) -> io::Result<Vec<Entry>> {
        unimplemented!()
    }

    /// Index of the last durable entry.
    pub fn durable(&self) -> Option<u64> {
        unimplemented!()
    }

    /// Resolves when the entry at `index` is durable (or was removed).
    pub async fn wait_durable(&self, _index: u64) -> io::Result<()> {
        unimplemented!()
    }
}
