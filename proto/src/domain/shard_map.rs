//! The versioned shard map of one stream: which shard owns which hash keys.
//!
//! Invariant: shard ids rise, and the open shards' ranges tile [0, 2^128) without hole or overlap.
//! Must not know: who leads a shard at the moment.

use serde::{Deserialize, Serialize};

use super::{GroupId, HashKey, HashKeyRange, MapVersion, NodeId, SequenceNumber, ShardId};

/// One shard of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// AWS's name of the shard.
    pub id: ShardId,
    /// The Raft group that is the shard.
    pub group: GroupId,
    /// The hash keys it owns.
    pub range: HashKeyRange,
    /// Second of creation, the leading field of its sequence numbers.
    pub creation_second: u64,
    /// The shards it came from: none, one (split) or two (merge).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ShardId>,
    /// Where its replicas live, one per AZ; the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// Second in which it was sealed; open while `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_second: Option<u64>,
}

impl Shard {
    /// Whether the shard takes records.
    pub fn is_open(&self) -> bool {
        self.closed_second.is_none()
    }

    /// The number below all of its records.
    pub fn starting_sequence_number(&self) -> SequenceNumber {
        SequenceNumber::start_of(self.id, self.creation_second)
    }

    /// The number above all of its records, once it is closed.
    pub fn ending_sequence_number(&self) -> Option<SequenceNumber> {
        self.closed_second.map(|close| SequenceNumber::end_of(self.id, self.creation_second, close))
    }
}

/// Why shards make no map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidShardMap {
    /// Ids are not strictly rising.
    #[error("shard ids do not rise at {0}")]
    Order(ShardId),
    /// A hole or an overlap before this shard, or at the end of the key space.
    #[error("open shards do not tile the key space at {0}")]
    Tiling(HashKey),
}

/// A stream's shards, in order of their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    version: MapVersion,
    shards: Vec<Shard>,
}

impl ShardMap {
    /// Checks that ids rise and that the open shards tile the key space.
    pub fn new(version: MapVersion, shards: Vec<Shard>) -> Result<ShardMap, InvalidShardMap> {
        if let Some(pair) = shards.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return Err(InvalidShardMap::Order(pair[1].id));
        }
        let mut open: Vec<HashKeyRange> =
            shards.iter().filter(|s| s.is_open()).map(|s| s.range).collect();
        open.sort_by_key(|range| range.first);
        let mut expected = Some(0u128);
        for range in &open {
            if Some(range.first.0) != expected || range.last < range.first {
                return Err(InvalidShardMap::Tiling(range.first));
            }
            expected = range.last.0.checked_add(1);
        }
        match expected {
            None => Ok(ShardMap { version, shards }),
            Some(at) => Err(InvalidShardMap::Tiling(HashKey(at))),
        }
    }

    /// Rises with every change.
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// All shards, open and closed, by rising id.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The open shards, by rising id.
    pub fn open(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(|shard| shard.is_open())
    }

    /// The shard of this id.
    pub fn get(&self, id: ShardId) -> Option<&Shard> {
        self.shards.binary_search_by_key(&id, |shard| shard.id).ok().map(|at| &self.shards[at])
    }

    /// The open shard that owns `key`.
    pub fn owner(&self, key: HashKey) -> &Shard {
        let owner = self.shards.iter().find(|shard| shard.is_open() && shard.range.contains(key));
        match owner {
            Some(shard) => shard,
            None => unreachable!("open shards tile the key space, checked on construction"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(u128, u128)]) -> Result<ShardMap, InvalidShardMap> {
        let shard = |(i, &(first, last)): (usize, &(u128, u128))| Shard {
            id: ShardId::from(i as u32),
            group: GroupId(i as u64 + 1),
            range: HashKeyRange { first: HashKey(first), last: HashKey(last) },
            creation_second: 1,
            parents: vec![],
            replicas: vec![],
            closed_second: None,
        };
        ShardMap::new(MapVersion(1), ranges.iter().enumerate().map(shard).collect())
    }

    #[test]
    fn a_map_tiles_the_key_space_or_is_refused() {
        let max = u128::MAX;
        assert!(map(&[(0, max)]).is_ok());
        assert!(map(&[(10, max), (0, 9)]).is_ok());
        for bad in [
            &[][..],
            &[(1, max)],
            &[(0, max - 1)],
            &[(0, 9), (11, max)],
            &[(0, 10), (10, max)],
            &[(0, max), (0, max)],
        ] {
            assert!(map(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_key_has_one_owner() {
        let map = map(&[(0, 9), (10, u128::MAX)]).expect("tiles");
        assert_eq!(map.owner(HashKey(9)).id, ShardId::from(0));
        assert_eq!(map.owner(HashKey(10)).id, ShardId::from(1));
        assert_eq!(map.owner(HashKey(u128::MAX)).id, ShardId::from(1));
    }
}
