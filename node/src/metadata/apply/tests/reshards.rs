//! Splits and merges, from the intent to the expiry of the parents.

use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{GroupId, HashKey, MapVersion, NodeId, Shard, ShardId};

use super::*;
use crate::metadata::trial::{
    CREATED, Trial, activate, create, expire, finish, finish_early, merge, reach, rescale, roll,
    set_mode, split,
};
use crate::metadata::{Reshard, StreamMode};

const MIDDLE: HashKey = HashKey(1 << 127);
const QUARTER: HashKey = HashKey(1 << 126);

fn provisioned(shard_count: u32) -> Trial {
    Trial::with(shard_count, StreamMode::Provisioned)
}

fn ids(ids: &[u32]) -> Vec<ShardId> {
    ids.iter().map(|&id| ShardId::from(id)).collect()
}

fn not_eligible(shard: u32) -> Outcome {
    Outcome::NotEligible { shard: ShardId::from(shard) }
}

#[test]
fn a_split_is_an_intent_until_it_is_published() {
    let mut trial = provisioned(2);
    let before = trial.a();
    trial.done(&split(&trial.a(), 0, QUARTER, false));
    let stream = trial.a();
    assert_eq!(stream.status, StreamStatus::Updating);
    assert_eq!(stream.map, before.map, "the children own nothing yet");
    let child = |id: u32, first: u128, last: u128, nodes: [u64; 3]| Shard {
        id: ShardId::from(id),
        group: GroupId(u64::from(id) + 1),
        range: tristream_proto::domain::HashKeyRange { first: HashKey(first), last: HashKey(last) },
        creation_second: 0,
        parents: ids(&[0]),
        replicas: nodes.map(NodeId).to_vec(),
        closed_second: None,
    };
    let (at, end) = (QUARTER.0, MIDDLE.0 - 1);
    let children = vec![child(2, 0, at - 1, [1, 2, 3]), child(3, at, end, [2, 3, 1])];
    assert_eq!(
        stream.reshards,
        [Reshard { parents: ids(&[0]), children, begun: crate::metadata::trial::START }]
    );
    assert_eq!((stream.next_shard, trial.view.next_group), (4, 5));

    trial.done(&finish(&stream, 2, CREATED + 9));
    let stream = trial.a();
    assert_eq!((stream.status, stream.reshards.len()), (StreamStatus::Active, 0));
    assert_eq!(stream.map_version(), MapVersion(2));
    assert_eq!(stream.map.get(ShardId::from(0)).unwrap().closed_second, Some(CREATED + 8));
    let open: Vec<_> = stream.map.open().map(|s| (s.id.index(), s.creation_second)).collect();
    assert_eq!(open, [(1, CREATED), (2, CREATED + 9), (3, CREATED + 9)]);
    assert_eq!(stream.children_of(ShardId::from(0)).count(), 2);
}

#[test]
fn a_merge_takes_both_parents_in_their_order() {
    let mut trial = provisioned(3);
    trial.done(&merge(&trial.a(), 1, 2, false));
    let reshard = &trial.a().reshards[0];
    assert_eq!((&reshard.parents, reshard.children.len()), (&ids(&[1, 2]), 1));
    trial.done(&finish(&trial.a(), 3, CREATED + 1));
    let stream = trial.a();
    let child = stream.map.get(ShardId::from(3)).unwrap();
    assert_eq!(child.parents, ids(&[1, 2]));
    let closed: Vec<_> = stream.map.shards().iter().map(|shard| shard.closed_second).collect();
    assert_eq!(closed, [None, Some(CREATED), Some(CREATED), None]);
}

