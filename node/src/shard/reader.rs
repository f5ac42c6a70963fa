//! Reads of the applied prefix of a shard's log: pages of records, and the places where reads
//! begin.
//!
//! Invariant: a page shows only applied entries between the shard's opening and its seal that were
//! not trimmed, in order, and its `next` follows exactly the last record shown. Positions come from
//! outside and may be anything. Must not know who leads.

use std::io;

use tristream_proto::domain::{Record, RecordPosition, SequenceNumber, StoredRecord, Timestamp};

use super::command::{self, Outline};
use super::{Page, ReadError};
use crate::log::{Entry, EntryKind};

/// Bytes of log asked for at a time: few at first, for a page may want one record only.
const FIRST_READ_BYTES: usize = 256 << 10;
const READ_BYTES_MAX: usize = 4 << 20;
/// Reads of the log for one page, so that entries without records cannot hold a reader for ever.
const READS_PER_PAGE_MAX: usize = 64;
/// Who looks for an append wants one entry, and sometimes its neighbours.
const PROBE_BYTES: usize = 4 << 10;

/// The applied part of a group's log.
pub(super) trait Entries: Sync {
    /// Applied entries from `from` up to about `bytes_max`, at least one where there is one.
    fn read(
        &self,
        from: u64,
        bytes_max: usize,
    ) -> impl Future<Output = io::Result<Vec<Entry>>> + Send;

    /// An entry before which all that have a stamp are older than `time`, with none that has one
    /// between it and the first that is not; `None` when all are older.
    fn find(&self, time: Timestamp) -> impl Future<Output = io::Result<Option<u64>>> + Send;
}

/// Which part of a log holds the shard's records, by what is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The shard's starting number: all others differ in counter and record second.
    pub(super) first: SequenceNumber,
    /// The entry that opened the shard: what lies before was not stored. `None`: it is not open.
    pub(super) begin: Option<u64>,
    /// The first entry that was not trimmed: a reader below it goes on here.
    pub(super) kept_from: u64,
    /// The newest applied entry.
    pub(super) applied: Option<u64>,
    /// The entry that sealed the shard: what lies behind was not stored.
    pub(super) seal: Option<u64>,
}

impl Extent {
    /// Index of the first entry that is not to be read.
    pub(super) fn end(&self) -> u64 {
        let applied = self.applied.map_or(0, |applied| applied + 1);
        applied.min(self.seal.unwrap_or(u64::MAX))
    }

    /// What an entry stored: nothing, or an append of this arrival.
    fn stored(&self, entry: &Entry) -> Result<Option<Timestamp>, ReadError> {
        if entry.kind != EntryKind::Command {
            return Ok(None);
        }
        match command::outline(&entry.payload).map_err(|e| damaged(entry, e))? {
            Outline::Append { arrival, .. } => {
                Ok(self.begin.is_some_and(|begin| entry.id.index >= begin).then_some(arrival))
            }
            Outline::Seal { .. } | Outline::Inherit | Outline::Trim { .. } => Ok(None),
        }
    }
}

/// Records of `extent` from `from` on: at most `count_max` and about `bytes_max` bytes of data and
/// keys, but at least one record where there is one.
pub(super) async fn page(
    log: &impl Entries,
    extent: &Extent,
    from: RecordPosition,
    count_max: usize,
    bytes_max: usize,
) -> Result<Page, ReadError> {
    let next = from.max(RecordPosition { index: extent.kept_from, position: 0 });
    let page = Page { next, ..Page::default() };
    let mut filling = Filling { extent, page, bytes: 0, count_max: count_max.max(1), bytes_max };
    let mut read_bytes = FIRST_READ_BYTES;
    let end = extent.end();
    for _ in 0..READS_PER_PAGE_MAX {
        let begin = filling.page.next.index;
        if begin >= end {
            break;
        }
        let mut room = true;
        for entry in read_from(log, begin, read_bytes).await? {
            // The log may have grown, and the shard been sealed, since the extent was looked up.
            if entry.id.index >= end {
                break;
            }
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
    page.at_tip = page.next.index >= end;
    page.at_end = extent.seal.is_some_and(|seal| page.next.index >= seal);
    Ok(page)
}

/// The first record stamped at or after `time`; where the next record will be when there is none.
///
/// The log finds it by the stamps beside its entries, which never fall among those that store
/// records. Appends that stored nothing, before the shard was opened, may have been younger.
pub(super) async fn seek_time(
    log: &impl Entries,
    extent: &Extent,
    time: Timestamp,
) -> Result<RecordPosition, ReadError> {
    let end = extent.end();
    let found = log.find(time).await;
    let found = found.map_err(|e| ReadError::Damaged(format!("looking for {}: {e}", time.0)))?;
    let mut index = found.map_or(end, |index| index.clamp(extent.kept_from.min(end), end));
    while let Some((append, arrival)) = first_append(log, extent, index, end).await? {
        if arrival >= time {
            return Ok(RecordPosition { index: append, position: 0 });
        }
        index = append + 1;
    }
    Ok(RecordPosition { index: end, position: 0 })
}

/// Entry and stamp of the oldest record that was not trimmed; `None` when there is none.
pub(super) async fn oldest(
    log: &impl Entries,
    extent: &Extent,
) -> Result<Option<(u64, Timestamp)>, ReadError> {
    first_append(log, extent, extent.kept_from, extent.end()).await
}

/// Index and arrival of the first append in `from..end`.
async fn first_append(
    log: &impl Entries,
    extent: &Extent,
    mut from: u64,
    end: u64,
) -> Result<Option<(u64, Timestamp)>, ReadError> {
    while from < end {
        for entry in read_from(log, from, PROBE_BYTES).await? {
            if entry.id.index >= end {
                return Ok(None);
            }
            if let Some(arrival) = extent.stored(&entry)? {
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

fn damaged(entry: &Entry, error: impl std::fmt::Display) -> ReadError {
    ReadError::Damaged(format!("entry {}: {error}", entry.id.index))
}

/// A page under construction.
struct Filling<'a> {
    extent: &'a Extent,
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
        if self.extent.stored(entry)?.is_some() {
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
                counter: self.page.next.counter(),
                record_second: arrival.seconds(),
                ..self.extent.first
            },
            arrival,
            partition_key: record.partition_key,
            data: record.data,
        });
    }
}

#[cfg(test)]
mod tests;
