//! What the metadata group says, as every floor above reads it: an immutable picture, replaced as a
//! whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tristream_proto::domain::{Incarnation, MapVersion, ShardMap, StreamName, Timestamp};

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
}

impl Stream {
    /// Version of the shard map.
    pub fn map_version(&self) -> MapVersion {
        self.map.version()
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
