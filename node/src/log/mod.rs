//! The shared segmented log: one per node, for all groups.
//!
//! Owns durability. Invariant: whoever was told `Ok` for an append, a vote or a truncation finds it
//! again after any crash; a torn tail is cut, and what an unproven tail held is made durable again
//! before it is reported. Must not know Raft's rules or what a payload means.
//!
//! ```text
//!  append, save_vote, ..  apply to the index and queue, under one lock    (write, state, group)
//!          |  bounded queue
//!      committer          drain, one block, one sync, publish, call back  (committer, writer, segment)
//!          |
//!  0000000001.seg 0000000002.seg ..      files from the pool              (pool, files)
//!          |
//!      sealer             footers of full segments: memory keeps runs     (sealer)
//!      keeper             give up or rewrite what is mostly dead          (keeper, carry, rewrite)
//!      scrubber           look for damage before somebody needs it        (scrub, mend)
//!          |
//!   read, find            from memory, or footer and file                 (read, find, fetch)
//!
//!   open                  footers first, blocks of the newest segments    (recovery, scan)
//! ```
//!
//! Memory beside the tail's budget: a record of about 60 bytes for each group and sealed segment
//! that has entries of it (a hundred thousandth of the data), and about 120 bytes for each entry of
//! the newest segment.
//!
//! A write or sync of the committer that fails stops the log: everything pending and everything
//! later gets an error, and nothing is tried again. Whether what got an error is on disk, nobody
//! knows before the next `open`.

mod carry;
mod committer;
mod fetch;
mod files;
mod find;
mod frame;
mod group;
mod keeper;
mod leaders;
mod mend;
mod pace;
mod pool;
mod read;
mod recovery;
mod retired;
mod rewrite;
mod scan;
mod scrub;
mod sealer;
mod segment;
mod state;
mod tail;
#[cfg(test)]
mod tests;
mod write;
mod writer;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tristream_proto::domain::{GroupId, NodeId};

use crate::disk::Disk;
use crate::entropy::Entropy;
use crate::metrics::Metrics;
use crate::tasks::{Kind, Tasks};

use committer::Committer;
use files::Files;
use group::Group;
use pool::Pool;
use state::{Done, State, Stop};

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
    /// When its records arrived, in milliseconds since 1970: whoever appends says so. 0: it has no
    /// stamp. The stamps of a group are expected not to fall.
    pub stamp_ms: u64,
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
    /// The last entry that the newest checkpoint covers; never beyond `last`.
    pub checkpoint: Option<EntryId>,
}

/// An entry's bytes are damaged: it did happen, and its bytes are to be had from a replica that holds
/// it. Inside an `io::Error` of kind `InvalidData`. Trying again helps once it is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("group {group}: entry {index} is damaged on disk")]
pub struct Faulty {
    /// Its group.
    pub group: GroupId,
    /// Its index.
    pub index: u64,
}

impl Faulty {
    /// The damaged entry, if that is what the error is about.
    pub fn of(error: &io::Error) -> Option<Faulty> {
        error.get_ref()?.downcast_ref::<Faulty>().copied()
    }

    fn error(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }
}

/// Called once when a write is durable, or failed.
pub type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the segments.
    pub dir: PathBuf,
    /// Size of a segment's file. One that holds a block larger than this is longer.
    pub segment_bytes: u64,
    /// Bytes of recent payloads kept in memory for replication, apply and readers.
    pub tail_bytes: usize,
    /// Bytes that may wait for the commit thread; appends beyond it wait for room.
    pub queue_bytes: usize,
    /// How fast segments are rewritten, to give space back and to bring a group's entries together.
    /// 0: not at all.
    pub rewrite_bytes_per_second: u64,
    /// How fast sealed segments are read again, to find damage before somebody needs what is
    /// damaged. 0: not at all.
    pub scrub_bytes_per_second: u64,
}

impl Config {
    /// The settings that most want, in `dir`.
    pub fn new(dir: PathBuf) -> Config {
        Config {
            dir,
            segment_bytes: 256 << 20,
            tail_bytes: 128 << 20,
            queue_bytes: 64 << 20,
            rewrite_bytes_per_second: 64 << 20,
            scrub_bytes_per_second: 8 << 20,
        }
    }
}

/// The log of a node. Clones are handles.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

/// One group's part of the log. Clones are handles.
#[derive(Clone)]
pub struct GroupLog {
    shared: Arc<Shared>,
    group: GroupId,
}

/// What the handles and the log's tasks share.
struct Shared {
    config: Config,
    disk: Arc<dyn Disk>,
    entropy: Arc<dyn Entropy>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    /// Tells this log's segments from another's.
    log: u64,
    files: Files,
    pool: Pool,
    state: Mutex<State>,
    /// Bytes of the queue that are free.
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// Wakes the committer.
    work: Notify,
    /// Wakes the sealer.
    sealer: Notify,
    /// Wakes the keeper.
    keep: Notify,
    /// Held by whoever makes a lost footer again.
    mending: Semaphore,
    /// Fires when the committer has ended.
    ended: CancellationToken,
}

