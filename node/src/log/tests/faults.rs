//! Damage met while the log runs: it costs what is damaged, is noted, and can be put right.

use super::group::Place;
use super::segment::ALIGN_BYTES;
use super::segment::footer::offset_of;
use super::*;
use crate::disk::Lasting;

const GROUP: GroupId = GroupId(7);

fn large(term: u64, index: u64) -> Entry {
    Entry { payload: vec![index as u8; 1000].into(), ..entry(term, index) }
}

/// A log with several sealed segments, which reads come from; nothing is rewritten.
async fn sealed_log(bench: &mut Bench, count: u64) -> Log {
    bench.config.segment_bytes = 10 * ALIGN_BYTES;
    bench.config.tail_bytes = 0;
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    for index in 0..count {
        append(&log.group(GROUP), vec![large(1, index)]).await.unwrap();
    }
    sealed(&log).await;
    log
}

/// Where an entry's head lies.
pub(super) async fn place_of(log: &Log, group: GroupId, index: u64) -> Place {
    let (place, run) = {
        let state = log.shared.state.lock();
        let known = &state.groups[&group];
        (known.place(index), known.run(index).copied())
    };
    if let Some(place) = place {
        return place;
    }
    let run = run.unwrap();
    let trailer = log.shared.state.lock().segments[&run.segment].trailer().unwrap();
    let file = log.shared.files.get(run.segment).unwrap();
    let at = run.table_at + (index - run.first);
    let position = trailer.read_positions(&*file, at, 1).await.unwrap()[0];
    Place { segment: run.segment, offset: offset_of(position) }
}

fn flip(bench: &Bench, segment: u64, offset: u64) {
    let path = bench.path(&super::segment::name(segment));
    bench.simulated.as_ref().unwrap().flip_bit(&path, offset, 3).unwrap();
}

/// One block with one entry: its head, then its payload.
const PAYLOAD_AT: u64 = 64;

#[tokio::test]
async fn rot_is_an_error_of_the_read_not_wrong_data_wherever_it_is() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 20).await;
    let group = log.group(GROUP);
    let whole: Vec<Entry> = (0..20).map(|index| large(1, index)).collect();
    for index in [1, 19] {
        let place = place_of(&log, GROUP, index).await;
        for at in (0..PAYLOAD_AT + 1000).step_by(13) {
            flip(&bench, place.segment, place.offset + at);
            let error = group.read(index..20, usize::MAX).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "at {at}");
            assert_eq!(Faulty::of(&error), Some(Faulty { group: GROUP, index }));
            assert_eq!(log.faulty(), [(GROUP, index)]);
            let before = group.read(0..20, usize::MAX).await.unwrap();
            assert_eq!(before[..], whole[..index as usize]);
            let after = group.read(index + 1..20, usize::MAX).await.unwrap();
            assert_eq!(after[..], whole[index as usize + 1..]);
            flip(&bench, place.segment, place.offset + at);
            log.shared.state.lock().groups.get_mut(&GROUP).unwrap().faulty.clear();
        }
    }
    assert_eq!(group.read(0..20, usize::MAX).await.unwrap(), whole);
    bench.stop().await;
}

