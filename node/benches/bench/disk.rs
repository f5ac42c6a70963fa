//! The real disk, with counters and, where asked for, a sync that takes a set time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tristream_node::disk::{Disk, File, Open, RealDisk, Space};

/// What a sync does.
#[derive(Clone, Copy)]
pub(crate) enum Sync {
    /// The disk's.
    Real,
    /// Nothing, for so long: the disk of the targets has one of 500 us.
    Takes(Duration),
    /// Nothing at all, and zeros are left out of new files: to make large logs in little room.
    Sparse,
}

/// A disk for benches. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct BenchDisk {
    sync: Sync,
    counts: Arc<Counts>,
    /// Files that are being filled ahead, by their names.
    filling: Arc<Mutex<BTreeMap<PathBuf, Arc<AtomicBool>>>>,
}

/// What was asked of a disk.
#[derive(Default)]
pub(crate) struct Counts {
    /// Bytes written, without those of files that are being filled ahead.
    pub(crate) written: AtomicU64,
    /// Bytes written to make files ready ahead.
    pub(crate) filled: AtomicU64,
    /// Bytes of each synced write since the last `take_batches`, in their order.
    batches: Mutex<Vec<u64>>,
}

impl BenchDisk {
    pub(crate) fn new(sync: Sync) -> BenchDisk {
        BenchDisk { sync, counts: Arc::default(), filling: Arc::default() }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The sizes of the commits since the last call.
    pub(crate) fn take_batches(&self) -> Vec<u64> {
        std::mem::take(&mut self.counts.batches.lock())
    }
}

impl Disk for BenchDisk {
    fn is_native(&self) -> bool {
        true
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let inner = RealDisk.open(path, how)?;
        let raw = Arc::new(fs::OpenOptions::new().read(true).write(true).open(path)?);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ahead = Arc::new(AtomicBool::new(name.starts_with("fill-")));
        if ahead.load(Ordering::Relaxed) {
            self.filling.lock().insert(path.to_owned(), Arc::clone(&ahead));
        }
        let pending = Mutex::new(BTreeMap::new());
        let (sync, counts) = (self.sync, Arc::clone(&self.counts));
        Ok(Arc::new(BenchFile { inner, raw, ahead, pending, sync, counts }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // The handle stays the same: what is written next is the log's.
        if let Some(ahead) = self.filling.lock().remove(from) {
            ahead.store(false, Ordering::Relaxed);
        }
        let segment = from.extension().is_some_and(|extension| extension == "seg");
        if matches!(self.sync, Sync::Sparse) && segment {
            // It is going to be used again: what is left out of it must read as zeros.
            let file = fs::OpenOptions::new().write(true).open(from)?;
            let len = file.metadata()?.len();
            file.set_len(0)?;
            file.set_len(len)?;
        }
        RealDisk.rename(from, to)
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        match self.sync {
            Sync::Real => RealDisk.sync_dir(dir),
            Sync::Takes(time) => Box::pin(blocking(move || {
                wait(time);
                Ok(())
            })),
            Sync::Sparse => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        RealDisk.space(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send + std::marker::Sync>> {
        RealDisk.lock(dir)
    }
}

struct BenchFile {
    inner: Arc<dyn File>,
    /// The same file once more, for what the trait does not offer.
    raw: Arc<fs::File>,
    ahead: Arc<AtomicBool>,
    /// Written and not synced: bytes by offset.
    pending: Mutex<BTreeMap<u64, u64>>,
    sync: Sync,
    counts: Arc<Counts>,
}

impl BenchFile {
    fn count_write(&self, offset: u64, parts: &[Bytes]) {
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let total = if self.ahead.load(Ordering::Relaxed) {
            &self.counts.filled
        } else {
            &self.counts.written
        };
        total.fetch_add(bytes, Ordering::Relaxed);
        self.pending.lock().insert(offset, bytes);
    }

    fn count_sync(&self) {
        let bytes: u64 = std::mem::take(&mut *self.pending.lock()).values().sum();
        if !self.ahead.load(Ordering::Relaxed) && bytes > 0 {
            self.counts.batches.lock().push(bytes);
        }
    }

    /// Writes what is not zero, and makes the file as long as if the rest had been written.
    fn write_sparse(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut at = offset;
        for part in parts {
            let mut left = &part[..];
            while !left.is_empty() {
                let to_next_page = PAGE_BYTES - at as usize % PAGE_BYTES;
                let (page, rest) = left.split_at(to_next_page.min(left.len()));
                if page != &ZEROS[..page.len()] {
                    self.raw.write_all_at(page, at)?;
                }
                (at, left) = (at + page.len() as u64, rest);
            }
        }
        if self.raw.metadata()?.len() < at { self.raw.set_len(at) } else { Ok(()) }
    }
}

const PAGE_BYTES: usize = 4096;
const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

impl File for BenchFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.inner.read_at(offset, len)
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Vec<io::Result<Bytes>>> {
        self.inner.read_ranges(ranges)
    }

    fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        self.count_write(offset, &parts);
        match self.sync {
            Sync::Sparse => Box::pin(std::future::ready(self.write_sparse(offset, &parts))),
            _ => self.inner.write_at(offset, parts),
        }
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.count_sync();
        match self.sync {
            Sync::Real => self.inner.sync(),
            Sync::Takes(time) => Box::pin(blocking(move || {
                wait(time);
                Ok(())
            })),
            Sync::Sparse => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn write_synced(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        self.count_write(offset, &parts);
        self.count_sync();
        match self.sync {
            Sync::Real => self.inner.write_synced(offset, parts),
            // As many hops between threads as the real one.
            Sync::Takes(time) => {
                let raw = Arc::clone(&self.raw);
                Box::pin(blocking(move || write_and_wait(&raw, offset, &parts, time)))
            }
            Sync::Sparse => Box::pin(std::future::ready(self.write_sparse(offset, &parts))),
        }
    }

    fn set_len(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        match self.sync {
            Sync::Sparse => self.inner.set_len(len),
            _ => self.inner.allocate(len),
        }
    }
}

fn write_and_wait(raw: &fs::File, offset: u64, parts: &[Bytes], time: Duration) -> io::Result<()> {
    let mut at = offset;
    for part in parts {
        raw.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    wait(time);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Waits to the microsecond: sleeps as long as that is sure to end in time, then spins.
#[allow(clippy::disallowed_methods)]
pub(crate) fn wait(time: Duration) {
    let end = Instant::now() + time;
    // A sleep ends up to this much late.
    if let Some(sure) = time.checked_sub(Duration::from_micros(100)) {
        std::thread::sleep(sure);
    }
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}
