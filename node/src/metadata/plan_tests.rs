//! What plans lead to, carried out as the saga does.

use proptest::prelude::*;
use tristream_proto::domain::{GroupId, MapVersion, NodeId};

use super::*;
use crate::metadata::trial::{Trial, finish_early, reach, rescale, step};
use crate::metadata::{Command, StreamMode};

/// A map with shards of these first keys, of which 0 is one.
fn map(firsts: &[u128]) -> ShardMap {
    let shard = |i: usize| Shard {
        id: ShardId::from(i as u32),
        group: GroupId(i as u64 + 1),
        range: HashKeyRange {
            first: HashKey(firsts[i]),
            last: HashKey(firsts.get(i + 1).map_or(u128::MAX, |next| next - 1)),
        },
        creation_second: 1,
        parents: vec![],
        replicas: [1, 2, 3].map(NodeId).to_vec(),
        closed_second: None,
    };
    ShardMap::new(MapVersion(1), (0..firsts.len()).map(shard).collect()).unwrap()
}

/// A trial whose stream `a` has this map.
fn trial(map: &ShardMap) -> Trial {
    let mut trial = Trial::with(map.shards().len() as u32, StreamMode::Provisioned);
    let stream = Stream { map: map.clone(), ..trial.a() };
    trial.view.streams.insert(stream.name.clone(), stream.into());
    trial
}

/// Carries a whole change out: begins whatever can begin, and ends reshards in an order given by
/// `dice`. Gives the stream as it is then.
fn carry_out(map: &ShardMap, target: u32, mut dice: u64) -> Stream {
    let mut trial = trial(map);
    let now = trial.a().created;
    let (outcome, changed) = trial.apply(&rescale(&trial.a(), target, now, false));
    assert_eq!(outcome, crate::metadata::Outcome::Done);
    if !changed {
        return trial.a();
    }
    let mut rolled = move |sides: usize| {
        dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (dice >> 33) as usize % sides
    };
    // Each turn begins or ends a reshard, and a goal has no more than this many.
    for _ in 0..10_000 {
        let stream = trial.a();
        let steps = next(&stream);
        let goal = stream.goal.as_ref().expect("the goal stays until it is reached");
        let idle = steps.is_empty() && stream.reshards.is_empty();
        assert_eq!(is_reached(&stream, goal), idle);
        if idle {
            trial.done(&reach(&stream));
            return trial.a();
        }
        assert_eq!(trial.refused(&reach(&stream)), crate::metadata::Outcome::StaleMap);
        let choices = steps.len() + stream.reshards.len();
        let command: Command = match rolled(choices) {
            i if i < steps.len() => step(&stream, steps[i]),
            i => finish_early(&stream, stream.reshards[i - steps.len()].id().index()),
        };
        trial.done(&command);
    }
    panic!("the goal is never reached: {:?}", trial.a());
}

/// Open shards, and all shards, that a change leaves when every shard can be split.
fn totals(open: usize, target: usize) -> (usize, usize) {
    let (mut pieces, mut all) = (open, open);
    while pieces < target {
        pieces *= 2;
        all += pieces;
    }
    (target, all + pieces - target)
}

fn ranges(stream: &Stream) -> Vec<HashKeyRange> {
    stream.map.by_range().iter().map(|shard| shard.range).collect()
}

fn uniform(count: u32) -> ShardMap {
    map(&HashKeyRange::uniform(count).iter().map(|range| range.first.0).collect::<Vec<_>>())
}

#[test]
fn totals_are_those_recorded_from_aws() {
    let recorded = [(2, 4, 6), (4, 5, 15), (10, 13, 37), (4, 2, 6), (5, 3, 7), (10, 3, 17)];
    for (open, target, total) in recorded {
        let stream = carry_out(&uniform(open), target, 1);
        assert_eq!(stream.map.open().count(), target as usize, "{open} -> {target}");
        assert_eq!(stream.map.shards().len(), total, "{open} -> {target}");
        assert_eq!(totals(open as usize, target as usize), (target as usize, total));
    }
}

