//! Records expire: for readers on every node, on every disk, and for a replica that slept through it.
//!
//! The retention is a few seconds here, so everything that happens once an hour happens all the time.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use tristream_client::Options;
use tristream_client::domain::ShardId;
use tristream_cluster_tests::in_process::load::{Load, put};
use tristream_cluster_tests::in_process::reading::{
    Contents, Stored, check_prefix, kinesis, read_all, read_whole,
};
use tristream_cluster_tests::in_process::{Cluster, Storage, wait_until};

const STREAM: &str = "orders";
const LIMIT: Duration = Duration::from_secs(20);
const KEPT_SECONDS: u64 = 6;

async fn cluster() -> anyhow::Result<Cluster> {
    Cluster::start_with(Storage::Real, |config| {
        config.retention_override_seconds = Some(KEPT_SECONDS);
        // Elections are not what is tested, and cost much on a busy machine.
        config.raft.election_timeout_ms_min = 2_000;
        config.raft.election_timeout_ms_max = 3_000;
        config.log.segment_bytes = 1 << 20;
        // Payloads are read from the files, not from memory.
        config.log.tail_bytes = 1 << 20;
    })
    .await
}

/// Bytes of the segments of a node's log; files that are kept ready are none.
fn log_bytes(cluster: &Cluster, seat: usize) -> u64 {
    let files = std::fs::read_dir(cluster.data_dir(seat).join("log"));
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let is_segment = entry.path().extension().is_some_and(|extension| extension == "seg");
        is_segment.then(|| Some(entry.metadata().ok()?.len()))?
    };
    files.map_or(0, |files| files.filter_map(size).sum())
}

async fn fill(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    for number in 0..24 {
        let mut data = format!("{name}/{number} ").into_bytes();
        data.resize(256 << 10, b'x');
        let (key, data) = (format!("{name}{number}"), Bytes::from(data));
        wait_until("a put is acked", async || {
            put(&client, STREAM, &key, data.clone()).await.is_ok()
        })
        .await?;
    }
    Ok(())
}

async fn iterator(cluster: &Cluster, seat: usize, ask: Value) -> anyhow::Result<Value> {
    let answer = kinesis(cluster.kinesis(seat), "GetShardIterator", &ask, LIMIT).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body["ShardIterator"].clone())
}

