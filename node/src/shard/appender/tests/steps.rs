//! Seals and openings among the puts.

use super::*;
use crate::shard::Opening;
use crate::shard::testing::child;

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
