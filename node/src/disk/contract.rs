//! What every disk must do: one suite, run on the real and on the simulated disk.

use std::path::Path;

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
    let end = 100 + whole.len() as u64;
    let read = file.read_ranges(vec![100..end, end - 1..end + 1, 2..2, 2..7]).await;
    assert_eq!(read[0].as_ref().unwrap(), &whole);
    let beyond = read[1].as_ref().unwrap_err();
    assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof, "it takes nobody along");
    assert!(read[2].as_ref().unwrap().is_empty());
    assert_eq!(&read[3].as_ref().unwrap()[..], b"hello");
    assert_eq!(read.len(), 4);
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
