//! Creating, deleting, describing and listing.

use std::time::Duration;

use super::*;

const ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/s";

fn names(got: &Value) -> Vec<&str> {
    got["StreamNames"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

fn shard_ids(shards: &Value) -> Vec<u64> {
    let ids = shards.as_array().unwrap().iter();
    ids.map(|shard| shard["ShardId"].as_str().unwrap()[8..].parse().unwrap()).collect()
}

#[tokio::test]
async fn a_stream_is_described_as_aws_does() {
    let house = House::new().await;
    house.call("CreateStream", json!({"StreamName": "s", "ShardCount": 3})).await;
    let creating = house.call("DescribeStream", json!({"StreamName": "s"})).await.ok();
    let mut expected = json!({"StreamDescription": {
        "StreamName": "s",
        "StreamARN": ARN,
        "StreamStatus": "CREATING",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "StreamCreationTimestamp": 1_790_000_000.25,
        "RetentionPeriodHours": 24,
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "EncryptionType": "NONE",
        "Shards": [],
        "HasMoreShards": false,
    }});
    assert_eq!(creating, expected);
    house.fake.set_status("s", StreamStatus::Active);
    let active = house.call("DescribeStream", json!({"StreamARN": ARN})).await.ok();
    let shards = &active["StreamDescription"]["Shards"];
    assert_eq!(shard_ids(shards), [0, 1, 2]);
    let start = house.fake.stream_now("s").map.shards()[1].starting_sequence_number().to_string();
    assert_eq!(
        shards[1],
        json!({
            "ShardId": "shardId-000000000001",
            "HashKeyRange": {
                "StartingHashKey": "113427455640312821154458202477256070485",
                "EndingHashKey": "226854911280625642308916404954512140969",
            },
            "SequenceNumberRange": {"StartingSequenceNumber": start},
        })
    );
    let summary = house.call("DescribeStreamSummary", json!({"StreamName": "s"})).await.ok();
    let common = expected["StreamDescription"].as_object_mut().unwrap();
    common.retain(|name, _| name != "Shards" && name != "HasMoreShards");
    common["StreamStatus"] = json!("ACTIVE");
    for (name, value) in [("OpenShardCount", 3), ("ConsumerCount", 0), ("MaxRecordSizeInKiB", 1024)]
    {
        common.insert(name.to_owned(), json!(value));
    }
    assert_eq!(summary, json!({"StreamDescriptionSummary": common}));
}

#[tokio::test]
async fn a_stream_without_a_count_follows_the_load_from_four_shards() {
    let house = House::new().await;
    for (name, input) in [
        ("a", json!({"StreamName": "a"})),
        (
            "b",
            json!({"StreamName": "b", "StreamModeDetails": {"StreamMode": "ON_DEMAND"}, "ShardCount": 9}),
        ),
    ] {
        house.call("CreateStream", input).await;
        let got = house.call("DescribeStreamSummary", json!({"StreamName": name})).await.ok();
        let summary = &got["StreamDescriptionSummary"];
        assert_eq!(summary["OpenShardCount"], 4);
        assert_eq!(summary["StreamModeDetails"]["StreamMode"], "ON_DEMAND");
    }
    let provisioned =
        json!({"StreamName": "c", "StreamModeDetails": {"StreamMode": "PROVISIONED"}});
    let got = house.call("CreateStream", provisioned).await;
    assert_eq!(got.json()["__type"], "InvalidArgumentException");
}

#[tokio::test]
async fn creating_is_refused_in_awss_words() {
    let house = House::with_stream("s", 3).await;
    let create = |input| house.call("CreateStream", input);
    create(json!({"StreamName": "s", "ShardCount": 1})).await.is_error(
        400,
        "ResourceInUseException",
        "Stream s under account 000000000000 already exists.",
    );
    create(json!({"StreamName": "t", "ShardCount": 100_000})).await.is_error(
        400,
        "LimitExceededException",
        "This request would exceed the shard limit for the account 000000000000 in us-east-1. \
         Current shard count for the account: 3. Limit: 200. Number of additional shards that \
         would have resulted from this request: 100000. Refer to the AWS Service Limits page \
         (http://docs.aws.amazon.com/general/latest/gr/aws_service_limits.html) for current limits \
         and how to request higher limits.",
    );
    create(json!({"ShardCount": 0})).await.is_error(
        400,
        "ValidationException",
        "2 validation errors detected: Value null at 'streamName' failed to satisfy constraint: \
         Member must not be null; Value '0' at 'shardCount' failed to satisfy constraint: Member \
         must have value greater than or equal to 1",
    );
    create(json!({"StreamName": "t", "ShardCount": true})).await.is_error(
        400,
        "SerializationException",
        "class java.lang.Boolean can not be converted to an Integer",
    );
    let mode = json!({"StreamName": "t", "StreamModeDetails": {"StreamMode": "x"}});
    create(mode).await.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value 'x' at 'streamModeDetails.streamMode' failed to \
         satisfy constraint: Member must satisfy enum value set: [PROVISIONED, ON_DEMAND]",
    );
    create(json!({"StreamName": "t", "Tags": {"": "v"}})).await.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value '{=v}' at 'tags' failed to satisfy constraint: Map \
         keys must satisfy constraint: [Member must have length less than or equal to 128, Member \
         must have length greater than or equal to 1]",
    );
}

