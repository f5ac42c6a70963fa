//! The group's log is purged, on one real group of one member: nothing of the view is lost, whatever the
//! tables kept.

use std::collections::BTreeMap;

use tristream_proto::domain::{NodeId, Timestamp};

use super::*;
use crate::disk::SimulatedDisk;
use crate::entropy::OsEntropy;
use crate::log::{self, Log};
use crate::metrics::Metrics;
use crate::net::{Net, Peers, TcpNet};
use crate::raft;
use crate::roster::Member;
use crate::state::MemoryTables;

const ME: NodeId = NodeId(1);
const LONG: Duration = Duration::from_secs(60);

struct Bench {
    disk: SimulatedDisk,
    log: Log,
    tasks: Tasks,
    groups: Groups,
    handle: Handle,
}

/// Tables that survive the group: the tests' handle on them.
struct Shared(Arc<MemoryTables>);

impl Tables for Shared {
    fn applied(&self) -> io::Result<Option<bytes::Bytes>> {
        self.0.applied()
    }
    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<(bytes::Bytes, bytes::Bytes)>> {
        self.0.scan(prefix)
    }
    fn apply(&self, changes: &[crate::state::Change], applied: bytes::Bytes) -> io::Result<()> {
        self.0.apply(changes, applied)
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
    fn clear(&self) -> io::Result<()> {
        self.0.clear()
    }
    fn flush_blocks(&self) -> bool {
        false
    }
}

async fn bench(disk: SimulatedDisk, tables: &Arc<MemoryTables>) -> Bench {
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
    let groups = Groups::new(&config, of_log, &peers, &roster, &OsEntropy, of_tasks, metrics);
    let groups = groups.expect("groups");
    let tables = Box::new(Shared(tables.clone()));
    let handle = Handle::open(&groups, tables, &roster, &tasks).await.expect("opens");
    let mut leader = handle.watch_leader();
    let leads = timeout_at(Instant::now() + LONG, leader.wait_for(|now| now.ready_here)).await;
    leads.expect("in time").expect("leads");
    Bench { disk, log, tasks, groups, handle }
}

impl Bench {
    async fn restarted(self, tables: &Arc<MemoryTables>) -> Bench {
        self.groups.close_all().await;
        self.log.close().await.expect("closes");
        self.tasks.shutdown().await;
        bench(self.disk.restarted(), tables).await
    }

    async fn create(&self, name: &str) {
        let command = Command::CreateStream {
            name: name.parse().expect("a name"),
            shard_count: 1,
            mode: StreamMode::Provisioned,
            now: Timestamp(1_790_000_000_000),
            record_bytes_max: 1 << 20,
            tags: BTreeMap::new(),
            nodes: vec![ME],
        };
        let (_, outcome) = self.handle.propose(&command, LONG).await.expect("leads");
        assert_eq!(outcome, Outcome::Done);
    }

    fn names(&self) -> Vec<String> {
        self.handle.view().streams.keys().map(ToString::to_string).collect()
    }

    async fn purged_to(&self, index: u64) {
        let purged = async {
            while self.handle.group.purged() != Some(index) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout_at(Instant::now() + LONG, purged).await.expect("the log is purged in time");
    }
}

#[tokio::test]
async fn a_purged_log_leaves_the_view_whatever_the_tables_kept() {
    let tables = Arc::new(MemoryTables::new());
    let bench = bench(SimulatedDisk::new(), &tables).await;
    for name in ["a", "b", "c"] {
        bench.create(name).await;
    }
    assert_eq!(bench.handle.compact(100, LONG).await.expect("open"), None, "it is short");
    let upto = bench.handle.compact(3, LONG).await.expect("open").expect("it is long");
    bench.purged_to(upto).await;
    bench.create("d").await;
    assert_eq!(bench.handle.compact(3, LONG).await.expect("open"), None, "it is short again");

    // The tables stand where they stood.
    let bench = bench.restarted(&tables).await;
    assert_eq!(bench.names(), ["a", "b", "c", "d"]);
    assert_eq!(bench.groups.status(GroupId::META).map(|status| status.members), Some(vec![ME]));
    // They are lost: what is not in the log any more is in its checkpoint.
    let lost = Arc::new(MemoryTables::new());
    let bench = bench.restarted(&lost).await;
    assert_eq!(bench.names(), ["a", "b", "c", "d"]);
    bench.create("e").await;
    let before = bench.handle.view().next_group;
    // They are as of before the purge, as after a power loss.
    let old = Arc::new(MemoryTables::new());
    let first = crate::log::EntryId { term: 1, node: ME, index: 1 };
    old.apply(&[], rows::marker(first)).expect("rows");
    let bench = bench.restarted(&old).await;
    assert_eq!(bench.names(), ["a", "b", "c", "d", "e"]);
    assert_eq!(bench.handle.view().next_group, before);
    assert_eq!(bench.groups.status(GroupId::META).map(|status| status.members), Some(vec![ME]));
}
