//! The owner task against a Raft group that does as it is told.

use std::collections::VecDeque;
use std::time::Duration;

use tristream_proto::domain::limits::PUT_RECORDS_BYTES_MAX;
use tristream_proto::domain::{Batch, Shard};

use super::owner::FLIGHTS_MAX;
use super::*;
use crate::log::EntryId;
use crate::raft::Machine;
use crate::shard::command::{self, Outline};
use crate::shard::testing::{records, sent, shard};

mod calls;
mod room;
mod steps;

const ME: NodeId = NodeId(1);
const LONG: Duration = Duration::from_secs(60);

/// A proposal that waits for the test's word.
struct Proposed {
    command: Bytes,
    term: u64,
    outcome: oneshot::Sender<Result<(EntryId, machine::Reply), ProposeError>>,
    script: Arc<Mutex<Script>>,
}

struct Script {
    out_of_touch: bool,
    no_room: bool,
    /// A real one: what it remembers and when it is sealed is not made up.
    machine: ShardMachine,
    /// Answers to the next proposals' placing; placed when empty.
    refusals: VecDeque<ProposeError>,
    proposed: VecDeque<Proposed>,
}

#[derive(Clone)]
struct FakeGroup {
    script: Arc<Mutex<Script>>,
    leader: watch::Sender<Leadership>,
}

impl Target for FakeGroup {
    fn propose(
        &self,
        command: Bytes,
        term: u64,
    ) -> BoxFuture<'static, Result<Proposal<machine::Reply>, ProposeError>> {
        let shared = self.script.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut script = shared.lock();
            if let Some(refusal) = script.refusals.pop_front() {
                return Err(refusal);
            }
            let (outcome, landed) = oneshot::channel();
            let proposed = Proposed { command, term, outcome, script: shared.clone() };
            script.proposed.push_back(proposed);
            let gone = ProposeError::Unknown("the group is gone".to_owned());
            Ok(Box::pin(async move { landed.await.unwrap_or(Err(gone)) }) as Proposal<_>)
        })
    }

    fn last_arrival(&self) -> Timestamp {
        self.script.lock().machine.last_arrival()
    }

    fn closed(&self) -> Option<Closed> {
        self.script.lock().machine.closed()
    }

    fn sealed(&self) -> Option<Sealed> {
        self.script.lock().machine.sealed()
    }

    fn known(&self, records: &[Record]) -> Known {
        known(&self.script.lock().machine, records)
    }

    fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.leader.subscribe()
    }

    fn in_touch(&self) -> bool {
        !self.script.lock().out_of_touch
    }

    fn no_room(&self) -> Option<String> {
        self.script.lock().no_room.then(|| "nearly full".to_owned())
    }
}

struct FakeClock(Mutex<Timestamp>);

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

/// An appender, its owner task, and what they are made to see.
struct Bench {
    appender: Appender,
    group: FakeGroup,
    clock: Arc<FakeClock>,
    owner: tokio::task::JoinHandle<()>,
}

fn leading(term: u64, ready_here: bool) -> Leadership {
    Leadership { leader: Some(ME), term, ready_here }
}

fn bench(leadership: Leadership) -> Bench {
    bench_of(&shard(), leadership)
}

#[allow(clippy::disallowed_methods)]
fn bench_of(shard: &Shard, leadership: Leadership) -> Bench {
    let script = Script {
        out_of_touch: false,
        no_room: false,
        machine: ShardMachine::new(shard),
        refusals: VecDeque::new(),
        proposed: VecDeque::new(),
    };
    let script = Arc::new(Mutex::new(script));
    let group = FakeGroup { script, leader: watch::channel(leadership).0 };
    let clock = Arc::new(FakeClock(Mutex::new(Timestamp(5_000))));
    let depth = Arc::new(Depth::new(Arc::new(Metrics::new())));
    let (appender, work) = Appender::new(group.clone(), ME, clock.clone(), depth);
    Bench { appender, group, clock, owner: tokio::spawn(work) }
}

