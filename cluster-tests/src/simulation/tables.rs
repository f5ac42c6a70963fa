//! Metadata tables that outlive a node's process, as a disk would keep them.
//!
//! Invariant: a life finds what the one before it had flushed, and nothing later. Must not know what rows mean.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tristream_node::state::{Change, MemoryTables, Tables};

/// Rows, and the marker that was stored with them.
#[derive(Clone, Default)]
struct Kept {
    rows: BTreeMap<Bytes, Bytes>,
    applied: Option<Bytes>,
}

/// Where one node's tables lie.
#[derive(Clone, Default)]
pub(super) struct LastingTables(Arc<Mutex<Kept>>);

impl LastingTables {
    /// The tables as the next life finds them.
    pub(super) fn open(&self) -> io::Result<Box<dyn Tables>> {
        let kept = self.0.lock().clone();
        let open = MemoryTables::new();
        if let Some(applied) = kept.applied {
            let rows = kept.rows.into_iter().map(|(key, value)| Change::Put(key, value));
            open.apply(&rows.collect::<Vec<_>>(), applied)?;
        }
        Ok(Box::new(Open { open, lasting: self.clone() }))
    }
}

/// The tables in the hands of one life.
struct Open {
    open: MemoryTables,
    lasting: LastingTables,
}

impl Tables for Open {
    fn applied(&self) -> io::Result<Option<Bytes>> {
        self.open.applied()
    }

    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.open.scan(prefix)
    }

    fn apply(&self, changes: &[Change], applied: Bytes) -> io::Result<()> {
        self.open.apply(changes, applied)
    }

    fn flush(&self) -> io::Result<()> {
        let rows = self.open.scan(b"")?.into_iter().collect();
        *self.lasting.0.lock() = Kept { rows, applied: self.open.applied()? };
        Ok(())
    }

    fn clear(&self) -> io::Result<()> {
        self.open.clear()?;
        *self.lasting.0.lock() = Kept::default();
        Ok(())
    }

    fn flush_blocks(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(row: &'static str) -> Vec<Change> {
        vec![Change::Put(Bytes::from_static(row.as_bytes()), Bytes::from_static(b"1"))]
    }

    #[test]
    fn a_life_finds_what_was_flushed_and_nothing_later() {
        let lasting = LastingTables::default();
        let first = lasting.open().unwrap();
        first.apply(&put("a"), Bytes::from_static(b"1")).unwrap();
        first.flush().unwrap();
        first.apply(&put("b"), Bytes::from_static(b"2")).unwrap();
        let second = lasting.open().unwrap();
        assert_eq!(second.applied().unwrap(), Some(Bytes::from_static(b"1")));
        assert_eq!(second.scan(b"").unwrap().len(), 1);
        second.clear().unwrap();
        assert_eq!(lasting.open().unwrap().applied().unwrap(), None);
    }
}
