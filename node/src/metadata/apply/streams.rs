//! A stream's life: created, active, being deleted, gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tristream_proto::domain::limits::{ACCOUNT_SHARDS_MAX, RETENTION_HOURS_DEFAULT};
use tristream_proto::domain::{
    GroupId, HashKeyRange, Incarnation, MapVersion, NodeId, Shard, ShardId, ShardMap, StreamName,
    Timestamp,
};

use super::{Applied, invalid, with};
use crate::metadata::command::Outcome;
use crate::metadata::view::{Stream, StreamMode, StreamStatus, View};

/// On AWS, the creation time in a shard's sequence numbers lies 2 to 7 s before the CreateStream
/// answer.
const CREATION_LEAD: Duration = Duration::from_secs(3);

pub(super) struct NewStream<'a> {
    pub(super) name: &'a StreamName,
    pub(super) shard_count: u32,
    pub(super) mode: StreamMode,
    pub(super) now: Timestamp,
    pub(super) record_bytes_max: usize,
    pub(super) tags: &'a BTreeMap<String, String>,
    pub(super) nodes: &'a [NodeId],
}

pub(super) fn create(view: &View, new: NewStream<'_>) -> Applied {
    if view.streams.contains_key(new.name) {
        return Err(Outcome::AlreadyExists);
    }
    check(&new).map_err(invalid)?;
    let open = view.shards_held();
    if new.shard_count as usize > ACCOUNT_SHARDS_MAX.saturating_sub(open) {
        return Err(Outcome::ShardLimit { open, limit: ACCOUNT_SHARDS_MAX });
    }
    let mut after = view.clone();
    after.map_version += 1;
    after.next_group += u64::from(new.shard_count);
    after.next_incarnation += 1;
    let shards = shards(view.next_group, &new);
    let map = match ShardMap::new(MapVersion(after.map_version), shards) {
        Ok(map) => map,
        Err(error) => unreachable!("uniform ranges tile the key space: {error}"),
    };
    let stream = Stream {
        name: new.name.clone(),
        incarnation: Incarnation(view.next_incarnation),
        status: StreamStatus::Creating,
        mode: new.mode,
        created: new.now,
        retention_hours: RETENTION_HOURS_DEFAULT,
        record_bytes_max: new.record_bytes_max,
        tags: new.tags.clone(),
        map,
        reshards: vec![],
        goal: None,
        next_shard: new.shard_count,
        rescaled: vec![],
        mode_changed: vec![],
    };
    Ok(Some(with(after, stream)))
}

fn check(new: &NewStream<'_>) -> Result<(), &'static str> {
    let distinct: BTreeSet<_> = new.nodes.iter().collect();
    if new.shard_count == 0 {
        return Err("a stream has at least one shard");
    }
    if new.nodes.is_empty() || distinct.len() != new.nodes.len() {
        return Err("replicas need nodes, each named once");
    }
    if new.record_bytes_max == 0 {
        return Err("records may not be limited to nothing");
    }
    Ok(())
}

fn shards(first_group: u64, new: &NewStream<'_>) -> Vec<Shard> {
    let creation_second = new.now.before(CREATION_LEAD).seconds();
    let shard = |(i, range): (u32, HashKeyRange)| {
        let group = first_group + u64::from(i);
        let mut replicas = new.nodes.to_vec();
        // By group and not by shard: else the first shard of every stream is led by one node.
        replicas.rotate_left((group % new.nodes.len() as u64) as usize);
        Shard {
            id: ShardId::from(i),
            group: GroupId(group),
            range,
            creation_second,
            parents: Vec::new(),
            replicas,
            closed_second: None,
        }
    };
    (0..).zip(HashKeyRange::uniform(new.shard_count)).map(shard).collect()
}

pub(super) fn activate(view: &View, stream: &Stream) -> Applied {
    match stream.status {
        StreamStatus::Creating => Ok(Some(with_status(view, stream, StreamStatus::Active))),
        // Active already, or a delete came first: there is nothing left to do.
        _ => Ok(None),
    }
}

/// Reshards under way stay in the stream: the groups of their children are still to be destroyed.
pub(super) fn delete(view: &View, name: &StreamName, incarnation: Option<Incarnation>) -> Applied {
    let meant = |stream: &&Arc<Stream>| incarnation.is_none_or(|meant| stream.incarnation == meant);
    let stream = view.streams.get(name).filter(meant).ok_or(Outcome::NotFound)?;
    match stream.status {
        StreamStatus::Deleting => Ok(None),
        _ => {
            let ended = Stream { goal: None, ..Stream::clone(stream) };
            Ok(Some(with_status(view, &ended, StreamStatus::Deleting)))
        }
    }
}

pub(super) fn forget(view: &View, stream: &Stream) -> Applied {
    if stream.status != StreamStatus::Deleting {
        return Err(invalid("the stream is not being deleted"));
    }
    let mut after = view.clone();
    after.streams.remove(&stream.name);
    Ok(Some(after))
}

fn with_status(view: &View, stream: &Stream, status: StreamStatus) -> View {
    with(view.clone(), Stream { status, ..stream.clone() })
}
