//! Everything back out, by `aws kinesis get-records` and by `tristream tail`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio::process::Command;
use tristream_cluster_tests::aws_cli::{self, AwsCli};
use tristream_cluster_tests::command;
use tristream_cluster_tests::history::{Event, Stored};

use crate::progress::Progress;

/// Reading all of it once.
const READ_LIMIT: Duration = Duration::from_secs(300);
/// Name of the one reader.
pub(crate) const GET_RECORDS: &str = "get-records";
/// Name of the other.
pub(crate) const TAIL: &str = "tail";

/// Ids of the stream's shards.
pub(crate) async fn shards(
    cli: &AwsCli,
    address: &str,
    stream: &str,
) -> anyhow::Result<Vec<String>> {
    let answer = cli.kinesis(address, &["list-shards", "--stream-name", stream]).await?;
    let shards = answer["Shards"].as_array().context("list-shards answers no Shards")?;
    let ids = shards.iter().filter_map(|shard| shard["ShardId"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

/// Reads all shards, each from a node in turn.
pub(crate) async fn by_cli(
    cli: &AwsCli,
    addresses: &[String],
    stream: &str,
    shards: &[String],
    progress: &Progress,
) -> anyhow::Result<()> {
    let reads = shards.iter().zip(addresses.iter().cycle()).map(async |(shard, address)| {
        let records = cli.read_shard(address, stream, shard).await;
        anyhow::Ok((shard, records.with_context(|| format!("get-records of {shard}"))?))
    });
    let mut reads = futures::stream::iter(reads).buffered(2);
    while let Some((shard, records)) = reads.try_next().await? {
        tell(progress, GET_RECORDS, shard, records);
    }
    Ok(())
}

/// What `tristream tail --json` prints for each record.
#[derive(Debug, Deserialize)]
struct Line {
    shard: String,
    sequence_number: String,
    partition_key: String,
    /// The data as text, where they are text.
    #[serde(default)]
    data: Option<String>,
    /// The data in base64, where they are not.
    #[serde(default)]
    data_base64: Option<String>,
}

/// Reads all shards with one `tristream tail`.
pub(crate) async fn by_client(
    mut tail: Command,
    shards: &[String],
    progress: &Progress,
) -> anyhow::Result<()> {
    let printed = command::stdout(&mut tail, READ_LIMIT).await?;
    let mut records: Vec<Stored> = Vec::new();
    for line in printed.lines() {
        let line: Line = serde_json::from_str(line)
            .with_context(|| format!("`tristream tail --json` printed {line:?}"))?;
        let data = match (line.data, line.data_base64) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(encoded)) => Bytes::from(STANDARD.decode(encoded)?),
            (None, None) => bail!("`tristream tail --json` printed a record without data"),
        };
        let position = aws_cli::position(&line.shard, &line.sequence_number)?;
        records.push(Stored { position, key: line.partition_key, data });
    }
    let known: BTreeSet<&str> = shards.iter().map(String::as_str).collect();
    if let Some(other) = records.iter().find(|record| !known.contains(&*record.position.shard)) {
        bail!("`tristream tail` names a shard {} that there is not", other.position.shard);
    }
    for shard in shards {
        let of_shard = records.iter().filter(|record| record.position.shard == *shard);
        tell(progress, TAIL, shard, of_shard.cloned().collect());
    }
    Ok(())
}

fn tell(progress: &Progress, reader: &'static str, shard: &str, records: Vec<Stored>) {
    progress.with(|history| {
        for record in records {
            history.push(Event::Read(reader, record));
        }
        history.push(Event::ReadAll(reader, shard.to_owned()));
    });
}
