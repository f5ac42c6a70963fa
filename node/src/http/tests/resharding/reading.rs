//! What readers and those who list shards see of splits and merges.

use std::time::Duration;

use super::*;

fn data(page: &Value) -> Vec<&str> {
    let records = page["Records"].as_array().unwrap().iter();
    records.map(|record| record["Data"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn records_come_and_go_while_a_stream_is_updating() {
    let house = House::with_stream("s", 1).await;
    let before = house.iterator_of(0, "TRIM_HORIZON", None).await;
    house.split("0", MIDDLE).await;
    house.put_at("0", "AAAA").await;
    assert_eq!(data(&house.page(&before, 10).await), ["AAAA"]);
    let during = house.iterator_of(0, "TRIM_HORIZON", None).await;
    assert_eq!(data(&house.page(&during, 10).await), ["AAAA"]);
}

#[tokio::test]
async fn the_end_of_a_closed_shard_names_its_children() {
    let house = House::with_stream("s", 1).await;
    let first = house.put_at("0", "AAAA").await;
    house.put_at(MAX, "AAAB").await;
    house.split("0", MIDDLE).await;
    house.fake.seal_parents("s");
    let begin = house.iterator_of(0, "TRIM_HORIZON", None).await;
    // Sealed, but nobody can read the children yet: as at the tip.
    let tip = house.page(&begin, 10).await;
    assert_eq!((data(&tip).len(), &tip["MillisBehindLatest"]), (2, &json!(0)));
    assert!(tip["NextShardIterator"].is_string() && tip.get("ChildShards").is_none(), "{tip}");

    house.fake.publish("s");
    house.fake.clock.pass(Duration::from_secs(10));
    let middle = house.page(&begin, 1).await;
    assert_eq!(data(&middle), ["AAAA"]);
    assert!(middle["NextShardIterator"].is_string() && middle.get("ChildShards").is_none());
    let below = "170141183460469231731687303715884105727";
    let child = |at: u32, from: &str, to: &str| {
        json!({
            "ShardId": id(at),
            "ParentShards": [id(0)],
            "HashKeyRange": {"StartingHashKey": from, "EndingHashKey": to},
        })
    };
    let children = json!([child(1, "0", below), child(2, MIDDLE, MAX)]);
    let end = house.page(middle["NextShardIterator"].as_str().unwrap(), 1).await;
    assert_eq!(
        end,
        json!({"Records": end["Records"], "MillisBehindLatest": 0, "ChildShards": children})
    );
    assert_eq!(data(&end), ["AAAB"]);
    // An iterator from before the split leads there too, and so does every kind of new one.
    let tip = house.page(tip["NextShardIterator"].as_str().unwrap(), 10).await;
    assert_eq!(tip, json!({"Records": [], "MillisBehindLatest": 0, "ChildShards": children}));
    let ending = house.fake.stream_now("s").map.shards()[0].ending_sequence_number().unwrap();
    for (kind, number, expected) in [
        ("LATEST", None, &[][..]),
        ("TRIM_HORIZON", None, &["AAAA", "AAAB"]),
        ("AT_SEQUENCE_NUMBER", Some(&first), &["AAAA", "AAAB"]),
        ("AFTER_SEQUENCE_NUMBER", Some(&first), &["AAAB"]),
        ("AT_SEQUENCE_NUMBER", Some(&ending.to_string()), &[]),
        ("AFTER_SEQUENCE_NUMBER", Some(&ending.to_string()), &[]),
    ] {
        let token = house.iterator_of(0, kind, number.map(String::as_str)).await;
        let page = house.page(&token, 10).await;
        assert_eq!(data(&page), expected, "{kind}");
        assert!(page.get("NextShardIterator").is_none(), "{kind}");
        assert_eq!(page["ChildShards"], children, "{kind}");
    }
    let fresh = house.iterator_of(2, "TRIM_HORIZON", None).await;
    house.put_at(MAX, "AAAC").await;
    assert_eq!(data(&house.page(&fresh, 10).await), ["AAAC"]);
}

#[tokio::test]
async fn the_child_of_a_merge_names_both_parents_at_the_end_of_each() {
    let house = House::with_stream("s", 2).await;
    house.merge("0", "1").await;
    house.fake.publish("s");
    for parent in [0, 1] {
        let token = house.iterator_of(parent, "LATEST", None).await;
        let expected = json!([{
            "ShardId": id(2),
            "ParentShards": [id(0), id(1)],
            "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": MAX},
        }]);
        assert_eq!(house.page(&token, 10).await["ChildShards"], expected, "{parent}");
    }
}

#[tokio::test]
async fn an_expired_shard_is_gone() {
    let house = House::with_stream("s", 1).await;
    let old = house.iterator_of(0, "TRIM_HORIZON", None).await;
    house.split("0", MIDDLE).await;
    house.fake.publish("s");
    house.fake.expire("s", &[0]);
    let text = "Shard shardId-000000000000 in stream s under account 000000000000 does not exist";
    let read = house.call("GetRecords", json!({"ShardIterator": old})).await;
    read.is_error(400, NOT_FOUND, text);
    let seek = json!({"StreamName": "s", "ShardId": "0", "ShardIteratorType": "LATEST"});
    house.call("GetShardIterator", seek).await.is_error(400, NOT_FOUND, text);
    for kind in ["AT_LATEST", "AT_TRIM_HORIZON", "FROM_TRIM_HORIZON"] {
        let filter = json!({"ShardFilter": {"Type": kind}});
        assert_eq!(house.list(filter).await.0, [1, 2], "{kind}");
    }
    house.split("0", "5").await.is_error(
        400,
        NOT_FOUND,
        "Could not find shard shardId-000000000000 in stream s under account 000000000000.",
    );
}

#[tokio::test]
async fn every_filter_chooses_among_open_and_closed_shards() {
    let house = House::with_stream("s", 3).await;
    house.fake.clock.pass(Duration::from_secs(60));
    house.merge("0", "1").await;
    house.fake.publish("s");
    house.fake.clock.pass(Duration::from_secs(60));
    // The merge is at 1_790_000_061, and the child begins there.
    for (filter, expected) in [
        (json!({"Type": "AT_TRIM_HORIZON"}), &[0, 1, 2][..]),
        (json!({"Type": "FROM_TRIM_HORIZON"}), &[0, 1, 2, 3]),
        (json!({"Type": "AT_LATEST"}), &[2, 3]),
        (json!({"Type": "AT_TIMESTAMP", "Timestamp": 1_790_000_060.9}), &[0, 1, 2]),
        (json!({"Type": "AT_TIMESTAMP", "Timestamp": 1_790_000_061}), &[2, 3]),
        (json!({"Type": "FROM_TIMESTAMP", "Timestamp": 1_790_000_060}), &[0, 1, 2, 3]),
        (json!({"Type": "FROM_TIMESTAMP", "Timestamp": 1_790_000_061}), &[2, 3]),
        (json!({"Type": "AFTER_SHARD_ID", "ShardId": "shardId-000000000001"}), &[2, 3]),
    ] {
        let (ids, _) = house.list(json!({"ShardFilter": filter})).await;
        assert_eq!(ids, expected, "{filter}");
    }
    assert_eq!(house.list(json!({})).await.0, [0, 1, 2, 3]);
}

#[tokio::test]
async fn what_is_open_tiles_the_keys_though_it_changes_between_two_pages() {
    let house = House::with_stream("s", 4).await;
    let point = json!({"Type": "AT_TIMESTAMP", "Timestamp": 1_790_000_000});
    for filter in [json!({"Type": "AT_LATEST"}), json!({"Type": "AT_TRIM_HORIZON"}), point] {
        let first = house.list(json!({"MaxResults": 2, "ShardFilter": filter})).await;
        let open: Vec<u32> =
            house.fake.stream_now("s").map.open().map(|shard| shard.id.index()).collect();
        house.fake.clock.pass(Duration::from_secs(5));
        let (low, high) = (open[2].to_string(), open[3].to_string());
        house.merge(&low, &high).await;
        house.fake.publish("s");
        let child = house.fake.stream_now("s").next_shard - 1;
        let middle = "255211775190703847597530955573826158592";
        house.split(&child.to_string(), middle).await;
        house.fake.publish("s");
        let (second, end) = house.list(json!({"NextToken": first.1.expect("a second page")})).await;
        assert_eq!(end, None);
        let mut all = first.0;
        all.extend(second);
        let map = house.fake.stream_now("s").map.clone();
        let ranges = all.iter().map(|id| map.get(ShardId::from(*id as u32)).unwrap().range);
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_by_key(|range| range.first);
        let meet = ranges.windows(2).all(|pair| pair[0].last.0 + 1 == pair[1].first.0);
        assert!(
            meet && ranges[0].first.0 == 0 && ranges[3].last.0 == u128::MAX,
            "{filter} {all:?}"
        );
    }
}

#[tokio::test]
async fn the_settings_may_shorten_retention() {
    let house = House::with_stream("s", 1).await;
    house.fake.clock.pass(Duration::from_secs(10));
    house.split("0", MIDDLE).await;
    house.fake.publish("s");
    let at_horizon = json!({"ShardFilter": {"Type": "AT_TRIM_HORIZON"}});
    house.fake.clock.pass(Duration::from_secs(100));
    assert_eq!(house.list(at_horizon.clone()).await.0, [0], "kept for a day");
    house.fake.keep_records_for(Duration::from_secs(90));
    house.api.send_replace(Some(house.fake.api()));
    assert_eq!(house.list(at_horizon).await.0, [1, 2]);
    assert_eq!(house.list(json!({})).await.0, [1, 2]);
}
