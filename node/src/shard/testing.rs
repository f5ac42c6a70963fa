//! What the tests of this floor share.

use bytes::Bytes;
use tristream_proto::domain::{
    CallId, GroupId, HashKey, HashKeyRange, NodeId, Origin, PartitionKey, Record, Shard, ShardId,
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

/// Shard 5 of some stream: from shard 3, or from shards 3 and 4.
pub(super) fn child(parents: &[u32]) -> Shard {
    let parents = parents.iter().copied().map(ShardId::from).collect();
    Shard { id: ShardId::from(5), creation_second: 0, parents, ..shard() }
}

pub(super) fn origin(call: u8, ordinal: u16) -> Origin {
    Origin { call: CallId([call; 16]), ordinal }
}

/// Records of a call, whose keys tell where they came from: `7.0`, `7.1`.
pub(super) fn sent(call: u8, ordinals: &[u16]) -> Vec<Record> {
    let record = |&ordinal: &u16| {
        let mut record = records(&[&format!("{call}.{ordinal}")]).remove(0);
        record.origin = Some(origin(call, ordinal));
        record
    };
    ordinals.iter().map(record).collect()
}
