//! One open shard, as everybody above uses it.
//!
//! Must not know how many shards there are, or where a request came from.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tristream_proto::domain::limits::{GET_RECORDS_BYTES_MAX, GET_RECORDS_COUNT_MAX};
use tristream_proto::domain::{ReadFrom, Record, RecordPosition, SequenceNumber, Shard, Timestamp};

use super::appender::Appender;
use super::load::{Load, Observed};
use super::machine::ShardMachine;
use super::reader::{self, Entries, Extent};
use super::{
    AppendError, Inheritance, Inherited, Page, ReadError, Rounds, Sealed, WindowPart, handover,
};
use crate::log::Entry;
use crate::metrics::{Metrics, Refusal};
use crate::raft::{Group, Leadership, Status};

mod trimming;

pub use trimming::Retained;

/// How often the horizon may move under one read; each move takes a decision of the leader's.
const HORIZON_MOVES_MAX: usize = 8;

/// A handle on one open shard of this node.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    shard: Shard,
    group: Group<ShardMachine>,
    appender: Appender,
    leader: watch::Receiver<Leadership>,
    applied: watch::Receiver<Option<u64>>,
    barrier: Rounds<u64>,
    load: Load,
    metrics: Arc<Metrics>,
    /// Ends the appender's owner task.
    closing: CancellationToken,
}

impl Handle {
    pub(super) fn new(
        shard: Shard,
        group: Group<ShardMachine>,
        appender: Appender,
        load: Load,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
    ) -> Handle {
        let (leader, applied) = (group.watch_leader(), group.applied());
        let barrier = Rounds::default();
        let inner =
            Inner { shard, group, appender, leader, applied, barrier, load, metrics, closing };
        Handle { inner: Arc::new(inner) }
    }

    /// The shard as the metadata described it when it was opened here. A child was not published
    /// then: for its creation second see [`Handle::creation_second`].
    pub fn shard(&self) -> &Shard {
        &self.inner.shard
    }

    /// Stores `records` in one entry, in this order, but for those whose origin is remembered: they
    /// keep the number they have. Answers with a number per record when they are durable on a
    /// majority, or with an error that says whether they may be. Leader only.
    pub async fn append(
        &self,
        records: Vec<Record>,
        deadline: Duration,
    ) -> Result<Vec<SequenceNumber>, AppendError> {
        let begun = Instant::now();
        let (count, bytes) = (records.len(), records.iter().map(Record::bytes).sum());
        let Inner { metrics, load, .. } = &*self.inner;
        let glance = load.glance(begun, &records);
        let result = self.inner.appender.append(records, begun + deadline).await;
        if let Ok(_) | Err(AppendError::Unknown(_)) = result {
            metrics.observe_put(count, bytes);
            load.count(self.leadership().term, glance);
        }
        match &result {
            Ok(_) => metrics.observe_ack(count, begun.elapsed()),
            Err(error) => {
                if let Some(reason) = reason(error) {
                    metrics.observe_refusal(reason);
                }
            }
        }
        result
    }

    /// What the shard remembers of calls, from entries behind `after`, by what is applied here. The
    /// part is bounded in bytes; `more` says that another follows. Leader only.
    pub async fn window(&self, after: u64) -> Result<WindowPart, AppendError> {
        self.inner.appender.check_leads()?;
        Ok(self.inner.group.inspect(|machine| machine.window(after)))
    }

    /// Seals the shard: an entry after which it takes no records. Harmless when it is sealed. With
    /// the window behind `after`. Leader only.
    pub async fn seal(
        &self,
        after: u64,
        deadline: Duration,
    ) -> Result<(Sealed, WindowPart), AppendError> {
        let sealed = self.inner.appender.seal(Instant::now() + deadline).await?;
        Ok((sealed, self.inner.group.inspect(|machine| machine.window(after))))
    }

    /// Gives a child what its parents hand over. Parts it has are skipped; with nothing to give it
    /// tells how far it is. Leader only.
    pub async fn inherit(
        &self,
        inheritance: Inheritance,
        deadline: Duration,
    ) -> Result<Inherited, AppendError> {
        let until = Instant::now() + deadline;
        let Inner { appender, group, .. } = &*self.inner;
        appender.check_leads()?;
        let mut inherited = group.inspect(ShardMachine::inherited);
        for step in handover::steps(inheritance)? {
            if inherited.opened {
                break;
            }
            if step.brings_news(&inherited) {
                inherited = appender.inherit(step.command()?, until).await?;
            }
        }
        Ok(inherited)
    }

    /// Forgets the window, which takes memory and checkpoints: of a shard whose children have opened,
    /// that is, which the view shows closed. Does nothing, and says `false`, while the shard is not
    /// sealed here. Whoever asks for its window afterwards is told that there is none.
    pub fn retire(&self) -> bool {
        self.inner.group.amend(ShardMachine::retire)
    }

    /// Leading field of the shard's sequence numbers, as its own log says; `None` while a child
    /// waits for its opening.
    pub fn creation_second(&self) -> Option<u64> {
        let opened = self.inner.group.inspect(ShardMachine::opened);
        opened.map(|opened| opened.creation_second)
    }

    /// Records stored since the shard's beginning, as far as applied here.
    pub fn records(&self) -> u64 {
        self.inner.group.inspect(ShardMachine::records)
    }

    /// Number of the newest record applied here; `None` before the first.
    pub fn last_sequence_number(&self) -> Option<SequenceNumber> {
        self.inner.group.inspect(ShardMachine::last_sequence_number)
    }

