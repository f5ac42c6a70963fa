//! Which frames of some segments count.
//!
//! Pure: a picture of the index at one moment.

use std::collections::BTreeMap;

use tristream_proto::domain::GroupId;

use crate::log::frame::What;
use crate::log::group::{Group, Place};
use crate::log::segment::footer::Trailer;
use crate::log::state::{Segment, Shadow, State};

/// What is to be copied.
pub(super) struct Plan {
    /// Sequence number of the new segment.
    pub(super) sequence: u64,
    /// Its batches: above this one ..
    pub(super) follows: u64,
    /// .. up to this one.
    pub(super) upto: u64,
    /// What it has to say about older segments.
    pub(super) shadows: Vec<Shadow>,
    pub(super) groups: BTreeMap<GroupId, Part>,
    /// The list of retired batches lies here.
    pub(super) retired: Option<Place>,
}

/// What is to be copied of one group.
#[derive(Default)]
pub(super) struct Part {
    pub(super) pieces: Vec<Piece>,
    /// Where to find entries that were repaired.
    pub(super) repairs: BTreeMap<u64, Place>,
    pub(super) marks: Vec<(What, Place)>,
}

/// Consecutive entries in one source.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) segment: u64,
    pub(super) salt: u32,
    pub(super) trailer: Trailer,
    pub(super) table_at: u64,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl Plan {
    /// `None`: not now.
    pub(super) fn make(state: &mut State, sources: &[u64], shadows: Vec<Shadow>) -> Option<Plan> {
        let known: Vec<&Segment> =
            sources.iter().filter_map(|sequence| state.segments.get(sequence)).collect();
        let quiet = known.iter().all(|known| known.dying == 0);
        let (first, last) = (known.first()?, known.last()?);
        let (follows, upto) = (first.header.follows, last.last_batch);
        if !quiet || known.len() < sources.len() || follows >= upto {
            return None;
        }
        let mut groups = BTreeMap::new();
        for (id, group) in &state.groups {
            let part = part(state, group, sources)?;
            if !part.pieces.is_empty() || !part.marks.is_empty() {
                groups.insert(*id, part);
            }
        }
        let retired = state.retired.as_ref().and_then(|kept| kept.place);
        let retired = retired.filter(|place| sources.contains(&place.segment));
        let sequence = state.take_sequence();
        Some(Plan { sequence, follows, upto, shadows, groups, retired })
    }
}

/// `None`: something of the group in these segments is damaged, and must be repaired first.
fn part(state: &State, group: &Group, sources: &[u64]) -> Option<Part> {
    let mut part = Part::default();
    for run in group.runs().filter(|run| sources.contains(&run.segment)) {
        let known = state.segments.get(&run.segment)?;
        part.pieces.push(Piece {
            segment: run.segment,
            salt: known.header.salt,
            trailer: known.trailer()?,
            table_at: run.table_at,
            first: run.first,
            count: run.count,
            bytes: run.bytes,
        });
        if group.faulty.range(run.first..run.end()).next().is_some() {
            return None;
        }
        let repairs = group.repairs.range(run.first..run.end());
        part.repairs.extend(repairs.map(|(index, place)| (*index, *place)));
    }
    let here = |(_, place): &(What, Place)| sources.contains(&place.segment);
    let is_entry = |what: &What| match what {
        What::Repair { id, .. } => part.repairs.contains_key(&id.index),
        _ => false,
    };
    part.marks = group.marks().into_iter().filter(here).collect();
    let marks = std::mem::take(&mut part.marks).into_iter();
    part.marks = marks.filter(|(what, _)| !is_entry(what)).collect();
    Some(part)
}
