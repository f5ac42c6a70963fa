//! What was given up, or written again elsewhere, does not count when its bytes are met once more.

use super::space::{all, fill, small_segments};
use super::*;

#[tokio::test]
async fn segments_that_were_given_up_and_are_back_are_dropped() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
    goes.save_vote(Bytes::from_static(b"old")).await.unwrap();
    fill(&goes, 0..150).await;
    sealed(&log).await;
    let mut files = Vec::new();
    for name in bench.segments() {
        files.push((name.clone(), bench.content(&name).await));
    }
    goes.save_vote(Bytes::from_static(b"new")).await.unwrap();
    fill(&stays, 0..60).await;
    goes.purge(id(1, 149)).await.unwrap();
    let is_back = |name: &str| bench.segments().iter().any(|there| there == name);
    until(|| files.iter().filter(|(name, _)| !is_back(name)).count() >= 2).await;
    let expected = (stays.state(), goes.state());
    drop((log, stays, goes));
    bench.kill().await;

    files.retain(|(name, _)| !bench.segments().contains(name));
    for (name, content) in &files {
        bench.disk.open(&bench.path(name), Open::New).unwrap();
        bench.set_content(name, content.clone()).await;
    }
    let log = bench.open().await;
    let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
    assert_eq!((stays.state(), goes.state()), expected);
    assert_eq!(read_all(&stays).await, all(0..60));
    assert!(files.iter().all(|(name, _)| !bench.segments().contains(name)));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_tail_that_was_written_again_counts_once_also_when_its_copy_is_rewritten() {
    let mut bench = small_segments();
    // The keeper leaves all as it is.
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    let group = log.group(GroupId(1));
    append(&group, entries(1, 0..3)).await.unwrap();
    // Written and readable, not synced: the next process writes it again, into another segment.
    disk.hold_syncs();
    let answer = start_append(&group, entries(1, 3..6)).await;
    until(|| disk.waiting_syncs() == 1).await;
    disk.process_crash();
    disk.release_syncs();
    assert!(within(answer).await.is_err());
    drop((log, group));
    bench.kill().await;
    let without_footer = bench.content("0000000001.seg").await;

    let log = bench.open().await;
    let group = log.group(GroupId(1));
    assert_eq!(read_all(&group).await, entries(1, 0..6));
    group.truncate_after(Some(2)).await.unwrap();
    fill(&log.group(GroupId(2)), 0..60).await;
    sealed(&log).await;
    rewrite::rewrite(&log.shared, &[2]).await.unwrap();
    assert!(!bench.segments().contains(&"0000000002.seg".to_owned()));
    let expected = group.state();
    drop((log, group));
    bench.kill().await;

    // The footer of the first, which overwrote that tail, never reached the disk.
    bench.set_content("0000000001.seg", without_footer).await;
    let log = bench.open().await;
    assert_eq!(log.group(GroupId(1)).state(), expected);
    assert_eq!(read_all(&log.group(GroupId(1))).await, entries(1, 0..3));
    assert_eq!(read_all(&log.group(GroupId(2))).await, all(0..60));
    bench.stop().await;
}

/// A log whose first segment has a tail that was written again into the second, and whose second was given
/// up since; the footer that overwrote the tail was never synced. Gives back the second's bytes, too.
async fn with_a_stale_tail(bench: &mut Bench) -> Vec<u8> {
    // The keeper gives up, and rewrites nothing.
    bench.config.rewrite_bytes_per_second = 0;
    let (log, disk) = (bench.open().await, bench.simulated.clone().unwrap());
    let group = log.group(GroupId(1));
    append(&group, entries(1, 0..3)).await.unwrap();
    disk.hold_syncs();
    let answer = start_append(&group, entries(1, 3..6)).await;
    until(|| disk.waiting_syncs() == 1).await;
    disk.process_crash();
    disk.release_syncs();
    assert!(within(answer).await.is_err());
    drop((log, group));
    bench.kill().await;
    // The system wrote it to the disk of its own accord.
    bench.set_content("0000000001.seg", bench.content("0000000001.seg").await).await;

    let (log, disk) = (bench.open().await, bench.simulated.clone().unwrap());
    disk.hold_syncs();
    // That of the first one's footer, which can be read from then on.
    until(|| disk.waiting_syncs() == 1).await;
    disk.process_crash();
    disk.release_syncs();
    drop(log);
    bench.kill().await;

    let log = bench.open().await;
    let (group, other) = (log.group(GroupId(1)), log.group(GroupId(2)));
    assert_eq!(read_all(&group).await, entries(1, 0..6));
    let second = bench.content("0000000002.seg").await;
    group.truncate_after(Some(2)).await.unwrap();
    fill(&other, 0..60).await;
    sealed(&log).await;
    other.purge(id(1, 59)).await.unwrap();
    until(|| !bench.segments().contains(&"0000000002.seg".to_owned())).await;
    assert!(bench.segments().contains(&"0000000001.seg".to_owned()));
    assert_eq!(group.state().last, Some(id(1, 2)));
    second
}

