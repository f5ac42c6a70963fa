//! The operating system's files. Blocking calls run on tokio's blocking threads.

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;

use super::{Disk, File, Open, Space};

/// Linux takes no more slices in one call (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// The real disk.
pub struct RealDisk;

struct RealFile(Arc<fs::File>);

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// One system call for up to `SLICES_MAX` parts, so that nobody need copy them together.
fn write_parts(file: &fs::File, offset: u64, parts: &[Bytes]) -> io::Result<()> {
    let given = parts.iter().filter(|part| !part.is_empty());
    let mut slices: Vec<IoSlice<'_>> = given.map(|part| IoSlice::new(part)).collect();
    let (mut left, mut at) = (&mut slices[..], offset);
    while !left.is_empty() {
        let now = left.len().min(SLICES_MAX);
        match rustix::io::pwritev(file, &left[..now], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read(file: &fs::File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(len);
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.freeze())
}

/// Tells the kernel what is going to be read, so that it begins with all of it at once. Best effort.
#[cfg(target_os = "linux")]
fn announce(file: &fs::File, ranges: &[Range<u64>]) {
    use rustix::fs::{Advice, fadvise};
    if ranges.len() < 2 {
        return;
    }
    for range in ranges {
        let len = std::num::NonZeroU64::new(range.end - range.start);
        // Without a length it would mean all the rest of the file.
        if len.is_some() && fadvise(file, range.start, len, Advice::WillNeed).is_err() {
            return;
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn announce(_: &fs::File, _: &[Range<u64>]) {}

impl Disk for RealDisk {
    fn is_native(&self) -> bool {
        true
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(how == Open::New);
        Ok(Arc::new(RealFile(Arc::new(options.open(path)?))))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        let dir = dir.to_owned();
        Box::pin(blocking(move || fs::File::open(dir)?.sync_all()))
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Space {
            free_bytes: stat.f_bavail * stat.f_frsize,
            total_bytes: stat.f_blocks * stat.f_frsize,
        })
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("LOCK"))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let file = self.0.clone();
        Box::pin(blocking(move || read(&file, offset, len)))
    }

    // One hop for all of them, and one wait of the disk where it can do much at a time: on a disk that
    // answers in 60 us, ten times as fast as one after the other.
    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Vec<io::Result<Bytes>>> {
        let file = self.0.clone();
        Box::pin(async move {
            let count = ranges.len();
            let all = move || {
                announce(&file, &ranges);
                let read = |range: &Range<u64>| {
                    read(&file, range.start, (range.end - range.start) as usize)
                };
                Ok(ranges.iter().map(read).collect::<Vec<_>>())
            };
            let failed = |error: io::Error| {
                let one = || Err(io::Error::new(error.kind(), error.to_string()));
                (0..count).map(|_| one()).collect()
            };
            blocking(all).await.unwrap_or_else(failed)
        })
    }

    fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        let file = self.0.clone();
        Box::pin(blocking(move || write_parts(&file, offset, &parts)))
    }

    // One hop to the blocking threads instead of two: it is on the path of every ack.
    fn write_synced(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        let file = self.0.clone();
        Box::pin(blocking(move || {
            write_parts(&file, offset, &parts)?;
            file.sync_data()
        }))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        let file = self.0.clone();
        Box::pin(blocking(move || file.sync_data()))
    }

    fn set_len(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        let file = self.0.clone();
        Box::pin(blocking(move || file.set_len(len)))
    }

    fn allocate(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        let file = self.0.clone();
        Box::pin(blocking(move || {
            use rustix::fs::{FallocateFlags, fallocate};
            match fallocate(&*file, FallocateFlags::empty(), 0, len) {
                // This file system cannot: the room is taken when the bytes are written.
                Err(rustix::io::Errno::OPNOTSUPP) if file.metadata()?.len() < len => {
                    file.set_len(len)
                }
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                result => Ok(result?),
            }
        }))
    }
}
