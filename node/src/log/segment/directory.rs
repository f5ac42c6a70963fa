//! What one segment says, group by group: built frame by frame, or read from its footer.
//!
//! Pure. Invariant: replaying the directories of all segments in their order gives the same index as
//! replaying all their frames. Must not know about other segments: what a frame did to entries of
//! older ones is told by `cut_from`, `removed` and the purge mark.

use std::collections::{BTreeMap, VecDeque};

use tristream_proto::domain::GroupId;

use crate::log::frame::{HEAD_BYTES, Head, What};
use crate::log::leaders::Leaders;

/// A frame that is not an entry, and where its head begins in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Mark {
    pub(in crate::log) offset: u64,
    pub(in crate::log) head: Head,
}

/// Where an entry's head begins in the file, and what is known of it without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Position {
    /// In units of `OFFSET_UNIT` bytes.
    pub(in crate::log) offset: u32,
    /// Length of its payload.
    pub(in crate::log) len: u32,
}

/// Heads begin at multiples of this.
pub(in crate::log) const OFFSET_UNIT: u64 = 8;

/// One group's part of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) struct Part {
    /// The group was removed: nothing of it in older segments counts.
    pub(in crate::log) removed: bool,
    /// Entries of older segments from here on do not count; `MAX`: all do.
    pub(in crate::log) cut_from: u64,
    /// Index of the first entry here.
    pub(in crate::log) first: u64,
    /// Entries here, consecutive.
    pub(in crate::log) count: u64,
    /// The first entry's number in the segment's table (in the footer).
    pub(in crate::log) table_at: u64,
    /// Bytes of the entries, heads included.
    pub(in crate::log) bytes: u64,
    /// Bounds of the stamps, of entries that have one; may be wider than need be. `MAX` and 0 when
    /// none has.
    pub(in crate::log) stamp_min: u64,
    pub(in crate::log) stamp_max: u64,
    pub(in crate::log) leaders: Leaders,
    pub(in crate::log) vote: Option<Mark>,
    pub(in crate::log) purge: Option<Mark>,
    pub(in crate::log) committed: Option<Mark>,
    /// Rising by index.
    pub(in crate::log) checkpoints: Vec<Mark>,
    /// The newest repair of an entry, which lies here or in an older segment.
    pub(in crate::log) repairs: BTreeMap<u64, Mark>,
}

impl Default for Part {
    fn default() -> Part {
        Part {
            removed: false,
            cut_from: u64::MAX,
            first: 0,
            count: 0,
            table_at: 0,
            bytes: 0,
            stamp_min: u64::MAX,
            stamp_max: 0,
            leaders: Leaders::default(),
            vote: None,
            purge: None,
            committed: None,
            checkpoints: Vec::new(),
            repairs: BTreeMap::new(),
        }
    }
}

impl Part {
    /// Index behind the last entry here.
    pub(in crate::log) fn end(&self) -> u64 {
        self.first + self.count
    }

    /// All marks.
    pub(in crate::log) fn marks(&self) -> impl Iterator<Item = &Mark> {
        let single = self.vote.iter().chain(&self.purge).chain(&self.committed);
        single.chain(&self.checkpoints).chain(self.repairs.values())
    }

    /// Whether it has a frame of an entry from `from` on, or of a checkpoint or repair of one.
    pub(in crate::log) fn reaches(&self, from: u64) -> bool {
        let checkpoint = |mark: &Mark| match mark.head.what {
            What::Checkpoint { applied } => applied.index >= from,
            _ => false,
        };
        (self.count > 0 && self.end() > from)
            || self.checkpoints.iter().any(checkpoint)
            || self.repairs.range(from..).next().is_some()
    }

    /// Makes room for a mark of what the part tells.
    pub(in crate::log) fn put_mark(&mut self, mark: Mark) {
        match mark.head.what {
            What::Vote => self.vote = Some(mark),
            What::Purge { .. } => self.purge = Some(mark),
            What::Committed { .. } => self.committed = Some(mark),
            What::Checkpoint { applied } => {
                self.checkpoints.retain(|kept| checkpoint_index(kept) != applied.index);
                self.checkpoints.push(mark);
                self.checkpoints.sort_by_key(checkpoint_index);
            }
            What::Repair { id, .. } => {
                self.repairs.insert(id.index, mark);
            }
            What::Entry { .. } | What::Truncate { .. } | What::Remove | What::Retired => {}
        }
    }
}

