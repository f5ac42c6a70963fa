//! What is left after crashes, power loss, torn writes, flipped bits and failed syncs.

use super::segment::{BLOCK_HEADER_BYTES, HEADER_BYTES};
use super::*;

const GROUP: GroupId = GroupId(7);

/// A log with one segment of `blocks` blocks of one entry each, not closed.
async fn unclosed(bench: &mut Bench, blocks: u64) {
    let log = bench.open().await;
    for index in 0..blocks {
        append(&log.group(GROUP), entries(1, index..index + 1)).await.unwrap();
    }
    drop(log);
    assert_eq!(bench.segments(), ["0000000001.seg"]);
}

/// The segment of an unclosed log, and where its last block begins.
async fn raw_segment(bench: &mut Bench, blocks: u64) -> (Vec<u8>, usize) {
    unclosed(bench, blocks - 1).await;
    let without = bench.content("0000000001.seg").await.len();
    let log = bench.log.clone().unwrap();
    append(&log.group(GROUP), entries(1, blocks - 1..blocks)).await.unwrap();
    drop(log);
    let whole = bench.content("0000000001.seg").await;
    (whole, without)
}

/// Puts the segment alone on a fresh disk.
async fn with_segment(make: fn() -> Bench, content: &[u8]) -> Bench {
    let bench = make();
    bench.disk.create_dir_all(&bench.config.dir).unwrap();
    bench.disk.open(&bench.config.dir.join("0000000001.seg"), Open::New).unwrap();
    bench.set_content("0000000001.seg", content.to_vec()).await;
    bench
}

async fn torn_at_every_byte(make: fn() -> Bench) {
    let mut bench = make();
    let (whole, last) = raw_segment(&mut bench, 4).await;
    bench.stop().await;
    for torn in last..whole.len() {
        let mut bench = with_segment(make, &whole[..torn]).await;
        let log = bench.open().await;
        assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..3), "torn at {torn}");
        let metrics = bench.metrics.encode();
        let cut = usize::from(torn > last);
        assert!(metrics.contains(&format!("tristream_torn_tails_total {cut}")), "torn at {torn}");
        append(&log.group(GROUP), entries(2, 3..5)).await.unwrap();
        let log = bench.reopen().await;
        let mut expected = entries(1, 0..3);
        expected.extend(entries(2, 3..5));
        assert_eq!(read_all(&log.group(GROUP)).await, expected, "torn at {torn}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_wherever_it_is_torn_simulated() {
    torn_at_every_byte(Bench::simulated).await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_wherever_it_is_torn_real() {
    torn_at_every_byte(Bench::real).await;
}

#[tokio::test]
async fn a_tail_torn_to_zeros_is_cut() {
    let mut bench = Bench::simulated();
    let (mut whole, last) = raw_segment(&mut bench, 4).await;
    bench.stop().await;
    whole[last..].fill(0);
    let mut bench = with_segment(Bench::simulated, &whole).await;
    let log = bench.open().await;
    assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..3));
    bench.stop().await;
}

#[tokio::test]
async fn any_bit_flipped_before_a_later_block_refuses_to_open_and_changes_nothing() {
    let mut bench = Bench::simulated();
    let (whole, last) = raw_segment(&mut bench, 4).await;
    bench.stop().await;
    for at in 0..last {
        let mut content = whole.clone();
        content[at] ^= 1 << (at % 8);
        let mut bench = with_segment(Bench::simulated, &content).await;
        let error = bench.try_open().await.err().unwrap();
        assert!(error.to_string().contains("0000000001.seg"), "flipped at {at}: {error}");
        assert_eq!(bench.content("0000000001.seg").await, content, "flipped at {at}");
        assert_eq!(bench.segments().len(), 1);
    }
}

#[tokio::test]
async fn damage_in_an_older_segment_refuses_to_open() {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 1;
    let log = bench.open().await;
    for index in 0..3 {
        append(&log.group(GROUP), entries(1, index..index + 1)).await.unwrap();
    }
    drop(log);
    bench.kill().await;
    assert_eq!(bench.segments().len(), 3);
    let whole = bench.content("0000000002.seg").await;
    for cut in [HEADER_BYTES, HEADER_BYTES + 9, whole.len() - 1] {
        bench.set_content("0000000002.seg", whole[..cut].to_vec()).await;
        let error = bench.try_open().await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "cut to {cut}");
    }
    bench.set_content("0000000002.seg", whole).await;
    let log = bench.open().await;
    assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..3));
    bench.stop().await;
}

