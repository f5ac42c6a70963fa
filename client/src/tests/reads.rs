//! Subscriptions: nothing lost and nothing twice, whichever nodes the records come from.

use std::time::Duration;

use tristream_proto::domain::{Retry, ShardId, StreamName};
use tristream_proto::wire::refusal::Kind;
use tristream_proto::wire::subscribe_request::From as WireFrom;
use tristream_proto::wire::{self, SubscribeEvent};

use super::fake::{Fake, Feed, number, options};
use crate::{Client, Consumer, Error, Options, Start, Subscription};

fn orders() -> StreamName {
    "orders".parse().expect("a name")
}

fn event(shard: u32, counters: &[u64], next: u64) -> SubscribeEvent {
    let record = |&counter: &u64| wire::StoredRecord {
        sequence_number: number(shard, counter).to_string(),
        arrival_ms: 1,
        partition_key: "k".to_owned(),
        data: counter.to_string().into(),
    };
    SubscribeEvent {
        records: counters.iter().map(record).collect(),
        next_sequence_number: number(shard, next).to_string(),
        ..Default::default()
    }
}

async fn subscribe(client: &Client, start: Start) -> Subscription {
    client.subscribe(&orders(), ShardId::from(0), start).await.expect("a shard")
}

async fn counters(subscription: &mut Subscription, events: usize) -> Vec<u64> {
    let mut seen = vec![];
    for _ in 0..events {
        let event = subscription.next().await.expect("an event").expect("not the end");
        seen.extend(event.records.iter().map(|record| record.sequence_number.counter));
    }
    seen
}

#[tokio::test]
async fn a_reader_that_is_cut_off_goes_on_without_gap_or_repetition() {
    let fake = Fake::start(1).await;
    fake.state.lock().feeds.extend([
        Feed::ThenEnd(vec![event(0, &[1, 2], 3), event(0, &[3], 4)]),
        // A node that sends some again: they are dropped.
        Feed::ThenEnd(vec![event(0, &[2, 3, 4], 5)]),
        Feed::ThenSilence(vec![event(0, &[5], 6)]),
    ]);
    let mut subscription = subscribe(&fake.client(&[1], options()), Start::TrimHorizon).await;
    assert_eq!(counters(&mut subscription, 4).await, [1, 2, 3, 4, 5]);
    let asked: Vec<_> = fake.state.lock().subscribed.iter().map(|s| s.1.clone()).collect();
    let at = |counter| Some(WireFrom::AtSequenceNumber(number(0, counter).to_string()));
    assert_eq!(asked, [Some(WireFrom::TrimHorizon(true)), at(4), at(5)]);
}

#[tokio::test]
async fn latest_means_the_moment_of_the_first_call() {
    let fake = Fake::start(1).await;
    fake.state.lock().feeds.extend([
        Feed::ThenEnd(vec![event(0, &[], 7)]),
        Feed::ThenSilence(vec![event(0, &[7, 8], 9)]),
    ]);
    let mut subscription = subscribe(&fake.client(&[1], options()), Start::Latest).await;
    assert_eq!(counters(&mut subscription, 2).await, [7, 8], "7 came while we were cut off");
    let second = fake.state.lock().subscribed[1].1.clone();
    assert_eq!(second, Some(WireFrom::AtSequenceNumber(number(0, 7).to_string())));
}

#[tokio::test]
async fn a_dead_or_silent_node_is_left_for_another() {
    let mut fake = Fake::start(1).await;
    let hasty = Options { silence_max: Duration::from_millis(50), ..options() };
    let client = fake.client(&[1], hasty);
    fake.state.lock().feeds.extend([
        Feed::ThenSilence(vec![event(0, &[1], 2)]),
        Feed::ThenEnd(vec![event(0, &[2], 3)]),
    ]);
    let mut subscription = subscribe(&client, Start::TrimHorizon).await;
    assert_eq!(counters(&mut subscription, 2).await, [1, 2]);
    let asked: Vec<u64> = fake.state.lock().subscribed.iter().map(|s| s.0).collect();
    assert_eq!(asked[0], 1, "the leader is asked first");
    assert_ne!(asked[1], 1, "and left when it is silent");
    let last = asked[1];
    fake.kill(last).await;
    fake.state.lock().feeds.push_back(Feed::ThenEnd(vec![event(0, &[3], 4)]));
    assert_eq!(counters(&mut subscription, 1).await, [3]);
    assert_ne!(fake.state.lock().subscribed.last().map(|s| s.0), Some(last));
}

#[tokio::test]
async fn a_deleted_stream_ends_its_readers() {
    let fake = Fake::start(1).await;
    let gone = wire::Refusal { kind: Kind::StreamNotFound.into(), ..Default::default() };
    let end = SubscribeEvent { refusal: Some(gone), ..Default::default() };
    fake.state.lock().feeds.push_back(Feed::ThenEnd(vec![event(0, &[1], 2), end]));
    let client = fake.client(&[1], options());
    let mut consumer = Consumer::new([subscribe(&client, Start::TrimHorizon).await]);
    assert_eq!(consumer.next().await.expect("an event").map(|e| e.records.len()), Ok(1));
    let error = consumer.next().await.expect("an event").expect_err("deleted");
    assert!(matches!(error, Error::StreamNotFound(_)), "{error}");
    assert!(consumer.next().await.is_none(), "no shard is left");
}

#[tokio::test]
async fn a_reader_gives_up_at_its_deadline_and_can_go_on() {
    let fake = Fake::start(1).await;
    // Long enough for the shard map to be fetched on a busy machine, which has the same deadline.
    let hasty = Options { deadline: Duration::from_secs(2), ..options() };
    let client = fake.client(&[1], hasty);
    let mut subscription = subscribe(&client, Start::At(number(0, 5))).await;
    let error = subscription.next().await.expect_err("there is no feed");
    assert_ne!(error.retry(), Retry::Never);
    fake.state.lock().feeds.push_back(Feed::ThenSilence(vec![event(0, &[5], 6)]));
    assert_eq!(counters(&mut subscription, 1).await, [5]);
}

#[tokio::test]
async fn a_consumer_merges_all_shards() {
    let fake = Fake::start(2).await;
    let client = fake.client(&[1], options());
    // Whichever shard connects first gets the first feed, so each feed is made for either.
    let mut consumer = client.consumer(&orders(), Start::TrimHorizon).await.expect("a stream");
    assert_eq!(consumer.shards().len(), 2);
    let gone = wire::Refusal { kind: Kind::StreamNotFound.into(), ..Default::default() };
    let end = SubscribeEvent { refusal: Some(gone), ..Default::default() };
    let feed = Feed::ThenEnd(vec![SubscribeEvent::default(), end]);
    fake.state.lock().feeds.extend([feed.clone(), feed]);
    let (mut shards, mut ends) = (vec![], 0);
    while let Some(event) = consumer.next().await {
        match event {
            Ok(event) => shards.push(event.shard.index()),
            Err(_) => ends += 1,
        }
    }
    shards.sort_unstable();
    assert_eq!((shards, ends), (vec![0, 1], 2));
}