#[tokio::test]
async fn what_a_stream_was_created_with_is_kept() {
    let house = House::new().await;
    let input = json!({
        "StreamName": "s", "ShardCount": 1, "MaxRecordSizeInKiB": 2048, "Tags": {"team": "otter"},
    });
    house.call("CreateStream", input).await;
    let stream = house.fake.stream_now("s");
    assert_eq!(stream.record_bytes_max, 2 << 20);
    assert_eq!(stream.tags["team"], "otter");
}

#[tokio::test]
async fn a_stream_is_deleted_in_any_state_but_once() {
    let house = House::with_stream("s", 1).await;
    house.fake.set_status("s", StreamStatus::Creating);
    let delete = || house.call("DeleteStream", json!({"StreamName": "s"}));
    let got = delete().await;
    assert_eq!((got.status, got.body.len()), (200, 0));
    let described = house.call("DescribeStream", json!({"StreamName": "s"})).await.ok();
    assert_eq!(described["StreamDescription"]["StreamStatus"], "DELETING");
    delete().await.is_error(
        400,
        "ResourceInUseException",
        "Stream s under account 000000000000 not ACTIVE, instead in state DELETING",
    );
    house.fake.forget("s");
    let text = "Stream s under account 000000000000 not found.";
    delete().await.is_error(400, "ResourceNotFoundException", text);
}

#[tokio::test]
async fn streams_are_addressed_by_name_or_arn_or_both() {
    let house = House::with_stream("s", 1).await;
    let describe = |input| house.call("DescribeStreamSummary", input);
    describe(json!({"StreamName": "s", "StreamARN": ARN, "StreamId": "x"})).await.ok();
    let other = ARN.replace("/s", "/t");
    let not_found = |account: &str| format!("Stream t under account {account} not found.");
    describe(json!({"StreamARN": other})).await.is_error(
        400,
        "ResourceNotFoundException",
        &not_found("000000000000"),
    );
    describe(json!({"StreamARN": other.replace("000000000000", "111111111111")})).await.is_error(
        400,
        "ResourceNotFoundException",
        &not_found("111111111111"),
    );
    for input in [json!({}), json!({"StreamName": "s", "StreamARN": other})] {
        assert_eq!(describe(input).await.json()["__type"], "InvalidArgumentException");
    }
    let got = describe(json!({"StreamARN": "arn"})).await;
    got.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value 'arn' at 'streamARN' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: arn:aws.*:kinesis:.*:\\d{12}:stream/\\S+",
    );
}

#[tokio::test]
async fn streams_are_listed_by_name_page_by_page() {
    let house = House::new().await;
    for name in ["c", "a", "d", "b"] {
        house.create(name, 1).await;
    }
    house.fake.set_status("b", StreamStatus::Deleting);
    let first = house.call("ListStreams", json!({"Limit": 3})).await.ok();
    assert_eq!(names(&first), ["a", "b", "c"]);
    assert_eq!(first["HasMoreStreams"], true);
    assert_eq!(first["StreamSummaries"][1]["StreamStatus"], "DELETING");
    let token = first["NextToken"].as_str().unwrap();
    let second = house.call("ListStreams", json!({"NextToken": token})).await.ok();
    assert_eq!(names(&second), ["d"]);
    assert_eq!(second["HasMoreStreams"], false);
    assert!(second.get("NextToken").is_none());
    let after = house.call("ListStreams", json!({"ExclusiveStartStreamName": "bb"})).await.ok();
    assert_eq!(names(&after), ["c", "d"]);

    house.fake.clock.pass(Duration::from_millis(300_001));
    let late = house.call("ListStreams", json!({"NextToken": token})).await;
    assert_eq!(late.json()["__type"], "ExpiredNextTokenException");
    let bogus = house.call("ListStreams", json!({"NextToken": "bogus"})).await;
    bogus.is_error(400, "InvalidArgumentException", "Invalid NextToken.");
}

