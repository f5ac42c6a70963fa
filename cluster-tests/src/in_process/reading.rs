//! What one node serves of a stream, over HTTP, and whether that keeps the promises.
//!
//! Must not know how the records came there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tristream_client::domain::SequenceNumber;

use super::load::{Attempt, Fate};

/// An answer of the HTTP door.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// Whether the node says that it may not know everything.
    pub stale: bool,
    /// The body.
    pub body: Value,
}

/// One Kinesis operation at `address`, on a connection of its own.
pub async fn kinesis(
    address: &str,
    operation: &str,
    body: &Value,
    limit: Duration,
) -> anyhow::Result<Answer> {
    let call = async {
        let body = serde_json::to_vec(body)?;
        let mut to = TcpStream::connect(address).await?;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\
             content-type: application/x-amz-json-1.1\r\nx-amz-target: Kinesis_20131202.{operation}\r\n\r\n",
            body.len()
        );
        to.write_all(head.as_bytes()).await?;
        to.write_all(&body).await?;
        let mut answer = Vec::new();
        to.read_to_end(&mut answer).await?;
        parse(&answer)
    };
    tokio::time::timeout(limit, call).await.context("no answer in time")?
}

fn parse(answer: &[u8]) -> anyhow::Result<Answer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no HTTP answer")?;
    let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    ensure!(!head.contains("transfer-encoding"), "bodies come whole: {head}");
    let body = &answer[end + 4..];
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(body)? };
    Ok(Answer { status, stale: head.contains("x-tristream-stale: true"), body })
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its shard.
    pub shard: String,
    /// Its number.
    pub number: SequenceNumber,
    /// Its partition key.
    pub key: String,
    /// Its data.
    pub data: String,
}

/// All that a node serves of a stream, shard by shard, up to the tip it knows.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// In the order of each shard.
    pub records: Vec<Stored>,
    /// Some answer was marked stale.
    pub stale: bool,
}

/// Reads everything that the node at `address` has.
pub async fn read_all(address: &str, stream: &str) -> anyhow::Result<Contents> {
    let limit = Duration::from_secs(20);
    let shards = kinesis(address, "ListShards", &json!({ "StreamName": stream }), limit).await?;
    ensure!(shards.status == 200, "ListShards: {shards:?}");
    let mut contents = Contents::default();
    for shard in shards.body["Shards"].as_array().context("no shards")? {
        let shard = shard["ShardId"].as_str().context("no shard id")?;
        let ask =
            json!({ "StreamName": stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
        let begun = kinesis(address, "GetShardIterator", &ask, limit).await?;
        ensure!(begun.status == 200, "GetShardIterator: {begun:?}");
        let mut iterator = begun.body["ShardIterator"].clone();
        loop {
            let page = json!({ "ShardIterator": iterator });
            let page = kinesis(address, "GetRecords", &page, limit).await?;
            ensure!(page.status == 200, "GetRecords: {page:?}");
            contents.stale |= page.stale;
            let records = page.body["Records"].as_array().context("no records")?;
            for record in records {
                contents.records.push(stored(shard, record)?);
            }
            iterator = page.body["NextShardIterator"].clone();
            if records.is_empty() && page.body["MillisBehindLatest"] == json!(0) {
                break;
            }
            if records.is_empty() && page.stale {
                break;
            }
        }
    }
    Ok(contents)
}

/// Reads everything, once the node no longer says that it may be behind.
pub async fn read_whole(address: &str, stream: &str) -> anyhow::Result<Contents> {
    let until = Instant::now() + super::PATIENCE;
    loop {
        let read = read_all(address, stream).await;
        match read {
            Ok(read) if !read.stale => return Ok(read),
            read if Instant::now() > until => {
                let read = read?;
                bail!("{address} stays stale, with {} records", read.records.len());
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn stored(shard: &str, record: &Value) -> anyhow::Result<Stored> {
    let text = |name: &str| record[name].as_str().with_context(|| format!("no {name}"));
    let data = base64::engine::general_purpose::STANDARD.decode(text("Data")?)?;
    let number = text("SequenceNumber")?;
    Ok(Stored {
        shard: shard.to_owned(),
        number: number.parse().map_err(|error| anyhow::anyhow!("{number}: {error}"))?,
        key: text("PartitionKey")?.to_owned(),
        data: String::from_utf8(data)?,
    })
}

/// Checks what was read against what the writers know: every acked record once, under its number; none twice, none
/// that was refused or never sent; numbers rise; each writer's records in its order.
pub fn judge(attempts: &[Attempt], read: &Contents) -> anyhow::Result<()> {
    check_prefix(attempts, read)?;
    let there: BTreeMap<&str, SequenceNumber> =
        read.records.iter().map(|record| (record.data.as_str(), record.number)).collect();
    for attempt in attempts {
        if let Fate::Acked(number) = &attempt.fate {
            match there.get(attempt.data().as_str()) {
                None => bail!("{} was acked as {number} and is lost", attempt.data()),
                Some(at) if at != number => {
                    bail!("{} was acked as {number} and is at {at}", attempt.data())
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// The part of `judge` that holds for a replica that does not have everything yet.
pub fn check_prefix(attempts: &[Attempt], read: &Contents) -> anyhow::Result<()> {
    let sent: BTreeMap<String, &Fate> = attempts.iter().map(|a| (a.data(), &a.fate)).collect();
    let mut seen = BTreeSet::new();
    let mut last_of_shard: BTreeMap<&str, SequenceNumber> = BTreeMap::new();
    let mut last_of_key: BTreeMap<&str, u64> = BTreeMap::new();
    for Stored { shard, number, key, data } in &read.records {
        ensure!(seen.insert(data), "{data} is there twice");
        match sent.get(data.as_str()) {
            None => bail!("{data} was never sent"),
            Some(Fate::Refused(why)) => bail!("{data} was refused ({why}) and is there"),
            Some(Fate::Acked(at)) => {
                ensure!(at == number, "{data} acked as {at}, read as {number}")
            }
            Some(Fate::Unknown(_)) => {}
        }
        if let Some(last) = last_of_shard.insert(shard, *number) {
            ensure!(last < *number, "{number} comes after {last} in {shard}");
        }
        let count: u64 = data.rsplit('/').next().unwrap_or_default().parse()?;
        if let Some(last) = last_of_key.insert(key, count) {
            ensure!(last < count, "{data} comes after {last} of its writer");
        }
    }
    Ok(())
}
