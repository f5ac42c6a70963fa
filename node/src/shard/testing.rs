//! What the tests of this floor share.

use bytes::Bytes;
use tristream_proto::domain::{
    GroupId, HashKey, HashKeyRange, NodeId, PartitionKey, Record, Shard, ShardId,
};

/// One record per text, which is both its key and its data.
pub(super) fn records(texts: &[&str]) -> Vec<Record> {
    let record = |text: &&str| Record {
        partition_key: PartitionKey::new(text).expect("a legal key"),
        explicit_hash_key: None,
        origin: None,
        data: Bytes::copy_from_slice(text.as_bytes()),
    };
    texts.iter().map(record).collect()
}

/// Shard 3 of some stream.
pub(super) fn shard() -> Shard {
    Shard {
        id: ShardId::from(3),
        group: GroupId(9),
        range: HashKeyRange { first: HashKey(0), last: HashKey(u128::MAX) },
        creation_second: 1_790_000_000,
        parents: vec![],
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        closed_second: None,
    }
}
