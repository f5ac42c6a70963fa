//! Tables of the metadata group: a materialised, replayable copy of what the metadata log says.
//!
//! Only `sled.rs` may write the word `sled`. Invariant: the rows always stand exactly as of
//! `applied()`, across any crash, or the store says that it must be rebuilt from the log. Must not
//! know what rows mean.

#[cfg(test)]
mod contract;
mod folder;
mod mark;
mod memory;
mod sled;

use std::io;

use bytes::Bytes;

pub use memory::MemoryTables;
pub use sled::SledTables;

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the row.
    Put(Bytes, Bytes),
    /// Removes the row.
    Delete(Bytes),
}

impl Change {
    /// Key of the row.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put(key, _) | Change::Delete(key) => key,
        }
    }
}

/// Rows, and up to where in the log they stand. Rows should stay below 4 KiB, and may not exceed 64
/// KiB.
///
/// An error leaves it open whether the step happened: the owner stops, and looks at `applied` after
/// the next open.
pub trait Tables: Send + Sync + 'static {
    /// The marker stored with the last batch; `None` while empty.
    fn applied(&self) -> io::Result<Option<Bytes>>;
    /// All rows whose key starts with `prefix`, by rising key.
    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<(Bytes, Bytes)>>;
    /// Makes the changes, in their order, and sets the marker, in one step.
    fn apply(&self, changes: &[Change], applied: Bytes) -> io::Result<()>;
    /// Makes everything applied so far durable. Blocking.
    fn flush(&self) -> io::Result<()>;
    /// Removes everything, the marker too: the rows are about to be rebuilt. Durable when it
    /// returns.
    fn clear(&self) -> io::Result<()>;

    /// Whether `flush` waits for a disk, so that it needs a thread that may wait.
    fn flush_blocks(&self) -> bool {
        true
    }
}

/// Largest row, key and value, in bytes.
pub const ROW_BYTES_MAX: usize = 64 << 10;

fn check_rows(changes: &[Change]) -> io::Result<()> {
    let bytes = |change: &Change| match change {
        Change::Put(key, value) => key.len() + value.len(),
        Change::Delete(key) => key.len(),
    };
    match changes.iter().find(|change| bytes(change) > ROW_BYTES_MAX) {
        Some(change) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a row of {} bytes, the limit is {ROW_BYTES_MAX}", bytes(change)),
        )),
        None => Ok(()),
    }
}
