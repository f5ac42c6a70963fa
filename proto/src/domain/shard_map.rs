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
    /// A shard that was to be closed is not there, or is closed already.
    #[error("{0} is no open shard")]
    NotOpen(ShardId),
    /// A shard would be closed before its creation, or succeeded by one that is not younger.
    #[error("{0} would not end before its children begin")]
    Seconds(ShardId),
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

    /// The map after a split or merge: `parents`, all open, were closed in the second before the
    /// `children` begin, and the children own exactly what the parents owned. Closing seconds of
    /// parents are never before their creation.
    pub fn succeeded(
        &self,
        version: MapVersion,
        parents: &[ShardId],
        children: Vec<Shard>,
    ) -> Result<ShardMap, InvalidShardMap> {
        let begin = children.iter().map(|child| child.creation_second).min();
        let mut shards = self.shards.clone();
        for &parent in parents {
            let at = shards.binary_search_by_key(&parent, |shard| shard.id).ok();
            let open = at.map(|at| &mut shards[at]).filter(|shard| shard.is_open());
            let shard = open.ok_or(InvalidShardMap::NotOpen(parent))?;
            let close = begin.and_then(|begin| begin.checked_sub(1));
            let close = close.filter(|&close| close >= shard.creation_second);
            shard.closed_second = Some(close.ok_or(InvalidShardMap::Seconds(parent))?);
        }
        shards.extend(children);
        // Reshards end in another order than they began in.
        shards.sort_by_key(|shard| shard.id);
        ShardMap::new(version, shards)
    }

    /// The map without those of `expired` that are closed. The version stays: who owns a key is as
    /// it was.
    pub fn without(&self, expired: &[ShardId]) -> ShardMap {
        let stays = |shard: &&Shard| shard.is_open() || !expired.contains(&shard.id);
        let shards = self.shards.iter().filter(stays).cloned().collect();
        ShardMap { version: self.version, shards }
    }

    /// Rises with every change of the open shards; not when a closed one expires.
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

    /// The open shards, by rising range.
    pub fn by_range(&self) -> Vec<&Shard> {
        let mut open: Vec<&Shard> = self.open().collect();
        open.sort_by_key(|shard| shard.range.first);
        open
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

    fn child(id: u32, (first, last): (u128, u128), creation_second: u64) -> Shard {
        Shard {
            id: ShardId::from(id),
            group: GroupId(u64::from(id) + 1),
            range: HashKeyRange { first: HashKey(first), last: HashKey(last) },
            creation_second,
            parents: vec![ShardId::from(0)],
            replicas: vec![],
            closed_second: None,
        }
    }

    #[test]
    fn children_take_over_what_their_parents_owned() {
        let max = u128::MAX;
        let before = map(&[(0, 99), (100, max)]).expect("tiles");
        let (zero, one) = (ShardId::from(0), ShardId::from(1));
        let split = before
            .succeeded(
                MapVersion(2),
                &[one],
                vec![child(4, (100, 499), 8), child(5, (500, max), 8)],
            )
            .expect("a split");
        assert_eq!(split.version(), MapVersion(2));
        assert_eq!(split.get(one).and_then(|shard| shard.closed_second), Some(7));
        // Began earlier, ends later: its id lies between those of the map.
        let both = split
            .succeeded(MapVersion(3), &[zero], vec![child(2, (0, 9), 9), child(3, (10, 99), 9)])
            .expect("a second split");
        let open: Vec<u32> = both.open().map(|shard| shard.id.index()).collect();
        assert_eq!(open, [2, 3, 4, 5]);
        let merged = both.succeeded(
            MapVersion(4),
            &[ShardId::from(3), ShardId::from(4)],
            vec![child(6, (10, 499), 10)],
        );
        let ranges: Vec<u128> =
            merged.expect("a merge").by_range().iter().map(|shard| shard.range.first.0).collect();
        assert_eq!(ranges, [0, 10, 500]);
    }

    #[test]
    fn what_is_no_succession_is_refused() {
        let max = u128::MAX;
        let before = map(&[(0, 99), (100, max)]).expect("tiles");
        let (zero, none) = (ShardId::from(0), ShardId::from(7));
        let succeed = |parents: &[ShardId], children: Vec<Shard>| {
            before.succeeded(MapVersion(2), parents, children).expect_err("no succession")
        };
        let halves = |second| vec![child(2, (0, 9), second), child(3, (10, 99), second)];
        assert_eq!(succeed(&[none], halves(9)), InvalidShardMap::NotOpen(none));
        assert_eq!(succeed(&[zero, zero], halves(9)), InvalidShardMap::NotOpen(zero));
        assert_eq!(succeed(&[zero], halves(1)), InvalidShardMap::Seconds(zero));
        assert_eq!(succeed(&[zero], halves(0)), InvalidShardMap::Seconds(zero));
        assert_eq!(succeed(&[zero], vec![]), InvalidShardMap::Seconds(zero));
        let hole = vec![child(2, (0, 9), 9)];
        assert!(matches!(succeed(&[zero], hole), InvalidShardMap::Tiling(_)));
        let taken = vec![child(1, (0, 99), 9)];
        assert!(matches!(succeed(&[zero], taken), InvalidShardMap::Order(_)));
    }

    #[test]
    fn only_closed_shards_expire() {
        let before = map(&[(0, u128::MAX)]).expect("tiles");
        let halves = vec![child(1, (0, 9), 5), child(2, (10, u128::MAX), 5)];
        let after = before.succeeded(MapVersion(2), &[ShardId::from(0)], halves).expect("a split");
        let expired = after.without(&[0, 1, 9].map(ShardId::from));
        let left: Vec<u32> = expired.shards().iter().map(|shard| shard.id.index()).collect();
        assert_eq!(left, [1, 2]);
        assert_eq!(expired.version(), after.version());
    }

    #[test]
    fn every_key_has_one_owner() {
        let map = map(&[(0, 9), (10, u128::MAX)]).expect("tiles");
        assert_eq!(map.owner(HashKey(9)).id, ShardId::from(0));
        assert_eq!(map.owner(HashKey(10)).id, ShardId::from(1));
        assert_eq!(map.owner(HashKey(u128::MAX)).id, ShardId::from(1));
    }
}
