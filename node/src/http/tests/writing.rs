//! PutRecord and PutRecords.

use super::*;
use crate::metadata::View;
use crate::router::Error;

const ACCOUNT: &str = "000000000000";

fn record(extra: Value) -> Value {
    let mut input = json!({"StreamName": "s", "PartitionKey": "a", "Data": "aGVsbG8="});
    for (name, value) in extra.as_object().unwrap() {
        input[name] = value.clone();
    }
    input
}

fn records(keys: &[&str]) -> Value {
    let entry = |key: &&str| json!({"PartitionKey": key, "Data": ""});
    json!({"StreamName": "s", "Records": keys.iter().map(entry).collect::<Vec<_>>()})
}

#[tokio::test]
async fn a_record_lands_where_its_key_belongs() {
    let house = House::with_stream("s", 3).await;
    // As recorded from AWS with three shards.
    for (key, shard) in [("a", 0), ("b", 1), ("f", 1), ("e", 2)] {
        let got = house.call("PutRecord", record(json!({"PartitionKey": key}))).await.ok();
        assert_eq!(got["ShardId"], format!("shardId-{shard:012}"));
        assert_eq!(got.as_object().unwrap().len(), 2, "{got}");
        assert_eq!(got["SequenceNumber"].as_str().map(str::len), Some(56));
    }
    let max = "340282366920938463463374607431768211455";
    let explicit = house.call("PutRecord", record(json!({"ExplicitHashKey": max}))).await.ok();
    assert_eq!(explicit["ShardId"], "shardId-000000000002");
}

#[tokio::test]
async fn bad_members_are_refused_in_awss_words() {
    let house = House::with_stream("s", 1).await;
    let put = |extra| house.call("PutRecord", record(extra));
    put(json!({"Data": "23456"})).await.is_error(
        400,
        "SerializationException",
        "'23456' can not be converted to a Blob: Base64 encoded length is expected a multiple of \
         4 bytes but found: 5",
    );
    put(json!({"PartitionKey": 1})).await.is_error(
        400,
        "SerializationException",
        "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to an \
         String",
    );
    put(json!({"StreamName": ""})).await.is_error(
        400,
        "ValidationException",
        "2 validation errors detected: Value '' at 'streamName' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value '' at 'streamName' \
         failed to satisfy constraint: Member must have length greater than or equal to 1",
    );
    put(json!({"Data": null, "StreamName": "none"})).await.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value null at 'data' failed to satisfy constraint: Member \
         must not be null",
    );
    put(json!({"ExplicitHashKey": "340282366920938463463374607431768211456"})).await.is_error(
        400,
        "InvalidArgumentException",
        "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified \
         value was 340282366920938463463374607431768211456",
    );
    put(json!({"SequenceNumberForOrdering": "3"})).await.ok();
    let future = "59999999999999999999999999999999999999999999999999999999";
    put(json!({"SequenceNumberForOrdering": future})).await.is_error(
        400,
        "InvalidArgumentException",
        &format!(
            "ExclusiveMinimumSequenceNumber {future} used in PutRecord on stream s under account \
             {ACCOUNT} is invalid."
        ),
    );
    assert_eq!(house.fake.stored(), 1, "only the good one");
}

#[tokio::test]
async fn a_record_may_be_as_large_as_its_stream_allows_key_included() {
    use base64::Engine;
    let house = House::with_stream("s", 1).await;
    let data = |n: usize| base64::engine::general_purpose::STANDARD.encode(vec![7; n]);
    let put = |n: usize| house.call("PutRecord", record(json!({"Data": data(n)})));
    put((1 << 20) - 1).await.ok();
    put(1 << 20).await.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value at 'data' failed to satisfy constraint: Member must \
         have length less than or equal to 1048576",
    );
    put((10 << 20) + 1).await.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value \
         'java.nio.HeapByteBuffer[pos=0 lim=10485761 cap=10485761]' at 'data' failed to satisfy \
         constraint: Member must have length less than or equal to 10485760",
    );
}

#[tokio::test]
async fn a_stream_takes_records_only_while_it_is_active() {
    let house = House::with_stream("s", 1).await;
    let text = format!("Stream s under account {ACCOUNT} not found.");
    for status in [StreamStatus::Creating, StreamStatus::Deleting] {
        house.fake.set_status("s", status);
        for (operation, input) in
            [("PutRecord", record(json!({}))), ("PutRecords", records(&["a"]))]
        {
            house.call(operation, input).await.is_error(400, "ResourceNotFoundException", &text);
        }
    }
    house.fake.forget("s");
    let got = house.call("PutRecord", record(json!({}))).await;
    got.is_error(400, "ResourceNotFoundException", &text);
}

