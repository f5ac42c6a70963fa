//! Splits, merges, scaling and modes: what they take and what they refuse.

mod reading;

use super::*;
use crate::metadata::StreamMode;
use crate::router::Error;
use tristream_proto::domain::ShardId;

const ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/s";
const MIDDLE: &str = "170141183460469231731687303715884105728";
const MAX: &str = "340282366920938463463374607431768211455";
const INVALID: &str = "InvalidArgumentException";
const NOT_FOUND: &str = "ResourceNotFoundException";
const LIMIT: &str = "LimitExceededException";

impl House {
    async fn split(&self, shard: &str, key: &str) -> Got {
        let input = json!({"StreamName": "s", "ShardToSplit": shard, "NewStartingHashKey": key});
        self.call("SplitShard", input).await
    }

    async fn merge(&self, shard: &str, adjacent: &str) -> Got {
        let input = json!({
            "StreamName": "s", "ShardToMerge": shard, "AdjacentShardToMerge": adjacent,
        });
        self.call("MergeShards", input).await
    }

    async fn scale(&self, target: u32) -> Got {
        let input = json!({
            "StreamName": "s", "TargetShardCount": target, "ScalingType": "UNIFORM_SCALING",
        });
        self.call("UpdateShardCount", input).await
    }

    async fn mode(&self, mode: &str) -> Got {
        let input = json!({"StreamARN": ARN, "StreamModeDetails": {"StreamMode": mode}});
        self.call("UpdateStreamMode", input).await
    }

    async fn put_at(&self, key: &str, data: &str) -> String {
        let input = json!({
            "StreamName": "s", "PartitionKey": "k", "ExplicitHashKey": key, "Data": data,
        });
        let got = self.call("PutRecord", input).await.ok();
        got["SequenceNumber"].as_str().unwrap().to_owned()
    }

    async fn iterator_of(&self, shard: u32, kind: &str, number: Option<&str>) -> String {
        let mut input = json!({
            "StreamName": "s", "ShardId": shard.to_string(), "ShardIteratorType": kind,
        });
        if let Some(number) = number {
            input["StartingSequenceNumber"] = json!(number);
        }
        let got = self.call("GetShardIterator", input).await.ok();
        got["ShardIterator"].as_str().unwrap().to_owned()
    }

    async fn page(&self, token: &str, limit: u32) -> Value {
        self.call("GetRecords", json!({"ShardIterator": token, "Limit": limit})).await.ok()
    }

    async fn status(&self) -> Value {
        let got = self.call("DescribeStreamSummary", json!({"StreamName": "s"})).await.ok();
        got["StreamDescriptionSummary"].clone()
    }

    async fn list(&self, mut input: Value) -> (Vec<u64>, Option<String>) {
        if input.get("NextToken").is_none() {
            input["StreamName"] = json!("s");
        }
        let got = self.call("ListShards", input).await.ok();
        let ids = got["Shards"].as_array().unwrap().iter();
        let ids = ids.map(|shard| shard["ShardId"].as_str().unwrap()[8..].parse().unwrap());
        (ids.collect(), got["NextToken"].as_str().map(str::to_owned))
    }
}

#[track_caller]
fn is_empty_ok(got: &Got) {
    assert_eq!((got.status, got.body.len()), (200, 0), "{got:?}");
}

fn id(index: u32) -> String {
    ShardId::from(index).to_string()
}

#[tokio::test]
async fn a_split_closes_the_parent_and_its_keys_go_on_in_two_children() {
    let house = House::with_stream("s", 1).await;
    is_empty_ok(&house.split("shard-0", MIDDLE).await);
    assert_eq!(house.fake.changes(), [format!("split 0 at {MIDDLE}")]);
    let updating = house.status().await;
    assert_eq!(
        (&updating["StreamStatus"], &updating["OpenShardCount"]),
        (&json!("UPDATING"), &json!(1))
    );
    assert_eq!(house.list(json!({})).await.0, [0], "the children are not there yet");

    house.fake.publish("s");
    let active = house.status().await;
    assert_eq!((&active["StreamStatus"], &active["OpenShardCount"]), (&json!("ACTIVE"), &json!(2)));
    let got = house.call("DescribeStream", json!({"StreamName": "s"})).await.ok();
    let map = house.fake.stream_now("s").map.clone();
    let number = |at: usize| map.shards()[at].starting_sequence_number().to_string();
    let child = |at: u32, from: &str, to: &str| {
        json!({
            "ShardId": id(at),
            "ParentShardId": id(0),
            "HashKeyRange": {"StartingHashKey": from, "EndingHashKey": to},
            "SequenceNumberRange": {"StartingSequenceNumber": number(at as usize)},
        })
    };
    let below = "170141183460469231731687303715884105727";
    let expected = json!([
        {
            "ShardId": id(0),
            "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": MAX},
            "SequenceNumberRange": {
                "StartingSequenceNumber": number(0),
                "EndingSequenceNumber": map.shards()[0].ending_sequence_number().unwrap().to_string(),
            },
        },
        child(1, "0", below),
        child(2, MIDDLE, MAX),
    ]);
    assert_eq!(got["StreamDescription"]["Shards"], expected);
}

