//! Which splits and merges lead from a shard map to a number of shards.
//!
//! Pure. Must not know how a split or merge is carried out.

use tristream_proto::domain::{HashKey, ShardId, ShardMap};

use super::view::{Goal, Stream};

/// A split or merge that can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Split `shard` so that the second child begins at `at`.
    Split {
        /// The shard.
        shard: ShardId,
        /// First key of the second child.
        at: HashKey,
    },
    /// Merge two neighbours.
    Merge {
        /// The one with the lower range.
        shard: ShardId,
        /// The one whose range follows.
        adjacent: ShardId,
    },
}

/// The splits and merges that bring `map` to `target` open shards.
pub fn goal(_map: &ShardMap, target: u32) -> Goal {
    Goal { target, splits: vec![], keep: vec![] }
}

/// The steps of the stream's goal that can begin now.
pub fn next(_stream: &Stream) -> Vec<Step> {
    vec![]
}
