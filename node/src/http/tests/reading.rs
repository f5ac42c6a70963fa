//! GetShardIterator and GetRecords.

use std::time::Duration;

use tristream_proto::domain::{SequenceNumber, ShardId};

use super::*;
use crate::router::Error;

const SHARD: &str = "shardId-000000000000";
const GONE: &str =
    "Shard shardId-000000000000 in stream s under account 000000000000 does not exist";

impl House {
    async fn put(&self, data: &str) -> String {
        let input = json!({"StreamName": "s", "PartitionKey": "k", "Data": data});
        let got = self.call("PutRecord", input).await.ok();
        got["SequenceNumber"].as_str().unwrap().to_owned()
    }

    async fn iterator(&self, kind: &str, extra: Value) -> Got {
        let mut input = json!({"StreamName": "s", "ShardId": SHARD, "ShardIteratorType": kind});
        for (name, value) in extra.as_object().unwrap() {
            input[name] = value.clone();
        }
        self.call("GetShardIterator", input).await
    }

    async fn token(&self, kind: &str, extra: Value) -> String {
        let got = self.iterator(kind, extra).await.ok();
        assert_eq!(got.as_object().unwrap().len(), 1);
        got["ShardIterator"].as_str().unwrap().to_owned()
    }

    async fn read(&self, token: &str) -> Value {
        self.call("GetRecords", json!({"ShardIterator": token})).await.ok()
    }
}

