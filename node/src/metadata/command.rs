//! Commands of the metadata group: what goes through its log, and what comes back.
//!
//! An on-disk format (JSON, tagged): variants and fields are only ever added. An unknown command
//! stops the group on this node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tristream_proto::domain::{Incarnation, NodeId, StreamName, Timestamp};

use super::view::StreamMode;

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
    },
    /// DELETING -> gone.
    ForgetStream {
        /// The stream.
        name: StreamName,
        /// Which of that name.
        incarnation: Incarnation,
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
        /// Open shards now.
        open: usize,
        /// The limit.
        limit: usize,
    },
    /// The command makes no sense, and never will.
    Invalid {
        /// Why.
        reason: String,
    },
}
