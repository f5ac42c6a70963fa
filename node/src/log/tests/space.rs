//! Space comes back, and what must outlive its segment does.

use super::*;

/// A kilobyte.
fn large(term: u64, index: u64) -> Entry {
    Entry { payload: vec![index as u8; 1000].into(), ..entry(term, index) }
}

fn small_segments() -> Bench {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 20_000;
    bench.config.tail_bytes = 0;
    bench
}

async fn fill(group: &GroupLog, range: Range<u64>) {
    for index in range {
        append(group, vec![large(1, index)]).await.unwrap();
    }
}

#[tokio::test]
async fn space_comes_back_after_a_group_is_removed() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
    for index in 0..100 {
        append(&stays, vec![entry(1, index)]).await.unwrap();
        append(&goes, vec![large(1, index)]).await.unwrap();
    }
    assert!(bench.bytes() > 100_000);
    log.remove(GroupId(2)).await.unwrap();
    until(|| bench.bytes() < 40_000).await;
    assert_eq!(read_all(&stays).await, entries(1, 0..100));
    drop((stays, goes, log));
    for seed in 0..3 {
        bench.lose_power(seed).await;
        let log = bench.open().await;
        assert_eq!(log.groups(), [GroupId(1)]);
        assert_eq!(read_all(&log.group(GroupId(1))).await, entries(1, 0..100));
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_small_group_alone_gives_its_space_back_without_more_writes() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    fill(&log.group(GroupId(2)), 0..100).await;
    assert_eq!(bench.segments().len(), 1);
    log.remove(GroupId(2)).await.unwrap();
    until(|| bench.bytes() == 0).await;
    drop(log);
    bench.lose_power(1).await;
    let log = bench.open().await;
    assert_eq!(log.groups(), []);
    append(&log.group(GroupId(3)), entries(1, 0..2)).await.unwrap();
    bench.reopen().await;
    bench.stop().await;
}

#[tokio::test]
async fn purged_entries_give_their_space_back() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let group = log.group(GroupId(1));
    fill(&group, 0..100).await;
    group.purge(id(1, 89)).await.unwrap();
    until(|| bench.bytes() < 40_000).await;
    let expected: Vec<Entry> = (90..100).map(|index| large(1, index)).collect();
    assert_eq!(read_all(&group).await, expected);
    let state = group.state();
    drop((log, group));
    bench.lose_power(3).await;
    let group = bench.open().await.group(GroupId(1));
    assert_eq!((group.state(), read_all(&group).await), (state, expected));
    bench.stop().await;
}

#[tokio::test]
async fn an_idle_group_keeps_its_marks_when_the_segments_of_their_time_go() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (idle, busy) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&idle, entries(1, 0..5)).await.unwrap();
    idle.checkpoint(id(1, 4), Bytes::from_static(b"machine")).await.unwrap();
    idle.save_committed(Some(id(1, 4)));
    idle.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    idle.purge(id(1, 4)).await.unwrap();
    let state = idle.state();
    for round in 0..4 {
        fill(&busy, round * 100..round * 100 + 100).await;
        busy.purge(id(1, round * 100 + 95)).await.unwrap();
        until(|| bench.bytes() < 60_000).await;
    }
    until(|| !bench.segments().contains(&"0000000001.seg".to_owned())).await;
    assert_eq!(idle.state(), state);
    drop((log, idle, busy));
    bench.lose_power(9).await;
    let log = bench.open().await;
    assert_eq!(log.group(GroupId(1)).state(), state);
    assert_eq!(log.group(GroupId(2)).state().purged, Some(id(1, 395)));
    bench.stop().await;
}

#[tokio::test]
async fn an_idle_group_keeps_its_marks_when_its_segment_is_rewritten() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (idle, busy) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&idle, entries(1, 0..5)).await.unwrap();
    idle.checkpoint(id(1, 3), Bytes::from_static(b"machine")).await.unwrap();
    idle.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    let state = idle.state();
    fill(&busy, 0..60).await;
    let before = bench.content("0000000001.seg").await.len();
    busy.purge(id(1, 55)).await.unwrap();
    let first = bench.config.dir.join("0000000001.seg");
    let disk = Arc::clone(&bench.disk);
    until(|| {
        let file = disk.open(&first, Open::Existing).unwrap();
        (file.len().unwrap() as usize) < before / 2
    })
    .await;
    assert_eq!((idle.state(), read_all(&idle).await), (state.clone(), entries(1, 0..5)));
    drop((log, idle, busy));
    bench.lose_power(9).await;
    let idle = bench.open().await.group(GroupId(1));
    assert_eq!((idle.state(), read_all(&idle).await), (state, entries(1, 0..5)));
    bench.stop().await;
}

