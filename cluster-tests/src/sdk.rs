//! The AWS SDK for Rust, pointed at nodes of ours.

use std::time::Duration;

use anyhow::{Context, bail};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::{Record, ShardIteratorType, StreamStatus};
use bytes::Bytes;

use crate::admin;
use crate::aws_cli;
use crate::history::Stored;

/// For a stream to come or go.
const STREAM_LIMIT: Duration = Duration::from_secs(30);
/// Empty answers in a row that say more is behind, before a reader gives up.
const EMPTY_ANSWERS_MAX: u32 = 100;

/// A client of the node at `address` (host:port). `attempts` is how often one call may be sent in all: 1 where a
/// test counts attempts itself, the SDK's usual 3 elsewhere.
pub fn client(address: &str, attempts: u32) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "static"))
        .endpoint_url(format!("http://{address}"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(RetryConfig::standard().with_max_attempts(attempts))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(2))
                .operation_attempt_timeout(Duration::from_secs(15))
                .build(),
        )
        .build();
    Client::from_conf(config)
}

/// The exception's name in a failed call's answer; none if no answer came.
pub fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// Creates a stream and waits until it is active.
pub async fn create_stream(client: &Client, stream: &str, shards: i32) -> anyhow::Result<()> {
    client.create_stream().stream_name(stream).shard_count(shards).send().await?;
    admin::wait(&format!("{stream} to be active"), STREAM_LIMIT, async || {
        let summary = client.describe_stream_summary().stream_name(stream).send().await?;
        let summary = summary.stream_description_summary().context("no summary")?;
        Ok((*summary.stream_status() == StreamStatus::Active).then_some(()))
    })
    .await
}

/// Deletes a stream and waits until it is gone.
pub async fn delete_stream(client: &Client, stream: &str) -> anyhow::Result<()> {
    client.delete_stream().stream_name(stream).send().await?;
    admin::wait(&format!("{stream} to be gone"), STREAM_LIMIT, async || {
        match client.describe_stream_summary().stream_name(stream).send().await {
            Ok(_) => Ok(None),
            Err(error) if code(&error) == Some("ResourceNotFoundException") => Ok(Some(())),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// Ids of the stream's shards, rising.
pub async fn shards(client: &Client, stream: &str) -> anyhow::Result<Vec<String>> {
    let listed = client.list_shards().stream_name(stream).send().await?;
    Ok(listed.shards().iter().map(|shard| shard.shard_id().to_owned()).collect())
}

/// An iterator at the oldest record of a shard.
pub async fn oldest(client: &Client, stream: &str, shard: &str) -> anyhow::Result<String> {
    let made = client
        .get_shard_iterator()
        .stream_name(stream)
        .shard_id(shard)
        .shard_iterator_type(ShardIteratorType::TrimHorizon)
        .send()
        .await?;
    made.shard_iterator().map(str::to_owned).context("no iterator")
}

/// A record as the checks want it.
pub fn stored(shard: &str, record: &Record) -> anyhow::Result<Stored> {
    Ok(Stored {
        position: aws_cli::position(shard, record.sequence_number())?,
        key: record.partition_key().context("a record without its key")?.to_owned(),
        data: Bytes::copy_from_slice(record.data().as_ref()),
    })
}

/// Reads on from `iterator` until an answer says that nothing is behind it.
pub async fn read_on(
    client: &Client,
    shard: &str,
    mut iterator: String,
) -> anyhow::Result<Vec<Stored>> {
    let mut records = Vec::new();
    let mut empty = 0;
    loop {
        let answer = client.get_records().shard_iterator(&iterator).send().await?;
        for record in answer.records() {
            records.push(stored(shard, record)?);
        }
        empty = if answer.records().is_empty() { empty + 1 } else { 0 };
        if empty > 0 && answer.millis_behind_latest() == Some(0) {
            return Ok(records);
        }
        if empty > EMPTY_ANSWERS_MAX {
            bail!(
                "{shard}: {empty} empty answers, and still {:?} ms behind",
                answer.millis_behind_latest()
            );
        }
        iterator = answer.next_shard_iterator().context("no next iterator")?.to_owned();
    }
}
