//! Links that break: a leader alone acks nothing, the others go on, and afterwards all agree.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;
use tristream_client::domain::Effect;
use tristream_client::wire;
use tristream_client::wire::subscribe_request::From;
use tristream_client::wire::tristream_client::TristreamClient;
use tristream_client::{Error, Options};
use tristream_cluster_tests::in_process::load::{Fate, Load, put};
use tristream_cluster_tests::in_process::reading::{
    check_prefix, judge, kinesis, read_all, read_whole,
};
use tristream_cluster_tests::in_process::{Cluster, Storage, wait_until};

const STREAM: &str = "orders";

/// One that asks only the nodes it was given first, and says soon that it failed.
fn hasty() -> Options {
    Options {
        deadline: Duration::from_millis(2_000),
        attempt_timeout: Duration::from_millis(2_000),
        ..Options::default()
    }
}

#[derive(Clone, Copy)]
enum Way {
    Cut,
    Freeze,
}

/// The leader loses both links while writers go on, some of them through the leader's own HTTP door.
async fn a_leader_alone(way: Way) -> anyhow::Result<()> {
    let cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    let client = cluster.client(&[0, 1, 2], hasty())?;
    let load = Load::start(&client, STREAM, "w", 6);
    load.wait_acked(50).await?;

    let old = cluster.leader(&[0, 1, 2], STREAM).await?;
    let rest: Vec<usize> = (0..3).filter(|seat| *seat != old).collect();
    match way {
        Way::Cut => cluster.wires().isolate(old),
        Way::Freeze => cluster.wires().freeze_out(old),
    }
    let cut = Instant::now();
    let mut alone = Vec::new();
    while cut.elapsed() < Duration::from_secs(4) {
        let number = alone.len();
        let data = format!("alone/{number}");
        let body = json!({
            "StreamName": STREAM,
            "PartitionKey": "alone",
            "Data": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data),
        });
        let answer =
            kinesis(cluster.kinesis(old), "PutRecord", &body, Duration::from_secs(8)).await?;
        ensure!(answer.status >= 500, "a leader alone answered {answer:?}");
        alone.push(answer);
    }
    ensure!(!alone.is_empty());
    load.wait_acked(50).await.context("the others go on")?;
    let new = cluster.leader(&rest, STREAM).await?;
    ensure!(new != old, "{new} leads on alone");

    cluster.wires().rejoin(old);
    load.wait_acked(50).await.context("healed")?;
    let attempts = load.finish().await?;
    let mut all = Vec::new();
    for seat in 0..3 {
        let mut read = read_whole(cluster.kinesis(seat), STREAM).await?;
        all.push(read.records.clone());
        // What went to the leader alone may be there or not, but not twice.
        let mut lonely: Vec<String> = Vec::new();
        read.records.retain(|record| {
            if record.key == "alone" {
                lonely.push(record.data.clone());
            }
            record.key != "alone"
        });
        let count = lonely.len();
        lonely.sort();
        lonely.dedup();
        ensure!(lonely.len() == count, "node {seat} has a put twice: {lonely:?}");
        judge(&attempts, &read).with_context(|| format!("as node {seat} reads"))?;
    }
    ensure!(all[0] == all[1] && all[1] == all[2], "replicas disagree");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_acks_nothing_and_the_rest_agree() -> anyhow::Result<()> {
    a_leader_alone(Way::Cut).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_out_acks_nothing_and_the_rest_agree() -> anyhow::Result<()> {
    a_leader_alone(Way::Freeze).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_survivor_refuses_puts_and_serves_what_it_has() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let load = Load::start(&client, STREAM, "w", 4);
    load.wait_acked(100).await?;
    let attempts = load.finish().await?;

    let leader = cluster.leader(&[0, 1, 2], STREAM).await?;
    // Once the leader survives, once a follower does.
    for survivor in [leader, (leader + 1) % 3] {
        let gone: Vec<usize> = (0..3).filter(|seat| *seat != survivor).collect();
        for &seat in &gone {
            cluster.crash(seat).await?;
        }
        let client = cluster.client(&[survivor], hasty())?;
        // The first ones may be on their way when the leader notices that it is alone.
        let mut refused = 0;
        let begun = Instant::now();
        while refused < 3 {
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "puts are never refused for certain"
            );
            let asked = Instant::now();
            let outcome = put(&client, STREAM, "k", Bytes::from_static(b"never/0")).await;
            let error = outcome.err().context("acked by one of three")?;
            ensure!(asked.elapsed() < Duration::from_secs(6), "the deadline was 2 s: {error}");
            refused += u32::from(error.effect() == Effect::None);
        }
        let mut read = read_all(cluster.kinesis(survivor), STREAM).await?;
        ensure!(read.stale, "node {survivor} does not say that it may be behind");
        read.records.retain(|record| record.key != "k");
        check_prefix(&attempts, &read)?;
        // Everything but what was committed a moment ago is known everywhere.
        ensure!(read.records.len() > 50, "only {} records", read.records.len());
        for &seat in &gone {
            cluster.run(seat).await?;
        }
        cluster.wait_ready(&[0, 1, 2]).await?;
        let mut read = read_whole(cluster.kinesis(survivor), STREAM).await?;
        let before = read.records.len();
        read.records.retain(|record| record.key != "k");
        println!("{} of the doubtful puts are there", before - read.records.len());
        judge(&attempts, &read)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_break_all_the_time_lose_and_repeat_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 2).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let load = Load::start(&client, STREAM, "w", 4);
    let routed: Vec<Load> = (0..3)
        .map(|seat| Load::start_at(cluster.kinesis(seat), STREAM, &format!("r{seat}"), 3))
        .collect();
    load.wait_acked(20).await?;
    for round in 0..40 {
        let (a, b) = [(0, 1), (1, 2), (0, 2)][round % 3];
        cluster.wires().cut(a, b);
        tokio::time::sleep(Duration::from_millis([0, 20, 300, 5][round % 4])).await;
        cluster.wires().heal(a, b);
        tokio::time::sleep(Duration::from_millis([50, 0, 150][round % 3])).await;
    }
    load.wait_acked(100).await.context("healed")?;
    let mut attempts = load.finish().await?;
    for load in routed {
        attempts.extend(load.finish().await?);
    }
    ensure!(attempts.iter().any(|attempt| matches!(attempt.fate, Fate::Acked(_))));
    for seat in 0..3 {
        let read = read_whole(cluster.kinesis(seat), STREAM).await?;
        judge(&attempts, &read).with_context(|| format!("as node {seat} reads"))?;
    }
    // Replication to every peer goes on by itself, also where nobody writes.
    cluster.create_stream("later", 3).await?;
    wait_until("every replica has the new stream", async || {
        let mut whole = true;
        for seat in 0..3 {
            let read = read_all(cluster.kinesis(seat), "later").await;
            whole &= read.is_ok_and(|read| !read.stale);
        }
        whole
    })
    .await
}

