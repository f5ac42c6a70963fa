//! The owner of a shard's appends: gathers waiting puts into entries and proposes them in order.
//!
//! ```text
//!  append() -> Queue --gather--> proposing (one) --placed--> flights (a few) --applied--> replies
//!     \___ withdraws its put at the deadline: no effect; cannot any more: unknown
//! ```
//!
//! Invariant: an entry is proposed in the one term for which its stamp was chosen, after everything
//! of earlier terms was applied here, so stamps never fall; entries are placed in the order in
//! which they were gathered. A put is answered "no effect" only while it was never handed to Raft,
//! or Raft says so. Must not know readers, streams, or what a record means.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tristream_proto::domain::{
    Batch, NodeId, Record, RecordPosition, SequenceNumber, Shard, Timestamp,
};

use super::machine::{Appended, ShardMachine};
use super::queue::{Put, Queue};
use super::{AppendError, Placed, command};
use crate::clock::Clock;
use crate::log::EntryId;
use crate::metrics::Metrics;
use crate::raft::{Group, Leadership, Proposal, ProposeError};

/// Entries of one shard on their way at a time: enough to keep the log and the wire busy.
const FLIGHTS_MAX: usize = 4;
/// While puts wait, how often is looked whether a majority still answers.
const TOUCH_INTERVAL: Duration = Duration::from_millis(100);
const QUEUE_NAME: &str = "shard_waiting_bytes";

/// The Raft group, as the appender needs it.
pub(super) trait Target: Send + Sync + 'static {
    /// See [`Group::propose`].
    fn propose(
        &self,
        command: Bytes,
        term: u64,
    ) -> BoxFuture<'static, Result<Proposal<Appended>, ProposeError>>;
    /// Stamp of the newest applied record; zero before the first.
    fn newest_arrival(&self) -> Timestamp;
    /// Who leads.
    fn watch_leader(&self) -> watch::Receiver<Leadership>;
    /// See [`Group::in_touch`].
    fn in_touch(&self) -> bool;
}

impl Target for Group<ShardMachine> {
    fn propose(
        &self,
        command: Bytes,
        term: u64,
    ) -> BoxFuture<'static, Result<Proposal<Appended>, ProposeError>> {
        let group = self.clone();
        Box::pin(async move { Group::propose(&group, command, Some(term)).await })
    }

    fn newest_arrival(&self) -> Timestamp {
        self.inspect(ShardMachine::newest_arrival).unwrap_or_default()
    }

    fn watch_leader(&self) -> watch::Receiver<Leadership> {
        Group::watch_leader(self)
    }

    fn in_touch(&self) -> bool {
        Group::in_touch(self)
    }
}

/// Bytes that wait at all shards of a node, as a metric.
pub(super) struct Depth {
    bytes: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Depth {
    pub(super) fn new(metrics: Arc<Metrics>) -> Depth {
        Depth { bytes: AtomicUsize::new(0), metrics }
    }

    fn moved(&self, before: usize, after: usize) {
        // Wrapping addition of a difference is exact, also when it is negative.
        let difference = after.wrapping_sub(before);
        let old = self.bytes.fetch_add(difference, Ordering::Relaxed);
        self.metrics.set_queue_depth(QUEUE_NAME, old.wrapping_add(difference));
    }
}

type Answer = Result<Placed, AppendError>;
type Reply = oneshot::Sender<Answer>;
/// An entry and what Raft will say of it.
type OnItsWay<T> = BoxFuture<'static, (Flight, Result<T, ProposeError>)>;

/// The queue, between those who append and the owner task.
struct Inbox {
    queue: Mutex<Queue<Reply>>,
    arrived: Notify,
    depth: Arc<Depth>,
}

impl Inbox {
    fn with<T>(&self, change: impl FnOnce(&mut Queue<Reply>) -> T) -> T {
        let (before, result, after) = {
            let mut queue = self.queue.lock();
            let before = queue.held_bytes();
            let result = change(&mut queue);
            (before, result, queue.held_bytes())
        };
        if before != after {
            self.depth.moved(before, after);
        }
        result
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.depth.moved(self.queue.lock().held_bytes(), 0);
    }
}

/// What appends to one shard. Clones are handles to the same queue.
#[derive(Clone)]
pub(super) struct Appender {
    inbox: Arc<Inbox>,
    leader: watch::Receiver<Leadership>,
    target: Arc<dyn Target>,
    me: NodeId,
}

impl Appender {
    /// The handle, and the owner's work, which the caller spawns.
    pub(super) fn new(
        target: impl Target,
        shard: &Shard,
        me: NodeId,
        clock: Arc<dyn Clock>,
        depth: Arc<Depth>,
    ) -> (Appender, impl Future<Output = ()> + Send + 'static) {
        let inbox =
            Arc::new(Inbox { queue: Mutex::new(Queue::new()), arrived: Notify::new(), depth });
        let leader = target.watch_leader();
        let target: Arc<dyn Target> = Arc::new(target);
        let appender =
            Appender { inbox: inbox.clone(), leader: leader.clone(), target: target.clone(), me };
        let owner = Owner {
            inbox,
            leader,
            me,
            clock,
            target,
            first: shard.starting_sequence_number(),
            stamps: None,
            proposing: None,
            flights: FuturesUnordered::new(),
        };
        (appender, owner.run())
    }

