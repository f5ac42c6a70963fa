//! All groups while the segments are read, in their order.
//!
//! Invariant: what is taken in later is newer. Must not know about blocks.

use std::collections::BTreeMap;
use std::io;

use tristream_proto::domain::GroupId;

use super::found::Faulty;
use super::kept;
use super::rebuild::Rebuild;
use crate::disk::File;
use crate::log::fetch::fetch_payload;
use crate::log::files::Files;
use crate::log::frame::What;
use crate::log::group::Place;
use crate::log::retired::Retired;
use crate::log::scan;
use crate::log::segment::{self, Directory, damaged};
use crate::log::state::{Segment, State, rewritable};

/// What was read so far.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) retired: Option<(Retired, Option<Place>)>,
    groups: BTreeMap<GroupId, Rebuild>,
    /// Bytes of each group in each full segment.
    sizes: Vec<(u64, GroupId, u64)>,
}

impl Replay {
    /// Takes in a full segment.
    pub(super) async fn directory(
        &mut self,
        file: &dyn File,
        segment: u64,
        directory: &Directory,
    ) -> io::Result<()> {
        for (id, part) in &directory.parts {
            self.groups.entry(*id).or_default().part(segment, part);
            self.sizes.push((segment, *id, part.bytes));
        }
        if let Some(mark) = &directory.retired {
            let place = Place { segment, offset: mark.offset };
            // Damaged: then the one before counts, and what is missing refuses to open.
            if let Some(payload) = fetch_payload(file, mark.offset, &mark.head).await? {
                self.retired = Some((Retired::decode(&payload), Some(place)));
            }
        }
        Ok(())
    }

    /// Notes damaged entries of a segment that was just taken in.
    pub(super) fn faulty(&mut self, faulty: &Faulty, directory: &Directory) {
        for (&(id, index), (head, _)) in faulty {
            let here = directory.parts.get(&id);
            if here.is_some_and(|part| (part.first..part.end()).contains(&index))
                && let Some(group) = self.groups.get_mut(&id)
            {
                group.faulty.insert(index, *head);
            }
        }
    }

    /// Takes in a frame of one of the newest segments.
    pub(super) fn found(&mut self, segment: u64, found: &scan::Found) {
        let scan::Found { head, offset, payload } = found;
        let place = Place { segment, offset: *offset };
        if head.what != What::Retired {
            let group = self.groups.entry(head.group).or_default();
            group.frame(head, place, payload.as_ref());
        } else if let Some(payload) = payload {
            self.retired = Some((Retired::decode(payload), Some(place)));
        }
    }

    /// Reads what is still to be read; an error when entries or votes are missing.
    pub(super) async fn check(&mut self, files: &Files) -> io::Result<()> {
        for (id, rebuild) in &mut self.groups {
            read_vote(*id, rebuild, files).await?;
            rebuild.check(*id)?;
        }
        Ok(())
    }

    /// All groups with all their entries.
    pub(super) fn finish(self) -> io::Result<State> {
        let mut state = State::default();
        (state.segments, state.retired) = (self.segments, kept(self.retired));
        for (id, rebuild) in self.groups {
            state.groups.insert(id, rebuild.finish(id)?);
        }
        for (segment, group, bytes) in self.sizes {
            if state.groups.get(&group).is_some_and(|group| group.removed)
                && let Some(segment) = state.segments.get_mut(&segment)
            {
                segment.removed_bytes += bytes;
            }
        }
        count(&mut state);
        Ok(state)
    }
}

/// Reads a vote that lies in a sealed segment.
async fn read_vote(id: GroupId, rebuild: &mut Rebuild, files: &Files) -> io::Result<()> {
    let Some(vote) = &mut rebuild.vote else { return Ok(()) };
    if vote.value.is_some() {
        return Ok(());
    }
    let lost = || {
        let segment = segment::name(vote.place.segment);
        damaged(format!("group {id}: its vote is damaged, in segment {segment}"))
    };
    let file = files.get(vote.place.segment)?;
    let payload = fetch_payload(&*file, vote.place.offset, &vote.head).await?;
    vote.value = Some(payload.ok_or_else(lost)?);
    Ok(())
}

/// Counts what is live, segment by segment.
fn count(state: &mut State) {
    let State { groups, segments, .. } = state;
    let mut add = |segment: u64, entries: u64, bytes: u64| {
        if let Some(segment) = segments.get_mut(&segment) {
            segment.live_entries += entries;
            segment.live_bytes += bytes;
        }
    };
    for group in groups.values() {
        group.runs().for_each(|run| add(run.segment, run.count, run.bytes));
        for (_, slot) in group.young_slots() {
            slot.place.into_iter().for_each(|place| add(place.segment, 1, slot.bytes()));
        }
    }
    let young = segments.values().filter(|segment| !segment.header.rewritten);
    let bytes: u64 = young.map(|segment| segment.live_bytes).sum();
    state.rewrite_budget = rewritable(bytes);
}
