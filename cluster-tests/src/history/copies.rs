//! Which records disks keep, and from when on. Not part of recordings: no client sees it.
//!
//! Invariant: of each zone and place only the first copy is told. Must not judge.

use std::collections::HashMap;
use std::time::Duration;

use tristream_client::domain::{self, RecordPosition};

use super::{History, RecordId, SequenceNumber};

/// A disk keeps a record, whatever happens to its process and to the power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Whose disk.
    pub zone: &'static str,
    /// The record's place in its shard's log.
    pub at: RecordPosition,
    /// How many events had happened when this came to be so.
    pub after: usize,
    /// When, since the history began.
    pub since: Duration,
}

/// By record.
pub(super) type Copies = HashMap<RecordId, Vec<Copy>>;

impl History {
    /// A zone's disk keeps a record from now on.
    pub fn note_copy(&mut self, zone: &'static str, id: RecordId, at: RecordPosition) {
        let (after, since) = (self.events.len(), self.started.elapsed());
        let copies = self.copies.entry(id).or_default();
        if !copies.iter().any(|copy| copy.zone == zone && copy.at == at) {
            copies.push(Copy { zone, at, after, since });
        }
    }

    /// The copies of a record, in the order in which they came to be kept.
    pub fn copies(&self, id: RecordId) -> &[Copy] {
        self.copies.get(&id).map_or(&[], Vec::as_slice)
    }
}

impl SequenceNumber {
    /// The place in the shard's log that the number names; none if it is no number of ours.
    pub fn place(&self) -> Option<RecordPosition> {
        let number = self.0.parse::<domain::SequenceNumber>().ok()?;
        Some(RecordPosition::from_counter(number.counter))
    }
}
