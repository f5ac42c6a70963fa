//! What is left after crashes, power loss, torn writes, flipped bits and failed syncs.

use super::frame::HEAD_BYTES;
use super::segment::block::HEADER_BYTES as BLOCK_HEADER_BYTES;
use super::segment::{ALIGN_BYTES, HEADER_BYTES};
use super::*;

const GROUP: GroupId = GroupId(7);
const FIRST: &str = "0000000001.seg";

/// A log with one segment of `blocks` blocks of one entry each, not closed.
async fn unclosed(bench: &mut Bench, blocks: u64) {
    let log = bench.open().await;
    for index in 0..blocks {
        append(&log.group(GROUP), entries(1, index..index + 1)).await.unwrap();
    }
    drop(log);
    assert_eq!(bench.segments(), [FIRST]);
}

/// The segment of an unclosed log with so many blocks: one page each, behind the header's.
async fn raw_segment(bench: &mut Bench, blocks: u64) -> Vec<u8> {
    unclosed(bench, blocks).await;
    let mut whole = bench.content(FIRST).await;
    // The file grew in a larger step.
    let zeros = whole.split_off((HEADER_BYTES + blocks * ALIGN_BYTES) as usize);
    assert!(zeros.iter().all(|byte| *byte == 0));
    whole
}

/// Bytes of a block with one entry, without its padding.
fn block_bytes(index: u64) -> usize {
    BLOCK_HEADER_BYTES + HEAD_BYTES + entry(1, index).payload.len()
}

/// Puts the segment alone on a fresh disk.
async fn with_segment(make: fn() -> Bench, content: &[u8]) -> Bench {
    let bench = make();
    bench.disk.create_dir_all(&bench.config.dir).unwrap();
    bench.disk.open(&bench.path(FIRST), Open::New).unwrap();
    bench.set_content(FIRST, content.to_vec()).await;
    bench
}

/// Every byte of the block, and some of its padding.
fn torn_at(every: usize) -> impl Iterator<Item = usize> {
    let used = block_bytes(3);
    (0..used + 40).step_by(every).chain((used + 40..ALIGN_BYTES as usize).step_by(509))
}

/// The last block was written up to some byte; behind it are what the file held before, or nothing.
async fn torn_at_every_byte(make: fn() -> Bench, every: usize) {
    let mut bench = make();
    let whole = raw_segment(&mut bench, 4).await;
    bench.stop().await;
    let last = whole.len() - ALIGN_BYTES as usize;
    for torn in torn_at(every) {
        for junk in [None, Some(0), Some(0xa5)] {
            let mut content = whole[..last + torn].to_vec();
            content.extend(junk.iter().flat_map(|junk| vec![*junk; 3 * ALIGN_BYTES as usize]));
            content.truncate(content.len() / ALIGN_BYTES as usize * ALIGN_BYTES as usize + torn);
            let mut bench = with_segment(make, &content).await;
            let log = bench.open().await;
            // The junk may happen to go on as the block does.
            let both = whole[last..].iter().zip(&content[last..]);
            let torn = both.take_while(|(block, found)| block == found).count();
            // Nobody was told of it; but if all of it is there, it may be.
            let there = junk.is_some() && torn >= block_bytes(3);
            let count = if there { 4 } else { 3 };
            let mut expected = entries(1, 0..count);
            assert_eq!(read_all(&log.group(GROUP)).await, expected, "torn at {torn}");
            let seen = !there && torn >= BLOCK_HEADER_BYTES;
            let metric = format!("tristream_torn_tails_total {}", usize::from(seen));
            assert!(bench.metrics.encode().contains(&metric), "torn at {torn}");
            append(&log.group(GROUP), entries(2, count..6)).await.unwrap();
            expected.extend(entries(2, count..6));
            let log = bench.reopen().await;
            assert_eq!(read_all(&log.group(GROUP)).await, expected, "torn at {torn}");
            bench.stop().await;
        }
    }
}

#[tokio::test]
async fn a_torn_tail_is_dropped_wherever_it_is_torn_simulated() {
    torn_at_every_byte(Bench::simulated, 1).await;
}

#[tokio::test]
async fn a_torn_tail_is_dropped_wherever_it_is_torn_real() {
    torn_at_every_byte(Bench::real, 23).await;
}

