//! Records and batches. `Batch::encode` is the payload of a shard's log entry: an on-disk format,
//! reviewed like an API.
//!
//! Layout (little endian): `format u8 = 1 | arrival_ms u64 | count u32`, then per record
//! `flags u8 | key_len u16 | data_len u32 | explicit_hash_key 16 bytes big endian if flags & 1 | key | data`.
//! Flags we do not know are an error, so that an older node never misreads a newer batch.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::limits::{BATCH_RECORDS_MAX, PARTITION_KEY_BYTES_MAX, PARTITION_KEY_CHARS_MAX};
use super::{HashKey, Timestamp};

const FORMAT: u8 = 1;
const FLAG_EXPLICIT_HASH_KEY: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + 4;
const RECORD_HEADER_BYTES: usize = 1 + 2 + 4;

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

/// Bytes that are no batch: damage, or a newer format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record batch: {0}")]
pub struct BatchError(pub &'static str);

impl Batch {
    /// The batch as a log payload.
    pub fn encode(&self) -> Bytes {
        debug_assert!(self.records.len() <= BATCH_RECORDS_MAX);
        let bytes: usize = self.records.iter().map(|r| r.bytes() + RECORD_HEADER_BYTES + 16).sum();
        let mut out = BytesMut::with_capacity(HEADER_BYTES + bytes);
        out.put_u8(FORMAT);
        out.put_u64_le(self.arrival.0);
        out.put_u32_le(self.records.len() as u32);
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
        if head.get_u8() != FORMAT {
            return Err(BatchError("unknown format"));
        }
        Ok((Timestamp(head.get_u64_le()), head.get_u32_le()))
    }

    /// Reads a payload back; keys and data share its memory.
    pub fn decode(mut payload: Bytes) -> Result<Batch, BatchError> {
        let (arrival, count) = Batch::peek(&payload)?;
        payload.advance(HEADER_BYTES);
        if count as usize > BATCH_RECORDS_MAX {
            return Err(BatchError("more records than a batch may have"));
        }
        let mut records = Vec::with_capacity(count as usize);
        for _ in 0..count {
            records.push(decode_record(&mut payload)?);
        }
        if payload.has_remaining() {
            return Err(BatchError("bytes after the last record"));
        }
        Ok(Batch { arrival, records })
    }
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
    Ok(Record { partition_key: PartitionKey(key), explicit_hash_key, data })
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
        )
            .prop_map(|(key, hash, data)| Record {
                partition_key: PartitionKey::new(&key).expect("1 to 40 characters"),
                explicit_hash_key: hash.map(HashKey),
                data: data.into(),
            })
    }

    proptest! {
        #[test]
        fn batches_round_trip(arrival: u64, records in proptest::collection::vec(record(), 0..20)) {
            let batch = Batch { arrival: Timestamp(arrival), records };
            let bytes = batch.encode();
            prop_assert_eq!(Batch::peek(&bytes), Ok((batch.arrival, batch.records.len() as u32)));
            prop_assert_eq!(Batch::decode(bytes), Ok(batch));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut tagged = vec![FORMAT];
            tagged.extend_from_slice(&bytes);
            let _ = Batch::decode(bytes.into());
            let _ = Batch::decode(tagged.into());
        }
    }

    #[test]
    fn partition_keys_are_counted_in_characters() {
        assert!(PartitionKey::new("").is_none());
        assert!(PartitionKey::new(&"ü".repeat(256)).is_some());
        assert!(PartitionKey::new(&"u".repeat(257)).is_none());
    }
}
