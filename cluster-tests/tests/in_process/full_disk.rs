//! Disks that fill: below the reserve puts are refused and everything else goes on; without one the node stops.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::json;
use tokio::time::timeout;
use tristream_client::domain::{NodeId, StreamName};
use tristream_client::{Client, Error, Options};
use tristream_cluster_tests::in_process::load::{Fate, Load, put};
use tristream_cluster_tests::in_process::reading::{judge, kinesis, read_whole};
use tristream_cluster_tests::in_process::{Cluster, Storage, wait_until};

const STREAM: &str = "orders";
/// Of one shard, led by a node that is known.
const PROBED: &str = "probed";
const DELETED: &str = "deleted";
const RESERVE_BYTES: u64 = 1 << 30;
const ROOM_BYTES: u64 = 1 << 40;
const LIMIT: Duration = Duration::from_secs(20);

/// A client that gives up after 1.5 s.
fn hasty() -> Options {
    Options {
        deadline: Duration::from_millis(1_500),
        attempt_timeout: Duration::from_millis(1_500),
        ..Options::default()
    }
}

fn is_full<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::StorageFull(_)))
}

async fn probe(client: &Client) -> Result<(), Error> {
    put(client, PROBED, "k", Bytes::from_static(b"probe")).await.map(drop)
}

/// Both doors say so, on every node, and the view of the cluster says whose disk it is.
async fn puts_are_refused(cluster: &Cluster, client: &Client, low: usize) -> anyhow::Result<()> {
    wait_until("puts are refused", async || is_full(&probe(client).await)).await?;
    let body = json!({ "StreamName": PROBED, "PartitionKey": "k", "Data": "eA==" });
    for seat in 0..3 {
        // A new leader may be the last to hear of it.
        wait_until("a put over HTTP is refused with the reason", async || {
            let answer = kinesis(cluster.kinesis(seat), "PutRecord", &body, LIMIT).await;
            answer.is_ok_and(|answer| {
                let words = answer.body["message"].as_str().unwrap_or_default();
                let name = answer.body["__type"] == "ServiceUnavailableException";
                answer.status == 503 && name && words.contains("nearly full")
            })
        })
        .await?;
    }
    wait_until("the view of the cluster says whose disk it is", async || {
        let Ok(status) = client.cluster_status().await else { return false };
        let is_low = |node: &tristream_client::wire::NodeStatus| {
            node.storage.as_ref().is_some_and(|disk| disk.low)
        };
        let lows: Vec<bool> = status.nodes.iter().map(is_low).collect();
        (0..3).all(|seat| lows.get(seat) == Some(&(seat == low)))
    })
    .await
}

async fn new_streams_are_refused(client: &Client) -> anyhow::Result<()> {
    let mut count = 0;
    wait_until("new streams are refused", async || {
        count += 1;
        // The leader of the metadata may be the last to hear of it.
        let name: StreamName = format!("new-{count}").parse().expect("a legal name");
        is_full(&client.create_stream(&name, Some(1)).await)
    })
    .await
}

async fn a_shard_is_split(cluster: &Cluster, client: &Client) -> anyhow::Result<()> {
    let name: StreamName = PROBED.parse()?;
    client.update_shard_count(&name, 2).await.context("a change of shards needs no room")?;
    wait_until("there are two shards", async || {
        let body = json!({ "StreamName": PROBED });
        let answer = kinesis(cluster.kinesis(0), "DescribeStreamSummary", &body, LIMIT).await;
        answer.is_ok_and(|answer| {
            let summary = &answer.body["StreamDescriptionSummary"];
            summary["OpenShardCount"] == 2 && summary["StreamStatus"] == "ACTIVE"
        })
    })
    .await
}

async fn a_stream_is_deleted(client: &Client) -> anyhow::Result<()> {
    let name: StreamName = DELETED.parse()?;
    client.delete_stream(&name).await.context("a deletion needs no room")?;
    wait_until("the stream is gone", async || {
        matches!(client.describe_stream(&name).await, Err(Error::StreamNotFound(_)))
    })
    .await
}

