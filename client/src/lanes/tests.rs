//! The order of keys, whatever happens to requests and maps.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tristream_proto::domain::{GroupId, MapVersion, Shard};

use super::*;

/// Keys of the tests lie this far apart; 16 of them fill the key space.
const KEYS: u32 = 16;

/// (key, number): the number tells the order in which items of a key came.
type Item = (u32, u32);

impl Keyed for Item {
    fn hash_key(&self) -> HashKey {
        HashKey(u128::from(self.0) << 124)
    }

    fn bytes(&self) -> usize {
        10
    }
}

fn shard(index: u32) -> ShardId {
    ShardId::from(index)
}

/// A map whose open shards are named by these ids and begin at these keys.
fn map(open: &[(u32, u32)]) -> ShardMap {
    let firsts: Vec<u128> = open.iter().map(|(_, key)| (*key, 0).hash_key().0).collect();
    let ends = firsts.iter().skip(1).map(|first| first - 1).chain([u128::MAX]);
    let shard = |((id, first), last): ((u32, u128), u128)| Shard {
        id: shard(id),
        group: GroupId(1),
        range: HashKeyRange { first: HashKey(first), last: HashKey(last) },
        creation_second: 1,
        parents: vec![],
        replicas: vec![],
        closed_second: None,
    };
    let ids = open.iter().map(|(id, _)| *id);
    let mut shards: Vec<Shard> = ids.zip(firsts.clone()).zip(ends).map(shard).collect();
    shards.sort_by_key(|shard| shard.id);
    ShardMap::new(MapVersion(1), shards).expect("tiles")
}

/// Shard 0 has the lower half of the keys, shard 1 the upper.
fn halves() -> ShardMap {
    map(&[(0, 0), (1, 8)])
}

fn lanes(items: &[Item]) -> Lanes<Item> {
    let mut lanes = Lanes::new(&halves(), 3, 1000);
    items.iter().for_each(|item| lanes.push(*item));
    lanes
}

#[test]
fn one_request_per_shard_is_in_flight() {
    let mut lanes = lanes(&[(0, 1), (9, 2), (0, 3), (0, 4), (0, 5)]);
    assert_eq!(lanes.take(), Some((shard(0), vec![(0, 1), (0, 3), (0, 4)])));
    assert_eq!(lanes.take(), Some((shard(1), vec![(9, 2)])));
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
    let mut lanes = Lanes::new(&halves(), 100, 25);
    for number in 0..3 {
        lanes.push((0, number));
    }
    assert_eq!(lanes.take().map(|(_, items)| items.len()), Some(2));
    let mut tight = Lanes::new(&halves(), 100, 1);
    tight.push((0, 1));
    assert_eq!(tight.take().map(|(_, items)| items.len()), Some(1));
}

#[test]
fn a_refused_lane_is_held_and_the_others_go_on() {
    let mut lanes = lanes(&[(0, 1), (4, 2), (0, 3), (4, 4), (9, 9)]);
    let (at, items) = lanes.take().expect("shard 0");
    lanes.put_back(at, items, true);
    lanes.push((4, 5));
    assert!(lanes.awaits_map());
    assert_eq!(lanes.take(), Some((shard(1), vec![(9, 9)])), "its keys are not concerned");
    assert_eq!(lanes.take(), None);
    // Shard 0 is split; shard 1 is still in flight, and stays where it is.
    lanes.push((9, 10));
    lanes.reroute(&map(&[(2, 0), (3, 4), (1, 8)]));
    assert!(!lanes.awaits_map());
    assert_eq!(lanes.take(), Some((shard(2), vec![(0, 1), (0, 3)])));
    assert_eq!(lanes.take(), Some((shard(3), vec![(4, 2), (4, 4), (4, 5)])));
    assert_eq!(lanes.take(), None, "shard 1 has its request in flight");
    lanes.done(shard(1));
    assert_eq!(lanes.take(), Some((shard(1), vec![(9, 10)])));
}

