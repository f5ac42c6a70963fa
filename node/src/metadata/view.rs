//! What the metadata group says, as every floor above reads it: an immutable picture, replaced as a
//! whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tristream_proto::domain::{
    HashKey, Incarnation, MapVersion, Shard, ShardId, ShardMap, StreamName, Timestamp,
};

/// Everything the metadata group knows, as of one applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Index of the last applied metadata entry.
    pub applied: u64,
    /// Streams by name.
    pub streams: BTreeMap<StreamName, Arc<Stream>>,
    /// Groups from this id on were never given out: a group below it that no stream has was
    /// deleted.
    pub next_group: u64,
    /// The incarnation that the next stream gets.
    pub next_incarnation: u64,
    /// The newest shard map version given out.
    pub map_version: u64,
}

impl Default for View {
    /// The view before the first entry. Group 0 is the metadata group.
    fn default() -> View {
        View {
            applied: 0,
            streams: BTreeMap::new(),
            next_group: 1,
            next_incarnation: 1,
            map_version: 0,
        }
    }
}

impl View {
    /// Open shards of all streams, those being deleted too.
    pub fn open_shards(&self) -> usize {
        self.streams.values().map(|stream| stream.map.open().count()).sum()
    }

    /// Shards that count against the limit: the open ones of all streams, those being deleted too,
    /// and those that the splits under way and the goals will add before anything is merged.
    pub fn shards_held(&self) -> usize {
        self.streams.values().map(|stream| stream.shards_held()).sum()
    }
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its name.
    pub name: StreamName,
    /// Tells it from earlier streams of the name.
    pub incarnation: Incarnation,
    /// Where it is in its life.
    pub status: StreamStatus,
    /// Whether its shards follow the load.
    pub mode: StreamMode,
    /// When it was created.
    pub created: Timestamp,
    /// Hours for which records are kept.
    pub retention_hours: u32,
    /// Largest record, data and key, in bytes.
    pub record_bytes_max: usize,
    /// The user's labels.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Its shards.
    pub map: ShardMap,
    /// The reshards under way, by rising id.
    #[serde(default)]
    pub reshards: Vec<Reshard>,
    /// Where a change of the number of shards leads, until it is there.
    #[serde(default)]
    pub goal: Option<Goal>,
    /// Index of the next shard; never given out twice.
    #[serde(default)]
    pub next_shard: u32,
    /// When the number of shards was changed, within the last 24 hours.
    #[serde(default)]
    pub rescaled: Vec<Timestamp>,
    /// When the mode was changed, within the last 24 hours.
    #[serde(default)]
    pub mode_changed: Vec<Timestamp>,
}

/// One split or merge under way: its children exist as groups, and are not in the map yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshard {
    /// One shard (split) or two neighbours (merge), by their ranges.
    pub parents: Vec<ShardId>,
    /// Two shards or one, by their ranges. Their creation second is not known yet and reads 0.
    pub children: Vec<Shard>,
    /// When it began, by the proposer's clock.
    pub begun: Timestamp,
}

impl Reshard {
    /// Names it within the stream: the first child's id, which is never given out twice.
    pub fn id(&self) -> ShardId {
        self.children.first().map(|child| child.id).unwrap_or_default()
    }
}

/// What is left to do until a stream has the number of shards that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// How many shards.
    pub target: u32,
    /// Hash keys at which a shard is still to be split.
    pub splits: Vec<HashKey>,
    /// First hash keys of the shards that shall be left: neighbours that meet elsewhere are merged.
    pub keep: Vec<HashKey>,
}

impl Stream {
    /// Version of the shard map.
    pub fn map_version(&self) -> MapVersion {
        self.map.version()
    }

    /// Every shard that has a group: those of the map, and the children of reshards under way.
    pub fn all_shards(&self) -> impl Iterator<Item = &Shard> {
        self.map.shards().iter().chain(self.reshards.iter().flat_map(|reshard| &reshard.children))
    }

    /// The shards that came from `parent`, by their ranges.
    pub fn children_of(&self, parent: ShardId) -> impl Iterator<Item = &Shard> {
        let mut children: Vec<&Shard> =
            self.map.shards().iter().filter(|shard| shard.parents.contains(&parent)).collect();
        children.sort_by_key(|child| child.range.first);
        children.into_iter()
    }

    /// See [`View::shards_held`]. A merge under way counts as the two that it begins with.
    pub fn shards_held(&self) -> usize {
        let added =
            |reshard: &Reshard| reshard.children.len().saturating_sub(reshard.parents.len());
        let under_way: usize = self.reshards.iter().map(added).sum();
        let planned = self.goal.as_ref().map_or(0, |goal| goal.splits.len());
        self.map.open().count() + under_way + planned
    }

    /// Index of the next shard. Streams written before indexes were counted hold 0: they had no
    /// reshard yet, so none of their shards is gone.
    pub fn free_index(&self) -> u32 {
        let after = |shard: &Shard| shard.id.index().saturating_add(1);
        self.all_shards().map(after).max().unwrap_or(0).max(self.next_shard)
    }

    /// The reshard that `shard` is a parent of, if one is under way.
    pub fn reshard_of(&self, shard: ShardId) -> Option<&Reshard> {
        self.reshards.iter().find(|reshard| reshard.parents.contains(&shard))
    }
}

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StreamStatus {
    /// Its groups are being opened.
    Creating,
    /// It takes and serves records.
    Active,
    /// It takes and serves records, while its shards are being split or merged.
    Updating,
    /// Its groups are being closed.
    Deleting,
}

/// Provisioned or on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StreamMode {
    /// The user says how many shards.
    Provisioned,
    /// The load says.
    OnDemand,
}