#[tokio::test]
async fn a_bit_flipped_before_a_later_block_costs_one_entry_or_refuses_to_open() {
    let mut bench = Bench::simulated();
    let whole = raw_segment(&mut bench, 4).await;
    bench.stop().await;
    let (page, mut refused, mut faulty) = (ALIGN_BYTES as usize, 0, 0);
    let heads = BLOCK_HEADER_BYTES + HEAD_BYTES;
    for block in 0..4 {
        // Of the last block nothing proves that it was durable: it is torn.
        for at in (0..block_bytes(2)).filter(|_| block < 3) {
            let mut content = whole.clone();
            content[block * page + at] ^= 1 << (at % 8);
            let mut bench = with_segment(Bench::simulated, &content).await;
            let opened = bench.try_open().await;
            match (block.checked_sub(1), opened) {
                (None, opened) if at >= 64 => assert!(opened.is_ok(), "junk at {at}"),
                (None, Err(_)) => refused += 1,
                (Some(index), Ok(log)) if at >= heads => {
                    let group = log.group(GROUP);
                    let index = index as u64;
                    assert_eq!(log.faulty(), [(GROUP, index)], "flipped at {at} of {block}");
                    assert_eq!(group.state().last, Some(id(1, 3)));
                    let error = group.read(index..4, usize::MAX).await.unwrap_err();
                    assert_eq!(Faulty::of(&error), Some(Faulty { group: GROUP, index }));
                    let rest = group.read(index + 1..4, usize::MAX).await.unwrap();
                    assert_eq!(rest, entries(1, index + 1..4));
                    faulty += 1;
                }
                (Some(_), Err(error)) if at < heads => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    assert!(error.to_string().contains(FIRST), "flipped at {at}: {error}");
                    assert_eq!(bench.content(FIRST).await, content, "flipped at {at}");
                    assert_eq!(bench.segments().len(), 1);
                    refused += 1;
                }
                (_, opened) => panic!("{} at {at} of {block}", opened.is_ok()),
            }
            bench.stop().await;
        }
    }
    assert_eq!(refused, 64 + 2 * heads);
    assert_eq!(faulty, 2 * (block_bytes(2) - heads));
}

/// Three small segments, the first two with footers, of a log that was killed.
async fn three_segments(bench: &mut Bench) {
    bench.config.segment_bytes = 4 * ALIGN_BYTES;
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    for index in 0..6 {
        append(&log.group(GROUP), entries(1, index..index + 1)).await.unwrap();
    }
    sealed(&log).await;
    drop(log);
    bench.kill().await;
    assert!(bench.segments().len() >= 3, "{:?}", bench.segments());
}

#[tokio::test]
async fn a_missing_segment_refuses_to_open_whichever_it_is() {
    let mut bench = Bench::simulated();
    three_segments(&mut bench).await;
    for name in bench.segments() {
        let content = bench.content(&name).await;
        bench.disk.remove(&bench.path(&name)).unwrap();
        let left = bench.segments();
        let error = bench.try_open().await.err().expect(&name);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
        assert!(error.to_string().contains("missing"), "{name}: {error}");
        assert_eq!(bench.segments(), left);
        bench.disk.open(&bench.path(&name), Open::New).unwrap();
        bench.set_content(&name, content).await;
    }
    let log = bench.open().await;
    assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..6));
    bench.stop().await;
}

#[tokio::test]
async fn a_missing_segment_refuses_to_open_also_if_it_held_all_of_some_group() {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 4 * ALIGN_BYTES;
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    for group in 0..6 {
        append(&log.group(GroupId(group)), entries(1, 0..1)).await.unwrap();
    }
    sealed(&log).await;
    drop(log);
    bench.kill().await;
    let names = bench.segments();
    assert!(names.len() >= 3, "{names:?}");
    for name in &names {
        let content = bench.content(name).await;
        bench.disk.remove(&bench.path(name)).unwrap();
        let error = bench.try_open().await.err().expect(name);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
        bench.disk.open(&bench.path(name), Open::New).unwrap();
        bench.set_content(name, content).await;
    }
    assert_eq!(bench.open().await.groups().len(), 6);
    bench.stop().await;
}

