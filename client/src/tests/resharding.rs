//! Splits, merges and lost answers: nothing is stored twice, nobody hears of it, and every key is stored
//! and read in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, timeout, timeout_at};
use tristream_proto::domain::{
    Effect, HashKey, HashKeyRange, PartitionKey, Record, Shard, ShardId, StreamName,
};
use tristream_proto::wire::refusal::Kind;

use super::fake::{Fake, Says, key_in, number, options, refusal};
use crate::{Client, Consumer, Error, Options, Start};

const LIMIT: Duration = Duration::from_secs(60);

fn orders() -> StreamName {
    "orders".parse().expect("a name")
}

fn record(key: &str, data: &str) -> Record {
    let partition_key = PartitionKey::new(key).expect("a key");
    Record { partition_key, explicit_hash_key: None, origin: None, data: data.to_owned().into() }
}

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let held = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, held).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_stored_once() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], options());
    fake.state.lock().puts.extend([Says::Lost, Says::Lost]);
    let outcome = client.put(&orders(), record("k", "d")).await;
    assert_eq!(outcome, Ok(number(0, 1)), "the number that it got the first time");
    assert_eq!(fake.stored(0), ["d"]);
    assert!(fake.state.lock().asked.len() >= 3);
    assert_eq!(client.put(&orders(), record("k", "d")).await, Ok(number(0, 2)), "another record");
}

#[tokio::test]
async fn a_put_that_meets_a_seal_waits_for_the_map_that_is_named() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], options());
    client.put(&orders(), record("k", "before")).await.expect("stored");
    fake.seal(0);
    let (asked, described) = {
        let state = fake.state.lock();
        (state.asked.len(), state.described)
    };
    let publishing = async {
        until("it is refused", || fake.state.lock().asked.len() > asked).await;
        until("a map is asked for", || fake.state.lock().described > described).await;
        fake.publish(&[0], 2);
    };
    let (orders, key) = (orders(), key_in(true));
    let (outcome, ()) = tokio::join!(client.put(&orders, record(&key, "after")), publishing);
    assert_eq!(outcome, Ok(number(2, 1)));
    let state = fake.state.lock();
    // The parent's leader once, then the child's, which the new map names.
    assert_eq!(state.asked[asked..], [(1, 0, 1), (3, 2, 1)]);
    assert!(state.described - described <= 3, "it waits, it does not ask over and over");
}

#[tokio::test]
async fn a_lost_answer_is_found_again_at_the_child() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], options());
    fake.state.lock().puts.push_back(Says::LostAndSealed);
    let publishing = async {
        until("the seal is met", || fake.state.lock().described > 1).await;
        fake.publish(&[0], 2);
    };
    let (orders, key) = (orders(), key_in(false));
    let (outcome, ()) = tokio::join!(client.put(&orders, record(&key, "d")), publishing);
    assert_eq!(outcome, Ok(number(0, 1)), "the parent's number");
    assert_eq!((fake.stored(0), fake.stored(1)), (vec!["d".to_owned()], vec![]));
}

#[tokio::test]
async fn other_shards_go_on_while_one_awaits_its_children() {
    let fake = Fake::start(2).await;
    let producer = fake.client(&[1], options()).producer(&orders()).await.expect("a stream");
    fake.seal(0);
    let waiting = producer.send(record(&key_in(false), "low")).await;
    until("the seal is met", || fake.state.lock().described > 1).await;
    for i in 0..20 {
        let receipt = producer.send(record(&key_in(true), "high")).await;
        let outcome = timeout(LIMIT, receipt.outcome()).await.expect("not held back");
        assert_eq!(outcome, Ok(number(1, i + 1)));
    }
    fake.publish(&[0], 2);
    assert_eq!(waiting.outcome().await, Ok(number(2, 1)));
}

#[tokio::test]
async fn what_may_have_been_stored_is_unknown_when_the_deadline_ends() {
    let hasty = Options { deadline: Duration::from_secs(1), ..options() };
    // Of the attempts after the lost one each is certain that it stored nothing.
    for later in [Kind::Throttled, Kind::Unavailable, Kind::StreamNotFound, Kind::Invalid] {
        let fake = Fake::start(1).await;
        let client = fake.client(&[1], hasty.clone());
        client.describe_stream(&orders()).await.expect("a stream");
        fake.state.lock().puts.push_back(Says::Lost);
        fake.state.lock().puts.extend(std::iter::repeat_n(refusal(later), 10_000));
        let error = client.put(&orders(), record("k", "d")).await.expect_err("never acked");
        assert_eq!(error.effect(), Effect::Unknown, "{later:?}: {error}");
    }
    // The same when it ends in waiting for a map.
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], hasty);
    client.describe_stream(&orders()).await.expect("a stream");
    fake.state.lock().puts.push_back(Says::LostAndSealed);
    let error = client.put(&orders(), record("k", "d")).await.expect_err("never acked");
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
}

