//! An ack means: on the disks of a majority. Syncs are held back, fail, or never come because the power fails.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use tokio::time::timeout;
use tristream_client::Options;
use tristream_client::domain::Effect;
use tristream_cluster_tests::in_process::load::{Fate, Load, put};
use tristream_cluster_tests::in_process::reading::{judge, read_all, read_whole};
use tristream_cluster_tests::in_process::{Cluster, Storage, wait_until};

const STREAM: &str = "orders";

/// A client that gives up after 1.5 s.
fn hasty() -> Options {
    Options {
        deadline: Duration::from_millis(1_500),
        attempt_timeout: Duration::from_millis(1_500),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ack_before_a_majority_has_synced() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    let client = cluster.client(&[0, 1, 2], hasty())?;
    put(&client, STREAM, "k", Bytes::from_static(b"k/0")).await.context("before any fault")?;

    // One disk that hangs is not noticed, also when it is the leader's.
    let leader = cluster.leader(&[0, 1, 2], STREAM).await?;
    cluster.disk(leader).hold_syncs();
    let first = put(&client, STREAM, "k", Bytes::from_static(b"k/1")).await;
    let number = first.context("with one disk held")?;
    let other = (leader + 1) % 3;
    cluster.disk(other).hold_syncs();
    let second = put(&client, STREAM, "k", Bytes::from_static(b"k/2")).await;
    ensure!(second.is_err(), "acked with two of three disks held: {second:?}");
    cluster.disk(leader).release_syncs();
    cluster.disk(other).release_syncs();

    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let third = put(&client, STREAM, "k", Bytes::from_static(b"k/3")).await.context("after")?;
    ensure!(number < third, "{number} {third}");
    let read = read_all(cluster.kinesis(0), STREAM).await?;
    let data: Vec<&str> = read.records.iter().map(|record| record.data.as_str()).collect();
    let is_refused = second.is_err_and(|error| error.effect() == Effect::None);
    match is_refused {
        true => ensure!(data == ["k/0", "k/1", "k/3"], "{data:?}"),
        false => ensure!(
            data == ["k/0", "k/1", "k/3"] || data == ["k/0", "k/1", "k/2", "k/3"],
            "{data:?}"
        ),
    }
    cluster.stop(0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_its_node_and_loses_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 2).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let load = Load::start(&client, STREAM, "w", 8);
    load.wait_acked(50).await?;

    let leader = cluster.leader(&[0, 1, 2], STREAM).await?;
    let follower = (leader + 1) % 3;
    for (seat, seed) in [(follower, 1), (leader, 2)] {
        cluster.disk(seat).fail_syncs(1);
        let reason = cluster.failure(seat).await?;
        ensure!(reason.contains("Committer"), "{reason}");
        load.wait_acked(50).await.context("two nodes go on")?;
        // What the failed sync was to keep is readable and not on the disk: as a machine that falls over next.
        timeout(Duration::from_secs(20), cluster.stop(seat)).await.context("it stops")??;
        cluster.disk(seat).power_loss(seed);
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

#[tokio::test(flavor = "multi_thread")]
async fn power_loss_everywhere_loses_no_acked_record() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 3).await?;
    let mut attempts = Vec::new();
    for seed in 0..3 {
        let client = cluster.client(&[0, 1, 2], Options::default())?;
        let load = Load::start(&client, STREAM, &format!("w{seed}"), 8);
        load.wait_acked(100).await?;
        // Everything written from here on is at risk: a disk in memory syncs too fast to be caught in the act.
        (0..3).for_each(|seat| cluster.disk(seat).hold_syncs());
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.power_loss_everywhere(seed * 10).await?;
        (0..3).for_each(|seat| cluster.disk(seat).release_syncs());
        for seat in 0..3 {
            cluster.run(seat).await?;
        }
        cluster.wait_ready(&[0, 1, 2]).await?;
        load.wait_acked(20).await.context("after the power came back")?;
        attempts.extend(load.finish().await?);
        for seat in 0..3 {
            judge(&attempts, &read_whole(cluster.kinesis(seat), STREAM).await?)
                .with_context(|| format!("as node {seat} reads, seed {seed}"))?;
        }
    }
    let acked = attempts.iter().filter(|a| matches!(a.fate, Fate::Acked(_))).count();
    ensure!(acked >= 360, "only {acked} acks");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_nobody_could_sync_is_not_shown_to_readers() -> anyhow::Result<()> {
    let cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    let client = cluster.client(&[0, 1, 2], hasty())?;
    put(&client, STREAM, "k", Bytes::from_static(b"k/0")).await?;
    for seat in 0..3 {
        cluster.disk(seat).hold_syncs();
    }
    let held = put(&client, STREAM, "k", Bytes::from_static(b"k/1")).await;
    ensure!(held.is_err(), "{held:?}");
    for seat in 0..3 {
        let read = read_all(cluster.kinesis(seat), STREAM).await?;
        ensure!(read.records.len() == 1, "node {seat} shows {:?}", read.records);
    }
    for seat in 0..3 {
        cluster.disk(seat).release_syncs();
    }
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    wait_until("puts are taken again", async || {
        put(&client, STREAM, "k", Bytes::from_static(b"k/2")).await.is_ok()
    })
    .await
}

/// Nothing follows it in any log, so nothing there proves it: only care with the tail keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn the_very_last_acked_record_outlives_all_nodes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    for round in 0..4 {
        let client = cluster.client(&[0, 1, 2], Options::default())?;
        let data = Bytes::from(format!("k/{round}"));
        put(&client, STREAM, "k", data).await.with_context(|| format!("round {round}"))?;
        match round % 2 {
            0 => {
                for seat in 0..3 {
                    cluster.crash(seat).await?;
                }
            }
            _ => cluster.power_loss_everywhere(round).await?,
        }
        for seat in 0..3 {
            cluster.run(seat).await?;
        }
        cluster.wait_ready(&[0, 1, 2]).await?;
        let read = read_whole(cluster.kinesis(0), STREAM).await?;
        let count = read.records.len() as u64;
        ensure!(count == round + 1, "{count} records after round {round}");
    }
    Ok(())
}
