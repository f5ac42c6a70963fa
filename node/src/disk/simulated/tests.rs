//! Faults of the simulated disk: each happens, only when asked for, and as it is described.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::disk::{Disk, File, Open};

/// A file with synced "durable", then unsynced "at risk", both 6000 bytes.
async fn at_risk(disk: &SimulatedDisk) -> Arc<dyn File> {
    disk.create_dir_all(Path::new("/d")).unwrap();
    let file = disk.open(Path::new("/d/f"), Open::New).unwrap();
    file.write_at(0, vec![Bytes::from(vec![1; 6000])]).await.unwrap();
    file.sync().await.unwrap();
    disk.sync_dir(Path::new("/d")).await.unwrap();
    file.write_at(6000, vec![Bytes::from(vec![2; 6000])]).await.unwrap();
    file
}

async fn content(disk: &SimulatedDisk) -> Vec<u8> {
    let disk = disk.restarted();
    let file = disk.open(Path::new("/d/f"), Open::Existing).unwrap();
    let len = file.len().unwrap() as usize;
    file.read_at(0, len).await.unwrap().to_vec()
}

#[tokio::test]
async fn power_loss_keeps_what_was_synced_and_sometimes_tears_the_rest() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let disk = SimulatedDisk::new();
        at_risk(&disk).await;
        disk.power_loss(seed);
        let content = content(&disk).await;
        assert!(content[..6000].iter().all(|byte| *byte == 1));
        match content[6000..].iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            6000 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 10 && kept > 10 && torn > 10, "{lost} lost, {kept} kept, {torn} torn");
}

#[tokio::test]
async fn a_process_crash_loses_nothing_and_proves_nothing() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        let before = at_risk(&disk).await;
        disk.process_crash();
        assert!(before.sync().await.is_err(), "a dead handle");
        assert!(disk.list(Path::new("/d")).is_err(), "a dead handle");
        assert_eq!(content(&disk).await.len(), 12_000);
        disk.power_loss(seed);
        lost += usize::from(content(&disk).await.len() < 12_000);
    }
    assert!(lost > 0);
}

#[tokio::test]
async fn a_failed_sync_loses_what_later_syncs_claim() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.fail_syncs(1);
    assert!(file.sync().await.is_err());
    file.sync().await.unwrap();
    assert_eq!(content(&disk).await.len(), 12_000);
    disk.power_loss(1);
    assert_eq!(content(&disk).await.len(), 6000);
}

#[tokio::test]
async fn a_lying_disk_is_found_out_by_a_power_loss() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        let file = at_risk(&disk).await;
        disk.lie();
        file.sync().await.unwrap();
        disk.power_loss(seed);
        lost += usize::from(content(&disk).await.len() < 12_000);
    }
    assert!(lost > 0);
}

#[tokio::test]
async fn an_unsynced_name_may_be_lost() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        at_risk(&disk).await;
        disk.rename(Path::new("/d/f"), Path::new("/d/g")).unwrap();
        disk.power_loss(seed);
        let names = disk.restarted().list(Path::new("/d")).unwrap();
        lost += usize::from(names == ["f"]);
        assert!(!names.is_empty(), "a rename has one of both names, or both");
    }
    assert!(lost > 0);
}

#[tokio::test]
async fn a_full_disk_says_so() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.set_capacity(12_010);
    file.write_at(12_000, vec![Bytes::from_static(b"0123456789")]).await.unwrap();
    let full = file.write_at(12_010, vec![Bytes::from_static(b"x")]).await.unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.space(Path::new("/d")).unwrap().free_bytes, 0);
    let full = file.allocate(12_011).await.unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 12_010);
}

#[tokio::test]
async fn held_syncs_wait() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.hold_syncs();
    let mut sync = file.sync();
    assert!(futures::poll!(&mut sync).is_pending());
    assert_eq!(disk.waiting_syncs(), 1);
    disk.release_syncs();
    sync.await.unwrap();
    assert_eq!(disk.waiting_syncs(), 0);
}

#[tokio::test]
async fn a_number_of_syncs_pass_before_the_next_are_held() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.hold_syncs_after(2);
    file.sync().await.unwrap();
    file.sync().await.unwrap();
    let mut sync = file.sync();
    assert!(futures::poll!(&mut sync).is_pending());
    disk.release_syncs();
    sync.await.unwrap();
    file.sync().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_written_while_a_sync_runs_waits_for_the_next() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        let file = at_risk(&disk).await;
        disk.set_sync_latency(seed, Duration::from_millis(1), Duration::from_millis(9));
        let mut sync = file.sync();
        assert!(futures::poll!(&mut sync).is_pending());
        file.write_at(12_000, vec![Bytes::from(vec![3; 100])]).await.unwrap();
        sync.await.unwrap();
        assert_eq!(disk.unsynced_bytes(), 100);
        disk.power_loss(seed);
        let damage = disk.damage();
        assert_eq!(damage.lost + damage.kept + damage.torn, 1);
        let content = content(&disk).await;
        assert!(content.len() >= 12_000, "synced");
        assert_eq!(content.iter().filter(|byte| **byte == 3).count() > 0, damage.lost == 0);
        lost += damage.lost;
    }
    assert!(lost > 0);
}

