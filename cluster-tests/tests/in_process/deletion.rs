//! Deleting a stream: everything of it goes, on every node, and nothing of it comes back.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use tristream_client::domain::StreamName;
use tristream_client::{Client, Options};
use tristream_cluster_tests::admin;
use tristream_cluster_tests::in_process::load::put;
use tristream_cluster_tests::in_process::reading::{kinesis, read_all};
use tristream_cluster_tests::in_process::{Cluster, Storage, wait_until};

const STREAM: &str = "orders";
const LIMIT: Duration = Duration::from_secs(20);

const SEGMENT_BYTES: u64 = 2 << 20;
/// Files that the log keeps ready to become segments, at most.
const READY_FILES: u64 = 2;

/// Bytes of a node's segments, and of those and the files that are ready to become some.
fn log_bytes(cluster: &Cluster, seat: usize) -> (u64, u64) {
    let files = std::fs::read_dir(cluster.data_dir(seat).join("log"));
    let mut bytes = (0, 0);
    for entry in files.into_iter().flatten().flatten() {
        let len = entry.metadata().map_or(0, |known| known.len());
        bytes.1 += len;
        if entry.file_name().to_string_lossy().ends_with(".seg") {
            bytes.0 += len;
        }
    }
    bytes
}

/// The segments are as small as those of an empty node.
fn has_shrunk(cluster: &Cluster, seat: usize) -> bool {
    let (segments, all) = log_bytes(cluster, seat);
    segments < 2 * SEGMENT_BYTES && all < (2 + READY_FILES) * SEGMENT_BYTES
}

/// Groups open on a node, as its own metrics count them.
async fn groups_open(cluster: &Cluster, seat: usize) -> Option<f64> {
    admin::metric(cluster.kinesis(seat), "tristream_groups").await.ok()
}

async fn gone(client: &Client) -> anyhow::Result<()> {
    let name: StreamName = STREAM.parse()?;
    wait_until("the stream is gone", async || {
        matches!(
            client.describe_stream(&name).await,
            Err(tristream_client::Error::StreamNotFound(_))
        )
    })
    .await
}

async fn iterator(cluster: &Cluster, seat: usize, shard: &str) -> anyhow::Result<Value> {
    let ask =
        json!({ "StreamName": STREAM, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
    let answer = kinesis(cluster.kinesis(seat), "GetShardIterator", &ask, LIMIT).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body["ShardIterator"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_is_gone_everywhere_and_a_new_one_of_its_name_is_empty()
-> anyhow::Result<()> {
    let mut cluster = Cluster::start_with(Storage::Real, |config| {
        config.log.segment_bytes = SEGMENT_BYTES;
        // Payloads are read from the files, not from memory.
        config.log.tail_bytes = 1 << 20;
    })
    .await?;
    let first = cluster.create_stream(STREAM, 3).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let fill = async || {
        for number in 0..24 {
            let data = Bytes::from(vec![b'x'; 512 << 10]);
            put(&client, STREAM, &format!("k{number}"), data).await?;
        }
        anyhow::Ok(())
    };
    fill().await?;
    let (full, _) = log_bytes(&cluster, 0);
    ensure!(full > 12 << 20, "the log has {full} bytes");
    let old = iterator(&cluster, 0, "shardId-000000000000").await?;

    // One node is away while the stream is deleted.
    let away = (cluster.leader(&[0, 1, 2], STREAM).await? + 1) % 3;
    cluster.crash(away).await?;
    let rest: Vec<usize> = (0..3).filter(|seat| *seat != away).collect();
    let client = cluster.client(&rest, Options::default())?;
    client.delete_stream(&STREAM.parse()?).await?;
    gone(&client).await?;
    for &seat in &rest {
        wait_until("only the metadata group is open", async || {
            groups_open(&cluster, seat).await == Some(1.0)
        })
        .await?;
        wait_until("the log has shrunk", async || has_shrunk(&cluster, seat)).await?;
    }
    let body = json!({ "ShardIterator": old });
    let refused = kinesis(cluster.kinesis(rest[0]), "GetRecords", &body, LIMIT).await?;
    ensure!(refused.status == 400, "an iterator of a deleted stream: {refused:?}");

    // It returns, and throws away what nobody has any more.
    cluster.run(away).await?;
    cluster.wait_ready(&[away]).await?;
    wait_until("the orphans are gone", async || groups_open(&cluster, away).await == Some(1.0))
        .await?;
    wait_until("its log has shrunk", async || has_shrunk(&cluster, away)).await?;

    let second = cluster.create_stream(STREAM, 3).await?;
    ensure!(second.incarnation > first.incarnation);
    let groups = |stream: &tristream_client::StreamDescription| -> Vec<u64> {
        stream.map.shards().iter().map(|shard| shard.group.0).collect()
    };
    let (old_groups, new_groups) = (groups(&first), groups(&second));
    ensure!(new_groups.iter().all(|new| old_groups.iter().all(|old| new > old)));
    for seat in 0..3 {
        let read = read_all(cluster.kinesis(seat), STREAM).await?;
        ensure!(read.records.is_empty(), "node {seat} shows old records");
        let body = json!({ "ShardIterator": old });
        let refused = kinesis(cluster.kinesis(seat), "GetRecords", &body, LIMIT).await?;
        ensure!(refused.status == 400, "an iterator of the old stream: {refused:?}");
    }
    // Restarts bring nothing of it back.
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    put(&client, STREAM, "new", Bytes::from_static(b"new/0")).await?;
    for seat in 0..3 {
        cluster.crash(seat).await?;
    }
    for seat in 0..3 {
        cluster.run(seat).await?;
    }
    cluster.wait_ready(&[0, 1, 2]).await?;
    for seat in 0..3 {
        let read = read_all(cluster.kinesis(seat), STREAM).await.context("after the restart")?;
        let data: Vec<&str> = read.records.iter().map(|record| record.data.as_str()).collect();
        ensure!(data == ["new/0"], "node {seat} shows {data:?}");
    }
    Ok(())
}