#[tokio::test]
async fn a_duplicated_or_foreign_segment_refuses_to_open() {
    let mut other = Bench::simulated();
    three_segments(&mut other).await;
    let mut bench = Bench::simulated();
    three_segments(&mut bench).await;
    let own = bench.content("0000000002.seg").await;
    let foreign = other.content("0000000002.seg").await;
    for (name, content) in [
        ("0000000009.seg", own.clone()),
        ("0000000002.seg", foreign),
        ("0000000003.seg", own.clone()),
    ] {
        let before = match bench.disk.open(&bench.path(name), Open::Existing) {
            Ok(_) => Some(bench.content(name).await),
            Err(_) => None,
        };
        if before.is_none() {
            bench.disk.open(&bench.path(name), Open::New).unwrap();
        }
        bench.set_content(name, content).await;
        let error = bench.try_open().await.err().expect(name);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
        match before {
            Some(before) => bench.set_content(name, before).await,
            None => bench.disk.remove(&bench.path(name)).unwrap(),
        }
    }
    let log = bench.open().await;
    assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..6));
    bench.stop().await;
}

#[tokio::test]
async fn a_segment_that_counts_and_whose_file_was_used_again_refuses_to_open() {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 4 * ALIGN_BYTES;
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    // Each holds all of some group: no gap of a group's own tells.
    for group in 0..6 {
        append(&log.group(GroupId(group)), entries(1, 0..1)).await.unwrap();
    }
    sealed(&log).await;
    drop(log);
    bench.kill().await;
    let names = bench.segments();
    let newest = names.last().unwrap();
    assert!(names.len() > 2, "{names:?}");
    let ready = |mut content: Vec<u8>| {
        let mark = pool::mark(4 * ALIGN_BYTES);
        content[..mark.len()].copy_from_slice(&mark);
        content
    };
    for (name, content) in [
        (FIRST, bench.content("0000000002.seg").await),
        ("0000000002.seg", bench.content(newest).await),
        (FIRST, ready(bench.content(FIRST).await)),
        ("0000000002.seg", ready(bench.content("0000000002.seg").await)),
        (newest, ready(bench.content(newest).await)),
    ] {
        let before = bench.content(name).await;
        bench.set_content(name, content.clone()).await;
        let error = bench.try_open().await.err().expect(name);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
        assert_eq!((bench.segments(), bench.content(name).await), (names.clone(), content));
        bench.set_content(name, before).await;
    }
    assert_eq!(bench.open().await.groups().len(), 6);
    bench.stop().await;
}

#[tokio::test]
async fn a_segment_that_was_cut_short_refuses_to_open() {
    let mut bench = Bench::simulated();
    three_segments(&mut bench).await;
    let whole = bench.content("0000000002.seg").await;
    for cut in [20, HEADER_BYTES as usize, HEADER_BYTES as usize + 150] {
        bench.set_content("0000000002.seg", whole[..cut].to_vec()).await;
        let error = bench.try_open().await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "cut to {cut}");
        assert!(error.to_string().contains("0000000002.seg"), "cut to {cut}: {error}");
    }
    bench.set_content("0000000002.seg", whole).await;
    let log = bench.open().await;
    assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..6));
    bench.stop().await;
}

#[tokio::test]
async fn a_damaged_footer_is_made_again_at_open() {
    let mut bench = Bench::simulated();
    three_segments(&mut bench).await;
    let whole = bench.content(FIRST).await;
    let trailer = whole.len() - ALIGN_BYTES as usize;
    for at in (trailer..trailer + 68).chain(2 * ALIGN_BYTES as usize..2 * ALIGN_BYTES as usize + 60)
    {
        let mut content = whole.clone();
        content[at] ^= 1;
        bench.set_content(FIRST, content).await;
        let log = bench.open().await;
        assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..6), "flipped at {at}");
        assert_eq!(log.faulty(), []);
        bench.stop().await;
        assert_eq!(bench.content(FIRST).await, whole, "flipped at {at}");
    }
}

