//! Pages and seeks over logs written out by hand.

use bytes::Bytes;
use proptest::prelude::*;
use tristream_proto::domain::{Batch, NodeId};

use super::*;
use crate::log::EntryId;
use crate::shard::testing::{records, shard};

/// A log in memory, and how many of its entries one read gives at most.
struct Script {
    entries: Vec<Entry>,
    per_read: usize,
}

impl Entries for Script {
    async fn read(&self, from: u64, _bytes_max: usize) -> io::Result<Vec<Entry>> {
        let from = (from as usize).min(self.entries.len());
        Ok(self.entries[from..].iter().take(self.per_read).cloned().collect())
    }

    // As early as it may be.
    async fn find(&self, time: Timestamp) -> io::Result<Option<u64>> {
        let stamp = |entry: &Entry| command::stamp_ms(&entry.payload);
        let young = |entry: &Entry| stamp(entry) > 0 && stamp(entry) >= time.0;
        let Some(found) = self.entries.iter().position(young) else { return Ok(None) };
        let before = self.entries[..found].iter().rposition(|entry| stamp(entry) > 0);
        Ok(Some(before.map_or(0, |before| before as u64 + 1)))
    }
}

/// A log whose beginning is gone.
struct Purged {
    script: Script,
    kept_from: u64,
}