async fn is_empty(cluster: &Cluster, seat: usize) -> bool {
    read_all(cluster.kinesis(seat), STREAM).await.is_ok_and(|read| read.records.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_records_are_gone_for_readers_and_from_the_disks() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    let stream = cluster.create_stream(STREAM, 2).await?;
    let shard = ShardId::from(0).to_string();
    fill(&cluster, "old").await?;
    let begin =
        json!({ "StreamName": STREAM, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
    let old = iterator(&cluster, 0, begin.clone()).await?;
    for seat in 0..3 {
        wait_until("all records have expired", async || is_empty(&cluster, seat).await).await?;
        // The metadata and a few marks stay; what was written was 6 MiB.
        wait_until("the log has shrunk", async || log_bytes(&cluster, seat) < 3 << 20).await?;
    }
    // An iterator from before goes on, and finds what comes.
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    for (seat, iterator) in [(0, old.clone()), (1, iterator(&cluster, 1, begin).await?), (2, old)] {
        let body = json!({ "ShardIterator": iterator });
        let mut shown = vec![];
        wait_until("something new is shown", async || {
            for number in 0..4 {
                let new = Bytes::from_static(b"new/0");
                let _ = put(&client, STREAM, &format!("k{number}"), new).await;
            }
            let page = kinesis(cluster.kinesis(seat), "GetRecords", &body, LIMIT).await;
            let records = page.ok().and_then(|page| page.body["Records"].as_array().cloned());
            shown = records.unwrap_or_default();
            !shown.is_empty()
        })
        .await?;
        let is_new = |record: &Value| record["Data"].as_str().is_some_and(|data| data.len() < 100);
        ensure!(shown.iter().all(is_new), "node {seat} shows something old");
    }
    // The shard begins where it always did.
    let ask = json!({ "StreamName": STREAM });
    let listed = kinesis(cluster.kinesis(0), "ListShards", &ask, LIMIT).await?;
    let starting = &listed.body["Shards"][0]["SequenceNumberRange"]["StartingSequenceNumber"];
    let expected = stream.map.shards()[0].starting_sequence_number().to_string();
    ensure!(*starting == json!(expected), "{starting}, not {expected}");
    // Nothing comes back.
    for seat in 0..3 {
        cluster.crash(seat).await?;
    }
    for seat in 0..3 {
        cluster.run(seat).await?;
    }
    cluster.wait_ready(&[0, 1, 2]).await?;
    for seat in 0..3 {
        let read = read_whole(cluster.kinesis(seat), STREAM).await?;
        let old = read.records.iter().find(|record| record.data.starts_with("old/"));
        ensure!(old.is_none(), "node {seat} shows an expired record after a restart");
        wait_until("all have expired", async || is_empty(&cluster, seat).await).await?;
    }
    Ok(())
}

/// Whether both show records, and those of one shard end alike: two nodes may be trimmed a moment apart.
fn same_tail(one: &Contents, other: &Contents) -> anyhow::Result<bool> {
    let of = |contents: &Contents, shard: &str| -> Vec<Stored> {
        contents.records.iter().filter(|r| r.shard == shard).cloned().collect()
    };
    let mut shown = 0;
    for shard in [0, 1].map(|id| ShardId::from(id).to_string()) {
        let (one, other) = (of(one, &shard), of(other, &shard));
        let both = one.len().min(other.len());
        ensure!(one[one.len() - both..] == other[other.len() - both..], "{shard} differs");
        shown += both;
    }
    Ok(shown > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_longer_catches_up_by_a_checkpoint() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    cluster.create_stream(STREAM, 2).await?;
    let away = (cluster.leader(&[0, 1, 2], STREAM).await? + 1) % 3;
    let rest: Vec<usize> = (0..3).filter(|seat| *seat != away).collect();
    fill(&cluster, "before").await?;
    cluster.crash(away).await?;
    fill(&cluster, "meanwhile").await?;
    for &seat in &rest {
        wait_until("what it missed is purged", async || log_bytes(&cluster, seat) < 3 << 20)
            .await?;
        ensure!(is_empty(&cluster, seat).await, "node {seat} shows what is purged");
    }
    let client = cluster.client(&rest, Options::default())?;
    let load = Load::start(&client, STREAM, "w", 4);
    load.wait_acked(50).await?;
    cluster.run(away).await?;
    cluster.wait_ready(&[away]).await?;
    // It has nothing but what the others still have, and goes on with it.
    wait_until("it shows no more than the others", async || {
        let read = read_all(cluster.kinesis(away), STREAM).await;
        let is_old = |data: &str| data.starts_with("before/") || data.starts_with("meanwhile/");
        read.is_ok_and(|read| !read.stale && !read.records.iter().any(|r| is_old(&r.data)))
    })
    .await?;
    load.wait_acked(50).await?;
    let attempts = load.finish().await?;
    check_prefix(&attempts, &read_whole(cluster.kinesis(away), STREAM).await?)
        .context("as the one that was away reads")?;
    for &seat in &rest {
        let mut agree = Ok(false);
        wait_until("both show some records", async || {
            for number in 0..8 {
                let last = Bytes::from_static(b"last/0");
                let _ = put(&client, STREAM, &format!("last{number}"), last).await;
            }
            let one = read_whole(cluster.kinesis(away), STREAM).await;
            let other = read_whole(cluster.kinesis(seat), STREAM).await;
            agree = one.and_then(|one| same_tail(&one, &other?));
            !matches!(agree, Ok(false))
        })
        .await?;
        agree.with_context(|| format!("node {seat}"))?;
    }
    // It can lead: the others die one by one, and calls that were stored are known to it.
    wait_until("its log has shrunk", async || log_bytes(&cluster, away) < 6 << 20).await?;
    cluster.crash(rest[0]).await?;
    let client = cluster.client(&[away, rest[1]], Options::default())?;
    wait_until("the two go on", async || {
        put(&client, STREAM, "after", Bytes::from_static(b"after/0")).await.is_ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_and_reshards_go_on_while_records_expire() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    cluster.create_stream(STREAM, 2).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let load = Load::start(&client, STREAM, "w", 4);
    let name = STREAM.parse()?;
    for count in [4, 2, 3] {
        let body = json!({ "StreamName": STREAM, "TargetShardCount": count,
            "ScalingType": "UNIFORM_SCALING" });
        wait_until("the change is taken", async || {
            kinesis(cluster.kinesis(0), "UpdateShardCount", &body, LIMIT)
                .await
                .is_ok_and(|answer| answer.status == 200)
        })
        .await?;
        load.wait_acked(60).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        wait_until("the change is done", async || {
            client.describe_stream(&name).await.is_ok_and(|stream| {
                stream.map.open().count() == count
                    && stream.status == tristream_client::StreamStatus::Active
            })
        })
        .await?;
    }
    // Closed shards go, and only when their records have.
    wait_until("only open shards are left", async || {
        client.describe_stream(&name).await.is_ok_and(|stream| stream.map.shards().len() == 3)
    })
    .await?;
    load.wait_acked(40).await?;
    let attempts = load.finish().await?;
    for seat in 0..3 {
        check_prefix(&attempts, &read_whole(cluster.kinesis(seat), STREAM).await?)
            .with_context(|| format!("as node {seat} reads"))?;
    }
    Ok(())
}
