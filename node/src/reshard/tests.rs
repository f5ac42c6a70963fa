//! The saga and its driver against a made-up cluster that fails at every call in turn.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::timeout;
use tristream_proto::domain::{GroupId, NodeId, Shard, ShardId, ShardMap, Timestamp};

use super::driver::Driver;
use super::testing::{Fake, Fault, begin, stream};
use super::{expire, while_leading};
use crate::metadata::{Command, Stream, StreamStatus, View, plan};
use crate::metrics::Metrics;
use crate::raft::Leadership;

const LONG: Duration = Duration::from_secs(600);

fn split() -> Stream {
    let mut stream = stream(2);
    begin(&mut stream, &[1]);
    stream
}

fn merge() -> Stream {
    let mut stream = stream(2);
    begin(&mut stream, &[0, 1]);
    stream
}

fn driver(fake: &Arc<Fake>) -> Driver<Arc<Fake>> {
    Driver::new(fake.views(), fake.clone(), Arc::new(Metrics::new()))
}

/// Drives until `done` of the view, with a new driver after every crash.
async fn drive(fake: &Arc<Fake>, done: impl Fn(&Stream) -> bool) {
    let mut views = fake.views();
    let done = views.wait_for(|view| view.streams.values().all(|stream| done(stream)));
    let drive = async {
        loop {
            let driver = driver(fake);
            tokio::select! {
                () = driver.drive() => {}
                () = fake.crashed.notified() => {}
            }
        }
    };
    tokio::select! {
        done = timeout(LONG, done) => match done {
            Ok(done) => drop(done.expect("the view lives")),
            Err(_) => panic!("not in time: {:?}", fake.views().borrow().streams),
        },
        () = drive => {}
    }
}

