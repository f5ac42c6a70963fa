//! Three nodes; what rots on one of them, the two others have purged.

use tokio_stream::wrappers::TcpListenerStream;
use tristream_proto::wire::raft_server::RaftServer;

use super::door::Door;
use super::*;
use crate::raft::Inbound;

/// Collects words. Whatever it has applied may be purged.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    applied: Option<u64>,
}

impl Machine for Words {
    type Reply = ();

    fn apply(&mut self, at: EntryId, command: &Bytes) -> Result<(), MachineError> {
        self.words.push(String::from_utf8_lossy(command).into_owned());
        self.advance(at);
        Ok(())
    }

    fn advance(&mut self, at: EntryId) {
        self.applied = Some(at.index);
    }

    fn checkpoint(&self) -> Bytes {
        format!("{:?}|collected:{}", self.applied.unwrap_or(0), self.words.join(",")).into()
    }

    fn restore(&mut self, from: Bytes) -> Result<(), MachineError> {
        let text = String::from_utf8_lossy(&from).into_owned();
        let parts = text.split_once("|collected:");
        let (applied, words) = parts.ok_or_else(|| MachineError("no words".to_owned()))?;
        self.applied = applied.parse().ok();
        self.words = words.split(',').map(str::to_owned).collect();
        Ok(())
    }

    fn purgeable(&self) -> Option<u64> {
        self.applied
    }
}

const FOUNDERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// What stays when the node restarts.
struct Seat {
    disk: SimulatedDisk,
    inbound: watch::Sender<Option<Inbound>>,
    roster: Roster,
}

struct Running {
    groups: Groups,
    tasks: Tasks,
}

#[allow(clippy::disallowed_methods)]
async fn seats() -> Vec<Seat> {
    let (mut seats, mut members) = (Vec::new(), Vec::new());
    for node in FOUNDERS {
        let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = door.local_addr().expect("bound").to_string();
        let (az, kinesis) = (format!("az-{node}"), String::new());
        members.push(Member { node, az, peer, kinesis });
        let (inbound, now) = watch::channel(None);
        let service = RaftServer::new(Door(now));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(door)));
        let roster = Roster { cluster: "c".to_owned(), me: node, members: Vec::new() };
        seats.push(Seat { disk: SimulatedDisk::new(), inbound, roster });
    }
    seats.iter_mut().for_each(|seat| seat.roster.members = members.clone());
    seats
}

impl Seat {
    async fn run(&self) -> Running {
        let tasks = Tasks::new();
        let groups = groups_of(&self.disk, &self.roster, &tasks).await;
        self.inbound.send_replace(Some(Inbound::new(groups.clone(), "c".to_owned())));
        Running { groups, tasks }
    }

    async fn stop(&mut self, running: Running) {
        running.groups.close_all().await;
        self.inbound.send_replace(None);
        running.groups.inner.log.close().await.expect("closes");
        running.tasks.shutdown().await;
        self.disk = self.disk.restarted();
    }
}

