//! What the log knows of one group: where its entries lie, and its newest marks.
//!
//! Pure. Entries of sealed segments are known as runs: one record for each segment, about 60 bytes
//! for what may be megabytes. Entries of younger segments, and those whose payload is in memory,
//! have a slot each.
//!
//! ```text
//!  purged |  run  |   run   |  run  |
//!                       | slot slot slot slot slot slot     (may overlap the runs: the hot tail)
//!         first         base              ^ durable       next
//! ```
//!
//! Invariants: entries are consecutive and follow the purge point; slots end at `next`, and what lies
//! before `base` is in runs; all in runs is durable. A `place` is where the newest *durable* frame
//! lies, even when a newer value waits to be written. Must not know about files.

mod marks;
mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::{HEAD_BYTES, Head};
use super::leaders::Leaders;
use super::segment::directory::Part;
use super::{EntryId, EntryKind, GroupState};

pub(super) use marks::{Checkpoint, Kept, keep};
pub(super) use run::Run;

/// Where the head of a durable frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// Entries that die when the write that made them useless is durable, by segment.
#[derive(Debug, Default)]
pub(super) struct Dying(pub(super) BTreeMap<u64, DyingIn>);

/// Entries that die in one segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DyingIn {
    pub(super) bytes: u64,
    pub(super) entries: u64,
    /// Of the bytes, those of groups that were removed.
    pub(super) removed_bytes: u64,
}

impl Dying {
    fn add(&mut self, segment: u64, entries: u64, bytes: u64) {
        let dying = self.0.entry(segment).or_default();
        dying.entries += entries;
        dying.bytes += bytes;
    }
}

/// One entry that has a place in memory of its own.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Tells this entry from others that were once at its index.
    pub(super) ticket: u64,
    pub(super) stamp_ms: u64,
    /// Length of the payload.
    pub(super) len: u32,
    pub(super) place: Option<Place>,
    /// In memory: until it is durable, then while the tail's budget allows.
    pub(super) payload: Option<(EntryKind, Bytes)>,
}

impl Slot {
    /// Bytes of its frame.
    pub(super) fn bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.len)
    }
}

/// One group.
#[derive(Default)]
pub(super) struct Group {
    pub(super) removed: bool,
    /// Its newest durable tombstone.
    pub(super) tombstone: Option<Place>,
    pub(super) purged: Option<Kept<EntryId>>,
    pub(super) vote: Option<Kept<Bytes>>,
    pub(super) committed: Option<Kept<Option<EntryId>>>,
    /// Rising by index: all above the purge point, and the newest at or below it.
    pub(super) checkpoints: Vec<Checkpoint>,
    /// Entries whose bytes are damaged, with what their heads said, where that is known.
    pub(super) faulty: BTreeMap<u64, Option<Head>>,
    /// Entries that were written again because they were damaged.
    pub(super) repairs: BTreeMap<u64, Place>,
    leaders: Leaders,
    runs: VecDeque<Run>,
    slots: VecDeque<Slot>,
    /// Index of the first slot.
    base: u64,
    /// Index behind the last durable entry.
    durable_next: u64,
    /// Fires when entries became durable or went away.
    pub(super) changed: Arc<Notify>,
}

