//! How fast a file is filled with zeros: as fast as the log will need it, and no faster. Pure.
//!
//! Every node of a small installation may share one disk, and what is filled at full speed makes each
//! commit wait. Filling is asked for when half a segment is left to write (`Pool::prepare`), so twice
//! the log's own speed is what gets the next one ready in time.

use std::time::Duration;

/// Times the log's own bytes: a whole file while half a segment is written.
const TIMES_LOG: u64 = 2;
/// Zeros per second for a log that writes little.
const BYTES_PER_SECOND_MIN: u64 = 8 << 20;
/// And at most: a log that writes faster takes what was given, or files that grow, whose journal
/// commits weigh little beside that much data.
const BYTES_PER_SECOND_MAX: u64 = 64 << 20;

/// How long to wait after a piece of `piece` bytes, when the log wrote `log_bytes` in the time `took`
/// since the piece before.
pub(super) fn pause(piece: u64, log_bytes: u64, took: Duration) -> Duration {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let log_rate = log_bytes.saturating_mul(1_000_000) / took_us;
    let rate = log_rate.saturating_mul(TIMES_LOG).clamp(BYTES_PER_SECOND_MIN, BYTES_PER_SECOND_MAX);
    Duration::from_micros(piece * 1_000_000 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn zeros_are_twice_as_fast_as_the_log_within_bounds() {
        let pause = |log_bytes, ms| pause(MIB, log_bytes, Duration::from_millis(ms)).as_millis();
        assert_eq!(pause(0, 0), 125, "8 MiB/s");
        assert_eq!(pause(MIB, 1000), 125, "8 MiB/s are more than twice 1 MiB/s");
        assert_eq!(pause(2 * MIB, 100), 25, "twice 20 MiB/s");
        assert_eq!(pause(900 * MIB, 1000), 15, "64 MiB/s");
        assert_eq!(pause(u64::MAX / 4, 0), 15);
    }
}
