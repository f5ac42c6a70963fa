//! The owner task against a Raft group that does as it is told.

use std::collections::VecDeque;
use std::time::Duration;

use tristream_proto::domain::limits::PUT_RECORDS_BYTES_MAX;
use tristream_proto::domain::{Batch, Shard};

use super::owner::FLIGHTS_MAX;
use super::*;
use crate::log::EntryId;
use crate::raft::Machine;
use crate::shard::Opening;
use crate::shard::command::{self, Outline};
use crate::shard::testing::{child, records, sent, shard};

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

/// A leader cut off from its peers, not from its clients: they must not wait behind what never lands.
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

/// Answers with the places that a put got.
async fn places(put: tokio::task::JoinHandle<Answer>) -> Vec<(u64, u32)> {
    positions(&put.await.expect("no panic").expect("stored"))
}

#[tokio::test]
async fn a_put_that_is_sent_again_keeps_its_numbers_and_is_not_stored_again() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[0, 1, 4])).await;
    bench.proposed().await.land(3);
    let first = first.await.expect("no panic").expect("stored");
    assert_eq!(positions(&first), [(3, 0), (3, 1), (3, 2)]);
    let again = bench.send_within(sent(7, &[0, 1, 4]), LONG).await.expect("no panic");
    assert_eq!(again, Ok(first));
    // In another order, as another router may group them.
    let again = bench.send_within(sent(7, &[4, 0]), LONG).await.expect("no panic");
    assert_eq!(again.map(|numbers| positions(&numbers)), Ok(vec![(3, 2), (3, 0)]));
    assert!(bench.group.script.lock().proposed.is_empty());
    assert_eq!(bench.held(), 0);
}

#[tokio::test]
async fn another_call_or_no_call_is_stored_though_its_records_are_the_same() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[0])).await;
    bench.proposed().await.land(3);
    assert_eq!(places(first).await, [(3, 0)]);
    // The door gives another body another call.
    let other = bench.send(sent(8, &[0])).await;
    bench.proposed().await.land(4);
    assert_eq!(places(other).await, [(4, 0)]);
    for index in [5, 6] {
        let plain = bench.put(&["same"]).await;
        bench.proposed().await.land(index);
        assert_eq!(places(plain).await, [(index, 0)]);
    }
}

#[tokio::test]
async fn of_a_put_that_is_partly_known_only_the_rest_is_stored() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[1, 3])).await;
    bench.proposed().await.land(3);
    places(first).await;
    let whole = bench.send(sent(7, &[0, 1, 2, 3, 4])).await;
    let proposed = bench.proposed().await;
    assert_eq!(proposed.keys(), ["7.0", "7.2", "7.4"]);
    proposed.land(4);
    assert_eq!(places(whole).await, [(4, 0), (3, 0), (4, 1), (3, 1), (4, 2)]);
}

#[tokio::test]
async fn a_put_whose_call_is_on_its_way_waits_and_shares_what_becomes_of_it() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[0])).await;
    let proposed = bench.proposed().await;
    let second = bench.send(sent(7, &[0, 1])).await;
    bench.settle().await;
    assert!(bench.group.script.lock().proposed.is_empty(), "it waits");
    // Others need not wait with it.
    let other = bench.send(sent(8, &[0])).await;
    let other_proposed = bench.proposed().await;
    proposed.land(3);
    assert_eq!(places(first).await, [(3, 0)]);
    let rest = bench.proposed().await;
    assert_eq!(rest.keys(), ["7.1"]);
    other_proposed.land(4);
    rest.land(5);
    assert_eq!(places(second).await, [(3, 0), (5, 0)]);
    assert_eq!(places(other).await, [(4, 0)]);
    assert_eq!(bench.held(), 0);
}

#[tokio::test]
async fn when_the_first_attempt_ends_without_effect_the_second_is_proposed() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[0])).await;
    let proposed = bench.proposed().await;
    let second = bench.send(sent(7, &[0])).await;
    bench.settle().await;
    proposed.fail(ProposeError::Unavailable("no quorum".to_owned()));
    let refused = first.await.expect("no panic");
    assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
    bench.proposed().await.land(4);
    assert_eq!(places(second).await, [(4, 0)]);
}

#[tokio::test]
async fn when_nobody_knows_of_the_first_attempt_nobody_knows_of_the_second() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[0])).await;
    let proposed = bench.proposed().await;
    let second = bench.send(sent(7, &[0])).await;
    bench.settle().await;
    proposed.fail(ProposeError::Unknown("deposed".to_owned()));
    for put in [first, second] {
        let answer = put.await.expect("no panic");
        assert_eq!(answer, Err(AppendError::Unknown("deposed".to_owned())));
    }
    assert_eq!(bench.held(), 0);
}

