//! The replicated state of a shard: counters, how it began and ended, and what it remembers of
//! calls; the records stay in the log.
//!
//! ```text
//!  no parents: ------------------> open --Seal--> sealed
//!  a child:    waiting --Inherit--> open --Seal--> sealed
//! ```
//!
//! Invariant: indexes rise and arrivals never fall; records are stored only while the shard is
//! open, whatever its log holds; what was trimmed stays so; the state is a function of the applied
//! entries. Pure: no clock, no randomness, no I/O. Must not know who proposed, or who reads.

mod checkpoint;

use bytes::Bytes;
use tristream_proto::domain::{Origin, RecordPosition, SequenceNumber, Shard, ShardId, Timestamp};

use super::command::{self, Outline};
use super::window::{Rows, Window};
use super::{AppendError, Inherited, Opening, Sealed, WindowPart};
use crate::log::EntryId;
use crate::raft::{Machine, MachineError};

/// The least bytes of commands between two checkpoints.
const CHECKPOINT_BYTES_MIN: u64 = 16 << 20;
/// Log written between two checkpoints, as a multiple of the window, which is most of a checkpoint.
/// With 8, checkpoints add at most an eighth to what is written, also when the window is full (8
/// MiB); a start then applies at most 64 MiB again, which is little beside the log that it reads
/// anyway.
const LOG_PER_WINDOW: u64 = 8;

/// An append was applied: what its proposer tells the producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Appended {
    /// Number of the first record; the others follow.
    pub(super) first: SequenceNumber,
    /// The stamp of all its records.
    pub(super) arrival: Timestamp,
    /// How many records it holds.
    pub(super) count: u32,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Records were stored.
    Appended(Appended),
    /// The shard is sealed, by this command or an earlier one.
    Sealed(Sealed),
    /// What a child has now.
    Inherited(Inherited),
    /// Records up to this entry are gone, by this command or an earlier one.
    Trimmed(u64),
    /// Nothing: the shard was not open.
    NoEffect(Closed),
}

/// What a command did, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    /// Calls that were forgotten before their time.
    pub(super) forgotten: u32,
}

/// Why a shard takes no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// A child whose parents have not handed over.
    Waiting,
    /// Its children take them.
    Sealed,
}

impl From<Closed> for AppendError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Waiting => {
                AppendError::Unavailable("the shard waits for its parents".to_owned())
            }
            Closed::Sealed => AppendError::Sealed,
        }
    }
}

/// How a shard began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    /// The leading field of its sequence numbers.
    pub(super) creation_second: u64,
    /// No record lies before this entry.
    pub(super) index: u64,
}

/// The state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardMachine {
    shard: ShardId,
    /// Records stored since the shard's beginning.
    records: u64,
    /// Bytes of append commands since the shard's beginning.
    bytes: u64,
    /// Stamp of the newest record, of the parents' newest before that; zero before any.
    last_arrival: Timestamp,
    /// The newest append since this is kept.
    newest: Option<Appended>,
    /// The newest applied entry.
    applied: Option<EntryId>,
    /// `None` while the shard waits for its parents.
    opened: Option<Opened>,
    /// Of each parent, the entry up to which its window is here.
    parents: Vec<(ShardId, u64)>,
    sealed: Option<Sealed>,
    /// The last entry that no reader is shown any more.
    trimmed: Option<u64>,
    window: Window,
}

impl ShardMachine {
    /// The state of a shard before its first entry. One with parents waits for its opening.
    pub(super) fn new(shard: &Shard) -> ShardMachine {
        let root = Opened { creation_second: shard.creation_second, index: 0 };
        ShardMachine {
            shard: shard.id,
            records: 0,
            bytes: 0,
            last_arrival: Timestamp::default(),
            newest: None,
            applied: None,
            opened: shard.parents.is_empty().then_some(root),
            parents: shard.parents.iter().map(|&parent| (parent, 0)).collect(),
            sealed: None,
            trimmed: None,
            window: Window::default(),
        }
    }

    /// Stamp of the newest applied record.
    pub(super) fn newest_arrival(&self) -> Option<Timestamp> {
        (self.records > 0).then_some(self.last_arrival)
    }

    /// No stamp to come may be below this.
    pub(super) fn last_arrival(&self) -> Timestamp {
        self.last_arrival
    }