#[tokio::test]
async fn a_repaired_entry_is_read_again_and_stays_so() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 20).await;
    let group = log.group(GROUP);
    // One with its head, one without, one in a segment that is not sealed.
    for (index, at) in [(2, PAYLOAD_AT + 5), (5, 9), (19, PAYLOAD_AT)] {
        let place = place_of(&log, GROUP, index).await;
        flip(&bench, place.segment, place.offset + at);
        assert!(group.read(index..20, 1).await.is_err());
    }
    assert_eq!(log.faulty(), [(GROUP, 2), (GROUP, 5), (GROUP, 19)]);
    let wrong = Entry { payload: vec![9; 1000].into(), ..large(1, 2) };
    for wrong in [wrong, large(2, 2), Entry { kind: EntryKind::Blank, ..large(1, 2) }] {
        let refused = group.repair(wrong).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    for index in [2, 5, 19, 7, 400] {
        group.repair(large(1, index)).await.unwrap();
    }
    assert_eq!(log.faulty(), []);
    let whole: Vec<Entry> = (0..20).map(|index| large(1, index)).collect();
    assert_eq!(read_all(&group).await, whole);
    assert!(bench.metrics.encode().contains("tristream_log_repaired_entries_total 3"));
    drop((log, group));
    for seed in 0..3 {
        bench.lose_power(seed).await;
        let log = bench.open().await;
        assert_eq!(read_all(&log.group(GROUP)).await, whole);
        sealed(&log).await;
    }
    bench.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_repaired_like_what_is_damaged() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 20).await;
    let group = log.group(GROUP);
    let disk = bench.simulated.clone().unwrap();
    let whole: Vec<Entry> = (0..20).map(|index| large(1, index)).collect();
    let bad = |place: Place, from: u64, len: u64| {
        let path = bench.path(&super::segment::name(place.segment));
        let bytes = place.offset + from..place.offset + from + len;
        disk.fail_reads_of(&path, bytes, Lasting::ForEver).unwrap();
    };
    // A payload; a head; both, in the newest of them.
    for (index, from, len) in [(2, PAYLOAD_AT + 100, 512), (5, 0, 8), (19, 0, 512)] {
        bad(place_of(&log, GROUP, index).await, from, len);
        let error = group.read(index..20, usize::MAX).await.unwrap_err();
        assert_eq!(Faulty::of(&error), Some(Faulty { group: GROUP, index }), "{error}");
        let before = group.read(0..index, usize::MAX).await;
        assert!(before.is_ok_and(|read| !read.is_empty()));
    }
    assert_eq!(log.faulty(), [(GROUP, 2), (GROUP, 5), (GROUP, 19)]);
    assert_eq!(group.read(6..19, usize::MAX).await.unwrap()[..], whole[6..19]);
    for index in [2, 5, 19] {
        group.repair(large(1, index)).await.unwrap();
    }
    assert_eq!(read_all(&group).await, whole);
    // What has no footer is read at the next open, and cannot be: nothing is changed by that.
    append(&group, vec![large(1, 20)]).await.unwrap();
    bad(place_of(&log, GROUP, 20).await, 0, 512);
    let names = bench.segments();
    drop((log, group));
    bench.kill().await;
    let error = bench.try_open().await.err().unwrap();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    assert_eq!(bench.segments(), names);
    bench.stop().await;
}

#[tokio::test]
async fn a_footer_that_cannot_be_read_now_and_then_is_no_matter() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 20).await;
    let group = log.group(GROUP);
    let disk = bench.simulated.clone().unwrap();
    let run = *log.shared.state.lock().groups[&GROUP].run(0).unwrap();
    let trailer = log.shared.state.lock().segments[&run.segment].trailer().unwrap();
    let path = bench.path(&super::segment::name(run.segment));
    let whole: Vec<Entry> = (0..20).map(|index| large(1, index)).collect();
    for times in 1..4 {
        let at = trailer.table_offset(run.table_at);
        disk.fail_reads_of(&path, at..at + 8, Lasting::Times(times)).unwrap();
        // Made again; as long as it cannot be read, that is an error, and no other entry.
        let mut errors = 0;
        let read = loop {
            match group.read(0..20, usize::MAX).await {
                Ok(read) => break read,
                Err(_) => errors += 1,
            }
            assert!(errors <= times, "{times}");
        };
        assert_eq!(read, whole);
        assert_eq!(log.faulty(), []);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_repair_goes_with_its_entry_and_outlives_its_segment() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 20).await;
    let group = log.group(GROUP);
    for index in [2, 6] {
        let place = place_of(&log, GROUP, index).await;
        flip(&bench, place.segment, place.offset + PAYLOAD_AT);
        assert!(group.read(index..20, 1).await.is_err());
        group.repair(large(1, index)).await.unwrap();
    }
    // The segment with the repairs is given up; they are carried on.
    let repaired = log.shared.state.lock().groups[&GROUP].repairs[&6].segment;
    let other = log.group(GroupId(8));
    for index in 0..30 {
        append(&other, vec![large(1, index)]).await.unwrap();
    }
    group.truncate_after(Some(10)).await.unwrap();
    other.purge(id(1, 29)).await.unwrap();
    for index in 30..40 {
        append(&other, vec![large(1, index)]).await.unwrap();
    }
    until(|| !log.shared.state.lock().segments.contains_key(&repaired)).await;
    let whole: Vec<Entry> = (0..11).map(|index| large(1, index)).collect();
    assert_eq!(read_all(&group).await, whole);
    group.truncate_after(Some(4)).await.unwrap();
    append(&group, (5..9).map(|index| large(3, index)).collect()).await.unwrap();
    let mut expected: Vec<Entry> = (0..5).map(|index| large(1, index)).collect();
    expected.extend((5..9).map(|index| large(3, index)));
    assert_eq!(read_all(&group).await, expected);
    drop((log, group, other));
    bench.lose_power(1).await;
    assert_eq!(read_all(&bench.open().await.group(GROUP)).await, expected);
    bench.stop().await;
}

