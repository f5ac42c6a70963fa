//! The number of shards goes up and down while everything else happens.
//!
//! A change may be refused, or its answer lost: what counts is which shards are there at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{ScalingType, StreamStatus};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use crate::history::{Event, History};
use crate::{admin, sdk};

/// Shards at most.
const SHARDS_MAX: i32 = 4;
/// For one change, after which another is asked for.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// Asks for one change after the other until told to end.
pub(super) async fn run(
    addresses: &[String],
    stream: &str,
    seed: u64,
    mut ended: watch::Receiver<bool>,
) {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x5ca1e);
    loop {
        let calm = Duration::from_millis(rng.random_range(1_000..4_000));
        let client = sdk::client(&addresses[rng.random_range(0..addresses.len())], 1);
        let target = rng.random_range(1..=SHARDS_MAX);
        let change = async {
            tokio::time::sleep(calm).await;
            // Whatever became of it: the next one is asked for.
            let _ = change(&client, stream, target).await;
        };
        tokio::select! {
            () = change => {}
            _ = ended.wait_for(|ended| *ended) => return,
        }
    }
}

async fn change(client: &Client, stream: &str, target: i32) -> anyhow::Result<()> {
    let update = client.update_shard_count().stream_name(stream).target_shard_count(target);
    update.scaling_type(ScalingType::UniformScaling).send().await?;
    admin::wait(&format!("{target} open shards"), CHANGE_LIMIT, async || {
        Ok((open(client, stream).await? == Some(target)).then_some(()))
    })
    .await
}

/// How many splits and merges the newest list of shards shows: sets of parents.
pub(super) fn done(history: &History) -> usize {
    let maps = history.events().filter_map(|event| match event {
        Event::Map(map) => Some(map),
        _ => None,
    });
    let newest = maps.last().map_or(&[][..], Vec::as_slice);
    let families: BTreeSet<&Vec<String>> =
        newest.iter().map(|seen| &seen.parents).filter(|parents| !parents.is_empty()).collect();
    families.len()
}

/// How many shards are open, while the stream is ACTIVE.
async fn open(client: &Client, stream: &str) -> anyhow::Result<Option<i32>> {
    let summary = client.describe_stream_summary().stream_name(stream).send().await?;
    let summary = summary.stream_description_summary().context("no summary")?;
    let active = *summary.stream_status() == StreamStatus::Active;
    Ok(active.then_some(summary.open_shard_count()))
}

/// Waits until the stream is ACTIVE.
pub(super) async fn wait_active(
    client: &Client,
    stream: &str,
    limit: Duration,
) -> anyhow::Result<()> {
    admin::wait(&format!("{stream} to be ACTIVE"), limit, async || {
        Ok(open(client, stream).await?.map(|_| ()))
    })
    .await
}
