//! Nodes die, one, two and all of them; what was acked is there, and who must refuse does so at once.

#![allow(clippy::print_stdout)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use serde_json::json;
use tokio::time::Instant;
use tristream_client::domain::HashKey;
use tristream_cluster_tests::generations;
use tristream_cluster_tests::history::{Event, History};
use tristream_cluster_tests::processes::{Cluster, Options, ZONES};
use tristream_cluster_tests::workload::{self, Shared, Workload};
use tristream_cluster_tests::{admin, aws_cli, promises, raw_http, sdk};

const STREAM: &str = "failover";
const SHARDS: usize = 4;
/// For the cluster to get over something. The product promises 2 s; a busy test machine may take longer.
const CALM_LIMIT: Duration = Duration::from_secs(30);
/// A put without a quorum is refused within its deadline, which is 5 s by default.
const REFUSAL_LIMIT: Duration = Duration::from_secs(15);

#[tokio::test]
async fn what_was_acked_survives_one_two_and_three_dead_nodes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    let tested = all(&mut cluster).await;
    tested.with_context(|| cluster.last_words())
}

async fn all(cluster: &mut Cluster) -> anyhow::Result<()> {
    let history: Shared = Arc::new(Mutex::new(History::new()));
    let any = cluster.kinesis("az-a")?;
    sdk::create_stream(&sdk::client(&any, 3), STREAM, SHARDS as i32).await?;
    admin::wait_all_led(&any, STREAM, SHARDS, CALM_LIMIT).await?;
    a_dead_leader_is_replaced(cluster, &history).await.context("one dead")?;
    read_and_judge(cluster, &history, ["one: az-a", "one: az-c"]).await?;
    a_survivor_refuses_puts_and_serves_reads(cluster, &history).await.context("two dead")?;
    read_and_judge(cluster, &history, ["two: az-a", "two: az-c"]).await?;
    cluster.kill_all().await?;
    cluster.up().await.context("up after all were killed")?;
    read_and_judge(cluster, &history, ["three: az-a", "three: az-c"]).await?;
    cluster.stop().await.context("a clean stop")?;
    cluster.up().await.context("up after a clean stop")?;
    put_some(cluster, &history).await?;
    read_and_judge(cluster, &history, ["again: az-a", "again: az-c"]).await
}

async fn a_dead_leader_is_replaced(cluster: &mut Cluster, history: &Shared) -> anyhow::Result<()> {
    let workload = start_workload(cluster, history).await?;
    acks_go_on(&workload, "before the kill").await?;
    let view = admin::view(&cluster.kinesis("az-a")?).await?;
    let (shard, victim) = view.leaders(STREAM).into_iter().next().context("no shard")?;
    let victim = victim.context("no leader")?;
    let survivor = ZONES.into_iter().find(|zone| *zone != victim).context("no survivor")?;
    let survivor = cluster.kinesis(survivor)?;
    let killed = Instant::now();
    cluster.kill(&victim).await?;
    let next = admin::wait_leader(&survivor, STREAM, &shard, Some(&victim), CALM_LIMIT).await?;
    println!("{shard}: {next} leads {} ms after {victim} died", killed.elapsed().as_millis());
    let view = admin::wait_all_led(&survivor, STREAM, SHARDS, CALM_LIMIT).await?;
    ensure!(view.leaders(STREAM).iter().all(|(_, az)| az.as_deref() != Some(&victim)));
    acks_go_on(&workload, "with one dead").await?;
    cluster.restart(&victim)?;
    cluster.wait_ready(&victim).await?;
    acks_go_on(&workload, "with all back").await?;
    workload.stop().await?;
    catches_up(cluster, &victim, &survivor).await
}

/// The node started again has committed all that the others have.
async fn catches_up(cluster: &Cluster, zone: &str, other: &str) -> anyhow::Result<()> {
    let address = cluster.kinesis(zone)?;
    admin::wait(&format!("{zone} to catch up"), CALM_LIMIT, async || {
        let (behind, ahead) = (admin::view(&address).await?, admin::view(other).await?);
        let committed = |view: &admin::View| {
            let groups = view.groups.iter().filter(|g| g.stream.as_deref() == Some(STREAM));
            groups.map(|group| (group.shard.clone(), group.committed)).collect::<Vec<_>>()
        };
        ensure!(committed(&behind) == committed(&ahead), "{behind:?}\n{ahead:?}");
        Ok(Some(()))
    })
    .await
}