#[tokio::test]
async fn what_waits_for_children_that_never_come_ends_at_its_deadline() {
    let fake = Fake::start(1).await;
    let hasty = Options { deadline: Duration::from_secs(1), request_records_max: 1, ..options() };
    fake.seal(0);
    // The second and the third were never sent: their time begins when the first one's has ended.
    let records = ["a", "b", "c"].map(|data| record("k", data)).to_vec();
    let client = fake.client(&[1], hasty);
    let outcomes = timeout(LIMIT, client.put_batch(&orders(), records)).await.expect("an end");
    for outcome in outcomes {
        let error = outcome.expect_err("never stored");
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert_eq!(error.effect(), Effect::None);
    }
}

#[tokio::test]
async fn a_silent_node_is_left_for_the_leader_before_the_deadline() {
    let fake = Fake::start(1).await;
    {
        let mut state = fake.state.lock();
        (state.leaders_untold, state.paused) = (true, [1].into());
        state.leaders.insert(ShardId::from(0), 2);
    }
    let short = Options { attempt_timeout: Duration::from_secs(1), ..options() };
    let outcome = fake.client(&[2], short).put(&orders(), record("k", "d")).await;
    assert_eq!(outcome, Ok(number(0, 1)));
    let asked: Vec<u64> = fake.state.lock().asked.iter().map(|asked| asked.0).collect();
    assert_eq!(asked, [1, 2], "the first replica has not answered, the next leads");
}

