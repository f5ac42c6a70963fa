//! Decisions by hand, and a stream that lives under a simulated load.

mod model;

use proptest::prelude::*;
use tristream_proto::domain::{HashKeyRange, Incarnation, MapVersion, ShardMap, Timestamp};

use super::*;
use crate::metadata::{Goal, Reshard};
use model::{Model, Traffic};

const WINDOW: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const EVEN: Traffic =
    Traffic { kib_per_second: 0, keys: vec![], record_bytes: 16 << 10, is_noisy: false };

fn shard(index: usize, range: HashKeyRange) -> Shard {
    Shard {
        id: ShardId::from(index as u32),
        group: GroupId(index as u64 + 1),
        range,
        creation_second: 1,
        parents: vec![],
        replicas: vec![],
        closed_second: None,
    }
}

fn stream(shards: u32) -> Stream {
    let ranges = HashKeyRange::uniform(shards);
    let shards: Vec<Shard> =
        ranges.into_iter().enumerate().map(|(at, range)| shard(at, range)).collect();
    Stream {
        name: "orders".parse().expect("a legal name"),
        incarnation: Incarnation(1),
        status: StreamStatus::Active,
        mode: StreamMode::OnDemand,
        created: Timestamp(0),
        retention_hours: 24,
        record_bytes_max: 1 << 20,
        tags: BTreeMap::new(),
        next_shard: shards.len() as u32,
        map: ShardMap::new(MapVersion(1), shards).expect("uniform ranges tile"),
        reshards: vec![],
        goal: None,
        rescaled: vec![],
        mode_changed: vec![],
    }
}

/// A load of so many bytes a second, spread over the shard's range.
fn even(shard: &Shard, bytes: u64) -> Observed {
    let (first, last) = (shard.range.first.0, shard.range.last.0);
    let sampled = (0..100).map(|i| HashKey(first + (last - first) / 100 * i)).collect();
    Observed { peak_bytes: bytes, peak_records: bytes / 2048, sampled, observed: WINDOW }
}

fn loads(stream: &Stream, bytes: &[u64]) -> BTreeMap<GroupId, Observed> {
    let shards = stream.map.open().zip(bytes);
    shards.map(|(shard, bytes)| (shard.group, even(shard, *bytes))).collect()
}

fn at(stream: &Stream, bytes: &[u64]) -> Decision {
    decide(stream, &loads(stream, bytes), WINDOW, 100)
}

fn splits(decision: &Decision) -> Vec<u32> {
    let split = |step: &Step| match step {
        Step::Split { shard, .. } => Some(shard.index()),
        Step::Merge { .. } => None,
    };
    decision.steps.iter().filter_map(split).collect()
}

fn merge(shard: u32, adjacent: u32) -> Step {
    Step::Merge { shard: ShardId::from(shard), adjacent: ShardId::from(adjacent) }
}

#[test]
fn every_hot_shard_is_split_the_hottest_first() {
    let stream = stream(4);
    let decision = at(&stream, &[MIB / 2, MIB, MIB * 3 / 4, MIB / 2 + 1]);
    assert_eq!(splits(&decision), [1, 2, 3]);
    assert_eq!(decision.wanted, 6);
    // And at the limit only so many as may be.
    let loads = loads(&stream, &[MIB / 2, MIB, MIB * 3 / 4, MIB / 2 + 1]);
    let limited = decide(&stream, &loads, WINDOW, 1);
    assert_eq!((splits(&limited), limited.wanted), (vec![1], 5));
}

#[test]
fn records_count_as_bytes_do() {
    let stream = stream(4);
    let mut loads = loads(&stream, &[0; 4]);
    let hot = loads.get_mut(&GroupId(2)).expect("shard 1");
    hot.peak_records = 501;
    assert_eq!(splits(&decide(&stream, &loads, WINDOW, 100)), [1]);
}

