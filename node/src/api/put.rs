//! What PutRecord and PutRecords share: from members to records, and from the router's refusals to
//! ours.

use bytes::Bytes;
use tristream_proto::domain::limits::RECORD_DATA_BYTES_CEILING;
use tristream_proto::domain::{HashKey, PartitionKey, Record, ShardId};

use super::validate::{Checks, HASH_KEY, Text};
use super::{Api, Error, Members};
use crate::metadata::Stream;
use crate::router;

const PARTITION_KEY: Text = Text { min: 1, max: 256, pattern: None };

/// A record as it was sent.
pub(super) struct RecordInput {
    data: Option<Bytes>,
    partition_key: Option<String>,
    explicit_hash_key: Option<String>,
}

impl RecordInput {
    /// Takes a record's members out of `input`.
    pub(super) fn take(input: &mut Members) -> Result<RecordInput, Error> {
        Ok(RecordInput {
            data: input.blob("Data")?,
            partition_key: input.text("PartitionKey")?,
            explicit_hash_key: input.text("ExplicitHashKey")?,
        })
    }

    /// Checks the constraints of the model; `path` ends in a dot, or is empty.
    pub(super) fn check(&self, checks: &mut Checks, path: &str) {
        let at = |member: &str| format!("{path}{member}");
        checks.required(&at("data"), &self.data);
        let length = self.data.as_ref().map_or(0, Bytes::len);
        checks.blob(&at("data"), length, RECORD_DATA_BYTES_CEILING);
        checks.required(&at("partitionKey"), &self.partition_key);
        checks.text(&at("partitionKey"), self.partition_key.as_deref(), PARTITION_KEY);
        checks.text(&at("explicitHashKey"), self.explicit_hash_key.as_deref(), HASH_KEY);
    }

    /// The record. Only after `check`.
    pub(super) fn record(self) -> Result<Record, Error> {
        let key = self.partition_key.unwrap_or_default();
        let partition_key = PartitionKey::new(&key)
            .ok_or_else(|| Error::Internal("an unchecked partition key".to_owned()))?;
        let explicit_hash_key = self.explicit_hash_key.map(|text| hash_key(&text)).transpose()?;
        let data = self.data.unwrap_or_default();
        Ok(Record { partition_key, explicit_hash_key, data, origin: None })
    }
}

/// The pattern lets numbers through that are too large.
fn hash_key(text: &str) -> Result<HashKey, Error> {
    text.parse().map_err(|_| {
        Error::InvalidArgument(format!(
            "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. \
             Specified value was {text}"
        ))
    })
}

/// A record may have what its stream allows, the key included.
pub(super) fn check_size(stream: &Stream, record: &Record, path: &str) -> Result<(), Error> {
    let max = stream.record_bytes_max;
    if record.bytes() <= max {
        return Ok(());
    }
    Err(Error::Validation(format!(
        "1 validation error detected: Value at '{path}data' failed to satisfy constraint: Member \
         must have length less than or equal to {max}"
    )))
}

/// Why a shard did not take records.
pub(super) fn refusal(api: &Api, stream: &Stream, shard: ShardId, error: router::Error) -> Error {
    match error {
        router::Error::Throttled(_) => {
            let (stream, account) = (stream.name.clone(), api.account.clone());
            Error::Throttled { shard, stream, account }
        }
        router::Error::StreamNotFound(name) => api.no_such_stream(name),
        other => other.into(),
    }
}
