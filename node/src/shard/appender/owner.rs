//! The task that owns a shard's appends while this node leads, and its state.
//!
//! Invariant: see the appender. A put waits for at most one entry on its way at a time, and is
//! looked at again when that one has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tristream_proto::domain::{NodeId, Timestamp};

use super::flight::{Entry, Flight, InFlight, Known, Load, Loading};
use super::steps::{Step, StepReply};
use super::{Inbox, Reply, TOUCH_INTERVAL, Target};
use crate::clock::Clock;
use crate::log::EntryId;
use crate::raft::{Leadership, Proposal, ProposeError};
use crate::shard::machine::{self, Appended, Closed, Outcome};
use crate::shard::queue::{Put, Queue};
use crate::shard::{AppendError, command};

/// Entries of one shard on their way at a time: enough to keep the log and the wire busy.
pub(super) const FLIGHTS_MAX: usize = 4;
/// What has just landed is remembered, so that who waited for it finds it.
const _: () = assert!(
    FLIGHTS_MAX * tristream_proto::domain::limits::BATCH_RECORDS_MAX
        < crate::shard::window::ROWS_MAX
);

/// An entry and what Raft will say of it.
type OnItsWay<T> = BoxFuture<'static, (Flight, Result<T, ProposeError>)>;
type Landing = (EntryId, machine::Reply);

enum Event {
    Placed(Flight, Result<Proposal<machine::Reply>, ProposeError>),
    Landed(Flight, Result<Landing, ProposeError>),
    LeaderChanged,
    GroupClosed,
    Arrived,
    Looked,
}

/// One term of this leader.
struct Term {
    number: u64,
    last_stamp: Timestamp,
    /// A seal was proposed, and it is not known that it did not happen.
    is_sealing: bool,
    in_flight: InFlight,
}

impl Term {
    /// The next entry's stamp: not below that of any before, on its way or applied.
    fn stamp(&mut self, applied: Timestamp, now: Timestamp) -> Timestamp {
        self.last_stamp = self.last_stamp.max(applied).max(now);
        self.last_stamp
    }
}

pub(super) struct Owner {
    inbox: Arc<Inbox>,
    leader: watch::Receiver<Leadership>,
    me: NodeId,
    clock: Arc<dyn Clock>,
    target: Arc<dyn Target>,
    term: Option<Term>,
    flights_begun: u64,
    proposing: Option<OnItsWay<Proposal<machine::Reply>>>,
    flights: FuturesUnordered<OnItsWay<Landing>>,
    /// Puts that are looked at again when the entry on its way has ended.
    parked: BTreeMap<u64, Vec<Put<Reply>>>,
}