#[test]
fn a_stream_with_fewer_shards_than_four_gets_four() {
    assert_eq!(splits(&at(&stream(3), &[10, 30, 20])), [1]);
    assert_eq!(splits(&at(&stream(2), &[10, 30])), [1, 0]);
    // Also where nothing has come in yet.
    let stream = stream(2);
    let blank = stream.map.open().map(|shard| (shard.group, Observed::default())).collect();
    let decision = decide(&stream, &blank, WINDOW, 100);
    let middle = HashKey((1 << 126) + (1 << 125));
    assert!(decision.steps.len() == 2);
    assert!(
        decision
            .steps
            .iter()
            .any(|step| matches!(step, Step::Split { at, .. } if at.0 == 1 << 126)
                || matches!(step, Step::Split { at, .. } if *at == middle))
    );
}

#[test]
fn cold_neighbours_are_merged_the_coldest_first_and_down_to_four() {
    let decision = at(&stream(8), &[9, 9, 1, 1, 5, 5, 9, 9]);
    assert_eq!(decision.steps, [merge(2, 3), merge(4, 5), merge(0, 1), merge(6, 7)]);
    assert_eq!(at(&stream(5), &[9, 9, 1, 1, 5]).steps, [merge(2, 3)]);
    assert_eq!(at(&stream(4), &[0; 4]).steps, []);
}

#[test]
fn what_is_not_well_below_stays() {
    // Two quarters of a MiB with headroom are a whole shard.
    assert_eq!(at(&stream(8), &[MIB / 4; 8]).steps, []);
    assert_eq!(at(&stream(8), &[MIB * 3 / 20 + 1; 8]).steps, []);
    assert_eq!(at(&stream(8), &[MIB * 3 / 20; 8]).steps.len(), 4);
}

#[test]
fn too_little_observation_merges_nothing() {
    let stream = stream(5);
    let mut loads = loads(&stream, &[0; 5]);
    assert_eq!(decide(&stream, &loads, WINDOW, 100).steps.len(), 1);
    for load in loads.values_mut() {
        load.observed = WINDOW - Duration::from_millis(1);
    }
    assert_eq!(decide(&stream, &loads, WINDOW, 100).steps, []);
    // Nor does a shard whose leader is silent: nobody knows what it needs.
    for load in loads.values_mut() {
        load.observed = WINDOW;
    }
    loads.remove(&GroupId(5));
    assert_eq!(decide(&stream, &loads, WINDOW, 100).steps, []);
}

#[test]
fn a_shard_that_is_being_resharded_is_left_alone() {
    let mut hot = stream(4);
    let child = |index| shard(index, HashKeyRange { first: HashKey(0), last: HashKey(1) });
    let reshard = |parents: &[u32], children: &[usize]| Reshard {
        parents: parents.iter().copied().map(ShardId::from).collect(),
        children: children.iter().map(|&index| child(index)).collect(),
        begun: Timestamp(0),
    };
    hot.status = StreamStatus::Updating;
    hot.reshards = vec![reshard(&[1], &[4, 5])];
    let decision = at(&hot, &[MIB, MIB * 2, MIB, MIB / 8]);
    assert_eq!(splits(&decision), [0, 2]);

    let mut cold = stream(6);
    cold.reshards = vec![reshard(&[0, 1], &[6])];
    // Five when that is done, so one more; never with 0 or 1.
    assert_eq!(at(&cold, &[0; 6]).steps, [merge(2, 3)]);
    cold.reshards.push(reshard(&[2, 3], &[7]));
    assert_eq!(at(&cold, &[0; 6]).steps, []);
}

#[test]
fn only_streams_on_demand_that_nobody_else_changes() {
    let hot = [MIB; 4];
    let mut other = stream(4);
    assert!(!at(&other, &hot).steps.is_empty());
    other.mode = StreamMode::Provisioned;
    assert_eq!(at(&other, &hot), Decision::default());
    let mut other = stream(4);
    other.status = StreamStatus::Deleting;
    assert_eq!(at(&other, &hot), Decision::default());
    let mut other = stream(4);
    other.goal = Some(Goal::default());
    assert_eq!(at(&other, &hot), Decision::default());
}

