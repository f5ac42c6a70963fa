//! Times, kept in buckets of 2 %, so that any number of them fits in a few KiB.

use std::time::Duration;

/// Bucket `n` ends at this to the power of `n + 1` microseconds; the last one (a minute) is open.
const GROWTH: f64 = 1.02;
const BUCKETS: usize = 906;

#[derive(Clone, Debug)]
pub(super) struct Latency {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { buckets: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
    }
}

impl Latency {
    pub(super) fn add(&mut self, took: Duration) {
        let micros = (took.as_micros() as f64).max(1.0);
        let bucket = (micros.ln() / GROWTH.ln()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.max = self.max.max(took);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The time that `share` (0 to 1) of all did not exceed, up to 2 % too long; zero when there are none.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let end = Duration::from_secs_f64(GROWTH.powi(bucket as i32 + 1) / 1e6);
                return end.min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_two_percent() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.99), Duration::ZERO);
        for millis in 1..=1000 {
            latency.add(Duration::from_millis(millis));
        }
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0), (0.001, 1.0)] {
            let told = latency.quantile(share).as_secs_f64() * 1000.0;
            assert!((expected..=expected * 1.03).contains(&told), "{share}: {told}");
        }
        assert_eq!((latency.count(), latency.max()), (1000, Duration::from_secs(1)));
    }

    #[test]
    fn what_is_out_of_range_is_kept_in_the_last_bucket() {
        let mut latency = Latency::default();
        latency.add(Duration::ZERO);
        latency.add(Duration::from_secs(3600));
        assert_eq!(latency.quantile(1.0), Duration::from_secs(62).min(latency.quantile(1.0)));
        assert_eq!(latency.max(), Duration::from_secs(3600));
    }
}
