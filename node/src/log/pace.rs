//! Keeps background work to a rate.
//!
//! Invariant: over any long time no more bytes than the rate allows. Must not know what the work is.

use std::time::Duration;

use tokio::time::Instant;

/// A rate, and how far ahead of it the work is.
pub(super) struct Pace {
    bytes_per_second: u64,
    free_at: Instant,
}

impl Pace {
    /// A rate above 0.
    pub(super) fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second: bytes_per_second.max(1), free_at: Instant::now() }
    }

    /// Waits as long as so many bytes take at this rate.
    pub(super) async fn spend(&mut self, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        // Time that was not used is lost: no bursts.
        self.free_at = self.free_at.max(Instant::now()) + Duration::from_nanos(nanos);
        tokio::time::sleep_until(self.free_at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keeps_to_the_rate() {
        let began = Instant::now();
        let mut pace = Pace::new(1000);
        for _ in 0..20 {
            pace.spend(100).await;
        }
        assert_eq!(began.elapsed().as_millis(), 2000);
    }
}