impl Shared {
    /// Takes in nothing more, and answers everything that waits with an error. The first reason
    /// counts.
    fn stop(&self, reason: Stop) {
        let (queue, groups) = {
            let mut state = self.state.lock();
            state.stop.get_or_insert(reason);
            state.queued_bytes = 0;
            let groups: Vec<_> = state.groups.values().map(|group| group.changed.clone()).collect();
            (std::mem::take(&mut state.queue), groups)
        };
        self.room.close();
        for done in queue.into_iter().filter_map(|write| write.done) {
            done.call(Err(self.stopped()));
        }
        groups.iter().for_each(|changed| changed.notify_waiters());
    }

    /// The error of a log that stopped.
    fn stopped(&self) -> io::Error {
        self.state.lock().stop.as_ref().unwrap_or(&Stop::Closed).error()
    }
}

impl Log {
    /// Opens or creates the log: reads the footers, scans the newest segments, drops a torn tail,
    /// writes the unproven tail again, durably.
    ///
    /// # Errors
    /// `InvalidData`: damage that is no torn tail, and that repairing single entries cannot heal;
    /// `Unsupported`: written by another version. Nothing was changed then. Others: the disk's; trying again is safe.
    pub async fn open(
        config: Config,
        disk: Arc<dyn Disk>,
        entropy: Arc<dyn Entropy>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> io::Result<Log> {
        let began = tokio::time::Instant::now();
        recovery::names::settle(&config.dir, &*disk)?;
        let survey = recovery::survey(&config.dir, &disk).await?;
        let segment_bytes = config.segment_bytes;
        let pool_metrics = Arc::clone(&metrics);
        let (pool_disk, dir) = (Arc::clone(&disk), config.dir.clone());
        let pool = Pool::open(pool_disk, dir, segment_bytes, &tasks, pool_metrics).await?;
        let recovered = survey.recover(&config.dir, &disk, &*entropy, &pool, &metrics).await?;
        metrics.set_log_open(began.elapsed());
        let room_bytes = config.queue_bytes.clamp(1, (u32::MAX >> 4) as usize);
        let shared = Arc::new(Shared {
            config,
            disk,
            entropy,
            tasks: tasks.clone(),
            metrics,
            log: recovered.log,
            files: recovered.files,
            pool,
            state: Mutex::new(recovered.state),
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            work: Notify::new(),
            sealer: Notify::new(),
            keep: Notify::new(),
            mending: Semaphore::new(1),
            ended: CancellationToken::new(),
        });
        let committer = Committer::new(Arc::clone(&shared), recovered.active, recovered.next_batch);
        tasks.spawn_to_end(Kind::Committer, committer.run());
        tasks.spawn(Kind::LogKeeper, sealer::run(Arc::clone(&shared)));
        tasks.spawn(Kind::LogKeeper, keeper::run(Arc::clone(&shared)));
        tasks.spawn(Kind::LogKeeper, scrub::run(Arc::clone(&shared)));
        shared.sealer.notify_one();
        shared.keep.notify_one();
        Ok(Log { shared })
    }

    /// The groups that have anything in the log and were not removed.
    pub fn groups(&self) -> Vec<GroupId> {
        let state = self.shared.state.lock();
        let known = state.groups.iter().filter(|(_, group)| !group.is_empty());
        known.map(|(id, _)| *id).collect()
    }

    /// A handle on `group`, which may be new.
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog { shared: Arc::clone(&self.shared), group }
    }

    /// Forgets a group for good: durable when it returns; its space comes back in the background.
    /// A removed id is never used again. Removing twice, or what is not there, is fine.
    pub async fn remove(&self, group: GroupId) -> io::Result<()> {
        self.shared.remove(group).await
    }

    /// Entries that are known to be damaged, to be fetched from peers and given to
    /// `GroupLog::repair`. Those of segments with a footer are known once a read or the scrubber has
    /// met them.
    pub fn faulty(&self) -> Vec<(GroupId, u64)> {
        self.shared.state.lock().faulty()
    }

    /// Makes everything accepted so far durable and closes the segment. The node is stopping.
    pub async fn close(&self) -> io::Result<()> {
        self.shared.state.lock().stop.get_or_insert(Stop::Closed);
        self.shared.work.notify_one();
        self.shared.ended.cancelled().await;
        match self.shared.state.lock().stop.clone() {
            Some(stop @ Stop::Failed(_)) => Err(stop.error()),
            _ => Ok(()),
        }
    }
}

impl GroupLog {
    /// What is known of the group now.
    pub fn state(&self) -> GroupState {
        let state = self.shared.state.lock();
        state.groups.get(&self.group).map(Group::state).unwrap_or_default()
    }

    /// What the log says is at `index`, intact or not; `None`: purged, or not there yet.
    pub fn id(&self, index: u64) -> Option<EntryId> {
        let state = self.shared.state.lock();
        state.groups.get(&self.group).and_then(|group| group.id(index))
    }