#[tokio::test]
async fn splitting_is_refused_in_awss_order_and_words() {
    let house = House::with_stream("s", 3).await;
    house.call("SplitShard", json!({"NewStartingHashKey": "01", "ShardToSplit": "a b"})).await.is_error(
        400,
        "ValidationException",
        "2 validation errors detected: Value 'a b' at 'shardToSplit' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value '01' at \
         'newStartingHashKey' failed to satisfy constraint: Member must satisfy regular expression \
         pattern: 0|([1-9]\\d{0,38})",
    );
    house.call("SplitShard", json!({"StreamName": "s"})).await.is_error(
        400,
        "ValidationException",
        "2 validation errors detected: Value null at 'shardToSplit' failed to satisfy constraint: \
         Member must not be null; Value null at 'newStartingHashKey' failed to satisfy constraint: \
         Member must not be null",
    );
    let none = |shard: &str| json!({"StreamName": "none", "ShardToSplit": shard, "NewStartingHashKey": "5"});
    house.call("SplitShard", none("ABKLFD8")).await.is_error(
        400,
        NOT_FOUND,
        "Could not find shard ABKLFD8 in stream none under account 000000000000.",
    );
    house.call("SplitShard", none("0")).await.is_error(
        400,
        NOT_FOUND,
        "Stream none under account 000000000000 not found.",
    );
    house.split("shard-9", "5").await.is_error(
        400,
        NOT_FOUND,
        "Could not find shard shardId-000000000009 in stream s under account 000000000000.",
    );
    let (start, end) =
        ("113427455640312821154458202477256070485", "226854911280625642308916404954512140969");
    let above = "113427455640312821154458202477256070486";
    for key in ["0", start, above, end, MAX, "999999999999999999999999999999999999999"] {
        let text = format!(
            "NewStartingHashKey {key} used in SplitShard() on shard shardId-000000000001 in stream \
             s under account 000000000000 is not both greater than one plus the shard's \
             StartingHashKey {start} and less than the shard's EndingHashKey {end}."
        );
        house.split("1", key).await.is_error(400, INVALID, &text);
    }
    assert_eq!(house.fake.changes(), Vec::<String>::new(), "nothing was proposed");
    is_empty_ok(&house.split("1", "113427455640312821154458202477256070487").await);
}

#[tokio::test]
async fn the_account_bears_no_more_shards_than_its_limit_whatever_the_key() {
    let house = House::with_stream("s", 200).await;
    house.split("0", "0").await.is_error(
        400,
        LIMIT,
        "This request would exceed the shard limit for the account 000000000000 in us-east-1. \
         Current shard count for the account: 200. Limit: 200. Number of additional shards that \
         would have resulted from this request: 1. Refer to the AWS Service Limits page \
         (http://docs.aws.amazon.com/general/latest/gr/aws_service_limits.html) for current limits \
         and how to request higher limits.",
    );
}

#[tokio::test]
async fn one_change_at_a_time_and_none_of_what_is_on_demand() {
    let house = House::with_stream("s", 2).await;
    for (status, word) in
        [(StreamStatus::Creating, "CREATING"), (StreamStatus::Updating, "UPDATING")]
    {
        house.fake.set_status("s", status);
        let text =
            format!("Stream s under account 000000000000 not ACTIVE, instead in state {word}");
        for got in [
            house.split("0", "5").await,
            house.merge("0", "1").await,
            house.scale(4).await,
            house.mode("ON_DEMAND").await,
        ] {
            got.is_error(400, "ResourceInUseException", &text);
        }
    }
    // What a shard is not is told after that.
    house.split("9", "0").await.is_error(
        400,
        "ResourceInUseException",
        "Stream s under account 000000000000 not ACTIVE, instead in state UPDATING",
    );
    house.fake.set_status("s", StreamStatus::Active);
    house.fake.set_mode("s", StreamMode::OnDemand);
    let text = "Request is invalid. Stream s under account 000000000000 is in On-Demand mode.";
    for got in [house.split("0", "5").await, house.merge("0", "1").await, house.scale(4).await] {
        got.is_error(400, "ValidationException", text);
    }
    assert_eq!(house.fake.changes(), Vec::<String>::new(), "nothing was proposed");
}