#[test]
fn leaders_of_many_children_spread_over_the_nodes() {
    let mut trial = Trial::with(6, StreamMode::OnDemand);
    for shard in 0..6 {
        let range = trial.a().map.get(ShardId::from(shard)).unwrap().range;
        let middle = HashKey(range.first.0 + (range.last.0 - range.first.0) / 2);
        trial.done(&split(&trial.a(), shard, middle, true));
    }
    let stream = trial.a();
    for node in [1, 2, 3].map(NodeId) {
        let leads = |shard: &&Shard| shard.replicas[0] == node;
        for child in [0, 1] {
            let children = stream.reshards.iter().map(|reshard| &reshard.children[child]);
            assert_eq!(children.filter(leads).count(), 2, "child {child} at {node}");
        }
    }
}

#[test]
fn checks_come_in_the_order_of_aws() {
    let mut trial = provisioned(2);
    let stream = trial.a();
    let no_shard = |shard| Outcome::NoShard { shard: ShardId::from(shard) };
    let bad_range = |outcome: Outcome| match outcome {
        Outcome::BadRange { reason } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(trial.refused(&split(&stream, 7, HashKey(0), false)), no_shard(7));
    assert_eq!(trial.refused(&merge(&stream, 7, 8, false)), no_shard(7));
    assert_eq!(trial.refused(&merge(&stream, 0, 8, false)), no_shard(8));
    for at in [0, 1, MIDDLE.0 - 1, MIDDLE.0] {
        let reason = bad_range(trial.refused(&split(&stream, 0, HashKey(at), false)));
        assert!(reason.contains("is not both greater than one plus"), "{reason}");
    }
    for (shard, adjacent) in [(1, 0), (0, 0)] {
        let reason = bad_range(trial.refused(&merge(&stream, shard, adjacent, false)));
        assert!(reason.contains("are not an adjacent pair"), "{reason}");
    }
    trial.done(&split(&stream, 0, HashKey(2), false));
    let stream = trial.a();
    // The status first, whatever else is wrong.
    assert_eq!(trial.refused(&split(&stream, 7, HashKey(0), false)), Outcome::NotActive);
    assert_eq!(trial.refused(&merge(&stream, 7, 8, false)), Outcome::NotActive);
    // A step meanwhile may not take what is taken.
    assert_eq!(trial.refused(&split(&stream, 0, QUARTER, true)), not_eligible(0));
    assert_eq!(trial.refused(&merge(&stream, 0, 1, true)), not_eligible(0));
    assert_eq!(trial.refused(&split(&stream, 2, HashKey(9), true)), no_shard(2));
    trial.done(&finish_early(&stream, 2));
    let stream = trial.a();
    assert_eq!(trial.refused(&split(&stream, 0, QUARTER, false)), not_eligible(0));
    assert_eq!(trial.refused(&merge(&stream, 0, 1, false)), not_eligible(0));
    trial.done(&split(&stream, 1, HashKey(u128::MAX - 1), false));
}

#[test]
fn a_stream_that_does_not_serve_takes_no_reshard() {
    let mut trial = Trial::default();
    trial.done(&create("a", 2, StreamMode::Provisioned));
    let stream = trial.a();
    for while_updating in [false, true] {
        let split = split(&stream, 0, QUARTER, while_updating);
        assert_eq!(trial.refused(&split), Outcome::NotActive);
        let merge = merge(&stream, 0, 1, while_updating);
        assert_eq!(trial.refused(&merge), Outcome::NotActive);
    }
    trial.done(&activate(&stream));
    let other = Stream { incarnation: Incarnation(9), ..stream.clone() };
    for command in [
        split(&other, 0, QUARTER, false),
        merge(&other, 0, 1, false),
        finish(&other, 2, CREATED + 1),
        expire(&other, &[0]),
        rescale(&other, 3, stream.created, false),
        reach(&other),
        set_mode(&other, StreamMode::OnDemand, stream.created, false),
    ] {
        assert_eq!(trial.refused(&command), Outcome::NotFound, "{command:?}");
    }
}

#[test]
fn on_demand_streams_are_changed_by_their_load_only() {
    let mut trial = Trial::with(2, StreamMode::OnDemand);
    let stream = trial.a();
    assert_eq!(trial.refused(&split(&stream, 0, QUARTER, false)), Outcome::OnDemand);
    assert_eq!(trial.refused(&merge(&stream, 0, 1, false)), Outcome::OnDemand);
    trial.done(&split(&stream, 0, QUARTER, true));
    assert_eq!(trial.refused(&split(&stream, 1, QUARTER, false)), Outcome::OnDemand);
    trial.done(&split(&stream, 1, HashKey(MIDDLE.0 + QUARTER.0), true));
    trial.done(&finish_early(&stream, 4));
    assert_eq!(trial.a().status, StreamStatus::Updating, "the other one is under way");
    trial.done(&finish_early(&stream, 2));
    assert_eq!(trial.a().status, StreamStatus::Active);
}

#[test]
fn reshards_end_in_any_order_and_more_than_once() {
    let mut trial = Trial::with(2, StreamMode::OnDemand);
    trial.done(&split(&trial.a(), 0, QUARTER, true));
    trial.done(&split(&trial.a(), 1, HashKey(MIDDLE.0 + QUARTER.0), true));
    trial.done(&finish(&trial.a(), 4, CREATED + 5));
    trial.nothing(&finish(&trial.a(), 4, CREATED + 7));
    trial.nothing(&finish(&trial.a(), 9, CREATED + 7));
    trial.nothing(&finish(&trial.a(), 3, CREATED + 7));
    trial.done(&finish(&trial.a(), 2, CREATED + 5));
    trial.nothing(&finish(&trial.a(), 2, CREATED + 5));
    let open: Vec<u32> = trial.a().map.open().map(|shard| shard.id.index()).collect();
    assert_eq!(open, [2, 3, 4, 5]);
}

#[test]
fn children_are_younger_than_their_parents() {
    let mut trial = provisioned(1);
    trial.done(&split(&trial.a(), 0, QUARTER, false));
    for early in [0, 1, CREATED - 1, CREATED] {
        let outcome = trial.refused(&finish(&trial.a(), 1, early));
        assert!(matches!(outcome, Outcome::Invalid { .. }), "{early}: {outcome:?}");
    }
    trial.done(&finish(&trial.a(), 1, CREATED + 1));
}

#[test]
fn only_closed_shards_expire_and_the_map_keeps_its_version() {
    let mut trial = provisioned(2);
    trial.done(&split(&trial.a(), 0, QUARTER, false));
    trial.nothing(&expire(&trial.a(), &[0, 1, 2, 3, 99]));
    trial.done(&finish_early(&trial.a(), 2));
    trial.done(&split(&trial.a(), 2, HashKey(99), false));
    let version = trial.a().map_version();
    trial.done(&expire(&trial.a(), &[0, 1, 2, 3, 4, 5]));
    trial.nothing(&expire(&trial.a(), &[0]));
    let stream = trial.a();
    assert_eq!(stream.map_version(), version);
    let left: Vec<u32> = stream.all_shards().map(|shard| shard.id.index()).collect();
    assert_eq!(left, [1, 2, 3, 4, 5]);
}

#[test]
fn an_expired_index_is_never_given_out_again() {
    let mut trial = provisioned(1);
    trial.done(&split(&trial.a(), 0, QUARTER, false));
    trial.done(&finish_early(&trial.a(), 1));
    trial.done(&merge(&trial.a(), 1, 2, false));
    trial.done(&finish_early(&trial.a(), 3));
    trial.done(&expire(&trial.a(), &[0, 1, 2]));
    trial.done(&split(&trial.a(), 3, QUARTER, false));
    assert_eq!(trial.a().reshards[0].id(), ShardId::from(4));
}

#[test]
fn streams_from_before_indexes_were_counted_go_on_behind_their_last_shard() {
    let mut trial = provisioned(3);
    let old = Stream { next_shard: 0, ..trial.a() };
    trial.view.streams.insert(name("a"), old.into());
    trial.done(&merge(&trial.a(), 0, 1, false));
    assert_eq!((trial.a().reshards[0].id(), trial.a().next_shard), (ShardId::from(3), 4));
}

#[test]
fn shard_ids_end_where_sequence_numbers_do() {
    let mut trial = provisioned(1);
    let late = Stream { next_shard: (1 << 31) - 1, ..trial.a() };
    trial.view.streams.insert(name("a"), late.into());
    let outcome = trial.refused(&split(&trial.a(), 0, QUARTER, false));
    assert!(matches!(outcome, Outcome::Invalid { .. }), "{outcome:?}");
}

#[test]
fn a_deleted_stream_keeps_the_groups_of_its_reshards_until_it_is_forgotten() {
    let mut trial = Trial::with(2, StreamMode::OnDemand);
    trial.done(&split(&trial.a(), 0, QUARTER, true));
    trial.done(&split(&trial.a(), 1, HashKey(MIDDLE.0 + 9), true));
    trial.done(&finish_early(&trial.a(), 4));
    trial.done(&Command::DeleteStream { name: name("a"), incarnation: None });
    let stream = trial.a();
    trial.nothing(&finish_early(&stream, 2));
    trial.nothing(&expire(&stream, &[1]));
    trial.nothing(&reach(&stream));
    trial.nothing(&activate(&stream));
    assert_eq!(trial.refused(&merge(&stream, 0, 4, true)), Outcome::NotActive);
    assert_eq!(trial.a(), stream);
    let groups: Vec<u64> = stream.all_shards().map(|shard| shard.group.0).collect();
    assert_eq!(groups, [1, 2, 5, 6, 3, 4]);
    trial.done(&Command::ForgetStream { name: name("a"), incarnation: stream.incarnation });
    assert_eq!(trial.refused(&finish_early(&stream, 2)), Outcome::NotFound);
}

#[test]
fn splits_under_way_count_against_the_limit() {
    let limit = ACCOUNT_SHARDS_MAX;
    let mut trial = Trial::with(2, StreamMode::OnDemand);
    trial.done(&create("b", limit as u32 - 3, StreamMode::Provisioned));
    trial.done(&split(&trial.a(), 0, QUARTER, true));
    let full = Outcome::ShardLimit { open: limit, limit };
    assert_eq!(trial.refused(&create("c", 1, StreamMode::Provisioned)), full);
    // The limit before the hash key, as on AWS.
    assert_eq!(trial.refused(&split(&trial.a(), 1, HashKey(0), true)), full);
    trial.done(&finish_early(&trial.a(), 2));
    assert_eq!(trial.refused(&split(&trial.a(), 1, HashKey(0), true)), full);
    trial.done(&merge(&trial.a(), 2, 3, true));
    assert_eq!(trial.refused(&create("c", 1, StreamMode::Provisioned)), full);
    trial.done(&finish_early(&trial.a(), 4));
    trial.done(&create("c", 1, StreamMode::Provisioned));
}

#[test]
fn a_random_walk_gets_somewhere() {
    // Guards the walks against commands that are all refused.
    let (mut trial, mut dice) = (Trial::default(), 7u64);
    let mut roll_once = || {
        dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (dice >> 32) as u32
    };
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..4000 {
        let command = roll(&trial.view, (roll_once() as u8, roll_once(), roll_once()));
        let (outcome, changed) = trial.apply(&command);
        let kind = serde_json::to_value(&command).unwrap()["command"].to_string();
        let (done, refused) = seen.entry(kind).or_insert((0, 0));
        *done += u32::from(changed);
        *refused += u32::from(outcome != Outcome::Done);
    }
    assert_eq!(seen.len(), 11, "{seen:?}");
    assert!(seen.values().all(|&(done, _)| done >= 3), "{seen:?}");
    let never_refused = seen.iter().filter(|(_, (_, refused))| *refused == 0);
    assert_eq!(never_refused.count(), 0, "{seen:?}");
}
