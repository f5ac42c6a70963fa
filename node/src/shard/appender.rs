//! The owner of a shard's appends: gathers waiting puts into entries and proposes them in order.
//!
//! ```text
//!  append() -> Queue --gather--> known? --new--> proposing (one) --placed--> flights --applied--.
//!     \___ withdraws                |__ answered with the numbers it has        (a few)  replies <-'
//!                                   '__ on its way: parked until that entry has ended
//!  seal(), inherit() -> Steps: before the puts that wait; behind a seal nothing is proposed
//! ```
//!
//! Invariant: an entry is proposed in the one term for which its stamp was chosen, after everything
//! of earlier terms was applied here, so stamps never fall and no record is stored twice while it
//! is remembered; entries are placed in the order in which they were gathered. A put is answered
//! "no effect" only while it was never handed to Raft, or Raft says so. Must not know readers,
//! streams, or what a record means.

mod flight;
mod owner;
mod steps;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tristream_proto::domain::{NodeId, Record, SequenceNumber, Timestamp};

use self::flight::Known;
use self::owner::Owner;
use self::steps::{Step, Steps};
use super::machine::{self, Closed, Outcome, ShardMachine};
use super::queue::{Put, Queue};
use super::{AppendError, Inherited, Sealed};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::raft::{Group, Leadership, Proposal, ProposeError};

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
    ) -> BoxFuture<'static, Result<Proposal<machine::Reply>, ProposeError>>;
    /// No stamp to come may be below this.
    fn last_arrival(&self) -> Timestamp;
    /// Why the shard takes no records, when it takes none.
    fn closed(&self) -> Option<Closed>;
    /// How the shard ended, once it has.
    fn sealed(&self) -> Option<Sealed>;
    /// The numbers of those records that are remembered; `None` when none is.
    fn known(&self, records: &[Record]) -> Known;
    /// Who leads.
    fn watch_leader(&self) -> watch::Receiver<Leadership>;
    /// See [`Group::in_touch`].
    fn in_touch(&self) -> bool;
    /// See [`Group::no_room`].
    fn no_room(&self) -> Option<String>;
}

impl Target for Group<ShardMachine> {
    fn propose(
        &self,
        command: Bytes,
        term: u64,
    ) -> BoxFuture<'static, Result<Proposal<machine::Reply>, ProposeError>> {
        let group = self.clone();
        Box::pin(async move { Group::propose(&group, command, Some(term)).await })
    }

    fn last_arrival(&self) -> Timestamp {
        self.inspect(ShardMachine::last_arrival)
    }

    fn closed(&self) -> Option<Closed> {
        self.inspect(ShardMachine::closed)
    }

    fn sealed(&self) -> Option<Sealed> {
        self.inspect(ShardMachine::sealed)
    }

    fn known(&self, records: &[Record]) -> Known {
        self.inspect(|machine| known(machine, records))
    }

    fn watch_leader(&self) -> watch::Receiver<Leadership> {
        Group::watch_leader(self)
    }

    fn in_touch(&self) -> bool {
        Group::in_touch(self)
    }

    fn no_room(&self) -> Option<String> {
        Group::no_room(self)
    }
}