fn checkpoint_index(mark: &Mark) -> u64 {
    match mark.head.what {
        What::Checkpoint { applied } => applied.index,
        _ => 0,
    }
}

/// What a segment says of all its groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::log) struct Directory {
    pub(in crate::log) parts: BTreeMap<GroupId, Part>,
    /// The newest list of batches that may be missing.
    pub(in crate::log) retired: Option<Mark>,
    positions: BTreeMap<GroupId, VecDeque<Position>>,
}

impl Directory {
    /// A directory whose positions stay in the file.
    pub(in crate::log) fn without_positions(
        parts: BTreeMap<GroupId, Part>,
        retired: Option<Mark>,
    ) -> Directory {
        Directory { parts, retired, positions: BTreeMap::new() }
    }

    /// The frame with this head is the next in the segment; its head begins at `offset`.
    pub(in crate::log) fn note(&mut self, head: &Head, offset: u64) {
        let mark = Mark { offset, head: *head };
        if head.what == What::Retired {
            self.retired = Some(mark);
            return;
        }
        let part = self.parts.entry(head.group).or_default();
        let positions = self.positions.entry(head.group).or_default();
        match head.what {
            What::Entry { id, .. } => {
                if id.index != part.end() || part.count == 0 {
                    // Never taken in from the callers, who may not leave gaps: a new beginning.
                    cut_back(part, positions, id.index);
                    if part.count > 0 && part.end() != id.index {
                        cut_front(part, positions, id.index);
                    }
                    if part.count == 0 {
                        part.first = id.index;
                    }
                }
                part.count += 1;
                part.bytes += head.bytes();
                part.leaders.push(id);
                part.repairs.remove(&id.index);
                if head.stamp_ms > 0 {
                    part.stamp_min = part.stamp_min.min(head.stamp_ms);
                    part.stamp_max = part.stamp_max.max(head.stamp_ms);
                }
                let offset = (offset / OFFSET_UNIT) as u32;
                positions.push_back(Position { offset, len: head.len });
            }
            What::Truncate { from } => {
                part.cut_from = part.cut_from.min(from);
                cut_back(part, positions, from);
                part.checkpoints.retain(|kept| checkpoint_index(kept) < from);
                part.repairs.split_off(&from);
            }
            What::Purge { upto } => {
                cut_front(part, positions, upto.index.saturating_add(1));
                part.repairs = part.repairs.split_off(&upto.index.saturating_add(1));
                part.put_mark(mark);
                drop_old_checkpoints(part, upto.index);
            }
            What::Remove => {
                *part = Part { removed: true, ..Part::default() };
                positions.clear();
            }
            What::Vote
            | What::Committed { .. }
            | What::Checkpoint { .. }
            | What::Repair { .. }
            | What::Retired => part.put_mark(mark),
        }
    }

    /// Where the entries of a group lie, from the part's first on. Empty when it was read from a
    /// footer.
    pub(in crate::log) fn positions(&self, group: GroupId) -> impl Iterator<Item = Position> {
        self.positions.get(&group).into_iter().flatten().copied()
    }

    /// Numbers the entries as the footer's table has them.
    pub(in crate::log) fn number(&mut self) {
        let mut table_at = 0;
        for part in self.parts.values_mut() {
            part.table_at = table_at;
            table_at += part.count;
        }
    }
}

fn cut_back(part: &mut Part, positions: &mut VecDeque<Position>, from: u64) {
    while part.count > 0 && part.end() > from {
        part.count -= 1;
        let gone = positions.pop_back().map_or(0, |gone| u64::from(gone.len));
        part.bytes -= gone + HEAD_BYTES as u64;
    }
    part.leaders.truncate_from(from);
}

fn cut_front(part: &mut Part, positions: &mut VecDeque<Position>, to: u64) {
    while part.count > 0 && part.first < to {
        part.count -= 1;
        part.first += 1;
        let gone = positions.pop_front().map_or(0, |gone| u64::from(gone.len));
        part.bytes -= gone + HEAD_BYTES as u64;
    }
    match part.count {
        0 => part.leaders.clear(),
        _ => part.leaders = part.leaders.slice(part.first, part.end() - 1),
    }
}

