//! Space comes back, and what must outlive its segment does.

use super::segment::ALIGN_BYTES;
use super::*;

/// A kilobyte.
fn large(term: u64, index: u64) -> Entry {
    Entry { payload: vec![index as u8; 1000].into(), ..entry(term, index) }
}

/// Room for fourteen blocks.
const SEGMENT: u64 = 64 << 10;
/// The smallest file that a segment can be: header, block, footer, trailer.
const SMALLEST: u64 = 4 * ALIGN_BYTES;

pub(super) fn small_segments() -> Bench {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = SEGMENT;
    bench.config.tail_bytes = 0;
    bench
}

pub(super) async fn fill(group: &GroupLog, range: Range<u64>) {
    // Three have room in one page.
    for first in range.clone().step_by(3) {
        append(group, all(first..range.end.min(first + 3))).await.unwrap();
    }
}

pub(super) fn all(range: Range<u64>) -> Vec<Entry> {
    range.map(|index| large(1, index)).collect()
}

/// Whether nothing of `group` is in any sealed segment.
async fn is_gone(log: &Log, group: GroupId) -> bool {
    let known: Vec<_> = {
        let state = log.shared.state.lock();
        let known = state.segments.values();
        known.filter_map(|known| Some((known.header, known.trailer()?))).collect()
    };
    for (header, trailer) in known {
        let Ok(file) = log.shared.files.get(header.sequence) else { continue };
        let directory = trailer.read_directory(&*file, &header).await.unwrap().unwrap();
        if directory.parts.get(&group).is_some_and(|part| part.count > 0) {
            return false;
        }
    }
    true
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
    let before = bench.bytes();
    assert!(before > 5 * SEGMENT, "{before}");
    log.remove(GroupId(2)).await.unwrap();
    until(|| bench.bytes() < before / 2).await;
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

#[tokio::test(start_paused = true)]
async fn nothing_is_copied_where_votes_would_then_have_no_room() {
    let mut bench = small_segments();
    // The keeper leaves all as it is.
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    fill(&log.group(GroupId(1)), 0..60).await;
    sealed(&log).await;
    until(|| log.shared.pool.ready() > 0).await;
    let first = "0000000001.seg".to_owned();
    let disk = bench.simulated.clone().unwrap();
    disk.set_capacity(1 << 30);
    let used = (1 << 30) - bench.disk.space(&bench.config.dir).unwrap().free_bytes;
    disk.set_capacity(used + 2 * SEGMENT);
    rewrite::rewrite(&log.shared, &[1]).await.unwrap();
    assert!(bench.segments().contains(&first));
    disk.set_capacity(used + 4 * SEGMENT);
    rewrite::rewrite(&log.shared, &[1]).await.unwrap();
    assert!(!bench.segments().contains(&first));
    assert_eq!(read_all(&log.group(GroupId(1))).await, all(0..60));
    bench.stop().await;
}

#[tokio::test]
async fn the_largest_of_ten_interleaved_groups_gives_its_space_back_after_one_pass() {
    let mut bench = small_segments();
    let log = bench.open().await;
    // The first has a quarter of the bytes; each takes its turn. Many entries in each block.
    let index_of = |round: u64, group: u64| match group {
        1 => round * 6..round * 6 + 6,
        _ => round * 2..round * 2 + 2,
    };
    for round in 0..100 {
        for group in 1..=10u64 {
            let entries = index_of(round, group).map(|index| large(1, index)).collect();
            append(&log.group(GroupId(group)), entries).await.unwrap();
        }
    }
    sealed(&log).await;
    let before = bench.bytes();
    log.remove(GroupId(1)).await.unwrap();
    let gone = async {
        while !is_gone(&log, GroupId(1)).await || bench.bytes() > before * 4 / 5 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(gone).await;
    for group in 2..=10 {
        assert_eq!(read_all(&log.group(GroupId(group))).await, all(0..200));
    }
    drop(log);
    bench.lose_power(2).await;
    let log = bench.open().await;
    for group in 2..=10 {
        assert_eq!(read_all(&log.group(GroupId(group))).await, all(0..200));
    }
    bench.stop().await;
}

#[tokio::test]
async fn rewriting_brings_a_groups_entries_together_and_stays_within_its_budget() {
    let mut bench = small_segments();
    let log = bench.open().await;
    for first in (0..399).step_by(3) {
        for group in 1..=6u64 {
            append(&log.group(GroupId(group)), all(first..first + 3)).await.unwrap();
        }
    }
    sealed(&log).await;
    let rewritten = || {
        let state = log.shared.state.lock();
        state.segments.values().filter(|known| known.header.rewritten).count()
    };
    until(|| rewritten() > 2).await;
    let done = Default::default();
    until(|| keeper::plan(&log.shared.state.lock(), &done, &bench.config).is_none()).await;
    let metrics = bench.metrics.encode();
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let user = value("tristream_log_user_bytes_total");
    assert_eq!(user, 6 * 399 * 1000);
    assert!(value("tristream_log_rewritten_bytes_total") < user);
    let (runs, young) = {
        let state = log.shared.state.lock();
        let group = &state.groups[&GroupId(3)];
        (group.runs().filter(|run| run.count > 20).count(), group.young_slots().count())
    };
    assert!(runs > 2 && young < 40, "{runs} long runs, {young} slots");
    for group in 1..=6 {
        assert_eq!(read_all(&log.group(GroupId(group))).await, all(0..399));
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_small_group_alone_gives_its_space_back_without_more_writes() {
    let mut bench = small_segments();
    let log = bench.open().await;
    fill(&log.group(GroupId(2)), 0..20).await;
    assert_eq!(bench.segments().len(), 1);
    log.remove(GroupId(2)).await.unwrap();
    // The segment that says that the first one is gone.
    until(|| bench.segments() == ["0000000002.seg"]).await;
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
    until(|| bench.bytes() < 2 * SEGMENT).await;
    assert_eq!(read_all(&group).await, all(90..100));
    let state = group.state();
    drop((log, group));
    bench.lose_power(3).await;
    let group = bench.open().await.group(GroupId(1));
    assert_eq!((group.state(), read_all(&group).await), (state, all(90..100)));
    bench.stop().await;
}

#[tokio::test]
async fn space_stays_flat_over_many_rounds_of_appending_and_purging() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let mut highest = 0;
    for round in 0..20u64 {
        for group in 1..=3 {
            fill(&log.group(GroupId(group)), round * 40..round * 40 + 40).await;
        }
        for group in 1..=3 {
            log.group(GroupId(group)).purge(id(1, round * 40 + 35)).await.unwrap();
        }
        until(|| bench.bytes() < 4 * SEGMENT).await;
        let names = bench.disk.list(&bench.config.dir).unwrap();
        highest = highest.max(names.len());
    }
    assert!(highest < 24, "{highest} files");
    drop(log);
    bench.lose_power(11).await;
    let log = bench.open().await;
    for group in 1..=3 {
        assert_eq!(read_all(&log.group(GroupId(group))).await, all(796..800));
    }
    bench.stop().await;
}

#[tokio::test]
async fn an_idle_group_keeps_its_marks_and_entries_when_the_segments_of_their_time_go() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (idle, busy, quiet) = (log.group(GroupId(1)), log.group(GroupId(2)), log.group(GroupId(3)));
    append(&idle, entries(1, 0..5)).await.unwrap();
    idle.checkpoint(id(1, 4), Bytes::from_static(b"machine")).await.unwrap();
    idle.save_committed(Some(id(1, 4)));
    idle.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    append(&quiet, entries(1, 0..5)).await.unwrap();
    quiet.checkpoint(id(1, 3), Bytes::from_static(b"quiet machine")).await.unwrap();
    quiet.save_vote(Bytes::from_static(b"quiet vote")).await.unwrap();
    idle.purge(id(1, 4)).await.unwrap();
    let states = (idle.state(), quiet.state());
    for round in 0..4 {
        fill(&busy, round * 100..round * 100 + 100).await;
        busy.purge(id(1, round * 100 + 95)).await.unwrap();
        until(|| bench.bytes() < 3 * SEGMENT).await;
    }
    until(|| !bench.segments().contains(&"0000000001.seg".to_owned())).await;
    assert_eq!((idle.state(), quiet.state()), states);
    drop((log, idle, busy, quiet));
    bench.lose_power(9).await;
    let log = bench.open().await;
    let (idle, quiet) = (log.group(GroupId(1)), log.group(GroupId(3)));
    assert_eq!((idle.state(), quiet.state()), states);
    assert_eq!(read_all(&quiet).await, entries(1, 0..5));
    let machine = idle.read_checkpoint(id(1, 4)).await.unwrap();
    assert_eq!(machine, Some(Bytes::from_static(b"machine")));
    let machine = quiet.read_checkpoint(id(1, 3)).await.unwrap();
    assert_eq!(machine, Some(Bytes::from_static(b"quiet machine")));
    assert_eq!(log.group(GroupId(2)).state().purged, Some(id(1, 395)));
    bench.stop().await;
}

#[tokio::test]
async fn marks_outlive_segments_that_are_given_up_because_nothing_else_counts_there() {
    let mut bench = small_segments();
    // Nothing is rewritten: what outlives is what was carried on.
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    let (idle, busy) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&idle, entries(1, 0..5)).await.unwrap();
    idle.checkpoint(id(1, 4), Bytes::from_static(b"machine")).await.unwrap();
    idle.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    idle.save_committed(Some(id(1, 4)));
    idle.purge(id(1, 4)).await.unwrap();
    let state = idle.state();
    for round in 0..3 {
        fill(&busy, round * 100..round * 100 + 100).await;
        sealed(&log).await;
        let sealed = bench.segments();
        busy.purge(id(1, round * 100 + 99)).await.unwrap();
        // All but the newest.
        until(|| sealed.iter().rev().skip(1).all(|gone| !bench.segments().contains(gone))).await;
        assert_eq!(idle.state(), state);
    }
    drop((log, idle, busy));
    for seed in 0..3 {
        bench.lose_power(seed).await;
        let idle = bench.open().await.group(GroupId(1));
        assert_eq!(idle.state(), state);
        let machine = idle.read_checkpoint(id(1, 4)).await.unwrap();
        assert_eq!(machine, Some(Bytes::from_static(b"machine")));
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_truncation_outlives_the_entries_it_removed() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (group, other) = (log.group(GroupId(1)), log.group(GroupId(2)));
    // Segment 1: entries to be truncated, among much that stays, so that it is never rewritten.
    append(&group, entries(1, 0..10)).await.unwrap();
    fill(&other, 0..39).await;
    // Segment 2: the truncation, among much that goes, so that it is rewritten.
    group.truncate_after(Some(4)).await.unwrap();
    let doomed = log.group(GroupId(3));
    fill(&doomed, 0..40).await;
    append(&group, entries(2, 5..6)).await.unwrap();
    group.purge(id(2, 5)).await.unwrap();
    log.remove(GroupId(3)).await.unwrap();
    until(|| !bench.segments().contains(&"0000000002.seg".to_owned())).await;
    assert!(bench.segments().contains(&"0000000001.seg".to_owned()));
    let state = group.state();
    assert_eq!(state.last, Some(id(2, 5)));
    drop((log, group, other, doomed));
    bench.lose_power(2).await;
    let log = bench.open().await;
    assert_eq!(log.group(GroupId(1)).state(), state);
    assert_eq!(read_all(&log.group(GroupId(1))).await, []);
    assert_eq!(read_all(&log.group(GroupId(2))).await, all(0..39));
    assert_eq!(log.groups(), [GroupId(1), GroupId(2)]);
    bench.stop().await;
}

#[tokio::test]
async fn damage_met_by_the_keeper_leaves_the_segment_alone_until_it_is_repaired() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&stays, entries(1, 0..3)).await.unwrap();
    let place = log.shared.state.lock().groups[&GroupId(1)].place(1).unwrap();
    let path = bench.path("0000000001.seg");
    fill(&goes, 0..60).await;
    sealed(&log).await;
    // One block of three entries: the second one's payload begins behind three heads and the first.
    let payload = 2 * 64 + entry(1, 0).payload.len() as u64;
    bench.simulated.as_ref().unwrap().flip_bit(&path, place.offset + payload, 1).unwrap();
    let damaged = bench.content("0000000001.seg").await;
    log.remove(GroupId(2)).await.unwrap();
    until(|| !log.faulty().is_empty()).await;
    until(|| bench.segments().len() <= 3).await;
    assert_eq!(bench.content("0000000001.seg").await, damaged);
    assert_eq!(stays.read(0..1, 1).await.unwrap(), entries(1, 0..1));
    assert!(stays.read(1..2, 1).await.is_err());
    stays.repair(entry(1, 1)).await.unwrap();
    log.shared.keep.notify_one();
    until(|| !bench.segments().contains(&"0000000001.seg".to_owned())).await;
    assert_eq!(read_all(&stays).await, entries(1, 0..3));
    drop((log, stays, goes));
    bench.lose_power(4).await;
    assert_eq!(read_all(&bench.open().await.group(GroupId(1))).await, entries(1, 0..3));
    bench.stop().await;
}