#[tokio::test]
async fn a_node_that_lags_behind_asks_before_it_refuses() {
    let house = House::with_stream("s", 1).await;
    let active = house.fake.view();
    house.fake.set_status("s", StreamStatus::Creating);
    let creating = house.fake.view();
    house.fake.forget("s");
    house.create("s", 1).await;
    let ask = json!({"StreamName": "s", "ShardId": "0", "ShardIteratorType": "TRIM_HORIZON"});
    let token = house.call("GetShardIterator", ask).await.ok();

    house.fake.lag_at(creating);
    house.call("PutRecord", record(json!({}))).await.ok();
    // It knows an active stream, but an earlier one of that name.
    house.fake.lag_at(active);
    let read = json!({"ShardIterator": token["ShardIterator"]});
    house.call("GetRecords", read).await.ok();
}

/// "No such stream" is final for an SDK, so a node that cannot know must not say it.
#[tokio::test]
async fn a_node_that_reaches_no_quorum_does_not_deny_what_it_has_not_heard_of() {
    let house = House::with_stream("s", 1).await;
    let ask = json!({"StreamName": "s", "ShardId": "0", "ShardIteratorType": "TRIM_HORIZON"});
    house.fake.lag_at(View::default());
    house.fake.cut_off();
    for (operation, body) in [
        ("PutRecord", record(json!({}))),
        ("GetShardIterator", ask),
        ("DescribeStream", json!({"StreamName": "s"})),
        ("SplitShard", json!({"StreamName": "s", "ShardToSplit": "0", "NewStartingHashKey": "9"})),
    ] {
        let got = house.call(operation, body).await;
        assert_eq!(got.status, 503, "{operation}: {got:?}");
    }
}

#[tokio::test]
async fn a_node_that_reaches_no_quorum_changes_nothing_by_what_it_remembers() {
    let house = House::with_stream("s", 2).await;
    house.fake.cut_off();
    let arn = "arn:aws:kinesis:us-east-1:000000000000:stream/s";
    for (operation, body) in [
        ("SplitShard", json!({"StreamName": "s", "ShardToSplit": "0", "NewStartingHashKey": "9"})),
        (
            "MergeShards",
            json!({"StreamName": "s", "ShardToMerge": "0", "AdjacentShardToMerge": "1"}),
        ),
        (
            "UpdateShardCount",
            json!({
                "StreamName": "s", "TargetShardCount": 4, "ScalingType": "UNIFORM_SCALING",
            }),
        ),
        (
            "UpdateStreamMode",
            json!({
                "StreamARN": arn, "StreamModeDetails": {"StreamMode": "ON_DEMAND"},
            }),
        ),
        ("DeleteStream", json!({"StreamName": "s"})),
    ] {
        let got = house.call(operation, body).await;
        assert_eq!(got.status, 503, "{operation}: {got:?}");
    }
    let got = house.call("DescribeStreamSummary", json!({"StreamName": "s"})).await.ok();
    assert_eq!(got["StreamDescriptionSummary"]["StreamStatus"], "ACTIVE");
}

#[tokio::test]
async fn refusals_of_the_shard_become_answers_that_clients_understand() {
    let house = House::with_stream("s", 1).await;
    house.fake.fail_puts(0, Error::Throttled("full".into()));
    house.call("PutRecord", record(json!({}))).await.is_error(
        400,
        "ProvisionedThroughputExceededException",
        &format!(
            "Rate exceeded for shard shardId-000000000000 in stream s under account {ACCOUNT}."
        ),
    );
    house.fake.fail_puts(0, Error::Unavailable("no quorum".into()));
    let got = house.call("PutRecord", record(json!({}))).await;
    got.is_error(503, "ServiceUnavailableException", "no quorum");
    house.fake.fail_puts(0, Error::StorageFull("the disk is nearly full".into()));
    let got = house.call("PutRecord", record(json!({}))).await;
    got.is_error(503, "ServiceUnavailableException", "the disk is nearly full");
    let got = house.call("PutRecords", records(&["a"])).await.ok();
    assert_eq!(
        got["Records"][0],
        json!({
            "ErrorCode": "InternalFailure",
            "ErrorMessage": "Internal service failure. the disk is nearly full",
        })
    );
    house.fake.fail_puts(0, Error::Unknown("the leader went away".into()));
    let got = house.call("PutRecord", record(json!({}))).await;
    assert_eq!((got.status, got.json()), (500, json!({"__type": "InternalFailure"})));
}