#[tokio::test]
async fn a_merge_closes_both_parents_and_their_keys_go_on_in_one_child() {
    let house = House::with_stream("s", 3).await;
    is_empty_ok(&house.merge("shard-0", "shard-1").await);
    assert_eq!(house.fake.changes(), ["merge 0 1"]);
    house.fake.publish("s");
    let got = house.call("ListShards", json!({"StreamName": "s"})).await.ok();
    let map = house.fake.stream_now("s").map.clone();
    assert_eq!(
        got["Shards"][3],
        json!({
            "ShardId": id(3),
            "ParentShardId": id(0),
            "AdjacentParentShardId": id(1),
            "HashKeyRange": {
                "StartingHashKey": "0",
                "EndingHashKey": "226854911280625642308916404954512140969",
            },
            "SequenceNumberRange": {
                "StartingSequenceNumber": map.shards()[3].starting_sequence_number().to_string(),
            },
        })
    );
    for at in [0, 1] {
        let range = &got["Shards"][at]["SequenceNumberRange"];
        assert!(range["EndingSequenceNumber"].is_string(), "{at} is closed");
    }
}

#[tokio::test]
async fn merging_is_refused_in_awss_order_and_words() {
    let house = House::with_stream("s", 3).await;
    house.call("MergeShards", json!({"StreamName": "s", "ShardToMerge": ""})).await.is_error(
        400,
        "ValidationException",
        "3 validation errors detected: Value '' at 'shardToMerge' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value '' at \
         'shardToMerge' failed to satisfy constraint: Member must have length greater than or equal \
         to 1; Value null at 'adjacentShardToMerge' failed to satisfy constraint: Member must not \
         be null",
    );
    let missing =
        |id: &str| format!("Could not find shard {id} in stream s under account 000000000000.");
    house.merge("shard-1", "bad").await.is_error(400, NOT_FOUND, &missing("bad"));
    house.merge("2147483648", "bad").await.is_error(400, NOT_FOUND, &missing("2147483648"));
    house.merge("0", "7").await.is_error(400, NOT_FOUND, &missing(&id(7)));
    house.merge("8", "7").await.is_error(400, NOT_FOUND, &missing(&id(8)));
    for (a, b) in [(0, 2), (1, 0), (1, 1), (2, 0)] {
        let text = format!(
            "Shards {} and {} in stream s under account 000000000000 are not an adjacent pair of \
             shards eligible for merging",
            id(a),
            id(b)
        );
        house.merge(&a.to_string(), &b.to_string()).await.is_error(400, INVALID, &text);
    }
    assert_eq!(house.fake.changes(), Vec::<String>::new(), "nothing was proposed");
}

#[tokio::test]
async fn a_closed_shard_is_split_and_merged_no_more() {
    let house = House::with_stream("s", 2).await;
    house.split("0", "77").await;
    house.fake.publish("s");
    let text = "Shard shardId-000000000000 in stream s under account 000000000000 has already been \
                merged or split, and thus is not eligible for merging or splitting.";
    // Whatever else is wrong with the request.
    house.split("0", "0").await.is_error(400, INVALID, text);
    house.merge("1", "0").await.is_error(400, INVALID, text);
    is_empty_ok(&house.merge("3", "1").await);
}

#[tokio::test]
async fn what_only_the_metadata_know_is_told_in_the_same_words() {
    let house = House::with_stream("s", 2).await;
    let in_use = "ResourceInUseException";
    for (error, name, text) in [
        (
            Error::NotActive("s".parse().unwrap()),
            in_use,
            "Stream s under account 000000000000 not ACTIVE, instead in state UPDATING",
        ),
        (
            Error::OnDemand("s".parse().unwrap()),
            "ValidationException",
            "Request is invalid. Stream s under account 000000000000 is in On-Demand mode.",
        ),
        (
            Error::NoShard(ShardId::from(1)),
            NOT_FOUND,
            "Could not find shard shardId-000000000001 in stream s under account 000000000000.",
        ),
        (
            Error::NotEligible(ShardId::from(1)),
            INVALID,
            "Shard shardId-000000000001 in stream s under account 000000000000 has already been \
             merged or split, and thus is not eligible for merging or splitting.",
        ),
        (
            Error::StreamNotFound("s".parse().unwrap()),
            NOT_FOUND,
            "Stream s under account 000000000000 not found.",
        ),
        (Error::ChangeLimit("Ten a day.".into()), LIMIT, "Ten a day."),
    ] {
        house.fake.fail_changes(error);
        house.split("0", "5").await.is_error(400, name, text);
        house.merge("0", "1").await.is_error(400, name, text);
        house.scale(4).await.is_error(400, name, text);
        house.mode("ON_DEMAND").await.is_error(400, name, text);
    }
    house.fake.fail_changes(Error::BadRange("x".into()));
    let refused = house.merge("0", "1").await.json();
    assert!(refused["message"].as_str().unwrap().ends_with("eligible for merging"), "{refused}");
    let refused = house.split("0", "5").await.json();
    assert!(refused["message"].as_str().unwrap().starts_with("NewStartingHashKey 5 "), "{refused}");
    house.fake.fail_changes(Error::Unknown("x".into()));
    assert_eq!(house.split("0", "5").await.status, 500);
    house.fake.fail_changes(Error::Unavailable("no leader".into()));
    house.scale(4).await.is_error(503, "ServiceUnavailableException", "no leader");
}