#[tokio::test]
async fn a_footer_that_rots_while_the_log_runs_is_made_again() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 20).await;
    let group = log.group(GROUP);
    let run = *log.shared.state.lock().groups[&GROUP].run(0).unwrap();
    let trailer = log.shared.state.lock().segments[&run.segment].trailer().unwrap();
    let before = bench.content(&super::segment::name(run.segment)).await;
    for at in [trailer.table_offset(2), trailer.table_offset(0) + 1] {
        flip(&bench, run.segment, at);
        let whole: Vec<Entry> = (0..20).map(|index| large(1, index)).collect();
        assert_eq!(read_all(&group).await, whole);
        assert_eq!(log.faulty(), []);
        assert_eq!(bench.content(&super::segment::name(run.segment)).await, before);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_footer_that_was_written_without_a_damaged_checkpoint_is_made_again_too() {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 10 * ALIGN_BYTES;
    bench.config.tail_bytes = 0;
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, vec![large(1, 0)]).await.unwrap();
    group.checkpoint(id(1, 0), Bytes::from_static(b"state")).await.unwrap();
    for index in 1..4 {
        append(&group, vec![large(1, index)]).await.unwrap();
    }
    let place = log.shared.state.lock().groups[&GROUP].checkpoints[0].place.unwrap();
    drop((log, group));
    bench.kill().await;
    let payload_at = super::rot::payload_at(&bench, place).await;
    flip(&bench, place.segment, place.offset + payload_at);

    let log = bench.open().await;
    let group = log.group(GROUP);
    for index in 4..20 {
        append(&group, vec![large(1, index)]).await.unwrap();
    }
    sealed(&log).await;
    let whole: Vec<Entry> = (0..20).map(|index| large(1, index)).collect();
    let trailer = log.shared.state.lock().segments[&place.segment].trailer().unwrap();
    flip(&bench, place.segment, trailer.table_offset(0) + 1);
    assert_eq!(read_all(&group).await, whole);
    assert_eq!(log.faulty(), []);
    assert!(bench.metrics.encode().contains("tristream_log_mended_footers_total 1"));
    drop((log, group));
    bench.kill().await;
    assert_eq!(read_all(&bench.open().await.group(GROUP)).await, whole);
    bench.stop().await;
}

#[tokio::test]
async fn a_place_from_a_footer_that_was_made_again_meanwhile_is_looked_up_again() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 20).await;
    let group = log.group(GROUP);
    let place = place_of(&log, GROUP, 2).await;
    let other = Place { offset: place.offset + 8, ..place };
    log.shared.suspect(GROUP, id(1, 2), other, None).await.unwrap();
    assert_eq!(log.faulty(), []);
    // A damaged repair lies where memory says, whatever the footer says of its entry.
    flip(&bench, place.segment, place.offset + PAYLOAD_AT);
    assert!(group.read(2..3, 1).await.is_err());
    group.repair(large(1, 2)).await.unwrap();
    let repair = Place { segment: place.segment, offset: place.offset + 8 };
    log.shared.state.lock().groups.get_mut(&GROUP).unwrap().repairs.insert(2, repair);
    let error = log.shared.suspect(GROUP, id(1, 2), repair, None).await.unwrap_err();
    assert_eq!(Faulty::of(&error), Some(Faulty { group: GROUP, index: 2 }));
    bench.stop().await;
}