async fn a_survivor_refuses_puts_and_serves_reads(
    cluster: &mut Cluster,
    history: &Shared,
) -> anyhow::Result<()> {
    cluster.kill("az-a").await?;
    cluster.kill("az-b").await?;
    let survivor = cluster.kinesis("az-c")?;
    let client = sdk::client(&survivor, 1);

    let id = workload::with(history, |history| {
        let id = history.intend(Some("lone".to_owned()), "lone survivor");
        history.push(Event::Sent(id));
        history.push(Event::Unknown(id));
        id
    });
    let data = workload::with(history, |history| history.intent(id).data.to_vec());
    let put = client.put_record().stream_name(STREAM).partition_key("lone").data(Blob::new(data));
    let refused = tokio::time::timeout(REFUSAL_LIMIT, put.send()).await;
    let refused = refused.context("a put without a quorum hangs")?;
    let error = refused.err().context("a put was acked by one node of three")?;
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    ensure!(status.is_some_and(|status| status >= 500), "not a retryable refusal: {error:?}");

    let entry = PutRecordsRequestEntry::builder()
        .partition_key("lone")
        .data(Blob::new("lone survivor, many"))
        .build()?;
    workload::with(history, |history| {
        let id = history.intend(Some("lone".to_owned()), "lone survivor, many");
        history.push(Event::Sent(id));
        history.push(Event::Unknown(id));
    });
    let put = client.put_records().stream_name(STREAM).records(entry);
    let refused = tokio::time::timeout(REFUSAL_LIMIT, put.send()).await;
    match refused.context("PutRecords without a quorum hangs")? {
        Ok(answer) => ensure!(answer.failed_record_count() == Some(1), "{answer:?}"),
        Err(error) => ensure!(error.raw_response().is_some(), "no clear refusal: {error:?}"),
    }
    read_stale(&survivor, history).await.context("reads from the survivor")?;
    for zone in ["az-a", "az-b"] {
        cluster.restart(zone)?;
    }
    for zone in ["az-a", "az-b"] {
        cluster.wait_ready(zone).await?;
    }
    put_some(cluster, history).await
}

/// Every record that the lone survivor knows to be committed: a correct prefix, marked as perhaps not all.
async fn read_stale(survivor: &str, history: &Shared) -> anyhow::Result<()> {
    let mut count = 0;
    for number in 0..SHARDS {
        let shard = format!("shardId-{number:012}");
        let body =
            json!({"StreamName": STREAM, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
        let made = raw_http::kinesis(survivor, "GetShardIterator", &body, REFUSAL_LIMIT).await?;
        ensure!(made.status == 200, "{made:?}");
        let mut iterator = made.json()?["ShardIterator"].clone();
        // The last answer, which finds nothing more, is the one that cannot be vouched for.
        let last = loop {
            let body = json!({"ShardIterator": iterator});
            let answer = raw_http::kinesis(survivor, "GetRecords", &body, REFUSAL_LIMIT).await?;
            ensure!(answer.status == 200, "{answer:?}");
            let page = answer.json()?;
            let records = page["Records"].as_array().context("no Records")?;
            for record in records {
                let stored = aws_cli::stored(&shard, record)?;
                workload::with(history, |history| history.push(Event::Read("survivor", stored)));
                count += 1;
            }
            iterator = page["NextShardIterator"].clone();
            if records.is_empty() {
                break answer;
            }
        };
        ensure!(last.header("x-tristream-stale") == Some("true"), "{shard}: {last:?}");
    }
    ensure!(count > 0, "the survivor knows of no record");
    Ok(())
}

async fn start_workload(cluster: &Cluster, history: &Shared) -> anyhow::Result<Workload> {
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    let shards = sdk::shards(&sdk::client(&addresses[0], 3), STREAM).await?;
    Ok(Workload::start(&addresses, STREAM, &shards, 4, 1, history))
}

async fn acks_go_on(workload: &Workload, when: &str) -> anyhow::Result<()> {
    let enough = workload.acks() + 300;
    let what = format!("300 more acks {when}");
    admin::wait(&what, CALM_LIMIT, async || Ok((workload.acks() >= enough).then_some(()))).await
}

/// A record into every shard, acked.
async fn put_some(cluster: &Cluster, history: &Shared) -> anyhow::Result<()> {
    let any = cluster.kinesis("az-a")?;
    admin::wait_all_led(&any, STREAM, SHARDS, CALM_LIMIT).await?;
    let client = sdk::client(&any, 5);
    for number in 0..SHARDS as u128 {
        let id = workload::with(history, |history| {
            let key = format!("key-{number}");
            let data = format!("some {}", history.intents().len());
            let id = history.intend_at(Some(key), Some(HashKey(number << 126)), data);
            // The SDK may send it five times, as one call.
            history.push(Event::Sent(id));
            id
        });
        let intent = workload::with(history, |history| history.intent(id).clone());
        let put = client
            .put_record()
            .stream_name(STREAM)
            .set_partition_key(intent.key)
            .explicit_hash_key((number << 126).to_string())
            .data(Blob::new(intent.data.to_vec()))
            .send()
            .await?;
        let position = aws_cli::position(put.shard_id(), put.sequence_number())?;
        workload::with(history, |history| history.push(Event::Acked(id, position)));
    }
    Ok(())
}

async fn read_and_judge(
    cluster: &Cluster,
    history: &Shared,
    readers: [&'static str; 2],
) -> anyhow::Result<()> {
    admin::wait_all_led(&cluster.kinesis("az-a")?, STREAM, SHARDS, CALM_LIMIT).await?;
    workload::with(history, History::reopen);
    for (reader, zone) in readers.into_iter().zip(["az-a", "az-c"]) {
        let address = cluster.kinesis(zone)?;
        generations::read_all(&address, STREAM, reader, history).await.context(reader)?;
    }
    workload::with(history, |history| promises::demand(history)).context(readers[0])
}