    /// Records stored since the shard's beginning.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Number of the newest record.
    pub(super) fn last_sequence_number(&self) -> Option<SequenceNumber> {
        let Appended { first, count, .. } = self.newest?;
        Some(SequenceNumber { counter: first.counter + u64::from(count) - 1, ..first })
    }

    /// How the shard began; `None` while it waits for its parents.
    pub(super) fn opened(&self) -> Option<Opened> {
        self.opened
    }

    /// How the shard ended, once it has.
    pub(super) fn sealed(&self) -> Option<Sealed> {
        self.sealed
    }

    /// The newest record's entry and stamp.
    pub(super) fn newest(&self) -> Option<(u64, Timestamp)> {
        self.newest.map(|newest| (newest.first.position().index, newest.arrival))
    }

    /// The last entry that no reader is shown any more.
    pub(super) fn trimmed(&self) -> Option<u64> {
        self.trimmed
    }

    /// The newest applied entry.
    pub(super) fn applied_index(&self) -> Option<u64> {
        self.applied.map(|applied| applied.index)
    }

    /// Why the shard takes no records, when it takes none.
    pub(super) fn closed(&self) -> Option<Closed> {
        match (self.opened, self.sealed) {
            (None, _) => Some(Closed::Waiting),
            (_, Some(_)) => Some(Closed::Sealed),
            _ => None,
        }
    }

    /// How far a child is.
    pub(super) fn inherited(&self) -> Inherited {
        Inherited { opened: self.opened.is_some(), upto: self.parents.clone() }
    }

    /// The number of the record that came from `origin`, while it is remembered.
    pub(super) fn find(&self, origin: Origin) -> Option<SequenceNumber> {
        if planted!(NoDedupe) {
            return None;
        }
        self.window.find(origin)
    }

    /// What is remembered from entries behind `after`, bounded in bytes.
    pub(super) fn window(&self, after: u64) -> WindowPart {
        let (rows, cut) = self.window.part(after);
        let applied = self.applied.map_or(0, |applied| applied.index);
        let upto = cut.unwrap_or(applied).max(after);
        WindowPart { parent: self.shard, after, upto, rows, more: cut.is_some() }
    }

    /// Drops the window of a sealed shard. No entry to come depends on it, so replicas may do this each
    /// at their time; but whoever asks for the window afterwards gets none.
    pub(super) fn retire(&mut self) -> bool {
        let is_sealed = self.sealed.is_some();
        if is_sealed {
            self.window = Window::default();
        }
        is_sealed
    }

    fn step(&mut self, at: EntryId) {
        let rises = self.applied.is_none_or(|last| last.index < at.index);
        assert!(rises, "entry {at:?} applied after {:?}", self.applied);
        self.applied = Some(at);
    }

    fn append(
        &mut self,
        at: EntryId,
        opened: Opened,
        (arrival, count): (Timestamp, u32),
        command: &Bytes,
    ) -> Result<Appended, MachineError> {
        let runs = command::calls(command).map_err(damaged)?;
        let last = self.last_arrival;
        assert!(arrival >= last, "arrival went back from {last} to {arrival} at {at:?}");
        let first = first_number(self.shard, opened, at, arrival);
        let appended = Appended { first, arrival, count };
        self.records += u64::from(count);
        self.bytes += command.len() as u64;
        self.last_arrival = arrival;
        self.newest = Some(appended);
        self.window.store(first, arrival, runs);
        Ok(appended)
    }

    fn seal(&mut self, at: EntryId, opened: Opened, stamp: Timestamp) -> Sealed {
        let last_arrival = self.last_arrival;
        let latest = stamp.seconds().max(last_arrival.seconds()).max(opened.creation_second);
        *self.sealed.get_or_insert(Sealed { closed_second: latest, last_arrival, end: at.index })
    }

    fn inherit(&mut self, at: EntryId, command: &Bytes) -> Result<Inherited, MachineError> {
        let (parts, opening) = command::inheritance(command).map_err(damaged)?;
        let parts: Vec<(WindowPart, Rows)> = parts
            .into_iter()
            .map(|part| Rows::decode(&part.rows).map(|rows| (part, rows)).map_err(damaged))
            .collect::<Result<_, _>>()?;
        if self.opened.is_none() {
            for (part, rows) in parts {
                self.take_part(at, &part, rows);
            }
            if let Some(opening) = opening {
                self.open(at, &opening);
            }
        }
        Ok(self.inherited())
    }