#[tokio::test]
async fn shards_are_described_a_hundred_at_a_time() {
    let house = House::with_stream("s", 150).await;
    let describe = |input| house.call("DescribeStream", input);
    let got = describe(json!({"StreamName": "s", "Limit": 1_000})).await.ok();
    let first = &got["StreamDescription"];
    assert_eq!(shard_ids(&first["Shards"]), (0..100).collect::<Vec<_>>());
    assert_eq!(first["HasMoreShards"], true);
    let after = first["Shards"][99]["ShardId"].as_str().unwrap();
    let got = describe(json!({"StreamName": "s", "ExclusiveStartShardId": after})).await.ok();
    let rest = &got["StreamDescription"];
    assert_eq!(shard_ids(&rest["Shards"]), (100..150).collect::<Vec<_>>());
    assert_eq!(rest["HasMoreShards"], false);
}

#[tokio::test]
async fn shards_are_listed_page_by_page_under_one_filter() {
    let house = House::with_stream("s", 5).await;
    let list = |input| house.call("ListShards", input);
    let filter = json!({"Type": "AFTER_SHARD_ID", "ShardId": "shardId-000000000000"});
    let first = list(json!({"StreamName": "s", "MaxResults": 2, "ShardFilter": filter})).await.ok();
    assert_eq!(shard_ids(&first["Shards"]), [1, 2]);
    let token = first["NextToken"].as_str().unwrap();
    let second = list(json!({"NextToken": token, "MaxResults": 2})).await.ok();
    assert_eq!(shard_ids(&second["Shards"]), [3, 4]);
    assert!(second.get("NextToken").is_none(), "nothing follows");
    let after = json!({"StreamName": "s", "ExclusiveStartShardId": "shardId-000000000003"});
    assert_eq!(shard_ids(&list(after).await.ok()["Shards"]), [4]);
    for kind in ["AT_LATEST", "AT_TRIM_HORIZON", "FROM_TRIM_HORIZON"] {
        let got = list(json!({"StreamName": "s", "ShardFilter": {"Type": kind}})).await.ok();
        assert_eq!(shard_ids(&got["Shards"]), [0, 1, 2, 3, 4], "{kind}");
    }
    let early = json!({"StreamName": "s", "ShardFilter": {"Type": "AT_TIMESTAMP", "Timestamp": 5}});
    assert_eq!(shard_ids(&list(early).await.ok()["Shards"]), [0, 1, 2, 3, 4]);

    let stolen = house.call("ListStreams", json!({"NextToken": token})).await;
    stolen.is_error(400, "InvalidArgumentException", "Invalid NextToken.");
    house.fake.forget("s");
    house.create("s", 5).await;
    list(json!({"NextToken": token})).await.is_error(
        400,
        "ResourceNotFoundException",
        "Stream s under account 000000000000 not found.",
    );
}

#[tokio::test]
async fn listing_shards_is_refused_in_awss_words() {
    let house = House::with_stream("s", 2).await;
    let list = |input| house.call("ListShards", input);
    let invalid = "InvalidArgumentException";
    let text = "Either NextToken or StreamName should be provided.";
    list(json!({})).await.is_error(400, invalid, text);
    let text = "NextToken and StreamName cannot be provided together.";
    list(json!({"NextToken": "x", "StreamName": "s"})).await.is_error(400, invalid, text);
    let token = list(json!({"StreamName": "s", "MaxResults": 1})).await.ok();
    let token = token["NextToken"].as_str().unwrap();
    let both = json!({"NextToken": token, "ShardFilter": {"Type": "AT_LATEST"}});
    let text = "NextToken and ShardFilter cannot be provided together.";
    list(both).await.is_error(400, invalid, text);
    let lacking = json!({"StreamName": "s", "ShardFilter": {"Type": "AT_TIMESTAMP"}});
    assert_eq!(list(lacking).await.json()["__type"], invalid);
    let other = json!({"StreamName": "s", "StreamCreationTimestamp": 1_790_000_001});
    assert_eq!(list(other).await.json()["__type"], "ResourceNotFoundException");
    list(json!({"StreamName": "s", "StreamCreationTimestamp": 1_790_000_000.25})).await.ok();
    house.fake.set_status("s", StreamStatus::Creating);
    list(json!({"StreamName": "s"})).await.is_error(
        400,
        "ResourceInUseException",
        "Stream s under account 000000000000 not ACTIVE, instead in state CREATING",
    );
    house.fake.clock.pass(Duration::from_secs(301));
    let late = list(json!({"NextToken": token})).await;
    assert_eq!(late.json()["__type"], "ExpiredNextTokenException");
}