#[test]
fn ranges_become_exactly_uniform_where_the_splits_allow_it() {
    let steps = [(2, 4), (4, 2), (4, 5), (1, 2), (1, 3), (1, 7), (1, 8), (3, 6), (3, 4), (9, 3)];
    for (open, target) in steps {
        let found = ranges(&carry_out(&uniform(open), target, 2));
        let ideal = HashKeyRange::uniform(target);
        let off = |(a, b): (&HashKeyRange, &HashKeyRange)| a.first.0.abs_diff(b.first.0);
        let worst = found.iter().zip(&ideal).map(off).max().unwrap();
        assert_eq!(found.len(), ideal.len());
        // Boundaries that stay were rounded for another number of ranges.
        let rounding = u128::from(if target % open == 0 || open % target == 0 { open } else { 0 });
        assert!(worst <= rounding, "{open} -> {target} is off by {worst} keys");
    }
}

#[test]
fn no_range_is_far_from_uniform() {
    for open in 1..=24u32 {
        for target in open.div_ceil(2)..=2 * open {
            let found = goal(&uniform(open), target).keep;
            let ends = found.iter().skip(1).map(|at| at.0).chain([u128::MAX]);
            let widths = found.iter().zip(ends).map(|(first, end)| end - first.0);
            let ideal = u128::MAX / u128::from(target);
            for width in widths {
                assert!(width > ideal / 4 && width / 2 <= ideal, "{open} -> {target}");
            }
        }
    }
}

#[test]
fn runs_are_merged_in_pairs_side_by_side() {
    let mut trial = trial(&uniform(8));
    trial.done(&rescale(&trial.a(), 1, trial.a().created, false));
    let mut turns = vec![];
    while let steps @ [_, ..] = &next(&trial.a())[..] {
        turns.push(steps.len());
        for &begun in steps {
            trial.done(&step(&trial.a(), begun));
        }
        assert_eq!(next(&trial.a()), [], "everything is under way");
        for reshard in trial.a().reshards {
            trial.done(&finish_early(&trial.a(), reshard.id().index()));
        }
    }
    assert_eq!(turns, [4, 2, 1]);
}

#[test]
fn growth_splits_every_shard_side_by_side() {
    let mut trial = trial(&uniform(3));
    trial.done(&rescale(&trial.a(), 12, trial.a().created, false));
    let steps = next(&trial.a());
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|step| matches!(step, Step::Split { .. })), "{steps:?}");
    trial.done(&step(&trial.a(), steps[0]));
    assert_eq!(next(&trial.a()), steps[1..], "the point is taken, the others wait");
}

#[test]
fn shards_too_small_to_be_split_do_not_stand_in_the_way() {
    let max = u128::MAX;
    let narrow = [
        vec![0, 1, 2, 3],
        vec![0, 3, max],
        vec![0, max - 2, max - 1, max],
        vec![0, 2, 4, 6, 8, 1 << 127],
    ];
    for firsts in narrow {
        for target in 1..=20 {
            let stream = carry_out(&map(&firsts), target, 3);
            assert_eq!(stream.map.open().count(), target as usize, "{firsts:?} -> {target}");
        }
    }
}

#[test]
fn points_that_no_longer_fit_are_passed_over() {
    let mut trial = trial(&uniform(2));
    trial.done(&rescale(&trial.a(), 4, trial.a().created, false));
    let mut stream = trial.a();
    let goal = stream.goal.as_mut().unwrap();
    goal.splits = vec![HashKey(1), HashKey(u128::MAX)];
    goal.keep = vec![HashKey(0), HashKey(1 << 127)];
    assert_eq!(next(&stream), []);
    assert!(is_reached(&stream, stream.goal.as_ref().unwrap()));
}