    /// What the log says is the last entry of each leader among those of `first..=last`, rising, intact
    /// or not; `None`: one is purged, or not there yet.
    pub fn lasts(&self, first: u64, last: u64) -> Option<Vec<EntryId>> {
        let state = self.shared.state.lock();
        state.groups.get(&self.group).and_then(|group| group.lasts(first, last))
    }

    /// Appends entries (consecutive, following the last). They are readable when this returns and
    /// durable when `flushed` is called with `Ok`. Waits only for room in the queue.
    ///
    /// `flushed` is called exactly once, with the error too when this returns one. Callbacks run on
    /// the committer's task, in the order of the calls: they must not block.
    ///
    /// # Errors
    /// `InvalidInput`: not consecutive, or larger than the format allows: did not happen.
    /// `NotFound`: the group was removed. Others: the log stopped.
    pub async fn append(&self, entries: Vec<Entry>, flushed: Flushed) -> io::Result<()> {
        self.shared.append(self.group, entries, Done::new(flushed)).await
    }

    /// Removes the entries after `last` (all when `None`); durable when it returns. Checkpoints
    /// that cover a removed entry go too.
    pub async fn truncate_after(&self, last: Option<u64>) -> io::Result<()> {
        self.shared.truncate_after(self.group, last).await
    }

    /// Removes the entries up to `upto`; durable when it returns. It may lie beyond the last entry,
    /// which it becomes then. Purging what is purged does nothing.
    pub async fn purge(&self, upto: EntryId) -> io::Result<()> {
        self.shared.purge(self.group, upto).await
    }

    /// Saves the vote; durable when it returns.
    pub async fn save_vote(&self, vote: Bytes) -> io::Result<()> {
        self.shared.save_vote(self.group, vote).await
    }

    /// Notes the committed id, without a sync of its own.
    pub fn save_committed(&self, committed: Option<EntryId>) {
        self.shared.save_committed(self.group, committed);
    }

    /// Keeps a machine's state as of `applied`, which must be in the log. Not awaited by anyone: it
    /// becomes durable with the next sync, after the entries it covers.
    ///
    /// One of an entry that the log does not hold (a snapshot from the leader, before its `purge`)
    /// is kept but not reported until it does; one below the purge point is not reported any more.
    /// All above the purge point are kept, and the newest at or below it. Waits only for room in the
    /// queue.
    pub async fn checkpoint(&self, applied: EntryId, state: Bytes) -> io::Result<()> {
        self.shared.checkpoint(self.group, applied, state).await
    }

    /// The last entries that the kept checkpoints cover, rising: those above the purge point, and the
    /// one at it.
    pub fn checkpoints(&self) -> Vec<EntryId> {
        let state = self.shared.state.lock();
        state.groups.get(&self.group).map(Group::checkpoints).unwrap_or_default()
    }

    /// The state of the checkpoint that covers exactly up to `applied`; `None` when there is none, or
    /// none any more.
    ///
    /// # Errors
    /// `InvalidData`: damaged on disk; it is not told of any more then. Others: the disk's. Trying
    /// again is safe.
    pub async fn read_checkpoint(&self, applied: EntryId) -> io::Result<Option<Bytes>> {
        self.shared.read_checkpoint(self.group, applied).await
    }

    /// Index of the first entry whose stamp is at least `stamp_ms`, or of one without a stamp right
    /// before it; `None` when there is none.
    ///
    /// # Errors
    /// The disk's. Trying again is safe.
    pub async fn find_stamp(&self, stamp_ms: u64) -> io::Result<Option<u64>> {
        self.shared.find_stamp(self.group, stamp_ms).await
    }

    /// Puts right an entry that is damaged here: `entry` comes from a replica that holds it. Durable
    /// when it returns. One that is not known to be damaged is left as it is.
    ///
    /// # Errors
    /// `InvalidInput`: it is not the entry that lies here. Others: the log stopped. Nothing changed.
    pub async fn repair(&self, entry: Entry) -> io::Result<()> {
        self.shared.repair(self.group, entry).await
    }

    /// Whether entries are known to be damaged, and not repaired yet.
    pub fn is_damaged(&self) -> bool {
        let state = self.shared.state.lock();
        state.groups.get(&self.group).is_some_and(|group| !group.faulty.is_empty())
    }

    /// Entries of `range` from its start, up to about `bytes_max` (at least one when there is one).
    /// Ends early at the end of the log, and before an entry that is damaged. Asking below the purge
    /// point is an error.
    ///
    /// # Errors
    /// `InvalidInput`: below the purge point. `InvalidData` with `Faulty` inside: the first one is
    /// damaged on disk; never wrong data.
    pub async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.shared.read(self.group, range, bytes_max).await
    }

    /// Index of the last durable entry, or of the purge point.
    pub fn durable(&self) -> Option<u64> {
        self.shared.state.lock().groups.get(&self.group).and_then(Group::durable)
    }

    /// Resolves when the entry at `index` is durable (or was removed). An index beyond the last
    /// entry counts as removed.
    pub async fn wait_durable(&self, index: u64) -> io::Result<()> {
        self.shared.wait_durable(self.group, index).await
    }
}
