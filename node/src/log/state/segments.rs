//! The segments' accounts: what each file is, and how much of it still counts.
//!
//! Invariants: `live_entries` is exact once nothing is dying; `live_bytes` is an estimate, and only
//! decisions about when to rewrite hang on it.

use std::collections::BTreeMap;

use tristream_proto::domain::GroupId;

use super::State;
use crate::log::group::Group;
use crate::log::segment::directory::{Directory, Part};
use crate::log::segment::footer::{self, Trailer};
use crate::log::segment::{HEADER_BYTES, Header};

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Stage {
    /// The committer writes to it.
    Active,
    /// Full; its footer is not durable yet.
    Full,
    /// It has a durable footer, and memory knows only runs of it.
    Sealed(Trailer),
}

/// What a segment says about entries of older ones: that they do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Shadow {
    pub(in crate::log) group: GroupId,
    /// Entries from here on; `None`: all there is of the group.
    pub(in crate::log) from: Option<u64>,
}

/// A segment's account.
pub(in crate::log) struct Segment {
    pub(in crate::log) header: Header,
    pub(in crate::log) stage: Stage,
    /// End of the last block.
    pub(in crate::log) len: u64,
    pub(in crate::log) last_batch: u64,
    /// What is in it, until its footer tells.
    pub(in crate::log) directory: Directory,
    /// Frames in it.
    pub(in crate::log) frames: u64,
    pub(in crate::log) shadows: Vec<Shadow>,
    pub(in crate::log) live_bytes: u64,
    pub(in crate::log) live_entries: u64,
    /// Bytes here of groups that were removed since the log was opened.
    pub(in crate::log) removed_bytes: u64,
    /// Writes in the queue that will make entries here useless.
    pub(in crate::log) dying: u64,
    /// Bytes of its entries when it was sealed.
    pub(in crate::log) entry_bytes: u64,
    /// How many runs it had when it was sealed, and their average length in bytes.
    pub(in crate::log) runs: u64,
    pub(in crate::log) run_bytes: u64,
    /// Something in it could not be read when it was to be rewritten: not tried again.
    pub(in crate::log) stuck: bool,
}

impl Segment {
    pub(in crate::log) fn new(header: Header) -> Segment {
        Segment {
            header,
            stage: Stage::Active,
            len: HEADER_BYTES,
            last_batch: header.follows,
            directory: Directory::default(),
            frames: 0,
            shadows: Vec::new(),
            live_bytes: 0,
            live_entries: 0,
            removed_bytes: 0,
            dying: 0,
            entry_bytes: 0,
            runs: 0,
            run_bytes: 0,
            stuck: false,
        }
    }

    /// Its footer is durable.
    pub(in crate::log) fn sealed(&mut self, directory: &Directory, trailer: Trailer) {
        self.stage = Stage::Sealed(trailer);
        self.directory = Directory::default();
        self.shadows = shadows(directory);
        let runs = directory.parts.values().filter(|part| part.count > 0);
        let (count, bytes) = runs.fold((0, 0), |sum, part| (sum.0 + 1, sum.1 + part.bytes));
        self.entry_bytes = bytes;
        (self.runs, self.run_bytes) = (count, bytes / u64::max(count, 1));
    }

    /// The footer's place, when it has one.
    pub(in crate::log) fn trailer(&self) -> Option<Trailer> {
        match self.stage {
            Stage::Sealed(trailer) => Some(trailer),
            Stage::Active | Stage::Full => None,
        }
    }

    /// About how long its footer will be, with `more` entries.
    pub(in crate::log) fn footer_bytes_about(&self, more: usize) -> u64 {
        let groups = self.directory.parts.len() as u64 * footer::GROUP_BYTES_ABOUT;
        (self.frames + more as u64) * footer::ENTRY_BYTES + groups + footer::TRAILER_BYTES
    }
}

/// What a directory says about older segments.
pub(in crate::log) fn shadows(directory: &Directory) -> Vec<Shadow> {
    let of = |(&group, part): (&GroupId, &Part)| {
        let removed = part.removed.then_some(Shadow { group, from: None });
        let cut = (part.cut_from < u64::MAX).then_some(Shadow { group, from: Some(part.cut_from) });
        [removed, cut]
    };
    directory.parts.iter().flat_map(of).flatten().collect()
}

impl State {
    /// The segments that the committer wrote or writes, and those rewritten, in the order of what
    /// is in them.
    pub(in crate::log) fn in_order(&self) -> Vec<u64> {
        let mut order: Vec<_> = self
            .segments
            .values()
            .map(|known| (known.header.follows, known.header.sequence))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, sequence)| sequence).collect()
    }

    /// Whether the next segment of the committer is there, which a footer promises.
    pub(in crate::log) fn has_successor(&self, sequence: u64) -> bool {
        self.segments.range(sequence + 1..).any(|(_, later)| !later.header.rewritten)
    }

    /// Whether anything of a group that counts lies in a segment, or may at the next open.
    pub(in crate::log) fn lives_in(&self, sequence: u64) -> bool {
        let Some(segment) = self.segments.get(&sequence) else { return false };
        segment.dying > 0 || self.groups.values().any(|group| group.lives_in(sequence))
    }

    /// Bytes of the marks that count, by segment.
    pub(in crate::log) fn mark_bytes(&self) -> BTreeMap<u64, u64> {
        let mut bytes = BTreeMap::<u64, u64>::new();
        for (place, len) in self.groups.values().flat_map(Group::mark_bytes) {
            *bytes.entry(place.segment).or_default() += len;
        }
        bytes
    }

    /// A segment got its durable footer. The directory is numbered.
    pub(in crate::log) fn sealed(
        &mut self,
        sequence: u64,
        directory: &Directory,
        trailer: Trailer,
    ) {
        let Some(segment) = self.segments.get_mut(&sequence) else { return };
        segment.sealed(directory, trailer);
        for (id, part) in &directory.parts {
            if let Some(group) = self.groups.get_mut(id) {
                group.seal(sequence, part);
            }
        }
    }

    /// Segments and their bytes.
    pub(in crate::log) fn size(&self) -> (usize, u64) {
        (self.segments.len(), self.segments.values().map(|segment| segment.len).sum())
    }
}
