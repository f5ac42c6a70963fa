//! Runs: the entries of one group in one sealed segment, as memory knows them.
//!
//! Pure. Invariant: `table_at` is the first entry's number in the table of the segment's footer.

use super::{Dying, Part};

/// Consecutive entries of one group in one sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Run {
    pub(in crate::log) segment: u64,
    pub(in crate::log) first: u64,
    pub(in crate::log) count: u64,
    pub(in crate::log) table_at: u64,
    /// About so many bytes, heads included: exact until the run is cut.
    pub(in crate::log) bytes: u64,
    /// Bounds of the stamps, of entries that have one; may be wider than need be.
    pub(in crate::log) stamp_min: u64,
    pub(in crate::log) stamp_max: u64,
}

impl Run {
    /// `count` entries of a segment's part, from `first` on.
    pub(in crate::log) fn of(segment: u64, part: &Part, first: u64, count: u64) -> Run {
        Run {
            segment,
            first,
            count,
            table_at: part.table_at + (first - part.first),
            bytes: share(part.bytes, count, part.count),
            stamp_min: part.stamp_min,
            stamp_max: part.stamp_max,
        }
    }

    /// Index behind the last entry.
    pub(in crate::log) fn end(&self) -> u64 {
        self.first + self.count
    }

    /// The entries from `from` on go.
    pub(in crate::log) fn cut_from(&mut self, from: u64, dying: &mut Dying) {
        self.shrink(self.end() - from.clamp(self.first, self.end()), dying);
    }

    /// The entries before `to` go.
    pub(in crate::log) fn cut_before(&mut self, to: u64, dying: &mut Dying) {
        let gone = to.clamp(self.first, self.end()) - self.first;
        self.shrink(gone, dying);
        self.first += gone;
        self.table_at += gone;
    }

    fn shrink(&mut self, gone: u64, dying: &mut Dying) {
        let bytes = share(self.bytes, gone, self.count);
        self.bytes -= bytes;
        self.count -= gone;
        dying.add(self.segment, gone, bytes);
    }
}

/// The part of `bytes` that belongs to `some` of `all` entries, if they are of one size.
fn share(bytes: u64, some: u64, all: u64) -> u64 {
    if some == all {
        return bytes;
    }
    (u128::from(bytes) * u128::from(some) / u128::from(all.max(1))) as u64
}