fn known(machine: &ShardMachine, records: &[Record]) -> Known {
    let number = |record: &Record| record.origin.and_then(|origin| machine.find(origin));
    let first = records.iter().position(|record| number(record).is_some())?;
    Some((0..).zip(records).map(|(at, r)| if at < first { None } else { number(r) }).collect())
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

/// A number per record, in the order in which they were given.
type Answer = Result<Vec<SequenceNumber>, AppendError>;
type Reply = oneshot::Sender<Answer>;

/// What waits, between those who ask and the owner task.
struct Inbox {
    queue: Mutex<Queue<Reply>>,
    steps: Mutex<Steps>,
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

    fn is_waiting(&self) -> bool {
        self.queue.lock().is_waiting() || self.steps.lock().is_waiting()
    }

    /// Ends everything that waits, without effect.
    fn refuse_all(&self, error: &AppendError) {
        self.refuse_puts(error);
        for waiting in self.steps.lock().drain() {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }

    fn refuse_puts(&self, error: &AppendError) {
        answer(self.with(Queue::drain), error);
    }

    /// Ends a put that has left the queue.
    fn refuse(&self, put: Put<Reply>, error: AppendError) {
        self.with(|queue| queue.settle(1, put.cost_bytes()));
        let _ = put.reply.send(Err(error));
    }

    /// A put that was gathered waits again, unless its caller went away.
    fn put_back(&self, put: Put<Reply>) {
        self.with(|queue| match put.reply.is_closed() {
            true => queue.settle(1, put.cost_bytes()),
            false => queue.put_back(put),
        });
    }

    /// Answers a gathered put all of whose records were stored before.
    fn answer_known(&self, put: Put<Reply>, known: Known) {
        self.with(|queue| queue.settle(1, put.cost_bytes()));
        self.depth.metrics.observe_deduplicated(put.records.len());
        let _ = put.reply.send(Ok(known.into_iter().flatten().flatten().collect()));
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
        me: NodeId,
        clock: Arc<dyn Clock>,
        depth: Arc<Depth>,
    ) -> (Appender, impl Future<Output = ()> + Send + 'static) {
        let (queue, steps) = (Mutex::new(Queue::new()), Mutex::default());
        let inbox = Arc::new(Inbox { queue, steps, arrived: Notify::new(), depth });
        let leader = target.watch_leader();
        let target: Arc<dyn Target> = Arc::new(target);
        let owner = Owner::new(inbox.clone(), target.clone(), me, clock);
        (Appender { inbox, leader, target, me }, owner.run())
    }

    /// Stores `records` in one entry, but for those that are remembered. A caller that goes away
    /// takes a waiting put with it, but never one that is on its way, itself or by an earlier
    /// attempt.
    pub(super) async fn append(&self, records: Vec<Record>, deadline: Instant) -> Answer {
        self.check_leads()?;
        let (reply, answer) = oneshot::channel();
        let id = self.inbox.with(|queue| queue.admit(records, deadline, reply))?;
        let waiting = Waiting { withdraw: || self.inbox.with(|q| q.withdraw(id)).is_some() };
        self.inbox.arrived.notify_one();
        waiting.outcome(answer, deadline).await
    }

    /// Seals the shard, which may have been.
    pub(super) async fn seal(&self, deadline: Instant) -> Result<Sealed, AppendError> {
        match self.step(Step::Seal, deadline).await? {
            Outcome::Sealed(sealed) => Ok(sealed),
            other => Err(AppendError::Unknown(format!("a seal was answered with {other:?}"))),
        }
    }

    /// Proposes an inherit command.
    pub(super) async fn inherit(
        &self,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Inherited, AppendError> {
        match self.step(Step::Inherit(command), deadline).await? {
            Outcome::Inherited(inherited) => Ok(inherited),
            other => Err(AppendError::Unknown(format!("inherit was answered with {other:?}"))),
        }
    }

    /// That this node leads and a majority answers it.
    pub(super) fn check_leads(&self) -> Result<(), AppendError> {
        let leader = self.leader.borrow().leader;
        if leader != Some(self.me) {
            return Err(AppendError::NotLeader { leader });
        }
        if !self.target.in_touch() {
            return Err(out_of_touch());
        }
        Ok(())
    }

    async fn step(&self, step: Step, deadline: Instant) -> Result<Outcome, AppendError> {
        self.check_leads()?;
        let (reply, answer) = oneshot::channel();
        let id = self.inbox.steps.lock().admit(step, deadline, reply)?;
        let waiting = Waiting { withdraw: || self.inbox.steps.lock().withdraw(id) };
        self.inbox.arrived.notify_one();
        waiting.outcome(answer, deadline).await
    }
}

/// Something whose caller waits. `withdraw` says whether it was still in its queue, where it had no
/// effect and now never will.
struct Waiting<F: Fn() -> bool> {
    withdraw: F,
}

impl<F: Fn() -> bool> Waiting<F> {
    async fn outcome<T>(
        &self,
        mut answer: oneshot::Receiver<Result<T, AppendError>>,
        deadline: Instant,
    ) -> Result<T, AppendError> {
        if let Ok(Ok(answer)) = timeout_at(deadline, &mut answer).await {
            return answer;
        }
        if (self.withdraw)() {
            return Err(too_late());
        }
        // It left the queue: with an answer that comes just now, or into an entry.
        answer.try_recv().unwrap_or_else(|_| {
            Err(AppendError::Unknown("proposed, but without an outcome in time".to_owned()))
        })
    }
}

impl<F: Fn() -> bool> Drop for Waiting<F> {
    fn drop(&mut self) {
        (self.withdraw)();
    }
}

fn too_late() -> AppendError {
    AppendError::Unavailable("no entry took it in time".to_owned())
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
