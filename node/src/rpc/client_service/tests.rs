//! What the native door refuses, and how it says so.

use super::*;
use tristream_proto::domain::{CallId, HashKey, HashKeyRange, Origin, ShardMap, Timestamp};

fn stream(version: u64) -> Stream {
    let shard = |(i, range): (usize, HashKeyRange)| Shard {
        id: ShardId::from(i as u32),
        group: GroupId(i as u64 + 10),
        range,
        creation_second: 1_790_000_000,
        parents: vec![],
        replicas: vec![],
        closed_second: None,
    };
    let shards = HashKeyRange::uniform(2).into_iter().enumerate().map(shard).collect();
    Stream {
        name: "orders".parse().expect("a name"),
        incarnation: Incarnation(5),
        status: StreamStatus::Active,
        mode: StreamMode::Provisioned,
        created: Timestamp(1),
        retention_hours: 24,
        record_bytes_max: 100,
        tags: Default::default(),
        map: ShardMap::new(MapVersion(version), shards).expect("tiles"),
        reshards: vec![],
        goal: None,
        next_shard: 0,
        rescaled: vec![],
        mode_changed: vec![],
    }
}

fn routed(incarnation: u64, map_version: u64, shard: u32, group: u64) -> Routed {
    Routed {
        incarnation: Incarnation(incarnation),
        map_version: MapVersion(map_version),
        shard: ShardId::from(shard),
        group: GroupId(group),
    }
}

fn kind_of<T>(result: Result<T, wire::Refusal>) -> Option<Kind> {
    result.err().map(|refusal| refusal.kind())
}

#[test]
fn a_put_is_taken_only_while_its_shard_is_open() {
    let stream = stream(7);
    for (routed, expected) in [
        (routed(5, 7, 1, 11), None),
        // A reshard elsewhere in the stream does not disturb it.
        (routed(5, 6, 1, 11), None),
        (routed(5, 1, 1, 11), None),
        (routed(4, 6, 1, 11), Some(Kind::StaleMap)),
        (routed(5, 6, 1, 10), Some(Kind::StaleMap)),
        (routed(5, 7, 1, 10), Some(Kind::StaleMap)),
        (routed(5, 6, 2, 12), Some(Kind::StaleMap)),
        // This node lags: sending the caller for a new map would bring it this node's old one.
        (routed(5, 8, 1, 11), Some(Kind::Unavailable)),
        (routed(6, 9, 0, 20), Some(Kind::Unavailable)),
    ] {
        assert_eq!(kind_of(find_shard(&stream, &routed)), expected);
    }
    let deleting = Stream { status: StreamStatus::Deleting, ..stream };
    assert_eq!(kind_of(find_shard(&deleting, &routed(5, 7, 1, 11))), Some(Kind::StreamNotFound));
}

#[test]
fn a_closed_shard_names_the_map_that_closed_it_and_a_sealed_one_the_next() {
    let open = stream(7);
    let mut shards = open.map.shards().to_vec();
    let parent = shards[1].clone();
    shards[1].closed_second = Some(1_790_000_100);
    let child = Shard { id: ShardId::from(2), group: GroupId(12), ..parent };
    shards.push(Shard { parents: vec![ShardId::from(1)], ..child });
    let closed =
        Stream { map: ShardMap::new(MapVersion(9), shards).expect("tiles"), ..open.clone() };
    let refused = find_shard(&closed, &routed(5, 7, 1, 11)).expect_err("closed");
    assert_eq!((refused.kind(), refused.map_version), (Kind::StaleMap, 9));
    assert!(find_shard(&closed, &routed(5, 7, 0, 10)).is_ok(), "the other shard is as it was");

    let sealed = not_stored(&open, &AppendError::Sealed);
    assert_eq!((sealed.kind(), sealed.map_version), (Kind::StaleMap, 8));
    let unknown = not_stored(&open, &AppendError::Unknown("deposed".to_owned()));
    assert_eq!((unknown.kind(), unknown.map_version), (Kind::Unknown, 0));
}

fn record(hash_key: u128, bytes: usize) -> wire::Record {
    wire::Record {
        partition_key: "k".to_owned(),
        explicit_hash_key: hash_key.to_be_bytes().to_vec().into(),
        data: vec![0; bytes].into(),
        ..Default::default()
    }
}

