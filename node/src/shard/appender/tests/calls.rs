//! Puts that are sent again: stored before, on their way, or partly so.

use super::*;

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
    // While the term lasts it may yet land, so a third must not be proposed.
    let third = bench.send_within(sent(7, &[0]), LONG).await.expect("no panic");
    assert!(matches!(third, Err(AppendError::Unknown(_))), "{third:?}");
    assert!(bench.group.script.lock().proposed.is_empty());
    bench.group.leader.send_replace(leading(2, true));
    let fourth = bench.send(sent(7, &[0])).await;
    bench.proposed().await.land(9);
    assert_eq!(places(fourth).await, [(9, 0)]);
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
async fn a_caller_that_goes_away_while_it_waits_for_its_call_leaves_nothing() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[0])).await;
    let proposed = bench.proposed().await;
    let second = bench.send(sent(7, &[0])).await;
    bench.settle().await;
    second.abort();
    assert!(second.await.is_err(), "aborted");
    proposed.fail(ProposeError::Unavailable("no quorum".to_owned()));
    assert!(first.await.expect("no panic").is_err());
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