#[test]
fn a_child_waits_for_what_its_parents_have_in_flight() {
    let mut lanes = lanes(&[(0, 1), (9, 2)]);
    let (low, first) = lanes.take().expect("shard 0");
    let (high, second) = lanes.take().expect("shard 1");
    lanes.push((0, 3));
    lanes.push((9, 4));
    lanes.reroute(&map(&[(2, 0)]));
    assert_eq!(lanes.take(), None, "both halves are on their way to the parents");
    lanes.put_back(low, first, false);
    assert_eq!(lanes.take(), None, "the upper half is still");
    lanes.put_back(high, second, false);
    assert_eq!(lanes.take(), Some((shard(2), vec![(9, 2), (0, 1), (0, 3)])));
    lanes.done(shard(2));
    assert_eq!(lanes.take(), Some((shard(2), vec![(9, 4)])));
}

#[test]
fn what_is_late_leaves_the_lanes_that_are_held_and_no_others() {
    let mut lanes = lanes(&[(0, 1), (0, 2), (9, 3)]);
    let (at, items) = lanes.take().expect("shard 0");
    lanes.put_back(at, items, true);
    assert_eq!(lanes.take_held(|item| item.1 != 2), vec![(0, 1)]);
    assert!(lanes.awaits_map());
    assert_eq!(lanes.take_held(|_| true), vec![(0, 2)]);
    assert!(!lanes.awaits_map(), "nothing is left that waits for a map");
    assert_eq!(lanes.take(), Some((shard(1), vec![(9, 3)])));
}

/// Cuts the key space at random, with new ids for shards whose range is new.
fn random_map(random: &mut SmallRng, next: &mut u32, old: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let cuts: BTreeSet<u32> =
        (0..random.random_range(0..5)).map(|_| random.random_range(1..KEYS)).chain([0]).collect();
    let cuts: Vec<u32> = cuts.into_iter().collect();
    let ends = |cuts: &[u32], at: usize| cuts.get(at + 1).copied().unwrap_or(KEYS);
    let old_cuts: Vec<u32> = old.iter().map(|(_, first)| *first).collect();
    let mut open = vec![];
    for (at, &first) in cuts.iter().enumerate() {
        let same = old
            .iter()
            .enumerate()
            .find(|(was, (_, begin))| *begin == first && ends(&old_cuts, *was) == ends(&cuts, at));
        open.push(match same {
            Some((_, kept)) => *kept,
            None => {
                *next += 1;
                (*next, first)
            }
        });
    }
    open
}

/// A random walk of pushes, answers, lost answers and map changes. The shards behind are simulated: they
/// store a request or refuse it, an answer may be lost, and what was stored before is not stored again.
/// Every key's items are stored once and in order.
#[test]
fn keys_keep_their_order_whatever_happens() {
    for seed in 0..400 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut open, mut next) = (vec![(0, 0), (1, 8)], 1);
        let mut lanes: Lanes<Item> = Lanes::new(&map(&open), 3, 1000);
        let mut flying: Vec<(ShardId, Vec<Item>)> = vec![];
        let mut stored: BTreeSet<Item> = BTreeSet::new();
        let mut last = [0u32; KEYS as usize];
        let mut store = |items: &[Item]| {
            for &(key, number) in items.iter().filter(|item| stored.insert(**item)) {
                assert!(number > last[key as usize], "seed {seed}: key {key} overtook itself");
                last[key as usize] = number;
            }
        };
        let mut number = 0;
        while number < 300 || !lanes.is_empty() {
            if number < 300 {
                number += 1;
                lanes.push((random.random_range(0..KEYS), number));
            }
            if random.random_bool(0.6) {
                flying.extend(lanes.take());
            }
            if random.random_bool(0.5) && !flying.is_empty() {
                let (at, items) = flying.swap_remove(random.random_range(0..flying.len()));
                match random.random_range(0..10) {
                    // Refused: perhaps because of a map that came in meanwhile.
                    0 | 1 => lanes.put_back(at, items, random.random_bool(0.7)),
                    // The answer is lost: all is sent again.
                    2 => {
                        store(&items);
                        lanes.put_back(at, items, false);
                    }
                    // And by then the first of them have run out of time.
                    3 => {
                        store(&items);
                        let late = random.random_range(0..=items.len());
                        lanes.put_back(at, items[late..].to_vec(), random.random_bool(0.5));
                    }
                    _ => {
                        store(&items);
                        lanes.done(at);
                    }
                }
            }
            if random.random_bool(if lanes.awaits_map() { 0.3 } else { 0.03 }) {
                open = random_map(&mut random, &mut next, &open);
                lanes.reroute(&map(&open));
            }
        }
        assert_eq!(stored.len(), 300, "seed {seed}: nothing is lost");
    }
}
