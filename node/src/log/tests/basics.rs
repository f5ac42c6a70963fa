//! What the log promises when nothing fails, across closing and opening.

use super::*;

const GROUP: GroupId = GroupId(7);

async fn keeps_everything(mut bench: Bench) {
    bench.config.tail_bytes = 0;
    let log = bench.open().await;
    let group = log.group(GROUP);
    assert_eq!(group.state(), GroupState::default());
    assert_eq!(log.groups(), []);

    append(&group, entries(1, 0..10)).await.unwrap();
    group.save_vote(Bytes::from_static(b"first")).await.unwrap();
    group.truncate_after(Some(6)).await.unwrap();
    append(&group, entries(2, 7..9)).await.unwrap();
    group.checkpoint(id(2, 7), Bytes::from_static(b"state at 7")).await.unwrap();
    group.save_committed(Some(id(2, 7)));
    group.purge(id(1, 2)).await.unwrap();
    group.save_vote(Bytes::from_static(b"second")).await.unwrap();

    let gone = log.group(GroupId(9));
    append(&gone, entries(1, 0..3)).await.unwrap();
    log.remove(GroupId(9)).await.unwrap();

    let mut expected = entries(1, 3..7);
    expected.extend(entries(2, 7..9));
    let state = GroupState {
        purged: Some(id(1, 2)),
        last: Some(id(2, 8)),
        vote: Some(Bytes::from_static(b"second")),
        committed: Some(id(2, 7)),
        checkpoint: Some(id(2, 7)),
    };
    let mut log = log;
    for _ in 0..3 {
        let group = log.group(GROUP);
        assert_eq!(group.state(), state);
        assert_eq!(read_all(&group).await, expected);
        assert_eq!(group.durable(), Some(8));
        assert_eq!(log.groups(), [GROUP]);
        log = bench.reopen().await;
    }
    bench.stop().await;
}

#[tokio::test]
async fn everything_is_found_again_simulated() {
    keeps_everything(Bench::simulated()).await;
}

#[tokio::test]
async fn everything_is_found_again_real() {
    keeps_everything(Bench::real()).await;
}

#[tokio::test]
async fn truncating_all_and_purging_ahead() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..5)).await.unwrap();
    group.truncate_after(None).await.unwrap();
    assert_eq!((group.state().last, group.durable()), (None, None));
    append(&group, entries(2, 0..3)).await.unwrap();
    group.checkpoint(id(4, 90), Bytes::from_static(b"installed")).await.unwrap();
    group.purge(id(4, 90)).await.unwrap();
    append(&group, entries(4, 91..93)).await.unwrap();
    let log = bench.reopen().await;
    let group = log.group(GROUP);
    let state = group.state();
    assert_eq!((state.purged, state.last), (Some(id(4, 90)), Some(id(4, 92))));
    let installed = group.read_checkpoint(id(4, 90)).await.unwrap();
    assert_eq!(installed, Some(Bytes::from_static(b"installed")));
    assert_eq!(read_all(&group).await, entries(4, 91..93));
    bench.stop().await;
}

#[tokio::test]
async fn reads_respect_range_size_and_purge() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..10)).await.unwrap();
    assert_eq!(group.read(2..5, usize::MAX).await.unwrap(), entries(1, 2..5));
    assert_eq!(group.read(2..5, 1).await.unwrap(), entries(1, 2..3));
    assert_eq!(group.read(8..100, usize::MAX).await.unwrap(), entries(1, 8..10));
    assert_eq!(group.read(10..100, usize::MAX).await.unwrap(), []);
    group.purge(id(1, 4)).await.unwrap();
    let below = group.read(4..6, usize::MAX).await.unwrap_err();
    assert_eq!(below.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(group.read(5..6, usize::MAX).await.unwrap(), entries(1, 5..6));
    bench.stop().await;
}

#[tokio::test]
async fn refuses_entries_that_do_not_follow() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..3)).await.unwrap();
    for wrong in [entries(1, 4..5), entries(1, 2..3), vec![entry(1, 3), entry(1, 5)]] {
        let refused = append(&group, wrong).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(read_all(&group).await, entries(1, 0..3));
    append(&group, entries(1, 3..4)).await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_removed_group_takes_nothing_more() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..3)).await.unwrap();
    log.remove(GROUP).await.unwrap();
    log.remove(GROUP).await.unwrap();
    log.remove(GroupId(1234)).await.unwrap();
    let refused = append(&group, entries(1, 3..4)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    bench.stop().await;
}

#[tokio::test]
async fn large_payloads_and_large_appends() {
    let mut bench = Bench::real();
    bench.config.tail_bytes = 0;
    bench.config.queue_bytes = 1 << 20;
    let log = bench.open().await;
    let group = log.group(GROUP);
    let large = |index: u64, mebibytes: usize| Entry {
        payload: vec![index as u8; mebibytes << 20].into(),
        ..entry(1, index)
    };
    let all = vec![large(0, 3), large(1, 11), large(2, 3), large(3, 3)];
    append(&group, all.clone()).await.unwrap();
    assert_eq!(group.read(0..4, usize::MAX).await.unwrap(), all);
    let log = bench.reopen().await;
    assert_eq!(log.group(GROUP).read(0..4, usize::MAX).await.unwrap(), all);
    bench.stop().await;
}

