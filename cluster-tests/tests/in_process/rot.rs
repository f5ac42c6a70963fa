//! Bits rot on the disks, under a running leader, and while nodes are down: what a majority acked is
//! fetched from the replicas that still have it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use tristream_client::Options;
use tristream_cluster_tests::admin;
use tristream_cluster_tests::in_process::load::put;
use tristream_cluster_tests::in_process::reading::{kinesis, read_all, read_whole};
use tristream_cluster_tests::in_process::{Cluster, Storage, wait_until};

const STREAM: &str = "orders";
const RECORDS: usize = 24;
const LIMIT: Duration = Duration::from_secs(30);

async fn cluster() -> anyhow::Result<Cluster> {
    let cluster = Cluster::start_with(Storage::Real, |config| {
        config.log.segment_bytes = 1 << 20;
        // Payloads are read from the files, not from memory.
        config.log.tail_bytes = 1 << 20;
    })
    .await?;
    cluster.create_stream(STREAM, 1).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    for number in 0..RECORDS {
        let data = Bytes::from(data(number));
        wait_until("a put is acked", async || {
            put(&client, STREAM, "k", data.clone()).await.is_ok()
        })
        .await?;
    }
    Ok(cluster)
}

fn data(number: usize) -> String {
    let mut data = format!("<record {number}>");
    data.extend(std::iter::repeat_n('x', 200 << 10));
    data
}

/// Flips a bit of the record on this seat's disk, wherever the log has a copy of it.
fn rot(cluster: &Cluster, seat: usize, number: usize) -> anyhow::Result<()> {
    let mark = format!("<record {number}>");
    let mut flipped = 0;
    for file in std::fs::read_dir(cluster.data_dir(seat).join("log"))? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let bytes = std::fs::read(&path)?;
        let starts = (0..bytes.len()).filter(|&at| bytes[at] == b'<');
        for start in starts.filter(|&at| bytes[at..].starts_with(mark.as_bytes())) {
            let at = start + mark.len() + 100;
            let file = OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&[bytes[at] ^ 0x10], at as u64)?;
            flipped += 1;
        }
    }
    ensure!(flipped > 0, "record {number} is not on the disk of seat {seat}");
    Ok(())
}

async fn repaired(cluster: &Cluster, seat: usize) -> Option<f64> {
    admin::metric(cluster.kinesis(seat), "tristream_log_repaired_entries_total").await.ok()
}

