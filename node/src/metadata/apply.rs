//! What each command does to the view. Pure: no clock, no randomness, no I/O.
//!
//! Invariant: ids, incarnations and map versions only rise, also across delete and re-create. A
//! command that is refused, or was carried out before, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tristream_proto::domain::limits::{ACCOUNT_SHARDS_MAX, RETENTION_HOURS_DEFAULT};
use tristream_proto::domain::{
    GroupId, HashKeyRange, Incarnation, MapVersion, NodeId, Shard, ShardId, ShardMap, StreamName,
    Timestamp,
};

use super::command::{Command, Outcome};
use super::view::{Stream, StreamMode, StreamStatus, View};

/// On AWS, the creation time in a shard's sequence numbers lies 2 to 7 s before the CreateStream
/// answer.
const CREATION_LEAD: Duration = Duration::from_secs(3);

/// The view after `command`, or `None` when it changes nothing, and what became of the command.
/// `applied` is left as it was.
pub(super) fn apply(view: &View, command: &Command) -> (Option<View>, Outcome) {
    match command {
        Command::CreateStream { name, shard_count, mode, now, record_bytes_max, tags, nodes } => {
            let new = NewStream {
                name,
                shard_count: *shard_count,
                mode: *mode,
                now: *now,
                record_bytes_max: *record_bytes_max,
                tags,
                nodes,
            };
            match create(view, new) {
                Ok(view) => (Some(view), Outcome::Done),
                Err(refused) => (None, refused),
            }
        }
        Command::ActivateStream { name, incarnation } => activate(view, name, *incarnation),
        Command::DeleteStream { name } => delete(view, name),
        Command::ForgetStream { name, incarnation } => forget(view, name, *incarnation),
        _ => (None, Outcome::Invalid { reason: "not built yet".to_owned() }),
    }
}

struct NewStream<'a> {
    name: &'a StreamName,
    shard_count: u32,
    mode: StreamMode,
    now: Timestamp,
    record_bytes_max: usize,
    tags: &'a BTreeMap<String, String>,
    nodes: &'a [NodeId],
}

fn create(view: &View, new: NewStream<'_>) -> Result<View, Outcome> {
    if view.streams.contains_key(new.name) {
        return Err(Outcome::AlreadyExists);
    }
    check(&new).map_err(|reason| Outcome::Invalid { reason: reason.to_owned() })?;
    let open = view.open_shards();
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
    after.streams.insert(new.name.clone(), Arc::new(stream));
    Ok(after)
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

fn activate(view: &View, name: &StreamName, incarnation: Incarnation) -> (Option<View>, Outcome) {
    match of_incarnation(view, name, incarnation) {
        None => (None, Outcome::NotFound),
        Some(stream) if stream.status == StreamStatus::Creating => {
            (Some(with_status(view, stream, StreamStatus::Active)), Outcome::Done)
        }
        // Active already, or a delete came first: there is nothing left to do.
        Some(_) => (None, Outcome::Done),
    }
}

fn delete(view: &View, name: &StreamName) -> (Option<View>, Outcome) {
    match view.streams.get(name) {
        None => (None, Outcome::NotFound),
        Some(stream) if stream.status == StreamStatus::Deleting => (None, Outcome::Done),
        Some(stream) => (Some(with_status(view, stream, StreamStatus::Deleting)), Outcome::Done),
    }
}

fn forget(view: &View, name: &StreamName, incarnation: Incarnation) -> (Option<View>, Outcome) {
    match of_incarnation(view, name, incarnation) {
        None => (None, Outcome::NotFound),
        Some(stream) if stream.status == StreamStatus::Deleting => {
            let mut after = view.clone();
            after.streams.remove(name);
            (Some(after), Outcome::Done)
        }
        Some(_) => {
            (None, Outcome::Invalid { reason: "the stream is not being deleted".to_owned() })
        }
    }
}

fn of_incarnation<'a>(
    view: &'a View,
    name: &StreamName,
    incarnation: Incarnation,
) -> Option<&'a Arc<Stream>> {
    view.streams.get(name).filter(|stream| stream.incarnation == incarnation)
}

fn with_status(view: &View, stream: &Stream, status: StreamStatus) -> View {
    let mut after = view.clone();
    let changed = Stream { status, ..stream.clone() };
    after.streams.insert(stream.name.clone(), Arc::new(changed));
    after
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