#[tokio::test]
async fn no_room_for_a_copy_is_no_failure() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let group = log.group(GroupId(1));
    fill(&group, 0..100).await;
    append(&log.group(GroupId(2)), entries(1, 0..3)).await.unwrap();
    sealed(&log).await;
    let disk = bench.simulated.clone().unwrap();
    let space = disk.space(&bench.config.dir).unwrap();
    disk.set_capacity(space.total_bytes - space.free_bytes + 3 * ALIGN_BYTES);
    group.purge(id(1, 98)).await.unwrap();
    // Whole segments go without room, and make room for the rest.
    until(|| bench.bytes() < 2 * SEGMENT).await;
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
    fill(&group, 0..60).await;
    sealed(&log).await;
    let done = Default::default();
    let plan = || keeper::plan(&log.shared.state.lock(), &done, &bench.config);
    assert_eq!(plan(), None);
    disk.hold_syncs();
    let mut purge = Box::pin(group.purge(id(1, 59)));
    assert!(futures::poll!(&mut purge).is_pending());
    assert_eq!(group.state().last, Some(id(1, 59)));
    assert_eq!(plan(), None);
    rewrite::rewrite(&log.shared, &[1]).await.unwrap();
    assert!(bench.segments().contains(&"0000000001.seg".to_owned()));
    disk.release_syncs();
    within(purge).await.unwrap();
    until(|| bench.bytes() < SEGMENT + 2 * SMALLEST).await;
    assert_eq!(read_all(&other).await, [large(1, 0)]);
    bench.lose_power(4).await;
    let log = bench.open().await;
    assert_eq!(log.group(GroupId(1)).state().last, Some(id(1, 59)));
    bench.stop().await;
}

