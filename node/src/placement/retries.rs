//! When to try again what failed, key by key. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Failures per key, each with a pause that doubles.
pub struct Retries<K> {
    pause_min: Duration,
    pause_max: Duration,
    failed: BTreeMap<K, Failed>,
}

struct Failed {
    times: u32,
    due: Instant,
}

impl<K: Copy + Ord> Retries<K> {
    /// The first pause is `pause_min`; none is longer than `pause_max`.
    pub fn new(pause_min: Duration, pause_max: Duration) -> Retries<K> {
        Retries { pause_min, pause_max, failed: BTreeMap::new() }
    }

    /// Whether `key` may be tried.
    pub fn is_due(&self, key: K, now: Instant) -> bool {
        self.failed.get(&key).is_none_or(|failed| failed.due <= now)
    }

    /// Notes a failure; gives how many there were in a row.
    pub fn failed(&mut self, key: K, now: Instant) -> u32 {
        let failed = self.failed.entry(key).or_insert(Failed { times: 0, due: now });
        let factor = 1u32.checked_shl(failed.times).unwrap_or(u32::MAX);
        failed.due = now + self.pause_min.saturating_mul(factor).min(self.pause_max);
        failed.times = failed.times.saturating_add(1);
        failed.times
    }

    /// Forgets the failures of `key`.
    pub fn succeeded(&mut self, key: K) {
        self.failed.remove(&key);
    }

    /// How often `key` failed in a row.
    pub fn times(&self, key: K) -> u32 {
        self.failed.get(&key).map_or(0, |failed| failed.times)
    }

    /// When `key` may be tried again; `None` when it did not fail.
    pub fn due(&self, key: K) -> Option<Instant> {
        self.failed.get(&key).map(|failed| failed.due)
    }

    /// Forgets what is no longer of interest.
    pub fn retain(&mut self, keep: impl Fn(K) -> bool) {
        self.failed.retain(|&key, _| keep(key));
    }

    /// When the next key of those that failed, and that `counts`, becomes due.
    pub fn next_due(&self, counts: impl Fn(K) -> bool) -> Option<Instant> {
        let waiting = self.failed.iter().filter(|&(&key, _)| counts(key));
        waiting.map(|(_, failed)| failed.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_their_bound_and_end_with_success() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        let mut retries = Retries::new(Duration::from_millis(100), Duration::from_millis(350));
        assert!(retries.is_due('a', now));
        for (times, pause) in [(1, 100), (2, 200), (3, 350), (4, 350)] {
            assert_eq!(retries.failed('a', now), times);
            assert!(!retries.is_due('a', after(pause - 1)));
            assert!(retries.is_due('a', after(pause)));
        }
        for _ in 0..100 {
            retries.failed('b', now);
        }
        retries.failed('c', after(1000));
        assert_eq!(retries.next_due(|_| true), Some(after(350)));
        assert_eq!(retries.next_due(|key| key == 'c'), Some(after(1100)));
        assert_eq!(retries.next_due(|_| false), None);
        retries.succeeded('c');
        assert_eq!((retries.times('b'), retries.due('b')), (100, Some(after(350))));
        assert_eq!((retries.times('c'), retries.due('c')), (0, None));
        retries.succeeded('a');
        assert!(retries.is_due('a', now));
        retries.retain(|key| key != 'b');
        assert_eq!(retries.next_due(|_| true), None);
    }
}
