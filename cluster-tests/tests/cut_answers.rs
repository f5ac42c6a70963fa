//! The answer to a put is lost on its way, and the client sends the put again: boto3, the AWS SDK for Rust and the native
//! client. In between nothing happens, or the shard's leader dies, or the shard is split. The record is stored once, and
//! the retry is told the number that the first attempt got.

#![allow(clippy::print_stdout)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::StreamStatus;
use serde_json::Value;
use tristream_client::Options;
use tristream_client::domain::HashKey;
use tristream_cluster_tests::doors::boto3::{self, Boto3};
use tristream_cluster_tests::doors::native::Native;
use tristream_cluster_tests::doors::rust_sdk::RustSdk;
use tristream_cluster_tests::doors::{Door, Put};
use tristream_cluster_tests::history::{Event, History, Position};
use tristream_cluster_tests::processes::{self, Cluster, ZONES};
use tristream_cluster_tests::scissors::http::Proxy;
use tristream_cluster_tests::scissors::{Scissors, grpc};
use tristream_cluster_tests::workload::{self, Shared};
use tristream_cluster_tests::{admin, aws_cli, generations, promises, sdk};

/// For the cluster to get over something on a busy machine.
const CALM_LIMIT: Duration = Duration::from_secs(60);
const READERS: [&str; 3] = ["az-a", "az-b", "az-c"];

/// What happens between a put and its retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    /// `kill -9` of the leader of the shard that has the record.
    LeaderDies,
    /// The shard that has the record begins to be split.
    SplitBegins,
    /// It was split: the retry meets a child.
    Split,
    /// All of the stream is merged into one shard.
    Merged,
}

const ALL: [Between; 8] = [
    Between::Nothing,
    Between::SplitBegins,
    Between::Nothing,
    Between::Split,
    Between::LeaderDies,
    Between::Split,
    Between::Merged,
    Between::Nothing,
];

