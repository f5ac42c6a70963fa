//! A stream on demand under a load, second by second: the real observation, the real decision, and
//! reshards that take two seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tristream_proto::domain::{
    GroupId, HashKey, HashKeyRange, MapVersion, PartitionKey, Record, Shard, ShardMap, Timestamp,
};

use super::{Decision, Step, WINDOW, decide, shard, stream};
use crate::metadata::{Reshard, Stream};
use crate::shard::Load;

/// Seconds between two decisions, and of a reshard.
const INTERVAL: u64 = 3;
const RESHARD: u64 = 2;

/// What comes in.
pub(super) struct Traffic {
    pub(super) kib_per_second: u64,
    /// Hash keys and how often each comes; empty: every record has a key of its own.
    pub(super) keys: Vec<(u128, u32)>,
    pub(super) record_bytes: usize,
    /// Drawn at random, a tenth more or less of them; else every second brings the same.
    pub(super) is_noisy: bool,
}

pub(super) struct Model {
    pub(super) traffic: Traffic,
    /// How many steps were taken.
    pub(super) steps: usize,
    pub(super) last: Decision,
    stream: Stream,
    loads: BTreeMap<GroupId, Load>,
    /// Second of each reshard under way.
    begun: Vec<u64>,
    start: Instant,
    second: u64,
    random: SmallRng,
}

impl Model {
    pub(super) fn new(traffic: Traffic, seed: u64) -> Model {
        let mut model = Model {
            traffic,
            steps: 0,
            last: Decision::default(),
            stream: stream(4),
            loads: BTreeMap::new(),
            begun: vec![],
            start: Instant::now(),
            second: 0,
            random: SmallRng::seed_from_u64(seed),
        };
        model.observe_new();
        model
    }

    pub(super) fn open(&self) -> usize {
        self.stream.map.open().count()
    }

    pub(super) fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.one_second();
        }
    }

    pub(super) fn run_to_first_step(&mut self) -> Option<Step> {
        while self.steps == 0 && self.second < 600 {
            self.one_second();
        }
        self.last.steps.first().copied()
    }

    fn one_second(&mut self) {
        self.put();
        self.second += 1;
        while self.begun.first().is_some_and(|begun| begun + RESHARD <= self.second) {
            self.begun.remove(0);
            self.finish();
        }
        if self.second.is_multiple_of(INTERVAL) {
            self.decide();
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.second)
    }

    /// The records of a second, each at its moment.
    fn put(&mut self) {
        let even = self.traffic.kib_per_second * 1024 / self.traffic.record_bytes as u64;
        let percent = if self.traffic.is_noisy { self.random.random_range(90..=110) } else { 100 };
        let count = even * percent / 100;
        let total: u32 = self.traffic.keys.iter().map(|(_, weight)| weight).sum();
        let mut ranges: Vec<(HashKeyRange, GroupId)> =
            self.stream.map.open().map(|shard| (shard.range, shard.group)).collect();
        ranges.sort_by_key(|(range, _)| range.first);
        for n in 0..count {
            // Multiples of the golden ratio lie evenly, however many there are.
            let place = match self.traffic.is_noisy {
                true => self.random.random(),
                false => 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835u128.wrapping_mul(u128::from(n)),
            };
            let key = match total {
                0 => HashKey(place),
                _ => self.pick((((place >> 64) * u128::from(total)) >> 64) as u64),
            };
            let owner = ranges.partition_point(|(range, _)| range.first <= key) - 1;
            let at = self.now() + Duration::from_micros(n * 1_000_000 / count.max(1));
            let load = &self.loads[&ranges[owner].1];
            load.count(1, load.glance(at, &[record(key, self.traffic.record_bytes)]));
        }
    }

    fn pick(&self, mut left: u64) -> HashKey {
        for &(key, weight) in &self.traffic.keys {
            let weight = u64::from(weight);
            if left < weight {
                return HashKey(key);
            }
            left -= weight;
        }
        unreachable!("the place is below the total")
    }

    fn decide(&mut self) {
        let now = self.now();
        let loads =
            self.loads.iter().map(|(group, load)| (*group, load.observed(1, now))).collect();
        self.last = decide(&self.stream, &loads, WINDOW, 100);
        for step in self.last.steps.clone() {
            self.steps += 1;
            self.begin(step);
        }
    }

    fn begin(&mut self, step: Step) {
        let shards = &self.stream.map;
        let range = |id| shards.get(id).expect("a shard of the map").range;
        let (parents, ranges) = match step {
            Step::Split { shard, at } => {
                let HashKeyRange { first, last } = range(shard);
                let before = HashKey(at.0 - 1);
                (
                    vec![shard],
                    vec![HashKeyRange { first, last: before }, HashKeyRange { first: at, last }],
                )
            }
            Step::Merge { shard, adjacent } => {
                let (first, last) = (range(shard).first, range(adjacent).last);
                (vec![shard, adjacent], vec![HashKeyRange { first, last }])
            }
        };
        let children = ranges.into_iter().map(|range| {
            let child = shard(self.stream.next_shard as usize, range);
            self.stream.next_shard += 1;
            child
        });
        let children = children.collect();
        self.stream.reshards.push(Reshard { parents, children, begun: Timestamp(0) });
        self.begun.push(self.second);
    }

    /// The oldest reshard is published. Parents go at once.
    fn finish(&mut self) {
        let Reshard { parents, children, .. } = self.stream.reshards.remove(0);
        let mut shards: Vec<Shard> = self.stream.map.shards().to_vec();
        shards.retain(|shard| !parents.contains(&shard.id));
        shards.extend(children);
        shards.sort_by_key(|shard| shard.id);
        let version = MapVersion(self.stream.map_version().0 + 1);
        self.stream.map = ShardMap::new(version, shards).expect("the ranges tile");
        self.observe_new();
    }

    fn observe_new(&mut self) {
        let now = self.now();
        let groups: Vec<GroupId> = self.stream.map.open().map(|shard| shard.group).collect();
        self.loads.retain(|group, _| groups.contains(group));
        for group in groups {
            self.loads.entry(group).or_insert_with(|| {
                let load = Load::new(group, WINDOW);
                load.observed(1, now);
                load
            });
        }
    }
}

fn record(key: HashKey, bytes: usize) -> Record {
    static DATA: [u8; 16 << 10] = [0; 16 << 10];
    Record {
        partition_key: PartitionKey::new("k").expect("a legal key"),
        explicit_hash_key: Some(key),
        data: bytes::Bytes::from_static(&DATA[..bytes - 1]),
        origin: None,
    }
}
