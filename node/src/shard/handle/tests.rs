//! Shards of real groups with one member, on a simulated disk: a whole handover, and after a
//! restart.

mod trimming;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tristream_proto::domain::{GroupId, NodeId, ShardId, Timestamp};

use super::*;
use crate::clock::Clock;
use crate::disk::SimulatedDisk;
use crate::entropy::OsEntropy;
use crate::log::{self, Log};
use crate::net::{Net, Peers, TcpNet};
use crate::raft::{self, Groups};
use crate::roster::{Member, Roster};
use crate::shard::testing::{child, records, sent, shard};
use crate::shard::{Opening, Shards};
use crate::tasks::Tasks;

const ME: NodeId = NodeId(1);
const LONG: Duration = Duration::from_secs(60);
/// In milliseconds: a little after the shards' creation.
const NOW: u64 = 1_790_000_005_000;

/// Stands still until it is set.
struct StillClock(AtomicU64);

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

struct Bench {
    disk: SimulatedDisk,
    log: Log,
    tasks: Tasks,
    groups: Groups,
    shards: Shards,
    clock: Arc<StillClock>,
}

async fn bench(disk: SimulatedDisk) -> Bench {
    let config = log::Config {
        segment_bytes: 1 << 20,
        tail_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        ..log::Config::new("log".into())
    };
    let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
    let entropy = Arc::new(OsEntropy);
    let log = Log::open(config, Arc::new(disk.clone()), entropy, tasks.clone(), metrics.clone());
    let log = log.await.expect("the log opens");
    let me = Member {
        node: ME,
        az: "az-a".to_owned(),
        peer: "127.0.0.1:1".to_owned(),
        kinesis: String::new(),
    };
    let roster = Roster { cluster: "c".to_owned(), me: ME, members: vec![me] };
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let peers = Peers::new(&net, &roster).expect("peers");
    let config = raft::Config {
        heartbeat: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(200),
        election_timeout_max: Duration::from_millis(300),
    };
    let (of_log, of_tasks) = (log.clone(), tasks.clone());
    let groups =
        Groups::new(&config, of_log, &peers, &roster, &OsEntropy, of_tasks, metrics.clone());
    let groups = groups.expect("groups");
    let clock = Arc::new(StillClock(AtomicU64::new(NOW)));
    let shards = Shards::new(
        groups.clone(),
        ME,
        clock.clone(),
        tasks.clone(),
        metrics,
        Duration::from_secs(600),
    );
    Bench { disk, log, tasks, groups, shards, clock }
}

impl Bench {
    async fn open(&self, id: u32, shard: &Shard) -> Handle {
        let (id, group) = (ShardId::from(id), GroupId(100 + u64::from(id)));
        let shard = Shard { id, group, replicas: vec![ME], ..shard.clone() };
        let handle = self.shards.open(&shard, true).await.expect("opens");
        let mut leader = handle.inner.leader.clone();
        let leads = timeout(LONG, leader.wait_for(|now| now.ready_here)).await;
        leads.expect("in time").expect("leads");
        handle
    }

    async fn restarted(self) -> Bench {
        self.groups.close_all().await;
        self.log.close().await.expect("closes");
        self.tasks.shutdown().await;
        bench(self.disk.restarted()).await
    }
}

async fn put(handle: &Handle, records: Vec<Record>) -> Vec<SequenceNumber> {
    handle.append(records, LONG).await.expect("stored")
}

async fn keys(handle: &Handle) -> (Vec<String>, Page) {
    let page = handle.read(RecordPosition::default(), 100, usize::MAX).await.expect("readable");
    let key =
        |record: &tristream_proto::domain::StoredRecord| record.partition_key.as_str().to_owned();
    (page.records.iter().map(key).collect(), page)
}