#[tokio::test]
async fn a_put_that_waits_for_its_own_call_ends_as_unknown() {
    let bench = bench(leading(1, true));
    let _first = bench.send(sent(7, &[0])).await;
    let proposed = bench.proposed().await;
    let second = bench.send_within(sent(7, &[0]), Duration::from_millis(20));
    let answer = second.await.expect("no panic");
    assert!(matches!(answer, Err(AppendError::Unknown(_))), "{answer:?}");
    proposed.fail(ProposeError::Unavailable("no quorum".to_owned()));
    until(|| bench.held() == 0).await;
    bench.settle().await;
    assert!(bench.group.script.lock().proposed.is_empty(), "nobody waits for it any more");
}

#[tokio::test]
async fn an_entry_never_holds_a_record_twice() {
    let bench = bench(leading(1, false));
    // All of these are gathered together.
    let first = bench.send(sent(7, &[0, 1])).await;
    let second = bench.send(sent(7, &[0, 1])).await;
    let within = bench.send(sent(8, &[0, 0, 1, 0])).await;
    bench.group.leader.send_replace(leading(1, true));
    let proposed = bench.proposed().await;
    assert_eq!(proposed.keys(), ["7.0", "7.1", "8.0", "8.1"]);
    proposed.land(3);
    assert_eq!(places(first).await, [(3, 0), (3, 1)]);
    assert_eq!(places(second).await, [(3, 0), (3, 1)]);
    assert_eq!(places(within).await, [(3, 2), (3, 2), (3, 3), (3, 2)]);
    assert!(bench.group.script.lock().proposed.is_empty());
    assert_eq!(bench.held(), 0);
}

#[tokio::test]
async fn a_new_leader_knows_what_the_one_before_stored() {
    let bench = bench(leading(2, false));
    let put = bench.send(sent(7, &[0, 1])).await;
    bench.settle().await;
    bench.applied(3, &stored(1_000, sent(7, &[0, 1])));
    bench.group.leader.send_replace(leading(2, true));
    assert_eq!(places(put).await, [(3, 0), (3, 1)]);
    assert!(bench.group.script.lock().proposed.is_empty());
}

/// What an earlier term had on its way is applied when this node is ready to lead again, or never.
#[tokio::test]
async fn nobody_waits_for_an_entry_of_an_earlier_term() {
    let bench = bench(leading(1, true));
    let _lost = bench.send(sent(7, &[0])).await;
    let never_answered = bench.proposed().await;
    let again = bench.send(sent(7, &[0])).await;
    bench.settle().await;
    bench.group.leader.send_replace(leading(3, true));
    let proposed = bench.proposed().await;
    assert_eq!((proposed.keys(), proposed.term), (vec!["7.0".to_owned()], 3));
    proposed.land(9);
    assert_eq!(places(again).await, [(9, 0)]);
    drop(never_answered);
}

impl Bench {
    #[allow(clippy::disallowed_methods)]
    fn seal(&self) -> tokio::task::JoinHandle<Result<Sealed, AppendError>> {
        let appender = self.appender.clone();
        tokio::spawn(async move { appender.seal(Instant::now() + LONG).await })
    }

    #[allow(clippy::disallowed_methods)]
    fn inherit(&self, command: Bytes) -> tokio::task::JoinHandle<Result<Inherited, AppendError>> {
        let appender = self.appender.clone();
        tokio::spawn(async move { appender.inherit(command, Instant::now() + LONG).await })
    }
}

#[tokio::test]
async fn behind_a_seal_nothing_is_proposed_and_what_waits_is_the_childrens() {
    let bench = bench(leading(1, true));
    let before = bench.send(sent(7, &[0])).await;
    let appended = bench.proposed().await;
    let seal = bench.seal();
    let sealing = bench.proposed().await;
    assert_eq!(sealing.outline(), Outline::Seal { stamp: Timestamp(5_000) });
    let waiting = bench.send(sent(8, &[0])).await;
    let known = bench.send(sent(7, &[0])).await;
    bench.settle().await;
    assert!(bench.group.script.lock().proposed.is_empty());
    appended.land(3);
    assert_eq!(places(before).await, [(3, 0)]);
    bench.settle().await;
    assert!(bench.group.script.lock().proposed.is_empty(), "still behind the seal");
    sealing.land(4);
    let sealed = seal.await.expect("no panic").expect("sealed");
    assert_eq!((sealed.end, sealed.last_arrival), (4, Timestamp(5_000)));
    assert_eq!(waiting.await.expect("no panic"), Err(AppendError::Sealed));
    assert_eq!(places(known).await, [(3, 0)], "what is stored here is told here");
    let later = bench.send_within(sent(7, &[0, 1]), LONG).await.expect("no panic");
    assert_eq!(later, Err(AppendError::Sealed));
    assert_eq!(bench.seal().await.expect("no panic"), Ok(sealed), "the same every time");
    assert!(bench.group.script.lock().proposed.is_empty());
    assert_eq!(bench.held(), 0);
}

