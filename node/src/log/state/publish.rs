//! What becomes durable takes its place in the index.

use super::State;
use crate::log::frame::{Head, What};
use crate::log::group::{Dying, Kept, Place};

impl State {
    /// A frame is durable: this is its head, and where that lies.
    pub(in crate::log) fn publish(&mut self, ticket: u64, head: &Head, place: Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.directory.note(head, place.offset);
            segment.frames += 1;
        }
        if head.what == What::Retired {
            settle(self.retired.as_mut(), place);
            return;
        }
        let Some(group) = self.groups.get_mut(&head.group) else { return };
        match head.what {
            What::Entry { id, .. } => {
                let slot = group.slot_mut(id.index).filter(|slot| slot.ticket == ticket);
                let Some(slot) = slot else { return };
                slot.place = Some(place);
                self.tail.push(head.group, id.index, slot);
                group.stored_upto(id.index);
                self.rewrite_budget += rewritable(u64::from(head.len));
                if let Some(segment) = self.segments.get_mut(&place.segment) {
                    segment.live_bytes += head.bytes();
                    segment.live_entries += 1;
                }
            }
            What::Repair { id, .. } => {
                if group.id(id.index) == Some(id) {
                    group.repairs.insert(id.index, place);
                    group.faulty.remove(&id.index);
                }
            }
            What::Vote => settle(group.vote.as_mut(), place),
            What::Purge { .. } => settle(group.purged.as_mut(), place),
            What::Committed { .. } => settle(group.committed.as_mut(), place),
            What::Checkpoint { applied } => {
                let kept = group.checkpoints.iter_mut().find(|kept| kept.id == applied);
                if let Some(kept) = kept {
                    kept.place = Some(place);
                    kept.state = None;
                }
            }
            What::Remove => group.tombstone = Some(place),
            What::Truncate { .. } | What::Retired => {}
        }
    }

    /// What a durable write made useless is dead now.
    pub(in crate::log) fn bury(&mut self, dying: &Dying) {
        for (segment, dead) in &dying.0 {
            if let Some(segment) = self.segments.get_mut(segment) {
                segment.dying -= 1;
                segment.live_bytes = segment.live_bytes.saturating_sub(dead.bytes);
                segment.live_entries = segment.live_entries.saturating_sub(dead.entries);
                segment.removed_bytes += dead.removed_bytes;
            } else if let Some(by) = self.rewritten.get(segment)
                && let Some(by) = self.segments.get_mut(by)
            {
                // It was counted as dead when the segment was rewritten.
                by.dying -= 1;
            }
        }
    }
}

/// How many bytes may be rewritten, to bring entries together, for so many that were put: less than
/// one for one, and no less than need be, for what it does not reach stays scattered.
pub(in crate::log) fn rewritable(bytes: u64) -> i64 {
    i64::try_from(bytes - bytes / 32).unwrap_or(i64::MAX)
}

fn settle<T>(kept: Option<&mut Kept<T>>, place: Place) {
    if let Some(kept) = kept {
        kept.place = Some(place);
    }
}

#[cfg(test)]
mod tests {
    use tristream_proto::domain::GroupId;

    use super::*;
    use crate::log::group::Group;
    use crate::log::segment::Header;
    use crate::log::state::{Segment, Write};

    #[test]
    fn what_dies_in_a_rewritten_segment_keeps_the_new_one_until_it_is_durable() {
        let header =
            Header { salt: 0, sequence: 1, log: 0, follows: 0, whole_upto: 0, rewritten: false };
        let mut state = State::default();
        state.segments.insert(1, Segment::new(header));
        state.groups.insert(GroupId(1), Group::default());
        let mut dying = Dying::default();
        dying.0.entry(1).or_default().entries = 3;
        let frames = Vec::new();
        state.enqueue(Write { frames, dying, done: None, room: None });
        assert!(state.lives_in(1));
        let old = state.segments.remove(&1).unwrap();
        state.segments.insert(2, Segment { dying: old.dying, ..Segment::new(header) });
        state.rewritten.insert(1, 2);
        assert!(state.lives_in(2));
        let write = state.take(1).remove(0);
        state.bury(&write.dying);
        assert!(!state.lives_in(2));
    }
}
