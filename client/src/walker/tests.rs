//! Lineages at random, and what the walk makes of them.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tristream_proto::domain::{GroupId, HashKey, HashKeyRange, Timestamp};

use super::*;

fn id(index: u32) -> ShardId {
    ShardId::from(index)
}

/// A shard with the keys `range`, the last included.
fn ranged(index: u32, range: (u128, u128), parents: &[u32], closed: Option<u64>) -> Shard {
    Shard {
        id: id(index),
        group: GroupId(1),
        range: HashKeyRange { first: HashKey(range.0), last: HashKey(range.1) },
        creation_second: 1,
        parents: parents.iter().map(|&parent| id(parent)).collect(),
        replicas: vec![],
        closed_second: closed,
    }
}

/// A shard with a range of the lineage by which the first tests go: 0 has the keys below 10 and 1 the keys
/// from there on; the split of 0 is at 5, that of 1 at 15.
fn shard(index: u32, parents: &[u32], closed: Option<u64>) -> Shard {
    let range = match (index, parents) {
        (0, _) => (0, 9),
        (1, _) => (10, 19),
        (2, _) => (0, 4),
        (3, _) => (5, 9),
        (4, [1]) => (10, 14),
        (5, [1]) => (15, 19),
        (4, _) => (5, 19),
        (5, _) => (0, 2),
        (6, [2]) => (3, 4),
        _ => (5, 14),
    };
    ranged(index, range, parents, closed)
}

fn all_next(walker: &mut Walker) -> Vec<(u32, Start)> {
    std::iter::from_fn(|| walker.next()).map(|(shard, start)| (shard.id.index(), start)).collect()
}

/// 0 was split into 2 and 3, and 3 merged with 1 into 4.
fn listing() -> Vec<Shard> {
    vec![
        shard(0, &[], Some(10)),
        shard(1, &[], Some(20)),
        shard(2, &[0], None),
        shard(3, &[0], Some(20)),
        shard(4, &[1, 3], None),
    ]
}

#[test]
fn a_walk_begins_where_its_start_was() {
    let horizon = Start::TrimHorizon;
    let mut walker = Walker::new(&listing(), horizon);
    assert_eq!(all_next(&mut walker), [(0, horizon), (1, horizon)]);
    let mut walker = Walker::new(&listing(), Start::Latest);
    assert_eq!(all_next(&mut walker), [(2, Start::Latest), (4, Start::Latest)]);
    walker.ended(id(2), &[shard(5, &[2], None), shard(6, &[2], None)]);
    assert_eq!(all_next(&mut walker), [(5, horizon), (6, horizon)]);
    let at = Start::Timestamp(Timestamp(20_999));
    let mut walker = Walker::new(&listing(), at);
    assert_eq!(all_next(&mut walker), [(1, at), (2, at), (3, at)]);
    walker.ended(id(3), &[shard(4, &[1, 3], None)]);
    assert_eq!(all_next(&mut walker), [], "1 is a parent of 4 too");
    walker.ended(id(1), &[shard(4, &[1, 3], None)]);
    assert_eq!(all_next(&mut walker), [(4, at)]);
}

#[test]
fn a_parent_that_was_not_heard_of_yet_is_waited_for() {
    // 0 became 2 and 3, 1 became 4 and 5, and then 3 and 4 became 6: 3 ends before 1 does.
    let mut walker = Walker::new(&[shard(0, &[], None), shard(1, &[], None)], Start::TrimHorizon);
    assert_eq!(all_next(&mut walker).len(), 2);
    walker.ended(id(0), &[shard(2, &[0], None), shard(3, &[0], None)]);
    assert_eq!(all_next(&mut walker).len(), 2);
    walker.ended(id(3), &[shard(6, &[3, 4], None)]);
    assert_eq!(all_next(&mut walker), [], "4 is yet to be heard of, when 1 ends");
    let mut listing = vec![
        shard(0, &[], Some(10)),
        shard(1, &[], Some(10)),
        shard(2, &[0], None),
        shard(3, &[0], Some(20)),
        shard(4, &[1], Some(20)),
        shard(5, &[1], None),
        shard(6, &[3, 4], None),
    ];
    walker.learn(&listing);
    assert_eq!(all_next(&mut walker), [], "4 is to be read first, and before it 1");
    walker.ended(id(1), &[listing[4].clone(), listing[5].clone()]);
    assert_eq!(all_next(&mut walker).len(), 2);
    walker.ended(id(4), &[listing[6].clone()]);
    assert_eq!(all_next(&mut walker), [(6, Start::TrimHorizon)]);
    // A listing of a node that still has what was read long ago brings nothing back.
    listing.push(shard(7, &[6], None));
    walker.learn(&listing);
    assert_eq!(all_next(&mut walker), [], "7 comes after 6");
}

