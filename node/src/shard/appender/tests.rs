//! The owner task against a Raft group that does as it is told.

use std::collections::VecDeque;
use std::time::Duration;

use tristream_proto::domain::limits::PUT_RECORDS_BYTES_MAX;

use super::*;
use crate::shard::testing::{records, shard};

const ME: NodeId = NodeId(1);
const LONG: Duration = Duration::from_secs(60);

/// A proposal that waits for the test's word.
struct Proposed {
    batch: Batch,
    term: u64,
    outcome: oneshot::Sender<Result<(EntryId, Appended), ProposeError>>,
}

#[derive(Default)]
struct Script {
    out_of_touch: bool,
    newest_arrival: Timestamp,
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
    ) -> BoxFuture<'static, Result<Proposal<Appended>, ProposeError>> {
        let script = self.script.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut script = script.lock();
            if let Some(refusal) = script.refusals.pop_front() {
                return Err(refusal);
            }
            let batch = command::batch(&command).expect("an append");
            let (outcome, landed) = oneshot::channel();
            script.proposed.push_back(Proposed { batch, term, outcome });
            let gone = ProposeError::Unknown("the group is gone".to_owned());
            Ok(Box::pin(async move { landed.await.unwrap_or(Err(gone)) }) as Proposal<Appended>)
        })
    }

    fn newest_arrival(&self) -> Timestamp {
        self.script.lock().newest_arrival
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

#[allow(clippy::disallowed_methods)]
fn bench(leadership: Leadership) -> Bench {
    let group = FakeGroup { script: Arc::default(), leader: watch::channel(leadership).0 };
    let clock = Arc::new(FakeClock(Mutex::new(Timestamp(5_000))));
    let depth = Arc::new(Depth::new(Arc::new(Metrics::new())));
    let (appender, work) = Appender::new(group.clone(), &shard(), ME, clock.clone(), depth);
    Bench { appender, group, clock, owner: tokio::spawn(work) }
}

impl Bench {
    #[allow(clippy::disallowed_methods)]
    fn put_within(&self, texts: &[&str], time: Duration) -> tokio::task::JoinHandle<Answer> {
        let (appender, records) = (self.appender.clone(), records(texts));
        tokio::spawn(async move { appender.append(records, Instant::now() + time).await })
    }

    async fn put(&self, texts: &[&str]) -> tokio::task::JoinHandle<Answer> {
        let before = self.held();
        let put = self.put_within(texts, LONG);
        until(|| self.held() > before).await;
        put
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
    fn keys(&self) -> Vec<&str> {
        self.batch.records.iter().map(|record| record.partition_key.as_str()).collect()
    }

    fn land(self, index: u64) {
        let (arrival, count) = (self.batch.arrival, self.batch.records.len() as u32);
        let id = EntryId { term: self.term, node: ME, index };
        let _ = self.outcome.send(Ok((id, Appended { index, arrival, count })));
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

fn positions(placed: Placed) -> Vec<(u64, u32)> {
    placed.numbers().map(|n| (n.position().index, n.position().position)).collect()
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
    assert_eq!(positions(placed), [(10, 0)]);
    until(|| bench.group.script.lock().proposed.len() == FLIGHTS_MAX).await;
    let shared = bench.group.script.lock().proposed.pop_back().expect("four of them");
    assert_eq!((shared.keys(), shared.term), (vec!["e", "f", "g"], 3));
    shared.land(14);
    let placed = fifth.await.expect("no panic").expect("stored");
    assert_eq!(positions(placed), [(14, 0), (14, 1)]);
    assert_eq!(placed.first.record_second, 5);
    assert_eq!(placed.first.shard, shard().id);
    let placed = sixth.await.expect("no panic").expect("stored");
    assert_eq!(positions(placed), [(14, 2)]);
}

#[tokio::test]
async fn stamps_never_fall_though_the_clock_does() {
    let bench = bench(leading(1, true));
    bench.group.script.lock().newest_arrival = Timestamp(9_000);
    let mut stamps = vec![];
    for (index, now) in [(1, 5_000), (2, 9_500), (3, 4_000)] {
        *bench.clock.0.lock() = Timestamp(now);
        let put = bench.put(&["k"]).await;
        let proposed = bench.proposed().await;
        stamps.push(proposed.batch.arrival.0);
        proposed.land(index);
        put.await.expect("no panic").expect("stored");
    }
    assert_eq!(stamps, [9_000, 9_500, 9_500]);
    // A later term of this node begins from what was applied meanwhile.
    bench.group.script.lock().newest_arrival = Timestamp(12_000);
    bench.group.leader.send_replace(leading(4, true));
    let _put = bench.put(&["k"]).await;
    let proposed = bench.proposed().await;
    assert_eq!((proposed.term, proposed.batch.arrival), (4, Timestamp(12_000)));
}

#[tokio::test]
async fn nothing_is_proposed_before_earlier_terms_are_applied() {
    let bench = bench(leading(2, false));
    let put = bench.put(&["k"]).await;
    bench.settle().await;
    assert!(bench.group.script.lock().proposed.is_empty());
    bench.group.script.lock().newest_arrival = Timestamp(7_000);
    bench.group.leader.send_replace(leading(2, true));
    let proposed = bench.proposed().await;
    assert_eq!(proposed.batch.arrival, Timestamp(7_000));
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
    let _ = proposed.outcome.send(Err(ProposeError::Unknown("deposed".to_owned())));
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
        let id = EntryId { term: 3, node: ME, index: index as u64 };
        let appended = Appended { index: id.index, arrival: proposed.batch.arrival, count: 1 };
        let _ = proposed.outcome.send(Ok((id, appended)));
        assert!(put.await.expect("no panic").is_ok());
    }
}