#[tokio::test]
async fn a_late_record_does_not_take_its_request_with_it() {
    let fake = Fake::start(1).await;
    let options = Options { deadline: Duration::from_secs(2), ..options() };
    let producer = fake.client(&[1], options).producer(&orders()).await.expect("a stream");
    // The first is refused until its time is almost over; the second joins it in the map's wake.
    fake.seal(0);
    let first = producer.send(record(&key_in(false), "first")).await;
    until("the seal is met", || fake.state.lock().described > 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let second = producer.send(record(&key_in(false), "second")).await;
    fake.state.lock().puts.extend(std::iter::repeat_n(refusal(Kind::Throttled), 10_000));
    fake.publish(&[0], 2);
    first.outcome().await.expect_err("its time is over");
    fake.state.lock().puts.clear();
    assert_eq!(second.outcome().await, Ok(number(1, 1)));
}

/// Splits and merges without end.
async fn reshard(fake: &Fake, mut random: SmallRng, reshards: usize) {
    for _ in 0..reshards {
        let mut open: Vec<(HashKeyRange, u32)> = {
            let state = fake.state.lock();
            let open = state.shards.iter().filter(|shard| shard.is_open());
            open.map(|shard| (shard.range, shard.id.index())).collect()
        };
        open.sort_by_key(|(range, _)| range.first);
        let at = random.random_range(0..open.len());
        let merge = open.len() > 4 || at + 1 < open.len() && random.random_bool(0.4);
        let at = at.min(open.len().saturating_sub(1 + usize::from(merge)));
        let parents: Vec<u32> =
            open[at..at + 1 + usize::from(merge)].iter().map(|(_, id)| *id).collect();
        parents.iter().for_each(|parent| fake.seal(*parent));
        tokio::time::sleep(Duration::from_millis(random.random_range(1..20))).await;
        fake.publish(&parents, if merge { 1 } else { 2 });
        tokio::time::sleep(Duration::from_millis(random.random_range(1..30))).await;
    }
}

/// Reads until `count` records have come; by key, the numbers in their order.
async fn read(mut consumer: Consumer, count: usize) -> BTreeMap<String, Vec<usize>> {
    let (mut read, mut seen) = (BTreeMap::<String, Vec<usize>>::new(), 0);
    let end = Instant::now() + LIMIT;
    while seen < count {
        let event = timeout_at(end, consumer.next()).await.expect("all come in time");
        for record in event.expect("a shard is left").expect("no error").records {
            let text = String::from_utf8(record.data.to_vec()).expect("text");
            let (key, number) = text.split_once(' ').expect("a key and a number");
            read.entry(key.to_owned()).or_default().push(number.parse().expect("a number"));
            seen += 1;
        }
    }
    read
}

/// Records go in while answers are lost and shards split and merge, and are read at the same time.
#[tokio::test]
async fn nothing_is_lost_doubled_or_overtaken_through_many_reshards() {
    for seed in 0..3 {
        let mut random = SmallRng::seed_from_u64(seed);
        let fake = Fake::start(2).await;
        fake.state.lock().live = true;
        let small = Options { request_records_max: 5, subscriptions_max: 64, ..options() };
        let client = fake.client(&[1], small);
        let count = 1500;
        let consumer = client.consumer(&orders(), Start::TrimHorizon).await.expect("a stream");
        let writing = write(&fake, &client, &mut random, count);
        let resharding = reshard(&fake, SmallRng::seed_from_u64(seed + 100), 30);
        let work = async { tokio::join!(read(consumer, count), writing, resharding) };
        let (read, (), ()) = timeout(LIMIT, work).await.expect("all is read");
        assert!(!fake.state.lock().overlapped, "one request per shard at a time");
        let stored: Vec<String> = {
            let state = fake.state.lock();
            state.stored.values().flatten().cloned().collect()
        };
        assert_eq!(stored.len(), count, "seed {seed}");
        assert_eq!(stored.iter().collect::<BTreeSet<_>>().len(), count, "seed {seed}");
        for (key, numbers) in read {
            assert!(numbers.is_sorted(), "seed {seed}: {key} is out of order: {numbers:?}");
        }
    }
}

/// Sends `count` records of ten keys while now and then an answer is lost. Every one is acked.
async fn write(fake: &Fake, client: &Client, random: &mut SmallRng, count: usize) {
    let producer = client.producer(&orders()).await.expect("a stream");
    let mut receipts = vec![];
    for i in 0..count {
        let key = i % 10;
        let hash_key = HashKey(u128::MAX / 10 * key as u128);
        let data = format!("{key} {i}");
        let record = Record { explicit_hash_key: Some(hash_key), ..record("k", &data) };
        if random.random_bool(0.02) {
            let says = match random.random_range(0..3) {
                0 => refusal(Kind::Throttled),
                1 => Says::Status(tonic::Code::Unavailable),
                _ => Says::Lost,
            };
            fake.state.lock().puts.push_back(says);
        }
        receipts.push(producer.send(record).await);
        if i % 5 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    for (i, receipt) in receipts.into_iter().enumerate() {
        receipt.outcome().await.unwrap_or_else(|error| panic!("record {i}: {error}"));
    }
}

#[tokio::test]
async fn a_shard_that_is_no_longer_kept_is_passed_over() {
    let fake = Fake::start(1).await;
    fake.state.lock().live = true;
    fake.publish(&[0], 2);
    let client = fake.client(&[1], options());
    let consumer = client.consumer(&orders(), Start::TrimHorizon).await.expect("a stream");
    assert_eq!(consumer.shards(), [ShardId::from(0)]);
    for (upper, data) in [(false, "a 1"), (true, "b 1")] {
        client.put(&orders(), record(&key_in(upper), data)).await.expect("stored");
    }
    // Its records are older than the retention period.
    fake.state.lock().shards.remove(0);
    let read = read(consumer, 2).await;
    assert_eq!(read, [("a".to_owned(), vec![1]), ("b".to_owned(), vec![1])].into());
}

#[tokio::test]
async fn a_consumer_does_not_go_on_in_another_stream_of_the_name() {
    let fake = Fake::start(1).await;
    fake.state.lock().live = true;
    let client = fake.client(&[1], options());
    let mut consumer = client.consumer(&orders(), Start::TrimHorizon).await.expect("a stream");
    {
        let mut state = fake.state.lock();
        (state.incarnation, state.map_version) = (2, 7);
        // The node that is asked refuses the shard: it is not of this stream.
        let other = state.shards[0].clone();
        state.shards = vec![Shard { id: ShardId::from(1), ..other }];
    }
    let told = timeout(LIMIT, consumer.next()).await.expect("an answer");
    assert!(matches!(told, Some(Err(Error::StreamNotFound(_)))), "{told:?}");
    assert!(consumer.next().await.is_none());
}

#[tokio::test]
async fn more_shards_than_may_be_read_at_a_time_take_turns() {
    let fake = Fake::start(3).await;
    fake.state.lock().live = true;
    let narrow = Options { subscriptions_max: 1, ..options() };
    let client = fake.client(&[1], narrow);
    let consumer = client.consumer(&orders(), Start::TrimHorizon).await.expect("a stream");
    let writing = async {
        for number in 1..=4 {
            for key in 0..3 {
                let hash_key = Some(HashKey(u128::MAX / 3 * key + 1));
                let data = format!("{key} {number}");
                let record = Record { explicit_hash_key: hash_key, ..record("k", &data) };
                client.put(&orders(), record).await.expect("stored");
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    };
    let (read, ()) = tokio::join!(read(consumer, 12), writing);
    assert_eq!(read.len(), 3);
    for (key, numbers) in read {
        assert_eq!(numbers, [1, 2, 3, 4], "{key}");
    }
}

#[tokio::test]
async fn a_subscription_ends_where_its_shard_does() {
    let fake = Fake::start(1).await;
    fake.state.lock().live = true;
    let client = fake.client(&[1], options());
    client.put(&orders(), record("k", "d")).await.expect("stored");
    let shard = ShardId::from(0);
    let mut subscription =
        client.subscribe(&orders(), shard, Start::TrimHorizon).await.expect("a shard");
    let first = subscription.next().await.expect("an event").expect("not the end");
    assert_eq!((first.records.len(), &first.end), (1, &None));
    fake.publish(&[0], 2);
    let last = subscription.next().await.expect("an event").expect("the last one");
    let children: Vec<u32> =
        last.end.expect("the end").children.iter().map(|child| child.id.index()).collect();
    assert_eq!(children, [1, 2]);
    assert_eq!(subscription.next().await, Ok(None));
    let mut chosen =
        Consumer::new([client.subscribe(&orders(), shard, Start::Latest).await.expect("a shard")]);
    let event = chosen.next().await.expect("an event").expect("no error");
    assert!(event.end.is_some() && event.records.is_empty());
    assert!(chosen.next().await.is_none(), "children are read by who asks for the stream");
}
