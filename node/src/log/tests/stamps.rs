//! Finding entries by their stamps, in memory and in sealed segments.

use super::*;

const GROUP: GroupId = GroupId(7);

fn stamped(index: u64, stamp_ms: u64, bytes: usize) -> Entry {
    Entry { stamp_ms, payload: vec![index as u8; bytes].into(), ..entry(1, index) }
}

async fn check(log: &Log, stamps: &[u64], purged: usize) {
    let group = log.group(GROUP);
    let last = stamps.iter().max().copied().unwrap();
    for wanted in 0..=last + 2 {
        let is_young = |stamp: &&u64| **stamp > 0 && **stamp >= wanted;
        let there = stamps[purged..].iter().any(|stamp| is_young(&stamp));
        let found = group.find_stamp(wanted).await.unwrap().map(|index| index as usize);
        assert_eq!(found.is_some(), there, "stamp {wanted}");
        let Some(found) = found else { continue };
        assert!(found >= purged, "stamp {wanted}");
        let older = stamps[purged..found].iter().all(|stamp| *stamp < wanted);
        let first = stamps[found..].iter().find(|stamp| **stamp > 0);
        assert!(older && first.is_some_and(|stamp| *stamp >= wanted), "stamp {wanted}: {found}");
    }
}

#[tokio::test]
async fn the_first_entry_with_a_stamp_as_young_is_found_wherever_it_lies() {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 40_000;
    bench.config.tail_bytes = 0;
    let log = bench.open().await;
    let group = log.group(GROUP);
    assert_eq!(group.find_stamp(0).await.unwrap(), None);
    // Repeated ones, gaps, and entries without.
    let stamps: Vec<u64> =
        (0..90u64).map(|index| if index % 7 == 3 { 0 } else { 5 + index / 3 * 4 }).collect();
    for (index, stamp) in stamps.iter().enumerate() {
        append(&group, vec![stamped(index as u64, *stamp, 900)]).await.unwrap();
    }
    sealed(&log).await;
    assert!(log.shared.state.lock().groups[&GROUP].runs().count() > 3);
    check(&log, &stamps, 0).await;
    group.purge(id(1, 40)).await.unwrap();
    check(&log, &stamps, 41).await;
    let log = bench.reopen().await;
    check(&log, &stamps, 41).await;
    log.group(GROUP).truncate_after(Some(70)).await.unwrap();
    check(&log, &stamps[..71], 41).await;
    bench.stop().await;
}

#[tokio::test]
async fn stamps_are_given_back_as_they_came() {
    let mut bench = Bench::simulated();
    bench.config.tail_bytes = 0;
    let log = bench.open().await;
    append(&log.group(GROUP), vec![stamped(0, 77, 10), stamped(1, 0, 10)]).await.unwrap();
    let log = bench.reopen().await;
    let read = read_all(&log.group(GROUP)).await;
    assert_eq!(read.iter().map(|entry| entry.stamp_ms).collect::<Vec<_>>(), [77, 0]);
    bench.stop().await;
}