    /// Stores `records` in one entry. A caller that goes away takes a waiting put with it, but
    /// never one that is on its way.
    pub(super) async fn append(&self, records: Vec<Record>, deadline: Instant) -> Answer {
        let leader = self.leader.borrow().leader;
        if leader != Some(self.me) {
            return Err(AppendError::NotLeader { leader });
        }
        if !self.target.in_touch() {
            return Err(out_of_touch());
        }
        let (reply, mut answer) = oneshot::channel();
        let id = self.inbox.with(|queue| queue.admit(records, deadline, reply))?;
        let waiting = Waiting { inbox: &self.inbox, id };
        self.inbox.arrived.notify_one();
        if let Ok(Ok(answer)) = timeout_at(deadline, &mut answer).await {
            return answer;
        }
        if waiting.withdraw() {
            return Err(AppendError::Unavailable("no entry took it in time".to_owned()));
        }
        // It left the queue: with an answer that comes just now, or into an entry.
        answer.try_recv().unwrap_or_else(|_| {
            Err(AppendError::Unknown("proposed, but without an outcome in time".to_owned()))
        })
    }
}

/// A put whose caller waits.
struct Waiting<'a> {
    inbox: &'a Inbox,
    id: u64,
}

impl Waiting<'_> {
    /// Whether the put was still in the queue, where it had no effect and now never will.
    fn withdraw(&self) -> bool {
        self.inbox.with(|queue| queue.withdraw(self.id)).is_some()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// The stamps of one term of this leader.
#[derive(Clone, Copy, Debug)]
struct Stamps {
    term: u64,
    last: Timestamp,
}

impl Stamps {
    fn next(&mut self, now: Timestamp) -> Timestamp {
        self.last = self.last.max(now);
        self.last
    }
}

/// An entry on its way.
struct Flight {
    puts: Vec<(u32, Reply)>,
    arrival: Timestamp,
    count: u32,
    cost_bytes: usize,
}

impl Flight {
    /// Makes an entry of gathered puts.
    fn load(puts: Vec<Put<Reply>>, arrival: Timestamp) -> (Flight, Bytes) {
        let cost_bytes = puts.iter().map(Put::cost_bytes).sum();
        let mut batch = Batch { arrival, records: vec![] };
        let mut flight = Flight { puts: vec![], arrival, count: 0, cost_bytes };
        for put in puts {
            let count = put.records.len() as u32;
            flight.puts.push((count, put.reply));
            flight.count += count;
            batch.records.extend(put.records);
        }
        (flight, command::append(&batch))
    }
}

enum Event {
    Placed(Flight, Result<Proposal<Appended>, ProposeError>),
    Landed(Flight, Result<(EntryId, Appended), ProposeError>),
    LeaderChanged,
    GroupClosed,
    Arrived,
    Looked,
}

struct Owner {
    inbox: Arc<Inbox>,
    leader: watch::Receiver<Leadership>,
    me: NodeId,
    clock: Arc<dyn Clock>,
    target: Arc<dyn Target>,
    /// The shard's starting number: all others differ in counter and record second.
    first: SequenceNumber,
    stamps: Option<Stamps>,
    proposing: Option<OnItsWay<Proposal<Appended>>>,
    flights: FuturesUnordered<OnItsWay<(EntryId, Appended)>>,
}

impl Owner {
    async fn run(mut self) {
        loop {
            self.propose_next();
            match self.next_event().await {
                Event::Placed(flight, Ok(proposal)) => {
                    let landing = async move { (flight, proposal.await) };
                    self.flights.push(Box::pin(landing));
                }
                Event::Placed(flight, Err(error)) | Event::Landed(flight, Err(error)) => {
                    self.settle(flight, |_| Err(error.clone().into()));
                }
                Event::Landed(flight, Ok((id, appended))) => self.landed(flight, id, appended),
                Event::LeaderChanged | Event::Arrived | Event::Looked => {}
                Event::GroupClosed => return,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let Owner { inbox, leader, proposing, flights, .. } = self;
        let somebody_waits = inbox.with(|queue| queue.is_waiting());
        let placed = async {
            match proposing {
                Some(placing) => {
                    let (flight, result) = placing.await;
                    *proposing = None;
                    Event::Placed(flight, result)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            placed = placed => placed,
            Some((flight, result)) = flights.next() => Event::Landed(flight, result),
            changed = leader.changed() => match changed {
                Ok(()) => Event::LeaderChanged,
                Err(_) => Event::GroupClosed,
            },
            () = inbox.arrived.notified() => Event::Arrived,
            () = sleep(TOUCH_INTERVAL), if somebody_waits => Event::Looked,
        }
    }

    /// Hands the next entry to Raft when this node leads and there is room on the way.
    fn propose_next(&mut self) {
        let leadership = *self.leader.borrow_and_update();
        if leadership.leader != Some(self.me) {
            let leader = leadership.leader;
            let puts = self.inbox.with(Queue::drain);
            answer(puts, &AppendError::NotLeader { leader });
            return;
        }
        // A leader that lost its majority may still be reached by clients. Its entries on their way may
        // stay there for ever, so what waits behind them is sent elsewhere while there is time.
        if !self.target.in_touch() {
            answer(self.inbox.with(Queue::drain), &out_of_touch());
            return;
        }
        // Until the terms before are applied here, the last stamp is not known: puts wait, up to
        // their deadlines.
        let has_room = self.proposing.is_none() && self.flights.len() < FLIGHTS_MAX;
        if !leadership.ready_here || !has_room {
            return;
        }
        let gathered = self.inbox.with(|queue| queue.gather(Instant::now()));
        answer(gathered.expired, &AppendError::Unavailable("no entry took it in time".to_owned()));
        if gathered.puts.is_empty() {
            return;
        }
        let (arrival, term) = (self.stamp(leadership.term), leadership.term);
        let (flight, command) = Flight::load(gathered.puts, arrival);
        let placing = self.target.propose(command, term);
        self.proposing = Some(Box::pin(async move { (flight, placing.await) }));
    }

    fn stamp(&mut self, term: u64) -> Timestamp {
        let stamps = match &mut self.stamps {
            Some(stamps) if stamps.term == term => stamps,
            other => other.insert(Stamps { term, last: self.target.newest_arrival() }),
        };
        stamps.next(self.clock.now())
    }

    fn landed(&self, flight: Flight, id: EntryId, appended: Appended) {
        let expected = Appended { index: id.index, arrival: flight.arrival, count: flight.count };
        assert_eq!(appended, expected, "a proposal was answered with another's outcome");
        let place = RecordPosition { index: appended.index, position: 0 };
        let first = SequenceNumber {
            counter: place.counter(),
            record_second: appended.arrival.seconds(),
            ..self.first
        };
        let mut next = first;
        self.settle(flight, |count| {
            let placed = Placed { first: next, count };
            next.counter += u64::from(count);
            Ok(placed)
        });
    }

    /// Answers all puts of an entry, in order, and frees their room.
    fn settle(&self, flight: Flight, mut answer: impl FnMut(u32) -> Answer) {
        self.inbox.with(|queue| queue.settle(flight.cost_bytes));
        for (count, reply) in flight.puts {
            // Nobody hears it when the caller went away.
            let _ = reply.send(answer(count));
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Puts on their way end as unknown when their replies are dropped; these had no effect.
        let puts = self.inbox.with(Queue::close);
        answer(puts, &AppendError::Unavailable("the shard is closing".to_owned()));
    }
}

fn out_of_touch() -> AppendError {
    AppendError::Unavailable("the leader has lost touch with the majority".to_owned())
}

fn answer(puts: Vec<Put<Reply>>, error: &AppendError) {
    for put in puts {
        let _ = put.reply.send(Err(error.clone()));
    }
}

impl From<ProposeError> for AppendError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => AppendError::NotLeader { leader },
            ProposeError::Unavailable(why) => AppendError::Unavailable(why),
            ProposeError::Unknown(why) => AppendError::Unknown(why),
        }
    }
}

#[cfg(test)]
mod tests;
