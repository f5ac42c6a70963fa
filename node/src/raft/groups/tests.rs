//! Groups of one member, whose machine refuses on demand.

use bytes::Bytes;

use super::*;
use crate::disk::SimulatedDisk;
use crate::entropy::OsEntropy;
use crate::log::{self, EntryId};
use crate::net::{Net, TcpNet};
use crate::raft::MachineError;
use crate::roster::Member;

/// Counts commands; one that says "bad" it does not know.
#[derive(Default)]
struct Counter(u64);

impl Machine for Counter {
    type Reply = u64;

    fn apply(&mut self, _: EntryId, command: &Bytes) -> Result<u64, MachineError> {
        if command == "bad" {
            return Err(MachineError("an unknown command".to_owned()));
        }
        self.0 += 1;
        Ok(self.0)
    }

    fn checkpoint(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn restore(&mut self, _: Bytes) -> Result<(), MachineError> {
        Err(MachineError("there are no checkpoints here".to_owned()))
    }
}

async fn groups(tasks: &Tasks) -> Groups {
    let config = log::Config {
        segment_bytes: 1 << 20,
        tail_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        ..log::Config::new("log".into())
    };
    let (disk, metrics) = (Arc::new(SimulatedDisk::new()), Arc::new(Metrics::new()));
    let log = Log::open(config, disk, Arc::new(OsEntropy), tasks.clone(), metrics.clone()).await;
    let me = Member {
        node: NodeId(1),
        az: "az-a".to_owned(),
        peer: "127.0.0.1:1".to_owned(),
        kinesis: String::new(),
    };
    let roster = Roster { cluster: "c".to_owned(), me: NodeId(1), members: vec![me] };
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let peers = Peers::new(&net, &roster).expect("peers");
    let config = Config {
        heartbeat: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(200),
        election_timeout_max: Duration::from_millis(300),
    };
    let log = log.expect("an empty log opens");
    Groups::new(&config, log, &peers, &roster, &OsEntropy, tasks.clone(), metrics).expect("groups")
}

/// Opens a group of one, lets it count one command, and gives it one it does not know.
async fn break_group(groups: &Groups, id: GroupId) {
    let group = groups.open(id, Counter::default()).await.expect("opens");
    groups.initialize(id, &[NodeId(1)]).await.expect("initialises");
    let mut leader = group.watch_leader();
    leader.wait_for(|now| now.ready_here).await.expect("leads");
    let counted = group.propose(Bytes::from_static(b"good"), None).await.expect("taken").await;
    assert_eq!(counted.expect("counted").1, 1);
    let refused = group.propose(Bytes::from_static(b"bad"), None).await.expect("taken").await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn only_the_metadata_group_takes_the_node_with_it_when_it_stops() {
    let tasks = Tasks::new();
    let groups = groups(&tasks).await;
    break_group(&groups, GroupId(7)).await;
    let stopped = || groups.status(GroupId(7)).is_some_and(|status| status.stopped.is_some());
    while !stopped() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Longer than from one look to the next.
    let early = tokio::time::timeout(Duration::from_millis(1_500), tasks.failure()).await;
    assert!(early.is_err(), "a shard that stops is no reason to stop the node: {early:?}");
    break_group(&groups, GroupId::META).await;
    let reason = tokio::time::timeout(Duration::from_secs(60), tasks.failure()).await;
    let reason = reason.expect("the node goes on without its metadata");
    assert!(reason.starts_with("Metadata:"), "{reason}");
}
