//! An even sample of what came in within a sliding window, each in proportion to its weight.
//!
//! Every item draws a rank from an exponential distribution of rate `weight`; the sample are the
//! items of the `SAMPLE_MAX` lowest ranks (Efraimidis and Spirakis, "Weighted random sampling with
//! a reservoir"). The window is cut into slices, each of which keeps its own lowest ranks: the
//! lowest of all slices together are then the sample of the window, and a slice that grows old is
//! dropped as a whole. Once a slice is full, most items are passed over with one subtraction: how
//! much weight passes until the next item has a low enough rank is exponential too.
//!
//! Pure and deterministic. Must not know what the keys stand for.

use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tristream_proto::domain::HashKey;

/// Most keys in the sample: the median of 1,024 lies within 5 % in rank of the true one but for
/// one time in 700 (standard error 1.6 %).
const SAMPLE_MAX: usize = 1024;
/// Slices of the window.
const SLICES: u32 = 8;

/// A sampled key. Orders by rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pick {
    /// A positive float's bits, which order as the float does.
    pub(super) rank: u64,
    pub(super) key: HashKey,
}

#[derive(Debug)]
struct Slice {
    number: u64,
    /// The highest rank on top. At most `SAMPLE_MAX`.
    lowest: BinaryHeap<Pick>,
}

#[derive(Debug)]
pub(super) struct Sample {
    slice: Duration,
    /// The oldest first; the last is the present one.
    slices: VecDeque<Slice>,
    /// Ranks of the present slice must be below, once it is full.
    below: Option<f64>,
    /// Weight that still passes before an item is taken, once the present slice is full.
    pass: f64,
    random: u64,
}

impl Sample {
    pub(super) fn new(window: Duration, seed: u64) -> Sample {
        let slice = (window / SLICES).max(Duration::from_millis(1));
        let slices = VecDeque::from([Slice { number: 0, lowest: BinaryHeap::new() }]);
        Sample { slice, slices, below: None, pass: 0.0, random: seed }
    }

    /// Moves on to `elapsed` since the beginning; gives the present slice. Time never goes back.
    pub(super) fn advance(&mut self, elapsed: Duration) -> u64 {
        let number = (elapsed.as_nanos() / self.slice.as_nanos()) as u64;
        let newest = self.slices.back().map_or(0, |slice| slice.number);
        if number <= newest {
            return newest;
        }
        while self.slices.front().is_some_and(|old| old.number + u64::from(SLICES) < number) {
            self.slices.pop_front();
        }
        self.prune();
        self.slices.push_back(Slice { number, lowest: BinaryHeap::new() });
        self.below = None;
        number
    }

    /// The rank of an item that came in now, when it may belong to the sample.
    pub(super) fn draw(&mut self, weight: f64) -> Option<u64> {
        let Some(below) = self.below else {
            return Some((self.exponential() / weight).to_bits());
        };
        self.pass -= weight;
        if self.pass > 0.0 {
            return None;
        }
        self.pass = self.exponential() / below;
        // The exponential of rate `weight`, given that it is below.
        let within = self.uniform() * -(-weight * below).exp_m1();
        Some((-(-within).ln_1p() / weight).to_bits())
    }

    /// Takes items in that were drawn in `slice`.
    pub(super) fn insert(&mut self, slice: u64, picks: Vec<Pick>) {
        let newest = self.slices.back().map_or(0, |slice| slice.number);
        let Some(at) = self.slices.iter_mut().rev().find(|kept| kept.number == slice) else {
            return;
        };
        if picks.is_empty() {
            return;
        }
        for pick in picks {
            if at.lowest.len() < SAMPLE_MAX {
                at.lowest.push(pick);
            } else if let Some(mut highest) = at.lowest.peek_mut()
                && pick < *highest
            {
                *highest = pick;
            }
        }
        if slice == newest && at.lowest.len() == SAMPLE_MAX {
            self.below = at.lowest.peek().map(|highest| f64::from_bits(highest.rank));
            // What was left to pass was drawn for another bound; the exponential has no memory.
            self.pass = self.exponential() / self.below.unwrap_or(1.0);
        }
    }

    /// The sampled keys, rising.
    pub(super) fn keys(&self) -> Vec<HashKey> {
        let mut picks: Vec<Pick> =
            self.slices.iter().flat_map(|slice| slice.lowest.iter().copied()).collect();
        if picks.len() > SAMPLE_MAX {
            picks.select_nth_unstable(SAMPLE_MAX);
            picks.truncate(SAMPLE_MAX);
        }
        let mut keys: Vec<HashKey> = picks.into_iter().map(|pick| pick.key).collect();
        keys.sort_unstable();
        keys
    }

