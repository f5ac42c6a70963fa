//! A disk that is watched: which records it has promised to keep, from when on.
//!
//! A copy counts from the answer to the sync on that covers its block. What a loss of power happens to leave does not
//! count: a node that finds it writes and syncs it again before it tells of it.
//! Invariant: the disk does what it would do unwatched, and takes as long. Must not know who was told what.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tristream_node::disk::{Disk, File, Open, SimulatedDisk, Space};

use super::blocks::{self, Copy};
use super::place::LOG_DIR;

/// Who hears of each copy that is kept from now on.
pub(super) type Tell = Arc<dyn Fn(&Copy) + Send + Sync>;

/// A disk and those who watch it. Clones are the same.
#[derive(Clone)]
pub(super) struct WatchedDisk {
    /// Faults are injected here, all but losses of power.
    pub(super) disk: SimulatedDisk,
    watch: Arc<Watch>,
}

/// What was written and is not known to be kept. It outlives processes, as the page cache does.
struct Watch {
    unsynced: Mutex<HashMap<PathBuf, Arc<Mutex<Unsynced>>>>,
    tell: Tell,
}

/// Of one file.
#[derive(Default)]
struct Unsynced {
    /// By the number of the write.
    copies: Vec<(u64, Copy)>,
    writes: u64,
}

impl WatchedDisk {
    pub(super) fn new(disk: SimulatedDisk, tell: Tell) -> WatchedDisk {
        WatchedDisk { disk, watch: Arc::new(Watch { unsynced: Mutex::default(), tell }) }
    }

    /// For the process that starts after a crash.
    pub(super) fn restarted(&self) -> WatchedDisk {
        WatchedDisk { disk: self.disk.restarted(), watch: self.watch.clone() }
    }

    /// The power fails: [`SimulatedDisk::power_loss`].
    pub(super) fn power_loss(&self, seed: u64) {
        self.disk.power_loss(seed);
        self.watch.unsynced.lock().clear();
    }

    /// The copies in its log that no loss of power takes any more, and that are whole.
    pub(super) fn kept(&self) -> Vec<Copy> {
        let dir = Path::new(LOG_DIR);
        let names = self.disk.restarted().list(dir).unwrap_or_default();
        let of_segment = |name: String| {
            let number = name.strip_suffix(".seg")?.parse().ok()?;
            Some(copies_of(number, self.disk.synced(&dir.join(name)).ok()?.into()))
        };
        names.into_iter().filter_map(of_segment).flatten().collect()
    }
}

/// Those in the blocks of a segment.
fn copies_of(number: u64, segment: Bytes) -> Vec<Copy> {
    let (mut copies, mut at) = (Vec::new(), blocks::ALIGN);
    // A file that was used before may still hold the blocks of then.
    while let Some(block) = blocks::block(&segment, at).filter(|block| block.segment == number) {
        copies.extend(block.entries.iter().flat_map(|entry| entry.copies(&segment)));
        at = block.end;
    }
    copies
}

/// Those in the blocks that are written at once.
fn copies_in(parts: &[Bytes]) -> Vec<Copy> {
    let (mut copies, mut at) = (Vec::new(), 0);
    if !parts.first().is_some_and(|part| blocks::begins(part)) {
        return copies;
    }
    let written = Bytes::from(parts.concat());
    while let Some(block) = blocks::block(&written, at) {
        copies.extend(block.entries.iter().flat_map(|entry| entry.copies(&written)));
        at = block.end;
    }
    copies
}

impl Watch {
    fn of(&self, path: &Path) -> Arc<Mutex<Unsynced>> {
        self.unsynced.lock().entry(path.to_owned()).or_default().clone()
    }
}