#[test]
fn a_single_hot_key_is_told_and_not_split() {
    let stream = stream(4);
    let mut loads = loads(&stream, &[100, 2 * MIB, 100, 100]);
    let key = HashKey(stream.map.shards()[1].range.first.0 + 77);
    let hot = loads.get_mut(&GroupId(2)).expect("shard 1");
    hot.sampled = vec![key; 100];
    let decision = decide(&stream, &loads, WINDOW, 100);
    assert_eq!(decision.steps, []);
    assert_eq!(decision.hot_keys, [(ShardId::from(1), HotKey { key, share: 1.0 })]);
    assert_eq!(decision.wanted, 4, "a hot key wants no shards");

    // A little beside it changes nothing: 5 of 100 are a fifth of a shard.
    let hot = loads.get_mut(&GroupId(2)).expect("shard 1");
    hot.sampled[95..].fill(HashKey(key.0 + 1));
    let decision = decide(&stream, &loads, WINDOW, 100);
    assert_eq!((decision.steps.len(), decision.hot_keys.len()), (0, 1));
    assert_eq!(decision.hot_keys[0].1.share, 0.95);

    // But much beside it is led away from the key.
    let hot = loads.get_mut(&GroupId(2)).expect("shard 1");
    hot.sampled[70..].fill(HashKey(key.0 + 1));
    let decision = decide(&stream, &loads, WINDOW, 100);
    let away = Step::Split { shard: ShardId::from(1), at: HashKey(key.0 + 1) };
    assert_eq!((decision.steps, decision.hot_keys.len()), (vec![away], 0));
}

#[test]
fn a_cold_shard_with_one_key_is_no_hot_key() {
    let load = Observed { sampled: vec![HashKey(5); 100], peak_bytes: 9, ..Observed::default() };
    assert_eq!(hot_key(&load), None);
}

