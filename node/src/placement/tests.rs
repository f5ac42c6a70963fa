//! The decisions of placement, on made-up views and groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tristream_proto::domain::{
    GroupId, HashKeyRange, Incarnation, MapVersion, NodeId, Shard, ShardId, ShardMap, Timestamp,
};

use super::balance::{Balance, Guest, guests};
use super::first_leader::{unled, was_never_led};
use super::reconcile::{Plan, closed, plan};
use super::stream_keeper::steps;
use crate::metadata::{Command, Reshard, Stream, StreamMode, StreamStatus, View};
use crate::raft::Status;

const ME: NodeId = NodeId(1);

fn stream(
    name: &str,
    status: StreamStatus,
    groups: std::ops::Range<u64>,
    replicas: [u64; 3],
) -> Stream {
    let ranges = HashKeyRange::uniform(groups.clone().count() as u32);
    let shard = |(i, (group, range)): (usize, (u64, HashKeyRange))| Shard {
        id: ShardId::from(i as u32),
        group: GroupId(group),
        range,
        creation_second: 1,
        parents: vec![],
        replicas: replicas.map(NodeId).to_vec(),
        closed_second: None,
    };
    let shards = groups.zip(ranges).enumerate().map(shard).collect();
    Stream {
        name: name.parse().unwrap(),
        incarnation: Incarnation(7),
        status,
        mode: StreamMode::Provisioned,
        created: Timestamp(1),
        retention_hours: 24,
        record_bytes_max: 1 << 20,
        tags: BTreeMap::new(),
        map: ShardMap::new(MapVersion(1), shards).unwrap(),
        reshards: vec![],
        goal: None,
        next_shard: 0,
        rescaled: vec![],
        mode_changed: vec![],
    }
}

fn view(next_group: u64, streams: Vec<Stream>) -> View {
    let streams = streams.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect();
    View { next_group, streams, ..View::default() }
}

fn ids(ids: &[u64]) -> BTreeSet<GroupId> {
    ids.iter().map(|&id| GroupId(id)).collect()
}

/// Opens and destroys as numbers.
fn numbers(plan: &Plan) -> (Vec<u64>, Vec<u64>) {
    let open = plan.open.iter().map(|shard| shard.group.0).collect();
    (open, plan.destroy.iter().map(|group| group.0).collect())
}

#[test]
fn groups_are_opened_where_they_are_placed_and_destroyed_when_proven_deleted() {
    use StreamStatus::{Active, Creating, Deleting};
    let here = [1, 2, 3];
    let elsewhere = [2, 3, 4];
    type Case<'a> = (&'a str, View, &'a [u64], &'a [u64], &'a [u64], &'a [u64]);
    let cases: [Case<'_>; 9] = [
        ("nothing", view(1, vec![]), &[], &[0], &[], &[]),
        ("new", view(3, vec![stream("a", Creating, 1..3, here)]), &[], &[0], &[1, 2], &[]),
        ("restart", view(3, vec![stream("a", Active, 1..3, here)]), &[1], &[0, 1, 2], &[2], &[]),
        ("all open", view(3, vec![stream("a", Active, 1..3, here)]), &[1, 2], &[], &[], &[]),
        (
            "not placed here",
            view(3, vec![stream("a", Active, 1..3, elsewhere)]),
            &[],
            &[],
            &[],
            &[],
        ),
        (
            "placed elsewhere, yet in the log: no proof that it was deleted",
            view(3, vec![stream("a", Active, 1..3, elsewhere)]),
            &[],
            &[1],
            &[],
            &[],
        ),
        (
            "deleting, one open and one only in the log",
            view(4, vec![stream("a", Deleting, 1..4, here)]),
            &[1],
            &[0, 2],
            &[],
            &[1, 2],
        ),
        (
            "orphans, open and in the log",
            view(5, vec![stream("a", Active, 3..5, here)]),
            &[1, 3, 4],
            &[0, 2, 3],
            &[],
            &[1, 2],
        ),
        ("our view is old: later ids stay", view(3, vec![]), &[3, 9], &[4], &[], &[]),
    ];
    for (what, view, open, logged, opens, destroys) in cases {
        let plan = plan(&view, &ids(open), &ids(logged), ME);
        assert_eq!(numbers(&plan), (opens.to_vec(), destroys.to_vec()), "{what}");
    }
}

