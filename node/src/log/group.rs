//! What the log knows of one group: an index of its entries, and its newest marks.
//!
//! Pure. Invariants: the entries are consecutive and follow the purge point; those before `stored`
//! are durable. A `place` is where the newest *durable* frame lies, even when a newer value waits
//! to be written. Must not know about files.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::{EntryId, EntryKind, GroupState};

/// Where a durable frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Bytes that die when the write that made them useless is durable, by segment.
#[derive(Debug, Default)]
pub(super) struct Dying(pub(super) BTreeMap<u64, DyingIn>);

/// Frames that die in one segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DyingIn {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl Dying {
    fn mark(&mut self, place: Option<Place>) {
        if let Some(place) = place {
            self.0.entry(place.segment).or_default().bytes += place.len;
        }
    }

    fn entry(&mut self, place: Option<Place>) {
        self.mark(place);
        if let Some(place) = place {
            self.0.entry(place.segment).or_default().entries += 1;
        }
    }
}

/// One entry of the index.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) id: EntryId,
    pub(super) kind: EntryKind,
    /// Tells this entry from others that were once at its index.
    pub(super) ticket: u64,
    pub(super) len: usize,
    pub(super) place: Option<Place>,
    /// In memory: until it is durable, then while the tail's budget allows.
    pub(super) payload: Option<Bytes>,
}

/// A value and where its newest durable frame lies.
#[derive(Clone, Debug)]
pub(super) struct Kept<T> {
    pub(super) value: T,
    pub(super) place: Option<Place>,
}

/// Sets the value and keeps the place, which stays the durable one until the new frame is.
pub(super) fn keep<T>(kept: &mut Option<Kept<T>>, value: T) {
    let place = kept.as_ref().and_then(|kept| kept.place);
    *kept = Some(Kept { value, place });
}

/// A machine's state and the last entry it covers.
pub(super) type Checkpoint = (EntryId, Bytes);

/// One group.
#[derive(Default)]
pub(super) struct Group {
    pub(super) removed: bool,
    /// Its tombstone is durable.
    pub(super) buried: bool,
    pub(super) purged: Option<Kept<EntryId>>,
    pub(super) vote: Option<Kept<Bytes>>,
    pub(super) committed: Option<Kept<Option<EntryId>>>,
    /// By rising index: all above the purge point, and the newest at or below it.
    pub(super) checkpoints: Vec<Kept<Checkpoint>>,
    slots: VecDeque<Slot>,
    stored: usize,
    /// Fires when entries became durable or went away.
    pub(super) changed: Arc<Notify>,
}