impl Entries for Purged {
    async fn read(&self, from: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if from < self.kept_from {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.script.read(from, bytes_max).await
    }

    async fn find(&self, time: Timestamp) -> io::Result<Option<u64>> {
        self.script.find(time).await
    }
}

/// `None` is an entry without records, `Some((arrival, keys))` an append.
fn log(script: &[Option<(u64, &[&str])>]) -> Script {
    let entry = |(index, what): (usize, &Option<(u64, &[&str])>)| {
        let id = EntryId { term: 1, node: NodeId(1), index: index as u64 };
        match what {
            None => Entry { id, kind: EntryKind::Blank, stamp_ms: 0, payload: Bytes::new() },
            Some((arrival, keys)) => {
                let batch = Batch { arrival: Timestamp(*arrival), records: records(keys) };
                Entry {
                    id,
                    kind: EntryKind::Command,
                    stamp_ms: 0,
                    payload: command::append(&batch),
                }
            }
        }
    };
    Script { entries: script.iter().enumerate().map(entry).collect(), per_read: 2 }
}

fn sample() -> Script {
    log(&[
        None,
        Some((1_000, &["a", "b"])),
        None,
        None,
        Some((1_000, &["c"])),
        Some((2_500, &["d", "e"])),
        None,
    ])
}

fn keys(page: &Page) -> Vec<&str> {
    page.records.iter().map(|record| record.partition_key.as_str()).collect()
}

fn at(index: u64, position: u32) -> RecordPosition {
    RecordPosition { index, position }
}

/// All that is applied, of a shard without parents.
fn upto(applied: Option<u64>) -> Extent {
    Extent {
        first: shard().starting_sequence_number(),
        begin: Some(0),
        kept_from: 0,
        applied,
        seal: None,
    }
}

async fn read(log: &Script, applied: u64, from: RecordPosition, count: usize) -> Page {
    page(log, &upto(Some(applied)), from, count, usize::MAX).await.expect("readable")
}

#[tokio::test]
async fn a_page_holds_all_there_is_and_ends_at_the_tip() {
    let page = read(&sample(), 6, at(0, 0), 100).await;
    assert_eq!(keys(&page), ["a", "b", "c", "d", "e"]);
    assert_eq!((page.next, page.at_tip), (at(7, 0), true));
    let numbers: Vec<_> = page.records.iter().map(|record| record.sequence_number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let places: Vec<_> = numbers.iter().map(|number| number.position()).collect();
    assert_eq!(places, [at(1, 0), at(1, 1), at(4, 0), at(5, 0), at(5, 1)]);
    assert_eq!(numbers[4].record_second, 2);
    assert_eq!(numbers[4].shard, shard().id);
    assert_eq!(numbers[4].creation_second, shard().creation_second);
}

#[tokio::test]
async fn a_page_stops_before_what_is_not_applied() {
    // The log gives more than is known to be applied only when it grew meanwhile; the tip is judged
    // by what was known.
    let log = Script { per_read: 1, ..sample() };
    let page = read(&log, 1, at(0, 0), 100).await;
    assert_eq!((keys(&page), page.next, page.at_tip), (vec!["a", "b"], at(2, 0), true));
}

#[tokio::test]
async fn a_page_is_cut_within_an_entry_and_goes_on_there() {
    let log = sample();
    let page = read(&log, 6, at(1, 1), 3).await;
    assert_eq!((keys(&page), page.next, page.at_tip), (vec!["b", "c", "d"], at(5, 1), false));
    let page = read(&log, 6, page.next, 3).await;
    assert_eq!((keys(&page), page.next, page.at_tip), (vec!["e"], at(7, 0), true));
}

#[tokio::test]
async fn bytes_bound_a_page_but_never_below_one_record() {
    // Each record counts two bytes: one of key, one of data.
    for (bytes_max, expected) in [(0, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
        let page = page(&sample(), &upto(Some(6)), at(0, 0), 100, bytes_max).await;
        assert_eq!(page.map(|page| page.records.len()), Ok(expected), "{bytes_max}");
    }
}

#[tokio::test]
async fn positions_from_outside_may_be_anything() {
    let log = sample();
    let past_the_entry = read(&log, 6, at(1, 1_000_000), 1).await;
    assert_eq!(keys(&past_the_entry), ["c"]);
    for beyond in [at(7, 0), at(7, 5), at(u64::MAX >> 20, u32::MAX)] {
        let page = read(&log, 6, beyond, 10).await;
        assert_eq!((page.records.len(), page.next, page.at_tip), (0, beyond, true));
    }
    let page = page(&log, &upto(None), at(0, 0), 10, 10).await.expect("an empty log");
    assert_eq!((page.next, page.at_tip), (at(0, 0), true));
}

#[tokio::test]
async fn damage_is_told_and_not_skipped() {
    let mut unknown = sample();
    unknown.entries[4].payload = Bytes::from_static(&[7, 7]);
    let mut hole = sample();
    hole.entries.remove(2);
    let mut short = sample();
    short.entries.truncate(3);
    for log in [unknown, hole, short] {
        let page = page(&log, &upto(Some(6)), at(0, 0), 10, 100).await;
        assert!(matches!(page, Err(ReadError::Damaged(_))), "{page:?}");
    }
}

#[tokio::test]
async fn times_lead_to_the_first_record_not_older() {
    let log = sample();
    for (time, expected) in [(0, 1), (1_000, 1), (1_001, 5), (2_500, 5), (2_501, 7)] {
        let found = seek_time(&log, &upto(Some(6)), Timestamp(time)).await;
        assert_eq!(found, Ok(at(expected, 0)), "{time}");
    }
    assert_eq!(seek_time(&log, &upto(None), Timestamp(0)).await, Ok(at(0, 0)));
    assert_eq!(seek_time(&log, &upto(Some(3)), Timestamp(2_500)).await, Ok(at(4, 0)));
}

/// An inherit and an opening at 2, records at 4 and 6, a seal at 7; what lies at 1 and 9 was never
/// stored.
fn childhood() -> (Script, Extent) {
    let mut log = log(&[
        None,
        Some((1_000, &["early"])),
        None,
        None,
        Some((2_000, &["a", "b"])),
        None,
        Some((3_000, &["c"])),
        None,
        None,
        Some((4_000, &["late"])),
    ]);
    let inherit = command::inherit(&[], None).expect("it fits");
    for (index, payload) in [(2, inherit), (7, command::seal(Timestamp(3_500)))] {
        log.entries[index].kind = EntryKind::Command;
        log.entries[index].payload = payload;
    }
    let first = SequenceNumber::start_of(shard().id, 77);
    (log, Extent { first, begin: Some(2), kept_from: 0, applied: Some(9), seal: Some(7) })
}

#[tokio::test]
async fn a_page_shows_what_lies_between_the_opening_and_the_seal() {
    let (log, extent) = childhood();
    let whole = page(&log, &extent, at(0, 0), 100, usize::MAX).await.expect("readable");
    assert_eq!(keys(&whole), ["a", "b", "c"]);
    assert!(whole.records.iter().all(|r| r.sequence_number.creation_second == 77));
    assert_eq!((whole.next, whole.at_tip, whole.at_end), (at(7, 0), true, true));
    let cut = page(&log, &extent, at(0, 0), 3, usize::MAX).await.expect("readable");
    assert!(cut.at_end, "nothing follows the third record");
    let cut = page(&log, &extent, at(0, 0), 2, usize::MAX).await.expect("readable");
    assert_eq!((cut.at_tip, cut.at_end), (false, false));
    for from in [at(7, 0), at(8, 0), at(1 << 40, 3)] {
        let behind = page(&log, &extent, from, 100, usize::MAX).await.expect("readable");
        let shown = (behind.records.len(), behind.next, behind.at_tip, behind.at_end);
        assert_eq!(shown, (0, from, true, true));
    }
}

#[tokio::test]
async fn below_the_horizon_nothing_is_read_and_readers_go_on_at_it() {
    let whole = sample();
    let extent = |kept_from| Extent { kept_from, ..upto(Some(6)) };
    // A log that would fail where it was purged.
    let purged = |kept_from: u64| Purged { script: sample(), kept_from };
    let shown: [(u64, &[&str]); 4] =
        [(1, &["a", "b", "c", "d", "e"]), (2, &["c", "d", "e"]), (5, &["d", "e"]), (6, &[])];
    for (kept_from, expected) in shown {
        for from in [at(0, 0), at(1, 1)].into_iter().filter(|from| from.index < kept_from) {
            let (log, extent) = (purged(kept_from), extent(kept_from));
            let page = page(&log, &extent, from, 100, usize::MAX).await.expect("readable");
            assert_eq!((keys(&page), page.at_tip), (expected.to_vec(), true), "{kept_from}");
        }
        let (log, extent) = (purged(kept_from), extent(kept_from));
        let found = seek_time(&log, &extent, Timestamp(0)).await.expect("readable");
        let first = oldest(&log, &extent).await.expect("readable");
        assert_eq!(first.map(|(index, _)| index), (!expected.is_empty()).then_some(found.index));
        assert!(found.index >= kept_from);
    }
    let page = page(&purged(7), &extent(7), at(0, 0), 100, usize::MAX).await.expect("readable");
    assert_eq!((page.records.len(), page.next, page.at_tip), (0, at(7, 0), true));
    assert_eq!(oldest(&whole, &extent(1)).await, Ok(Some((1, Timestamp(1_000)))));
}

#[tokio::test]
async fn the_end_is_told_only_by_a_replica_that_has_reached_it() {
    let (log, extent) = childhood();
    // The machine may be ahead of what is announced as applied.
    let extent = Extent { applied: Some(5), ..extent };
    let page = page(&log, &extent, at(0, 0), 100, usize::MAX).await.expect("readable");
    assert_eq!((keys(&page), page.at_tip, page.at_end), (vec!["a", "b"], true, false));
}

#[tokio::test]
async fn before_its_opening_a_child_shows_nothing() {
    let (log, extent) = childhood();
    let extent = Extent { begin: None, applied: Some(1), seal: None, ..extent };
    let page = page(&log, &extent, at(0, 0), 100, usize::MAX).await.expect("readable");
    assert_eq!((page.records.len(), page.next, page.at_end), (0, at(2, 0), false));
    assert_eq!(seek_time(&log, &extent, Timestamp(0)).await, Ok(at(2, 0)));
}

#[tokio::test]
async fn times_lead_to_what_was_stored_and_to_the_seal() {
    let (log, extent) = childhood();
    for (time, expected) in [(0, 4), (1_000, 4), (2_001, 6), (3_001, 7), (4_000, 7)] {
        let found = seek_time(&log, &extent, Timestamp(time)).await;
        assert_eq!(found, Ok(at(expected, 0)), "{time}");
    }
}

proptest! {
    #[test]
    fn the_search_by_time_agrees_with_a_scan(
        steps in proptest::collection::vec(proptest::option::of(0u64..5), 0..40),
        time in 0u64..80,
        per_read in 1usize..4,
    ) {
        let mut now = 0;
        let script: Vec<Option<(u64, &[&str])>> = steps
            .iter()
            .map(|step| step.map(|later| { now += later; (now, &["k"][..]) }))
            .collect();
        let scan = script.iter().position(|entry| entry.is_some_and(|(t, _)| t >= time));
        let log = Script { per_read, ..log(&script) };
        let applied = (script.len() as u64).checked_sub(1);
        let found = futures::executor::block_on(seek_time(&log, &upto(applied), Timestamp(time)));
        let expected = scan.unwrap_or(script.len()) as u64;
        prop_assert_eq!(found, Ok(at(expected, 0)));
    }

    #[test]
    fn pages_one_after_the_other_show_every_record_once(
        sizes in proptest::collection::vec(0usize..4, 1..20),
        count_max in 1usize..6,
    ) {
        let names = ["w", "x", "y", "z"];
        let script: Vec<Option<(u64, &[&str])>> =
            sizes.iter().map(|&n| (n > 0).then(|| (1, &names[..n]))).collect();
        let log = log(&script);
        let extent = upto(Some(script.len() as u64 - 1));
        let (mut from, mut seen) = (at(0, 0), vec![]);
        loop {
            let page = page(&log, &extent, from, count_max, usize::MAX);
            let page = futures::executor::block_on(page).expect("readable");
            prop_assert!(page.records.len() <= count_max);
            seen.extend(page.records.iter().map(|r| r.sequence_number.position()));
            if page.at_tip {
                break;
            }
            prop_assert!(page.next > from);
            from = page.next;
        }
        let all: Vec<_> = (0u64..)
            .zip(&sizes)
            .flat_map(|(index, &n)| (0..n as u32).map(move |position| at(index, position)))
            .collect();
        prop_assert_eq!(seen, all);
    }
}
