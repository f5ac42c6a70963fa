//! Which batches may be missing: their segments were given up after all that counted in them was
//! written again.
//!
//! Pure. Invariant: ranges rise and do not touch. With it, a segment that is missing for another
//! reason is told from one that was given up, at the next open. Must not know about segments.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Ranges of batches: above the first number, up to the second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Retired(Vec<(u64, u64)>);

impl Retired {
    /// Adds the batches after `after` up to `upto`.
    pub(super) fn add(&mut self, after: u64, upto: u64) {
        if after >= upto {
            return;
        }
        let (mut from, mut to) = (after, upto);
        self.0.retain(|&(other_from, other_to)| {
            let apart = other_to < from || other_from > to;
            if !apart {
                (from, to) = (from.min(other_from), to.max(other_to));
            }
            apart
        });
        let at = self.0.partition_point(|range| range.0 < from);
        self.0.insert(at, (from, to));
    }

    /// Whether all batches after `after` up to `upto` may be missing.
    pub(super) fn covers(&self, after: u64, upto: u64) -> bool {
        after >= upto || self.0.iter().any(|&(from, to)| from <= after && upto <= to)
    }

    /// The first batch from `after` on after which batches may be missing.
    pub(super) fn begins(&self, after: u64) -> Option<u64> {
        let mut ranges = self.0.iter().filter(|(_, to)| *to > after);
        ranges.next().map(|(from, _)| after.max(*from))
    }

    /// The payload of its frame: pairs of u64.
    pub(super) fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(self.0.len() * 16);
        for &(after, upto) in &self.0 {
            to.put_u64_le(after);
            to.put_u64_le(upto);
        }
        to.freeze()
    }

    /// Reads what `encode` made, from bytes whose checksum matched.
    pub(super) fn decode(bytes: &[u8]) -> Retired {
        let mut retired = Retired::default();
        for mut pair in bytes.chunks_exact(16) {
            retired.add(pair.get_u64_le(), pair.get_u64_le());
        }
        retired
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn covers_exactly_what_was_added(ranges in prop::collection::vec((0..40u64, 0..8u64), 0..12)) {
            let mut retired = Retired::default();
            let mut batches = std::collections::BTreeSet::new();
            for (after, len) in ranges {
                retired.add(after, after + len);
                batches.extend(after + 1..=after + len);
            }
            for after in 0..50 {
                for upto in after..50 {
                    let all = (after + 1..=upto).all(|batch| batches.contains(&batch));
                    prop_assert_eq!(retired.covers(after, upto), all);
                }
            }
            for after in 0..50 {
                let first = batches.range(after + 1..).next().map(|batch| batch - 1);
                prop_assert_eq!(retired.begins(after), first);
            }
            prop_assert_eq!(Retired::decode(&retired.encode()), retired.clone());
            prop_assert!(retired.0.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