#[test]
fn a_target_that_no_stream_will_be_given_makes_no_steps() {
    for target in [0, ACCOUNT_SHARDS_MAX as u32 + 1, u32::MAX] {
        let goal = goal(&uniform(2), target);
        assert_eq!(goal.splits, []);
        assert_eq!(goal.keep, []);
        assert!(check(&uniform(2), &goal).is_err());
    }
}

#[test]
fn goals_that_do_not_make_their_target_are_found_out() {
    let map = uniform(2);
    let good = goal(&map, 3);
    assert_eq!(check(&map, &good), Ok(()));
    let spoils: [fn(&mut Goal); 8] = [
        |goal| goal.target = 4,
        |goal| goal.keep.reverse(),
        |goal| goal.keep[0] = HashKey(1),
        |goal| goal.keep[1] = HashKey(7),
        |goal| goal.splits.push(goal.splits[0]),
        |goal| goal.splits.push(HashKey(1)),
        |goal| goal.splits.push(HashKey(u128::MAX)),
        |goal| goal.splits.clear(),
    ];
    for (i, spoil) in spoils.iter().enumerate() {
        let mut goal = good.clone();
        spoil(&mut goal);
        assert!(check(&map, &goal).is_err(), "spoil {i}: {goal:?}");
    }
}

#[test]
fn a_stream_that_is_being_deleted_has_no_next_step() {
    let mut trial = trial(&uniform(2));
    trial.done(&rescale(&trial.a(), 4, trial.a().created, false));
    let deleting = Stream { status: StreamStatus::Deleting, ..trial.a() };
    assert_eq!(next(&deleting), []);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_change_ends_with_its_target(
        cuts in prop_oneof![
            (1u32..=64).prop_map(|n| HashKeyRange::uniform(n).iter().map(|r| r.first.0).collect()),
            proptest::collection::btree_set(any::<u128>(), 0..64)
                .prop_map(|cuts| cuts.into_iter().collect::<Vec<u128>>()),
        ],
        target in 1u32..=64,
        dice in any::<u64>(),
    ) {
        let mut firsts = cuts;
        if firsts.first() != Some(&0) {
            firsts.insert(0, 0);
        }
        let before = map(&firsts);
        let after = carry_out(&before, target, dice);
        let found = (after.map.open().count(), after.map.shards().len());
        prop_assert_eq!(found, totals(firsts.len(), target as usize));
        prop_assert_eq!(after.status, StreamStatus::Active);
        let firsts_left: Vec<HashKey> = ranges(&after).iter().map(|range| range.first).collect();
        if target as usize != firsts.len() {
            prop_assert_eq!(firsts_left, goal(&before, target).keep);
        }
        for shard in &after.map.shards()[firsts.len()..] {
            prop_assert!((1..=2).contains(&shard.parents.len()));
        }
    }

    #[test]
    fn what_is_kept_is_nearest(
        edges in proptest::collection::btree_set(1u128..1 << 24, 6..9),
        count in 2u32..5,
    ) {
        let edges: Vec<HashKey> =
            std::iter::once(0).chain(edges).map(|key| HashKey(key << 104)).collect();
        let ideal: Vec<HashKey> = HashKeyRange::uniform(count).iter().map(|r| r.first).collect();
        let sum = |keep: &[HashKey]| -> u128 {
            keep.iter().zip(&ideal).map(|(a, b)| a.0.abs_diff(b.0) >> 16).sum()
        };
        let choices = (0u32..1 << edges.len()).filter(|bits| bits.count_ones() == count);
        let least = choices
            .map(|bits| -> Vec<HashKey> {
                (0..edges.len()).filter(|i| bits >> i & 1 == 1).map(|i| edges[i]).collect()
            })
            .filter(|choice| choice[0] == HashKey(0))
            .map(|choice| sum(&choice))
            .min();
        let found = nearest(&edges, &ideal);
        prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert_eq!(found.len(), count as usize);
        prop_assert_eq!(Some(sum(&found)), least);
    }
}