#[test]
fn a_child_of_what_cannot_be_read_does_not_come() {
    let mut walker = Walker::new(&listing(), Start::TrimHorizon);
    assert_eq!(all_next(&mut walker).len(), 2);
    walker.lost(id(0));
    walker.ended(id(1), &[shard(4, &[1, 3], None)]);
    walker.learn(&listing());
    assert_eq!(all_next(&mut walker), []);
}

/// A stream whose shards split and merge at random.
struct World {
    random: SmallRng,
    version: u64,
    next: u32,
    shards: Vec<Published>,
    /// Parents and children of reshards under way.
    under_way: Vec<(Vec<u32>, Vec<Shard>)>,
    /// Open shards by their ranges.
    order: Vec<u32>,
}

struct Published {
    shard: Shard,
    version: u64,
    /// Some nodes have dropped it.
    expired: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = SmallRng::seed_from_u64(seed);
        let count = random.random_range(1..4);
        let ranges = HashKeyRange::uniform(count);
        let new = |(index, range): (u32, HashKeyRange)| {
            let shard = ranged(index, (range.first.0, range.last.0), &[], None);
            Published { shard, version: 1, expired: false }
        };
        let shards = (0..count).zip(ranges).map(new).collect();
        let (under_way, order) = (vec![], (0..count).collect());
        World { random, version: 1, next: count, shards, under_way, order }
    }

    fn get(&mut self, index: u32) -> &mut Published {
        let at = self.shards.iter().position(|known| known.shard.id == id(index));
        &mut self.shards[at.expect("published")]
    }

    fn busy(&self, index: u32) -> bool {
        self.under_way.iter().any(|(parents, _)| parents.contains(&index))
    }

    fn begin(&mut self) {
        let at = self.random.random_range(0..self.order.len());
        let merge = self.random.random_bool(0.5) && at + 1 < self.order.len();
        let parents = self.order[at..at + 1 + usize::from(merge)].to_vec();
        if parents.iter().any(|&parent| self.busy(parent)) {
            return;
        }
        let first = self.get(parents[0]).shard.range.first.0;
        let last = self.get(parents[parents.len() - 1]).shard.range.last.0;
        let middle = first + (last - first) / 2;
        let ranges =
            if merge { vec![(first, last)] } else { vec![(first, middle), (middle + 1, last)] };
        let children = ranges.into_iter().map(|range| {
            self.next += 1;
            ranged(self.next - 1, range, &parents, None)
        });
        let children = children.collect();
        self.under_way.push((parents, children));
    }

    fn publish(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.under_way.len());
        let (parents, children) = self.under_way.swap_remove(at);
        self.version += 1;
        let version = self.version;
        for &parent in &parents {
            self.get(parent).shard.closed_second = Some(version);
        }
        let first = self.order.iter().position(|open| *open == parents[0]).expect("open");
        let ids: Vec<u32> = children.iter().map(|child| child.id.index()).collect();
        self.order.splice(first..first + parents.len(), ids);
        for shard in children {
            self.shards.push(Published { shard, version, expired: false });
        }
        self.shards.sort_by_key(|known| known.shard.id);
    }

    /// The oldest shard that is closed goes first.
    fn expire(&mut self) {
        let kept = self.shards.iter_mut().filter(|known| !known.expired);
        let closed = kept.filter_map(|known| Some((known.shard.closed_second?, known)));
        if let Some((_, oldest)) = closed.min_by_key(|(closed, _)| *closed) {
            oldest.expired = true;
        }
    }

    /// What some node says that has a map of at least this version, and perhaps has yet to drop shards.
    fn listing(&mut self, version: u64) -> (u64, Vec<Shard>) {
        let version = self.random.random_range(version..=self.version);
        let lags = self.random.random_bool(0.5);
        let closed = |known: &Published| known.shard.closed_second.filter(|at| *at <= version);
        let known = self.shards.iter().filter(|known| known.version <= version);
        let kept = known.filter(|known| lags || !known.expired || closed(known).is_none());
        let as_of =
            |known: &Published| Shard { closed_second: closed(known), ..known.shard.clone() };
        (version, kept.map(as_of).collect())
    }

    fn children(&self, parent: ShardId) -> Vec<Shard> {
        let all = self.shards.iter().map(|known| &known.shard);
        all.filter(|shard| shard.parents.contains(&parent)).cloned().collect()
    }
}