#[tokio::test]
async fn power_loss_at_every_step_of_a_rewriting_loses_nothing() {
    for seed in 0..40 {
        let mut bench = small_segments();
        let log = bench.open().await;
        let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
        for index in 0..60 {
            append(&stays, vec![entry(1, index)]).await.unwrap();
            append(&goes, vec![large(1, index)]).await.unwrap();
        }
        stays.save_vote(Bytes::from_static(b"vote")).await.unwrap();
        let state = stays.state();
        goes.purge(id(1, 59)).await.unwrap();
        // The keeper is somewhere.
        for _ in 0..seed {
            tokio::task::yield_now().await;
        }
        drop((log, stays, goes));
        bench.lose_power(seed).await;
        let log = bench.open().await;
        assert_eq!(log.group(GroupId(1)).state(), state, "seed {seed}");
        assert_eq!(read_all(&log.group(GroupId(1))).await, entries(1, 0..60), "seed {seed}");
        assert_eq!(log.group(GroupId(2)).state().last, Some(id(1, 59)));
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_copy_that_lacks_marks_queued_to_go_does_not_count_before_they_are_gone() {
    for seed in 0..8 {
        let mut bench = small_segments();
        let log = bench.open().await;
        let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
        within(goes.save_vote(Bytes::from_static(b"vote"))).await.unwrap();
        fill(&stays, 0..60).await;
        append(&goes, entries(1, 0..1)).await.unwrap();
        sealed(&log).await;
        assert!(bench.segments().contains(&"0000000001.seg".to_owned()));
        // Its zeros are synced, too.
        until(|| log.shared.pool.ready() > 0).await;
        let disk = bench.simulated.clone().unwrap();
        disk.hold_syncs();
        let (gone, copied) = tokio::join!(log.remove(GroupId(2)), async {
            until(|| disk.waiting_syncs() == 1).await;
            // Memory says already that the vote is gone; the disk does not.
            let copied = rewrite::rewrite(&log.shared, &[1]);
            let release = async {
                until(|| disk.waiting_syncs() == 2).await;
                disk.fail_syncs(1);
                disk.release_syncs();
            };
            tokio::join!(copied, release).0
        });
        assert!(gone.is_err() && copied.is_ok(), "{gone:?} {copied:?}");
        bench.failure().await;
        bench.lose_power(seed).await;
        let log = bench.open().await;
        let left = log.group(GroupId(2));
        match left.state().last {
            Some(_) => assert_eq!(left.state().vote.as_deref(), Some(&b"vote"[..]), "{seed}"),
            None => assert!(is_gone(&log, GroupId(2)).await, "{seed}"),
        }
        assert_eq!(read_all(&log.group(GroupId(1))).await, all(0..60));
        bench.stop().await;
    }
}