#[tokio::test]
async fn a_flipped_bit_stays() {
    let disk = SimulatedDisk::new();
    at_risk(&disk).await;
    disk.flip_bit(Path::new("/d/f"), 5, 3).unwrap();
    disk.power_loss(3);
    assert_eq!(content(&disk).await[5], 1 ^ 8);
}

/// Whether a new file, a new folder, a write behind the end and a longer file are refused, in this
/// order.
async fn refused(disk: &SimulatedDisk, file: &dyn File, turn: usize) -> [bool; 4] {
    let full = |result: io::Result<()>| match result {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            true
        }
    };
    let len = file.len().unwrap();
    [
        full(disk.open(&PathBuf::from(format!("/d/new-{turn}")), Open::New).map(drop)),
        full(disk.create_dir_all(&PathBuf::from(format!("/d/dir-{turn}")))),
        full(file.write_at(len, vec![Bytes::from_static(b"x")]).await),
        full(file.set_len(len + 2).await),
    ]
}

#[tokio::test]
async fn on_a_full_disk_all_that_takes_room_is_refused_and_nothing_else() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    assert_eq!(refused(&disk, &*file, 1).await, [false; 4]);
    disk.set_capacity(12_000);
    assert_eq!(refused(&disk, &*file, 2).await, [true; 4]);

    file.write_synced(0, vec![Bytes::from_static(b"over")]).await.unwrap();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.rename(Path::new("/d/f"), Path::new("/d/g")).unwrap();
    disk.rename(Path::new("/d/g"), Path::new("/d/f")).unwrap();
    disk.sync_dir(Path::new("/d")).await.unwrap();
    assert_eq!(&content(&disk).await[..4], b"over");
    file.set_len(11_000).await.unwrap();
    assert_eq!(refused(&disk, &*file, 3).await, [false; 4], "what was cut is free");
}

#[tokio::test]
async fn what_still_fits_is_written_before_the_disk_is_full() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.set_capacity(12_007);
    let parts = vec![Bytes::from_static(b"01234"), Bytes::from_static(b"56789")];
    let full = file.write_at(12_000, parts).await.unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(&content(&disk).await[12_000..], b"0123456");
    assert!(file.write_at(12_009, vec![Bytes::from_static(b"x")]).await.is_err(), "a gap");
    assert_eq!(file.len().unwrap(), 12_007);
}

#[tokio::test]
async fn the_disk_fills_at_the_call_that_was_chosen() {
    for chosen in 0..4 {
        let disk = SimulatedDisk::new();
        let file = at_risk(&disk).await;
        let before = disk.space_calls();
        disk.fill_after(chosen);
        let refused_from = |from: u64| [0, 1, 2, 3].map(|call| call >= from);
        assert_eq!(refused(&disk, &*file, 1).await, refused_from(chosen));
        assert_eq!(disk.space_calls(), before + 4);
        assert_eq!(disk.space(Path::new("/d")).unwrap().free_bytes, 0);
        disk.set_capacity(1 << 20);
        assert_eq!(refused(&disk, &*file, 2).await, [false; 4], "there is room again");
    }
}

#[tokio::test]
async fn an_unlinked_file_takes_room_until_it_is_closed() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    let again = disk.open(Path::new("/d/f"), Open::Existing).unwrap();
    disk.set_capacity(20_000);
    let free = || disk.space(Path::new("/d")).unwrap().free_bytes;
    disk.remove(Path::new("/d/f")).unwrap();
    disk.sync_dir(Path::new("/d")).await.unwrap();
    drop(file);
    assert_eq!(free(), 8_000);
    assert_eq!(again.read_at(0, 1).await.unwrap()[0], 1, "who holds it open can go on reading");
    drop(again);
    assert_eq!(free(), 20_000);
}

#[tokio::test]
async fn a_read_fails_once_and_then_no_more() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.fail_reads(1);
    let failed = file.read_at(0, 1).await.unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    file.read_at(0, 1).await.unwrap();
}

