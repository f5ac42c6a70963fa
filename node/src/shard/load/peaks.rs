//! The largest second within a window.
//!
//! Pure. Seconds are counted from the beginning of the observation. Must not know records.

use std::time::Duration;

/// Seconds that are still added to: a put counts in the second in which it came, and is known to
/// be stored within its deadline.
const RECENT_SECONDS: usize = 16;
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
        let (bytes, records) = (tally.bytes, tally.records);
        if let Some(part) = at(&mut self.parts, second / self.part_seconds) {
            part.bytes = part.bytes.max(bytes);
            part.records = part.records.max(records);
        }
    }

    /// Largest bytes and largest records of a second, when `second` is the present one.
    pub(super) fn largest(&self, second: u64) -> (u64, u64) {
        // The window is the present second and those before it.
        let oldest = (second + 1).saturating_sub(self.window_seconds) / self.part_seconds;
        let parts = self.parts.iter().filter(|part| part.number >= oldest);
        parts.fold((0, 0), |(bytes, records), part| {
            (bytes.max(part.bytes), records.max(part.records))
        })
    }
}

/// The place of `number`, cleared when it held an older one; `None` when it holds a newer one.
fn at(ring: &mut [Tally], number: u64) -> Option<&mut Tally> {
    let tally = &mut ring[(number % ring.len() as u64) as usize];
    if tally.number < number {
        *tally = Tally { number, ..Tally::default() };
    }
    (tally.number == number).then_some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peaks(window: u64) -> Peaks {
        Peaks::new(Duration::from_secs(window))
    }

    #[test]
    fn the_largest_second_stands_until_the_window_has_passed() {
        let mut peaks = peaks(60);
        peaks.add(5, 700, 1);
        peaks.add(5, 300, 2);
        peaks.add(6, 10, 9);
        assert_eq!(peaks.largest(6), (1000, 9));
        assert_eq!(peaks.largest(64), (1000, 9), "second 5 is the oldest of the window");
        assert_eq!(peaks.largest(65), (10, 9));
        assert_eq!(peaks.largest(66), (0, 0));
    }

    #[test]
    fn a_long_window_is_kept_in_parts_and_errs_by_less_than_one() {
        let mut peaks = peaks(600);
        for second in 0..10_000 {
            peaks.add(second, if second == 5_000 { 99 } else { 10 }, 1);
        }
        // Parts have 10 s.
        assert_eq!(peaks.parts.len(), 61);
        assert_eq!(peaks.largest(9_999), (10, 1));
        let mut peaks = Peaks::new(Duration::from_secs(600));
        peaks.add(5_003, 99, 1);
        assert_eq!(peaks.largest(5_003 + 599).0, 99, "within the window");
        assert_eq!(peaks.largest(5_003 + 600 + 9).0, 0, "a part later it is gone");
    }

    #[test]
    fn what_is_stored_late_counts_in_the_second_in_which_it_came() {
        let mut peaks = peaks(60);
        for second in 10..13 {
            peaks.add(second, 100, 1);
        }
        peaks.add(10, 50, 1);
        assert_eq!(peaks.largest(13), (150, 2));
        // Its second's place was given away long ago.
        peaks.add(10 + RECENT_SECONDS as u64, 1, 1);
        peaks.add(10, 500, 1);
        assert_eq!(peaks.largest(13), (150, 2));
    }
}