impl Bench {
    #[allow(clippy::disallowed_methods)]
    fn send_within(&self, put: Vec<Record>, time: Duration) -> tokio::task::JoinHandle<Answer> {
        let appender = self.appender.clone();
        tokio::spawn(async move { appender.append(put, Instant::now() + time).await })
    }

    fn put_within(&self, texts: &[&str], time: Duration) -> tokio::task::JoinHandle<Answer> {
        self.send_within(records(texts), time)
    }

    async fn put(&self, texts: &[&str]) -> tokio::task::JoinHandle<Answer> {
        self.send(records(texts)).await
    }

    /// Sends a put and waits until it was let in.
    async fn send(&self, put: Vec<Record>) -> tokio::task::JoinHandle<Answer> {
        let before = self.held();
        let put = self.send_within(put, LONG);
        until(|| self.held() > before).await;
        put
    }

    /// An entry that another leader proposed is applied.
    fn applied(&self, index: u64, command: &Bytes) {
        let id = EntryId { term: 1, node: NodeId(2), index };
        self.group.script.lock().machine.apply(id, command).expect("applies");
    }

    fn held(&self) -> usize {
        self.appender.inbox.queue.lock().held_bytes()
    }

    async fn proposed(&self) -> Proposed {
        until(|| !self.group.script.lock().proposed.is_empty()).await;
        self.group.script.lock().proposed.pop_front().expect("just seen")
    }

    /// Lets everybody run who can.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

impl Proposed {
    fn batch(&self) -> Batch {
        command::batch(&self.command).expect("an append")
    }

    fn keys(&self) -> Vec<String> {
        let records = self.batch().records;
        records.iter().map(|record| record.partition_key.as_str().to_owned()).collect()
    }

    fn outline(&self) -> Outline {
        command::outline(&self.command).expect("a command")
    }

    /// Committed and applied as the entry at `index`.
    fn land(self, index: u64) {
        let id = EntryId { term: self.term, node: ME, index };
        let reply = self.script.lock().machine.apply(id, &self.command).expect("applies");
        let _ = self.outcome.send(Ok((id, reply)));
    }

