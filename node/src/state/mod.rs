//! Tables of the metadata group: a materialised, replayable copy of what the metadata log says.
//!
//! Only `sled.rs` may write the word `sled`. Invariant: the rows always stand exactly as of `applied()`,
//! across any crash, or the store says that it must be rebuilt from the log. Must not know what rows mean.

use std::io;

use bytes::Bytes;

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the row.
    Put(Bytes, Bytes),
    /// Removes the row.
    Delete(Bytes),
}

/// Rows, and up to where in the log they stand.
pub trait Tables: Send + Sync + 'static {
    /// The marker stored with the last batch; `None` while empty.
    fn applied(&self) -> io::Result<Option<Bytes>>;
    /// All rows whose key starts with `prefix`, by rising key.
    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<(Bytes, Bytes)>>;
    /// Makes the changes and sets the marker, in one step.
    fn apply(&self, changes: &[Change], applied: Bytes) -> io::Result<()>;
    /// Makes everything applied so far durable. Blocking.
    fn flush(&self) -> io::Result<()>;
    /// Removes everything: the rows are about to be rebuilt.
    fn clear(&self) -> io::Result<()>;
}