/// Puts a split of the stream's first shard under way; the children have these groups.
fn splitting(mut stream: Stream, groups: [u64; 2]) -> Stream {
    let parent = stream.map.shards()[0].clone();
    let next = stream.map.shards().len() as u32;
    let child = |(index, group): (u32, u64)| Shard {
        id: ShardId::from(index),
        group: GroupId(group),
        creation_second: 0,
        parents: vec![parent.id],
        ..parent.clone()
    };
    let children = (next..).zip(groups).map(child).collect();
    stream.reshards.push(Reshard { parents: vec![parent.id], children, begun: Timestamp(1) });
    stream
}

#[test]
fn children_under_way_are_opened_with_their_stream_and_go_with_it() {
    let with = |status| view(5, vec![splitting(stream("a", status, 1..3, [1, 2, 3]), [3, 4])]);
    let active = plan(&with(StreamStatus::Updating), &ids(&[1, 2]), &ids(&[]), ME);
    assert_eq!(numbers(&active), (vec![3, 4], vec![]));
    assert_eq!(active.open_of_maps, 0, "the node serves without them");
    let restart = plan(&with(StreamStatus::Updating), &ids(&[2, 4]), &ids(&[]), ME);
    assert_eq!((numbers(&restart), restart.open_of_maps), ((vec![1, 3], vec![]), 1));
    let deleting = plan(&with(StreamStatus::Deleting), &ids(&[1, 2, 3]), &ids(&[4]), ME);
    assert_eq!(numbers(&deleting), (vec![], vec![1, 2, 3, 4]));
}

#[test]
fn a_closed_shard_stays_until_it_has_left_the_map() {
    let mut stream = stream("a", StreamStatus::Active, 1..2, [1, 2, 3]);
    let parent = Shard { closed_second: Some(9), ..stream.map.shards()[0].clone() };
    let id = ShardId::from(1);
    let child = Shard { id, group: GroupId(2), closed_second: None, ..parent.clone() };
    stream.map = ShardMap::new(MapVersion(2), vec![parent, child.clone()]).unwrap();
    let destroyed = |stream: &Stream| {
        numbers(&plan(&view(3, vec![stream.clone()]), &ids(&[1, 2]), &ids(&[]), ME)).1
    };
    assert_eq!(destroyed(&stream), [0; 0]);
    let forget: Vec<u64> = closed(&view(3, vec![stream.clone()])).map(|group| group.0).collect();
    assert_eq!(forget, [1], "it gave way to its child, which has what it remembered");
    stream.map = ShardMap::new(MapVersion(2), vec![child]).unwrap();
    assert_eq!(destroyed(&stream), [1]);
}

#[test]
fn the_metadata_group_is_never_destroyed() {
    let plan = plan(&view(100, vec![]), &ids(&[0, 1]), &ids(&[0, 1]), ME);
    assert_eq!(numbers(&plan), (vec![], vec![1]));
}

#[test]
fn the_preferred_leader_of_a_new_group_asks_for_votes_until_somebody_leads() {
    use StreamStatus::{Active, Creating, Deleting};
    let asks = |status, replicas, never_led: bool| {
        let view = view(2, vec![stream("a", status, 1..2, replicas)]);
        !unled(&view, ME, |_| never_led).is_empty()
    };
    assert!(asks(Creating, [1, 2, 3], true));
    assert!(!asks(Creating, [1, 2, 3], false), "not open here, or led once");
    assert!(!asks(Creating, [2, 1, 3], true), "another is preferred");
    assert!(!asks(Active, [1, 2, 3], true));
    assert!(!asks(Deleting, [1, 2, 3], true));
    let status = |leader, last_index| Status { leader, last_index, ..Status::default() };
    assert!(was_never_led(&status(None, Some(0))));
    assert!(!was_never_led(&status(None, None)), "it has no members");
    assert!(!was_never_led(&status(None, Some(1))), "somebody led");
    assert!(!was_never_led(&status(Some(ME), Some(0))));
}

