//! Whether a clock may say that records have expired. Pure.
//!
//! A leader whose clock is ahead would lose records before their time, so a majority must agree with
//! it. One whose clock is behind its own newest stamp is wrong, or those before it were: it waits.

use std::time::Duration;

use tristream_proto::domain::Timestamp;

use crate::router::ClockSample;
use crate::shard::Retained;

/// Clocks may be this part of the retention apart ...
const APART_PART: u32 = 8;
/// ... but no further than this, ...
const APART_MAX: Duration = Duration::from_secs(60);
/// ... and at least this, for the answers take their time.
const APART_MIN: Duration = Duration::from_secs(2);

/// How far clocks may be apart where records are kept this long.
fn bound(kept: Duration) -> Duration {
    (kept / APART_PART).clamp(APART_MIN, APART_MAX)
}

/// Whether records of a shard may expire at `now`: more than half of the `nodes`, this one among them,
/// agree with it, and it is not behind the shard's newest stamp.
pub(super) fn agree(
    others: &[ClockSample],
    nodes: usize,
    retained: &Retained,
    kept: Duration,
    now: Timestamp,
) -> bool {
    let bound = bound(kept).as_millis() as u64;
    let agreeing = 1 + others.iter().filter(|sample| sample.apart_ms_max <= bound).count();
    let newest = retained.newest.map_or(0, |(_, arrival)| arrival.0);
    agreeing > nodes / 2 && newest <= now.0.saturating_add(bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::NodeId;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn agrees(apart: &[u64], newest: u64, kept: Duration) -> bool {
        let sample = |&apart_ms_max: &u64| ClockSample { node: NodeId(2), apart_ms_max };
        let others: Vec<_> = apart.iter().map(sample).collect();
        let newest = Some((3, Timestamp(newest)));
        agree(&others, 3, &Retained { newest, ..Retained::default() }, kept, NOW)
    }

    #[test]
    fn a_majority_must_agree_with_the_leader() {
        assert!(agrees(&[0, 0], NOW.0, DAY));
        assert!(agrees(&[60_000, 3_600_000], NOW.0, DAY), "one is wrong, or does not matter");
        assert!(agrees(&[5], NOW.0, DAY), "one is away");
        assert!(!agrees(&[60_001, 60_001], NOW.0, DAY), "this one may be the wrong one");
        assert!(!agrees(&[], NOW.0, DAY), "nobody to ask");
    }

    #[test]
    fn a_leader_behind_its_newest_stamp_waits() {
        assert!(agrees(&[0, 0], NOW.0 + 60_000, DAY));
        assert!(!agrees(&[0, 0], NOW.0 + 60_001, DAY));
    }

    #[test]
    fn short_retentions_need_better_clocks_but_no_impossible_ones() {
        let kept = Duration::from_secs(80);
        assert!(agrees(&[10_000, 99_999], NOW.0, kept));
        assert!(!agrees(&[10_001, 99_999], NOW.0, kept));
        assert!(agrees(&[2_000, 99_999], NOW.0, Duration::from_secs(1)));
        assert!(!agrees(&[2_001, 99_999], NOW.0, Duration::from_secs(1)));
    }
}
