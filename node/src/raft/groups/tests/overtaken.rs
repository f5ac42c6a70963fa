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

/// A group on three nodes.
struct Trio {
    id: GroupId,
    seats: Vec<Seat>,
    running: Vec<Running>,
    groups: Vec<Group<Words>>,
}

impl Trio {
    async fn open(id: GroupId) -> Trio {
        let seats = seats().await;
        let (running, groups) = (Vec::new(), Vec::new());
        let mut trio = Trio { id, seats, running, groups };
        for node in 0..3 {
            trio.start(node).await.expect("opens");
        }
        trio
    }

    /// Starts the node of this place, which must be the next one.
    async fn start(&mut self, node: usize) -> anyhow::Result<()> {
        assert_eq!((self.running.len(), self.groups.len()), (node, node));
        self.running.push(self.seats[node].run().await);
        self.groups.push(self.open_at(node).await?);
        Ok(())
    }

    async fn open_at(&self, node: usize) -> anyhow::Result<Group<Words>> {
        self.running[node].groups.open(self.id, Words::default(), &FOUNDERS).await
    }

    /// Stops the last node.
    async fn stop(&mut self) {
        self.groups.pop();
        let last = self.running.pop().expect("somebody runs");
        self.seats[self.running.len()].stop(last).await;
    }

    /// Puts, reads back.
    async fn collect(&self, words: std::ops::Range<u32>) {
        collect(&self.groups, words).await;
    }

    fn leader(&self) -> Option<NodeId> {
        self.groups[0].watch_leader().borrow().leader
    }

    async fn led_by(&self, to: NodeId) {
        let chosen = self.groups.iter().find(|group| group.inner.me == to).expect("runs");
        while chosen.watch_leader().borrow().leader != Some(to) {
            let is_another = |node: &&Running| node.groups.inner.me != to;
            for node in self.running.iter().filter(is_another) {
                // Only the leader's counts; it may not have got so far.
                let _ = node.groups.hand_over(self.id, to).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The third node comes back from a stop with a log of 16 words on its disk that it need not read.
    async fn third_restarts(&mut self) {
        self.collect(0..16).await;
        // What its checkpoint covers it does not read again when it comes back.
        self.groups[2].checkpoint().await.expect("taken");
        self.stop().await;
    }

    async fn others_purge(&self) {
        purge(&self.groups[0]).await;
        purge(&self.groups[1]).await;
    }

    async fn words_rot_on_the_third(&self) {
        for word in 0..16 {
            rot(&self.seats[2].disk, &format!("word {word:03}")).await;
        }
    }

    /// As a scrubber does.
    async fn third_notices(&self) {
        let log = &self.groups[2].inner.log;
        for index in 0..16 {
            // What comes before the damage is read.
            let _ = log.read(index..index + 1, 1).await;
        }
        assert!(log.is_damaged());
    }
}

/// The third node stops; something rots there; the others go on. It opens the group again at the first or second
/// attempt, knows all, and its log goes on.
async fn comes_back(id: GroupId, purged: PurgedBy, rots: &str) {
    let mut trio = Trio::open(id).await;
    trio.collect(0..8).await;
    if purged != PurgedBy::TheOthers {
        purge(&trio.groups[2]).await;
    }
    trio.stop().await;
    trio.collect(8..12).await;
    if purged != PurgedBy::Itself {
        trio.others_purge().await;
    }
    trio.collect(12..14).await;

    rot(&trio.seats[2].disk, rots).await;
    let mut opened = trio.start(2).await;
    if opened.is_err() && !id.is_meta() {
        opened = trio.open_at(2).await.map(|group| trio.groups.push(group));
    }
    opened.unwrap_or_else(|error| panic!("{rots} rots: {error:#}"));
    trio.collect(14..16).await;
    let groups = &trio.groups;
    assert!(groups[2].purged() >= groups[0].purged().min(groups[1].purged()));
    assert!(!groups[2].inner.log.is_damaged());
    // And once more, from what it has by now.
    trio.stop().await;
    trio.start(2).await.expect("opens");
    trio.collect(16..17).await;
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
        let mut trio = Trio::open(GroupId(7)).await;
        trio.third_restarts().await;
        trio.others_purge().await;
        trio.start(2).await.expect("opens");
        trio.collect(16..18).await;
        trio.words_rot_on_the_third().await;
        trio.led_by(NodeId(3)).await;
        trio.collect(18..20).await;
        assert_ne!(trio.leader(), Some(NodeId(3)));
    })
    .await;
}

/// What rots is behind its followers: nobody needs it.
#[tokio::test]
async fn a_leader_that_has_sent_what_it_cannot_read_any_more_leads_on() {
    in_time(async {
        let mut trio = Trio::open(GroupId(7)).await;
        trio.third_restarts().await;
        trio.start(2).await.expect("opens");
        trio.led_by(NodeId(3)).await;
        trio.collect(16..18).await;
        trio.others_purge().await;
        trio.words_rot_on_the_third().await;
        trio.third_notices().await;
        let term = trio.groups[2].watch_leader().borrow().term;
        // It looks for damage, asks its peers, and judges.
        tokio::time::sleep(3 * repair::INTERVAL).await;
        trio.groups[2].read_barrier(LONG).await.expect("it leads");
        trio.collect(18..20).await;
        assert_eq!(trio.groups[2].watch_leader().borrow().term, term, "nobody else was elected");
    })
    .await;
}

/// A leader that hands over takes no more proposals; so it asks first.
#[tokio::test]
async fn nothing_is_handed_to_a_node_that_cannot_read_its_log() {
    in_time(async {
        let mut trio = Trio::open(GroupId(7)).await;
        trio.third_restarts().await;
        trio.others_purge().await;
        trio.start(2).await.expect("opens");
        trio.led_by(NodeId(1)).await;
        trio.collect(16..18).await;
        trio.words_rot_on_the_third().await;
        trio.third_notices().await;
        // Nobody else can be elected.
        trio.groups.remove(1);
        let second = trio.running.remove(1);
        trio.seats[1].stop(second).await;
        let refused = trio.running[0].groups.hand_over(trio.id, NodeId(3)).await;
        assert!(refused.is_err());
        trio.collect(18..20).await;
    })
    .await;
}