#[tokio::test]
async fn scaling_answers_with_the_count_before_and_the_target() {
    let house = House::with_stream("s", 2).await;
    let got = house.scale(4).await.ok();
    let expected = json!({
        "StreamName": "s", "CurrentShardCount": 2, "TargetShardCount": 4, "StreamARN": ARN,
    });
    assert_eq!(got, expected);
    assert_eq!(house.fake.changes(), ["scale to 4"]);
    assert_eq!(house.status().await["StreamStatus"], "UPDATING");
}

#[tokio::test]
async fn scaling_is_refused_in_awss_words() {
    let house = House::with_stream("s", 2).await;
    let input = json!({"StreamName": "s", "TargetShardCount": 0, "ScalingType": "x"});
    house.call("UpdateShardCount", input).await.is_error(
        400,
        "ValidationException",
        "2 validation errors detected: Value '0' at 'targetShardCount' failed to satisfy \
         constraint: Member must have value greater than or equal to 1; Value 'x' at 'scalingType' \
         failed to satisfy constraint: Member must satisfy enum value set: [UNIFORM_SCALING]",
    );
    house.call("UpdateShardCount", json!({"StreamName": "s"})).await.is_error(
        400,
        "ValidationException",
        "2 validation errors detected: Value null at 'targetShardCount' failed to satisfy \
         constraint: Member must not be null; Value null at 'scalingType' failed to satisfy \
         constraint: Member must not be null",
    );
    house.fake.fail_changes(Error::ShardLimit { open: 190, limit: 200 });
    house.scale(201).await.is_error(
        400,
        LIMIT,
        "Target shard count or number of open shards cannot be greater than 200. Current open \
         shard count: 2, Target shard count: 201",
    );
    let text = house.scale(15).await.json();
    let text = text["message"].as_str().unwrap();
    assert!(text.contains("shard count for the account: 190. Limit: 200."), "{text}");
    assert!(text.contains("from this request: 13."), "{text}");
}

#[tokio::test]
async fn the_mode_is_changed_by_arn_and_asking_for_the_same_is_no_change() {
    let house = House::with_stream("s", 2).await;
    is_empty_ok(&house.mode("PROVISIONED").await);
    house.fake.set_status("s", StreamStatus::Updating);
    is_empty_ok(&house.mode("PROVISIONED").await);
    assert_eq!(house.fake.changes(), Vec::<String>::new());
    house.fake.set_status("s", StreamStatus::Active);
    is_empty_ok(&house.mode("ON_DEMAND").await);
    assert_eq!(house.fake.changes(), ["mode OnDemand"]);
    assert_eq!(house.status().await["StreamModeDetails"]["StreamMode"], "ON_DEMAND");
    house.fake.set_status("s", StreamStatus::Creating);
    let text = "Stream s under account 000000000000 not ACTIVE, instead in state CREATING";
    house.mode("ON_DEMAND").await.is_error(400, "ResourceInUseException", text);

    let by_name = json!({"StreamName": "s", "StreamModeDetails": {}});
    house.call("UpdateStreamMode", by_name).await.is_error(
        400,
        "ValidationException",
        "2 validation errors detected: Value null at 'streamARN' failed to satisfy constraint: \
         Member must not be null; Value null at 'streamModeDetails.streamMode' failed to satisfy \
         constraint: Member must not be null",
    );
    house.call("UpdateStreamMode", json!({"StreamARN": ARN})).await.is_error(
        400,
        "ValidationException",
        "1 validation error detected: Value null at 'streamModeDetails' failed to satisfy \
         constraint: Member must not be null",
    );
    let other = json!({
        "StreamARN": ARN.replace("/s", "/t"), "StreamModeDetails": {"StreamMode": "ON_DEMAND"},
    });
    let text = "Stream t under account 000000000000 not found.";
    house.call("UpdateStreamMode", other).await.is_error(400, NOT_FOUND, text);
}