#[tokio::test]
async fn a_bad_range_fails_reads_that_touch_it_as_often_as_was_said() {
    let (path, moved) = (Path::new("/d/f"), Path::new("/d/g"));
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.fail_reads_of(path, 100..200, Lasting::Times(2)).unwrap();
    file.read_at(0, 100).await.unwrap();
    file.read_at(200, 100).await.unwrap();
    assert!(file.read_at(0, 101).await.is_err());
    assert!(file.read_at(199, 100).await.is_err());
    file.read_at(100, 100).await.unwrap();

    disk.fail_reads_of(path, 5_999..6_000, Lasting::ForEver).unwrap();
    disk.rename(path, moved).unwrap();
    disk.sync_dir(Path::new("/d")).await.unwrap();
    disk.power_loss(1);
    let file = disk.restarted().open(moved, Open::Existing).unwrap();
    for _ in 0..3 {
        assert!(file.read_at(5_990, 10).await.is_err(), "after a power loss too");
    }
    file.read_at(0, 5_999).await.unwrap();
    let nothing = disk.fail_reads_of(path, 0..1, Lasting::ForEver).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn rot_takes_synced_bits_by_seed_and_stays() {
    let (path, mut seen) = (Path::new("/d/f"), std::collections::BTreeSet::new());
    for seed in [1, 2, 1] {
        let disk = SimulatedDisk::new();
        at_risk(&disk).await;
        let flips = disk.rot(path, 5_000..12_000, 3, seed).unwrap();
        assert!(
            flips.iter().all(|flip| (5_000..6_000).contains(&flip.offset)),
            "synced: {flips:?}"
        );
        disk.power_loss(seed);
        let mut expected = vec![1; 6_000];
        flips.iter().for_each(|flip| expected[flip.offset as usize] ^= 1 << flip.bit);
        assert_eq!(content(&disk).await[..6_000], expected);
        seen.insert(flips);
    }
    assert_eq!(seen.len(), 2, "one seed rots the same bits, two do not");
    let disk = SimulatedDisk::new();
    at_risk(&disk).await;
    assert!(disk.rot(path, 6_000..12_000, 1, 1).is_err(), "nothing there was synced");
}

#[tokio::test]
async fn a_bit_of_an_unsynced_byte_stays_flipped_when_it_is_synced() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.flip_bit(Path::new("/d/f"), 7_000, 0).unwrap();
    file.sync().await.unwrap();
    disk.power_loss(1);
    assert_eq!(content(&disk).await[7_000], 2 ^ 1);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_answers_when_the_stall_is_over() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    let dir = Path::new("/d");
    let begun = tokio::time::Instant::now();
    disk.stall(Duration::from_secs(5));
    let (mut read, mut sync) = (file.read_at(0, 1), file.sync());
    let mut write = file.write_at(0, vec![Bytes::from_static(b"w")]);
    let (mut cut, mut names) = (file.set_len(3), disk.sync_dir(dir));
    assert!(futures::poll!(&mut read).is_pending());
    assert!(futures::poll!(&mut sync).is_pending());
    assert!(futures::poll!(&mut write).is_pending());
    assert!(futures::poll!(&mut cut).is_pending());
    assert!(futures::poll!(&mut names).is_pending());
    let (read, sync, write, cut, names) = futures::join!(read, sync, write, cut, names);
    assert!(read.is_ok() && sync.is_ok() && write.is_ok() && cut.is_ok() && names.is_ok());
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    file.read_at(0, 1).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[tokio::test]
async fn a_failed_sync_of_a_folder_loses_the_names_that_later_syncs_claim() {
    let disk = SimulatedDisk::new();
    at_risk(&disk).await;
    let dir = Path::new("/d");
    disk.rename(Path::new("/d/f"), Path::new("/d/g")).unwrap();
    disk.fail_dir_syncs(1);
    assert!(disk.sync_dir(dir).await.is_err());
    disk.sync_dir(dir).await.unwrap();
    assert_eq!(disk.list(dir).unwrap(), ["g"], "readable");
    for seed in 0..20 {
        disk.power_loss(seed);
        assert_eq!(disk.restarted().list(dir).unwrap(), ["f"], "and never durable");
    }
}

#[tokio::test]
async fn the_same_calls_give_the_same_bytes() {
    let run = async |seed| {
        let disk = SimulatedDisk::new();
        at_risk(&disk).await;
        disk.rot(Path::new("/d/f"), 0..6_000, 5, seed).unwrap();
        disk.power_loss(seed);
        content(&disk).await
    };
    for seed in 0..20 {
        assert_eq!(run(seed).await, run(seed).await);
    }
}

#[tokio::test]
async fn one_call_of_a_kind_fails_when_its_turn_has_come() {
    let disk = SimulatedDisk::new();
    let file = at_risk(&disk).await;
    disk.fail_after(Call::Read, 2);
    let mut failed = Vec::new();
    for _ in 0..4 {
        file.sync().await.unwrap();
        failed.push(file.read_at(0, 1).await.is_err());
    }
    assert_eq!(failed, [false, false, true, false]);
    assert!(!disk.is_failure_due());
    file.write_at(12_000, vec![Bytes::from_static(b"x")]).await.unwrap();
    disk.fail_after(Call::Sync, 0);
    disk.sync_dir(Path::new("/d")).await.unwrap();
    assert!(disk.is_failure_due());
    file.sync().await.unwrap_err();
    file.sync().await.unwrap();
    disk.power_loss(1);
    assert_eq!(content(&disk).await.len(), 12_000);
    disk.fail_after(Call::DirSync, 0);
    disk.process_crash();
    assert!(!disk.is_failure_due(), "it was the old process's");
}
