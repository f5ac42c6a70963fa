//! Groups of one member, whose machine refuses on demand.

mod door;
mod overtaken;

use bytes::Bytes;

use super::*;
use crate::disk::{Disk, Open, SimulatedDisk};
use crate::entropy::OsEntropy;
use crate::log::{self, EntryId};
use crate::net::{Net, TcpNet};
use crate::raft::MachineError;
use crate::roster::Member;
use tristream_proto::wire;

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

    fn restore(&mut self, from: Bytes) -> Result<(), MachineError> {
        let count = from[..].try_into().map_err(|_| MachineError("no count".to_owned()))?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}

async fn groups(tasks: &Tasks) -> Groups {
    groups_on(&SimulatedDisk::new(), tasks).await
}

async fn groups_on(disk: &SimulatedDisk, tasks: &Tasks) -> Groups {
    let me = Member {
        node: NodeId(1),
        az: "az-a".to_owned(),
        peer: "127.0.0.1:1".to_owned(),
        kinesis: String::new(),
    };
    let roster = Roster { cluster: "c".to_owned(), me: NodeId(1), members: vec![me] };
    groups_of(disk, &roster, tasks).await
}

async fn groups_of(disk: &SimulatedDisk, roster: &Roster, tasks: &Tasks) -> Groups {
    let config = log::Config {
        segment_bytes: 1 << 20,
        tail_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        ..log::Config::new("log".into())
    };
    let (disk, metrics) = (Arc::new(disk.clone()), Arc::new(Metrics::new()));
    let log = Log::open(config, disk, Arc::new(OsEntropy), tasks.clone(), metrics.clone()).await;
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let peers = Peers::new(&net, roster).expect("peers");
    let config = Config {
        heartbeat: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(200),
        election_timeout_max: Duration::from_millis(300),
    };
    let log = log.expect("an empty log opens");
    Groups::new(&config, log, &peers, roster, &OsEntropy, tasks.clone(), metrics).expect("groups")
}