#[tokio::test]
async fn one_sync_serves_all_who_wait() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    append(&log.group(GROUP), entries(1, 0..1)).await.unwrap();
    let before = disk.syncs();
    disk.hold_syncs();
    let mut answers = Vec::new();
    for group in 100..200 {
        answers.push(start_append(&log.group(GroupId(group)), entries(1, 0..1)).await);
        if group == 100 {
            until(|| disk.waiting_syncs() == 1).await;
        }
    }
    disk.release_syncs();
    for answer in futures::future::join_all(answers).await {
        answer.unwrap();
    }
    assert_eq!(disk.syncs() - before, 2);
    bench.stop().await;
}

#[tokio::test]
async fn durable_follows_the_sync_not_the_append() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    let group = log.group(GROUP);
    append(&group, entries(1, 0..2)).await.unwrap();
    disk.hold_syncs();
    let answer = start_append(&group, entries(1, 2..4)).await;
    until(|| disk.waiting_syncs() == 1).await;
    assert_eq!(group.durable(), Some(1));
    assert_eq!(group.read(2..4, usize::MAX).await.unwrap(), entries(1, 2..4));
    let waits = group.wait_durable(3);
    tokio::pin!(waits);
    assert!(futures::poll!(&mut waits).is_pending());
    disk.release_syncs();
    within(waits).await.unwrap();
    within(answer).await.unwrap();
    assert_eq!(group.durable(), Some(3));
    within(group.wait_durable(3)).await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn waiting_ends_when_the_entry_is_removed_or_the_log_closes() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    let group = log.group(GROUP);
    append(&group, entries(1, 0..1)).await.unwrap();
    disk.hold_syncs();
    let answer = start_append(&group, entries(1, 1..3)).await;
    until(|| disk.waiting_syncs() == 1).await;
    let waits = group.wait_durable(2);
    tokio::pin!(waits);
    assert!(futures::poll!(&mut waits).is_pending());
    let cut = group.truncate_after(Some(0));
    tokio::pin!(cut);
    assert!(futures::poll!(&mut cut).is_pending());
    within(waits).await.unwrap();
    disk.release_syncs();
    within(cut).await.unwrap();
    within(answer).await.unwrap();
    assert_eq!(group.durable(), Some(0));
    bench.stop().await;
}

#[tokio::test]
async fn the_tail_keeps_to_its_budget() {
    let mut bench = Bench::simulated();
    bench.config.tail_bytes = 10_000;
    let log = bench.open().await;
    let group = log.group(GROUP);
    for index in 0..100 {
        let payload = vec![1; 1000].into();
        append(&group, vec![Entry { payload, ..entry(1, index) }]).await.unwrap();
    }
    let held = |state: &State| {
        let slots = (0..100).filter_map(|index| state.groups[&GROUP].slot(index));
        slots.filter(|slot| slot.payload.is_some()).count()
    };
    // 1000 bytes each, and what a slot takes.
    assert_eq!(held(&log.shared.state.lock()), 8);
    assert_eq!(group.read(0..100, usize::MAX).await.unwrap().len(), 100);
    bench.stop().await;
}

#[tokio::test]
async fn closing_makes_everything_accepted_durable() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..20)).await.unwrap();
    let answer = start_append(&group, entries(1, 20..50)).await;
    log.close().await.unwrap();
    answer.await.unwrap();
    let closed = append(&group, entries(1, 50..51)).await.unwrap_err();
    assert_eq!(closed.kind(), io::ErrorKind::BrokenPipe);
    bench.lose_power(1).await;
    let group = bench.open().await.group(GROUP);
    assert_eq!(read_all(&group).await, entries(1, 0..50));
    bench.stop().await;
}

#[tokio::test]
async fn a_committed_id_costs_no_sync_and_is_kept_by_closing() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    let group = log.group(GROUP);
    append(&group, entries(1, 0..5)).await.unwrap();
    let syncs = disk.syncs();
    group.save_committed(Some(id(1, 3)));
    group.save_committed(Some(id(1, 4)));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(disk.syncs(), syncs);
    log.close().await.unwrap();
    bench.lose_power(1).await;
    assert_eq!(bench.open().await.group(GROUP).state().committed, Some(id(1, 4)));
    bench.stop().await;
}

#[tokio::test]
async fn segments_follow_each_other() {
    let mut bench = Bench::real();
    bench.config.segment_bytes = 40_000;
    bench.config.tail_bytes = 0;
    let log = bench.open().await;
    let group = log.group(GROUP);
    for index in 0..100 {
        append(&group, entries(1, index..index + 1)).await.unwrap();
    }
    assert!(bench.segments().len() > 5);
    assert_eq!(read_all(&group).await, entries(1, 0..100));
    let log = bench.reopen().await;
    assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..100));
    bench.stop().await;
}