/// Of those up to the purge point only the newest may ever be asked for.
fn drop_old_checkpoints(part: &mut Part, purged: u64) {
    let below = part.checkpoints.iter().filter(|mark| checkpoint_index(mark) <= purged).count();
    part.checkpoints.drain(..below.saturating_sub(1));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::log::frame::Frame;
    use crate::log::{EntryId, EntryKind};

    const GROUP: GroupId = GroupId(4);

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, index, ..EntryId::default() }
    }

    #[derive(Default)]
    struct Build {
        directory: Directory,
        offset: u64,
    }

    impl Build {
        fn note(&mut self, what: What) -> &mut Build {
            let mut head = Frame::new(GROUP, what, Bytes::from_static(&[0; 10])).head;
            head.stamp_ms = 1000 + self.offset;
            self.directory.note(&head, self.offset);
            self.offset += 80;
            self
        }

        fn entries(&mut self, term: u64, range: std::ops::Range<u64>) -> &mut Build {
            for index in range {
                self.note(What::Entry { id: id(term, index), kind: EntryKind::Command });
            }
            self
        }

        fn part(&self) -> &Part {
            &self.directory.parts[&GROUP]
        }

        fn offsets(&self) -> Vec<u64> {
            let positions = self.directory.positions(GROUP);
            positions.map(|position| u64::from(position.offset) * OFFSET_UNIT).collect()
        }
    }

    #[test]
    fn entries_are_counted_and_found() {
        let mut build = Build::default();
        build.entries(1, 5..8).entries(2, 8..9);
        let part = build.part();
        assert_eq!((part.first, part.count, part.bytes), (5, 4, 4 * 74));
        assert_eq!((part.stamp_min, part.stamp_max), (1000, 1240));
        assert_eq!(part.leaders.id(8), Some(id(2, 8)));
        assert_eq!(build.offsets(), [0, 80, 160, 240]);
        assert!(part.reaches(8) && !part.reaches(9));
    }

    #[test]
    fn a_truncation_cuts_here_and_tells_what_it_cuts_elsewhere() {
        let mut build = Build::default();
        build.entries(1, 5..9).note(What::Checkpoint { applied: id(1, 7) });
        build.note(What::Repair { id: id(1, 8), kind: EntryKind::Command });
        build.note(What::Truncate { from: 7 });
        build.entries(2, 7..8).note(What::Truncate { from: 3 }).entries(3, 3..5);
        let part = build.part();
        assert_eq!((part.first, part.count, part.cut_from, part.bytes), (3, 2, 3, 2 * 74));
        assert!(part.checkpoints.is_empty() && part.repairs.is_empty());
        assert_eq!(part.leaders.id(4), Some(id(3, 4)));
        assert_eq!(build.offsets().len(), 2);
    }

    #[test]
    fn a_purge_drops_what_lies_here_and_may_jump_ahead() {
        let mut build = Build::default();
        build.entries(1, 5..9);
        for index in [5, 6, 8] {
            build.note(What::Checkpoint { applied: id(1, index) });
        }
        build.note(What::Purge { upto: id(1, 6) });
        assert_eq!((build.part().first, build.part().count), (7, 2));
        assert_eq!(build.part().checkpoints.len(), 2, "the newest below, and the one above");
        build.note(What::Purge { upto: id(9, 40) }).entries(9, 41..43);
        assert_eq!((build.part().first, build.part().count), (41, 2));
        assert_eq!(build.part().leaders.id(42), Some(id(9, 42)));
        assert_eq!(build.part().purge.unwrap().head.what, What::Purge { upto: id(9, 40) });
    }

    #[test]
    fn nothing_is_left_of_a_removed_group() {
        let mut build = Build::default();
        build.entries(1, 5..9).note(What::Vote).note(What::Remove);
        assert_eq!(*build.part(), Part { removed: true, ..Part::default() });
        assert!(build.offsets().is_empty());
    }

    #[test]
    fn the_newest_mark_counts() {
        let mut build = Build::default();
        build.note(What::Vote).note(What::Vote);
        build.note(What::Committed { committed: None });
        build.note(What::Committed { committed: Some(id(1, 1)) });
        build.note(What::Retired).note(What::Retired);
        let part = build.part();
        assert_eq!(part.vote.unwrap().offset, 80);
        assert_eq!(part.committed.unwrap().offset, 240);
        assert_eq!(build.directory.retired.unwrap().offset, 400);
        assert_eq!(part.marks().count(), 2);
    }
}
