//! What the writer of tables writes: batches numbered from 1, and the rows that stand after each.
//!
//! Pure: the writer and who judges it know the same rows without talking.

use std::collections::BTreeMap;

use bytes::Bytes;
use tristream_node::state::Change;

/// Keys, so that most batches change rows that are there.
const KEYS: u64 = 500;
const CHANGES_MAX: u64 = 6;
const VALUE_BYTES_MAX: u64 = 600;

/// Spreads bits (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The changes of a batch. Every fifth is a removal.
pub fn batch(number: u64) -> Vec<Change> {
    let change = |turn| {
        let dice = mixed(number * CHANGES_MAX + turn);
        let key = Bytes::from(format!("row/{:04}", dice % KEYS));
        if dice.is_multiple_of(5) {
            return Change::Delete(key);
        }
        let padding = (dice >> 32) % VALUE_BYTES_MAX;
        let value = format!("{number}.{turn} {}", "x".repeat(padding as usize));
        Change::Put(key, value.into())
    };
    (0..1 + mixed(number) % CHANGES_MAX).map(change).collect()
}

/// The marker of a batch.
pub fn marker(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

/// The batch of a marker.
pub fn number(marker: &[u8]) -> Option<u64> {
    marker.try_into().ok().map(u64::from_le_bytes)
}

/// The rows after the batches up to `last`.
pub fn rows_after(last: u64) -> BTreeMap<Bytes, Bytes> {
    let mut rows = BTreeMap::new();
    for change in (1..=last).flat_map(batch) {
        match change {
            Change::Put(key, value) => rows.insert(key, value),
            Change::Delete(key) => rows.remove(&key),
        };
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_put_overwrite_and_delete() {
        let changes: Vec<Change> = (1..=2_000).flat_map(batch).collect();
        let deletes = changes.iter().filter(|c| matches!(c, Change::Delete(_))).count();
        assert!(deletes > changes.len() / 10);
        let rows = rows_after(2_000);
        assert!(rows.len() > 300 && rows.len() <= KEYS as usize, "{}", rows.len());
        assert_eq!(number(&marker(77)), Some(77));
    }
}
