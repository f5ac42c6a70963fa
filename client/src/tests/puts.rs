//! Puts: whom they go to, what is tried again, and in which order they are stored.

use std::time::Duration;

use tristream_proto::domain::{
    Effect, HashKey, HashKeyRange, PartitionKey, Record, SequenceNumber, ShardId, StreamName,
};
use tristream_proto::wire::refusal::Kind;

use super::fake::{Fake, Says, key_in, number, options, refusal, shard};
use crate::{Client, Error, Options};

fn orders() -> StreamName {
    "orders".parse().expect("a name")
}

fn record(key: &str, data: &str) -> Record {
    let partition_key = PartitionKey::new(key).expect("a key");
    Record { partition_key, explicit_hash_key: None, origin: None, data: data.to_owned().into() }
}

/// Of a caller who judges unknown outcomes for itself.
fn careful() -> Options {
    Options { retry_unknown: false, ..options() }
}

async fn put(client: &Client) -> Result<SequenceNumber, Error> {
    client.put(&orders(), record("k", "d")).await
}

#[tokio::test]
async fn a_put_goes_straight_to_the_leader() {
    let fake = Fake::start(2).await;
    let leaders = [(ShardId::from(0), 2), (ShardId::from(1), 3)];
    fake.state.lock().leaders = leaders.into();
    let client = fake.client(&[1], options());
    for _ in 0..2 {
        for upper in [false, true] {
            client.put(&orders(), record(&key_in(upper), "d")).await.expect("stored");
        }
    }
    let state = fake.state.lock();
    assert_eq!(state.asked, [(2, 0, 1), (3, 1, 1), (2, 0, 1), (3, 1, 1)]);
    assert_eq!(state.described, 1, "the map is cached");
}

#[tokio::test]
async fn a_redirect_is_followed_and_remembered() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], options());
    put(&client).await.expect("stored by node 1");
    fake.state.lock().leaders.insert(ShardId::from(0), 3);
    put(&client).await.expect("stored by node 3");
    put(&client).await.expect("stored by node 3");
    let asked: Vec<u64> = fake.state.lock().asked.iter().map(|asked| asked.0).collect();
    assert_eq!(asked, [1, 1, 3, 3]);
}

#[tokio::test]
async fn a_dead_leader_is_left_for_its_successor() {
    let mut fake = Fake::start(1).await;
    // The connection may break under the first attempt, and then its outcome is not known.
    let client = fake.client(&[1], options());
    put(&client).await.expect("stored by node 1");
    fake.kill(1).await;
    // Its peers have not noticed yet: they name it still.
    let electing = async {
        while fake.state.lock().asked.len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fake.state.lock().leaders.insert(ShardId::from(0), 2);
        std::future::pending::<()>().await;
    };
    let found = tokio::select! {
        found = put(&client) => found,
        () = electing => unreachable!("pending"),
    };
    found.expect("stored by node 2");
    assert_eq!(fake.stored(0).len(), 2);
}

#[tokio::test]
async fn the_client_begins_with_whichever_node_lives() {
    let mut fake = Fake::start(1).await;
    let client = fake.client(&[1, 2], options());
    fake.state.lock().leaders.insert(ShardId::from(0), 3);
    fake.kill(1).await;
    put(&client).await.expect("node 2 tells of node 3");
    fake.kill(2).await;
    let fresh = client.describe_stream(&orders()).await;
    assert!(fresh.is_ok(), "node 3 was learnt, the given ones are dead: {fresh:?}");
}

#[tokio::test]
async fn an_unknown_outcome_is_the_callers_to_judge_who_says_so() {
    let fake = Fake::start(1).await;
    for said in [refusal(Kind::Unknown), Says::Status(tonic::Code::Unavailable)] {
        fake.state.lock().puts.push_back(said);
        fake.state.lock().asked.clear();
        let error = put(&fake.client(&[1], careful())).await.expect_err("unknown");
        assert_eq!(error.effect(), Effect::Unknown, "{error}");
        assert_eq!(fake.state.lock().asked.len(), 1, "it was not sent again");
    }
    assert!(fake.stored(0).is_empty());
}

#[tokio::test]
async fn what_did_not_happen_is_tried_again_within_the_deadline() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], options());
    let refusals = [Kind::Throttled, Kind::Unavailable, Kind::NotLeader, Kind::Throttled];
    fake.state.lock().puts.extend(refusals.map(refusal));
    put(&client).await.expect("stored in the end");
    assert!(fake.state.lock().asked.len() >= 5);
    assert_eq!(fake.stored(0).len(), 1);

    let hasty = fake.client(&[1], Options { deadline: Duration::from_millis(500), ..options() });
    put(&hasty).await.expect("stored");
    fake.state.lock().leaders.clear();
    let error = put(&hasty).await.expect_err("nobody leads");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert_eq!(error.effect(), Effect::None);
}