/// A node slept through the end of a stream and the creation of its successor; it is asked for the stream
/// while it is still cut off, and comes back before it gives up.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_does_not_deny_the_stream_of_a_name_that_it_slept_through()
-> anyhow::Result<()> {
    let cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    let asks = [
        (
            "UpdateShardCount",
            json!({
                "StreamName": STREAM, "TargetShardCount": 2, "ScalingType": "UNIFORM_SCALING",
            }),
        ),
        ("PutRecord", json!({ "StreamName": STREAM, "PartitionKey": "k", "Data": "eA==" })),
        ("DeleteStream", json!({ "StreamName": STREAM })),
    ];
    let sleeper = 2;
    let name = STREAM.parse()?;
    for (operation, body) in asks {
        wait_until("the node knows the stream", async || {
            active_at(cluster.kinesis(sleeper), STREAM).await.unwrap_or(false)
        })
        .await?;
        cluster.wires().isolate(sleeper);
        let others = cluster.client(&[0, 1], Options::default())?;
        others.delete_stream(&name).await?;
        wait_until("the stream is gone", async || {
            matches!(others.describe_stream(&name).await, Err(Error::StreamNotFound(_)))
        })
        .await?;
        others.create_stream(&name, Some(1)).await?;
        wait_until("its successor is active", async || {
            active_at(cluster.kinesis(0), STREAM).await.unwrap_or(false)
        })
        .await?;

        let asked = kinesis(cluster.kinesis(sleeper), operation, &body, Duration::from_secs(30));
        let healed = async {
            // The node has given up to learn what is new, if it ever does, and looks for the leader.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            cluster.wires().rejoin(sleeper);
        };
        let (answer, ()) = tokio::join!(asked, healed);
        let answer = answer?;
        ensure!(answer.status == 200 || answer.status >= 500, "{operation}: {answer:?}");
    }
    Ok(())
}

