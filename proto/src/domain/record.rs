//! Records and batches. `Batch::encode` is the payload of a shard's log entry: an on-disk format,
//! reviewed like an API.
//!
//! Layout (little endian): `format u8 | arrival_ms u64 | count u32`, in format 2 then the calls, then per
//! record `flags u8 | key_len u16 | data_len u32 | explicit_hash_key 16 bytes big endian if flags & 1 | key | data`.
//! Flags we do not know are an error, so that an older node never misreads a newer batch.
//!
//! Format 2 says which calls the records came in with, in runs of records of one call:
//! `bytes u32 | { call 16 bytes | start u32 | count u16 | kind u8 | ordinals }`, where the ordinals are a
//! `first u16` when they are consecutive (kind 0), else `count` of `u16` (kind 1). A batch whose records
//! have no origin is written in format 1.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::limits::{BATCH_RECORDS_MAX, PARTITION_KEY_BYTES_MAX, PARTITION_KEY_CHARS_MAX};
use super::{CallId, HashKey, Origin, Timestamp};

const FORMAT_PLAIN: u8 = 1;
const FORMAT_WITH_CALLS: u8 = 2;
const FLAG_EXPLICIT_HASH_KEY: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + 4;
const RECORD_HEADER_BYTES: usize = 1 + 2 + 4;
/// A run of one record, which has the most bytes per record.
const RUN_BYTES_MAX: usize = 16 + 4 + 2 + 1 + 2;
const CONSECUTIVE: u8 = 0;
const LISTED: u8 = 1;

/// A partition key: 1 to 256 Unicode characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartitionKey(Bytes);

impl PartitionKey {
    /// `None` when the key is empty or has more than 256 characters.
    pub fn new(text: &str) -> Option<PartitionKey> {
        let legal = !text.is_empty() && text.chars().count() <= PARTITION_KEY_CHARS_MAX;
        legal.then(|| PartitionKey(Bytes::copy_from_slice(text.as_bytes())))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        // Checked on construction, both from text and from a decoded batch.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A record as its producer sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Decides the shard, unless `explicit_hash_key` does.
    pub partition_key: PartitionKey,
    /// Overrides the hash of the partition key.
    pub explicit_hash_key: Option<HashKey>,
    /// What the producer wants kept. May be empty.
    pub data: Bytes,
    /// Which call it came in with, where that is known: a record whose origin was stored before is not
    /// stored again.
    pub origin: Option<Origin>,
}

impl Record {
    /// Where the record falls in the key space.
    pub fn hash_key(&self) -> HashKey {
        self.explicit_hash_key.unwrap_or_else(|| HashKey::of(self.partition_key.as_str()))
    }

    /// What counts against limits: bytes of data and key.
    pub fn bytes(&self) -> usize {
        self.partition_key.0.len() + self.data.len()
    }
}

/// Records of one shard, stamped together by its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// When the leader took the batch in. Never goes back within a shard.
    pub arrival: Timestamp,
    /// In the order in which they get their sequence numbers.
    pub records: Vec<Record>,
}

/// Records of a batch that follow each other and came in with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRun {
    /// The call.
    pub call: CallId,
    /// Position of the first of them in the batch.
    pub start: u32,
    /// Their places in the call.
    pub ordinals: Vec<u16>,
}