#[tokio::test]
async fn a_missing_segment_with_entries_refuses_to_open() {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 1;
    let log = bench.open().await;
    for index in 0..3 {
        append(&log.group(GROUP), entries(1, index..index + 1)).await.unwrap();
    }
    drop(log);
    bench.kill().await;
    bench.disk.remove(&bench.config.dir.join("0000000002.seg")).unwrap();
    let error = bench.try_open().await.err().unwrap();
    assert!(error.to_string().contains("group 7: entry 1 is missing"), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_refused_untouched() {
    let mut bench = Bench::simulated();
    let (mut whole, _) = raw_segment(&mut bench, 2).await;
    bench.stop().await;
    whole[8] = 2;
    let mut bench = with_segment(Bench::simulated, &whole).await;
    let leftover = bench.config.dir.join("0000000009.seg.tmp");
    bench.disk.open(&leftover, Open::New).unwrap();
    let error = bench.try_open().await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert_eq!(bench.content("0000000001.seg").await, whole);
    assert!(bench.disk.open(&leftover, Open::Existing).is_ok());
}

#[tokio::test]
async fn leftovers_of_unfinished_files_go() {
    let mut bench = Bench::simulated();
    bench.disk.create_dir_all(&bench.config.dir).unwrap();
    bench.disk.open(&bench.config.dir.join("0000000004.seg.tmp"), Open::New).unwrap();
    bench.open().await;
    assert_eq!(bench.disk.list(&bench.config.dir).unwrap(), Vec::<String>::new());
    bench.stop().await;
}

#[tokio::test]
async fn rot_on_disk_is_an_error_of_the_read_not_wrong_data() {
    let mut bench = Bench::simulated();
    bench.config.tail_bytes = 0;
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..3)).await.unwrap();
    let place = log.shared.state.lock().groups[&GROUP].slot(1).unwrap().place.unwrap();
    let path = bench.config.dir.join("0000000001.seg");
    let disk = bench.simulated.clone().unwrap();
    for at in 0..place.len {
        disk.flip_bit(&path, place.offset + at, 5).unwrap();
        let error = group.read(0..3, usize::MAX).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let text = error.to_string();
        assert!(text.contains("group 7: entry 1 ") && text.contains("0000000001.seg"), "{text}");
        assert_eq!(group.read(0..1, usize::MAX).await.unwrap(), entries(1, 0..1));
        disk.flip_bit(&path, place.offset + at, 5).unwrap();
    }
    assert_eq!(group.read(0..3, usize::MAX).await.unwrap(), entries(1, 0..3));
    bench.stop().await;
}

#[tokio::test]
async fn a_failed_sync_stops_everything_and_acks_nothing() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    let group = log.group(GROUP);
    append(&group, entries(1, 0..2)).await.unwrap();
    disk.hold_syncs();
    let first = start_append(&group, entries(1, 2..4)).await;
    until(|| disk.waiting_syncs() == 1).await;
    let second = start_append(&group, entries(1, 4..6)).await;
    disk.fail_syncs(1);
    disk.release_syncs();
    assert!(within(first).await.is_err());
    assert!(within(second).await.is_err());
    assert!(bench.failure().await.contains("Committer"));
    let syncs = disk.syncs();
    assert!(append(&group, entries(1, 6..7)).await.is_err());
    assert!(within(group.save_vote(Bytes::new())).await.is_err());
    assert!(within(group.truncate_after(Some(1))).await.is_err());
    assert!(within(group.purge(id(1, 1))).await.is_err());
    assert!(within(group.checkpoint(id(1, 1), Bytes::new())).await.is_err());
    assert!(within(group.wait_durable(3)).await.is_err());
    assert!(within(log.remove(GROUP)).await.is_err());
    assert!(within(log.close()).await.is_err());
    assert_eq!(disk.syncs(), syncs, "a failed sync is never tried again");
    assert_eq!(group.durable(), Some(1));
    assert!(bench.metrics.encode().contains("tristream_fsync_failures_total 1"));

    // Restarted, the page cache still has what the disk has not: it is made durable, then reported.
    bench.kill().await;
    let reported = read_all(&bench.open().await.group(GROUP)).await;
    assert_eq!(reported, entries(1, 0..4));
    bench.lose_power(5).await;
    assert_eq!(read_all(&bench.open().await.group(GROUP)).await, reported);
    bench.stop().await;
}

