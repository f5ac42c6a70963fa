//! The newest marks of a group: votes, purge point, committed id, checkpoints.
//!
//! Pure. Of a checkpoint's state only what is not durable yet is in memory.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Group, Place};
use crate::log::frame::{HEAD_BYTES, What};
use crate::log::{EntryId, EntryKind};

/// A value and where its newest durable frame lies.
#[derive(Clone, Debug)]
pub(in crate::log) struct Kept<T> {
    pub(in crate::log) value: T,
    pub(in crate::log) place: Option<Place>,
}

/// Sets the value and keeps the place, which stays the durable one until the new frame is.
pub(in crate::log) fn keep<T>(kept: &mut Option<Kept<T>>, value: T) {
    let place = kept.as_ref().and_then(|kept| kept.place);
    *kept = Some(Kept { value, place });
}

/// A machine's state.
#[derive(Clone, Debug)]
pub(in crate::log) struct Checkpoint {
    /// The last entry it covers.
    pub(in crate::log) id: EntryId,
    /// Length of the state in bytes.
    pub(in crate::log) len: u32,
    pub(in crate::log) place: Option<Place>,
    /// Until it is durable.
    pub(in crate::log) state: Option<Bytes>,
}

impl Group {
    /// Adds a checkpoint. One below another that the purge point has reached is not kept. If there
    /// is one of this entry, its frame is the durable one until the new one is.
    pub(in crate::log) fn add_checkpoint(&mut self, mut checkpoint: Checkpoint) {
        let index = checkpoint.id.index;
        let same = self.checkpoints.iter().find(|kept| kept.id == checkpoint.id);
        checkpoint.place = checkpoint.place.or(same.and_then(|kept| kept.place));
        self.checkpoints.retain(|kept| kept.id.index != index);
        self.checkpoints.push(checkpoint);
        self.checkpoints.sort_by_key(|kept| kept.id.index);
        self.drop_old_checkpoints();
    }

    /// Nothing can begin at a checkpoint below the purge point but for the newest there: what comes
    /// after the others is gone.
    pub(in crate::log) fn drop_old_checkpoints(&mut self) {
        let first = self.first();
        let below = self.checkpoints.iter().take_while(|kept| kept.id.index < first).count();
        self.checkpoints.drain(..below.saturating_sub(1));
    }

    /// Ids of the checkpoints whose entry is in the log or is the purge point, rising.
    pub(in crate::log) fn checkpoints(&self) -> Vec<EntryId> {
        let ids = self.checkpoints.iter().map(|kept| kept.id);
        ids.filter(|&id| self.holds(id)).collect()
    }

    /// The checkpoint that covers up to exactly this entry.
    pub(in crate::log) fn checkpoint(&self, applied: EntryId) -> Option<&Checkpoint> {
        self.checkpoints.iter().find(|kept| kept.id == applied)
    }

    /// All marks and repairs whose durable frames lie somewhere, and where.
    pub(in crate::log) fn marks(&self) -> Vec<(What, Place)> {
        let mut marks = Vec::new();
        let mut add = |what: What, place: Option<Place>| {
            marks.extend(place.map(|place| (what, place)));
        };
        if let Some(kept) = &self.vote {
            add(What::Vote, kept.place);
        }
        if let Some(kept) = &self.purged {
            add(What::Purge { upto: kept.value }, kept.place);
        }
        if let Some(kept) = &self.committed {
            add(What::Committed { committed: kept.value }, kept.place);
        }
        for kept in &self.checkpoints {
            add(What::Checkpoint { applied: kept.id }, kept.place);
        }
        for (&index, place) in &self.repairs {
            let id = self.id(index).unwrap_or(EntryId { index, ..EntryId::default() });
            add(What::Repair { id, kind: EntryKind::Blank }, Some(*place));
        }
        marks
    }

    /// Bytes of the marks' durable frames, and where they lie.
    pub(in crate::log) fn mark_bytes(&self) -> impl Iterator<Item = (Place, u64)> {
        let vote = self.vote.as_ref().map_or(0, |kept| kept.value.len() as u64);
        let single = [
            (self.purged.as_ref().and_then(|kept| kept.place), 0),
            (self.vote.as_ref().and_then(|kept| kept.place), vote),
            (self.committed.as_ref().and_then(|kept| kept.place), 0),
        ];
        let checkpoints = self.checkpoints.iter().map(|kept| (kept.place, u64::from(kept.len)));
        let marks = single.into_iter().chain(checkpoints);
        marks.filter_map(|(place, len)| Some((place?, len + HEAD_BYTES as u64)))
    }

    /// Frames were copied: their places change.
    pub(in crate::log) fn move_marks(&mut self, moved: &BTreeMap<Place, Place>) {
        let single = [
            self.purged.as_mut().map(|kept| &mut kept.place),
            self.vote.as_mut().map(|kept| &mut kept.place),
            self.committed.as_mut().map(|kept| &mut kept.place),
        ];
        let checkpoints = self.checkpoints.iter_mut().map(|kept| &mut kept.place);
        for place in single.into_iter().flatten().chain(checkpoints) {
            if let Some(to) = place.and_then(|from| moved.get(&from)) {
                *place = Some(*to);
            }
        }
        for place in self.repairs.values_mut() {
            *place = moved.get(place).copied().unwrap_or(*place);
        }
    }

    /// Where the marks' durable frames lie.
    pub(super) fn mark_places(&self) -> impl Iterator<Item = Place> {
        let marks = [
            self.purged.as_ref().and_then(|kept| kept.place),
            self.vote.as_ref().and_then(|kept| kept.place),
            self.committed.as_ref().and_then(|kept| kept.place),
        ];
        marks.into_iter().chain(self.checkpoints.iter().map(|kept| kept.place)).flatten()
    }
}
