//! The number of shards: limits, goals, and what is left when they are reached.

use std::time::Duration;

use tristream_proto::domain::HashKey;
use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;

use super::*;
use crate::metadata::StreamMode;
use crate::metadata::plan::{self, Step};
use crate::metadata::trial::{
    START, Trial, create, finish_early, no_goal, other_version, reach, rescale, split, step,
};

fn provisioned(shard_count: u32) -> Trial {
    Trial::with(shard_count, StreamMode::Provisioned)
}

fn limited(trial: &Trial, target: u32) -> Command {
    rescale(&trial.a(), target, START, true)
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::ChangeLimit { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// Takes every step of the goal.
fn carry_out(trial: &mut Trial) {
    loop {
        let stream = trial.a();
        if let [first, ..] = &stream.reshards[..] {
            trial.done(&finish_early(&stream, first.id().index()));
        } else if let [first, ..] = &plan::next(&stream)[..] {
            trial.done(&step(&stream, *first));
        } else {
            return trial.done(&reach(&stream));
        }
    }
}

#[test]
fn a_goal_keeps_the_stream_updating_until_it_is_reached() {
    let mut trial = provisioned(4);
    trial.done(&limited(&trial, 5));
    let stream = trial.a();
    assert_eq!(stream.status, StreamStatus::Updating);
    assert_eq!(stream.goal.as_ref().map(|goal| goal.splits.len()), Some(4));
    assert_eq!(stream.rescaled, [START]);
    assert_eq!(trial.refused(&limited(&trial, 5)), Outcome::NotActive);
    assert_eq!(trial.refused(&reach(&stream)), Outcome::StaleMap);
    carry_out(&mut trial);
    let stream = trial.a();
    assert_eq!((stream.status, stream.goal.clone()), (StreamStatus::Active, None));
    assert_eq!((stream.map.open().count(), stream.map.shards().len()), (5, 15));
    trial.nothing(&reach(&stream));
}

#[test]
fn a_step_takes_its_point_from_the_goal() {
    let mut trial = provisioned(2);
    trial.done(&limited(&trial, 4));
    let points = trial.a().goal.unwrap().splits;
    let Step::Split { shard, at } = plan::next(&trial.a())[0] else { panic!("a split") };
    assert_eq!(at, points[0]);
    trial.done(&split(&trial.a(), shard.index(), at, true));
    assert_eq!(trial.a().goal.unwrap().splits, points[1..]);
    trial.done(&split(&trial.a(), 1, HashKey(points[1].0 + 1), true));
    assert_eq!(trial.a().goal.unwrap().splits, points[1..], "another point is not the goal's");
}

#[test]
fn the_number_there_is_needs_no_change() {
    let mut trial = provisioned(3);
    trial.nothing(&limited(&trial, 3));
    let stale = Stream { map: trial.a().map.without(&[]), ..trial.a() };
    trial.nothing(&Command::Rescale {
        name: name("a"),
        incarnation: stale.incarnation,
        map_version: other_version(&stale),
        goal: no_goal(3),
        now: START,
        limited: true,
    });
    assert_eq!(trial.a().rescaled, []);
}

#[test]
fn aws_allows_half_and_double() {
    let refusals: [(u32, u32, &str); 5] = [
        (
            2,
            5,
            "UpdateShardCount cannot scale up over double your current open shard count. Current \
             open shard count: 2, Target shard count: 5",
        ),
        (
            5,
            2,
            "UpdateShardCount cannot scale down below half your current open shard count. Current \
             open shard count: 5, Target shard count: 2",
        ),
        (1, 3, "over double"),
        (1, u32::MAX, "over double"),
        (100, 49, "below half"),
    ];
    for (open, target, words) in refusals {
        let mut trial = provisioned(open);
        let found = reason(trial.refused(&limited(&trial, target)));
        assert!(found.contains(words), "{open} -> {target}: {found}");
    }
    for (open, target) in [(2, 4), (5, 3), (4, 2), (1, 2), (100, 50)] {
        let mut trial = provisioned(open);
        trial.done(&limited(&trial, target));
    }
    for (open, target) in [(2, 5), (5, 2), (1, 64)] {
        let mut trial = provisioned(open);
        trial.done(&rescale(&trial.a(), target, START, false));
    }
}

#[test]
fn aws_allows_ten_changes_in_any_24_hours() {
    let mut trial = provisioned(1);
    let hour = |hours: u64| START.after(Duration::from_secs(3600 * hours));
    let other = |trial: &Trial| 3 - trial.a().map.open().count() as u32;
    for i in 0..10 {
        trial.done(&rescale(&trial.a(), other(&trial), hour(i), true));
        carry_out(&mut trial);
    }
    let found = reason(trial.refused(&rescale(&trial.a(), other(&trial), hour(23), true)));
    assert!(found.contains("more than 10 times in a rolling 24-hour period"), "{found}");
    // A clock that lags gets no more than one that does not.
    reason(trial.refused(&rescale(&trial.a(), other(&trial), hour(0), true)));
    // The first one is a day old; the second is not.
    trial.done(&rescale(&trial.a(), other(&trial), hour(24), true));
    carry_out(&mut trial);
    reason(trial.refused(&rescale(&trial.a(), other(&trial), hour(24), true)));
    // Without the limit they are noted all the same, and never more than are counted.
    trial.done(&rescale(&trial.a(), other(&trial), hour(24), false));
    assert_eq!(trial.a().rescaled.len(), 10);
    assert_eq!(trial.a().rescaled[0], hour(2));
}

#[test]
fn what_cannot_be_is_refused_before_anything_else_is_looked_at() {
    let mut on_demand = Trial::with(2, StreamMode::OnDemand);
    assert_eq!(on_demand.refused(&limited(&on_demand, 9)), Outcome::OnDemand);
    assert_eq!(on_demand.refused(&limited(&on_demand, 2)), Outcome::OnDemand);
    let mut creating = Trial::default();
    creating.done(&create("a", 2, StreamMode::Provisioned));
    assert_eq!(creating.refused(&limited(&creating, 2)), Outcome::NotActive);
}

#[test]
fn a_goal_for_another_map_is_stale() {
    let mut trial = provisioned(2);
    let command = limited(&trial, 4);
    trial.done(&split(&trial.a(), 0, HashKey(9), false));
    trial.done(&finish_early(&trial.a(), 2));
    assert_eq!(trial.refused(&command), Outcome::StaleMap);
}

#[test]
fn a_goal_that_makes_no_sense_is_refused() {
    let mut trial = provisioned(2);
    let stream = trial.a();
    for goal in [no_goal(0), no_goal(3), no_goal(1)] {
        let outcome = trial.refused(&Command::Rescale {
            name: name("a"),
            incarnation: stream.incarnation,
            map_version: stream.map_version(),
            goal: goal.clone(),
            now: START,
            limited: false,
        });
        assert!(matches!(outcome, Outcome::Invalid { .. }), "{goal:?}: {outcome:?}");
    }
}

#[test]
fn all_the_splits_of_a_goal_count_against_the_limit() {
    let limit = ACCOUNT_SHARDS_MAX;
    let mut trial = provisioned(20);
    trial.done(&create("b", limit as u32 - 39, StreamMode::Provisioned));
    let open = limit - 19;
    // 21 in the end, and 40 on the way.
    assert_eq!(trial.refused(&limited(&trial, 21)), Outcome::ShardLimit { open, limit });
    for far in [limit as u32 + 1, u32::MAX] {
        let command = rescale(&trial.a(), far, START, false);
        assert_eq!(trial.refused(&command), Outcome::ShardLimit { open, limit });
    }
    trial.done(&Command::DeleteStream { name: name("b"), incarnation: None });
    let incarnation = trial.view.streams[&name("b")].incarnation;
    trial.done(&Command::ForgetStream { name: name("b"), incarnation });
    trial.done(&create("b", limit as u32 - 40, StreamMode::Provisioned));
    trial.done(&limited(&trial, 21));
    let full = Outcome::ShardLimit { open: limit, limit };
    assert_eq!(trial.refused(&create("c", 1, StreamMode::Provisioned)), full);
    assert_eq!(trial.refused(&split(&trial.a(), 0, HashKey(9), true)), full);
    // Room for the goal's own steps was set aside.
    carry_out(&mut trial);
    trial.done(&create("c", 19, StreamMode::Provisioned));
}

#[test]
fn a_deleted_stream_has_no_goal() {
    let mut trial = provisioned(2);
    trial.done(&limited(&trial, 4));
    trial.done(&step(&trial.a(), plan::next(&trial.a())[0]));
    trial.done(&Command::DeleteStream { name: name("a"), incarnation: None });
    assert_eq!(trial.a().goal, None);
    assert_eq!(trial.view.shards_held(), 3);
    trial.nothing(&reach(&trial.a()));
}