#[tokio::test]
async fn a_full_disk_stops_the_log_with_an_error() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    let group = log.group(GROUP);
    append(&group, entries(1, 0..2)).await.unwrap();
    disk.set_capacity(bench.bytes() + 60);
    assert!(append(&group, entries(1, 2..4)).await.is_err());
    assert!(bench.failure().await.contains("Committer"));
    disk.set_capacity(1 << 30);
    bench.kill().await;
    assert_eq!(read_all(&bench.open().await.group(GROUP)).await, entries(1, 0..2));
    bench.stop().await;
}

#[tokio::test]
async fn what_was_reported_after_a_crash_survives_the_power_loss_that_follows() {
    for seed in 0..60 {
        let mut bench = Bench::simulated();
        let log = bench.open().await;
        let disk = bench.simulated.clone().unwrap();
        let group = log.group(GROUP);
        append(&group, entries(1, 0..3)).await.unwrap();
        // Written, readable, not synced: the process dies in the middle of the sync.
        disk.hold_syncs();
        let answer = start_append(&group, entries(1, 3..6)).await;
        until(|| disk.waiting_syncs() == 1).await;
        disk.process_crash();
        disk.release_syncs();
        assert!(within(answer).await.is_err());
        drop((log, group));
        bench.kill().await;

        let group = bench.open().await.group(GROUP);
        let reported = (group.state(), read_all(&group).await);
        assert_eq!(reported.1, entries(1, 0..6));
        drop(group);
        for round in 0..3 {
            bench.lose_power(seed * 10 + round).await;
            let group = bench.open().await.group(GROUP);
            assert_eq!((group.state(), read_all(&group).await), reported, "seed {seed}");
        }
        bench.stop().await;
    }
}

#[tokio::test]
async fn power_loss_while_the_tail_is_written_again_loses_nothing() {
    let mut bench = Bench::simulated();
    unclosed(&mut bench, 4).await;
    bench.kill().await;
    let disk = bench.simulated.clone().unwrap();
    // Every sync of the opening in turn is where the power fails.
    for failing in 0..8 {
        let opening = bench.simulated.clone().unwrap();
        opening.hold_syncs();
        let (config, metrics) = (bench.config.clone(), Arc::clone(&bench.metrics));
        let disk_of_it: Arc<dyn Disk> = Arc::new(opening.clone());
        let tasks = Tasks::new();
        let open = Log::open(config, disk_of_it, Arc::new(OsEntropy), tasks.clone(), metrics);
        let mut open = Box::pin(open);
        for _ in 0..failing {
            let _ = futures::poll!(&mut open);
            opening.release_syncs();
            opening.hold_syncs();
        }
        let _ = futures::poll!(&mut open);
        drop(open);
        opening.power_loss(failing);
        opening.release_syncs();
        tasks.shutdown().await;
        bench.restart().await;
        let log = bench.open().await;
        assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..4), "at sync {failing}");
        drop(log);
        bench.kill().await;
    }
    drop(disk);
}

#[tokio::test]
async fn opening_and_crashing_again_and_again_adds_no_segments() {
    let mut bench = Bench::simulated();
    unclosed(&mut bench, 3).await;
    for _ in 0..5 {
        bench.kill().await;
        let log = bench.open().await;
        assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..3));
        assert!(bench.segments().len() <= 2);
    }
    bench.stop().await;
}

#[tokio::test]
async fn after_a_clean_close_nothing_is_written_again() {
    let mut bench = Bench::simulated();
    unclosed(&mut bench, 3).await;
    for _ in 0..3 {
        let log = bench.reopen().await;
        assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..3));
        assert_eq!(bench.segments(), ["0000000001.seg"]);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_vote_and_a_checkpoint_in_the_unproven_tail_are_kept() {
    let mut bench = Bench::simulated();
    unclosed(&mut bench, 2).await;
    let group = bench.log.clone().unwrap().group(GROUP);
    group.checkpoint(id(1, 1), Bytes::from_static(b"machine")).await.unwrap();
    group.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    let state = group.state();
    drop(group);
    for seed in 0..4 {
        bench.kill().await;
        assert_eq!(bench.open().await.group(GROUP).state(), state);
        bench.lose_power(seed).await;
        assert_eq!(bench.open().await.group(GROUP).state(), state);
    }
    bench.stop().await;
}

#[test]
fn a_block_header_fits_its_alignment() {
    assert_eq!((HEADER_BYTES % 8, BLOCK_HEADER_BYTES % 8), (0, 0));
}
