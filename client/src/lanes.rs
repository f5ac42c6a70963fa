//! What waits for which shard: the pure core of the producer.
//!
//! Invariant: no two requests in flight overlap in their hash keys, and records of a key leave in the order
//! in which they came, also when a request is put back and when the shard map changes. So a key that moved
//! cannot overtake itself: what waits is sorted by the new map at once, but a lane waits for every request
//! of an earlier map that its keys may be in. Only lanes that were refused are held until a newer map.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tristream_proto::domain::{HashKey, HashKeyRange, ShardId, ShardMap};

/// Something that falls in the key space and takes room in a request.
pub(crate) trait Keyed {
    /// Where it falls.
    fn hash_key(&self) -> HashKey;
    /// Bytes it takes.
    fn bytes(&self) -> usize;
}

pub(crate) struct Lanes<T> {
    records_max: usize,
    bytes_max: usize,
    /// The open shards of the map, by their ranges, which tile the key space.
    routes: Vec<(HashKeyRange, ShardId)>,
    waiting: BTreeMap<ShardId, VecDeque<T>>,
    in_flight: BTreeSet<ShardId>,
    /// Requests in flight to shards that the map no longer has open.
    leaving: BTreeMap<ShardId, HashKeyRange>,
    held: BTreeSet<ShardId>,
}

impl<T: Keyed> Lanes<T> {
    /// A request takes at most `records_max` records, and none further past `bytes_max` bytes.
    pub(crate) fn new(map: &ShardMap, records_max: usize, bytes_max: usize) -> Lanes<T> {
        Lanes {
            records_max: records_max.max(1),
            bytes_max,
            routes: routes(map),
            waiting: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            leaving: BTreeMap::new(),
            held: BTreeSet::new(),
        }
    }

    /// Adds to the end of the lane of the item's shard.
    pub(crate) fn push(&mut self, item: T) {
        let (_, shard) = self.route(item.hash_key());
        self.waiting.entry(shard).or_default().push_back(item);
    }

    /// The next request of a shard that may send one.
    pub(crate) fn take(&mut self) -> Option<(ShardId, Vec<T>)> {
        let shard = *self.waiting.keys().find(|shard| self.may_send(**shard))?;
        let lane = self.waiting.get_mut(&shard)?;
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < self.records_max
            && let Some(item) = lane.front()
            && (taken.is_empty() || bytes + item.bytes() <= self.bytes_max)
        {
            bytes += item.bytes();
            taken.extend(lane.pop_front());
        }
        if lane.is_empty() {
            self.waiting.remove(&shard);
        }
        self.in_flight.insert(shard);
        Some((shard, taken))
    }

    /// The shard's request was answered for good.
    pub(crate) fn done(&mut self, shard: ShardId) {
        let was_leaving = self.leaving.remove(&shard).is_some();
        let was_in_flight = was_leaving || self.in_flight.remove(&shard);
        assert!(was_in_flight, "{shard} had no request in flight");
    }

    /// The shard's request was not carried out, or not known to be: its records go back to the front of the
    /// lanes that they belong to now. With `hold` these lanes send nothing before `reroute`.
    pub(crate) fn put_back(&mut self, shard: ShardId, items: Vec<T>, hold: bool) {
        self.done(shard);
        for item in items.into_iter().rev() {
            let (_, owner) = self.route(item.hash_key());
            self.waiting.entry(owner).or_default().push_front(item);
            if hold {
                self.held.insert(owner);
            }
        }
    }

    /// Sorts all that waits by another map, and lets every lane go that was held. What waited for one shard
    /// keeps its order.
    pub(crate) fn reroute(&mut self, map: &ShardMap) {
        let before = std::mem::replace(&mut self.routes, routes(map));
        self.held.clear();
        let open: BTreeSet<ShardId> = self.routes.iter().map(|(_, shard)| *shard).collect();
        for (range, shard) in before {
            if !open.contains(&shard) && self.in_flight.remove(&shard) {
                self.leaving.insert(shard, range);
            }
        }
        for item in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.push(item);
        }
    }

    /// Takes out of the lanes that are held whatever `leaves`, each lane in order.
    pub(crate) fn take_held(&mut self, mut leaves: impl FnMut(&mut T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for shard in std::mem::take(&mut self.held) {
            let (mut stays, lane) = (VecDeque::new(), self.waiting.remove(&shard));
            for mut item in lane.into_iter().flatten() {
                if leaves(&mut item) { taken.push(item) } else { stays.push_back(item) }
            }
            if !stays.is_empty() {
                self.waiting.insert(shard, stays);
                self.held.insert(shard);
            }
        }
        taken
    }

    /// Some lane waits for a newer map.
    pub(crate) fn awaits_map(&self) -> bool {
        !self.held.is_empty()
    }

    /// Nothing waits and nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty() && self.leaving.is_empty()
    }

    fn route(&self, key: HashKey) -> (HashKeyRange, ShardId) {
        let after = self.routes.partition_point(|(range, _)| range.first <= key);
        self.routes[after - 1]
    }

    fn may_send(&self, shard: ShardId) -> bool {
        if self.held.contains(&shard) || self.in_flight.contains(&shard) {
            return false;
        }
        if self.leaving.is_empty() {
            return true;
        }
        let range = self.routes.iter().find(|(_, id)| *id == shard).map(|(range, _)| range);
        let overlaps = |leaving: &HashKeyRange, own: &HashKeyRange| {
            leaving.first <= own.last && own.first <= leaving.last
        };
        range.is_some_and(|own| !self.leaving.values().any(|leaving| overlaps(leaving, own)))
    }
}

/// Never empty: the ranges of a map's open shards tile the key space.
fn routes(map: &ShardMap) -> Vec<(HashKeyRange, ShardId)> {
    let mut routes: Vec<_> = map.open().map(|shard| (shard.range, shard.id)).collect();
    routes.sort_by_key(|(range, _)| range.first);
    routes
}

#[cfg(test)]
mod tests;