    /// Drops what can never be in a sample again: `SAMPLE_MAX` picks of lower rank are as young.
    fn prune(&mut self) {
        let mut younger: Vec<Pick> = vec![];
        for slice in self.slices.iter_mut().rev() {
            younger.extend(slice.lowest.iter().copied());
            if younger.len() > SAMPLE_MAX {
                let (_, bound, _) = younger.select_nth_unstable(SAMPLE_MAX);
                let bound = *bound;
                younger.truncate(SAMPLE_MAX);
                slice.lowest.retain(|pick| *pick < bound);
                slice.lowest.shrink_to_fit();
            }
        }
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        // SplitMix64 (Steele, Lea and Flood).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Exponential of rate 1.
    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(8);

    fn feed(sample: &mut Sample, at: Duration, items: impl Iterator<Item = (u128, f64)>) {
        let slice = sample.advance(at);
        for (key, weight) in items {
            let pick = sample.draw(weight).map(|rank| Pick { rank, key: HashKey(key) });
            sample.insert(slice, pick.into_iter().collect());
        }
    }

    #[test]
    fn every_item_of_the_window_has_the_same_chance() {
        // 80,000 items over 8 slices, the first ones busier: each key range has its share.
        let mut sample = Sample::new(WINDOW, 1);
        for second in 0..8u64 {
            let count = if second < 4 { 15_000 } else { 5_000 };
            let items = (0..count).map(|_| (u128::from(second), 0.001));
            feed(&mut sample, Duration::from_secs(second), items);
        }
        let keys = sample.keys();
        assert_eq!(keys.len(), SAMPLE_MAX);
        let early = keys.iter().filter(|key| key.0 < 4).count();
        // 768 expected, standard deviation 14.
        assert!((768 - 70..=768 + 70).contains(&early), "{early}");
    }

    #[test]
    fn an_item_counts_by_its_weight() {
        let mut sample = Sample::new(WINDOW, 2);
        for second in 0..4 {
            let items = (0..20_000u128).map(|n| (n % 2, if n % 2 == 0 { 0.003 } else { 0.001 }));
            feed(&mut sample, Duration::from_secs(second), items);
        }
        let heavy = sample.keys().iter().filter(|key| key.0 == 0).count();
        assert!((768 - 70..=768 + 70).contains(&heavy), "{heavy}");
    }

    #[test]
    fn what_left_the_window_left_the_sample() {
        let mut sample = Sample::new(WINDOW, 3);
        feed(&mut sample, Duration::ZERO, (0..5_000).map(|n| (n, 0.001)));
        feed(&mut sample, Duration::from_secs(8), (0..10).map(|n| (1_000_000 + n, 0.001)));
        assert_eq!(sample.keys().len(), SAMPLE_MAX);
        feed(&mut sample, Duration::from_secs(9), (0..10).map(|n| (1_000_000 + n, 0.001)));
        assert_eq!(sample.keys().len(), 20);
        assert!(sample.keys().iter().all(|key| key.0 >= 1_000_000));
    }

    #[test]
    fn memory_is_bounded_by_less_than_four_samples() {
        let mut sample = Sample::new(WINDOW, 4);
        for second in 0..30 {
            feed(&mut sample, Duration::from_secs(second), (0..5_000).map(|n| (n, 0.001)));
            let kept: usize = sample.slices.iter().map(|slice| slice.lowest.len()).sum();
            // SAMPLE_MAX * (1 + 1/2 + ... + 1/9) and the present slice.
            assert!(kept < SAMPLE_MAX * 4, "{kept}");
        }
    }

    #[test]
    fn pruning_changes_no_sample() {
        let (mut pruned, mut whole) = (Sample::new(WINDOW, 5), Sample::new(WINDOW, 5));
        for second in 0..20 {
            let slice = pruned.advance(Duration::from_secs(second));
            // The same slices without pruning.
            while whole.slices.front().is_some_and(|old| old.number + 8 < slice) {
                whole.slices.pop_front();
            }
            if slice > 0 {
                whole.slices.push_back(Slice { number: slice, lowest: BinaryHeap::new() });
            }
            whole.below = None;
            for n in 0..3_000u128 {
                let (one, other) = (pruned.draw(0.001), whole.draw(0.001));
                assert_eq!(one, other);
                let pick = one.map(|rank| Pick { rank, key: HashKey(n) });
                pruned.insert(slice, pick.into_iter().collect());
                whole.insert(slice, pick.into_iter().collect());
            }
            assert_eq!(pruned.keys(), whole.keys(), "second {second}");
        }
    }
}