/// Bytes that are no batch: damage, or a newer format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record batch: {0}")]
pub struct BatchError(pub &'static str);

impl Batch {
    /// The batch as a log payload.
    pub fn encode(&self) -> Bytes {
        debug_assert!(self.records.len() <= BATCH_RECORDS_MAX);
        let each = RECORD_HEADER_BYTES + 16 + RUN_BYTES_MAX;
        let bytes: usize = self.records.iter().map(|r| r.bytes() + each).sum();
        let mut out = BytesMut::with_capacity(HEADER_BYTES + 4 + bytes);
        let runs = runs(&self.records);
        out.put_u8(if runs.is_empty() { FORMAT_PLAIN } else { FORMAT_WITH_CALLS });
        out.put_u64_le(self.arrival.0);
        out.put_u32_le(self.records.len() as u32);
        if !runs.is_empty() {
            put_runs(&mut out, &runs);
        }
        for record in &self.records {
            out.put_u8(u8::from(record.explicit_hash_key.is_some()) * FLAG_EXPLICIT_HASH_KEY);
            out.put_u16_le(record.partition_key.0.len() as u16);
            out.put_u32_le(record.data.len() as u32);
            if let Some(key) = record.explicit_hash_key {
                out.put_u128(key.0);
            }
            out.put_slice(&record.partition_key.0);
            out.put_slice(&record.data);
        }
        out.freeze()
    }

    /// Arrival and count without touching the records.
    pub fn peek(payload: &[u8]) -> Result<(Timestamp, u32), BatchError> {
        let mut head = payload.get(..HEADER_BYTES).ok_or(BatchError("shorter than its header"))?;
        if !matches!(head.get_u8(), FORMAT_PLAIN | FORMAT_WITH_CALLS) {
            return Err(BatchError("unknown format"));
        }
        Ok((Timestamp(head.get_u64_le()), head.get_u32_le()))
    }

    /// The calls that the records came in with, without touching the records.
    pub fn calls(payload: &[u8]) -> Result<Vec<CallRun>, BatchError> {
        let (_, count) = Batch::peek(payload)?;
        if payload[0] == FORMAT_PLAIN {
            return Ok(vec![]);
        }
        take_runs(&mut &payload[HEADER_BYTES..], count)
    }

    /// Reads a payload back; keys and data share its memory.
    pub fn decode(mut payload: Bytes) -> Result<Batch, BatchError> {
        let (arrival, count) = Batch::peek(&payload)?;
        let format = payload[0];
        payload.advance(HEADER_BYTES);
        if count as usize > BATCH_RECORDS_MAX {
            return Err(BatchError("more records than a batch may have"));
        }
        let runs = if format == FORMAT_PLAIN { vec![] } else { take_runs(&mut payload, count)? };
        let mut records = Vec::with_capacity(count as usize);
        for _ in 0..count {
            records.push(decode_record(&mut payload)?);
        }
        if payload.has_remaining() {
            return Err(BatchError("bytes after the last record"));
        }
        for CallRun { call, start, ordinals } in runs {
            for (record, ordinal) in records[start as usize..].iter_mut().zip(ordinals) {
                record.origin = Some(Origin { call, ordinal });
            }
        }
        Ok(Batch { arrival, records })
    }
}

fn runs(records: &[Record]) -> Vec<CallRun> {
    let mut runs: Vec<CallRun> = vec![];
    for (position, record) in (0u32..).zip(records) {
        let Some(Origin { call, ordinal }) = record.origin else { continue };
        match runs.last_mut() {
            Some(run) if run.call == call && run.start + run.ordinals.len() as u32 == position => {
                run.ordinals.push(ordinal);
            }
            _ => runs.push(CallRun { call, start: position, ordinals: vec![ordinal] }),
        }
    }
    runs
}

fn put_runs(out: &mut BytesMut, runs: &[CallRun]) {
    let length_at = out.len();
    out.put_u32_le(0);
    for CallRun { call, start, ordinals } in runs {
        out.put_slice(&call.0);
        out.put_u32_le(*start);
        out.put_u16_le(ordinals.len() as u16);
        if ordinals.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1])) {
            out.put_u8(CONSECUTIVE);
            out.put_u16_le(ordinals[0]);
        } else {
            out.put_u8(LISTED);
            ordinals.iter().for_each(|&ordinal| out.put_u16_le(ordinal));
        }
    }
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Takes the calls of a batch of `count` records off the front of `from`.
fn take_runs(from: &mut impl Buf, count: u32) -> Result<Vec<CallRun>, BatchError> {
    const SHORT: BatchError = BatchError("ends within its calls");
    if from.remaining() < 4 {
        return Err(SHORT);
    }
    let length = from.get_u32_le() as usize;
    let Some(rest) = from.remaining().checked_sub(length) else { return Err(SHORT) };
    let mut runs = vec![];
    let mut end = 0;
    while from.remaining() > rest {
        if from.remaining() - rest < 16 + 4 + 2 + 1 {
            return Err(SHORT);
        }
        let mut call = CallId([0; 16]);
        from.copy_to_slice(&mut call.0);
        let (start, length) = (from.get_u32_le(), from.get_u16_le());
        let kind = from.get_u8();
        let room = (from.remaining() - rest) / 2;
        let ordinals = match kind {
            CONSECUTIVE if room >= 1 => {
                let first = from.get_u16_le();
                let last = first.checked_add(length.saturating_sub(1));
                (first..=last.ok_or(BatchError("ordinals run over"))?).collect()
            }
            LISTED if room >= usize::from(length) => {
                (0..length).map(|_| from.get_u16_le()).collect()
            }
            CONSECUTIVE | LISTED => return Err(SHORT),
            _ => return Err(BatchError("unknown kind of ordinals")),
        };
        let begins_after = start >= end;
        end = start.saturating_add(length.into());
        if length == 0 || !begins_after || end > count {
            return Err(BatchError("calls that fit no records"));
        }
        runs.push(CallRun { call, start, ordinals });
    }
    if from.remaining() != rest {
        return Err(SHORT);
    }
    Ok(runs)
}