proptest! {
    /// Whatever is seen: steps fit the map, no shard has two, and the number stays within its bounds.
    #[test]
    fn steps_always_fit(
        shards in 1u32..12,
        seen in proptest::collection::vec(
            proptest::option::of((0..3 * MIB, 0u64..3000, 1u128..40, any::<bool>())), 12),
        room in 0usize..6,
    ) {
        let stream = stream(shards);
        let mut loads = BTreeMap::new();
        for (shard, seen) in stream.map.open().zip(seen) {
            let Some((peak_bytes, peak_records, keys, is_old)) = seen else { continue };
            let width = shard.range.last.0 - shard.range.first.0;
            let mut sampled: Vec<HashKey> =
                (0..100).map(|i| HashKey(shard.range.first.0 + width / keys * (i % keys))).collect();
            sampled.sort();
            let observed = if is_old { WINDOW } else { WINDOW / 2 };
            loads.insert(shard.group, Observed { peak_bytes, peak_records, sampled, observed });
        }
        let Decision { steps, wanted, hot_keys } = decide(&stream, &loads, WINDOW, room);
        let mut count = shards as usize;
        let mut used = BTreeSet::new();
        for step in &steps {
            match *step {
                Step::Split { shard, at } => {
                    let range = stream.map.get(shard).expect("a shard of the map").range;
                    prop_assert!(range.first < at && at <= range.last);
                    prop_assert!(used.insert(shard));
                    count += 1;
                }
                Step::Merge { shard, adjacent } => {
                    prop_assert_eq!(shard.index() + 1, adjacent.index());
                    prop_assert!(used.insert(shard) && used.insert(adjacent));
                    count -= 1;
                }
            }
        }
        prop_assert!(count <= shards as usize + room);
        prop_assert!(count >= SHARDS_MIN.min(shards as usize));
        prop_assert!(count >= wanted || count >= shards as usize);
        prop_assert!(hot_keys.iter().all(|(shard, hot)| !used.contains(shard) && hot.share > 0.5));
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// A steady load ends in a steady number of shards, however it is spread.
    #[test]
    fn steady_load_converges_and_then_stays_still(
        kib in 100u64..6_000,
        keys in proptest::collection::vec((any::<u128>(), 1u32..20), 1..60),
        spread in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let keys = if spread { vec![] } else { keys };
        let traffic = Traffic { kib_per_second: kib, keys, ..EVEN };
        let mut model = Model::new(traffic, seed);
        model.run(300);
        let converged = model.steps;
        let open = model.open();
        model.run(300);
        prop_assert_eq!(model.steps, converged, "{} shards, then {}", open, model.open());
    }

    /// With chance in it, ever higher peaks are seen for a while: shards are added for them, never taken
    /// away and added again.
    #[test]
    fn noise_makes_nothing_flap(kib in 100u64..6_000, seed in any::<u64>()) {
        let traffic = Traffic { kib_per_second: kib, is_noisy: true, ..EVEN };
        let mut model = Model::new(traffic, seed);
        model.run(600);
        prop_assert_eq!(model.steps, model.open() - SHARDS_MIN, "only splits");
        prop_assert!(model.open() as u64 <= SHARDS_MIN as u64 + kib / 128, "{}", model.open());
    }
}

#[test]
fn ten_times_the_load_has_its_shards_within_a_minute_and_calm_brings_four_back() {
    for seed in 0..2 {
        let mut model = Model::new(
            Traffic { kib_per_second: 410, record_bytes: 2 << 10, is_noisy: true, ..EVEN },
            seed,
        );
        model.run(200);
        assert_eq!((model.open(), model.steps), (4, 0), "0.4 MiB/s fit into four");
        model.traffic.kib_per_second = 4096;
        model.run(60);
        assert!(model.open() >= 8, "{} shards after a minute", model.open());
        model.run(300);
        let most = model.open();
        assert!(most <= 24, "{most} shards are three times what 4 MiB/s need");
        model.traffic.kib_per_second = 410;
        model.run(600);
        assert_eq!(model.open(), 4);
        let steps = model.steps;
        model.run(300);
        assert_eq!(model.steps, steps);
    }
}

#[test]
fn a_hot_range_is_split_near_its_true_median() {
    // A thousand keys in one shard's range, dense at its lower end, a few of them much heavier.
    let width = 1u128 << 126;
    let keys: Vec<(u128, u32)> = (0..1000u128)
        .map(|i| (width / 1_000_000_000 * i * i * i, if i % 97 == 0 { 30 } else { 1 }))
        .collect();
    let total: u32 = keys.iter().map(|(_, weight)| weight).sum();
    for seed in 0..2 {
        let mut model = Model::new(
            Traffic {
                kib_per_second: 900,
                keys: keys.clone(),
                is_noisy: true,
                record_bytes: 2 << 10,
            },
            seed,
        );
        let step = model.run_to_first_step();
        let Some(Step::Split { shard, at }) = step else { panic!("{step:?}") };
        assert_eq!(shard, ShardId::from(0));
        let below: u32 = keys.iter().filter(|(key, _)| *key < at.0).map(|(_, w)| w).sum();
        let rank = f64::from(below) / f64::from(total);
        assert!((rank - 0.5).abs() < 0.05, "seed {seed}: cut at {rank}");
    }
}

#[test]
fn one_hot_key_among_others_is_told_and_the_others_are_served() {
    // 2 MiB/s on one key, as much on all others.
    let mut keys: Vec<(u128, u32)> = (0..100).map(|i| (u128::MAX / 100 * i, 1)).collect();
    keys.push((1 << 125, 100));
    let mut model = Model::new(Traffic { kib_per_second: 4096, keys, ..EVEN }, 1);
    model.run(300);
    let told = &model.last.hot_keys;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1.key, HashKey(1 << 125));
    let (steps, open) = (model.steps, model.open());
    assert!((6..=14).contains(&open), "{open} shards");
    model.run(300);
    assert_eq!(model.steps, steps, "it is not split for ever");
}
