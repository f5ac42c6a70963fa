//! Splits and merges: begun, published; and the shards that they closed, expired.
//!
//! Invariant: a shard has one reshard at most, a child's creation second lies above those of its
//! parents, and no index or group id is given out twice.

use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{
    GroupId, HashKey, HashKeyRange, MapVersion, Shard, ShardId, Timestamp,
};

use super::{Applied, invalid, serving, with};
use crate::metadata::command::Outcome;
use crate::metadata::view::{Reshard, Stream, StreamMode, StreamStatus, View};

/// Past the last index that fits the signed 32 bits of a sequence number.
const SHARD_INDEX_END: u32 = 1 << 31;

pub(super) fn split(
    view: &View,
    stream: &Stream,
    shard: ShardId,
    at: HashKey,
    now: Timestamp,
    while_updating: bool,
) -> Applied {
    check_changeable(stream, while_updating)?;
    let parent = free(stream, existing(stream, shard)?)?;
    let planned = stream.goal.as_ref().is_some_and(|goal| goal.splits.contains(&at));
    let open = view.shards_held();
    // What a goal plans was counted when it was set.
    if !planned && open >= ACCOUNT_SHARDS_MAX {
        return Err(Outcome::ShardLimit { open, limit: ACCOUNT_SHARDS_MAX });
    }
    let HashKeyRange { first, last } = parent.range;
    if !parent.range.can_split_at(at) {
        let reason = format!(
            "NewStartingHashKey {at} used in SplitShard() on shard {shard} is not both greater \
             than one plus the shard's StartingHashKey {first} and less than the shard's \
             EndingHashKey {last}."
        );
        return Err(Outcome::BadRange { reason });
    }
    let lower = HashKeyRange { first, last: HashKey(at.0 - 1) };
    let upper = HashKeyRange { first: at, last };
    let mut changed = stream.clone();
    if let Some(goal) = &mut changed.goal {
        goal.splits.retain(|&point| point != at);
    }
    begin(view, changed, &[parent], &[lower, upper], now)
}

pub(super) fn merge(
    view: &View,
    stream: &Stream,
    shard: ShardId,
    adjacent: ShardId,
    now: Timestamp,
    while_updating: bool,
) -> Applied {
    check_changeable(stream, while_updating)?;
    let (lower, upper) = (existing(stream, shard)?, existing(stream, adjacent)?);
    let (lower, upper) = (free(stream, lower)?, free(stream, upper)?);
    if !lower.range.meets(upper.range) {
        let reason = format!(
            "Shards {shard} and {adjacent} are not an adjacent pair of shards eligible for merging"
        );
        return Err(Outcome::BadRange { reason });
    }
    let range = HashKeyRange { first: lower.range.first, last: upper.range.last };
    begin(view, stream.clone(), &[lower, upper], &[range], now)
}

/// Whether the stream's shards may be changed at all, by its user or (`while_updating`) by a step
/// of its goal or its load.
fn check_changeable(stream: &Stream, while_updating: bool) -> Result<(), Outcome> {
    if stream.mode == StreamMode::OnDemand && !while_updating {
        return Err(Outcome::OnDemand);
    }
    match stream.status {
        StreamStatus::Active => Ok(()),
        StreamStatus::Updating if while_updating => Ok(()),
        _ => Err(Outcome::NotActive),
    }
}

fn existing(stream: &Stream, shard: ShardId) -> Result<&Shard, Outcome> {
    stream.map.get(shard).ok_or(Outcome::NoShard { shard })
}

fn free<'a>(stream: &Stream, shard: &'a Shard) -> Result<&'a Shard, Outcome> {
    match shard.is_open() && stream.reshard_of(shard.id).is_none() {
        true => Ok(shard),
        false => Err(Outcome::NotEligible { shard: shard.id }),
    }
}

fn begin(
    view: &View,
    mut stream: Stream,
    parents: &[&Shard],
    ranges: &[HashKeyRange],
    now: Timestamp,
) -> Applied {
    let first_index = stream.free_index();
    let next_shard = first_index.saturating_add(ranges.len() as u32);
    if next_shard > SHARD_INDEX_END {
        return Err(invalid("the stream has used up its shard ids"));
    }
    let ids: Vec<ShardId> = parents.iter().map(|parent| parent.id).collect();
    let child = |(index, (group, &range)): (u32, (u64, &HashKeyRange))| {
        // Sorted: the parents are rotated by their own groups, and twice rotated would be led by
        // one node when many shards are split at a time.
        let mut replicas = parents.first().map(|p| p.replicas.clone()).unwrap_or_default();
        replicas.sort();
        let by = group.checked_rem(replicas.len() as u64).unwrap_or(0);
        replicas.rotate_left(by as usize);
        Shard {
            id: ShardId::from(index),
            group: GroupId(group),
            range,
            creation_second: 0,
            parents: ids.clone(),
            replicas,
            closed_second: None,
        }
    };
    let children = (first_index..).zip((view.next_group..).zip(ranges)).map(child).collect();
    stream.reshards.push(Reshard { parents: ids.clone(), children, begun: now });
    stream.next_shard = next_shard;
    stream.status = serving(&stream);
    let mut after = view.clone();
    after.next_group += ranges.len() as u64;
    Ok(Some(with(after, stream)))
}

/// Publishes a reshard; one that is gone was published before.
pub(super) fn finish(
    view: &View,
    stream: &Stream,
    reshard: ShardId,
    creation_second: u64,
) -> Applied {
    let at = stream.reshards.iter().position(|known| known.id() == reshard);
    let (Some(at), StreamStatus::Updating) = (at, stream.status) else { return Ok(None) };
    let mut stream = stream.clone();
    let Reshard { parents, mut children, .. } = stream.reshards.remove(at);
    for child in &mut children {
        child.creation_second = creation_second;
    }
    let mut after = view.clone();
    after.map_version += 1;
    let map = stream.map.succeeded(MapVersion(after.map_version), &parents, children);
    stream.map = map.map_err(invalid)?;
    stream.status = serving(&stream);
    Ok(Some(with(after, stream)))
}

/// Drops those of `shards` that are closed. A parent is closed no sooner than its reshard is gone,
/// so none that is still needed is among them.
pub(super) fn expire(view: &View, stream: &Stream, shards: &[ShardId]) -> Applied {
    let map = stream.map.without(shards);
    let serves = matches!(stream.status, StreamStatus::Active | StreamStatus::Updating);
    if !serves || map == stream.map {
        return Ok(None);
    }
    Ok(Some(with(view.clone(), Stream { map, ..stream.clone() })))
}