    /// Never goes back, and reaches no entry to come: its leader may have proposed it long ago.
    fn trim(&mut self, at: EntryId, upto: u64) -> Outcome {
        let upto = upto.min(at.index.saturating_sub(1)).max(self.trimmed.unwrap_or(0));
        self.trimmed = Some(upto);
        Outcome::Trimmed(upto)
    }

    /// A part that leaves a gap is not taken, nor one that brings nothing new.
    fn take_part(&mut self, at: EntryId, part: &WindowPart, rows: Rows) {
        let parent = self.parents.iter_mut().find(|(parent, _)| *parent == part.parent);
        if let Some((_, upto)) = parent
            && (part.after..part.upto).contains(upto)
        {
            *upto = part.upto;
            if planted!(WindowNotHanded) {
                return;
            }
            self.window.absorb(rows, at.index);
        }
    }

    /// Opens the child if it has the windows of all its parents up to their ends.
    fn open(&mut self, at: EntryId, opening: &Opening) {
        let is_whole = self.parents.iter().all(|(parent, upto)| {
            opening.parents.iter().any(|(other, end)| parent == other && upto >= end)
        });
        if is_whole {
            let creation_second = opening.creation_second;
            self.opened = Some(Opened { creation_second, index: at.index });
            self.last_arrival = self.last_arrival.max(opening.last_arrival);
        }
    }
}

impl Machine for ShardMachine {
    type Reply = Reply;

    fn stamp_ms(command: &Bytes) -> u64 {
        command::stamp_ms(command)
    }

    fn apply(&mut self, at: EntryId, command: &Bytes) -> Result<Reply, MachineError> {
        let outline = command::outline(command).map_err(damaged)?;
        let closed = self.closed();
        let outcome = match (outline, self.opened) {
            (Outline::Append { arrival, count }, Some(opened)) if closed.is_none() => {
                Outcome::Appended(self.append(at, opened, (arrival, count), command)?)
            }
            (Outline::Append { .. }, _) => Outcome::NoEffect(closed.unwrap_or(Closed::Waiting)),
            (Outline::Seal { stamp }, Some(opened)) => {
                Outcome::Sealed(self.seal(at, opened, stamp))
            }
            (Outline::Seal { .. }, None) => Outcome::NoEffect(Closed::Waiting),
            (Outline::Inherit, _) => Outcome::Inherited(self.inherit(at, command)?),
            (Outline::Trim { upto }, Some(_)) => self.trim(at, upto),
            (Outline::Trim { .. }, None) => Outcome::NoEffect(Closed::Waiting),
        };
        self.step(at);
        Ok(Reply { outcome, forgotten: self.window.evict(self.last_arrival) })
    }

    #[cfg(planted)]
    fn foretell(&self, at: EntryId, command: &Bytes) -> Option<Reply> {
        let Ok(Outline::Append { arrival, count }) = command::outline(command) else { return None };
        let opened = self.opened.filter(|_| self.closed().is_none())?;
        let first = first_number(self.shard, opened, at, arrival);
        Some(Reply { outcome: Outcome::Appended(Appended { first, arrival, count }), forgotten: 0 })
    }

    fn advance(&mut self, at: EntryId) {
        self.step(at);
    }

    fn checkpoint(&self) -> Bytes {
        checkpoint::encode(self)
    }

    fn restore(&mut self, from: Bytes) -> Result<(), MachineError> {
        *self = checkpoint::decode(self, from).map_err(MachineError)?;
        Ok(())
    }

    fn checkpoint_every_bytes(&self) -> u64 {
        CHECKPOINT_BYTES_MIN.max(self.window.bytes() as u64 * LOG_PER_WINDOW)
    }

    /// Once all records are trimmed, nobody needs anything that is applied.
    fn purgeable(&self) -> Option<u64> {
        let trimmed = self.trimmed?;
        if planted!(PurgeTooFar) {
            return self.applied_index();
        }
        let keeps_any = self.newest().is_some_and(|(newest, _)| newest > trimmed);
        if keeps_any { Some(trimmed) } else { self.applied_index() }
    }
}

/// The number of the first record of the append at `at`.
fn first_number(shard: ShardId, opened: Opened, at: EntryId, arrival: Timestamp) -> SequenceNumber {
    SequenceNumber {
        creation_second: opened.creation_second,
        shard,
        counter: RecordPosition { index: at.index, position: 0 }.counter(),
        record_second: arrival.seconds(),
    }
}

fn damaged(error: impl std::fmt::Display) -> MachineError {
    MachineError(error.to_string())
}

#[cfg(test)]
mod tests;
