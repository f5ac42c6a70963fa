//! The view as rows, and back.
//!
//! An on-disk format: fields are only ever added. A stream of many shards or tags is cut into many
//! rows, because the store wants them below 4 KiB.
//!
//! ```text
//! key                                           value (JSON)           changes
//! counters                                      Counters               with new streams, reshards
//! stream/<name>                                 Head                   with the stream
//! shard/<incarnation, 16 hex>/<index, 8 hex>    Shard                  with the shard
//! reshard/<incarnation, 16 hex>/<index, 8 hex>  Reshard                with the reshard
//! goal/<incarnation, 16 hex>/keep/<4 hex>       GOAL_KEYS hash keys    with the goal
//! goal/<incarnation, 16 hex>/split/<4 hex>      GOAL_KEYS hash keys    with each split of the goal
//! tag/<incarnation, 16 hex>/<key>               the value, plain text  with the tag
//! the store's marker                            Marker                 with every batch
//! ```
//!
//! The rows of a reshard are numbered by its first child; those of a goal, from 0.
//!
//! Invariant: `load` gives back exactly the view that was saved, or says why it cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tristream_proto::domain::{
    HashKey, Incarnation, MapVersion, NodeId, Shard, ShardMap, StreamName, Timestamp,
};

use super::view::{Goal, Reshard, Stream, StreamMode, StreamStatus, View};
use crate::log::EntryId;
use crate::state::{Change, Tables};

const COUNTERS: &[u8] = b"counters";
const STREAM: &str = "stream/";
const SHARD: &str = "shard/";
const RESHARD: &str = "reshard/";
const GOAL: &str = "goal/";
const KEEP: &str = "keep/";
const SPLIT: &str = "split/";
const TAG: &str = "tag/";

/// Hash keys in one row: of up to 42 bytes each.
const GOAL_KEYS: usize = 64;

#[derive(Serialize, Deserialize)]
struct Counters {
    next_group: u64,
    next_incarnation: u64,
    map_version: u64,
}

/// A stream without what has rows of its own.
#[derive(Serialize, Deserialize)]
struct Head {
    name: StreamName,
    incarnation: Incarnation,
    status: StreamStatus,
    mode: StreamMode,
    created: Timestamp,
    retention_hours: u32,
    record_bytes_max: usize,
    map_version: MapVersion,
    shards: usize,
    tags: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    reshards: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    goal: Option<GoalHead>,
    #[serde(default)]
    next_shard: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rescaled: Vec<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mode_changed: Vec<Timestamp>,
}

/// A goal without its hash keys.
#[derive(Serialize, Deserialize)]
struct GoalHead {
    target: u32,
    splits: usize,
    keep: usize,
}

/// The rows of a stream beside its head.
#[derive(Default)]
struct Parts {
    shards: Vec<Shard>,
    reshards: Vec<Reshard>,
    keep: Vec<HashKey>,
    splits: Vec<HashKey>,
    tags: BTreeMap<String, String>,
}

/// The entry that the rows stand as of.
#[derive(Serialize, Deserialize)]
struct Marker {
    term: u64,
    node: NodeId,
    index: u64,
}

/// The changes that turn the rows of `before` into those of `after`.
pub(super) fn diff(before: &View, after: &View) -> Vec<Change> {
    let names: BTreeSet<&StreamName> = before.streams.keys().chain(after.streams.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        match (before.streams.get(name), after.streams.get(name)) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
            (old, new) => {
                let rows = |stream: Option<&Arc<Stream>>| stream.map(|s| of_stream(s));
                replace(rows(old).unwrap_or_default(), rows(new).unwrap_or_default(), &mut changes);
            }
        }
    }
    replace(of_counters(before), of_counters(after), &mut changes);
    changes
}

/// The changes that turn whatever `tables` hold into the rows of `view`.
pub(super) fn rewrite(tables: &dyn Tables, view: &View) -> io::Result<Vec<Change>> {
    let mut rows = of_counters(view);
    rows.extend(view.streams.values().flat_map(|stream| of_stream(stream)));
    let mut changes = Vec::new();
    replace(tables.scan(b"")?.into_iter().collect(), rows, &mut changes);
    Ok(changes)
}

/// The view in the tables and the entry it stands as of; `None` when they are empty.
pub(super) fn load(tables: &dyn Tables) -> io::Result<Option<(View, EntryId)>> {
    let Some(marker) = tables.applied()? else { return Ok(None) };
    let marker: Marker = parse(&marker)?;
    let mut view = View { applied: marker.index, ..View::default() };
    if let [(_, counters)] = &tables.scan(COUNTERS)?[..] {
        let counters: Counters = parse(counters)?;
        view.next_group = counters.next_group;
        view.next_incarnation = counters.next_incarnation;
        view.map_version = counters.map_version;
    }
    let mut parts = parts(tables)?;
    for (_, value) in tables.scan(STREAM.as_bytes())? {
        let head: Head = parse(&value)?;
        let stream = join(parts.remove(&head.incarnation).unwrap_or_default(), head)?;
        view.streams.insert(stream.name.clone(), Arc::new(stream));
    }
    if !parts.is_empty() {
        return Err(damaged("rows of a stream that is not there"));
    }
    Ok(Some((view, EntryId { term: marker.term, node: marker.node, index: marker.index })))
}

