//! `types.proto` <-> domain.

use super::BadMessage;
use crate::domain::{
    CallId, GroupId, HashKey, HashKeyRange, NodeId, Origin, PartitionKey, Record, Shard, ShardId,
    StoredRecord, Timestamp,
};
use crate::wire;

impl From<&Record> for wire::Record {
    fn from(record: &Record) -> Self {
        wire::Record {
            partition_key: record.partition_key.as_str().to_owned(),
            explicit_hash_key: record
                .explicit_hash_key
                .map(|key| key.0.to_be_bytes().to_vec().into())
                .unwrap_or_default(),
            data: record.data.clone(),
            call: record.origin.map(|o| o.call.0.to_vec().into()).unwrap_or_default(),
            ordinal: record.origin.map(|o| o.ordinal.into()).unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::Record> for Record {
    type Error = BadMessage;

    fn try_from(record: wire::Record) -> Result<Self, BadMessage> {
        let partition_key = PartitionKey::new(&record.partition_key)
            .ok_or_else(|| BadMessage::new("partition key must have 1 to 256 characters"))?;
        let explicit_hash_key = match record.explicit_hash_key.len() {
            0 => None,
            _ => Some(hash_key(&record.explicit_hash_key)?),
        };
        let origin = match record.call.len() {
            0 => None,
            _ => Some(origin(&record.call, record.ordinal)?),
        };
        Ok(Record { partition_key, explicit_hash_key, data: record.data, origin })
    }
}

impl From<&StoredRecord> for wire::StoredRecord {
    fn from(record: &StoredRecord) -> Self {
        wire::StoredRecord {
            sequence_number: record.sequence_number.to_string(),
            arrival_ms: record.arrival.0,
            partition_key: record.partition_key.as_str().to_owned(),
            data: record.data.clone(),
        }
    }
}

impl TryFrom<wire::StoredRecord> for StoredRecord {
    type Error = BadMessage;

    fn try_from(record: wire::StoredRecord) -> Result<Self, BadMessage> {
        Ok(StoredRecord {
            sequence_number: record.sequence_number.parse().map_err(BadMessage::new)?,
            arrival: Timestamp(record.arrival_ms),
            partition_key: PartitionKey::new(&record.partition_key)
                .ok_or_else(|| BadMessage::new("partition key must have 1 to 256 characters"))?,
            data: record.data,
        })
    }
}

impl From<&Shard> for wire::Shard {
    fn from(shard: &Shard) -> Self {
        wire::Shard {
            index: shard.id.index(),
            group: shard.group.0,
            first_hash_key: shard.range.first.0.to_be_bytes().to_vec().into(),
            last_hash_key: shard.range.last.0.to_be_bytes().to_vec().into(),
            creation_second: shard.creation_second,
            parents: shard.parents.iter().map(|p| p.index()).collect(),
            replicas: shard.replicas.iter().map(|n| n.0).collect(),
            closed_second: shard.closed_second,
            leader: 0,
        }
    }
}

impl TryFrom<&wire::Shard> for Shard {
    type Error = BadMessage;

    fn try_from(shard: &wire::Shard) -> Result<Self, BadMessage> {
        Ok(Shard {
            id: ShardId::from(shard.index),
            group: GroupId(shard.group),
            range: HashKeyRange {
                first: hash_key(&shard.first_hash_key)?,
                last: hash_key(&shard.last_hash_key)?,
            },
            creation_second: shard.creation_second,
            parents: shard.parents.iter().map(|&p| ShardId::from(p)).collect(),
            replicas: shard.replicas.iter().map(|&n| NodeId(n)).collect(),
            closed_second: shard.closed_second,
        })
    }
}

fn origin(call: &[u8], ordinal: u32) -> Result<Origin, BadMessage> {
    let call = call.try_into().map_err(|_| BadMessage::new("a call's id has 16 bytes"))?;
    let ordinal =
        u16::try_from(ordinal).map_err(|_| BadMessage::new("a call has at most 65,536 records"))?;
    Ok(Origin { call: CallId(call), ordinal })
}

fn hash_key(bytes: &[u8]) -> Result<HashKey, BadMessage> {
    let bytes = bytes.try_into().map_err(|_| BadMessage::new("a hash key has 16 bytes"))?;
    Ok(HashKey(u128::from_be_bytes(bytes)))
}