async fn finish(fake: &Arc<Fake>) {
    drive(fake, |stream| stream.reshards.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_reshard_passes_its_points_in_order() {
    for stream in [split(), merge()] {
        let fake = Arc::new(Fake::new(stream, None));
        let mut views = fake.views();
        let driver = driver(&fake);
        tokio::select! {
            () = driver.drive() => {}
            () = tokio::time::sleep(LONG) => {}
        }
        assert!(views.borrow_and_update().streams.values().all(|s| s.reshards.is_empty()));
        let points = ["begun", "children_open", "window_copied", "sealed", "opened", "published"];
        let reached = fake.points();
        assert_eq!(reached, points.map(|point| format!("reshard.{point}")));
        assert_eq!(fake.published(), [(ShardId::from(2), 1_001)]);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_call_fails_the_reshard_completes_and_is_published_once_all_are_open() {
    // That nothing is published before every child has opened, with the same opening each time, is
    // judged by the fake cluster.
    for stream in [split(), merge()] {
        let whole = Arc::new(Fake::new(stream.clone(), None));
        finish(&whole).await;
        let calls = whole.calls();
        assert!(calls > 8, "{calls} calls");
        for fault in [Fault::Lost, Fault::Unheard, Fault::Crash] {
            for at in 0..calls {
                let fake = Arc::new(Fake::new(stream.clone(), Some((at, fault))));
                finish(&fake).await;
                let published = fake.published();
                assert_eq!(published.len(), 1, "call {at} {fault:?}: {published:?}");
                let unheard = fault != Fault::Lost && at + 1 == calls;
                assert!(fake.calls() > calls || unheard, "call {at} {fault:?} was not repeated");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn parents_that_lead_the_clock_are_sealed_when_it_has_reached_them() {
    for (ahead, creation_second) in [(1_001, 1_002), (4_000, 4_001)] {
        let mut stream = split();
        let set = |shard: &Shard| Shard { creation_second: ahead, ..shard.clone() };
        let shards = stream.map.shards().iter().map(set).collect();
        stream.map = ShardMap::new(stream.map.version(), shards).expect("tiles");
        let fake = Arc::new(Fake::new(stream, None));
        finish(&fake).await;
        assert_eq!(fake.published(), [(ShardId::from(2), creation_second)]);
    }
}

#[tokio::test(start_paused = true)]
async fn stuck_reshards_hold_nobody_and_are_never_given_up() {
    let mut stream = stream(40);
    let ids: Vec<ShardId> = (0..40).map(|parent| begin(&mut stream, &[parent])).collect();
    let (stuck, well) = ids.split_at(30);
    let groups: Vec<GroupId> =
        stream.reshards[..30].iter().map(|reshard| reshard.children[1].group).collect();
    let fake = Arc::new(Fake::new(stream, None));
    fake.shut(groups.into_iter());
    drive(&fake, |stream| stream.reshards.len() == 30).await;
    let published: BTreeSet<ShardId> = fake.published().into_iter().map(|(id, _)| id).collect();
    assert_eq!(published, well.iter().copied().collect());

    let mut views = fake.views();
    let driver = driver(&fake);
    let healed = async {
        tokio::time::sleep(LONG / 10).await;
        fake.shut(std::iter::empty());
        let all = views.wait_for(|v| v.streams.values().all(|s| s.reshards.is_empty()));
        timeout(LONG, all).await.expect("in time").expect("the view lives");
    };
    tokio::select! {
        () = driver.drive() => {}
        () = healed => {}
    }
    assert_eq!(fake.published().len(), stuck.len() + well.len());
}

#[tokio::test(start_paused = true)]
async fn few_hand_over_at_a_time_and_more_than_one() {
    let mut stream = stream(40);
    for parent in 0..40 {
        begin(&mut stream, &[parent]);
    }
    let fake = Arc::new(Fake::new(stream, None));
    finish(&fake).await;
    assert_eq!(fake.handing_over_max(), 4);
}

#[tokio::test(start_paused = true)]
async fn work_on_a_stream_that_is_deleted_ends() {
    let stream = split();
    let shut: Vec<GroupId> = stream.reshards[0].children.iter().map(|child| child.group).collect();
    let fake = Arc::new(Fake::new(stream, None));
    fake.shut(shut.into_iter());
    let driver = driver(&fake);
    let delete = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fake.change(|stream| stream.status = StreamStatus::Deleting);
        tokio::time::sleep(Duration::from_secs(1)).await;
        fake.shut(std::iter::empty());
        tokio::time::sleep(LONG).await;
    };
    tokio::select! {
        () = driver.drive() => {}
        () = delete => {}
    }
    assert_eq!((fake.calls(), fake.published()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn goals_are_reached_whatever_call_fails() {
    for (shards, target, every) in [(2, 5, 3), (5, 2, 3), (40, 80, 97)] {
        let mut stream = stream(shards);
        stream.status = StreamStatus::Updating;
        stream.goal = Some(plan::goal(&stream.map, target));
        let whole = Arc::new(Fake::new(stream.clone(), None));
        drive(&whole, |stream| stream.goal.is_none()).await;
        for fault in [Fault::Lost, Fault::Crash] {
            for at in (0..whole.calls()).step_by(every) {
                let fake = Arc::new(Fake::new(stream.clone(), Some((at, fault))));
                drive(&fake, |stream| stream.goal.is_none()).await;
                assert_eq!(fake.published().len(), whole.published().len());
            }
        }
    }
}

#[test]
fn closed_shards_expire_when_the_retention_is_over_to_the_second() {
    let mut stream = stream(1);
    let open = stream.map.shards()[0].clone();
    let closed = |id: u32, closed_second| Shard {
        id: ShardId::from(id),
        closed_second: Some(closed_second),
        ..open.clone()
    };
    let newest = Shard { id: ShardId::from(9), ..open.clone() };
    let shards = vec![closed(0, 100), closed(1, 101), newest];
    stream.map = ShardMap::new(stream.map.version(), shards).expect("tiles");
    let due_when = |stream: &Stream, second: u64, retention, is_empty: fn(&Shard) -> bool| {
        let mut view = View::default();
        view.streams.insert(stream.name.clone(), Arc::new(stream.clone()));
        let dropped = |command: Command| match command {
            Command::ExpireShards { shards, .. } => shards,
            other => panic!("not expected: {other:?}"),
        };
        let due = expire::due(&view, Timestamp(second * 1000 + 999), retention, is_empty);
        due.into_iter().flat_map(dropped).map(|id| id.index()).collect::<Vec<_>>()
    };
    let due = |stream: &Stream, second, retention| due_when(stream, second, retention, |_| true);
    let day = 24 * 3600;
    for (retention, seconds) in [(None, day), (Some(5), 5), (Some(0), 0)] {
        assert_eq!(due(&stream, 100 + seconds, retention), [0; 0]);
        assert_eq!(due(&stream, 101 + seconds, retention), [0]);
        assert_eq!(due(&stream, 102 + seconds, retention), [0, 1]);
        assert_eq!(due(&stream, u64::MAX / 2000, retention), [0, 1], "open shards stay");
        let first_is_empty = |shard: &Shard| shard.id == ShardId::from(0);
        let due = due_when(&stream, 102 + seconds, retention, first_is_empty);
        assert_eq!(due, [0], "the other one's records were not trimmed yet");
    }
    // A reader at the end of a parent waits for its children: they must not go first.
    let child = Shard { parents: vec![ShardId::from(0)], ..closed(1, 101) };
    let shards = vec![closed(0, 100), child, stream.map.shards()[2].clone()];
    stream.map = ShardMap::new(stream.map.version(), shards).expect("tiles");
    let child_is_empty = |shard: &Shard| shard.id == ShardId::from(1);
    assert_eq!(due_when(&stream, 200, Some(5), child_is_empty), [0; 0]);
    assert_eq!(due(&stream, 200, Some(5)), [0, 1], "both at once");
    stream.status = StreamStatus::Deleting;
    assert_eq!(due(&stream, u64::MAX / 2000, None), [0; 0]);
}

#[tokio::test]
async fn work_is_done_by_a_ready_leader_only_and_anew_in_every_term() {
    struct Running<'a>(&'a AtomicUsize);
    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (begun, running) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (leader, watched) = watch::channel(Leadership::default());
    let work = || {
        async {
            begun.fetch_add(1, Ordering::SeqCst);
            running.fetch_add(1, Ordering::SeqCst);
            let _running = Running(&running);
            std::future::pending().await
        }
        .boxed()
    };
    let script = async {
        let say = async |term, ready_here| {
            leader.send_replace(Leadership { leader: Some(NodeId(1)), term, ready_here });
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            (begun.load(Ordering::SeqCst), running.load(Ordering::SeqCst))
        };
        assert_eq!(say(1, false).await, (0, 0));
        assert_eq!(say(1, true).await, (1, 1));
        assert_eq!(say(1, true).await, (1, 1));
        assert_eq!(say(2, true).await, (2, 1));
        assert_eq!(say(3, false).await, (2, 0));
        assert_eq!(say(4, true).await, (3, 1));
    };
    tokio::select! {
        () = while_leading(watched, work) => panic!("it ended"),
        () = script => {}
    }
}