async fn leader(groups: &[Group<Words>]) -> &Group<Words> {
    loop {
        if let Some(leader) = groups.iter().find(|group| group.watch_leader().borrow().ready_here) {
            return leader;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn collect(groups: &[Group<Words>], words: std::ops::Range<u32>) {
    for word in words.clone() {
        let word = Bytes::from(format!("word {word:03}"));
        let proposal = leader(groups).await.propose(word, None).await.expect("taken");
        proposal.await.expect("applied");
    }
    for group in groups {
        has(group, words.end).await;
    }
}

async fn has(group: &Group<Words>, words: u32) {
    let all: Vec<String> = (0..words).map(|word| format!("word {word:03}")).collect();
    while group.inspect(|machine| machine.words != all) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn purge(group: &Group<Words>) {
    group.checkpoint().await.expect("taken");
    while group.purged() < group.checkpointed() {
        group.purge_trimmed(LONG).await.expect("open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Who has purged the log.
#[derive(Clone, Copy, PartialEq)]
enum PurgedBy {
    TheOthers,
    Itself,
    All,
}

/// The third node stops; something rots there; the others go on. It opens the group again at the first or second
/// attempt, knows all, and its log goes on.
async fn comes_back(id: GroupId, purged: PurgedBy, rots: &str) {
    let mut seats = seats().await;
    let mut running = Vec::new();
    for seat in &seats {
        running.push(seat.run().await);
    }
    let mut groups = Vec::new();
    for node in &running {
        groups.push(node.groups.open(id, Words::default(), &FOUNDERS).await.expect("opens"));
    }
    collect(&groups, 0..8).await;
    if purged != PurgedBy::TheOthers {
        purge(&groups[2]).await;
    }
    groups.pop();
    seats[2].stop(running.pop().expect("three")).await;
    collect(&groups, 8..12).await;
    if purged != PurgedBy::Itself {
        purge(&groups[0]).await;
        purge(&groups[1]).await;
    }
    collect(&groups, 12..14).await;

    rot(&seats[2].disk, rots).await;
    let node = seats[2].run().await;
    let mut opened = node.groups.open(id, Words::default(), &FOUNDERS).await;
    if opened.is_err() && !id.is_meta() {
        opened = node.groups.open(id, Words::default(), &FOUNDERS).await;
    }
    groups.push(opened.unwrap_or_else(|error| panic!("{rots} rots: {error:#}")));
    collect(&groups, 14..16).await;
    assert!(groups[2].purged() >= groups[0].purged().min(groups[1].purged()));
    assert!(!groups[2].inner.log.is_damaged());
    // And once more, from what it has by now.
    groups.pop();
    seats[2].stop(node).await;
    let node = seats[2].run().await;
    groups.push(node.groups.open(id, Words::default(), &FOUNDERS).await.expect("opens"));
    collect(&groups, 16..17).await;
}

async fn in_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(LONG, test).await.expect("in time");
}

#[tokio::test]
async fn an_entry_that_rots_before_it_is_applied_need_not_be_held_by_anyone() {
    in_time(comes_back(GroupId(7), PurgedBy::TheOthers, "word 003")).await;
}

#[tokio::test]
async fn nor_need_it_in_the_metadata_group_which_opens_at_once() {
    in_time(comes_back(GroupId::META, PurgedBy::TheOthers, "word 003")).await;
}

#[tokio::test]
async fn a_purged_log_whose_checkpoint_rots_begins_at_a_peers() {
    in_time(comes_back(GroupId(7), PurgedBy::All, "collected:")).await;
}

#[tokio::test]
async fn so_does_that_of_the_metadata_group() {
    in_time(comes_back(GroupId::META, PurgedBy::All, "collected:")).await;
}

#[tokio::test]
async fn peers_that_are_not_purged_as_far_take_one_if_nothing_is_retained() {
    in_time(comes_back(GroupId(7), PurgedBy::Itself, "collected:")).await;
}

/// It must send its followers what it cannot read, as a new leader that looks for where their logs end. They
/// need none of it.
#[tokio::test]
async fn a_leader_that_cannot_read_what_its_followers_have_purged_lets_one_of_them_lead() {
    in_time(async {
        let (id, mut seats) = (GroupId(7), seats().await);
        let mut running = Vec::new();
        for seat in &seats {
            running.push(seat.run().await);
        }
        let mut groups = Vec::new();
        for node in &running {
            groups.push(node.groups.open(id, Words::default(), &FOUNDERS).await.expect("opens"));
        }
        collect(&groups, 0..16).await;
        // What its checkpoint covers it does not read again when it comes back.
        groups[2].checkpoint().await.expect("taken");
        groups.pop();
        seats[2].stop(running.pop().expect("three")).await;
        purge(&groups[0]).await;
        purge(&groups[1]).await;
        let node = seats[2].run().await;
        groups.push(node.groups.open(id, Words::default(), &FOUNDERS).await.expect("opens"));
        collect(&groups, 16..18).await;
        for word in 0..16 {
            rot(&seats[2].disk, &format!("word {word:03}")).await;
        }
        while groups[2].watch_leader().borrow().leader != Some(NodeId(3)) {
            for node in &running {
                // Only the leader's counts; it may not have got so far.
                let _ = node.groups.hand_over(id, NodeId(3)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        collect(&groups, 18..20).await;
        assert_ne!(groups[0].watch_leader().borrow().leader, Some(NodeId(3)));
    })
    .await;
}