fn check(records: Vec<wire::Record>) -> Option<Kind> {
    let stream = stream(7);
    kind_of(check_records(&stream, &stream.map.shards()[0], records))
}

#[test]
fn records_are_checked_before_they_reach_the_shard() {
    assert_eq!(check(vec![record(0, 99)]), None, "99 bytes of data and 1 of key");
    assert_eq!(check(vec![record(0, 1), record(0, 100)]), Some(Kind::Invalid));
    assert_eq!(check(vec![]), Some(Kind::Invalid));
    assert_eq!(check(vec![record(0, 0); 500]), None);
    assert_eq!(check(vec![record(0, 0); 501]), Some(Kind::Invalid));
    assert_eq!(check(vec![record(0, 1), record(u128::MAX, 1)]), Some(Kind::StaleMap));
    let keyless = wire::Record { partition_key: String::new(), ..record(0, 1) };
    assert_eq!(check(vec![keyless]), Some(Kind::Invalid));
}

#[test]
fn what_a_record_came_in_with_is_checked_and_passed_on() {
    let from =
        |call: &[u8], ordinal| wire::Record { call: call.to_vec().into(), ordinal, ..record(0, 1) };
    let stream = stream(7);
    let first = &stream.map.shards()[0];
    let checked = check_records(&stream, first, vec![from(&[7; 16], 3), record(0, 1)]);
    let origins: Vec<_> = checked.expect("legal").iter().map(|record| record.origin).collect();
    let origin = Origin { call: CallId([7; 16]), ordinal: 3 };
    assert_eq!(origins, [Some(origin), None]);
    assert_eq!(check(vec![from(&[7; 15], 0)]), Some(Kind::Invalid));
    assert_eq!(check(vec![from(&[7; 16], 65_536)]), Some(Kind::Invalid));
    let twice = vec![from(&[7; 16], 1), from(&[7; 16], 2), from(&[7; 16], 1)];
    assert_eq!(check(twice), Some(Kind::Invalid), "one record cannot be two");
    assert_eq!(check(vec![from(&[7; 16], 1), from(&[8; 16], 1)]), None);
}

#[test]
fn the_hash_of_the_key_decides_where_no_other_is_given() {
    let stream = stream(7);
    let owner = stream.map.owner(HashKey::of("k")).clone();
    let other = stream.map.shards().iter().find(|shard| shard.id != owner.id).expect("two shards");
    let record = wire::Record { explicit_hash_key: Default::default(), ..record(0, 1) };
    assert_eq!(kind_of(check_records(&stream, &owner, vec![record.clone()])), None);
    assert_eq!(kind_of(check_records(&stream, other, vec![record])), Some(Kind::StaleMap));
}

#[test]
fn the_bytes_of_a_put_are_bounded() {
    let stream = Stream { record_bytes_max: limits::RECORD_DATA_BYTES_CEILING, ..stream(7) };
    let shard = &stream.map.shards()[0];
    let half = limits::PUT_RECORDS_BYTES_MAX / 2;
    let fits = vec![record(0, half - 1), record(0, half - 1)];
    assert_eq!(kind_of(check_records(&stream, shard, fits)), None);
    let over = vec![record(0, half), record(0, half)];
    assert_eq!(kind_of(check_records(&stream, shard, over)), Some(Kind::Invalid));
}

#[tokio::test]
async fn before_the_node_has_joined_everything_is_unavailable() {
    let (_sender, router) = watch::channel(None);
    let clock = Arc::new(crate::clock::SystemClock);
    let service = ClientService::new(router, Tasks::new(), clock, Duration::from_secs(1));
    let put = service.put(Request::new(wire::PutRequest::default())).await.expect("an answer");
    let refusal = put.into_inner().refusal.expect("refused");
    assert_eq!(refusal.kind(), Kind::Unavailable);
    let status = service.cluster_status(Request::new(wire::ClusterStatusRequest {})).await;
    assert_eq!(status.expect_err("no router").code(), tonic::Code::Unavailable);
    let mut events = service.start_subscription(wire::SubscribeRequest::default()).into_inner();
    let event = events.recv().await.expect("an event").expect("no status");
    assert_eq!(event.refusal.expect("refused").kind(), Kind::Unavailable);
    assert!(events.recv().await.is_none(), "a refusal ends the subscription");
}
