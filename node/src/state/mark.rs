//! The marker of a store: what its rows add up to, and the caller's marker. Pure.
//!
//! ```text
//! format u8 = 1 | row count u64 le | sum u64 le | the caller's marker
//! ```
//!
//! `sum` adds up a hash of every row, wrapping, so that it follows each change without a look at
//! the other rows; rows that rotted away or came back are noticed when all are read. An on-disk
//! format.

use bytes::Bytes;
use sha2::{Digest, Sha256};

const MARK_FORMAT: u8 = 1;

/// What the marker says of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) count: u64,
    sum: u64,
    /// The caller's marker.
    pub(super) applied: Bytes,
}

impl Mark {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(row_hash(key, value));
    }

    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(row_hash(key, value));
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MARK_FORMAT];
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.sum.to_le_bytes());
        bytes.extend_from_slice(&self.applied);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Mark> {
        let (&format, rest) = bytes.split_first()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (sum, applied) = rest.split_first_chunk()?;
        (format == MARK_FORMAT).then(|| Mark {
            count: u64::from_le_bytes(*count),
            sum: u64::from_le_bytes(*sum),
            applied: Bytes::copy_from_slice(applied),
        })
    }
}

fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    let hash = hash.finalize();
    hash.first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
}
