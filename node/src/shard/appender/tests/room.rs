//! Disks that are nearly full: puts are refused without effect, and nothing else is.

use super::*;

impl Bench {
    fn set_room(&self, is_there: bool) {
        self.group.script.lock().no_room = !is_there;
    }
}

#[tokio::test]
async fn without_room_new_puts_are_refused_and_what_was_stored_is_told() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[0])).await;
    bench.proposed().await.land(3);
    let first = first.await.expect("no panic").expect("stored");
    bench.set_room(false);
    let refused = bench.send_within(sent(8, &[0]), LONG).await.expect("no panic");
    assert_eq!(refused, Err(AppendError::StorageFull("nearly full".to_owned())));
    let again = bench.send_within(sent(7, &[0]), LONG).await.expect("no panic");
    assert_eq!(again, Ok(first), "it did happen, whatever the disk says now");
    assert!(bench.group.script.lock().proposed.is_empty());
    assert_eq!(bench.held(), 0);

    bench.set_room(true);
    let later = bench.send(sent(8, &[0])).await;
    bench.proposed().await.land(4);
    assert_eq!(places(later).await, [(4, 0)]);
}

#[tokio::test]
async fn a_put_on_its_way_when_the_room_ends_is_answered_by_its_entry() {
    let bench = bench(leading(1, true));
    let first = bench.send(sent(7, &[0])).await;
    let proposed = bench.proposed().await;
    bench.set_room(false);
    let again = bench.send(sent(7, &[0])).await;
    bench.settle().await;
    proposed.land(3);
    assert_eq!(places(first).await, [(3, 0)]);
    assert_eq!(places(again).await, [(3, 0)], "it waited for its own call");
}

#[tokio::test]
#[allow(clippy::disallowed_methods)]
async fn a_seal_needs_no_room() {
    let bench = bench(leading(1, true));
    bench.set_room(false);
    let appender = bench.appender.clone();
    let seal = tokio::spawn(async move { appender.seal(Instant::now() + LONG).await });
    bench.proposed().await.land(3);
    assert_eq!(seal.await.expect("no panic").map(|sealed| sealed.end), Ok(3));
}