#[tokio::test]
async fn a_seal_that_did_not_happen_holds_nobody_up() {
    let bench = bench(leading(1, true));
    let seal = bench.seal();
    let sealing = bench.proposed().await;
    let waiting = bench.send(sent(8, &[0])).await;
    sealing.fail(ProposeError::Unavailable("no quorum".to_owned()));
    let refused = seal.await.expect("no panic");
    assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
    bench.proposed().await.land(4);
    assert_eq!(places(waiting).await, [(4, 0)]);
}

#[tokio::test]
async fn a_seal_of_which_nobody_knows_holds_its_term_up_but_not_the_next() {
    let bench = bench(leading(1, true));
    let seal = bench.seal();
    bench.proposed().await.fail(ProposeError::Unknown("lost".to_owned()));
    assert_eq!(seal.await.expect("no panic"), Err(AppendError::Unknown("lost".to_owned())));
    let waiting = bench.send(sent(8, &[0])).await;
    bench.settle().await;
    assert!(bench.group.script.lock().proposed.is_empty());
    bench.group.leader.send_replace(leading(2, true));
    bench.proposed().await.land(4);
    assert_eq!(places(waiting).await, [(4, 0)]);
}

/// Another leader sealed the shard while this one's entry was on its way to the log.
#[tokio::test]
async fn an_entry_that_meets_the_seal_has_no_effect() {
    let bench = bench(leading(1, true));
    let put = bench.send(sent(7, &[0])).await;
    let proposed = bench.proposed().await;
    bench.applied(3, &command::seal(Timestamp(5_000)));
    proposed.land(4);
    assert_eq!(put.await.expect("no panic"), Err(AppendError::Sealed));
    assert_eq!(bench.group.script.lock().machine.records(), 0);
}

#[tokio::test]
async fn a_child_takes_nothing_before_its_opening_and_then_knows_its_parents_calls() {
    // A parent, which stored call 7 and was sealed.
    let parent = bench(leading(1, true));
    let put = parent.send(sent(7, &[0, 1])).await;
    parent.proposed().await.land(3);
    let stored = put.await.expect("no panic").expect("stored");
    let seal = parent.seal();
    parent.proposed().await.land(4);
    let sealed = seal.await.expect("no panic").expect("sealed");
    let part = parent.group.script.lock().machine.window(0);

    let bench = bench_of(&child(&[3]), leading(1, true));
    let early = bench.send_within(sent(7, &[0]), LONG).await.expect("no panic");
    assert!(matches!(early, Err(AppendError::Unavailable(_))), "{early:?}");
    let opening = Opening {
        creation_second: sealed.closed_second + 1,
        last_arrival: Timestamp(8_000),
        parents: vec![(shard().id, sealed.end)],
    };
    let opening = command::inherit(&[part], Some(&opening)).expect("it fits");
    let inherited = bench.inherit(opening);
    bench.proposed().await.land(1);
    assert!(inherited.await.expect("no panic").expect("inherited").opened);
    let put = bench.send(sent(7, &[0, 1, 2])).await;
    let proposed = bench.proposed().await;
    assert_eq!(proposed.keys(), ["7.2"]);
    assert_eq!(proposed.batch().arrival, Timestamp(8_000), "not below its parent's last");
    proposed.land(2);
    let numbers = put.await.expect("no panic").expect("stored");
    assert_eq!(numbers[..2], stored[..]);
    assert_eq!(numbers[2].shard, child(&[3]).id);
    assert_eq!(numbers[2].creation_second, sealed.closed_second + 1);
}

#[tokio::test]
async fn steps_that_wait_end_with_the_leadership_and_with_the_owner() {
    let bench = bench(leading(2, false));
    let seal = bench.seal();
    until(|| bench.appender.inbox.steps.lock().is_waiting()).await;
    let other = Some(NodeId(3));
    bench.group.leader.send_replace(Leadership { leader: other, term: 3, ready_here: false });
    let not_leader = Err(AppendError::NotLeader { leader: other });
    assert_eq!(seal.await.expect("no panic"), not_leader);
    assert_eq!(bench.seal().await.expect("no panic"), not_leader);
    bench.group.leader.send_replace(leading(4, false));
    let seal = bench.seal();
    until(|| bench.appender.inbox.steps.lock().is_waiting()).await;
    bench.owner.abort();
    let answer = seal.await.expect("no panic");
    assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
}
