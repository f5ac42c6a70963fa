//! Drops closed shards all of whose records have expired: trimmed, as this node's replica has applied,
//! and past the retention since they were closed, by the clock of the metadata leader.
//!
//! The reconcilers then find their groups in no stream, and destroy them.

use std::time::Duration;

use tokio::time::sleep;
use tristream_proto::domain::{Shard, ShardId, Timestamp};

use super::due::is_served;
use crate::clock::Clock;
use crate::metadata::{self, Command, Outcome, Stream, View};
use crate::router::Router;

/// How often closed shards are looked at; also the pause after a failure.
const TICK: Duration = Duration::from_secs(1);
const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Looks forever.
pub(super) async fn run(
    metadata: &metadata::Handle,
    router: &Router,
    clock: &dyn Clock,
    retention: Option<u64>,
) {
    // A replica that is not open here has nothing to say: the shard stays.
    let is_empty = |shard: &Shard| {
        router.local_shard(shard.group).is_some_and(|shard| shard.retained().is_empty())
    };

    let mut failures: u32 = 0;
    loop {
        let mut failed = None;
        for command in due(&metadata.view(), clock.now(), retention, is_empty) {
            match metadata.propose(&command, PROPOSE_DEADLINE).await {
                Ok((_, Outcome::Done)) => tracing::info!(?command, "closed shards expired"),
                Ok((_, outcome)) => failed = Some(format!("{outcome:?}")),
                Err(error) => failed = Some(error.to_string()),
            }
        }
        failures = if failed.is_some() { failures.saturating_add(1) } else { 0 };
        if let Some(error) = failed.filter(|_| failures.is_power_of_two()) {
            tracing::info!(failures, error, "cannot expire shards, tried again");
        }
        sleep(TICK).await;
    }
}

/// The shards to drop, stream by stream. `retention` overrules the streams', in seconds; `is_empty`
/// tells whether all records of a shard were trimmed.
pub(super) fn due(
    view: &View,
    now: Timestamp,
    retention: Option<u64>,
    is_empty: impl Fn(&Shard) -> bool,
) -> Vec<Command> {
    let expired = |stream: &Stream| {
        let seconds = retention.unwrap_or(u64::from(stream.retention_hours) * 3600);
        // No record has a later stamp than the closed second.
        let is_expired = |shard: &&Shard| {
            let is_late = |closed: u64| closed.saturating_add(seconds) < now.seconds();
            shard.closed_second.is_some_and(is_late) && is_empty(shard)
        };
        // Parents first: who reads one to its end is then told of its children, and never waits for them.
        let mut shards: Vec<ShardId> = vec![];
        for shard in stream.map.shards().iter().filter(is_expired) {
            let stays =
                |parent: &ShardId| stream.map.get(*parent).is_some() && !shards.contains(parent);
            if !shard.parents.iter().any(stays) {
                shards.push(shard.id);
            }
        }
        let (name, incarnation) = (stream.name.clone(), stream.incarnation);
        (!shards.is_empty()).then_some(Command::ExpireShards { name, incarnation, shards })
    };
    let served = view.streams.values().filter(|stream| is_served(stream));
    served.filter_map(|stream| expired(stream)).collect()
}
