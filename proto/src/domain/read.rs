//! What a reader asks for and what it gets.

use bytes::Bytes;

use super::{RecordPosition, SequenceNumber, Timestamp};

/// Where in a shard a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The oldest record still kept.
    TrimHorizon,
    /// The first record at or after this position.
    At(RecordPosition),
    /// The first record that arrived at or after this time.
    Time(Timestamp),
    /// After the newest committed record, as of now.
    Latest,
}

/// A record as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place in the shard's order.
    pub sequence_number: SequenceNumber,
    /// When the leader took it in.
    pub arrival: Timestamp,
    /// As the producer sent it.
    pub partition_key: super::PartitionKey,
    /// As the producer sent it.
    pub data: Bytes,
}
