//! Reads of the applied prefix of a shard's log: pages of records, and the places where reads
//! begin.
//!
//! Invariant: a page shows only applied entries, in order, and its `next` follows exactly the last
//! record shown. Positions come from outside and may be anything. Must not know who leads.

use std::io;

use tristream_proto::domain::{
    Record, RecordPosition, SequenceNumber, Shard, StoredRecord, Timestamp,
};

use super::command::{self, Outline};
use super::{Page, ReadError};
use crate::log::{Entry, EntryKind};

/// Bytes of log asked for at a time: few at first, for a page may want one record only.
const FIRST_READ_BYTES: usize = 256 << 10;
const READ_BYTES_MAX: usize = 4 << 20;
/// Reads of the log for one page, so that entries without records cannot hold a reader for ever.
const READS_PER_PAGE_MAX: usize = 64;
/// A probe of the search by time wants one entry, and sometimes its neighbours.
const PROBE_BYTES: usize = 4 << 10;

/// The applied part of a group's log.
pub(super) trait Entries: Sync {
    /// Applied entries from `from` up to about `bytes_max`, at least one where there is one.
    fn read(
        &self,
        from: u64,
        bytes_max: usize,
    ) -> impl Future<Output = io::Result<Vec<Entry>>> + Send;
}

/// Records from `from` on, of a log that is applied up to `applied`: at most `count_max` and about
/// `bytes_max` bytes of data and keys, but at least one record where there is one.
pub(super) async fn page(
    log: &impl Entries,
    shard: &Shard,
    applied: Option<u64>,
    from: RecordPosition,
    count_max: usize,
    bytes_max: usize,
) -> Result<Page, ReadError> {
    let page = Page { next: from, ..Page::default() };
    let mut filling = Filling { shard, page, bytes: 0, count_max: count_max.max(1), bytes_max };
    let mut read_bytes = FIRST_READ_BYTES;
    for _ in 0..READS_PER_PAGE_MAX {
        let begin = filling.page.next.index;
        if is_beyond(begin, applied) {
            break;
        }
        let mut room = true;
        for entry in read_from(log, begin, read_bytes).await? {
            room = filling.take(&entry)?;
            if !room {
                break;
            }
        }
        if !room {
            break;
        }
        read_bytes = (read_bytes * 2).min(READ_BYTES_MAX);
    }
    let mut page = filling.page;
    page.at_tip = is_beyond(page.next.index, applied);
    Ok(page)
}

/// The first record stamped at or after `time`; where the next record will be when there is none.
///
/// A binary search by entries, for arrivals never fall. Entries without records have no arrival: a
/// probe that meets one goes on to the next that has.
pub(super) async fn seek_time(
    log: &impl Entries,
    applied: Option<u64>,
    time: Timestamp,
) -> Result<RecordPosition, ReadError> {
    let end = after(applied);
    // All records before `low` are older; those from `high` on, up to the one found, are not.
    let (mut low, mut high, mut found) = (0, end, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match first_append(log, middle, high).await? {
            Some((index, arrival)) if arrival < time => low = index + 1,
            Some((index, _)) => (high, found) = (middle, index),
            None => high = middle,
        }
    }
    Ok(RecordPosition { index: found, position: 0 })
}

/// Index of the entry that will follow the applied ones.
pub(super) fn after(applied: Option<u64>) -> u64 {
    applied.map_or(0, |applied| applied + 1)
}

/// Index and arrival of the first append in `from..end`.
async fn first_append(
    log: &impl Entries,
    mut from: u64,
    end: u64,
) -> Result<Option<(u64, Timestamp)>, ReadError> {
    while from < end {
        for entry in read_from(log, from, PROBE_BYTES).await? {
            if entry.id.index >= end {
                return Ok(None);
            }
            if entry.kind == EntryKind::Command {
                let Outline::Append { arrival, .. } =
                    command::outline(&entry.payload).map_err(|e| damaged(&entry, e))?;
                return Ok(Some((entry.id.index, arrival)));
            }
            from = entry.id.index + 1;
        }
    }
    Ok(None)
}

/// At least one entry, the first of which is at `begin`, without holes.
async fn read_from(
    log: &impl Entries,
    begin: u64,
    bytes_max: usize,
) -> Result<Vec<Entry>, ReadError> {
    let entries = log
        .read(begin, bytes_max)
        .await
        .map_err(|e| ReadError::Damaged(format!("reading entries from {begin}: {e}")))?;
    let in_place = (begin..).zip(&entries).all(|(index, entry)| entry.id.index == index);
    if entries.is_empty() || !in_place {
        return Err(ReadError::Damaged(format!("entries from {begin} are missing")));
    }
    Ok(entries)
}

fn is_beyond(index: u64, applied: Option<u64>) -> bool {
    index >= after(applied)
}

fn damaged(entry: &Entry, error: impl std::fmt::Display) -> ReadError {
    ReadError::Damaged(format!("entry {}: {error}", entry.id.index))
}

/// A page under construction.
struct Filling<'a> {
    shard: &'a Shard,
    page: Page,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

impl Filling<'_> {
    /// Takes what fits of the entry at `next`; `false` when the page is full.
    fn take(&mut self, entry: &Entry) -> Result<bool, ReadError> {
        let begin = self.page.next;
        assert_eq!(begin.index, entry.id.index, "entries come without holes");
        if entry.kind == EntryKind::Command {
            let batch = command::batch(&entry.payload).map_err(|e| damaged(entry, e))?;
            for (position, record) in (0u32..).zip(batch.records).skip(begin.position as usize) {
                self.page.next.position = position;
                if self.is_full_for(&record) {
                    return Ok(false);
                }
                self.push(record, batch.arrival);
            }
        }
        self.page.next = RecordPosition { index: entry.id.index + 1, position: 0 };
        Ok(true)
    }

    fn is_full_for(&self, record: &Record) -> bool {
        let taken = self.page.records.len();
        taken >= self.count_max || (taken > 0 && self.bytes + record.bytes() > self.bytes_max)
    }

    fn push(&mut self, record: Record, arrival: Timestamp) {
        self.bytes += record.bytes();
        self.page.records.push(StoredRecord {
            sequence_number: SequenceNumber {
                creation_second: self.shard.creation_second,
                shard: self.shard.id,
                counter: self.page.next.counter(),
                record_second: arrival.seconds(),
            },
            arrival,
            partition_key: record.partition_key,
            data: record.data,
        });
    }
}

#[cfg(test)]
mod tests;