#[tokio::test]
async fn scrubbing_finds_damage_before_a_reader_does() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 30).await;
    let group = log.group(GROUP);
    group.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    group.checkpoint(id(1, 8), Bytes::from_static(b"state")).await.unwrap();
    for index in 30..60 {
        append(&group, vec![large(1, index)]).await.unwrap();
    }
    sealed(&log).await;
    scrub::pass(&log.shared).await;
    assert_eq!(log.faulty(), []);
    // A payload; a head; a block's header; a footer; the vote; a checkpoint.
    let (payload, head) = (place_of(&log, GROUP, 1).await, place_of(&log, GROUP, 4).await);
    let header = place_of(&log, GROUP, 9).await;
    flip(&bench, payload.segment, payload.offset + PAYLOAD_AT + 7);
    flip(&bench, head.segment, head.offset + 3);
    flip(&bench, header.segment, header.offset - 60);
    let run = *log.shared.state.lock().groups[&GROUP].run(20).unwrap();
    let trailer = log.shared.state.lock().segments[&run.segment].trailer().unwrap();
    flip(&bench, run.segment, trailer.table_offset(1));
    let (vote, checkpoint) = {
        let state = log.shared.state.lock();
        let group = &state.groups[&GROUP];
        (group.vote.as_ref().unwrap().place.unwrap(), group.checkpoints[0].place.unwrap())
    };
    flip(&bench, vote.segment, vote.offset + PAYLOAD_AT);
    flip(&bench, checkpoint.segment, checkpoint.offset + 1);
    scrub::pass(&log.shared).await;
    // The head's block is lost as the scan sees it, but each entry is looked at by itself.
    assert_eq!(log.faulty(), [(GROUP, 1), (GROUP, 4)]);
    assert_eq!(group.checkpoints(), []);
    for index in [1, 4] {
        group.repair(large(1, index)).await.unwrap();
    }
    let metrics = bench.metrics.encode();
    assert!(metrics.contains("tristream_log_mended_footers_total 1"), "{metrics}");
    drop((log, group));
    bench.kill().await;
    let group = bench.open().await.group(GROUP);
    assert_eq!(group.state().vote, Some(Bytes::from_static(b"vote")));
    let whole: Vec<Entry> = (0..60).map(|index| large(1, index)).collect();
    assert_eq!(read_all(&group).await, whole);
    bench.stop().await;
}

#[tokio::test]
async fn a_damaged_checkpoint_is_told_once_and_the_one_before_counts() {
    let mut bench = Bench::simulated();
    let log = bench.open().await;
    let group = log.group(GROUP);
    append(&group, entries(1, 0..10)).await.unwrap();
    group.checkpoint(id(1, 4), Bytes::from_static(b"older")).await.unwrap();
    group.checkpoint(id(1, 8), Bytes::from_static(b"newer")).await.unwrap();
    let log = bench.reopen().await;
    let group = log.group(GROUP);
    let place = log.shared.state.lock().groups[&GROUP].checkpoints[1].place.unwrap();
    flip(&bench, place.segment, place.offset);
    assert_eq!(group.state().checkpoint, Some(id(1, 8)));
    let error = group.read_checkpoint(id(1, 8)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(group.state().checkpoint, Some(id(1, 4)));
    assert_eq!(group.read_checkpoint(id(1, 8)).await.unwrap(), None);
    let older = group.read_checkpoint(id(1, 4)).await.unwrap();
    assert_eq!(older, Some(Bytes::from_static(b"older")));
    bench.stop().await;
}

#[tokio::test]
async fn memory_keeps_no_entries_of_sealed_segments() {
    let mut bench = Bench::simulated();
    let log = sealed_log(&mut bench, 200).await;
    let slots = |log: &Log| {
        let state = log.shared.state.lock();
        (0..200).filter(|index| state.groups[&GROUP].slot(*index).is_some()).count()
    };
    assert!(slots(&log) < 12, "{} of them", slots(&log));
    let log = bench.reopen().await;
    assert!(slots(&log) < 12, "{} of them", slots(&log));
    assert_eq!(read_all(&log.group(GROUP)).await.len(), 200);
    bench.stop().await;
}