/// What the streams have beside their heads. Numbered rows come in the order of their numbers.
fn parts(tables: &dyn Tables) -> io::Result<BTreeMap<Incarnation, Parts>> {
    let mut parts: BTreeMap<Incarnation, Parts> = BTreeMap::new();
    for (key, value) in tables.scan(SHARD.as_bytes())? {
        let (incarnation, _) = split_key(SHARD, &key)?;
        parts.entry(incarnation).or_default().shards.push(parse(&value)?);
    }
    for (key, value) in tables.scan(RESHARD.as_bytes())? {
        let (incarnation, _) = split_key(RESHARD, &key)?;
        parts.entry(incarnation).or_default().reshards.push(parse(&value)?);
    }
    for (key, value) in tables.scan(GOAL.as_bytes())? {
        let (incarnation, rest) = split_key(GOAL, &key)?;
        let parts = parts.entry(incarnation).or_default();
        let keys: Vec<HashKey> = parse(&value)?;
        match rest.starts_with(KEEP) {
            true => parts.keep.extend(keys),
            false => parts.splits.extend(keys),
        }
    }
    for (key, value) in tables.scan(TAG.as_bytes())? {
        let (incarnation, tag) = split_key(TAG, &key)?;
        let value = std::str::from_utf8(&value).map_err(damaged)?;
        parts.entry(incarnation).or_default().tags.insert(tag.to_owned(), value.to_owned());
    }
    Ok(parts)
}

/// The marker of rows that stand as of `at`.
pub(super) fn marker(at: EntryId) -> Bytes {
    json(&Marker { term: at.term, node: at.node, index: at.index })
}

type Rows = BTreeMap<Bytes, Bytes>;

fn of_counters(view: &View) -> Rows {
    let counters = Counters {
        next_group: view.next_group,
        next_incarnation: view.next_incarnation,
        map_version: view.map_version,
    };
    Rows::from([(Bytes::from_static(COUNTERS), json(&counters))])
}

fn of_stream(stream: &Stream) -> Rows {
    let head = Head {
        name: stream.name.clone(),
        incarnation: stream.incarnation,
        status: stream.status,
        mode: stream.mode,
        created: stream.created,
        retention_hours: stream.retention_hours,
        record_bytes_max: stream.record_bytes_max,
        map_version: stream.map_version(),
        shards: stream.map.shards().len(),
        tags: stream.tags.len(),
        reshards: stream.reshards.len(),
        goal: stream.goal.as_ref().map(|goal| GoalHead {
            target: goal.target,
            splits: goal.splits.len(),
            keep: goal.keep.len(),
        }),
        next_shard: stream.next_shard,
        rescaled: stream.rescaled.clone(),
        mode_changed: stream.mode_changed.clone(),
    };
    let incarnation = stream.incarnation.0;
    let mut rows = Rows::from([(format!("{STREAM}{}", stream.name).into(), json(&head))]);
    for shard in stream.map.shards() {
        let key = format!("{SHARD}{incarnation:016x}/{:08x}", shard.id.index());
        rows.insert(key.into(), json(shard));
    }
    for reshard in &stream.reshards {
        let key = format!("{RESHARD}{incarnation:016x}/{:08x}", reshard.id().index());
        rows.insert(key.into(), json(reshard));
    }
    if let Some(goal) = &stream.goal {
        for (kind, keys) in [(KEEP, &goal.keep), (SPLIT, &goal.splits)] {
            for (i, keys) in keys.chunks(GOAL_KEYS).enumerate() {
                rows.insert(format!("{GOAL}{incarnation:016x}/{kind}{i:04x}").into(), json(&keys));
            }
        }
    }
    for (key, value) in &stream.tags {
        rows.insert(format!("{TAG}{incarnation:016x}/{key}").into(), value.clone().into());
    }
    rows
}

fn join(parts: Parts, head: Head) -> io::Result<Stream> {
    let goal = head.goal.map(|goal| (goal.target, goal.splits, goal.keep));
    let (_, splits, keep) = goal.unwrap_or_default();
    let expected = [head.shards, head.tags, head.reshards, splits, keep];
    let found = [
        parts.shards.len(),
        parts.tags.len(),
        parts.reshards.len(),
        parts.splits.len(),
        parts.keep.len(),
    ];
    if found != expected {
        return Err(damaged(format!("stream {} lacks rows", head.name)));
    }
    let Parts { shards, reshards, keep, splits, tags } = parts;
    Ok(Stream {
        map: ShardMap::new(head.map_version, shards).map_err(damaged)?,
        name: head.name,
        incarnation: head.incarnation,
        status: head.status,
        mode: head.mode,
        created: head.created,
        retention_hours: head.retention_hours,
        record_bytes_max: head.record_bytes_max,
        tags,
        reshards,
        goal: goal.map(|(target, ..)| Goal { target, splits, keep }),
        next_shard: head.next_shard,
        rescaled: head.rescaled,
        mode_changed: head.mode_changed,
    })
}

fn replace(old: Rows, new: Rows, changes: &mut Vec<Change>) {
    let gone = old.keys().filter(|&key| !new.contains_key(key)).cloned().map(Change::Delete);
    changes.extend(gone);
    let set = new.into_iter().filter(|(key, value)| old.get(key) != Some(value));
    changes.extend(set.map(|(key, value)| Change::Put(key, value)));
}

fn split_key<'a>(prefix: &str, key: &'a Bytes) -> io::Result<(Incarnation, &'a str)> {
    let key = std::str::from_utf8(key).map_err(damaged)?;
    let parts = key.strip_prefix(prefix).and_then(|rest| rest.split_once('/'));
    let (incarnation, rest) = parts.ok_or_else(|| damaged(format!("no row has key {key}")))?;
    Ok((Incarnation(u64::from_str_radix(incarnation, 16).map_err(damaged)?), rest))
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn json(value: &impl Serialize) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes.into(),
        Err(error) => unreachable!("rows have text keys and no failing types: {error}"),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(damaged)
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
