//! Every number that bounds a request, an entry, a frame or a queue, with their relations checked
//! when this compiles.
//!
//! Sources: the AWS model and documentation as collected in the Kinesis contract (2026), unless noted.

/// Longest stream name, in characters.
pub const STREAM_NAME_CHARS_MAX: usize = 128;
/// Longest partition key, in Unicode characters.
pub const PARTITION_KEY_CHARS_MAX: usize = 256;
/// Longest partition key, in bytes: a character takes at most 4 in UTF-8.
pub const PARTITION_KEY_BYTES_MAX: usize = PARTITION_KEY_CHARS_MAX * 4;
/// Most records in one PutRecords.
pub const PUT_RECORDS_COUNT_MAX: usize = 500;
/// Most bytes of data and keys in one PutRecords.
pub const PUT_RECORDS_BYTES_MAX: usize = 10 << 20;
/// Bound of the model on one record's data, whatever the stream allows.
pub const RECORD_DATA_BYTES_CEILING: usize = 10 << 20;
/// Largest record (data and key) of a stream that nobody changed: 1 MiB.
pub const RECORD_BYTES_DEFAULT: usize = 1 << 20;
/// Most records in one GetRecords.
pub const GET_RECORDS_COUNT_MAX: usize = 10_000;
/// Most bytes in one GetRecords.
pub const GET_RECORDS_BYTES_MAX: usize = 10 << 20;
/// A shard iterator's life: 5 minutes.
pub const ITERATOR_MILLIS_MAX: u64 = 300_000;
/// Default retention, in hours.
pub const RETENTION_HOURS_DEFAULT: u32 = 24;
/// Most open shards of one cluster. AWS gives 500 or more by region; ours is a bound on Raft groups, each of
/// which heartbeats for now (docs/decisions/002).
pub const ACCOUNT_SHARDS_MAX: usize = 200;
/// Shards of a stream created without a count.
pub const SHARDS_DEFAULT: u32 = 4;
/// Bytes (data and keys) that a shard is meant to take in within a second. Not enforced: what streams on
/// demand are laid out for.
pub const SHARD_BYTES_PER_SECOND: u64 = 1 << 20;
/// Records that a shard is meant to take in within a second. See `SHARD_BYTES_PER_SECOND`.
pub const SHARD_RECORDS_PER_SECOND: u64 = 1_000;
/// Most streams in one ListStreams answer, and the default.
pub const LIST_STREAMS_DEFAULT: usize = 100;

/// Overhead of one record inside a batch entry, beyond its data and key.
pub const RECORD_OVERHEAD_BYTES_MAX: usize = 64;
/// Fixed overhead of one batch entry.
pub const BATCH_OVERHEAD_BYTES_MAX: usize = 64;
/// A batch closes when its records reach this size. One put is never torn across batches, so a batch
/// can be as large as the largest put, and no larger than that plus this.
pub const BATCH_BYTES_TARGET: usize = 1 << 20;
/// Most records in one batch entry: the sequence number leaves 20 bits for the position.
pub const BATCH_RECORDS_MAX: usize = 10_000;
/// Largest payload of one log entry.
pub const ENTRY_BYTES_MAX: usize = PUT_RECORDS_BYTES_MAX
    + BATCH_BYTES_TARGET
    + BATCH_OVERHEAD_BYTES_MAX
    + BATCH_RECORDS_MAX * RECORD_OVERHEAD_BYTES_MAX;
/// Replication packs entries into one message up to this size (or one larger entry).
pub const REPLICATION_BYTES_TARGET: usize = 2 << 20;
/// Largest gRPC message that a node accepts.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Largest HTTP request body: 10 MiB of payload are about 14 MiB of base64, and JSON needs room.
pub const HTTP_BODY_BYTES_MAX: usize = 20 << 20;

/// Bytes of puts that may wait at one shard leader; past it the answer is throttling.
pub const SHARD_WAITING_BYTES_MAX: usize = 32 << 20;
/// Bytes of HTTP request bodies that one node holds at a time.
pub const HTTP_BODIES_BYTES_MAX: usize = 512 << 20;

const _: () = assert!(ENTRY_BYTES_MAX + REPLICATION_BYTES_TARGET < GRPC_MESSAGE_BYTES_MAX);
const _: () =
    assert!(PUT_RECORDS_BYTES_MAX / 3 * 4 + PUT_RECORDS_COUNT_MAX * 2048 < HTTP_BODY_BYTES_MAX);
const _: () = assert!(BATCH_RECORDS_MAX < 1 << super::sequence_number::POSITION_BITS);
const _: () = assert!(PUT_RECORDS_COUNT_MAX <= BATCH_RECORDS_MAX);
const _: () = assert!(SHARD_WAITING_BYTES_MAX > PUT_RECORDS_BYTES_MAX);
const _: () = assert!(HTTP_BODIES_BYTES_MAX > HTTP_BODY_BYTES_MAX);