impl Group {
    /// Index of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// Index of the first entry, if there is one.
    pub(super) fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |purged| purged.value.index + 1)
    }

    /// Index of the last durable entry, or the purge point.
    pub(super) fn durable(&self) -> Option<u64> {
        self.durable_next.checked_sub(1)
    }

    /// Id of the entry at `index`.
    pub(super) fn id(&self, index: u64) -> Option<EntryId> {
        let known = (self.first()..self.next()).contains(&index);
        known.then(|| self.leaders.id(index)).flatten()
    }

    /// Whether there is anything to know of the group.
    pub(super) fn is_empty(&self) -> bool {
        self.purged.is_none()
            && self.vote.is_none()
            && self.committed.as_ref().is_none_or(|committed| committed.value.is_none())
            && self.checkpoints.is_empty()
            && self.next() == 0
    }

    /// The last entry of each leader among those of `first..=last`, intact or not; `None` if one is
    /// not there.
    pub(super) fn lasts(&self, first: u64, last: u64) -> Option<Vec<EntryId>> {
        let known = self.first() <= first && first <= last && last < self.next();
        known.then(|| self.leaders.lasts(first, last))
    }

    /// The entry at `index`, if it has a slot.
    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.base)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// The entry at `index`, if it has a slot.
    pub(super) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = index.checked_sub(self.base)?;
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    /// The run with the entry at `index`.
    pub(super) fn run(&self, index: u64) -> Option<&Run> {
        let at = self.runs.partition_point(|run| run.end() <= index);
        self.runs.get(at).filter(|run| run.first <= index)
    }

    /// The runs, rising.
    pub(super) fn runs(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.runs.iter()
    }

    /// The slots that no run covers, with their indexes.
    pub(super) fn young_slots(&self) -> impl Iterator<Item = (u64, &Slot)> {
        let from = self.runs_end().max(self.base);
        let slots = (self.base..).zip(&self.slots);
        slots.skip((from - self.base) as usize)
    }

    /// Where the newest durable frame of the entry at `index` lies, when that is known without
    /// looking into a footer.
    pub(super) fn place(&self, index: u64) -> Option<Place> {
        if let Some(repaired) = self.repairs.get(&index) {
            return Some(*repaired);
        }
        if index < self.runs_end() {
            return None;
        }
        self.slot(index)?.place
    }

    /// Appends an entry, which must follow the last.
    pub(super) fn push(&mut self, id: EntryId, slot: Slot) {
        assert_eq!(id.index, self.next(), "entries are consecutive");
        self.leaders.push(id);
        self.slots.push_back(slot);
    }

    /// Appends a sealed segment's entries, which must follow the last; there are no slots yet.
    pub(super) fn push_run(&mut self, run: Run, leaders: &Leaders) {
        assert!(run.first == self.next() && self.slots.is_empty(), "entries are consecutive");
        self.leaders.extend(leaders);
        self.base = run.end();
        self.durable_next = run.end();
        self.runs.push_back(run);
    }

    /// The entry at `index` is durable now; those before it are too.
    pub(super) fn stored_upto(&mut self, index: u64) {
        assert!(index < self.next(), "a durable entry is in the index");
        self.durable_next = self.durable_next.max(index + 1);
    }

    /// The segment got its footer: its entries that still count become a run.
    pub(super) fn seal(&mut self, segment: u64, part: &Part) {
        let from = part.first.max(self.runs_end()).max(self.base);
        let here = |index: &u64| {
            self.slot(*index).and_then(|slot| slot.place).is_some_and(|at| at.segment == segment)
        };
        let count = (from..part.end()).take_while(here).count() as u64;
        if count > 0 {
            self.runs.push_back(Run::of(segment, part, from, count));
        }
        self.drop_cold();
    }

    /// Lets go of slots that runs cover and whose payload is not in memory.
    pub(super) fn drop_cold(&mut self) {
        let covered = self.runs_end();
        while self.base < covered && self.slots.front().is_some_and(|slot| slot.payload.is_none()) {
            self.slots.pop_front();
            self.base += 1;
        }
    }

    /// Puts a run in the place of all runs in `sources`: it holds what counted in them at some time.
    pub(super) fn rewrite(&mut self, sources: &BTreeSet<u64>, segment: u64, part: &Part) -> u64 {
        let old = |run: &&Run| sources.contains(&run.segment);
        let Some(first) = self.runs.iter().find(old).map(|run| run.first) else { return 0 };
        let end = self.runs.iter().rev().find(old).map_or(first, Run::end);
        assert!(part.first <= first && end <= part.end(), "what counts was copied");
        self.runs.retain(|run| !sources.contains(&run.segment));
        let at = self.runs.partition_point(|run| run.first < first);
        let run = Run::of(segment, part, first, end - first);
        let bytes = run.bytes;
        self.runs.insert(at, run);
        bytes
    }

    /// Removes the entries from `index` on, and the checkpoints that cover any of them. Gives back
    /// those that had slots.
    pub(super) fn truncate_from(&mut self, index: u64, dying: &mut Dying) -> Vec<Slot> {
        let from = index.max(self.first()).min(self.next());
        let covered = self.runs_end();
        while let Some(run) = self.runs.back_mut().filter(|run| run.end() > from) {
            run.cut_from(from, dying);
            if run.count == 0 {
                self.runs.pop_back();
            }
        }
        let stay = from.saturating_sub(self.base).min(self.slots.len() as u64);
        let gone: Vec<Slot> = self.slots.drain(stay as usize..).collect();
        slots_die(&gone, self.base + stay, covered, dying);
        self.base = self.base.min(from);
        self.leaders.truncate_from(from);
        self.durable_next = self.durable_next.min(from);
        self.faulty.split_off(&from);
        self.repairs.split_off(&from);
        self.checkpoints.retain(|kept| kept.id.index < index);
        gone
    }

    /// Removes the entries up to `upto`. Gives back those that had slots.
    pub(super) fn purge(&mut self, upto: EntryId, dying: &mut Dying) -> Vec<Slot> {
        let to = upto.index.saturating_add(1);
        let covered = self.runs_end();
        while let Some(run) = self.runs.front_mut().filter(|run| run.first < to) {
            run.cut_before(to, dying);
            if run.count == 0 {
                self.runs.pop_front();
            }
        }
        let count = to.saturating_sub(self.base).min(self.slots.len() as u64);
        let gone: Vec<Slot> = self.slots.drain(..count as usize).collect();
        slots_die(&gone, self.base, covered, dying);
        self.base = self.base.max(to);
        match self.next() > to {
            true => self.leaders.forget_before(to),
            false => self.leaders.clear(),
        }
        self.durable_next = self.durable_next.max(to);
        self.faulty = self.faulty.split_off(&to);
        self.repairs = self.repairs.split_off(&to);
        keep(&mut self.purged, upto);
        self.drop_old_checkpoints();
        gone
    }

    /// Forgets everything. Gives back the entries that had slots.
    pub(super) fn remove(&mut self, dying: &mut Dying) -> Vec<Slot> {
        let old = std::mem::take(self);
        old.runs.iter().for_each(|run| dying.add(run.segment, run.count, run.bytes));
        let covered = old.runs_end();
        let slots: Vec<Slot> = old.slots.into();
        slots_die(&slots, old.base, covered, dying);
        dying.0.values_mut().for_each(|dead| dead.removed_bytes = dead.bytes);
        self.removed = true;
        self.tombstone = old.tombstone;
        self.changed = old.changed;
        slots
    }

    /// Whether anything that counts lies in the segment.
    pub(super) fn lives_in(&self, segment: u64) -> bool {
        let here = |place: &Place| place.segment == segment;
        self.runs.iter().any(|run| run.segment == segment)
            || self.young_slots().any(|(_, slot)| slot.place.as_ref().is_some_and(here))
            || self.mark_places().any(|place| place.segment == segment)
            || self.repairs.values().any(here)
    }

    /// The last entry, or the purge point.
    pub(super) fn last(&self) -> Option<EntryId> {
        let last = self.next().checked_sub(1).and_then(|index| self.id(index));
        last.or(self.purged.as_ref().map(|kept| kept.value))
    }

    /// What may be told of the group.
    pub(super) fn state(&self) -> GroupState {
        let last = self.last();
        let committed = self.committed.as_ref().and_then(|kept| kept.value);
        let committed = match (committed, last) {
            (Some(committed), Some(last)) if committed.index > last.index => Some(last),
            (Some(committed), Some(_)) => Some(committed),
            _ => None,
        };
        GroupState {
            purged: self.purged.as_ref().map(|kept| kept.value),
            last,
            vote: self.vote.as_ref().map(|kept| kept.value.clone()),
            committed,
            checkpoint: self.checkpoints().last().copied(),
        }
    }

    /// Whether exactly this entry is in the log, or is the purge point.
    pub(super) fn holds(&self, id: EntryId) -> bool {
        self.id(id.index) == Some(id) || self.purged.as_ref().is_some_and(|kept| kept.value == id)
    }

    fn runs_end(&self) -> u64 {
        self.runs.back().map_or(0, Run::end)
    }
}

/// The slots from `first` on are gone. Those that runs cover were counted there.
fn slots_die(slots: &[Slot], first: u64, covered: u64, dying: &mut Dying) {
    for (index, slot) in (first..).zip(slots) {
        if let Some(place) = slot.place.filter(|_| index >= covered) {
            dying.add(place.segment, 1, slot.bytes());
        }
    }
}