async fn somebody_is_elected(cluster: &mut Cluster, leader: usize) -> anyhow::Result<()> {
    cluster.crash(leader).await?;
    let others: Vec<usize> = (0..3).filter(|seat| *seat != leader).collect();
    let client = cluster.client(&others, hasty())?;
    let name: StreamName = STREAM.parse()?;
    wait_until("the others lead every shard", async || {
        // Nodes are numbered from 1, and the seats are in that order.
        let led = |node: &Option<NodeId>| node.is_some_and(|node| node.0 as usize != leader + 1);
        let described = client.describe_stream(&name).await;
        described.is_ok_and(|stream| stream.leaders.iter().all(led))
    })
    .await?;
    cluster.run(leader).await?;
    cluster.wait_ready(&[leader]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_reserve_puts_and_new_streams_are_refused_and_nothing_else() -> anyhow::Result<()>
{
    let mut cluster = Cluster::start_with(Storage::Simulated, |config| {
        config.log.reserve_bytes = Some(RESERVE_BYTES);
    })
    .await?;
    for (name, shards) in [(STREAM, 3), (PROBED, 1), (DELETED, 1)] {
        cluster.create_stream(name, shards).await?;
    }
    let client = cluster.client(&[0, 1, 2], hasty())?;
    let load = Load::start(&client, STREAM, "w", 4);
    load.wait_acked(50).await?;
    let leader = cluster.leader(&[0, 1, 2], PROBED).await?;
    let follower = (leader + 1) % 3;

    cluster.disk(follower).set_capacity(RESERVE_BYTES - 1);
    puts_are_refused(&cluster, &client, follower).await.context("a follower's disk is low")?;
    new_streams_are_refused(&client).await?;
    a_shard_is_split(&cluster, &client).await?;
    a_stream_is_deleted(&client).await?;
    for seat in 0..3 {
        let read = read_whole(cluster.kinesis(seat), STREAM).await?;
        ensure!(read.records.len() >= 50, "{} records can be read", read.records.len());
    }
    somebody_is_elected(&mut cluster, leader).await?;
    cluster.disk(follower).set_capacity(ROOM_BYTES);
    load.wait_acked(50).await.context("there is room again")?;

    wait_until("the probed shard is led", async || probe(&client).await.is_ok()).await?;
    let leader = cluster.leader(&[0, 1, 2], PROBED).await?;
    cluster.disk(leader).set_capacity(RESERVE_BYTES - 1);
    puts_are_refused(&cluster, &client, leader).await.context("a leader's disk is low")?;
    cluster.disk(leader).set_capacity(ROOM_BYTES);
    load.wait_acked(50).await.context("there is room again")?;

    let attempts = load.finish().await?;
    let told = |why: &String| why.contains("nearly full");
    let refused = attempts.iter().filter(|a| matches!(&a.fate, Fate::Refused(why) if told(why)));
    ensure!(refused.count() > 0, "the load was never refused for want of room");
    for seat in 0..3 {
        let read = read_whole(cluster.kinesis(seat), STREAM).await?;
        judge(&attempts, &read).with_context(|| format!("as node {seat} reads"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_to_the_end_stops_its_node_and_loses_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start_with(Storage::Simulated, |config| {
        config.log.reserve_bytes = Some(0);
        config.log.segment_bytes = 1 << 20;
    })
    .await?;
    cluster.create_stream(STREAM, 3).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let load = Load::start(&client, STREAM, "w", 8);
    load.wait_acked(50).await?;
    let leader = cluster.leader(&[0, 1, 2], STREAM).await?;
    for seat in [(leader + 1) % 3, leader] {
        cluster.disk(seat).set_capacity(0);
        let reason = cluster.failure(seat).await?;
        ensure!(reason.contains("Committer"), "{reason}");
        load.wait_acked(50).await.context("two nodes go on")?;
        timeout(LIMIT, cluster.stop(seat)).await.context("it stops")??;
        cluster.disk(seat).power_loss(7);
        cluster.disk(seat).set_capacity(ROOM_BYTES);
        cluster.run(seat).await?;
        cluster.wait_ready(&[seat]).await?;
        load.wait_acked(50).await?;
    }
    let attempts = load.finish().await?;
    for seat in 0..3 {
        judge(&attempts, &read_whole(cluster.kinesis(seat), STREAM).await?)
            .with_context(|| format!("as node {seat} reads"))?;
    }
    Ok(())
}
