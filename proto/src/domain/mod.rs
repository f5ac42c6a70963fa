//! Pure vocabulary: ids, keys, numbers, records, the shard map, errors. No I/O, no prost types.

mod call;
mod error;
mod hash_key;
mod ids;
mod iterator;
pub mod limits;
mod read;
mod record;
mod sequence_number;
mod shard_map;
mod time;

pub use call::{CallId, Origin};
pub use error::{Effect, Retry};
pub use hash_key::{HashKey, HashKeyRange, InvalidHashKey};
pub use ids::{
    GroupId, Incarnation, InvalidName, MapVersion, NodeId, ShardId, ShardIndex, StreamName,
};
pub use iterator::{IteratorError, ShardIterator, TokenKey};
pub use read::{ReadFrom, StoredRecord};
pub use record::{Batch, BatchError, CallRun, PartitionKey, Record};
pub use sequence_number::{InvalidSequenceNumber, RecordPosition, SequenceNumber};
pub use shard_map::{InvalidShardMap, Shard, ShardMap};
pub use time::Timestamp;
