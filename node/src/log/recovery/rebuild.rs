//! One group while the segments are read.
//!
//! Pure. Sparse: a segment that was given up leaves a hole, until the frame that made its entries
//! useless is met.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;
use tristream_proto::domain::GroupId;

use crate::log::EntryId;
use crate::log::frame::{Head, What};
use crate::log::group::{Checkpoint, Dying, Group, Kept, Place, Run, Slot};
use crate::log::leaders::Leaders;
use crate::log::segment::damaged;
use crate::log::segment::directory::Part;

/// The newest vote.
pub(super) struct Vote {
    pub(super) place: Place,
    pub(super) head: Head,
    /// `None`: to be read.
    pub(super) value: Option<Bytes>,
}

/// What is known of a group so far.
#[derive(Default)]
pub(super) struct Rebuild {
    removed: bool,
    tombstone: Option<Place>,
    purged: Option<Kept<EntryId>>,
    pub(super) vote: Option<Vote>,
    committed: Option<Kept<Option<EntryId>>>,
    checkpoints: BTreeMap<u64, Checkpoint>,
    repairs: BTreeMap<u64, Place>,
    pub(super) faulty: BTreeMap<u64, Head>,
    runs: Vec<(Run, Leaders)>,
    /// Entries of the newest segments, consecutive.
    young: VecDeque<Slot>,
    young_first: u64,
    young_leaders: Leaders,
}

impl Rebuild {
    /// Takes in what a full segment says.
    pub(super) fn part(&mut self, segment: u64, part: &Part) {
        let place = |offset: u64| Place { segment, offset };
        if part.removed {
            self.remove(place(0));
        }
        if self.removed {
            return;
        }
        if part.cut_from < u64::MAX {
            self.cut_from(part.cut_from);
        }
        if part.count > 0 {
            self.cut_entries(part.first);
            let run = Run::of(segment, part, part.first, part.count);
            self.runs.push((run, part.leaders.clone()));
        }
        for mark in part.marks() {
            self.mark(&mark.head, place(mark.offset), None);
        }
    }

    /// Takes in a frame; its payload where it is at hand.
    pub(super) fn frame(&mut self, head: &Head, place: Place, payload: Option<&Bytes>) {
        if self.removed {
            return;
        }
        match head.what {
            What::Entry { id, .. } => {
                self.cut_entries(id.index);
                if self.young.is_empty() || self.young_end() != id.index {
                    self.young.clear();
                    self.young_leaders.clear();
                    self.young_first = id.index;
                }
                let (stamp_ms, len) = (head.stamp_ms, head.len);
                let place = Some(place);
                self.young.push_back(Slot { ticket: 0, stamp_ms, len, place, payload: None });
                self.young_leaders.push(id);
                if payload.is_none() {
                    self.faulty.insert(id.index, *head);
                }
            }
            What::Truncate { from } => self.cut_from(from),
            What::Remove => self.remove(place),
            What::Checkpoint { .. } | What::Repair { .. } if payload.is_none() => {}
            _ => self.mark(head, place, payload),
        }
    }

    fn mark(&mut self, head: &Head, place: Place, payload: Option<&Bytes>) {
        match head.what {
            What::Vote => {
                // A copy that does not hold on to the buffer around it.
                let value = payload.map(|vote| Bytes::copy_from_slice(vote));
                self.vote = Some(Vote { place, head: *head, value });
            }
            What::Purge { upto } => {
                let newer = self.purged.as_ref().is_none_or(|kept| kept.value.index <= upto.index);
                if newer {
                    self.purged = Some(Kept { value: upto, place: Some(place) });
                    self.purge(upto.index);
                }
            }
            What::Committed { committed } => {
                self.committed = Some(Kept { value: committed, place: Some(place) });
            }
            What::Checkpoint { applied } => {
                let (place, len) = (Some(place), head.len);
                let kept = Checkpoint { id: applied, len, place, state: None };
                self.checkpoints.insert(applied.index, kept);
            }
            What::Repair { id, .. } => {
                self.repairs.insert(id.index, place);
            }
            What::Entry { .. } | What::Truncate { .. } | What::Remove | What::Retired => {}
        }
    }

