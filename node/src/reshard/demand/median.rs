//! Where a sample of hash keys falls into halves.
//!
//! Pure. Samples are in rising order and may hold a key many times.

use tristream_proto::domain::HashKey;

/// The cut nearest to the middle of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Median {
    /// First key of the upper part. A sampled key, and not the lowest.
    pub(super) at: HashKey,
    /// Share of the smaller part, above 0, at most 1/2.
    pub(super) smaller: f64,
}

/// The cut between two different keys that is nearest to the middle; `None` when all keys are equal.
pub(super) fn median(sampled: &[HashKey]) -> Option<Median> {
    let count = sampled.len();
    let cuts = (1..count).filter(|&at| sampled[at - 1] < sampled[at]);
    let at = cuts.min_by_key(|&at| (2 * at).abs_diff(count))?;
    let smaller = at.min(count - at) as f64 / count as f64;
    Some(Median { at: sampled[at], smaller })
}

/// The key that is most often in the sample, and its share of it. The sample is not empty.
pub(super) fn most_frequent(sampled: &[HashKey]) -> (HashKey, f64) {
    let runs = sampled.chunk_by(|one, other| one == other);
    let longest = runs.max_by_key(|run| run.len()).unwrap_or_default();
    let key = longest.first().copied().unwrap_or(HashKey(0));
    (key, longest.len() as f64 / sampled.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: &[u128]) -> Vec<HashKey> {
        numbers.iter().copied().map(HashKey).collect()
    }

    #[test]
    fn the_cut_is_between_keys_and_nearest_to_the_middle() {
        let cut = |numbers: &[u128]| median(&keys(numbers)).map(|m| (m.at.0, m.smaller));
        assert_eq!(cut(&[1, 2, 3, 4]), Some((3, 0.5)));
        assert_eq!(cut(&[1, 5, 5, 5, 9]), Some((5, 0.2)), "the lower of two as good");
        assert_eq!(cut(&[5, 5, 5, 8, 9]), Some((8, 0.4)));
        assert_eq!(cut(&[5, 5, 5]), None);
        assert_eq!(cut(&[]), None);
    }

    #[test]
    fn the_most_frequent_key_is_found() {
        assert_eq!(most_frequent(&keys(&[1, 5, 5, 9])), (HashKey(5), 0.5));
        assert_eq!(most_frequent(&keys(&[7])), (HashKey(7), 1.0));
    }
}
