//! The contract of checkpoints, whatever the format of the segments: which are kept, which are
//! told, and that all of it is found again after closing, crashing and rewriting.

use super::*;

const GROUP: GroupId = GroupId(7);

fn state_of(index: u64) -> Bytes {
    Bytes::from(format!("state at {index}"))
}

async fn checkpoint(group: &GroupLog, term: u64, index: u64) {
    group.checkpoint(id(term, index), state_of(index)).await.unwrap();
}

/// What the log tells, each with its state.
async fn told(group: &GroupLog) -> Vec<(EntryId, Bytes)> {
    let ids = group.checkpoints();
    assert_eq!(group.state().checkpoint, ids.last().copied());
    assert!(ids.is_sorted());
    let mut told = Vec::new();
    for id in ids {
        told.push((id, group.read_checkpoint(id).await.unwrap().expect("it was told")));
    }
    told
}

fn states(term: u64, indexes: &[u64]) -> Vec<(EntryId, Bytes)> {
    indexes.iter().map(|&index| (id(term, index), state_of(index))).collect()
}

#[tokio::test]
async fn all_above_the_purge_point_are_kept_and_the_one_at_it() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..40)).await.unwrap();
    for index in [5, 11, 17, 23, 29] {
        checkpoint(&group, 1, index).await;
    }
    let all = states(1, &[5, 11, 17, 23, 29]);
    assert_eq!(told(&group).await, all);
    let log = bench.reopen().await;
    let group = log.group(GROUP);
    assert_eq!(told(&group).await, all);
    group.purge(id(1, 17)).await.unwrap();
    let left = states(1, &[17, 23, 29]);
    assert_eq!(told(&group).await, left);
    assert_eq!(group.read_checkpoint(id(1, 11)).await.unwrap(), None);
    drop((log, group));
    bench.lose_power(3).await;
    let group = bench.open().await.group(GROUP);
    assert_eq!(told(&group).await, left);
    bench.stop().await;
}

#[tokio::test]
async fn one_of_another_entry_is_not_told_and_a_truncation_takes_those_behind_it() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..20)).await.unwrap();
    for index in [3, 9, 15] {
        checkpoint(&group, 1, index).await;
    }
    checkpoint(&group, 2, 12).await;
    assert_eq!(told(&group).await, states(1, &[3, 9, 15]), "the entry at 12 is of term 1");
    assert_eq!(group.read_checkpoint(id(2, 12)).await.unwrap(), None);
    group.truncate_after(Some(10)).await.unwrap();
    append(&group, entries(2, 11..20)).await.unwrap();
    assert_eq!(told(&group).await, states(1, &[3, 9]), "entry 15 is another one now");
    let group = bench.reopen().await.group(GROUP);
    assert_eq!(told(&group).await, states(1, &[3, 9]));
    bench.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_told_once_the_purge_has_reached_it_and_replaces_all_before_it() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..10)).await.unwrap();
    checkpoint(&group, 1, 4).await;
    checkpoint(&group, 3, 50).await;
    assert_eq!(told(&group).await, states(1, &[4]));
    group.purge(id(3, 50)).await.unwrap();
    assert_eq!(told(&group).await, states(3, &[50]));
    append(&group, entries(3, 51..60)).await.unwrap();
    checkpoint(&group, 3, 55).await;
    append(&group, entries(3, 60..61)).await.unwrap();
    drop((log, group));
    bench.lose_power(5).await;
    let group = bench.open().await.group(GROUP);
    assert_eq!(told(&group).await, states(3, &[50, 55]));
    bench.stop().await;
}

#[tokio::test]
async fn they_outlive_the_segments_of_their_time() {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 64 << 10;
    bench.config.tail_bytes = 0;
    let log = bench.open().await;
    let (idle, busy) = (log.group(GROUP), log.group(GroupId(8)));
    let large = |index: u64| Entry { payload: vec![7; 1000].into(), ..entry(1, index) };
    append(&idle, entries(1, 0..10)).await.unwrap();
    for index in [2, 5, 8] {
        checkpoint(&idle, 1, index).await;
    }
    for index in 0..100 {
        append(&busy, vec![large(index)]).await.unwrap();
    }
    idle.purge(id(1, 5)).await.unwrap();
    busy.purge(id(1, 98)).await.unwrap();
    until(|| bench.bytes() < 3 * (64 << 10)).await;
    assert_eq!(told(&idle).await, states(1, &[5, 8]));
    drop((log, idle, busy));
    bench.lose_power(1).await;
    let idle = bench.open().await.group(GROUP);
    assert_eq!(told(&idle).await, states(1, &[5, 8]));
    assert_eq!(read_all(&idle).await, entries(1, 6..10));
    bench.stop().await;
}

#[tokio::test]
async fn a_removed_group_has_none() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..5)).await.unwrap();
    checkpoint(&group, 1, 3).await;
    log.remove(GROUP).await.unwrap();
    assert_eq!(group.checkpoints(), []);
    assert_eq!(group.read_checkpoint(id(1, 3)).await.unwrap(), None);
    bench.stop().await;
}
