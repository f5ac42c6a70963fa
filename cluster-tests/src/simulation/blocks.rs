//! Blocks of a node's log, as they lie in its files: where each entry's frame is, and which records it holds.
//!
//! By what `log/segment/` and `log/frame.rs` of the node say of them. Pure. Must not know files or disks.

use std::ops::Range;

use bytes::Bytes;
use tristream_client::domain::{Batch, RecordPosition};

/// Segments, blocks, footers and trailers begin at multiples of this.
pub(super) const ALIGN: usize = 4096;
/// Of a block, and of a frame.
pub(super) const HEAD: usize = 64;
const MAGIC: &[u8] = b"TSLB";
const TAG_ENTRY: u8 = 1;
const TAG_REPAIR: u8 = 8;
const KIND_COMMAND: u8 = 2;
/// Of a shard's command that stores a batch.
const TAG_APPEND: u8 = 1;

/// A block.
#[derive(Debug)]
pub(super) struct Block {
    /// Number of the segment that it was written for.
    pub(super) segment: u64,
    pub(super) entries: Vec<Entry>,
    /// Where the next one begins.
    pub(super) end: usize,
}

/// An entry's frame, or that of an entry's repair.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) is_repair: bool,
    pub(super) head: Range<usize>,
    pub(super) payload: Range<usize>,
    index: u64,
    is_command: bool,
    crc: u32,
}

/// Whether a block begins with these bytes.
pub(super) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The block that begins there; none if none does.
pub(super) fn block(bytes: &[u8], at: usize) -> Option<Block> {
    if !begins(bytes.get(at..)?) {
        return None;
    }
    let frames = u32_at(bytes, at + 4)? as usize;
    let payload_bytes = usize::try_from(u64_at(bytes, at + 24)?).ok()?;
    let segment = u64_at(bytes, at + 32)?;
    let heads = (0..frames).map(|frame| at + HEAD * (frame + 1));
    let entries = heads.filter_map(|head| entry(bytes, head)).collect();
    let end = (at + HEAD * (frames + 1)).checked_add(payload_bytes)?;
    Some(Block { segment, entries, end: end.checked_next_multiple_of(ALIGN)? })
}

fn entry(bytes: &[u8], head: usize) -> Option<Entry> {
    let tag = *bytes.get(head)?;
    let payload = head + u32_at(bytes, head + 48)? as usize;
    let len = u32_at(bytes, head + 4)? as usize;
    [TAG_ENTRY, TAG_REPAIR].contains(&tag).then_some(Entry {
        is_repair: tag == TAG_REPAIR,
        head: head..head + HEAD,
        payload: payload..payload + len,
        index: u64_at(bytes, head + 16)?,
        is_command: *bytes.get(head + 1)? == KIND_COMMAND,
        crc: u32_at(bytes, head + 52)?,
    })
}

/// A record in an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// Of the entry, and its place there.
    pub(super) at: RecordPosition,
    pub(super) data: Bytes,
}

impl Entry {
    /// The records that it holds; none if it holds none, or is damaged.
    pub(super) fn copies(&self, bytes: &Bytes) -> Vec<Copy> {
        let whole = bytes.get(self.payload.clone());
        let whole = whole.filter(|payload| crc32c::crc32c(payload) == self.crc);
        if !self.is_command || whole.and_then(<[u8]>::first) != Some(&TAG_APPEND) {
            return Vec::new();
        }
        // The metadata group has other commands.
        let batch = Batch::decode(bytes.slice(self.payload.start + 1..self.payload.end));
        let records = batch.map(|batch| batch.records).unwrap_or_default();
        let at = |position| RecordPosition { index: self.index, position };
        (0..)
            .zip(records)
            .map(|(place, record)| Copy { at: at(place), data: record.data })
            .collect()
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod testing {
    use tristream_client::domain::{PartitionKey, Record, Timestamp};

    use super::*;

    /// A block of the segment with one entry of these records.
    pub(in crate::simulation) fn one_entry(
        segment: u64,
        index: u64,
        data: &[&'static str],
    ) -> Vec<u8> {
        let record = |data: &&'static str| Record {
            partition_key: PartitionKey::new("k").expect("a key"),
            explicit_hash_key: None,
            data: Bytes::from_static(data.as_bytes()),
            origin: None,
        };
        let records = data.iter().map(record).collect();
        let batch = Batch { arrival: Timestamp(1), records }.encode();
        let payload = [&[TAG_APPEND][..], &batch].concat();
        let mut block = vec![0; HEAD * 2];
        block[..4].copy_from_slice(MAGIC);
        block[4..8].copy_from_slice(&1_u32.to_le_bytes());
        block[24..32].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        block[32..40].copy_from_slice(&segment.to_le_bytes());
        let head = &mut block[HEAD..];
        head[..2].copy_from_slice(&[TAG_ENTRY, KIND_COMMAND]);
        head[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        head[16..24].copy_from_slice(&index.to_le_bytes());
        head[48..52].copy_from_slice(&(HEAD as u32).to_le_bytes());
        head[52..56].copy_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        block.extend(payload);
        block.resize(block.len().next_multiple_of(ALIGN), 0);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_tells_its_records_unless_it_is_damaged() {
        let mut bytes = testing::one_entry(7, 30, &["a", "b"]);
        let found = block(&bytes, 0).unwrap();
        assert_eq!((found.segment, found.entries.len(), found.end), (7, 1, bytes.len()));
        let copy = |position, data: &'static str| Copy {
            at: RecordPosition { index: 30, position },
            data: Bytes::from_static(data.as_bytes()),
        };
        let of = |bytes: &[u8]| found.entries[0].copies(&Bytes::copy_from_slice(bytes));
        assert_eq!(of(&bytes), [copy(0, "a"), copy(1, "b")]);
        bytes[found.entries[0].payload.end - 1] ^= 1;
        assert_eq!(of(&bytes), []);
        assert_eq!(of(&bytes[..HEAD * 2]), [], "its payload is not there");
    }

    #[test]
    fn what_is_no_block_is_none() {
        assert!(block(&[0; 2 * ALIGN], 0).is_none());
        assert!(block(&[], 0).is_none());
        assert!(block(MAGIC, 0).is_none());
    }
}