#[tokio::test(flavor = "multi_thread")]
async fn boto3_stores_once_though_answers_are_cut() -> anyhow::Result<()> {
    if let Some(why) = boto3::missing().await {
        println!("SKIPPED: {why}");
        return Ok(());
    }
    let mut ground = Ground::start("boto3").await?;
    let proxy = Proxy::start(&ground.addresses, &ground.scissors).await?;
    let door = Boto3::start(&[proxy.address().to_owned()], 0, 5).await?;
    ground.test(Box::new(door), Some(&proxy)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_sdk_stores_once_though_answers_are_cut() -> anyhow::Result<()> {
    let mut ground = Ground::start("rust-sdk").await?;
    let proxy = Proxy::start(&ground.addresses, &ground.scissors).await?;
    let door = RustSdk::new(&[proxy.address().to_owned()], 0);
    ground.test(Box::new(door), Some(&proxy)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_native_client_stores_once_though_answers_are_cut() -> anyhow::Result<()> {
    let mut ground = Ground::start("native").await?;
    let options = Options {
        // What happens in between takes its time, and the answer is held that long.
        deadline: Duration::from_secs(90),
        attempt_timeout: Duration::from_secs(60),
        connector: Some(grpc::connector(&ground.scissors)),
        ..Options::default()
    };
    let peers: Vec<String> =
        ZONES.iter().map(|zone| ground.cluster.peer(zone)).collect::<anyhow::Result<_>>()?;
    let client = tristream_client::Client::connect(peers, options)?;
    ground.test(Box::new(Native(client)), None).await
}

struct Ground {
    cluster: Cluster,
    addresses: Vec<String>,
    stream: &'static str,
    scissors: Scissors,
    history: Shared,
}

impl Ground {
    async fn start(stream: &'static str) -> anyhow::Result<Ground> {
        let cluster = Cluster::start(processes::Options::default()).await?;
        let addresses: Vec<String> =
            ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
        sdk::create_stream(&sdk::client(&addresses[0], 3), stream, 1).await?;
        admin::wait_all_led(&addresses[0], stream, 1, CALM_LIMIT).await?;
        let history = Arc::new(Mutex::new(History::new()));
        Ok(Ground { cluster, addresses, stream, scissors: Scissors::default(), history })
    }

    async fn test(&mut self, mut door: Box<dyn Door>, proxy: Option<&Proxy>) -> anyhow::Result<()> {
        let tested = self.all(&mut *door, proxy).await;
        let tested = tested.with_context(|| self.cluster.last_words());
        self.cluster.stop().await?;
        tested
    }

    async fn all(&mut self, door: &mut dyn Door, proxy: Option<&Proxy>) -> anyhow::Result<()> {
        // So that the native client has a map and a connection before the first cut.
        self.put(door, "warm", 1, None).await?;
        for (round, between) in ALL.into_iter().enumerate() {
            for count in [1, 3] {
                let name = format!("{round}-{between:?}-{count}");
                let acked = self.put(door, &name, count, Some(between)).await;
                let acked = acked.with_context(|| name.clone())?;
                // The retry names what the first attempt got.
                if let Some(first) = proxy.map(|proxy| proxy.cut().pop()) {
                    let first = positions(&first.context("nothing was cut")?)?;
                    ensure!(first == acked, "{name}: first {first:?}, retry {acked:?}");
                }
            }
        }
        for (address, reader) in self.addresses.iter().zip(READERS) {
            generations::read_all(address, self.stream, reader, &self.history).await?;
        }
        workload::with(&self.history, |history| {
            let (acked, expected) = (history.acked(), 1 + ALL.len() * 4);
            ensure!(acked == expected, "{acked} of {expected} acked");
            promises::demand(history)
        })
    }

    /// Puts `count` records by one call, whose first answer is cut unless `between` is none.
    async fn put(
        &mut self,
        door: &mut dyn Door,
        name: &str,
        count: usize,
        between: Option<Between>,
    ) -> anyhow::Result<Vec<Position>> {
        let puts: Vec<Put> = (0..count)
            .map(|number| Put {
                key: format!("{name}-{number}"),
                data: format!("data of {name}, {number}").into(),
            })
            .collect();
        let ids = workload::with(&self.history, |history| {
            let intend = |put: &Put| {
                let id = history.intend(Some(put.key.clone()), put.data.clone());
                history.push(Event::Sent(id));
                id
            };
            puts.iter().map(intend).collect::<Vec<_>>()
        });
        let stream = self.stream;
        let outcomes = match between {
            None => door.put(stream, &puts).await?,
            Some(between) => {
                self.scissors.arm();
                let happen = async {
                    self.scissors.held().await?;
                    let done = happen(&mut self.cluster, stream, between, &puts[0].key).await;
                    self.scissors.let_go()?;
                    done
                };
                let (outcomes, happened) = tokio::join!(door.put(stream, &puts), happen);
                happened.context("in between")?;
                outcomes?
            }
        };
        let mut acked = Vec::new();
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            let position = outcome.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
            acked.push(position.clone());
            workload::with(&self.history, |history| history.push(Event::Acked(id, position)));
        }
        Ok(acked)
    }
}

async fn happen(
    cluster: &mut Cluster,
    stream: &str,
    between: Between,
    key: &str,
) -> anyhow::Result<()> {
    let address = cluster.kinesis("az-a")?;
    let client = sdk::client(&address, 3);
    // A split of the round before may still be under way.
    wait_active(&client, stream).await?;
    let map = generations::shards(&client, stream).await?;
    let hash = HashKey::of(key);
    let own = map.iter().find(|shard| shard.open && shard.range.contains(hash));
    let own = own.context("nobody owns the key")?;
    match between {
        Between::Nothing => Ok(()),
        Between::LeaderDies => {
            let zone = admin::wait_leader(&address, stream, &own.shard, None, CALM_LIMIT).await?;
            cluster.kill(&zone).await?;
            cluster.restart(&zone)?;
            // Ready on this node before the client finds it: otherwise it is about starting, not about answers.
            cluster.wait_ready(&zone).await
        }
        Between::SplitBegins | Between::Split => {
            let middle = own.range.first.0 + (own.range.last.0 - own.range.first.0) / 2 + 1;
            let split = client.split_shard().stream_name(stream).shard_to_split(&own.shard);
            split.new_starting_hash_key(middle.to_string()).send().await?;
            if between == Between::SplitBegins {
                Ok(())
            } else {
                wait_active(&client, stream).await
            }
        }
        Between::Merged => merge_all(&client, stream).await,
    }
}

async fn merge_all(client: &Client, stream: &str) -> anyhow::Result<()> {
    loop {
        let mut open = generations::shards(client, stream).await?;
        open.retain(|shard| shard.open);
        open.sort_by_key(|shard| shard.range.first);
        let [first, second, ..] = &open[..] else { return Ok(()) };
        let merge = client.merge_shards().stream_name(stream).shard_to_merge(&first.shard);
        merge.adjacent_shard_to_merge(&second.shard).send().await?;
        wait_active(client, stream).await?;
    }
}

async fn wait_active(client: &Client, stream: &str) -> anyhow::Result<()> {
    admin::wait(&format!("{stream} to be active"), CALM_LIMIT, async || {
        let summary = client.describe_stream_summary().stream_name(stream).send().await?;
        let summary = summary.stream_description_summary().context("no summary")?;
        Ok((*summary.stream_status() == StreamStatus::Active).then_some(()))
    })
    .await
}

/// Where an answer of PutRecord or PutRecords says that the records are.
fn positions(answer: &Value) -> anyhow::Result<Vec<Position>> {
    let one = [answer.clone()];
    let entries = answer["Records"].as_array().map_or(&one[..], Vec::as_slice);
    let text = |entry: &Value, name: &str| {
        entry[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {entry}"))
    };
    entries
        .iter()
        .map(|entry| aws_cli::position(&text(entry, "ShardId")?, &text(entry, "SequenceNumber")?))
        .collect()
}