#[tokio::test]
async fn a_tail_that_was_written_again_does_not_count_when_its_copy_was_given_up() {
    for (seed, is_back) in (0..16).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut bench = small_segments();
        let second = with_a_stale_tail(&mut bench).await;
        bench.lose_power(seed).await;
        if is_back && !bench.segments().contains(&"0000000002.seg".to_owned()) {
            bench.disk.open(&bench.path("0000000002.seg"), Open::New).unwrap();
            bench.set_content("0000000002.seg", second).await;
        }
        for round in 0..2 {
            let log = bench.open().await;
            let (group, other) = (log.group(GroupId(1)), log.group(GroupId(2)));
            let what = format!("seed {seed}, back {is_back}, round {round}");
            assert_eq!(group.state().last, Some(id(1, 2)), "{what}");
            assert_eq!(read_all(&group).await, entries(1, 0..3), "{what}");
            assert_eq!(other.state().last, Some(id(1, 59)), "{what}");
            drop((log, group, other));
            bench.lose_power(seed).await;
        }
    }
}

#[tokio::test]
async fn segments_that_are_back_after_their_files_were_used_again_are_dropped() {
    for (more, seed) in [(0, 0), (30, 1), (150, 2)] {
        let mut bench = small_segments();
        bench.config.rewrite_bytes_per_second = 0;
        let log = bench.open().await;
        let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
        fill(&goes, 0..150).await;
        sealed(&log).await;
        goes.purge(id(1, 149)).await.unwrap();
        until(|| !bench.segments().contains(&"0000000002.seg".to_owned())).await;
        until(|| log.shared.pool.ready() == 2).await;
        // As if the folder's sync had failed for somebody else between the renaming and its own sync.
        let (disk, dir) = (bench.simulated.clone().unwrap(), bench.config.dir.clone());
        let names = disk.list(&dir).unwrap().into_iter().filter(|name| name.starts_with("free-"));
        let names: Vec<(String, &str)> = names.zip(["0000000001.seg", "0000000002.seg"]).collect();
        assert_eq!(names.len(), 2);
        for (free, old) in &names {
            disk.rename(&dir.join(free), &dir.join(old)).unwrap();
        }
        disk.sync_dir(&dir).await.unwrap();
        for (free, old) in &names {
            disk.rename(&dir.join(old), &dir.join(free)).unwrap();
        }
        disk.fail_dir_syncs(1);
        assert!(disk.sync_dir(&dir).await.is_err());

        fill(&stays, 0..more).await;
        let expected = (stays.state(), goes.state());
        drop((log, stays, goes));
        bench.lose_power(seed).await;
        assert!(names.iter().all(|(_, old)| bench.segments().iter().any(|name| name == old)));
        for _ in 0..2 {
            let log = bench.open().await;
            let (stays, goes) = (log.group(GroupId(1)), log.group(GroupId(2)));
            assert_eq!((stays.state(), goes.state()), expected, "{more} more");
            assert_eq!(read_all(&stays).await, all(0..more), "{more} more");
            let there = bench.segments();
            assert!(names.iter().all(|(_, old)| !there.iter().any(|name| name == old)));
            drop((log, stays, goes));
            bench.lose_power(seed).await;
        }
    }
}
