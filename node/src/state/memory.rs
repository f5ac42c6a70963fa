//! Tables in memory, for simulation: they forget everything when the node ends, which the log
//! heals.
//!
//! Must not know what rows mean.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Change, Tables, check_rows};

/// Tables without a disk.
#[derive(Default)]
pub struct MemoryTables {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    rows: BTreeMap<Bytes, Bytes>,
    applied: Option<Bytes>,
}

impl MemoryTables {
    /// Empty tables.
    pub fn new() -> MemoryTables {
        MemoryTables::default()
    }
}

impl Tables for MemoryTables {
    fn applied(&self) -> io::Result<Option<Bytes>> {
        Ok(self.inner.lock().applied.clone())
    }

    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<(Bytes, Bytes)>> {
        let inner = self.inner.lock();
        let from = inner.rows.range(Bytes::copy_from_slice(prefix)..);
        Ok(from
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn apply(&self, changes: &[Change], applied: Bytes) -> io::Result<()> {
        check_rows(changes)?;
        let mut inner = self.inner.lock();
        for change in changes {
            match change {
                Change::Put(key, value) => drop(inner.rows.insert(key.clone(), value.clone())),
                Change::Delete(key) => drop(inner.rows.remove(key)),
            }
        }
        inner.applied = Some(applied);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn clear(&self) -> io::Result<()> {
        *self.inner.lock() = Inner::default();
        Ok(())
    }

    fn flush_blocks(&self) -> bool {
        false
    }
}