#[test]
fn children_under_way_are_new_and_so_are_all_shards_of_a_stream_that_is_being_created() {
    use StreamStatus::{Active, Creating, Deleting, Updating};
    for (status, groups) in
        [(Updating, &[3, 4][..]), (Active, &[3, 4]), (Creating, &[1, 2, 3, 4]), (Deleting, &[])]
    {
        let stream = splitting(stream("a", status, 1..3, [1, 2, 3]), [3, 4]);
        let view = view(5, vec![stream]);
        let new: Vec<u64> = super::new_shards(&view).map(|shard| shard.group.0).collect();
        assert_eq!(new, groups, "{status:?}");
    }
}

#[test]
fn streams_take_their_next_step_when_every_group_is_ready() {
    use StreamStatus::{Active, Creating, Deleting};
    let step = |status, led: &[u64], present: &[u64]| {
        let (led, present) = (ids(led), ids(present));
        let view = view(3, vec![stream("a", status, 1..3, [1, 2, 3])]);
        steps(&view, |group| led.contains(&group), |group| present.contains(&group))
    };
    let (name, incarnation) =
        ("a".parse::<tristream_proto::domain::StreamName>().unwrap(), Incarnation(7));
    let activate = || [Command::ActivateStream { name: name.clone(), incarnation }];
    let forget = || [Command::ForgetStream { name: name.clone(), incarnation }];
    assert_eq!(step(Creating, &[1], &[1, 2]), []);
    assert_eq!(step(Creating, &[1, 2], &[1, 2]), activate());
    assert_eq!(step(Active, &[1, 2], &[]), []);
    assert_eq!(step(Deleting, &[], &[2]), []);
    assert_eq!(step(Deleting, &[1, 2], &[5]), forget());
}

#[test]
fn a_deleted_stream_is_forgotten_when_its_children_under_way_are_gone_too() {
    let stream = splitting(stream("a", StreamStatus::Deleting, 1..3, [1, 2, 3]), [3, 4]);
    let view = view(5, vec![stream]);
    let steps = |present: &[u64]| {
        let present = ids(present);
        steps(&view, |_| false, |group| present.contains(&group)).len()
    };
    assert_eq!((steps(&[4]), steps(&[5])), (0, 1));
}

/// A group led here whose preferred leader, node 2, has everything.
fn guest(group: u64) -> Guest {
    let status = Status {
        leader: Some(ME),
        term: 5,
        members: [1, 2, 3].map(NodeId).to_vec(),
        last_index: Some(10),
        matched: vec![(NodeId(2), Some(10)), (NodeId(3), Some(4))],
        silent_ms: vec![(NodeId(2), Some(30)), (NodeId(3), None)],
        quorum_ack_age_ms: Some(30),
        ..Status::default()
    };
    Guest { group: GroupId(group), preferred: NodeId(2), status }
}

struct Clock(Instant);

impl Clock {
    fn at(&self, ms: u64) -> Instant {
        self.0 + Duration::from_millis(ms)
    }
}

fn balance() -> (Balance, Clock) {
    (Balance::new(Duration::from_millis(5_000)), Clock(Instant::now()))
}

#[tokio::test(start_paused = true)]
async fn leadership_returns_once_the_preferred_leader_kept_up_long_enough() {
    let (mut balance, clock) = balance();
    for ms in [0, 2_000, 4_999] {
        assert_eq!(balance.look(&[guest(4)], clock.at(ms)), None, "at {ms}");
    }
    assert_eq!(balance.look(&[guest(4)], clock.at(5_000)), Some((GroupId(4), NodeId(2))));
}