#[tokio::test]
async fn a_truncation_outlives_the_entries_it_removed() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (group, other) = (log.group(GroupId(1)), log.group(GroupId(2)));
    // Segment 1: entries to be truncated, among much that stays, so that it is never rewritten.
    append(&group, entries(1, 0..10)).await.unwrap();
    fill(&other, 0..18).await;
    // Segment 2: the truncation, among much that goes, so that it is rewritten.
    fill(&other, 18..20).await;
    group.truncate_after(Some(4)).await.unwrap();
    let doomed = log.group(GroupId(3));
    fill(&doomed, 0..40).await;
    append(&group, entries(2, 5..6)).await.unwrap();
    group.purge(id(2, 5)).await.unwrap();
    log.remove(GroupId(3)).await.unwrap();
    until(|| bench.bytes() < 40_000).await;
    let state = group.state();
    assert_eq!(state.last, Some(id(2, 5)));
    drop((log, group, other, doomed));
    bench.lose_power(2).await;
    let log = bench.open().await;
    assert_eq!(log.group(GroupId(1)).state(), state);
    assert_eq!(read_all(&log.group(GroupId(1))).await, []);
    assert_eq!(log.groups(), [GroupId(1), GroupId(2)]);
    bench.stop().await;
}

#[tokio::test]
async fn damage_met_by_the_keeper_leaves_the_segment_alone() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&stays, entries(1, 0..3)).await.unwrap();
    fill(&goes, 0..60).await;
    let place = log.shared.state.lock().groups[&GroupId(1)].slot(1).unwrap().place.unwrap();
    let path = bench.config.dir.join("0000000001.seg");
    bench.simulated.as_ref().unwrap().flip_bit(&path, place.offset + 50, 1).unwrap();
    let damaged = bench.content("0000000001.seg").await;
    log.remove(GroupId(2)).await.unwrap();
    until(|| bench.bytes() < 40_000).await;
    assert_eq!(bench.content("0000000001.seg").await, damaged);
    assert!(log.shared.state.lock().segments[&1].damaged);
    assert_eq!(stays.read(0..1, 1).await.unwrap(), entries(1, 0..1));
    assert!(stays.read(1..2, 1).await.is_err());
    bench.stop().await;
}

#[tokio::test]
async fn no_room_for_a_copy_is_no_failure() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let group = log.group(GroupId(1));
    fill(&group, 0..100).await;
    append(&log.group(GroupId(2)), entries(1, 0..3)).await.unwrap();
    let disk = bench.simulated.clone().unwrap();
    disk.set_capacity(bench.bytes() + 200);
    group.purge(id(1, 98)).await.unwrap();
    // Whole segments go without room, and make room for the rest.
    until(|| bench.bytes() < 40_000).await;
    disk.set_capacity(1 << 30);
    append(&group, vec![large(1, 100)]).await.unwrap();
    assert_eq!(group.read(99..101, usize::MAX).await.unwrap(), [large(1, 99), large(1, 100)]);
    bench.stop().await;
}

#[tokio::test]
async fn nothing_is_dropped_before_what_made_it_useless_is_durable() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    let (group, other) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&other, vec![large(1, 0)]).await.unwrap();
    fill(&group, 0..30).await;
    let plan = || keeper::plan(&log.shared.state.lock(), 0, bench.config.segment_bytes);
    assert_eq!(plan(), None);
    disk.hold_syncs();
    let mut purge = Box::pin(group.purge(id(1, 29)));
    assert!(futures::poll!(&mut purge).is_pending());
    assert_eq!(group.state().last, Some(id(1, 29)));
    assert_eq!(plan(), None);
    assert!(keeper::copy(&log.shared, 1).await.unwrap().is_none());
    disk.release_syncs();
    within(purge).await.unwrap();
    until(|| bench.bytes() < 20_000).await;
    assert_eq!(read_all(&other).await, [large(1, 0)]);
    bench.lose_power(4).await;
    let log = bench.open().await;
    assert_eq!(log.group(GroupId(1)).state().last, Some(id(1, 29)));
    bench.stop().await;
}