impl Disk for WatchedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, how)?;
        let unsynced = self.watch.of(path);
        Ok(Arc::new(WatchedFile { file, unsynced, tell: self.watch.tell.clone() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)?;
        self.watch.unsynced.lock().remove(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut unsynced = self.watch.unsynced.lock();
        if let Some(file) = unsynced.remove(from) {
            unsynced.insert(to.to_owned(), file);
        }
        Ok(())
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        self.disk.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk.space(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(dir)
    }
}

struct WatchedFile {
    file: Arc<dyn File>,
    unsynced: Arc<Mutex<Unsynced>>,
    tell: Tell,
}

impl WatchedFile {
    /// The copies that a sync covered which began before the write of this number.
    fn take(&self, end: u64) -> Vec<Copy> {
        let mut unsynced = self.unsynced.lock();
        let covered = unsynced.copies.partition_point(|(write, _)| *write < end);
        unsynced.copies.drain(..covered).map(|(_, copy)| copy).collect()
    }
}

impl File for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.file.read_at(offset, len)
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Vec<io::Result<Bytes>>> {
        self.file.read_ranges(ranges)
    }

    fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let copies = copies_in(&parts);
            self.file.write_at(offset, parts).await?;
            let mut unsynced = self.unsynced.lock();
            let write = unsynced.writes;
            unsynced.writes += 1;
            unsynced.copies.extend(copies.into_iter().map(|copy| (write, copy)));
            Ok(())
        })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let end = self.unsynced.lock().writes;
            let synced = self.file.sync().await;
            // A sync that fails has lost what it covered, whatever the next one says.
            let covered = self.take(end);
            synced?;
            covered.iter().for_each(|copy| (self.tell)(copy));
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        self.file.allocate(len)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::blocks::testing::one_entry;
    use super::*;

    /// A disk with an open segment, and what it told.
    fn disk() -> (WatchedDisk, Arc<dyn File>, Arc<Mutex<Vec<Bytes>>>) {
        let told: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let heard = told.clone();
        let tell: Tell = Arc::new(move |copy| heard.lock().push(copy.data.clone()));
        let disk = WatchedDisk::new(SimulatedDisk::new(), tell);
        disk.create_dir_all(Path::new(LOG_DIR)).unwrap();
        let file = disk.open(&path(), Open::New).unwrap();
        (disk, file, told)
    }

    fn path() -> PathBuf {
        Path::new(LOG_DIR).join("00000000000000000007.seg")
    }

    fn write(file: &Arc<dyn File>, block: usize, data: &'static str) {
        let bytes = one_entry(7, block as u64, &[data]).into();
        let offset = (blocks::ALIGN * block) as u64;
        file.write_at(offset, vec![bytes]).now_or_never().unwrap().unwrap();
    }

    fn sync(file: &Arc<dyn File>) -> io::Result<()> {
        file.sync().now_or_never().unwrap()
    }

    #[test]
    fn a_copy_counts_once_it_is_synced() {
        let (_, file, told) = disk();
        write(&file, 1, "a");
        assert_eq!(*told.lock(), [""; 0]);
        sync(&file).unwrap();
        write(&file, 2, "b");
        assert_eq!(*told.lock(), ["a"]);
        sync(&file).unwrap();
        assert_eq!(*told.lock(), ["a", "b"]);
    }

    #[test]
    fn what_a_failed_sync_covered_does_not_count_after_the_next_one() {
        let (disk, file, told) = disk();
        write(&file, 1, "a");
        disk.disk.fail_syncs(1);
        assert!(sync(&file).is_err());
        sync(&file).unwrap();
        assert_eq!(*told.lock(), [""; 0]);
    }

    #[test]
    fn a_process_crash_loses_nothing_and_makes_nothing_durable() {
        let (disk, file, told) = disk();
        write(&file, 1, "a");
        disk.disk.process_crash();
        let file = disk.restarted().open(&path(), Open::Existing).unwrap();
        assert_eq!(*told.lock(), [""; 0]);
        sync(&file).unwrap();
        assert_eq!(*told.lock(), ["a"]);
    }

    #[test]
    fn a_loss_of_power_keeps_what_was_synced_and_what_it_happens_to_leave() {
        let (disk, file, _) = disk();
        file.write_at(0, vec![vec![0; blocks::ALIGN].into()]).now_or_never().unwrap().unwrap();
        write(&file, 1, "a");
        disk.sync_dir(Path::new(LOG_DIR)).now_or_never().unwrap().unwrap();
        sync(&file).unwrap();
        write(&file, 2, "b");
        let data = |copies: Vec<Copy>| -> Vec<Bytes> {
            copies.into_iter().map(|copy| copy.data).collect()
        };
        assert_eq!(data(disk.kept()), ["a"]);
        disk.power_loss(3);
        let kept = data(disk.kept());
        let file = disk.restarted().open(&path(), Open::Existing).unwrap();
        sync(&file).unwrap();
        assert!(kept == ["a"] || kept == ["a", "b"], "{kept:?}");
        assert_eq!(data(disk.kept()), kept, "the loss has decided");
    }
}