/// Two parents, each with a call, handed over to the child that merges them.
async fn merge(bench: &Bench) -> [Handle; 3] {
    let parents = [bench.open(3, &shard()).await, bench.open(4, &shard()).await];
    let merged = bench.open(5, &child(&[3, 4])).await;
    put(&parents[0], sent(7, &[0, 1])).await;
    put(&parents[1], sent(8, &[0])).await;
    assert_eq!(merged.creation_second(), None);
    let mut copied = vec![];
    for parent in &parents {
        let part = parent.window(0).await.expect("leads");
        assert!(!part.more);
        copied.push(part.upto);
        let inheritance = Inheritance { parts: vec![part], opening: None };
        let inherited = merged.inherit(inheritance, LONG).await.expect("inherits");
        assert!(!inherited.opened);
    }
    // What comes between the copy and the seal comes with the seal.
    put(&parents[0], sent(9, &[0])).await;
    let mut inheritance = Inheritance::default();
    let (mut closed, mut last_arrival, mut ends) = (0, Timestamp(0), vec![]);
    for (parent, upto) in parents.iter().zip(copied) {
        let (sealed, part) = parent.seal(upto, LONG).await.expect("seals");
        let (again, _) = parent.seal(upto, LONG).await.expect("seals");
        assert_eq!(again, sealed);
        closed = closed.max(sealed.closed_second);
        last_arrival = last_arrival.max(sealed.last_arrival);
        ends.push((parent.shard().id, sealed.end));
        inheritance.parts.push(part);
    }
    inheritance.opening =
        Some(Opening { creation_second: closed + 1, last_arrival, parents: ends.clone() });
    let too_soon = Inheritance { parts: vec![], ..inheritance.clone() };
    assert!(!merged.inherit(too_soon, LONG).await.expect("answers").opened, "parts are missing");
    for _ in 0..2 {
        let inherited = merged.inherit(inheritance.clone(), LONG).await.expect("opens");
        assert!(inherited.opened);
        let reached = |&(id, end)| inherited.upto.iter().any(|&(p, upto)| p == id && upto >= end);
        assert!(ends.iter().all(reached), "{inherited:?}");
    }
    let [left, right] = parents;
    [left, right, merged]
}

async fn check(handles: &[Handle; 3]) {
    let [left, right, merged] = handles;
    for (parent, expected) in [(left, vec!["7.0", "7.1", "9.0"]), (right, vec!["8.0"])] {
        let (found, page) = keys(parent).await;
        assert_eq!(found, expected);
        assert!(page.at_end && page.at_tip);
        assert_eq!(parent.records(), expected.len() as u64);
        let newest = page.records.last().map(|record| record.sequence_number);
        assert_eq!(parent.last_sequence_number(), newest);
        let latest = parent.seek(ReadFrom::Latest).await.expect("a position");
        let page = parent.read(latest, 10, 100).await.expect("readable");
        assert!(page.records.is_empty() && page.at_end);
        let refused = parent.append(records(&["late"]), LONG).await;
        assert_eq!(refused, Err(AppendError::Sealed));
    }
    let again = put(merged, [sent(7, &[0, 1]), sent(8, &[0]), sent(9, &[0])].concat()).await;
    let shards: Vec<u32> = again.iter().map(|number| number.shard.index()).collect();
    assert_eq!(shards, [3, 3, 4, 3]);
    let (_, page) = keys(left).await;
    assert_eq!(again[1], page.records[1].sequence_number);
    assert_eq!(merged.creation_second(), Some(NOW / 1_000 + 1));
}

#[tokio::test]
async fn a_merge_hands_everything_over_and_a_restart_changes_nothing() {
    let bench = bench(SimulatedDisk::new()).await;
    let handles = merge(&bench).await;
    check(&handles).await;
    let merged = &handles[2];
    assert_eq!((merged.records(), merged.last_sequence_number()), (0, None));
    let first = put(merged, sent(1, &[0])).await;
    assert_eq!(Some(first[0].creation_second), merged.creation_second());
    assert_eq!(keys(merged).await.0, ["1.0"]);
    let time = ReadFrom::Time(Timestamp(NOW));
    assert_eq!(merged.seek(time).await, Ok(first[0].position()));

    let bench = bench.restarted().await;
    let handles = [
        bench.open(3, &shard()).await,
        bench.open(4, &shard()).await,
        bench.open(5, &child(&[3, 4])).await,
    ];
    check(&handles).await;
    assert_eq!(put(&handles[2], sent(1, &[0])).await, first);
    assert_eq!(keys(&handles[2]).await.0, ["1.0"]);
    // Its parents are not needed any more.
    handles[0].retire();
    let refused = handles[0].append(sent(7, &[0]), LONG).await;
    assert_eq!(refused, Err(AppendError::Sealed), "it has forgotten, and refuses all the same");
    handles[2].retire();
    assert_eq!(put(&handles[2], sent(7, &[0])).await[0].shard.index(), 3, "it is open: no effect");
}

#[tokio::test]
async fn what_cannot_be_read_is_not_inherited() {
    let bench = bench(SimulatedDisk::new()).await;
    let merged = bench.open(5, &child(&[3, 4])).await;
    let rows = bytes::Bytes::from_static(b"?");
    let part = WindowPart { parent: ShardId::from(3), upto: 4, rows, ..WindowPart::default() };
    let inheritance = Inheritance { parts: vec![part], opening: None };
    let refused = merged.inherit(inheritance, LONG).await;
    assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
    let waits = merged.append(records(&["k"]), LONG).await;
    assert!(matches!(waits, Err(AppendError::Unavailable(_))), "{waits:?}");
}