fn decode_record(payload: &mut Bytes) -> Result<Record, BatchError> {
    const SHORT: BatchError = BatchError("ends within a record");
    if payload.remaining() < RECORD_HEADER_BYTES {
        return Err(SHORT);
    }
    let flags = payload.get_u8();
    let key_len = usize::from(payload.get_u16_le());
    let data_len = payload.get_u32_le() as usize;
    if flags & !FLAG_EXPLICIT_HASH_KEY != 0 {
        return Err(BatchError("unknown record flags"));
    }
    let hash_len = if flags & FLAG_EXPLICIT_HASH_KEY != 0 { 16 } else { 0 };
    if key_len > PARTITION_KEY_BYTES_MAX || payload.remaining() < hash_len + key_len + data_len {
        return Err(SHORT);
    }
    let explicit_hash_key = (hash_len > 0).then(|| HashKey(payload.get_u128()));
    let key = payload.split_to(key_len);
    if std::str::from_utf8(&key).is_err() {
        return Err(BatchError("partition key is not UTF-8"));
    }
    let data = payload.split_to(data_len);
    Ok(Record { partition_key: PartitionKey(key), explicit_hash_key, data, origin: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        (
            "\\PC{1,40}",
            proptest::option::of(any::<u128>()),
            proptest::collection::vec(any::<u8>(), 0..200),
            proptest::option::of((0u8..3, 0u16..4)),
        )
            .prop_map(|(key, hash, data, origin)| Record {
                partition_key: PartitionKey::new(&key).expect("1 to 40 characters"),
                explicit_hash_key: hash.map(HashKey),
                data: data.into(),
                origin: origin.map(|(call, ordinal)| Origin { call: CallId([call; 16]), ordinal }),
            })
    }

    proptest! {
        #[test]
        fn batches_round_trip(arrival: u64, records in proptest::collection::vec(record(), 0..20)) {
            let batch = Batch { arrival: Timestamp(arrival), records };
            let bytes = batch.encode();
            prop_assert_eq!(Batch::peek(&bytes), Ok((batch.arrival, batch.records.len() as u32)));
            prop_assert_eq!(Batch::calls(&bytes), Ok(runs(&batch.records)));
            prop_assert_eq!(Batch::decode(bytes), Ok(batch));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in [FORMAT_PLAIN, FORMAT_WITH_CALLS] {
                let mut tagged = vec![format];
                tagged.extend_from_slice(&bytes);
                let _ = Batch::calls(&tagged);
                let _ = Batch::decode(tagged.into());
            }
            let _ = Batch::decode(bytes.into());
        }
    }

    #[test]
    fn partition_keys_are_counted_in_characters() {
        assert!(PartitionKey::new("").is_none());
        assert!(PartitionKey::new(&"ü".repeat(256)).is_some());
        assert!(PartitionKey::new(&"u".repeat(257)).is_none());
    }
}