impl Group {
    /// Index of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.first() + self.slots.len() as u64
    }

    /// Index of the first entry, if there is one.
    pub(super) fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |purged| purged.value.index + 1)
    }

    /// Index of the last durable entry, or the purge point.
    pub(super) fn durable(&self) -> Option<u64> {
        (self.first() + self.stored as u64).checked_sub(1)
    }

    /// Whether there is anything to know of the group.
    pub(super) fn is_empty(&self) -> bool {
        self.purged.is_none()
            && self.vote.is_none()
            && self.committed.as_ref().is_none_or(|committed| committed.value.is_none())
            && self.checkpoints.is_empty()
            && self.slots.is_empty()
    }

    /// The entry at `index`.
    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.first())?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// The entry at `index`.
    pub(super) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = index.checked_sub(self.first())?;
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    /// Appends an entry, which must follow the last.
    pub(super) fn push(&mut self, slot: Slot) {
        assert_eq!(slot.id.index, self.next(), "entries are consecutive");
        self.slots.push_back(slot);
    }

    /// The entry at `index` is durable now; those before it are too.
    pub(super) fn stored_upto(&mut self, index: u64) {
        let stored = (index + 1 - self.first()) as usize;
        assert!(stored <= self.slots.len(), "a durable entry is in the index");
        self.stored = self.stored.max(stored);
    }

    /// Removes the entries from `index` on, and the checkpoints that cover any of them.
    pub(super) fn truncate_from(&mut self, index: u64, dying: &mut Dying) -> Vec<Slot> {
        let stay = index.saturating_sub(self.first()).min(self.slots.len() as u64) as usize;
        let gone: Vec<Slot> = self.slots.drain(stay..).collect();
        gone.iter().for_each(|slot| dying.entry(slot.place));
        self.stored = self.stored.min(stay);
        self.checkpoints.retain(|kept| {
            let stays = kept.value.0.index < index;
            if !stays {
                dying.mark(kept.place);
            }
            stays
        });
        gone
    }

    /// Removes the entries up to `upto`.
    pub(super) fn purge(&mut self, upto: EntryId, dying: &mut Dying) -> Vec<Slot> {
        let count = (upto.index + 1).saturating_sub(self.first()).min(self.slots.len() as u64);
        let gone: Vec<Slot> = self.slots.drain(..count as usize).collect();
        gone.iter().for_each(|slot| dying.entry(slot.place));
        self.stored = self.stored.saturating_sub(count as usize);
        keep(&mut self.purged, upto);
        self.drop_old_checkpoints(dying);
        gone
    }

    /// Adds a checkpoint. One below another that the purge point has reached is not kept.
    pub(super) fn add_checkpoint(&mut self, checkpoint: Checkpoint, dying: &mut Dying) {
        let index = checkpoint.0.index;
        let same = self.checkpoints.iter().position(|kept| kept.value.0.index == index);
        let place = same.and_then(|at| self.checkpoints.remove(at).place);
        self.checkpoints.push(Kept { value: checkpoint, place });
        self.checkpoints.sort_by_key(|kept| kept.value.0.index);
        self.drop_old_checkpoints(dying);
    }

    /// Nothing can begin at a checkpoint below the purge point but for the newest there: what comes
    /// after the others is gone.
    pub(super) fn drop_old_checkpoints(&mut self, dying: &mut Dying) {
        let first = self.first();
        let below = self.checkpoints.iter().take_while(|kept| kept.value.0.index < first).count();
        for kept in self.checkpoints.drain(..below.saturating_sub(1)) {
            dying.mark(kept.place);
        }
    }

    /// Ids of the checkpoints whose entry is in the log or is the purge point, rising.
    pub(super) fn checkpoints(&self) -> Vec<EntryId> {
        let ids = self.checkpoints.iter().map(|kept| kept.value.0);
        ids.filter(|&id| self.holds(id)).collect()
    }

    /// The state of the checkpoint that covers up to exactly this entry.
    pub(super) fn read_checkpoint(&self, applied: EntryId) -> Option<Bytes> {
        let kept = self.checkpoints.iter().find(|kept| kept.value.0 == applied);
        kept.filter(|_| self.holds(applied)).map(|kept| kept.value.1.clone())
    }

    /// Forgets everything.
    pub(super) fn remove(&mut self, dying: &mut Dying) -> Vec<Slot> {
        let old = std::mem::take(self);
        old.slots.iter().for_each(|slot| dying.entry(slot.place));
        dying.mark(old.purged.and_then(|kept| kept.place));
        dying.mark(old.vote.and_then(|kept| kept.place));
        dying.mark(old.committed.and_then(|kept| kept.place));
        old.checkpoints.iter().for_each(|kept| dying.mark(kept.place));
        self.removed = true;
        self.changed = old.changed;
        old.slots.into()
    }

    /// Where its durable frames lie, and whether each is an entry's.
    pub(super) fn places(&self) -> impl Iterator<Item = (Place, bool)> {
        let entries = self.slots.iter().filter_map(|slot| slot.place).map(|place| (place, true));
        let marks = [
            self.purged.as_ref().and_then(|kept| kept.place),
            self.vote.as_ref().and_then(|kept| kept.place),
            self.committed.as_ref().and_then(|kept| kept.place),
        ];
        let checkpoints = self.checkpoints.iter().map(|kept| kept.place);
        let marks = marks.into_iter().chain(checkpoints).flatten().map(|place| (place, false));
        entries.chain(marks)
    }

    /// The last entry, or the purge point.
    pub(super) fn last(&self) -> Option<EntryId> {
        let purged = self.purged.as_ref().map(|kept| kept.value);
        self.slots.back().map(|slot| slot.id).or(purged)
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
        let ids = self.checkpoints.iter().map(|kept| kept.value.0);
        GroupState {
            purged: self.purged.as_ref().map(|kept| kept.value),
            last,
            vote: self.vote.as_ref().map(|kept| kept.value.clone()),
            committed,
            checkpoint: ids.rev().find(|&id| self.holds(id)),
        }
    }

    /// Whether exactly this entry is in the log, or is the purge point.
    pub(super) fn holds(&self, id: EntryId) -> bool {
        self.slot(id.index).is_some_and(|slot| slot.id == id)
            || self.purged.as_ref().is_some_and(|kept| kept.value == id)
    }
}

