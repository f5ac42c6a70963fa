//! Files, behind one narrow seam, so that a simulated disk can tear, lose, rot, fill, slow and lie.
//!
//! Invariant: bytes written are durable only after `File::sync` answered `Ok`; a created, renamed
//! or removed name only after `Disk::sync_dir` of its folder. Must not know what the files hold.

#[cfg(test)]
mod contract;
mod real;
mod room;
mod simulated;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use real::RealDisk;
pub use room::{Reserve, Room, Storage};
pub use simulated::{Call, Damage, Flip, Lasting, SimulatedDisk};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must exist.
    Existing,
    /// It must not exist; it is created empty.
    New,
}

/// A folder tree of one node.
pub trait Disk: Send + Sync + 'static {
    /// Whether paths are the operating system's, so that a library that opens files by itself finds them.
    fn is_native(&self) -> bool {
        false
    }
    /// Creates the folder and its parents where missing.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files in `dir` (no folders), sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Removes a file. Who holds it open can go on reading.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Replaces `to` by `from` in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes names created, renamed or removed in `dir` durable.
    fn sync_dir<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, io::Result<()>>;
    /// Bytes free for this node, and bytes in all.
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// Takes the folder for this process until the guard is dropped; fails at once when it is
    /// taken.
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Size of the disk.
    pub total_bytes: u64,
}

/// An open file. Offsets in bytes from its beginning.
pub trait File: Send + Sync + 'static {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Exactly `len` bytes from `offset`; `UnexpectedEof` when there are fewer.
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>>;
    /// `read_at` of each of these, in their order. A disk may read them all at once: that is why there
    /// is more than `read_at`.
    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Vec<io::Result<Bytes>>> {
        Box::pin(async move {
            let mut read = Vec::with_capacity(ranges.len());
            for range in ranges {
                read.push(self.read_at(range.start, (range.end - range.start) as usize).await);
            }
            read
        })
    }
    /// Writes the parts one after the other from `offset`.
    fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>>;
    /// Makes everything written durable (fdatasync: data and length).
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;
    /// `write_at`, then `sync`; a disk may do both in one step.
    fn write_synced(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.write_at(offset, parts).await?;
            self.sync().await
        })
    }
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> BoxFuture<'_, io::Result<()>>;
    /// Makes the file at least `len` bytes long (with zeros) and takes the room for them now, where
    /// the disk can; `StorageFull` when there is none. It may have grown in part then.
    fn allocate(&self, len: u64) -> BoxFuture<'_, io::Result<()>>;
}