#[tokio::test(start_paused = true)]
async fn any_break_starts_the_wait_anew() {
    type Break = fn(&mut Status);
    let breaks: [(&str, Break); 7] = [
        ("lags", |s| s.matched[0].1 = Some(9)),
        ("lag unknown", |s| s.matched[0].1 = None),
        ("not listed", |s| s.matched.retain(|m| m.0 != NodeId(2))),
        ("silent", |s| s.silent_ms[0].1 = Some(2_001)),
        ("no quorum", |s| s.quorum_ack_age_ms = Some(2_001)),
        ("no member", |s| s.members.retain(|&node| node != NodeId(2))),
        ("another term", |s| s.term += 1),
    ];
    for (what, spoil) in breaks {
        let (mut balance, clock) = balance();
        assert_eq!(balance.look(&[guest(4)], clock.at(0)), None);
        let mut broken = guest(4);
        spoil(&mut broken.status);
        assert_eq!(balance.look(&[broken], clock.at(4_000)), None);
        assert_eq!(balance.look(&[guest(4)], clock.at(5_000)), None, "{what}");
        assert_eq!(balance.look(&[guest(4)], clock.at(9_999)), None, "{what}");
        assert!(balance.look(&[guest(4)], clock.at(10_000)).is_some(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn under_load_a_replica_keeps_up_when_it_has_what_the_leader_had() {
    // The first look has nothing to compare with, so the wait begins with the second, at 500 ms.
    for (behind, moved) in [(1_000, vec![11]), (1_001, vec![])] {
        let (mut balance, clock) = balance();
        let mut look = |step: u64| {
            let mut busy = guest(4);
            busy.status.last_index = Some(1_000 * (step + 2));
            busy.status.matched[0].1 = Some(1_000 * (step + 2) - behind);
            balance.look(&[busy], clock.at(500 * step)).is_some()
        };
        let found: Vec<u64> = (0..=11).filter(|&step| look(step)).collect();
        assert_eq!(found, moved, "{behind} entries behind, 1000 entries a look");
    }
}

#[tokio::test(start_paused = true)]
async fn one_group_moves_at_a_time() {
    let (mut balance, clock) = balance();
    let both = [guest(9), guest(4)];
    assert_eq!(balance.look(&both, clock.at(0)), None);
    assert_eq!(balance.look(&both, clock.at(6_000)), Some((GroupId(4), NodeId(2))));
    assert_eq!(balance.look(&both, clock.at(6_500)), None, "4 is still on its way");
    assert_eq!(balance.look(&[guest(9)], clock.at(7_000)), Some((GroupId(9), NodeId(2))));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_take_over_is_left_in_peace_longer_and_longer() {
    let (mut balance, clock) = balance();
    let mut attempts = Vec::new();
    for ms in (0..60_000).step_by(500) {
        if balance.look(&[guest(4)], clock.at(ms)).is_some() {
            attempts.push(ms);
        }
    }
    // Attempt at 5 s, given up at 8 s, 10 s of peace; at 18 s, given up at 21 s, 20 s of peace; 41
    // s ...
    assert_eq!(attempts, [5_000, 18_000, 41_000]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_hand_over_counts_as_a_failure() {
    let (mut balance, clock) = balance();
    balance.look(&[guest(4)], clock.at(0));
    assert!(balance.look(&[guest(4), guest(5)], clock.at(5_000)).is_some());
    balance.failed(clock.at(5_000));
    assert_eq!(balance.look(&[guest(4), guest(5)], clock.at(14_999)), None);
    assert!(balance.look(&[guest(4), guest(5)], clock.at(15_000)).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_was_refused_comes_after_the_others() {
    let (mut balance, clock) = balance();
    let mut asked = Vec::new();
    for ms in (0..30_000).step_by(500) {
        if let Some((group, _)) = balance.look(&[guest(4), guest(9)], clock.at(ms)) {
            asked.push(group.0);
            balance.failed(clock.at(ms));
        }
    }
    assert_eq!(asked, [4, 9]);
}

#[test]
fn guests_are_groups_led_here_that_prefer_another() {
    let view = view(
        9,
        vec![
            stream("a", StreamStatus::Active, 1..3, [2, 1, 3]),
            stream("mine", StreamStatus::Active, 3..4, [1, 2, 3]),
            splitting(stream("splitting", StreamStatus::Updating, 10..12, [2, 1, 3]), [12, 13]),
            stream("leaving", StreamStatus::Deleting, 4..5, [2, 1, 3]),
            stream("closed-here", StreamStatus::Active, 5..6, [2, 1, 3]),
        ],
    );
    let status = |group: GroupId| {
        let leader = if group == GroupId(2) { NodeId(3) } else { ME };
        (group.0 != 5).then(|| Status { leader: Some(leader), ..Status::default() })
    };
    let found: Vec<_> = guests(ME, &view, status).iter().map(|g| (g.group, g.preferred)).collect();
    assert_eq!(found, [1, 11].map(|group| (GroupId(group), NodeId(2))));
}