impl Owner {
    pub(super) fn new(
        inbox: Arc<Inbox>,
        target: Arc<dyn Target>,
        me: NodeId,
        clock: Arc<dyn Clock>,
    ) -> Owner {
        Owner {
            inbox,
            leader: target.watch_leader(),
            me,
            clock,
            target,
            term: None,
            flights_begun: 0,
            proposing: None,
            flights: FuturesUnordered::new(),
            parked: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.propose_next();
            match self.next_event().await {
                Event::Placed(flight, Ok(proposal)) => {
                    let landing = async move { (flight, proposal.await) };
                    self.flights.push(Box::pin(landing));
                }
                Event::Placed(flight, Err(error)) | Event::Landed(flight, Err(error)) => {
                    self.ended(flight, Err(error));
                }
                Event::Landed(flight, Ok(landing)) => self.ended(flight, Ok(landing)),
                Event::LeaderChanged | Event::Arrived | Event::Looked => {}
                Event::GroupClosed => return,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let Owner { inbox, leader, proposing, flights, .. } = self;
        let somebody_waits = inbox.is_waiting();
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
            self.inbox.refuse_all(&AppendError::NotLeader { leader });
            return;
        }
        // A leader that lost its majority may still be reached by clients. Its entries on their way
        // may stay there for ever, so what waits behind them is sent elsewhere while there is time.
        if !self.target.in_touch() {
            self.inbox.refuse_all(&super::out_of_touch());
            return;
        }
        // Until the terms before are applied here, neither the last stamp nor what was stored is
        // known: puts wait, up to their deadlines.
        if !leadership.ready_here {
            return;
        }
        self.begin_term(leadership.term);
        let has_room = self.proposing.is_none() && self.flights.len() < FLIGHTS_MAX;
        let is_sealing = self.term.as_ref().is_some_and(|term| term.is_sealing);
        if !has_room || is_sealing || self.propose_step() {
            return;
        }
        match self.target.closed() {
            None => self.propose_puts(),
            Some(Closed::Waiting) => self.inbox.refuse_puts(&Closed::Waiting.into()),
            Some(Closed::Sealed) => self.answer_after_seal(),
        }
    }

    /// Whatever earlier terms had on its way is applied by now, or never will be.
    fn begin_term(&mut self, number: u64) {
        if self.term.as_ref().is_some_and(|term| term.number == number) {
            return;
        }
        let last_stamp = Timestamp::default();
        let in_flight = InFlight::default();
        self.term = Some(Term { number, last_stamp, is_sealing: false, in_flight });
        for put in std::mem::take(&mut self.parked).into_values().flatten() {
            self.inbox.put_back(put);
        }
    }

    /// Whether a step was proposed.
    fn propose_step(&mut self) -> bool {
        let Some(term) = &mut self.term else { return false };
        let (waiting, command) = loop {
            let Some(waiting) = self.inbox.steps.lock().next() else { return false };
            if waiting.deadline <= Instant::now() {
                let _ = waiting.reply.send(Err(super::too_late()));
                continue;
            }
            match (&waiting.step, self.target.sealed()) {
                (Step::Inherit(command), _) => {
                    let command = command.clone();
                    break (waiting, command);
                }
                (Step::Seal, None) => {
                    term.is_sealing = true;
                    break (
                        waiting,
                        command::seal(term.stamp(self.target.last_arrival(), self.clock.now())),
                    );
                }
                (Step::Seal, Some(sealed)) => {
                    let _ = waiting.reply.send(Ok(Outcome::Sealed(sealed)));
                }
            }
        };
        self.propose(Load::Step(waiting.step, waiting.reply), command);
        true
    }

    fn propose_puts(&mut self) {
        loop {
            let gathered = self.inbox.with(|queue| queue.gather(Instant::now()));
            super::answer(gathered.expired, &super::too_late());
            if gathered.puts.is_empty() {
                return;
            }
            if let Some((entry, command)) = self.load(gathered.puts) {
                self.propose(Load::Puts(entry), command);
                return;
            }
        }
    }

    /// Makes an entry of what is new in these puts; `None` when nothing is, or there is no room for it.
    fn load(&mut self, puts: Vec<Put<Reply>>) -> Option<(Entry, bytes::Bytes)> {
        let term = self.term.as_mut()?;
        let stamp = term.stamp(self.target.last_arrival(), self.clock.now());
        let (flight, no_room) = (self.flights_begun, self.target.no_room());
        let mut loading = Loading::new(flight, stamp, &mut term.in_flight);
        for put in puts {
            let known = self.target.known(&put.records);
            if is_whole(&known) {
                self.inbox.answer_known(put, known);
            } else if let Some(flight) = loading.find_in_flight(&put, &known) {
                match loading.is_lost(flight) {
                    true => self.inbox.refuse(put, no_outcome()),
                    false => self.parked.entry(flight).or_default().push(put),
                }
            } else if let Some(why) = &no_room {
                self.inbox.refuse(put, AppendError::StorageFull(why.clone()));
            } else {
                loading.add(put, known);
            }
        }
        loading.finish()
    }

    fn propose(&mut self, load: Load, command: bytes::Bytes) {
        let Some(term) = self.term.as_ref().map(|term| term.number) else { return };
        let flight = Flight { id: self.flights_begun, term, load };
        self.flights_begun += 1;
        let placing = self.target.propose(command, term);
        self.proposing = Some(Box::pin(async move { (flight, placing.await) }));
    }

    /// What was stored before the seal is answered; the rest is the children's.
    fn answer_after_seal(&mut self) {
        loop {
            let gathered = self.inbox.with(|queue| queue.gather(Instant::now()));
            super::answer(gathered.expired, &super::too_late());
            if gathered.puts.is_empty() {
                return;
            }
            for put in gathered.puts {
                let known = self.target.known(&put.records);
                match is_whole(&known) {
                    true => self.inbox.answer_known(put, known),
                    false => self.inbox.refuse(put, AppendError::Sealed),
                }
            }
        }
    }

    /// An entry landed, or never will by this node.
    fn ended(&mut self, flight: Flight, result: Result<Landing, ProposeError>) {
        let result = result.map_err(AppendError::from);
        if let Ok((_, reply)) = &result {
            self.inbox.depth.metrics.observe_forgotten(reply.forgotten);
        }
        match flight.load {
            Load::Puts(entry) => {
                let stored = result.and_then(|landing| stored(&entry, landing));
                if let Some(term) = self.term.as_mut().filter(|term| term.number == flight.term) {
                    match stored {
                        Err(AppendError::Unknown(_)) => term.in_flight.lose(flight.id),
                        _ => term.in_flight.remove(flight.id),
                    }
                }
                self.settle(entry, &stored);
                self.unpark(flight.id, &stored);
            }
            Load::Step(step, reply) => self.step_ended(step, reply, flight.term, result),
        }
    }

    fn step_ended(
        &mut self,
        step: Step,
        reply: StepReply,
        proposed_in: u64,
        result: Result<Landing, AppendError>,
    ) {
        let is_over = !matches!(result, Err(AppendError::Unknown(_)));
        if let Some(term) = &mut self.term
            && step == Step::Seal
            && is_over
            && term.number == proposed_in
        {
            term.is_sealing = false;
        }
        let outcome = result.and_then(|(_, reply)| match reply.outcome {
            Outcome::NoEffect(closed) => Err(closed.into()),
            outcome => Ok(outcome),
        });
        let _ = reply.send(outcome);
    }

    /// Answers all puts of an entry, in order, and frees their room.
    fn settle(&self, entry: Entry, stored: &Result<Appended, AppendError>) {
        self.inbox.with(|queue| queue.settle(entry.puts.len(), entry.cost_bytes));
        let first = stored.as_ref().map(|appended| appended.first).map_err(Clone::clone);
        let repeated = entry.puts.into_iter().map(|put| put.settle(first.clone())).sum();
        self.inbox.depth.metrics.observe_deduplicated(repeated);
    }

    /// Looks again at the puts that waited for an entry. They share its outcome: what it stored is
    /// theirs too, what nobody knows of it nobody knows of them, and without effect they come next.
    fn unpark(&mut self, flight: u64, stored: &Result<Appended, AppendError>) {
        for put in self.parked.remove(&flight).unwrap_or_default() {
            if let Err(AppendError::Unknown(why)) = stored {
                self.inbox.refuse(put, AppendError::Unknown(why.clone()));
                continue;
            }
            let known = self.target.known(&put.records);
            match is_whole(&known) {
                true => self.inbox.answer_known(put, known),
                false => self.inbox.put_back(put),
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Puts on their way end as unknown when their replies are dropped; these had no effect.
        let closing = AppendError::Unavailable("the shard is closing".to_owned());
        super::answer(self.inbox.with(Queue::close), &closing);
        for waiting in self.inbox.steps.lock().close() {
            let _ = waiting.reply.send(Err(closing.clone()));
        }
    }
}

/// What the machine says of an entry of records that was applied.
fn stored(entry: &Entry, (id, reply): Landing) -> Result<Appended, AppendError> {
    match reply.outcome {
        Outcome::Appended(appended) => {
            let place = (appended.first.position().index, appended.arrival, appended.count);
            let expected = (id.index, entry.arrival, entry.count);
            assert_eq!(place, expected, "a proposal was answered with another's outcome");
            Ok(appended)
        }
        Outcome::NoEffect(closed) => Err(closed.into()),
        // Only a bug of ours ends here.
        other => Err(AppendError::Unknown(format!("an append was answered with {other:?}"))),
    }
}

fn no_outcome() -> AppendError {
    AppendError::Unknown("an earlier attempt may yet be stored".to_owned())
}

fn is_whole(known: &Known) -> bool {
    known.as_ref().is_some_and(|known| known.iter().all(Option::is_some))
}
