//! Those who look at one node's list of shards each, all the time: where records expire, so do closed shards, and what they
//! were, and whose children, is to be known when their records are judged. A node that lags may never show a shard that
//! came and went meanwhile (seed 12010903, as of b1a1949), so each of them is asked.
//!
//! Must not know faults.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::board::{Board, Phase};
use super::kinesis::{answered, call};
use super::resharder::open_shard;
use crate::history::ShardSeen;

const PAUSE: Duration = Duration::from_millis(300);

/// Looks until the audit is over.
pub(super) async fn surveyor(node: usize, board: Arc<Board>) -> turmoil::Result {
    board.reached(Phase::Storm).await;
    let body = json!({ "StreamName": board.stream.as_str() });
    let mut last = Vec::new();
    while board.phase() < Phase::Done {
        if let Some(listing) = answered(call(node, "ListShards", &body, None).await)? {
            let shards = listing["Shards"].as_array().context("a listing without shards")?;
            let map = shards.iter().map(seen).collect::<anyhow::Result<Vec<_>>>()?;
            if map != last {
                let is_gone = |seen: &&ShardSeen| !map.iter().any(|now| now.shard == seen.shard);
                board.count("shards_expired", last.iter().filter(is_gone).count() as u64);
                last.clone_from(&map);
                board.note_map(map);
            }
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

fn seen(shard: &Value) -> anyhow::Result<ShardSeen> {
    let parents = ["ParentShardId", "AdjacentParentShardId"];
    let parents = parents.iter().filter_map(|name| shard[*name].as_str()).map(str::to_owned);
    let open = shard["SequenceNumberRange"]["EndingSequenceNumber"].is_null();
    let known = open_shard(shard)?;
    Ok(ShardSeen { shard: known.id, range: known.range, parents: parents.collect(), open })
}
