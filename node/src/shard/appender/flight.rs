//! Entries on their way, and what they carry.
//!
//! Invariant: an entry never holds a record twice, nor one that an earlier entry of the term holds.
//! Must not know Raft or time.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tristream_proto::domain::{Batch, Origin, Record, SequenceNumber, Timestamp};

use super::steps::{Step, StepReply};
use super::{Answer, Reply};
use crate::shard::command;
use crate::shard::queue::Put;

/// Numbers that are known already, by record; none at all in most puts.
pub(super) type Known = Option<Vec<Option<SequenceNumber>>>;

/// An entry on its way.
pub(super) struct Flight {
    /// Rises with every entry.
    pub(super) id: u64,
    /// In which it was proposed.
    pub(super) term: u64,
    pub(super) load: Load,
}

/// What an entry carries.
pub(super) enum Load {
    Puts(Entry),
    Step(Step, StepReply),
}

/// An entry of records.
pub(super) struct Entry {
    pub(super) arrival: Timestamp,
    pub(super) count: u32,
    /// Of all puts, as the queue counts them.
    pub(super) cost_bytes: usize,
    pub(super) puts: Vec<Loaded>,
}

/// A put whose new records lie in an entry.
pub(super) struct Loaded {
    reply: Reply,
    /// In the entry, by record; of a record whose number is known it says nothing.
    positions: Vec<u32>,
    known: Known,
    /// Records that are not stored by this put: known, or the same as another of it.
    repeated: usize,
}

impl Loaded {
    /// Answers the producer, when the entry is stored from `first` on or is not. Gives the number
    /// of records that were answered and not stored again.
    pub(super) fn settle(
        self,
        outcome: Result<SequenceNumber, crate::shard::AppendError>,
    ) -> usize {
        let repeated = if outcome.is_ok() { self.repeated } else { 0 };
        let numbers: Answer = outcome.map(|first| {
            let number = |(record, &position): (usize, &u32)| {
                let known = self.known.as_ref().and_then(|known| known[record]);
                let counter = first.counter + u64::from(position);
                known.unwrap_or(SequenceNumber { counter, ..first })
            };
            self.positions.iter().enumerate().map(number).collect()
        });
        // Nobody hears it when the caller went away.
        let _ = self.reply.send(numbers);
        repeated
    }
}

/// Records with an origin that are on their way in this term: in which entry, and where in it.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    records: HashMap<Origin, (u64, u32)>,
    by_flight: HashMap<u64, Vec<Origin>>,
    /// Entries that ended without an outcome: they may land as long as the term lasts.
    lost: HashSet<u64>,
}

impl InFlight {
    /// An entry that one of these records, other than the known ones, is in.
    pub(super) fn find(&self, records: &[Record], known: &Known) -> Option<u64> {
        if self.records.is_empty() {
            return None;
        }
        let is_known = |at: usize| known.as_ref().is_some_and(|known| known[at].is_some());
        let mut open = records.iter().enumerate().filter(|(at, _)| !is_known(*at));
        open.find_map(|(_, record)| self.records.get(&record.origin?)).map(|(flight, _)| *flight)
    }

    /// The entry is on its way no more.
    pub(super) fn remove(&mut self, flight: u64) {
        for origin in self.by_flight.remove(&flight).unwrap_or_default() {
            self.records.remove(&origin);
        }
    }

    /// The entry ended, and nobody knows how.
    pub(super) fn lose(&mut self, flight: u64) {
        self.lost.insert(flight);
    }

    /// Notes that the record will be at `position` of the entry; or tells where in this entry it
    /// is.
    fn claim(&mut self, origin: Origin, flight: u64, position: u32) -> Result<(), u32> {
        match self.records.get(&origin) {
            Some((_, position)) => Err(*position),
            None => {
                self.records.insert(origin, (flight, position));
                self.by_flight.entry(flight).or_default().push(origin);
                Ok(())
            }
        }
    }
}

/// An entry under construction.
pub(super) struct Loading<'a> {
    flight: u64,
    batch: Batch,
    entry: Entry,
    in_flight: &'a mut InFlight,
}

impl Loading<'_> {
    pub(super) fn new(flight: u64, arrival: Timestamp, in_flight: &mut InFlight) -> Loading<'_> {
        let batch = Batch { arrival, records: vec![] };
        let entry = Entry { arrival, count: 0, cost_bytes: 0, puts: vec![] };
        Loading { flight, batch, entry, in_flight }
    }

    /// The entry that must land before it is clear what is new of this put, which may be this one.
    pub(super) fn find_in_flight(&self, put: &Put<Reply>, known: &Known) -> Option<u64> {
        self.in_flight.find(&put.records, known)
    }

    /// Whether that entry ended without an outcome.
    pub(super) fn is_lost(&self, flight: u64) -> bool {
        self.in_flight.lost.contains(&flight)
    }

    /// Takes what is new of a put of which nothing is in flight.
    pub(super) fn add(&mut self, put: Put<Reply>, known: Known) {
        self.entry.cost_bytes += put.cost_bytes();
        let mut loaded = Loaded { reply: put.reply, positions: vec![], known: None, repeated: 0 };
        loaded.positions.reserve_exact(put.records.len());
        for (at, record) in put.records.into_iter().enumerate() {
            let position = self.batch.records.len() as u32;
            let is_known = known.as_ref().is_some_and(|known| known[at].is_some());
            let claimed = match record.origin {
                _ if is_known => Err(0),
                Some(origin) => self.in_flight.claim(origin, self.flight, position),
                None => Ok(()),
            };
            loaded.positions.push(claimed.err().unwrap_or(position));
            match claimed {
                Ok(()) => self.batch.records.push(record),
                Err(_) => loaded.repeated += 1,
            }
        }
        loaded.known = known;
        self.entry.puts.push(loaded);
    }

    /// The entry and its command; `None` when it holds nothing.
    pub(super) fn finish(mut self) -> Option<(Entry, Bytes)> {
        if self.batch.records.is_empty() {
            return None;
        }
        self.entry.count = self.batch.records.len() as u32;
        Some((self.entry, command::append(&self.batch)))
    }
}