    fn young_end(&self) -> u64 {
        self.young_first + self.young.len() as u64
    }

    fn cut_from(&mut self, from: u64) {
        self.cut_entries(from);
        self.checkpoints.split_off(&from);
    }

    /// The entries from `from` on are gone.
    fn cut_entries(&mut self, from: u64) {
        let dying = &mut Dying::default();
        while let Some((run, leaders)) = self.runs.last_mut().filter(|(run, _)| run.end() > from) {
            run.cut_from(from, dying);
            leaders.truncate_from(from);
            if run.count == 0 {
                self.runs.pop();
            }
        }
        let stay = from.saturating_sub(self.young_first).min(self.young.len() as u64);
        self.young.truncate(stay as usize);
        self.young_leaders.truncate_from(from);
        self.repairs.split_off(&from);
        self.faulty.split_off(&from);
    }

    /// The entries up to `upto` are gone.
    fn purge(&mut self, upto: u64) {
        let (to, dying) = (upto.saturating_add(1), &mut Dying::default());
        for (run, _) in &mut self.runs {
            run.cut_before(to, dying);
        }
        self.runs.retain(|(run, _)| run.count > 0);
        let gone = to.saturating_sub(self.young_first).min(self.young.len() as u64);
        self.young.drain(..gone as usize);
        self.young_first += gone;
        self.repairs = self.repairs.split_off(&to);
        self.faulty = self.faulty.split_off(&to);
    }

    fn remove(&mut self, tombstone: Place) {
        *self = Rebuild { removed: true, tombstone: Some(tombstone), ..Rebuild::default() };
    }

    /// An error when entries are missing.
    pub(super) fn check(&self, id: GroupId) -> io::Result<()> {
        let first = self.purged.as_ref().map_or(0, |kept| kept.value.index + 1);
        let runs = self.runs.iter().map(|(run, _)| (run.first, run.end()));
        let young = (self.young_first, self.young_end());
        let mut next = first;
        for (from, to) in runs.chain([young]).filter(|(from, to)| from < to && *to > first) {
            if from.max(first) != next {
                return Err(damaged(format!("group {id}: entry {next} is missing from the log")));
            }
            next = to;
        }
        Ok(())
    }

    /// The group; an error when entries are missing.
    pub(super) fn finish(self, id: GroupId) -> io::Result<Group> {
        let mut group = Group::default();
        if self.removed {
            // That it was is all that is kept of it.
            (group.removed, group.tombstone) = (true, self.tombstone);
            return Ok(group);
        }
        if let Some(kept) = self.purged {
            group.purge(kept.value, &mut Dying::default());
            group.purged = Some(kept);
        }
        for (mut run, leaders) in self.runs {
            run.cut_before(group.first(), &mut Dying::default());
            if run.count == 0 {
                continue;
            }
            check_next(id, &group, run.first)?;
            group.push_run(run, &leaders.slice(run.first, run.end() - 1));
        }
        if !self.young.is_empty() {
            check_next(id, &group, self.young_first)?;
        }
        for (index, slot) in (self.young_first..).zip(self.young) {
            let entry = self.young_leaders.id(index);
            let entry = entry.ok_or_else(|| damaged(format!("group {id}: entry {index}")))?;
            group.push(entry, slot);
            group.stored_upto(index);
        }
        group.vote = self.vote.and_then(|vote| {
            let place = Some(vote.place);
            vote.value.map(|value| Kept { value, place })
        });
        group.committed = self.committed;
        self.checkpoints.into_values().for_each(|kept| group.add_checkpoint(kept));
        let known = group.first()..group.next();
        let here = |index: &u64| known.contains(index);
        group.repairs = self.repairs.into_iter().filter(|(index, _)| here(index)).collect();
        let faulty = self.faulty.into_iter().map(|(index, head)| (index, Some(head)));
        group.faulty =
            faulty.filter(|(index, _)| here(index) && !group.repairs.contains_key(index)).collect();
        Ok(group)
    }
}

fn check_next(id: GroupId, group: &Group, index: u64) -> io::Result<()> {
    let next = group.next();
    match index == next {
        true => Ok(()),
        false => Err(damaged(format!("group {id}: entry {next} is missing from the log"))),
    }
}