#[tokio::test]
async fn what_breaks_a_rule_is_not_tried_again() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], options());
    for kind in [Kind::Invalid, Kind::StreamNotFound, Kind::LimitExceeded] {
        fake.state.lock().puts.push_back(refusal(kind));
        fake.state.lock().asked.clear();
        put(&client).await.expect_err("refused");
        assert_eq!(fake.state.lock().asked.len(), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_split_shard_is_found_again_and_keys_keep_their_order() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], options());
    put(&client).await.expect("stored in shard 0");
    {
        let mut state = fake.state.lock();
        state.map_version = 2;
        let mut parent = state.shards[0].clone();
        parent.closed_second = Some(1_790_000_100);
        let halves = HashKeyRange::uniform(2);
        state.shards = vec![parent, shard(1, halves[0]), shard(2, halves[1])];
        state.leaders = [1, 2].map(|i| (ShardId::from(i), u64::from(i) + 1)).into();
    }
    let (low, high) = (key_in(false), key_in(true));
    let records: Vec<Record> = (0..1200)
        .map(|i| record(if i % 2 == 0 { &low } else { &high }, &format!("{i:04}")))
        .collect();
    let outcomes = client.put_batch(&orders(), records).await;
    for (i, outcome) in outcomes.iter().enumerate() {
        let expected = number(1 + i as u32 % 2, i as u64 / 2 + 1);
        assert_eq!(outcome.as_ref(), Ok(&expected), "record {i}");
    }
    for (child, parity) in [(1, 0), (2, 1)] {
        let expected: Vec<String> =
            (0..1200).filter(|i| i % 2 == parity).map(|i| format!("{i:04}")).collect();
        assert_eq!(fake.stored(child), expected);
    }
    assert!(!fake.state.lock().overlapped, "one request per shard at a time");
}

#[tokio::test]
async fn a_stream_made_anew_is_found_again() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], options());
    put(&client).await.expect("stored");
    {
        let mut state = fake.state.lock();
        (state.incarnation, state.map_version) = (2, 5);
    }
    put(&client).await.expect("stored in the new stream");
}

#[tokio::test]
async fn after_an_unknown_outcome_another_replica_is_asked() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1], careful());
    put(&client).await.expect("stored by node 1");
    fake.state.lock().puts.push_back(Says::Status(tonic::Code::Unavailable));
    put(&client).await.expect_err("unknown");
    put(&client).await.expect("stored by node 1, which node 2 names");
    let asked: Vec<u64> = fake.state.lock().asked.iter().map(|asked| asked.0).collect();
    assert_eq!(asked, [1, 1, 2, 1]);
}

#[tokio::test]
async fn a_failure_concerns_only_its_own_request() {
    let fake = Fake::start(2).await;
    let client = fake.client(&[1], Options { request_records_max: 2, ..careful() });
    client.put(&orders(), record(&key_in(false), "warm")).await.expect("stored");
    fake.state.lock().puts.push_back(refusal(Kind::Unknown));
    let key = key_in(true);
    let records = (0..5).map(|i| record(&key, &i.to_string())).collect();
    let outcomes = client.put_batch(&orders(), records).await;
    let stored: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(stored, [false, false, true, true, true]);
    assert_eq!(fake.stored(1), ["2", "3", "4"]);
}

#[tokio::test]
async fn a_producer_keeps_order_through_refusals() {
    let fake = Fake::start(2).await;
    // Room for a few records only, so that `send` has to wait.
    let tight = Options { waiting_bytes_max: 1000, request_records_max: 3, ..options() };
    let producer = fake.client(&[2], tight).producer(&orders()).await.expect("a stream");
    let keys = [key_in(false), key_in(true)];
    let mut receipts = vec![];
    for i in 0..200 {
        if i % 20 == 0 {
            let kinds = [Kind::Throttled, Kind::NotLeader, Kind::Unavailable];
            fake.state.lock().puts.push_back(refusal(kinds[i / 20 % 3]));
        }
        let send = producer.send(record(&keys[i % 2], &format!("{i:03}")));
        let limit = Duration::from_secs(30);
        receipts.push(tokio::time::timeout(limit, send).await.expect("room comes free"));
    }
    producer.close().await;
    for (i, receipt) in receipts.into_iter().enumerate() {
        let expected = number(i as u32 % 2, i as u64 / 2 + 1);
        assert_eq!(receipt.outcome().await, Ok(expected), "record {i}");
    }
    for shard in 0..2 {
        assert!(fake.stored(shard).is_sorted(), "{:?}", fake.stored(shard));
    }
    assert!(!fake.state.lock().overlapped, "one request per shard at a time");
}

#[tokio::test]
async fn an_explicit_hash_key_decides_the_shard() {
    let fake = Fake::start(2).await;
    let client = fake.client(&[1], options());
    for (hash_key, shard) in [(0, 0), (u128::MAX, 1)] {
        let record = Record { explicit_hash_key: Some(HashKey(hash_key)), ..record("k", "d") };
        let number = client.put(&orders(), record).await.expect("stored");
        assert_eq!(number.shard, ShardId::from(shard));
    }
}

#[tokio::test]
async fn a_creation_of_unknown_outcome_is_not_repeated() {
    let fake = Fake::start(1).await;
    let client = fake.client(&[1, 2, 3], options());
    fake.state.lock().puts.push_back(Says::Status(tonic::Code::Unavailable));
    let error = client.create_stream(&orders(), None).await.expect_err("unknown");
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(fake.state.lock().asked.len(), 1);
    fake.state.lock().puts.push_back(refusal(Kind::Unavailable));
    client.create_stream(&orders(), None).await.expect("the next node does it");
    assert_eq!(fake.state.lock().asked.len(), 3);
}