#[tokio::test]
async fn many_records_are_answered_in_the_order_of_the_request() {
    let house = House::with_stream("s", 3).await;
    let got = house.call("PutRecords", records(&["e", "a", "b", "f", "a", "e"])).await.ok();
    assert_eq!(got["FailedRecordCount"], 0);
    let entries = got["Records"].as_array().unwrap();
    let shards: Vec<u64> = entries
        .iter()
        .map(|entry| entry["ShardId"].as_str().unwrap()[8..].parse().unwrap())
        .collect();
    assert_eq!(shards, [2, 0, 1, 1, 0, 2]);
    assert!(entries.iter().all(|entry| entry.as_object().unwrap().len() == 2));
    let counter = |at: usize| {
        let number = entries[at]["SequenceNumber"].as_str().unwrap();
        number.parse::<tristream_proto::domain::SequenceNumber>().unwrap().counter
    };
    for (first, second) in [(0, 5), (1, 4), (2, 3)] {
        assert_eq!(counter(second), counter(first) + 1, "steps of one within a shard");
    }
}

#[tokio::test]
async fn each_record_tells_its_own_fate() {
    let house = House::with_stream("s", 3).await;
    house.fake.fail_puts(1, Error::Throttled("full".into()));
    house.fake.fail_puts(2, Error::Unavailable("no quorum".into()));
    let got = house.call("PutRecords", records(&["e", "b", "a"])).await.ok();
    assert_eq!(got["FailedRecordCount"], 2);
    let text = format!(
        "Rate exceeded for shard shardId-000000000001 in stream s under account {ACCOUNT}."
    );
    assert_eq!(
        got["Records"].as_array().unwrap()[..2],
        [
            json!({"ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure. no quorum"}),
            json!({"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": text}),
        ]
    );
    assert_eq!(got["Records"][2]["ShardId"], "shardId-000000000000");

    house.fake.fail_puts(0, Error::Unavailable("no quorum".into()));
    let got = house.call("PutRecords", records(&["e", "a"])).await.ok();
    assert_eq!(got["FailedRecordCount"], 2, "200 also when nothing was stored");

    for shard in 0..3 {
        house.fake.fail_puts(shard, Error::StreamNotFound("s".parse().unwrap()));
    }
    house.call("PutRecords", records(&["e", "a"])).await.is_error(
        400,
        "ResourceNotFoundException",
        &format!("Stream s under account {ACCOUNT} not found."),
    );
}

#[tokio::test]
async fn the_list_has_one_to_five_hundred_records() {
    let house = House::with_stream("s", 1).await;
    house.call("PutRecords", records(&[])).await.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value '[]' at 'records' failed to satisfy constraint: Member \
         must have length greater than or equal to 1",
    );
    let shown = vec!["com.amazonaws.kinesis.v20131202.PutRecordsRequestEntry@c965e310"; 501];
    let list = format!(
        "Value '[{}]' at 'records' failed to satisfy constraint: Member must have length less than \
         or equal to 500",
        shown.join(", ")
    );
    let keys = (1..10).map(|at| {
        format!(
            "; Value '' at 'records.{at}.member.partitionKey' failed to satisfy constraint: Member \
             must have length greater than or equal to 1"
        )
    });
    let expected = format!("10 validation errors detected: {list}{}", keys.collect::<String>());
    let got = house.call("PutRecords", records(&[""; 501])).await;
    got.is_error(400, "ValidationException", &expected);
    let got = house.call("PutRecords", json!({"StreamName": "s", "Records": [null]})).await;
    got.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value null at 'records.1.member' failed to satisfy \
         constraint: Member must not be null",
    );
    let got = house.call("PutRecords", records(&["a"; 500])).await.ok();
    assert_eq!(got["Records"].as_array().map(Vec::len), Some(500));
    house.call("PutRecords", json!({"StreamName": "s", "Records": "x"})).await.is_error(
        400,
        "SerializationException",
        "Expected list or null",
    );
}

#[tokio::test]
async fn a_call_may_bring_ten_mebibytes() {
    use base64::Engine;
    let house = House::with_stream("s", 1).await;
    let data = base64::engine::general_purpose::STANDARD.encode(vec![7; (1 << 20) - 1]);
    let input = |n: usize| {
        let entry = json!({"PartitionKey": "k", "Data": data});
        json!({"StreamName": "s", "Records": vec![entry; n]})
    };
    house.call("PutRecords", input(10)).await.ok();
    house.call("PutRecords", input(11)).await.is_error(
        400,
        "InvalidArgumentException",
        "Records size exceeds 10 MB limit",
    );
    assert_eq!(house.fake.stored(), 10);
}

#[tokio::test]
async fn a_dry_run_checks_and_stores_nothing() {
    let house = House::with_stream("s", 1).await;
    let mut many = records(&["a"]);
    many["DryRun"] = json!(true);
    for (operation, input) in [("PutRecord", record(json!({"DryRun": true}))), ("PutRecords", many)]
    {
        house.call(operation, input).await.is_error(
            400,
            "DryRunOperationException",
            "Request would have succeeded, but DryRun flag is set.",
        );
    }
    assert_eq!(house.fake.stored(), 0);
}
