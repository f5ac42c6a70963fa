//! More than fits: refused with the word for it, in bounded memory, and forgotten when the load goes.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tristream_client::domain::limits::SHARD_WAITING_BYTES_MAX;
use tristream_client::{Error, Options};
use tristream_cluster_tests::in_process::load::put;
use tristream_cluster_tests::in_process::reading::read_all;
use tristream_cluster_tests::in_process::{Cluster, Storage, wait_until};

const STREAM: &str = "orders";
const RECORD_BYTES: usize = 900 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_shard_throttles_and_recovers() -> anyhow::Result<()> {
    let cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    let leader = cluster.leader(&[0, 1, 2], STREAM).await?;
    // Two disks hang, so nothing is acked and all of it waits.
    for seat in [leader, (leader + 1) % 3] {
        cluster.disk(seat).hold_syncs();
    }
    let options = Options { deadline: Duration::from_secs(2), ..Options::default() };
    let client = cluster.client(&[0, 1, 2], options)?;
    let count = 2 * SHARD_WAITING_BYTES_MAX / RECORD_BYTES;
    let puts = (0..count).map(|number| {
        let client = client.clone();
        async move {
            let data = Bytes::from(vec![b'x'; RECORD_BYTES]);
            put(&client, STREAM, &format!("k{number}"), data).await
        }
    });
    let outcomes = join_all(puts).await;
    let throttled = outcomes.iter().filter(|o| matches!(o, Err(Error::Throttled(_)))).count();
    ensure!(outcomes.iter().all(Result::is_err), "acked with two of three disks held");
    // Twice the room was sent. (What is neither throttled nor waited may have met a change of leaders.)
    ensure!(throttled > count / 4, "only {throttled} of {count} were throttled");

    for seat in [leader, (leader + 1) % 3] {
        cluster.disk(seat).release_syncs();
    }
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    for number in 0..50 {
        let data = Bytes::from(vec![b'y'; RECORD_BYTES]);
        put(&client, STREAM, &format!("k{number}"), data).await.context("the room came back")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_leave_no_gap_and_no_leak() -> anyhow::Result<()> {
    let cluster = Cluster::start(Storage::Simulated).await?;
    cluster.create_stream(STREAM, 1).await?;
    let leader = cluster.leader(&[0, 1, 2], STREAM).await?;
    let follower = (leader + 1) % 3;
    for round in 0..60 {
        let mut gone = Vec::new();
        for seat in [leader, follower] {
            let data = base64::Engine::encode(
                &base64::engine::general_purpose::STANDARD,
                format!("gone-{seat}/{round}"),
            );
            let key = format!("gone-{seat}");
            let body =
                json!({ "StreamName": STREAM, "PartitionKey": key, "Data": data }).to_string();
            let head = format!(
                "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\
                 content-type: application/x-amz-json-1.1\r\n\
                 x-amz-target: Kinesis_20131202.PutRecord\r\n\r\n",
                body.len()
            );
            let mut to = TcpStream::connect(cluster.kinesis(seat)).await?;
            to.write_all(head.as_bytes()).await?;
            to.write_all(body.as_bytes()).await?;
            gone.push(to);
        }
        tokio::time::sleep(Duration::from_micros(200 * (round % 10))).await;
        drop(gone);
    }
    // More than the shard's room, so that any room lost above shows.
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    for number in 0..50 {
        let data = Bytes::from(format!("stay/{number}"));
        put(&client, STREAM, "stay", data).await?;
    }
    let mut first = Vec::new();
    wait_until("all replicas show the same", async || {
        let mut all = Vec::new();
        for seat in 0..3 {
            match read_all(cluster.kinesis(seat), STREAM).await {
                Ok(read) => all.push(read.records),
                Err(_) => return false,
            }
        }
        first = all[0].clone();
        all[0] == all[1] && all[1] == all[2]
    })
    .await?;
    for key in ["stay".to_owned(), format!("gone-{leader}"), format!("gone-{follower}")] {
        let counts = first.iter().filter(|record| record.key == key);
        let counts: Vec<u64> = counts
            .map(|record| record.data.rsplit('/').next().unwrap_or_default().parse())
            .collect::<Result<_, _>>()?;
        // Who does not wait for the answer has no order, but still no copies.
        let mut once = counts.clone();
        once.sort_unstable();
        once.dedup();
        ensure!(once.len() == counts.len(), "{key}: {counts:?}");
        ensure!(key != "stay" || counts == Vec::from_iter(0..50), "{key}: {counts:?}");
    }
    Ok(())
}