#[cfg(test)]
mod tests {
    use tristream_proto::domain::NodeId;

    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, node: NodeId(1), index }
    }

    fn filled(entries: u64) -> Group {
        let mut group = Group::default();
        for index in 0..entries {
            group.push(Slot {
                id: id(1, index),
                kind: EntryKind::Command,
                ticket: index,
                len: 1,
                place: Some(Place { segment: index / 4, offset: index, len: 10 }),
                payload: None,
            });
        }
        group
    }

    #[test]
    fn truncation_takes_entries_durability_and_checkpoints() {
        let (mut group, mut dying) = (filled(8), Dying::default());
        group.stored_upto(7);
        group.add_checkpoint((id(1, 2), Bytes::from_static(b"two")), &mut dying);
        group.add_checkpoint((id(1, 6), Bytes::from_static(b"six")), &mut dying);
        let gone = group.truncate_from(3, &mut dying);
        assert_eq!(gone.len(), 5);
        assert_eq!(group.durable(), Some(2));
        assert_eq!(group.next(), 3);
        assert_eq!(group.state().checkpoint, Some(id(1, 2)));
        assert_eq!((dying.0[&0].entries, dying.0[&0].bytes), (1, 10));
        assert_eq!((dying.0[&1].entries, dying.0[&1].bytes), (4, 40));
    }

    #[test]
    fn purging_beyond_the_end_leaves_the_purge_point_as_last() {
        let (mut group, mut dying) = (filled(3), Dying::default());
        group.stored_upto(2);
        group.purge(id(4, 9), &mut dying);
        assert_eq!(group.state().last, Some(id(4, 9)));
        assert_eq!((group.durable(), group.next(), group.first()), (Some(9), 10, 10));
    }

    #[test]
    fn a_checkpoint_of_another_entry_than_the_one_in_the_log_is_not_told() {
        let (mut group, mut dying) = (filled(5), Dying::default());
        group.add_checkpoint((id(1, 1), Bytes::from_static(b"right")), &mut dying);
        group.add_checkpoint((id(2, 3), Bytes::from_static(b"other term")), &mut dying);
        assert_eq!(group.checkpoints(), [id(1, 1)]);
        assert_eq!(group.read_checkpoint(id(2, 3)), None);
    }

    #[test]
    fn a_checkpoint_ahead_of_the_log_counts_once_the_purge_reaches_it() {
        let (mut group, mut dying) = (filled(5), Dying::default());
        group.add_checkpoint((id(2, 30), Bytes::from_static(b"snapshot")), &mut dying);
        assert_eq!(group.state().checkpoint, None);
        group.purge(id(2, 30), &mut dying);
        assert_eq!(group.state().checkpoint, Some(id(2, 30)));
        assert_eq!(group.read_checkpoint(id(2, 30)), Some(Bytes::from_static(b"snapshot")));
    }

    #[test]
    fn purging_lets_go_of_the_checkpoints_below_the_newest_that_it_reached() {
        let (mut group, mut dying) = (filled(8), Dying::default());
        for index in [1, 3, 5, 7] {
            group.add_checkpoint((id(1, index), Bytes::new()), &mut dying);
        }
        group.checkpoints.iter_mut().for_each(|kept| {
            let index = kept.value.0.index;
            kept.place = Some(Place { segment: 9, offset: index, len: 100 + index });
        });
        group.purge(id(1, 5), &mut dying);
        assert_eq!(group.checkpoints(), [id(1, 5), id(1, 7)]);
        assert_eq!(dying.0[&9].bytes, 101 + 103);
        group.add_checkpoint((id(1, 2), Bytes::new()), &mut dying);
        assert_eq!(group.checkpoints.len(), 2, "too late");
    }

    #[test]
    fn committed_never_exceeds_the_last_entry() {
        let mut group = filled(5);
        keep(&mut group.committed, Some(id(1, 9)));
        assert_eq!(group.state().committed, Some(id(1, 4)));
    }
}