    fn fail(self, error: ProposeError) {
        let _ = self.outcome.send(Err(error));
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the condition comes true");
}

fn positions(numbers: &[SequenceNumber]) -> Vec<(u64, u32)> {
    numbers.iter().map(|n| (n.position().index, n.position().position)).collect()
}

/// Answers with the places that a put got.
async fn places(put: tokio::task::JoinHandle<Answer>) -> Vec<(u64, u32)> {
    positions(&put.await.expect("no panic").expect("stored"))
}

/// An append of another leader.
fn stored(arrival: u64, records: Vec<Record>) -> Bytes {
    command::append(&Batch { arrival: Timestamp(arrival), records })
}

#[tokio::test]
async fn puts_that_wait_share_an_entry_and_get_consecutive_numbers() {
    let bench = bench(leading(3, true));
    let mut first = vec![];
    for key in ["a", "b", "c", "d"] {
        first.push(bench.put(&[key]).await);
        until(|| bench.group.script.lock().proposed.len() == first.len()).await;
    }
    // All flights are on their way: the next two wait together.
    let (fifth, sixth) = (bench.put(&["e", "f"]).await, bench.put(&["g"]).await);
    bench.settle().await;
    assert_eq!(bench.group.script.lock().proposed.len(), FLIGHTS_MAX);
    bench.proposed().await.land(10);
    let placed = first.remove(0).await.expect("no panic").expect("stored");
    assert_eq!(positions(&placed), [(10, 0)]);
    until(|| bench.group.script.lock().proposed.len() == FLIGHTS_MAX).await;
    let shared = bench.group.script.lock().proposed.pop_back().expect("four of them");
    assert_eq!(
        (shared.keys(), shared.term),
        (vec!["e".to_owned(), "f".to_owned(), "g".to_owned()], 3)
    );
    shared.land(14);
    let placed = fifth.await.expect("no panic").expect("stored");
    assert_eq!(positions(&placed), [(14, 0), (14, 1)]);
    assert_eq!(placed[0].record_second, 5);
    assert_eq!(placed[0].shard, shard().id);
    let placed = sixth.await.expect("no panic").expect("stored");
    assert_eq!(positions(&placed), [(14, 2)]);
}

#[tokio::test]
async fn stamps_never_fall_though_the_clock_does() {
    let bench = bench(leading(1, true));
    bench.applied(1, &stored(9_000, records(&["k"])));
    let mut stamps = vec![];
    for (index, now) in [(2, 5_000), (3, 9_500), (4, 4_000)] {
        *bench.clock.0.lock() = Timestamp(now);
        let put = bench.put(&["k"]).await;
        let proposed = bench.proposed().await;
        stamps.push(proposed.batch().arrival.0);
        proposed.land(index);
        put.await.expect("no panic").expect("stored");
    }
    assert_eq!(stamps, [9_000, 9_500, 9_500]);
    // A later term of this node begins from what was applied meanwhile.
    bench.applied(5, &stored(12_000, records(&["k"])));
    bench.group.leader.send_replace(leading(4, true));
    let _put = bench.put(&["k"]).await;
    let proposed = bench.proposed().await;
    assert_eq!((proposed.term, proposed.batch().arrival), (4, Timestamp(12_000)));
}

#[tokio::test]
async fn nothing_is_proposed_before_earlier_terms_are_applied() {
    let bench = bench(leading(2, false));
    let put = bench.put(&["k"]).await;
    bench.settle().await;
    assert!(bench.group.script.lock().proposed.is_empty());
    bench.applied(1, &stored(7_000, records(&["k"])));
    bench.group.leader.send_replace(leading(2, true));
    let proposed = bench.proposed().await;
    assert_eq!(proposed.batch().arrival, Timestamp(7_000));
    proposed.land(5);
    put.await.expect("no panic").expect("stored");
}

#[tokio::test]
async fn a_follower_names_the_leader_and_a_deposed_leader_its_successor() {
    let bench = bench(leading(2, false));
    let waiting = bench.put(&["k"]).await;
    let other = Some(NodeId(3));
    bench.group.leader.send_replace(Leadership { leader: other, term: 3, ready_here: false });
    let not_leader = Err(AppendError::NotLeader { leader: other });
    assert_eq!(waiting.await.expect("no panic"), not_leader);
    assert_eq!(bench.put_within(&["k"], LONG).await.expect("no panic"), not_leader);
    assert_eq!(bench.held(), 0);
}

#[tokio::test]
async fn a_put_that_was_not_proposed_in_time_had_no_effect() {
    let bench = bench(leading(2, false));
    let put = bench.put_within(&["k"], Duration::from_millis(20));
    let answer = put.await.expect("no panic");
    assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
    assert_eq!(bench.held(), 0);
    bench.group.leader.send_replace(leading(2, true));
    bench.settle().await;
    assert!(bench.group.script.lock().proposed.is_empty(), "it must never be proposed later");
}

#[tokio::test]
async fn a_put_without_an_outcome_in_time_is_unknown_and_may_still_land() {
    let bench = bench(leading(2, true));
    let put = bench.put_within(&["k"], Duration::from_millis(500));
    let proposed = bench.proposed().await;
    let answer = put.await.expect("no panic");
    assert!(matches!(answer, Err(AppendError::Unknown(_))), "{answer:?}");
    assert!(bench.held() > 0, "it is on its way still");
    proposed.land(4);
    until(|| bench.held() == 0).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_only_a_waiting_put_with_it() {
    let bench = bench(leading(2, false));
    let waiting = bench.put(&["waiting"]).await;
    waiting.abort();
    until(|| bench.held() == 0).await;
    bench.group.leader.send_replace(leading(2, true));
    let put = bench.put(&["proposed"]).await;
    until(|| !bench.group.script.lock().proposed.is_empty()).await;
    put.abort();
    bench.settle().await;
    let proposed = bench.proposed().await;
    assert_eq!(proposed.keys(), ["proposed"]);
    assert!(!proposed.outcome.is_closed(), "the owner still waits for it");
}

#[tokio::test]
async fn what_raft_says_of_a_proposal_reaches_every_put_of_the_entry() {
    let bench = bench(leading(2, true));
    let leader = Some(NodeId(2));
    bench.group.script.lock().refusals = VecDeque::from([
        ProposeError::NotLeader { leader },
        ProposeError::Unavailable("no quorum".to_owned()),
    ]);
    let refused = bench.put_within(&["k"], LONG).await.expect("no panic");
    assert_eq!(refused, Err(AppendError::NotLeader { leader }));
    let refused = bench.put_within(&["k"], LONG).await.expect("no panic");
    assert_eq!(refused, Err(AppendError::Unavailable("no quorum".to_owned())));
    let lost = bench.put(&["k"]).await;
    let proposed = bench.proposed().await;
    proposed.fail(ProposeError::Unknown("deposed".to_owned()));
    let unknown = Err(AppendError::Unknown("deposed".to_owned()));
    assert_eq!(lost.await.expect("no panic"), unknown);
    assert_eq!(bench.held(), 0);
}

#[tokio::test]
async fn too_many_bytes_are_throttled_at_once() {
    let bench = bench(leading(2, false));
    let large = "x".repeat(200);
    let appender = &bench.appender;
    let put = || {
        let mut put = records(&[&large]);
        put[0].data = Bytes::from(vec![0; PUT_RECORDS_BYTES_MAX - 1_000]);
        put
    };
    let mut waiting = vec![];
    for _ in 0..3 {
        let mut put = Box::pin(appender.append(put(), Instant::now() + LONG));
        assert!(futures::poll!(&mut put).is_pending());
        waiting.push(put);
    }
    let refused = appender.append(put(), Instant::now() + LONG).await;
    assert!(matches!(refused, Err(AppendError::Throttled { .. })), "{refused:?}");
}

#[tokio::test]
async fn when_the_owner_ends_waiting_puts_had_no_effect_and_others_are_unknown() {
    let bench = bench(leading(2, true));
    let on_its_way = bench.put(&["k"]).await;
    until(|| !bench.group.script.lock().proposed.is_empty()).await;
    bench.group.leader.send_replace(leading(5, false));
    let waiting = bench.put(&["k"]).await;
    bench.owner.abort();
    let answer = on_its_way.await.expect("no panic");
    assert!(matches!(answer, Err(AppendError::Unknown(_))), "{answer:?}");
    let answer = waiting.await.expect("no panic");
    assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
    let late = bench.put_within(&["k"], LONG).await.expect("no panic");
    assert!(matches!(late, Err(AppendError::Unavailable(_))), "{late:?}");
}

/// A leader cut off from its peers, not from its clients: they must not wait behind what never
/// lands.
#[tokio::test(start_paused = true)]
async fn without_a_majority_nobody_waits_behind_what_is_on_its_way() {
    let bench = bench(leading(3, true));
    let mut on_their_way = Vec::new();
    for flight in 0..FLIGHTS_MAX {
        on_their_way.push(bench.put(&["a"]).await);
        until(|| bench.group.script.lock().proposed.len() == flight + 1).await;
    }
    let waiting = bench.put(&["b"]).await;
    bench.group.script.lock().out_of_touch = true;
    let begun = Instant::now();
    let refused = waiting.await.expect("no panic");
    assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
    let refused = bench.put_within(&["c"], LONG).await.expect("no panic");
    assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
    assert!(begun.elapsed() < LONG / 10, "{:?} of virtual time", begun.elapsed());
    // What is on its way may yet land.
    bench.group.script.lock().out_of_touch = false;
    for (index, put) in on_their_way.into_iter().enumerate() {
        let proposed = bench.group.script.lock().proposed.pop_front().expect("proposed");
        proposed.land(index as u64);
        assert!(put.await.expect("no panic").is_ok());
    }
}
