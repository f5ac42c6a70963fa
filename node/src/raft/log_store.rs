//! openraft's log storage on the shared log.
//!
//! Owns nothing: every promise is the log's. Invariant: what openraft is told is durable is durable. Reads
//! are bounded in bytes, however long the range that openraft asks for. Who made which entries comes from
//! memory, not from the entries: a group opens though some that its state covers are damaged, for its peers
//! may have purged these, and then nobody holds them.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{FutureExt, Stream};
use openraft::OptionalSend;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tristream_proto::domain::limits::REPLICATION_BYTES_TARGET;

use super::convert;
use super::repair::Mended;
use super::types::{RaftEntry, RaftLogId, RaftVote, Types};
use crate::log::{Entry, EntryId, EntryKind, GroupLog};

/// One group's log as openraft sees it.
#[derive(Clone)]
pub(super) struct LogStore {
    log: GroupLog,
    mended: Mended,
    stamp_ms: fn(&Bytes) -> u64,
    /// While openraft starts: of single entries before this index it wants to know nothing but the id. 0
    /// from then on.
    ids_before: Arc<AtomicU64>,
}

impl LogStore {
    /// `stamp_ms` reads a command's stamp, see `Machine::stamp_ms`; `applied` is the last entry that the
    /// machine's state covers now.
    pub(super) fn new(
        mended: Mended,
        stamp_ms: fn(&Bytes) -> u64,
        applied: Option<u64>,
    ) -> LogStore {
        let ids_before = Arc::new(AtomicU64::new(applied.map_or(0, |applied| applied + 1)));
        LogStore { log: mended.log().clone(), mended, stamp_ms, ids_before }
    }

    /// Openraft starts with the id of the first entry, which it takes from the entry, and then calls
    /// `get_key_log_ids`. All else that it reads before lies behind what the state covers: so what is
    /// given out here is never applied and never sent.
    fn as_id_alone(&self, from: u64, to: u64) -> Option<RaftEntry> {
        let is_asked =
            from.checked_add(1) == Some(to) && to <= self.ids_before.load(Ordering::Acquire);
        let id = is_asked.then(|| self.log.id(from)).flatten()?;
        Some(RaftEntry::new_blank(convert::log_id(id)))
    }

    fn stamped(&self, entry: RaftEntry) -> Entry {
        let entry = convert::to_log(entry);
        match entry.kind {
            EntryKind::Command => Entry { stamp_ms: (self.stamp_ms)(&entry.payload), ..entry },
            EntryKind::Blank | EntryKind::Membership => entry,
        }
    }

    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let entries = self.mended.read_patiently(from..to, bytes_max).await?;
        entries.into_iter().map(convert::from_log).collect()
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&at) => at,
        Bound::Excluded(&at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&at) => at.saturating_add(1),
        Bound::Excluded(&at) => at,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for LogStore {
    /// Used for replay: openraft would collect the whole range; we read it in pieces as it is consumed.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let pieces =
            futures::stream::try_unfold((self.clone(), from), move |(store, at)| async move {
                let entries = store.read(at, to, REPLICATION_BYTES_TARGET).await?;
                let next = at + entries.len() as u64;
                let piece = futures::stream::iter(entries.into_iter().map(Ok));
                Ok::<_, io::Error>((next > at).then_some((piece, (store, next))))
            });
        Box::pin(futures::TryStreamExt::try_flatten(pieces))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // openraft asks here only for single entries and short runs (replay, membership, the first id).
        let (from, to) = bounds(&range);
        if let Some(entry) = self.as_id_alone(from, to) {
            return Ok(vec![entry]);
        }
        let mut all = Vec::new();
        loop {
            let piece = self.read(from + all.len() as u64, to, REPLICATION_BYTES_TARGET).await?;
            if piece.is_empty() {
                return Ok(all);
            }
            all.extend(piece);
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        self.log.state().vote.map(|vote| convert::decode_vote(&vote)).transpose()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<RaftEntry>> {
        self.read(start, end, REPLICATION_BYTES_TARGET).await
    }

    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<RaftLogId>,
    ) -> io::Result<Vec<RaftLogId>> {
        self.ids_before.store(0, Ordering::Release);
        let (first, last) = (range.start().index(), range.end().index());
        let missing = || convert::bad(format!("entries {first} to {last} are not all in the log"));
        let lasts: Vec<EntryId> = self.log.lasts(first, last).ok_or_else(missing)?;
        Ok(lasts.into_iter().map(convert::log_id).collect())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(convert::log_id),
            last_log_id: state.last.map(convert::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let saved = self.log.save_vote(convert::encode_vote(vote));
        if planted!(VoteNotFsynced) {
            // It is queued by then; a failure comes later, and nobody hears of it.
            let _ = saved.now_or_never();
            return Ok(());
        }
        saved.await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.log.save_committed(committed.as_ref().map(convert::entry_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.log.state().committed.map(convert::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| self.stamped(entry)).collect();
        if planted!(AckBeforeFsync) {
            self.log.append(entries, Box::new(|_| {})).await?;
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let flushed = Box::new(move |result| callback.io_completed(result));
        self.log.append(entries, flushed).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        self.log.truncate_after(last.map(|id| id.index())).await
    }

    async fn purge(&mut self, id: RaftLogId) -> io::Result<()> {
        self.log.purge(convert::entry_id(&id)).await
    }
}
