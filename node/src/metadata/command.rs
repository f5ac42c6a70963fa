//! Commands of the metadata group: what goes through its log, and what comes back.
//!
//! An on-disk format (JSON, tagged): variants and fields are only ever added. An unknown command
//! stops the group on this node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tristream_proto::domain::{
    HashKey, Incarnation, MapVersion, NodeId, ShardId, StreamName, Timestamp,
};

use super::view::{Goal, StreamMode};

/// A change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// A new stream, in status CREATING, with group ids of its own.
    CreateStream {
        /// Its name.
        name: StreamName,
        /// Number of shards.
        shard_count: u32,
        /// Provisioned or on demand.
        mode: StreamMode,
        /// When, by the proposer's clock.
        now: Timestamp,
        /// Largest record in bytes.
        record_bytes_max: usize,
        /// Labels.
        #[serde(default)]
        tags: BTreeMap<String, String>,
        /// The nodes on which the shards are placed, one per AZ; leaders are spread over them.
        nodes: Vec<NodeId>,
    },
    /// CREATING -> ACTIVE: every shard has a leader. No effect on another incarnation.
    ActivateStream {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
    },
    /// -> DELETING.
    DeleteStream {
        /// The stream.
        name: StreamName,
        /// Which of that name; any when absent. A command that was long on its way must not delete the
        /// stream that was created anew meanwhile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incarnation: Option<Incarnation>,
    },
    /// DELETING -> gone.
    ForgetStream {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
    },
    /// Intent to split a shard in two: children get ids and groups. The stream is UPDATING from now
    /// on.
    SplitShard {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
        /// The shard: open, and in no other reshard.
        shard: ShardId,
        /// Where the second child begins: inside the shard's range, and not its first key.
        at: HashKey,
        /// When, by the proposer's clock.
        now: Timestamp,
        /// Whether the stream may be UPDATING: for steps of a goal and for streams on demand. A
        /// user's split needs it ACTIVE.
        while_updating: bool,
    },
    /// Intent to merge two neighbours.
    MergeShards {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
        /// The one with the lower range: open, and in no other reshard.
        shard: ShardId,
        /// The one whose range follows.
        adjacent: ShardId,
        /// When, by the proposer's clock.
        now: Timestamp,
        /// See `SplitShard`.
        while_updating: bool,
    },
    /// Intent to change the number of shards by the splits and merges of `goal`, made for this map
    /// version.
    Rescale {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
        /// The map for which the goal was made.
        map_version: MapVersion,
        /// Where to.
        goal: Goal,
        /// When, by the proposer's clock.
        now: Timestamp,
        /// Whether AWS's limits hold: half, double, and 10 changes in 24 hours.
        limited: bool,
    },
    /// Nothing of the goal is left to do; refused as [`Outcome::StaleMap`] while something is.
    ReachGoal {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
    },
    /// Publishes a reshard: the parents are closed, the children take over, the map version rises.
    FinishReshard {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
        /// Which reshard: id of its first child.
        reshard: ShardId,
        /// Creation second of the children; the parents were closed in the second before.
        creation_second: u64,
    },
    /// Drops closed shards all of whose records have expired.
    ExpireShards {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
        /// The shards: closed. Others are left alone.
        shards: Vec<ShardId>,
    },
    /// Changes the mode. Shards stay as they are.
    SetMode {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
        /// The new mode.
        mode: StreamMode,
        /// When, by the proposer's clock.
        now: Timestamp,
        /// Whether AWS's limit of 2 changes in 24 hours holds.
        limited: bool,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Carried out.
    Done,
    /// There is no such stream (or not this incarnation).
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The shard limit would be exceeded.
    ShardLimit {
        /// Open shards now, and those that reshards under way will add.
        open: usize,
        /// The limit.
        limit: usize,
    },
    /// The stream is not ACTIVE, and the command needs it so.
    NotActive,
    /// A shard that the command names is closed or being resharded.
    NotEligible {
        /// The shard.
        shard: ShardId,
    },
    /// There is no such shard.
    NoShard {
        /// The shard.
        shard: ShardId,
    },
    /// The split or merge does not fit the shards' ranges.
    BadRange {
        /// Why.
        reason: String,
    },
    /// The stream is on demand: its shards are not the user's to change.
    OnDemand,
    /// AWS's limits on changes forbid it.
    ChangeLimit {
        /// In AWS's words.
        reason: String,
    },
    /// The map has changed since the command was made: make it anew.
    StaleMap,
    /// The command makes no sense, and never will.
    Invalid {
        /// Why.
        reason: String,
    },
}