fn data(page: &Value) -> Vec<&str> {
    let records = page["Records"].as_array().unwrap().iter();
    records.map(|record| record["Data"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_type_begins_where_it_says() {
    let house = House::with_stream("s", 1).await;
    let first = house.put("AAAA").await;
    house.fake.clock.pass(Duration::from_secs(10));
    let second = house.put("AAAB").await;
    let latest = house.token("LATEST", json!({})).await;
    house.fake.clock.pass(Duration::from_secs(10));
    house.put("AAAC").await;

    let number = |number: &str| json!({"StartingSequenceNumber": number});
    let start = house.fake.stream_now("s").map.shards()[0].starting_sequence_number().to_string();
    for (kind, extra, expected) in [
        ("TRIM_HORIZON", json!({}), &["AAAA", "AAAB", "AAAC"][..]),
        ("AT_SEQUENCE_NUMBER", number(&second), &["AAAB", "AAAC"]),
        ("AFTER_SEQUENCE_NUMBER", number(&first), &["AAAB", "AAAC"]),
        ("AT_SEQUENCE_NUMBER", number(&start), &["AAAA", "AAAB", "AAAC"]),
        ("AFTER_SEQUENCE_NUMBER", number(&start), &["AAAA", "AAAB", "AAAC"]),
        ("AT_TIMESTAMP", json!({"Timestamp": 1_790_000_010.25}), &["AAAB", "AAAC"]),
        ("AT_TIMESTAMP", json!({"Timestamp": 1_790_000_010.251}), &["AAAC"]),
        ("AT_TIMESTAMP", json!({"Timestamp": 0}), &["AAAA", "AAAB", "AAAC"]),
    ] {
        let token = house.token(kind, extra).await;
        assert_eq!(data(&house.read(&token).await), expected, "{kind}");
    }
    assert_eq!(data(&house.read(&latest).await), ["AAAC"], "pinned when it was made");
}

#[tokio::test]
async fn a_page_tells_what_it_holds_and_how_far_behind_it_is() {
    let house = House::with_stream("s", 1).await;
    let number = house.put("AAAA").await;
    house.put("AAAB").await;
    house.fake.clock.pass(Duration::from_millis(1_500));
    let token = house.token("TRIM_HORIZON", json!({})).await;
    let ask = json!({"ShardIterator": token, "Limit": 1});
    let got = house.call("GetRecords", ask.clone()).await;
    assert_eq!(got.header("x-tristream-stale"), None);
    let page = got.ok();
    let expected = json!([{
        "SequenceNumber": number,
        "ApproximateArrivalTimestamp": 1_790_000_000.25,
        "Data": "AAAA",
        "PartitionKey": "k",
    }]);
    assert_eq!(page["Records"], expected);
    assert_eq!(page["MillisBehindLatest"], 1_500);
    assert_eq!(page.as_object().unwrap().len(), 3, "no ChildShards");

    let again = house.call("GetRecords", ask).await.ok();
    assert_eq!(again["Records"], expected, "a retried token reads the same");
    let next = page["NextShardIterator"].as_str().unwrap();
    let quoted = house.read(&format!("\"{next}\"")).await;
    assert_eq!(data(&quoted), ["AAAB"]);
    assert_eq!(quoted["MillisBehindLatest"], 0);
    let tip = quoted["NextShardIterator"].as_str().unwrap();
    let empty = house.read(tip).await;
    assert_eq!(empty["Records"], json!([]));
    assert_ne!(empty["NextShardIterator"].as_str().unwrap(), tip, "a fresh token each time");
}

#[tokio::test]
async fn a_page_that_may_be_stale_says_so() {
    let house = House::with_stream("s", 1).await;
    house.fake.read_stale();
    let token = house.token("TRIM_HORIZON", json!({})).await;
    let got = house.call("GetRecords", json!({"ShardIterator": token})).await;
    assert_eq!(got.header("x-tristream-stale"), Some("true"));
}

#[tokio::test]
async fn bad_iterators_are_told_apart() {
    let house = House::with_stream("s", 1).await;
    let read = |token: &str| house.call("GetRecords", json!({"ShardIterator": token}));
    read("bogusmonkeys").await.is_error(400, "InvalidArgumentException", "Invalid ShardIterator.");
    house.call("GetRecords", json!({"Limit": 10_001})).await.is_error(
        400,
        "ValidationException",
        "2 validation errors detected: Value null at 'shardIterator' failed to satisfy constraint: \
         Member must not be null; Value '10001' at 'limit' failed to satisfy constraint: Member \
         must have value less than or equal to 10000",
    );
    let token = house.token("TRIM_HORIZON", json!({})).await;
    house.fake.clock.pass(Duration::from_millis(300_000));
    house.read(&token).await;
    house.fake.clock.pass(Duration::from_millis(1));
    read(&token).await.is_error(
        400,
        "ExpiredIteratorException",
        "Iterator expired. The iterator was created at time Mon Sep 21 14:13:20 UTC 2026 while \
         right now it is Mon Sep 21 14:18:20 UTC 2026 which is further in the future than the \
         tolerated delay of 300000 milliseconds.",
    );
}

#[tokio::test]
async fn an_iterator_does_not_outlive_its_stream() {
    let house = House::with_stream("s", 1).await;
    let token = house.token("TRIM_HORIZON", json!({})).await;
    let read = || house.call("GetRecords", json!({"ShardIterator": token}));
    house.fake.set_status("s", StreamStatus::Deleting);
    read().await.is_error(400, "ResourceNotFoundException", GONE);
    house.fake.forget("s");
    read().await.is_error(400, "ResourceNotFoundException", GONE);
    house.create("s", 1).await;
    read().await.is_error(400, "ResourceNotFoundException", GONE);
}

#[tokio::test]
async fn a_shard_that_cannot_be_read_says_whether_to_come_again() {
    let house = House::with_stream("s", 1).await;
    let token = house.token("TRIM_HORIZON", json!({})).await;
    let read = || house.call("GetRecords", json!({"ShardIterator": token}));
    house.fake.fail_reads(Error::Throttled("x".into()));
    read().await.is_error(
        400,
        "ProvisionedThroughputExceededException",
        "Rate exceeded for Shard - 000000000000/s/shardId-000000000000",
    );
    house.fake.fail_reads(Error::Unavailable("no replica answers".into()));
    read().await.is_error(503, "ServiceUnavailableException", "no replica answers");
    house.fake.fail_reads(Error::Damaged("bit rot".into()));
    let got = read().await;
    assert_eq!((got.status, got.json()), (500, json!({"__type": "InternalFailure"})));
}

#[tokio::test]
async fn iterators_are_refused_in_awss_order_and_words() {
    let house = House::with_stream("s", 1).await;
    let not_found = "ResourceNotFoundException";
    let bogus = json!({"ShardId": "bogus-shard-id", "StreamName": "none"});
    house.iterator("LATEST", bogus).await.is_error(
        400,
        not_found,
        "Could not find shard bogus-shard-id in stream none under account 000000000000.",
    );
    let none = json!({"StreamName": "none", "StartingSequenceNumber": "5"});
    house.iterator("LATEST", none).await.is_error(
        400,
        not_found,
        "Shard shardId-000000000000 in stream none under account 000000000000 does not exist",
    );
    house.iterator("LATEST", json!({"ShardId": "shard-1"})).await.is_error(
        400,
        not_found,
        "Shard shardId-000000000001 in stream s under account 000000000000 does not exist",
    );
    house.fake.set_status("s", StreamStatus::Creating);
    house.iterator("LATEST", json!({})).await.is_error(400, not_found, GONE);
    house.fake.set_status("s", StreamStatus::Active);
    house.iterator("NEWEST", json!({})).await.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value 'NEWEST' at 'shardIteratorType' failed to satisfy \
         constraint: Member must satisfy enum value set: [AFTER_SEQUENCE_NUMBER, LATEST, \
         AT_TIMESTAMP, AT_SEQUENCE_NUMBER, TRIM_HORIZON]",
    );
}

#[tokio::test]
async fn arguments_that_do_not_fit_the_type_are_refused() {
    let house = House::with_stream("s", 1).await;
    let rule = "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and \
                StartingSequenceNumber or (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. \
                Request specified";
    let number = |number: &str| json!({"StartingSequenceNumber": number});
    let other_second = SequenceNumber::start_of(ShardId::from(0), 1_700_000_000);
    let foreign = &other_second.to_string();
    let bad = "99999999999999999999999999999999999999999999999999999999";
    let used = "used in GetShardIterator on shard shardId-000000000000 in stream s under account \
                000000000000 is invalid";
    for (kind, extra, text) in [
        ("AT_SEQUENCE_NUMBER", json!({}), format!("{rule} AT_SEQUENCE_NUMBER and no StartingSequenceNumber.")),
        ("LATEST", number("5"), format!("{rule} LATEST and also a StartingSequenceNumber.")),
        ("AT_SEQUENCE_NUMBER", number(bad), format!("StartingSequenceNumber {bad} {used}.")),
        (
            "AT_SEQUENCE_NUMBER",
            number("5"),
            "Invalid StartingSequenceNumber. It encodes shardId-000000000005, while it was used in \
             a call to a shard with shardId-000000000000"
                .to_owned(),
        ),
        (
            "AT_SEQUENCE_NUMBER",
            number(foreign),
            format!("StartingSequenceNumber {foreign} {used} because it did not come from this stream."),
        ),
        (
            "AT_TIMESTAMP",
            json!({}),
            "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current \
             request has no timestamp parameter."
                .to_owned(),
        ),
        (
            "AT_TIMESTAMP",
            json!({"Timestamp": 1_790_000_002}),
            "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. \
             timestampInMillis: 1790000002000, currentTimestampInMillis: 1790000000250"
                .to_owned(),
        ),
    ] {
        house.iterator(kind, extra).await.is_error(400, "InvalidArgumentException", &text);
    }
    let got = house.iterator("AT_SEQUENCE_NUMBER", number("0")).await;
    assert_eq!((got.status, got.json()), (500, json!({"__type": "InternalFailure"})));
}
