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
use tristream_proto::domain::{ReadFrom, Record, RecordPosition, SequenceNumber, Shard};

use super::appender::Appender;
use super::load::{Load, Observed};
use super::machine::ShardMachine;
use super::reader::{self, Entries};
use super::{AppendError, Inheritance, Inherited, Page, ReadError, Rounds, Sealed, WindowPart};
use crate::log::Entry;
use crate::metrics::{Metrics, Refusal};
use crate::raft::{Group, Leadership, Status};

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

    /// The shard as the metadata describe it.
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
        result.map(|placed| placed.numbers().collect())
    }

    /// What the shard remembers of calls, from entries behind `after`, by what is applied here. The
    /// part is bounded in bytes; `more` says that another follows. Leader only.
    pub async fn window(&self, _after: u64) -> Result<WindowPart, AppendError> {
        Err(AppendError::Unavailable("not built yet".to_owned()))
    }

    /// Seals the shard: an entry after which it takes no records. Harmless when it is sealed. With the
    /// window behind `after`. Leader only.
    pub async fn seal(
        &self,
        _after: u64,
        _deadline: Duration,
    ) -> Result<(Sealed, WindowPart), AppendError> {
        Err(AppendError::Unavailable("not built yet".to_owned()))
    }

    /// Gives a child what its parents hand over. Parts it has are skipped. Leader only.
    pub async fn inherit(
        &self,
        _inheritance: Inheritance,
        _deadline: Duration,
    ) -> Result<Inherited, AppendError> {
        Err(AppendError::Unavailable("not built yet".to_owned()))
    }

    /// Committed records from `from` on, as far as this replica knows them: at most `count_max`
    /// records and about `bytes_max` bytes (at least one record where there is one).
    pub async fn read(
        &self,
        from: RecordPosition,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<Page, ReadError> {
        let Inner { group, shard, metrics, .. } = &*self.inner;
        let applied = self.applied();
        // Whoever asks: nobody gets more than one answer of the door may hold.
        let (count_max, bytes_max) =
            (count_max.min(GET_RECORDS_COUNT_MAX), bytes_max.min(GET_RECORDS_BYTES_MAX));
        let mut page = reader::page(group, shard, applied, from, count_max, bytes_max).await?;
        page.newest_arrival = group.inspect(ShardMachine::newest_arrival);
        let bytes = page.records.iter().map(|record| record.data.len()).sum();
        metrics.observe_read(page.records.len(), bytes);
        Ok(page)
    }

    /// The position at which a read of `from` begins, by what this replica knows to be committed.
    pub async fn seek(&self, from: ReadFrom) -> Result<RecordPosition, ReadError> {
        let applied = self.applied();
        match from {
            ReadFrom::TrimHorizon => Ok(RecordPosition::default()),
            ReadFrom::At(position) => Ok(position),
            ReadFrom::Latest => Ok(RecordPosition { index: reader::after(applied), position: 0 }),
            ReadFrom::Time(time) => reader::seek_time(&self.inner.group, applied, time).await,
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

    fn applied(&self) -> Option<u64> {
        *self.inner.applied.borrow()
    }
}

impl Entries for Group<ShardMachine> {
    async fn read(&self, from: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        Group::read(self, from, bytes_max).await
    }
}

fn reason(error: &AppendError) -> Option<Refusal> {
    match error {
        AppendError::NotLeader { .. } => Some(Refusal::NotLeader),
        AppendError::Throttled { .. } => Some(Refusal::Throttled),
        AppendError::Unavailable(_) => Some(Refusal::Unavailable),
        AppendError::Unknown(_) => Some(Refusal::Unknown),
        AppendError::Invalid(_) | AppendError::Sealed => None,
    }
}
