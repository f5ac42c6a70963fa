//! MergeShards (kinesis-contract 10.23).

use tristream_proto::domain::{Shard, ShardId, StreamName};

use super::address::Address;
use super::control::{Changeable, shard_id};
use super::validate::{Checks, NAME};
use super::{Api, CONTROL_DEADLINE, Error, Members, Reply};
use crate::router;

/// Begins to merge two neighbours; the stream is UPDATING until that is done.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    let shard = input.text("ShardToMerge")?;
    let adjacent = input.text("AdjacentShardToMerge")?;
    let mut checks = Checks::new();
    address.check(&mut checks);
    for (path, id) in [("shardToMerge", &shard), ("adjacentShardToMerge", &adjacent)] {
        checks.required(path, id);
        checks.text(path, id.as_deref(), NAME);
    }
    checks.finish()?;

    let name = address.resolve(api)?;
    let shard = shard_id(api, &name, &shard.unwrap_or_default())?;
    let adjacent = shard_id(api, &name, &adjacent.unwrap_or_default())?;
    let found = Changeable::find(api, &name).await?;
    let pair = [found.shard(api, shard)?, found.shard(api, adjacent)?];
    for shard in pair {
        found.eligible(api, shard)?;
    }
    let apart = || apart(api, &name, shard, adjacent);
    if !follows(pair) {
        return Err(apart());
    }
    match api.streams.merge_shards(&found.stream, shard, adjacent, CONTROL_DEADLINE).await {
        Ok(()) => Ok(Reply::default()),
        Err(router::Error::BadRange(_)) => Err(apart()),
        Err(error) => Err(api.refused(&name, error).await),
    }
}

/// Whether the second's range begins where the first's ends. The other way round does not count.
fn follows([shard, adjacent]: [&Shard; 2]) -> bool {
    shard.range.last.0.checked_add(1) == Some(adjacent.range.first.0)
}

fn apart(api: &Api, stream: &StreamName, shard: ShardId, adjacent: ShardId) -> Error {
    Error::InvalidArgument(format!(
        "Shards {shard} and {adjacent} in stream {stream} under account {} are not an adjacent \
         pair of shards eligible for merging",
        api.account
    ))
}