/// Opens a group of one, lets it count one command, and gives it one it does not know.
async fn break_group(groups: &Groups, id: GroupId) {
    let group = groups.open(id, Counter::default(), &[NodeId(1)]).await.expect("opens");
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

const LONG: Duration = Duration::from_secs(60);

/// What node 2, leader of term 5, sends of its state as of entry 40: 33 commands counted.
fn snapshot(group: u64) -> wire::GroupSnapshot {
    let membership = r#"{"configs":[[1,2,3]],"nodes":[1,2,3]}"#.as_bytes().to_vec();
    let head = serde_json::to_vec(&((5, 2, 3), membership)).expect("a head");
    let state = [&(head.len() as u32).to_le_bytes()[..], &head, &33u64.to_le_bytes()].concat();
    wire::GroupSnapshot {
        group,
        vote: Some(wire::RaftVote { term: 5, node: 2, committed: true }),
        last: Some(wire::LogId { term: 4, node: 3, index: 40 }),
        state: state.into(),
        cluster: "c".to_owned(),
    }
}

#[tokio::test]
async fn a_replica_goes_on_from_a_checkpoint_that_a_leader_sends_also_after_a_restart() {
    let (disk, tasks, id) = (SimulatedDisk::new(), Tasks::new(), GroupId(7));
    let groups = groups_on(&disk, &tasks).await;
    let group = groups.open(id, Counter::default(), &[]).await.expect("opens");
    let inbound = crate::raft::Inbound::new(groups.clone(), "c".to_owned());
    let answer = inbound.install_snapshot(snapshot(7)).await.expect("taken");
    assert_eq!(answer.vote.map(|vote| (vote.term, vote.node)), Some((5, 2)));
    let is_there = |group: &Group<Counter>| {
        assert_eq!(group.inspect(|machine| machine.0), 33);
        assert_eq!(*group.applied().borrow(), Some(40));
        assert_eq!((group.checkpointed(), group.purged()), (Some(40), Some(40)));
    };
    is_there(&group);
    let again = inbound.install_snapshot(snapshot(7)).await.expect("a repeated one does nothing");
    assert_eq!(again.vote, answer.vote);
    let members = async {
        while group.status().members != [1, 2, 3].map(NodeId) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, members).await.expect("the members come with it");
    // A leader that was deposed is told so, and changes nothing.
    let mut old = snapshot(7);
    old.vote = Some(wire::RaftVote { term: 4, node: 3, committed: true });
    old.last = Some(wire::LogId { term: 4, node: 3, index: 50 });
    let refused = inbound.install_snapshot(old).await.expect("answers");
    assert_eq!(refused.vote.map(|vote| vote.term), Some(5));
    is_there(&group);

    groups.close_all().await;
    tasks.shutdown().await;
    let (disk, tasks) = (disk.restarted(), Tasks::new());
    let groups = groups_on(&disk, &tasks).await;
    is_there(&groups.open(id, Counter::default(), &[]).await.expect("opens"));
}

#[tokio::test]
async fn what_is_no_checkpoint_is_not_let_near_a_group() {
    use tonic::Code;
    let tasks = Tasks::new();
    let groups = groups(&tasks).await;
    let group = groups.open(GroupId(7), Counter::default(), &[]).await.expect("opens");
    let inbound = crate::raft::Inbound::new(groups.clone(), "c".to_owned());
    let (good, mut bad) = (snapshot(7), vec![]);
    bad.push((
        wire::GroupSnapshot { cluster: "d".to_owned(), ..good.clone() },
        Code::FailedPrecondition,
    ));
    bad.push((wire::GroupSnapshot { vote: None, ..good.clone() }, Code::InvalidArgument));
    bad.push((wire::GroupSnapshot { last: None, ..good.clone() }, Code::InvalidArgument));
    bad.push((
        wire::GroupSnapshot { state: good.state.slice(..9), ..good.clone() },
        Code::InvalidArgument,
    ));
    bad.push((snapshot(8), Code::NotFound));
    for (message, code) in bad {
        let refused = inbound.install_snapshot(message).await;
        assert_eq!(refused.map_err(|status| status.code()), Err(code));
    }
    assert_eq!((*group.applied().borrow(), group.status().stopped), (None, None));
}

#[tokio::test]
async fn a_replica_that_voted_before_it_got_an_entry_knows_its_members_all_the_same() {
    let (tasks, id) = (Tasks::new(), GroupId(7));
    let groups = groups(&tasks).await;
    let founders = [2, 1, 3].map(NodeId);
    let group = groups.open(id, Counter::default(), &founders).await.expect("opens");
    let inbound = crate::raft::Inbound::new(groups.clone(), "c".to_owned());
    // Node 2 asks for a vote, and is never heard of again.
    let request = wire::GroupVote {
        group: 7,
        vote: Some(wire::RaftVote { term: 1, node: 2, committed: false }),
        last: Some(wire::LogId { term: 0, node: 2, index: 0 }),
        cluster: "c".to_owned(),
        ..Default::default()
    };
    let answer = inbound.vote(request).await.expect("answers");
    assert!(answer.granted, "{answer:?}");
    assert_eq!(
        group.status().members,
        [1, 2, 3].map(NodeId),
        "with node 3 it could elect a leader"
    );
    // What it wrote is what every replica writes, also when it is opened a second time.
    assert_eq!(group.status().last_index, Some(0));
    groups.close(id).await;
    let group = groups.open(id, Counter::default(), &founders).await.expect("opens");
    let knows = async {
        while (group.status().last_index, group.status().term) != (Some(0), 1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, knows).await.expect("its vote and its entry are there");
    assert_eq!(group.purged(), None);
}

/// Flips a bit of the first `bytes` in a segment that has them.
async fn rot(disk: &SimulatedDisk, bytes: &str) {
    for segment in 1..9 {
        let path = std::path::PathBuf::from(format!("log/{segment:010}.seg"));
        let Ok(file) = disk.open(&path, Open::Existing) else { continue };
        let all = file.read_at(0, file.len().expect("a length") as usize).await.expect("readable");
        let at = all.windows(bytes.len()).position(|window| window == bytes.as_bytes());
        if let Some(at) = at {
            return disk.flip_bit(&path, at as u64, 1).expect("flipped");
        }
    }
    panic!("{bytes} is in no segment");
}

/// Its peers may have purged the entry, and then nobody will ever hold it.
#[tokio::test]
async fn what_the_state_covers_need_not_be_intact_for_a_group_to_open() {
    let (disk, tasks, id) = (SimulatedDisk::new(), Tasks::new(), GroupId(7));
    let groups = groups_on(&disk, &tasks).await;
    let group = groups.open(id, Counter::default(), &[NodeId(1)]).await.expect("opens");
    group.watch_leader().wait_for(|now| now.ready_here).await.expect("leads");
    let mut last = None;
    for command in 0..8 {
        let command = Bytes::from(format!("command {command}"));
        let done = group.propose(command, None).await.expect("taken").await.expect("applied");
        last = Some(done.0);
    }
    group.checkpoint().await.expect("taken");
    groups.close_all().await;
    groups.inner.log.close().await.expect("closes");
    tasks.shutdown().await;
    // The entry that founded the group comes first; where leaders change is searched for in the middle.
    for rots in ["configs", "command 1", "command 2", "command 3", "command 6"] {
        let (disk, tasks) = (disk.restarted(), Tasks::new());
        rot(&disk, rots).await;
        let groups = groups_on(&disk, &tasks).await;
        let opens = groups.open(id, Counter::default(), &[]);
        let group = tokio::time::timeout(LONG, opens).await.expect("in time");
        let group = group.unwrap_or_else(|error| panic!("{rots} rots: {error:#}"));
        assert_eq!(group.inspect(|machine| machine.0), 8);
        assert_eq!(group.inner.log.state().last, last);
        let read = group.read(0, 1 << 20).await;
        assert!(read.is_err(), "nobody is given anything else for it: {read:?}");
        groups.close_all().await;
        tasks.shutdown().await;
    }
}
