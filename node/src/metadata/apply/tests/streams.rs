//! Walks through a stream's life.

use std::collections::BTreeMap;

use tristream_proto::domain::limits::{ACCOUNT_SHARDS_MAX, RETENTION_HOURS_DEFAULT};
use tristream_proto::domain::{HashKeyRange, NodeId, Timestamp};

use super::*;
use crate::metadata::StreamMode;

fn create(text: &str, shard_count: u32) -> Command {
    Command::CreateStream {
        name: name(text),
        shard_count,
        mode: StreamMode::Provisioned,
        now: Timestamp(1_790_000_000_999),
        record_bytes_max: 1 << 20,
        tags: BTreeMap::new(),
        nodes: [1, 2, 3].map(NodeId).to_vec(),
    }
}

fn activate(text: &str, incarnation: u64) -> Command {
    Command::ActivateStream { name: name(text), incarnation: Incarnation(incarnation) }
}

fn delete(text: &str) -> Command {
    Command::DeleteStream { name: name(text), incarnation: None }
}

fn forget(text: &str, incarnation: u64) -> Command {
    Command::ForgetStream { name: name(text), incarnation: Incarnation(incarnation) }
}

/// Applies commands in turn; gives the view and, for each, its outcome and whether the view
/// changed.
fn run(commands: &[Command]) -> (View, Vec<(Outcome, bool)>) {
    let mut view = View::default();
    let mut outcomes = Vec::new();
    for command in commands {
        let (after, outcome) = apply(&view, command);
        outcomes.push((outcome, after.is_some()));
        if let Some(after) = after {
            assert_ne!(after, view, "{command:?} says that it changed something");
            view = after;
        }
    }
    (view, outcomes)
}

/// `name/incarnation STATUS vVERSION groups` of every stream.
fn picture(view: &View) -> Vec<String> {
    let groups = |stream: &Stream| {
        let ids = stream.map.shards().iter().map(|shard| shard.group.to_string());
        ids.collect::<Vec<_>>().join(",")
    };
    let line = |s: &Arc<Stream>| {
        format!("{}/{} {:?} v{} {}", s.name, s.incarnation, s.status, s.map_version(), groups(s))
    };
    view.streams.values().map(line).collect()
}

#[test]
fn a_late_deletion_spares_the_stream_that_was_created_anew() {
    let late = |incarnation| Command::DeleteStream {
        name: name("a"),
        incarnation: Some(Incarnation(incarnation)),
    };
    let (view, outcomes) =
        run(&[create("a", 1), late(1), forget("a", 1), create("a", 1), late(1), late(2)]);
    assert_eq!(outcomes[4], (Outcome::NotFound, false));
    assert_eq!(outcomes[5], (Outcome::Done, true));
    assert_eq!(picture(&view), ["a/2 Deleting v2 2"]);
}

