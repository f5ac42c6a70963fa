//! What waits for which shard: the pure core of the producer.
//!
//! Invariant: per shard at most one request is in flight, and records leave in the order in which they
//! came, also when a request is put back and when the shard map changes. While a new map is awaited
//! nothing leaves; it takes effect only when nothing is in flight, so that a key that moved cannot
//! overtake itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tristream_proto::domain::ShardId;

/// Something that takes room in a request.
pub(crate) trait Sized {
    /// Bytes it takes.
    fn bytes(&self) -> usize;
}

pub(crate) struct Lanes<T> {
    records_max: usize,
    bytes_max: usize,
    waiting: BTreeMap<ShardId, VecDeque<T>>,
    in_flight: BTreeSet<ShardId>,
    held: bool,
}

impl<T: Sized> Lanes<T> {
    /// A request takes at most `records_max` records, and none further past `bytes_max` bytes.
    pub(crate) fn new(records_max: usize, bytes_max: usize) -> Lanes<T> {
        Lanes {
            records_max: records_max.max(1),
            bytes_max,
            waiting: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            held: false,
        }
    }

    /// Adds to the end of the shard's lane.
    pub(crate) fn push(&mut self, shard: ShardId, item: T) {
        self.waiting.entry(shard).or_default().push_back(item);
    }

    /// The next request of a shard that has none in flight.
    pub(crate) fn take(&mut self) -> Option<(ShardId, Vec<T>)> {
        if self.held {
            return None;
        }
        let free = |shard: &ShardId| !self.in_flight.contains(shard);
        let shard = *self.waiting.keys().find(|shard| free(shard))?;
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
        assert!(self.in_flight.remove(&shard), "{shard} had no request in flight");
    }

    /// The shard's request was refused because the map is old: its records go back to the front, and
    /// nothing leaves until `reroute`.
    pub(crate) fn put_back(&mut self, shard: ShardId, items: Vec<T>) {
        self.done(shard);
        self.held = true;
        let lane = self.waiting.entry(shard).or_default();
        for item in items.into_iter().rev() {
            lane.push_front(item);
        }
        if lane.is_empty() {
            self.waiting.remove(&shard);
        }
    }

    /// A new map is needed, and nothing is in flight any more: it can be fetched.
    pub(crate) fn awaits_map(&self) -> bool {
        self.held && self.in_flight.is_empty()
    }

    /// Sorts all that waits by a new map. What waited for one shard keeps its order.
    pub(crate) fn reroute(&mut self, owner: impl Fn(&T) -> ShardId) {
        assert!(self.in_flight.is_empty(), "the map changes only when nothing is in flight");
        for item in self.drain() {
            self.push(owner(&item), item);
        }
        self.held = false;
    }

    /// Everything that waits, by shard and then in order.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.held = false;
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }

    /// Nothing waits and nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (key, number): the number tells the order in which items of a key came.
    type Item = (u32, u32);

    impl Sized for Item {
        fn bytes(&self) -> usize {
            10
        }
    }

    fn shard(index: u32) -> ShardId {
        ShardId::from(index)
    }

    fn lanes(items: &[(u32, u32)]) -> Lanes<Item> {
        let mut lanes = Lanes::new(3, 1000);
        for &(at, number) in items {
            lanes.push(shard(at), (at, number));
        }
        lanes
    }

    #[test]
    fn one_request_per_shard_is_in_flight() {
        let mut lanes = lanes(&[(0, 1), (1, 2), (0, 3), (0, 4), (0, 5)]);
        assert_eq!(lanes.take(), Some((shard(0), vec![(0, 1), (0, 3), (0, 4)])));
        assert_eq!(lanes.take(), Some((shard(1), vec![(1, 2)])));
        assert_eq!(lanes.take(), None, "both shards are busy");
        lanes.done(shard(0));
        assert_eq!(lanes.take(), Some((shard(0), vec![(0, 5)])));
        lanes.done(shard(1));
        assert!(!lanes.is_empty());
        lanes.done(shard(0));
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_request_is_bounded_in_bytes_but_never_empty() {
        let mut lanes = Lanes::new(100, 25);
        for number in 0..3 {
            lanes.push(shard(0), (0, number));
        }
        assert_eq!(lanes.take().map(|(_, items)| items.len()), Some(2));
        let mut tight = Lanes::new(100, 1);
        tight.push(shard(0), (0, 1));
        assert_eq!(tight.take().map(|(_, items)| items.len()), Some(1));
    }

    #[test]
    fn what_is_put_back_goes_first_and_nothing_leaves_before_the_new_map() {
        let mut lanes = lanes(&[(0, 1), (0, 2), (0, 3), (0, 4), (1, 9)]);
        let (at, items) = lanes.take().expect("shard 0");
        let _ = lanes.take().expect("shard 1");
        lanes.put_back(at, items);
        lanes.push(shard(0), (0, 5));
        assert_eq!(lanes.take(), None);
        assert!(!lanes.awaits_map(), "shard 1 is still in flight");
        lanes.done(shard(1));
        assert!(lanes.awaits_map());
        // Shard 0 was split: odd numbers go to 2, even ones to 3.
        lanes.reroute(|item| shard(3 - item.1 % 2));
        assert_eq!(lanes.take(), Some((shard(2), vec![(0, 1), (0, 3), (0, 5)])));
        assert_eq!(lanes.take(), Some((shard(3), vec![(0, 2), (0, 4)])));
    }

    /// A random walk of pushes, answers and map changes: every key's items leave in order.
    #[test]
    fn keys_keep_their_order_whatever_happens() {
        use rand::{Rng, SeedableRng};
        for seed in 0..200 {
            let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
            let mut lanes: Lanes<Item> = Lanes::new(3, 1000);
            let mut shards = 2;
            let mut flying: Vec<(ShardId, Vec<Item>)> = vec![];
            let mut last = [0u32; 8];
            let mut settle = |items: &[Item]| {
                for &(key, number) in items {
                    assert!(number > last[key as usize], "seed {seed}: key {key} overtook itself");
                    last[key as usize] = number;
                }
            };
            for number in 1..300 {
                let key = random.random_range(0..8);
                lanes.push(shard(key % shards), (key, number));
                if random.random_bool(0.5) {
                    flying.extend(lanes.take());
                }
                if random.random_bool(0.5) && !flying.is_empty() {
                    let (at, items) = flying.swap_remove(random.random_range(0..flying.len()));
                    if random.random_bool(0.2) {
                        lanes.put_back(at, items);
                    } else {
                        settle(&items);
                        lanes.done(at);
                    }
                }
                if lanes.awaits_map() {
                    shards = random.random_range(1..6);
                    lanes.reroute(|item| shard(item.0 % shards));
                }
            }
        }
    }
}
