//! What every disk must do: one suite, run on the real and on the simulated disk.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::*;

async fn every_disk(disk: &dyn Disk, root: &Path) {
    let dir = root.join("a/b");
    disk.create_dir_all(&dir).unwrap();
    disk.create_dir_all(&dir).unwrap();
    names(disk, &dir).await;
    files(disk, &dir).await;
    locks(disk, &dir);
    let space = disk.space(&dir).unwrap();
    assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
}

async fn names(disk: &dyn Disk, dir: &Path) {
    let (x, y) = (dir.join("x"), dir.join("y"));
    assert!(disk.list(&dir.join("absent")).is_err());
    assert_eq!(disk.open(&x, Open::Existing).err().unwrap().kind(), io::ErrorKind::NotFound);
    assert!(disk.open(&dir.join("absent/x"), Open::New).is_err());
    let file = disk.open(&y, Open::New).unwrap();
    file.write_at(0, vec![Bytes::from_static(b"why")]).await.unwrap();
    disk.open(&x, Open::New).unwrap();
    assert_eq!(disk.open(&x, Open::New).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.list(dir).unwrap(), ["x", "y"]);

    let replaced = disk.open(&x, Open::Existing).unwrap();
    disk.rename(&y, &x).unwrap();
    disk.sync_dir(dir).await.unwrap();
    assert_eq!(disk.list(dir).unwrap(), ["x"]);
    assert!(replaced.is_empty().unwrap(), "an open file outlives its name");
    let renamed = disk.open(&x, Open::Existing).unwrap();
    assert_eq!(&renamed.read_at(0, 3).await.unwrap()[..], b"why");

    disk.remove(&x).unwrap();
    assert_eq!(disk.remove(&x).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(&renamed.read_at(0, 3).await.unwrap()[..], b"why");
    assert_eq!(disk.list(dir).unwrap(), Vec::<String>::new());
}

async fn files(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("f"), Open::New).unwrap();
    assert!(file.is_empty().unwrap());
    let parts = vec![Bytes::from_static(b"hello "), Bytes::from_static(b"world")];
    file.write_synced(2, parts).await.unwrap();
    assert_eq!(file.len().unwrap(), 13);
    assert_eq!(&file.read_at(0, 13).await.unwrap()[..], b"\0\0hello world");
    let beyond = file.read_at(10, 4).await.unwrap_err();
    assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    file.write_at(8, vec![Bytes::from_static(b"W")]).await.unwrap();
    file.sync().await.unwrap();
    file.set_len(10).await.unwrap();
    file.set_len(12).await.unwrap();
    let again = disk.open(&dir.join("f"), Open::Existing).unwrap();
    assert_eq!(&again.read_at(0, 12).await.unwrap()[..], b"\0\0hello Wo\0\0");
    file.allocate(14).await.unwrap();
    assert_eq!(&again.read_at(0, 14).await.unwrap()[..], b"\0\0hello Wo\0\0\0\0");
    file.allocate(3).await.unwrap();
    assert_eq!(file.len().unwrap(), 14, "it never cuts");
    let part = |at: usize| Bytes::from(vec![at as u8; at % 3]);
    let parts: Vec<Bytes> = (0..3000).map(part).collect();
    let whole = parts.concat();
    file.write_at(100, parts).await.unwrap();
    assert_eq!(file.len().unwrap(), 100 + whole.len() as u64);
    assert_eq!(file.read_at(100, whole.len()).await.unwrap(), whole);
}

fn locks(disk: &dyn Disk, dir: &Path) {
    let guard = disk.lock(dir).unwrap();
    assert!(disk.lock(dir).is_err());
    drop(guard);
    drop(disk.lock(dir).unwrap());
}

#[tokio::test]
async fn the_real_disk_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    every_disk(&RealDisk, root.path()).await;
}

#[tokio::test]
async fn the_simulated_disk_keeps_the_contract() {
    every_disk(&SimulatedDisk::new(), Path::new("/root")).await;
}

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