#[test]
fn walks_through_a_streams_life() {
    use Outcome::{AlreadyExists, Done, NotFound};
    let invalid = || Outcome::Invalid { reason: "the stream is not being deleted".to_owned() };
    type Walk<'a> = (&'a [Command], &'a [(Outcome, bool)], &'a [&'a str]);
    let walks: [Walk<'_>; 9] = [
        (&[create("a", 2)], &[(Done, true)], &["a/1 Creating v1 1,2"]),
        (
            &[create("a", 2), create("a", 3), create("b", 1)],
            &[(Done, true), (AlreadyExists, false), (Done, true)],
            &["a/1 Creating v1 1,2", "b/2 Creating v2 3"],
        ),
        (
            &[create("a", 1), activate("a", 1), activate("a", 1)],
            &[(Done, true), (Done, true), (Done, false)],
            &["a/1 Active v1 1"],
        ),
        (
            &[create("a", 1), activate("a", 7), activate("b", 1)],
            &[(Done, true), (NotFound, false), (NotFound, false)],
            &["a/1 Creating v1 1"],
        ),
        (
            &[create("a", 1), delete("a"), delete("a"), activate("a", 1), create("a", 1)],
            &[(Done, true), (Done, true), (Done, false), (Done, false), (AlreadyExists, false)],
            &["a/1 Deleting v1 1"],
        ),
        (&[delete("a"), forget("a", 1)], &[(NotFound, false), (NotFound, false)], &[]),
        (
            &[create("a", 1), forget("a", 1), activate("a", 1), forget("a", 1)],
            &[(Done, true), (invalid(), false), (Done, true), (invalid(), false)],
            &["a/1 Active v1 1"],
        ),
        (
            &[create("a", 1), delete("a"), forget("a", 2), forget("a", 1), forget("a", 1)],
            &[(Done, true), (Done, true), (NotFound, false), (Done, true), (NotFound, false)],
            &[],
        ),
        // Ids, incarnations and map versions rise across delete and re-create.
        (
            &[create("a", 3), delete("a"), forget("a", 1), create("a", 1), forget("a", 1)],
            &[(Done, true), (Done, true), (Done, true), (Done, true), (NotFound, false)],
            &["a/2 Creating v2 4"],
        ),
    ];
    for (commands, outcomes, streams) in walks {
        let (view, found) = run(commands);
        assert_eq!(found, outcomes, "{commands:?}");
        assert_eq!(picture(&view), streams, "{commands:?}");
    }
}

#[test]
fn a_stream_is_made_as_asked() {
    let (view, _) = run(&[create("a", 4)]);
    let stream = &view.streams[&name("a")];
    assert_eq!(stream.retention_hours, RETENTION_HOURS_DEFAULT);
    assert_eq!(stream.created, Timestamp(1_790_000_000_999));
    let ranges: Vec<_> = stream.map.shards().iter().map(|shard| shard.range).collect();
    assert_eq!(ranges, HashKeyRange::uniform(4));
    assert!(stream.map.shards().iter().all(|shard| shard.creation_second == 1_789_999_997));
    assert_eq!((view.next_group, view.next_incarnation, view.map_version), (5, 2, 1));
}

#[test]
fn leaders_spread_within_a_stream_and_over_streams() {
    let (view, _) = run(&[create("a", 6), create("b", 1), create("c", 1), create("d", 1)]);
    let mut led = BTreeMap::new();
    for stream in view.streams.values() {
        for shard in stream.map.shards() {
            let mut sorted = shard.replicas.clone();
            sorted.sort();
            assert_eq!(sorted, [1, 2, 3].map(NodeId));
            *led.entry(shard.replicas[0]).or_insert(0) += 1;
        }
    }
    assert_eq!(led, BTreeMap::from([(NodeId(1), 3), (NodeId(2), 3), (NodeId(3), 3)]));
}

#[test]
fn shards_are_limited_and_those_being_deleted_count() {
    let limit = ACCOUNT_SHARDS_MAX;
    let refused = |open| (Outcome::ShardLimit { open, limit }, false);
    let rest = limit as u32 - 10;
    let (view, outcomes) = run(&[
        create("too-large", limit as u32 + 1),
        create("huge", u32::MAX),
        create("a", 10),
        create("b", rest + 1),
        create("b", rest),
        delete("a"),
        create("c", 1),
        forget("a", 1),
        create("c", 10),
        create("d", 1),
    ]);
    let done = || (Outcome::Done, true);
    assert_eq!(
        outcomes,
        [
            refused(0),
            refused(0),
            done(),
            refused(10),
            done(),
            done(),
            refused(limit),
            done(),
            done(),
            refused(limit)
        ]
    );
    assert_eq!(view.open_shards(), limit);
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let spoils: [fn(&mut Command); 4] = [
        |c| {
            if let Command::CreateStream { shard_count, .. } = c {
                *shard_count = 0
            }
        },
        |c| {
            if let Command::CreateStream { nodes, .. } = c {
                nodes.clear()
            }
        },
        |c| {
            if let Command::CreateStream { nodes, .. } = c {
                nodes.push(NodeId(1))
            }
        },
        |c| {
            if let Command::CreateStream { record_bytes_max, .. } = c {
                *record_bytes_max = 0
            }
        },
    ];
    for spoil in spoils {
        let mut command = create("a", 1);
        spoil(&mut command);
        let (after, outcome) = apply(&View::default(), &command);
        assert!(matches!(outcome, Outcome::Invalid { .. }), "{command:?}: {outcome:?}");
        assert_eq!(after, None);
    }
}