/// All records are there, in order and as they were put.
async fn check(cluster: &Cluster, seat: usize) -> anyhow::Result<()> {
    let read = read_whole(cluster.kinesis(seat), STREAM).await?;
    ensure!(read.records.len() == RECORDS, "{} records", read.records.len());
    for (number, record) in read.records.iter().enumerate() {
        ensure!(record.data == data(number), "record {number} differs");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rots_under_a_leader_is_repaired_before_it_is_shown() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let leader = cluster.leader(&[0, 1, 2], STREAM).await?;
    for number in [2, 3, 7] {
        rot(&cluster, leader, number)?;
    }
    check(&cluster, leader).await?;
    wait_until("the three are repaired", async || repaired(&cluster, leader).await >= Some(3.0))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_restarts_with_damage_is_repaired_by_the_others() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    let seat = cluster.leader(&[0, 1, 2], STREAM).await?;
    cluster.crash(seat).await?;
    // In segments with a footer, and in the last, which has none. (What is damaged at the very end of
    // the log is taken for torn: it is cut, and replicated again.)
    for number in [0, 9, RECORDS - 2] {
        rot(&cluster, seat, number)?;
    }
    cluster.run(seat).await?;
    cluster.wait_ready(&[seat]).await?;
    wait_until("all three are repaired", async || repaired(&cluster, seat).await >= Some(3.0))
        .await?;
    check(&cluster, seat).await?;
    // It may lead again, alone with either of the others.
    cluster.crash((seat + 1) % 3).await?;
    check(&cluster, seat).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_all_damaged_in_different_places_repair_each_other() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    for seat in 0..3 {
        cluster.crash(seat).await?;
    }
    for seat in 0..3 {
        for number in (seat..RECORDS - 1).step_by(3) {
            rot(&cluster, seat, number)?;
        }
    }
    for seat in 0..3 {
        cluster.run(seat).await?;
    }
    cluster.wait_ready(&[0, 1, 2]).await?;
    for seat in 0..3 {
        wait_until("its seven are repaired", async || repaired(&cluster, seat).await >= Some(7.0))
            .await
            .with_context(|| format!("seat {seat}"))?;
        let read = tokio::time::timeout(LIMIT, read_all(cluster.kinesis(seat), STREAM)).await??;
        ensure!(read.records.len() == RECORDS, "{} records", read.records.len());
    }
    check(&cluster, 0).await
}

/// Nobody has what rotted any more, for its stream was deleted meanwhile: the node learns that while it waits,
/// and the groups of other streams do not wait with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_rotted_of_a_stream_that_was_deleted_holds_nothing_up() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    let seat = 2;
    cluster.crash(seat).await?;
    rot(&cluster, seat, 3)?;
    let others = cluster.client(&[0, 1], Options::default())?;
    let (old, new) = (STREAM.parse()?, "later".parse()?);
    others.delete_stream(&old).await?;
    wait_until("the stream is gone", async || others.describe_stream(&old).await.is_err()).await?;
    others.create_stream(&new, Some(2)).await?;
    cluster.run(seat).await?;
    // Half as long as a group waits to be repaired.
    tokio::time::timeout(LIMIT / 2, cluster.wait_ready(&[seat])).await??;
    let read = read_whole(cluster.kinesis(seat), "later").await?;
    ensure!(read.records.is_empty());
    Ok(())
}

fn put_body(data: &str) -> serde_json::Value {
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
    serde_json::json!({ "StreamName": STREAM, "PartitionKey": "k", "Data": data })
}

/// Records that a leader which is cut off takes into its log before it notices: each in a block of its own. None
/// is acked.
async fn put_alone(cluster: &Cluster, leader: usize) -> anyhow::Result<()> {
    let alone = (RECORDS..RECORDS + 8).map(|number| {
        let (address, body) = (cluster.kinesis(leader), put_body(&data(number)));
        async move {
            tokio::time::sleep(Duration::from_millis(50) * (number - RECORDS) as u32).await;
            kinesis(address, "PutRecord", &body, LIMIT).await
        }
    });
    for answer in futures::future::try_join_all(alone).await? {
        ensure!(answer.status >= 500, "a leader alone answered {answer:?}");
    }
    Ok(())
}

/// What a leader alone wrote was never committed: when it rots there, nobody has it, and nobody needs it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_committed_and_rots_does_not_keep_its_node_away() -> anyhow::Result<()> {
    let mut cluster = cluster().await?;
    let old = cluster.leader(&[0, 1, 2], STREAM).await?;
    let rest: Vec<usize> = (0..3).filter(|seat| *seat != old).collect();
    cluster.wires().isolate(old);
    put_alone(&cluster, old).await?;
    cluster.crash(old).await?;
    // The first of them is another entry for the others, which go on.
    let client = cluster.client(&rest, Options::default())?;
    wait_until("the others go on", async || {
        put(&client, STREAM, "k", Bytes::from_static(b"<later>")).await.is_ok()
    })
    .await?;
    rot(&cluster, old, RECORDS + 1)?;
    cluster.run(old).await?;
    cluster.wires().rejoin(old);
    cluster.wait_ready(&[old]).await?;
    let mut read = read_whole(cluster.kinesis(old), STREAM).await?;
    let last = read.records.pop().context("nothing is there")?;
    ensure!(last.data == "<later>" && read.records.len() == RECORDS, "{} records", RECORDS);
    Ok(())
}
