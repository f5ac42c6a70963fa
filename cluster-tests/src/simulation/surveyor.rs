//! Somebody who looks at the list of shards all the time: where records expire, so do closed shards, and what they
//! were is to be known when their records are judged.
//!
//! Must not know faults.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::board::{Board, Phase};
use super::clients::native_client;
use crate::history::ShardSeen;

const PAUSE: Duration = Duration::from_millis(300);

/// Looks until the audit is over.
pub(super) async fn surveyor(board: Arc<Board>) -> turmoil::Result {
    board.reached(Phase::Storm).await;
    let client = native_client()?;
    let mut last = Vec::new();
    while board.phase() < Phase::Done {
        if let Ok(stream) = client.describe_stream(&board.stream).await {
            let map: Vec<ShardSeen> = stream.map.shards().iter().map(ShardSeen::from).collect();
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
