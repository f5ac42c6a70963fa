//! The AWS CLI commands of the notes that this project started from, corrected where they were wrong or old: they
//! are what a person who learns Kinesis types.

#![allow(clippy::print_stdout)]

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;
use tristream_cluster_tests::aws_cli::AwsCli;
use tristream_cluster_tests::processes::{Cluster, Options};

const STREAM: &str = "test_mg";
/// Every command names these, as the notes do.
const PROFILE: [&str; 4] = ["--profile", "michal", "--region", "eu-west-1"];

#[tokio::test]
async fn the_notes_commands_work() -> anyhow::Result<()> {
    let mut cli = match AwsCli::find().await {
        Ok(cli) => cli,
        Err(reason) => {
            println!("SKIPPED: {reason:#}");
            return Ok(());
        }
    };
    let mut cluster = Cluster::start(Options::default()).await?;
    let folder = tempfile::tempdir()?;
    cli.config_file = folder.path().join("config");
    let profile = "[profile michal]\naws_access_key_id = test\naws_secret_access_key = test\n";
    fs::write(&cli.config_file, profile)?;
    let hand = Hand { cli, address: cluster.kinesis("az-a")? };
    let tested = all(&hand, folder.path()).await.with_context(|| cluster.last_words());
    cluster.stop().await?;
    tested
}

/// Who types the commands.
struct Hand {
    cli: AwsCli,
    address: String,
}

impl Hand {
    async fn types(&self, command: &[&str]) -> anyhow::Result<Value> {
        let words: Vec<&str> = command.iter().chain(&PROFILE).copied().collect();
        self.cli.kinesis(&self.address, &words).await
    }

    async fn puts(&self, command: &[&str]) -> anyhow::Result<Value> {
        let words: Vec<&str> = command.iter().chain(self.cli.raw_data()).copied().collect();
        self.types(&words).await
    }
}

async fn all(hand: &Hand, folder: &Path) -> anyhow::Result<()> {
    manage(hand).await.context("stream management")?;
    let kept = produce(hand, folder).await.context("producing")?;
    consume(hand, &kept).await.context("consuming")?;
    let gone = hand.types(&["delete-stream", "--stream-name", STREAM]).await?;
    ensure!(gone.is_null(), "delete-stream prints {gone}");
    hand.types(&["wait", "stream-not-exists", "--stream-name", STREAM]).await?;
    Ok(())
}

async fn manage(hand: &Hand) -> anyhow::Result<()> {
    let made =
        hand.types(&["create-stream", "--stream-name", STREAM, "--shard-count", "1"]).await?;
    ensure!(made.is_null(), "create-stream prints {made}");
    hand.types(&["wait", "stream-exists", "--stream-name", STREAM]).await?;
    let listed = hand.types(&["list-streams"]).await?;
    ensure!(listed["StreamNames"] == serde_json::json!([STREAM]), "{listed}");
    let described = hand.types(&["describe-stream", "--stream-name", STREAM]).await?;
    let described = &described["StreamDescription"];
    ensure!(described["StreamStatus"] == "ACTIVE", "{described}");
    ensure!(described["Shards"].as_array().is_some_and(|shards| shards.len() == 1));
    Ok(())
}

/// Puts records in every way of the notes; gives back what was put, in order.
async fn produce(hand: &Hand, folder: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut kept = Vec::new();
    for data in [r#"{"action": "user signup"}"#, r#"{"action": "user login"}"#] {
        let put =
            ["put-record", "--stream-name", STREAM, "--partition-key", "user1", "--data", data];
        let put = hand.puts(&put).await?;
        ensure!(put["ShardId"] == "shardId-000000000000", "{put}");
        kept.push(("user1".to_owned(), data.into()));
    }
    let records = serde_json::json!([
        {"PartitionKey": "user1", "Data": "{\"action\": \"user signup\"}"},
        {"PartitionKey": "user1", "Data": "{\"action\": \"user login\"}"},
        {"PartitionKey": "user2", "Data": "{\"action\": \"user signup\"}"},
    ]);
    let file = folder.join("records.json");
    fs::write(&file, records.to_string())?;
    let file = format!("file://{}", file.display());
    let inline = r#"[{"Data":"inline","PartitionKey":"user3"}]"#;
    for (records, count) in [(file.as_str(), 3), (inline, 1)] {
        let put = ["put-records", "--stream-name", STREAM, "--records", records];
        let put = hand.puts(&put).await?;
        ensure!(put["FailedRecordCount"] == 0, "{put}");
        ensure!(put["Records"].as_array().is_some_and(|records| records.len() == count), "{put}");
    }
    for (key, action) in [("user1", "signup"), ("user1", "login"), ("user2", "signup")] {
        kept.push((key.to_owned(), format!(r#"{{"action": "user {action}"}}"#).into()));
    }
    kept.push(("user3".to_owned(), b"inline".to_vec()));
    let binary: Vec<u8> = (0..=255).collect();
    let file = folder.join("binary-data.bin");
    fs::write(&file, &binary)?;
    let file = format!("fileb://{}", file.display());
    let put = ["put-record", "--stream-name", STREAM, "--partition-key", "user1", "--data", &file];
    hand.types(&put).await?;
    kept.push(("user1".to_owned(), binary));
    Ok(kept)
}

async fn consume(hand: &Hand, kept: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
    let shard = "shardId-000000000000";
    let read = hand.cli.read_shard(&hand.address, STREAM, shard).await?;
    let read: Vec<(String, Vec<u8>)> =
        read.into_iter().map(|stored| (stored.key, stored.data.to_vec())).collect();
    ensure!(read == kept, "{read:?}");
    let of = ["get-shard-iterator", "--stream-name", STREAM, "--shard-id", shard];
    let mut first: Option<Value> = None;
    for (kind, option, expected) in [
        ("TRIM_HORIZON", None, kept.len()),
        ("LATEST", None, 0),
        ("AT_TIMESTAMP", Some("--timestamp"), kept.len()),
        ("AT_SEQUENCE_NUMBER", Some("--starting-sequence-number"), kept.len()),
        ("AFTER_SEQUENCE_NUMBER", Some("--starting-sequence-number"), kept.len() - 1),
    ] {
        let number = first.as_ref().and_then(|record| record["SequenceNumber"].as_str());
        let value =
            if kind == "AT_TIMESTAMP" { "2020-01-01T00:00:00Z" } else { number.unwrap_or("") };
        let mut words = of.to_vec();
        words.extend(["--shard-iterator-type", kind]);
        words.extend(option.into_iter().flat_map(|option| [option, value]));
        let iterator = hand.types(&words).await.with_context(|| kind.to_owned())?;
        let iterator = iterator["ShardIterator"].as_str().context("no iterator")?.to_owned();
        let read = hand.types(&["get-records", "--shard-iterator", &iterator]).await?;
        let records = read["Records"].as_array().context("no Records")?;
        ensure!(records.len() == expected, "{kind}: {} records", records.len());
        ensure!(read["NextShardIterator"].is_string(), "{kind}: no next iterator");
        first = first.or_else(|| records.first().cloned());
    }
    Ok(())
}