    /// Committed records from `from` on, as far as this replica knows them: at most `count_max`
    /// records and about `bytes_max` bytes (at least one record where there is one).
    pub async fn read(
        &self,
        from: RecordPosition,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<Page, ReadError> {
        let Inner { group, metrics, .. } = &*self.inner;
        // Whoever asks: nobody gets more than one answer of the door may hold.
        let (count_max, bytes_max) =
            (count_max.min(GET_RECORDS_COUNT_MAX), bytes_max.min(GET_RECORDS_BYTES_MAX));
        let page = |extent: Extent| async move {
            reader::page(group, &extent, from, count_max, bytes_max).await
        };
        let mut page = self.within_horizon(page).await?;
        page.newest_arrival = group.inspect(ShardMachine::newest_arrival);
        let bytes = page.records.iter().map(|record| record.data.len()).sum();
        metrics.observe_read(page.records.len(), bytes);
        Ok(page)
    }

    /// The position at which a read of `from` begins, by what this replica knows to be committed.
    /// Where a read of the horizon begins is settled by the read: it may move until then.
    pub async fn seek(&self, from: ReadFrom) -> Result<RecordPosition, ReadError> {
        match from {
            ReadFrom::TrimHorizon => Ok(RecordPosition::default()),
            ReadFrom::At(position) => Ok(position),
            ReadFrom::Latest => Ok(RecordPosition { index: self.extent().end(), position: 0 }),
            ReadFrom::Time(time) => {
                let group = &self.inner.group;
                let seek =
                    |extent: Extent| async move { reader::seek_time(group, &extent, time).await };
                self.within_horizon(seek).await
            }
        }
    }

    /// The log index that a linearizable read must have applied. Leader only; calls at the same
    /// time share one round.
    pub async fn read_barrier(&self, deadline: Duration) -> Result<u64, ReadError> {
        let group = &self.inner.group;
        let ask = async { group.read_barrier(deadline).await.map_err(ReadError::from) };
        timeout(deadline, self.inner.barrier.join(ask)).await.unwrap_or_else(|_| {
            Err(ReadError::Unavailable("no quorum answered in time".to_owned()))
        })
    }

    /// Waits until this replica has applied `index`; `false` when the deadline passed first.
    pub async fn wait_applied(&self, index: u64, deadline: Duration) -> bool {
        let mut applied = self.watch_applied();
        let reached = applied.wait_for(|applied| *applied >= Some(index));
        matches!(timeout(deadline, reached).await, Ok(Ok(_)))
    }

    /// Index of the newest applied entry; wakes readers at the tip.
    pub fn watch_applied(&self) -> watch::Receiver<Option<u64>> {
        self.inner.applied.clone()
    }

    /// Who leads the shard.
    pub fn leadership(&self) -> Leadership {
        *self.inner.leader.borrow()
    }

    /// What came in at this shard since this node leads it, or since it was first asked; `None` where
    /// it does not lead.
    pub fn load(&self) -> Option<Observed> {
        let leadership = self.leadership();
        if !leadership.ready_here {
            self.inner.load.forget();
            return None;
        }
        Some(self.inner.load.observed(leadership.term, Instant::now()))
    }

    /// How the shard's group stands.
    pub fn status(&self) -> Status {
        self.inner.group.status()
    }

    /// Lets no put in any more; those on their way end as unknown.
    pub(super) fn close(&self) {
        self.inner.closing.cancel();
    }

    /// Reads, and reads again when the horizon moved meanwhile: what failed may have been purged.
    async fn within_horizon<T, F: Future<Output = Result<T, ReadError>>>(
        &self,
        read: impl Fn(Extent) -> F,
    ) -> Result<T, ReadError> {
        let mut extent = self.extent();
        for _ in 0..HORIZON_MOVES_MAX {
            let answer = read(extent).await;
            let now = self.extent();
            if answer.is_ok() || now.kept_from <= extent.kept_from {
                return answer;
            }
            extent = now;
        }
        Err(ReadError::Unavailable("the shard is trimmed faster than it is read".to_owned()))
    }

    fn extent(&self) -> Extent {
        // Before the machine is asked: a seal that was applied in between then lies behind, and
        // what lies behind a seal is never taken for records.
        let applied = *self.inner.applied.borrow();
        let look = |machine: &ShardMachine| (machine.opened(), machine.sealed(), machine.trimmed());
        let (opened, sealed, trimmed) = self.inner.group.inspect(look);
        // A replica that began at a checkpoint may not have applied yet what let it be purged.
        let gone = trimmed.max(self.inner.group.purged());
        let creation_second = opened.map_or(0, |opened| opened.creation_second);
        Extent {
            first: SequenceNumber::start_of(self.inner.shard.id, creation_second),
            begin: opened.map(|opened| opened.index),
            kept_from: gone.map_or(0, |gone| gone + 1),
            applied,
            seal: sealed.map(|sealed| sealed.end),
        }
    }
}

impl Entries for Group<ShardMachine> {
    async fn read(&self, from: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        Group::read(self, from, bytes_max).await
    }

    async fn find(&self, time: Timestamp) -> io::Result<Option<u64>> {
        Group::find_stamp(self, time.0).await
    }
}

fn reason(error: &AppendError) -> Option<Refusal> {
    match error {
        AppendError::NotLeader { .. } => Some(Refusal::NotLeader),
        AppendError::Throttled { .. } => Some(Refusal::Throttled),
        AppendError::StorageFull(_) => Some(Refusal::StorageFull),
        AppendError::Unavailable(_) => Some(Refusal::Unavailable),
        AppendError::Unknown(_) => Some(Refusal::Unknown),
        AppendError::Invalid(_) | AppendError::Sealed => None,
    }
}

#[cfg(test)]
mod tests;