#[tokio::test]
async fn another_format_is_refused_untouched() {
    let mut bench = Bench::simulated();
    let mut whole = raw_segment(&mut bench, 2).await;
    bench.stop().await;
    for format in [1u32, 2, 4] {
        whole[8..12].copy_from_slice(&format.to_le_bytes());
        let crc = crc32c::crc32c(&whole[..60]);
        whole[60..64].copy_from_slice(&crc.to_le_bytes());
        let mut bench = with_segment(Bench::simulated, &whole).await;
        let leftover = bench.path("0000000009.seg.tmp");
        bench.disk.open(&leftover, Open::New).unwrap();
        let error = bench.try_open().await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!(bench.content(FIRST).await, whole);
        assert!(bench.disk.open(&leftover, Open::Existing).is_ok());
    }
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
async fn a_name_whose_sync_failed_is_made_again_before_anything_hangs_on_it() {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 4 * ALIGN_BYTES;
    let log = bench.open().await;
    append(&log.group(GROUP), entries(1, 0..1)).await.unwrap();
    bench.simulated.as_ref().unwrap().fail_dir_syncs(1);
    let mut next = 1;
    while append(&log.group(GROUP), entries(1, next..next + 1)).await.is_ok() {
        next += 1;
    }
    assert!(bench.failure().await.contains("Committer"));
    // The page cache has the new segment under its name, and the next sync of the folder succeeds:
    // the one before gets its footer, which says that it has a successor.
    bench.kill().await;
    assert_eq!(bench.segments().len(), 2);
    let reported = read_all(&bench.open().await.group(GROUP)).await;
    assert_eq!(reported, entries(1, 0..next));
    for seed in 1..4 {
        bench.lose_power(seed).await;
        assert_eq!(read_all(&bench.open().await.group(GROUP)).await, reported);
    }
    bench.stop().await;
}

#[tokio::test]
async fn names_that_a_crash_left_halfway_are_put_right() {
    let mut bench = Bench::simulated();
    three_segments(&mut bench).await;
    let log = bench.open().await;
    let all = read_all(&log.group(GROUP)).await;
    bench.stop().await;
    for name in &bench.segments()[..2] {
        bench.disk.rename(&bench.path(name), &bench.path(&format!("{name}.moved"))).unwrap();
    }
    assert_eq!(read_all(&bench.open().await.group(GROUP)).await, all);
    assert!(bench.disk.list(&bench.config.dir).unwrap().iter().all(|n| !n.ends_with(".moved")));
    bench.stop().await;
}

#[tokio::test]
async fn a_full_disk_stops_the_log_with_an_error() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let disk = bench.simulated.clone().unwrap();
    let group = log.group(GROUP);
    append(&group, entries(1, 0..2)).await.unwrap();
    disk.set_capacity(bench.bytes());
    // What the file has grown to is filled first.
    let mut next = 2;
    while append(&group, entries(1, next..next + 1)).await.is_ok() {
        next += 1;
        assert!(next < 1000, "the disk is never full");
    }
    assert!(bench.failure().await.contains("Committer"));
    disk.set_capacity(1 << 30);
    bench.kill().await;
    assert_eq!(read_all(&bench.open().await.group(GROUP)).await, entries(1, 0..next));
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

/// What the page cache alone held at a crash is told of, and the power fails while it is made durable: at each
/// sync of the opening in turn. The opening after that may find it or not, but no part of what was synced.
#[tokio::test]
async fn power_loss_while_the_tail_is_written_again_loses_nothing() {
    for seed in 0..8 {
        let mut passing = 0;
        while opening_loses_power(passing, seed).await {
            passing += 1;
        }
        // The new segment's header and blocks, and its name.
        assert!(passing >= 2, "the opening syncs only {passing} times");
    }
}

/// Whether the opening after a crash was stopped at the sync after so many.
async fn opening_loses_power(passing: u64, seed: u64) -> bool {
    let mut bench = Bench::simulated();
    unclosed(&mut bench, 4).await;
    bench.kill().await;
    let disk = bench.simulated.clone().unwrap();
    disk.hold_syncs_after(passing);
    let (config, metrics) = (bench.config.clone(), Arc::clone(&bench.metrics));
    let tasks = Tasks::new();
    let on: Arc<dyn Disk> = Arc::new(disk.clone());
    let was_stopped = tokio::select! {
        () = until(|| disk.waiting_syncs() == 1) => true,
        opened = Log::open(config, on, Arc::new(OsEntropy), tasks.clone(), metrics) => {
            drop(opened.unwrap());
            false
        }
    };
    disk.power_loss(seed);
    disk.release_syncs();
    tasks.shutdown().await;
    bench.restart().await;
    let log = bench.open().await;
    let read = read_all(&log.group(GROUP)).await;
    assert_eq!(read, entries(1, 0..4), "sync {passing}, seed {seed}");
    drop(log);
    bench.kill().await;
    was_stopped
}

#[tokio::test]
async fn opening_and_crashing_again_and_again_adds_no_segments() {
    let mut bench = Bench::simulated();
    unclosed(&mut bench, 3).await;
    for _ in 0..5 {
        bench.kill().await;
        let log = bench.open().await;
        assert_eq!(read_all(&log.group(GROUP)).await, entries(1, 0..3));
        // The second may be on its way to replace the first.
        assert!(bench.segments().len() <= 3);
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
        assert_eq!(bench.segments(), [FIRST]);
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