/// A reader that checks the order in which it is given shards.
struct Reader {
    walker: Walker,
    version: u64,
    open: BTreeSet<ShardId>,
    ended: BTreeSet<ShardId>,
}

impl Reader {
    fn step(&mut self, world: &mut World, seed: u64) {
        if world.random.random_bool(0.05) {
            self.list(world);
            return;
        }
        if world.random.random_bool(0.5)
            && let Some((shard, _)) = self.walker.next()
        {
            let read = |shard: &ShardId| self.open.contains(shard) || self.ended.contains(shard);
            assert!(!read(&shard.id), "seed {seed}: {} comes twice", shard.id);
            for other in world.shards.iter().map(|known| &known.shard) {
                if other.id < shard.id && overlap(&other.range, &shard.range) {
                    assert!(!self.open.contains(&other.id), "seed {seed}: {} goes on", other.id);
                } else if other.id > shard.id && overlap(&other.range, &shard.range) {
                    assert!(!read(&other.id), "seed {seed}: {} came too soon", other.id);
                }
            }
            self.open.insert(shard.id);
            return;
        }
        let open: Vec<ShardId> = self.open.iter().copied().collect();
        let Some(&shard) = open.choose(&mut world.random) else { return };
        let known = world.get(shard.index());
        let (closed, expired) = (known.shard.closed_second, known.expired);
        let Some(closed) = closed else { return };
        if expired && world.random.random_bool(0.5) {
            // Refused: a listing tells that it is no longer kept.
            let listing = self.list(world);
            if listing.iter().any(|listed| listed.id == shard) {
                return;
            }
            self.walker.ended(shard, &[]);
        } else {
            self.version = self.version.max(closed);
            self.walker.ended(shard, &world.children(shard));
        }
        self.open.remove(&shard);
        self.ended.insert(shard);
    }

    fn list(&mut self, world: &mut World) -> Vec<Shard> {
        let (version, listing) = world.listing(self.version);
        self.version = version;
        self.walker.learn(&listing);
        listing
    }
}

#[test]
fn every_shard_is_read_once_and_after_its_parents() {
    for seed in 0..600 {
        let mut world = World::new(seed);
        let (mut before, mut after) = (world.random.random_range(0..20), 40);
        while before > 0 {
            before -= 1;
            world.evolve();
        }
        let (version, listing) = world.listing(world.version);
        let newest = world.random.random_range(1..=world.version);
        let start = match world.random.random_range(0..3) {
            0 => Start::TrimHorizon,
            1 => Start::Latest,
            _ => Start::Timestamp(Timestamp(newest * 1000)),
        };
        let walker = Walker::new(&listing, start);
        let (open, ended) = (BTreeSet::new(), BTreeSet::new());
        let mut reader = Reader { walker, version, open, ended };
        // Many more steps than there are shards to read.
        for _ in 0..500 {
            if after > 0 {
                after -= 1;
                world.evolve();
            } else {
                world.publish();
            }
            reader.step(&mut world, seed);
        }
        let first = |shard: &Shard| match start {
            Start::Latest => shard.is_open(),
            Start::Timestamp(_) => shard.closed_second.is_none_or(|closed| closed >= newest),
            _ => true,
        };
        let firsts: BTreeSet<ShardId> =
            listing.iter().filter(|shard| first(shard)).map(|shard| shard.id).collect();
        for known in &world.shards {
            let id = known.shard.id;
            let due = firsts.contains(&id) || known.version > version;
            let read = reader.open.contains(&id) || reader.ended.contains(&id);
            assert!(read || !due || known.expired, "seed {seed}: {id} was not read");
            // What some nodes have dropped may still be found at others, and is read in its place.
            assert!(due || !read || known.expired, "seed {seed}: {id} lies before the start");
        }
    }
}

impl World {
    fn evolve(&mut self) {
        match self.random.random_range(0..10) {
            0..4 => self.begin(),
            4..8 => self.publish(),
            8 => self.expire(),
            _ => {}
        }
    }
}