async fn active_at(address: &str, stream: &str) -> anyhow::Result<bool> {
    let body = json!({ "StreamName": stream });
    let answer = kinesis(address, "DescribeStreamSummary", &body, Duration::from_secs(5)).await?;
    Ok(answer.body["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE")
}

/// What a node lacks may be older than the time that is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lags_begins_at_no_record_that_is_older_than_was_asked_for()
-> anyhow::Result<()> {
    let cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    let leader = cluster.leader(&[0, 1, 2], STREAM).await?;
    let lags = (leader + 1) % 3;
    cluster.wires().isolate(lags);
    let patience = Duration::from_secs(8);
    for data in ["older", "younger"] {
        // Of different milliseconds.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
        let body = json!({ "StreamName": STREAM, "PartitionKey": "k", "Data": data });
        let answer = kinesis(cluster.kinesis(leader), "PutRecord", &body, patience).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let younger = first_records(cluster.kinesis(leader), &json!("TRIM_HORIZON"), None).await?;
    let younger = younger.get(1).context("two records")?.clone();
    let time = younger["ApproximateArrivalTimestamp"].as_f64().context("a time")?;

    let alone = first_records(cluster.kinesis(lags), &json!("AT_TIMESTAMP"), Some(time)).await;
    ensure!(alone.is_err(), "it cannot know where that is: {alone:?}");
    let begun = pushed_from(&cluster, lags, (time * 1000.0).round() as u64);
    let (pushed, ()) = tokio::join!(begun, async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.wires().rejoin(lags);
    });
    ensure!(pushed? == Bytes::from_static(b"younger"), "pushed from too early on");
    let again = first_records(cluster.kinesis(lags), &json!("AT_TIMESTAMP"), Some(time)).await?;
    ensure!(again.first() == Some(&younger), "{again:?} begins too early");
    Ok(())
}

/// What an iterator shows first.
async fn first_records(
    address: &str,
    kind: &serde_json::Value,
    time: Option<f64>,
) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut body = json!({
        "StreamName": STREAM, "ShardId": "shardId-000000000000", "ShardIteratorType": kind,
    });
    if let Some(time) = time {
        body["Timestamp"] = json!(time);
    }
    let patience = Duration::from_secs(8);
    let iterator = kinesis(address, "GetShardIterator", &body, patience).await?;
    ensure!(iterator.status == 200, "{iterator:?}");
    let body = json!({ "ShardIterator": iterator.body["ShardIterator"] });
    let answer = kinesis(address, "GetRecords", &body, patience).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body["Records"].as_array().cloned().unwrap_or_default())
}

/// The first record that a node pushes of those from this time on, subscribed to until the node takes it.
async fn pushed_from(cluster: &Cluster, seat: usize, time_ms: u64) -> anyhow::Result<Bytes> {
    let config = cluster.config(seat);
    let peer = config.nodes.get(seat).context("a seat")?.peer.clone();
    let channel = tonic::transport::Endpoint::new(format!("http://{peer}"))?.connect().await?;
    let mut stub = TristreamClient::new(channel);
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let request = wire::SubscribeRequest {
            stream: STREAM.to_owned(),
            shard_index: 0,
            from: Some(From::AtTimestampMs(time_ms)),
        };
        let mut events = stub.subscribe(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            if let Some(first) = event.records.into_iter().next() {
                return Ok(first.data);
            }
        }
    }
    anyhow::bail!("nothing was pushed")
}
