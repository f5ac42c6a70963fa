//! The highest rate within a window, each second's averaged with the four before.
//!
//! Averaged, because whatever stops puts for a moment (a split of this shard or of another one, an
//! election, a slow disk) lets them come at once afterwards: by single seconds, each split made the
//! peaks that asked for the next.
//!
//! Pure. Seconds are counted from the beginning of the observation. Must not know records.

use std::time::Duration;

/// Seconds that are still added to: a put counts in the second in which it came, and is known to
/// be stored within its deadline.
const RECENT_SECONDS: usize = 16;
/// A rate is that of so many seconds.
const MEAN_SECONDS: u64 = 5;
/// The window's parts, of which only the largest second is kept.
const PARTS: u64 = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Of a second or of a part: which.
    number: u64,
    bytes: u64,
    records: u64,
}

#[derive(Debug)]
pub(super) struct Peaks {
    window_seconds: u64,
    part_seconds: u64,
    /// By number modulo length; what stood there before is overwritten.
    recent: [Tally; RECENT_SECONDS],
    parts: Vec<Tally>,
}

impl Peaks {
    pub(super) fn new(window: Duration) -> Peaks {
        let window_seconds = window.as_secs().max(1);
        let part_seconds = window_seconds.div_ceil(PARTS);
        // One more than cover the window: it begins and ends within a part.
        let parts = window_seconds.div_ceil(part_seconds) as usize + 1;
        Peaks {
            window_seconds,
            part_seconds,
            recent: [Tally::default(); RECENT_SECONDS],
            parts: vec![Tally::default(); parts],
        }
    }

    /// Adds to `second`. What is later than any deadline is left out.
    pub(super) fn add(&mut self, second: u64, bytes: u64, records: u64) {
        let Some(tally) = at(&mut self.recent, second) else { return };
        tally.bytes += bytes;
        tally.records += records;
        let averaged = (second + 1).saturating_sub(MEAN_SECONDS)..=second;
        let (bytes, records) = averaged.fold((0, 0), |(bytes, records), second| {
            let tally = &self.recent[place(self.recent.len(), second)];
            match tally.number == second {
                true => (bytes + tally.bytes, records + tally.records),
                false => (bytes, records),
            }
        });
        if let Some(part) = at(&mut self.parts, second / self.part_seconds) {
            part.bytes = part.bytes.max(bytes);
            part.records = part.records.max(records);
        }
    }

    /// Highest bytes and highest records per second, when `second` is the present one.
    pub(super) fn largest(&self, second: u64) -> (u64, u64) {
        // The window is the present second and those before it.
        let oldest = (second + 1).saturating_sub(self.window_seconds) / self.part_seconds;
        let parts = self.parts.iter().filter(|part| part.number >= oldest);
        let (bytes, records) = parts.fold((0, 0), |(bytes, records), part| {
            (bytes.max(part.bytes), records.max(part.records))
        });
        (bytes / MEAN_SECONDS, records / MEAN_SECONDS)
    }
}

/// The place of `number`, cleared when it held an older one; `None` when it holds a newer one.
fn at(ring: &mut [Tally], number: u64) -> Option<&mut Tally> {
    let place = place(ring.len(), number);
    let tally = &mut ring[place];
    if tally.number < number {
        *tally = Tally { number, ..Tally::default() };
    }
    (tally.number == number).then_some(tally)
}

fn place(length: usize, number: u64) -> usize {
    (number % length as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peaks(window: u64) -> Peaks {
        Peaks::new(Duration::from_secs(window))
    }

    #[test]
    fn the_highest_rate_stands_until_the_window_has_passed() {
        let mut peaks = peaks(60);
        peaks.add(20, 700, 1);
        peaks.add(20, 300, 4);
        peaks.add(40, 10, 10);
        assert_eq!(peaks.largest(41), (200, 2));
        assert_eq!(peaks.largest(79), (200, 2), "second 20 is the oldest of the window");
        assert_eq!(peaks.largest(80), (2, 2));
        assert_eq!(peaks.largest(100), (0, 0));
    }

    #[test]
    fn what_was_held_up_and_comes_at_once_is_no_peak() {
        let mut peaks = peaks(60);
        for second in 10..30 {
            peaks.add(second, if second == 20 { 0 } else { 1000 }, 1);
            // What the stop of a second held back.
            peaks.add(second, if second == 21 { 1000 } else { 0 }, 0);
        }
        assert_eq!(peaks.largest(30), (1000, 1));
        // But a second five times as high is one of twice as much.
        peaks.add(30, 6000, 1);
        assert_eq!(peaks.largest(30).0, 2000);
    }

    #[test]
    fn a_long_window_is_kept_in_parts_and_errs_by_less_than_one() {
        let mut peaks = peaks(600);
        for second in 0..10_000 {
            peaks.add(second, if second == 5_000 { 99 } else { 10 }, 5);
        }
        // Parts have 10 s.
        assert_eq!(peaks.parts.len(), 61);
        assert_eq!(peaks.largest(9_999), (10, 5));
        let mut peaks = Peaks::new(Duration::from_secs(600));
        peaks.add(5_003, 500, 1);
        assert_eq!(peaks.largest(5_003 + 599).0, 100, "within the window");
        assert_eq!(peaks.largest(5_003 + 600 + 9).0, 0, "a part later it is gone");
    }

    #[test]
    fn what_is_stored_late_counts_in_the_second_in_which_it_came() {
        let mut peaks = peaks(60);
        for second in [10, 15] {
            peaks.add(second, 100, 1);
        }
        peaks.add(10, 150, 4);
        assert_eq!(peaks.largest(15), (50, 1));
        // Its second's place was given away long ago.
        peaks.add(10 + RECENT_SECONDS as u64, 1, 1);
        peaks.add(10, 5000, 1);
        assert_eq!(peaks.largest(27), (50, 1));
    }
}
