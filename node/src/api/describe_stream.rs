//! DescribeStream (kinesis-contract 10.9).

use super::address::Address;
use super::validate::{Checks, NAME};
use super::{Api, Error, Members, Reply, Value, shapes};
use crate::metadata::StreamStatus;

/// Shards in one answer, whatever was asked for.
const SHARDS_MAX: usize = 100;

/// Describes a stream and a page of its shards.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    let limit = input.integer("Limit")?;
    let after = input.text("ExclusiveStartShardId")?;
    let mut checks = Checks::new();
    address.check(&mut checks);
    checks.integer("limit", limit, 1, 10_000);
    checks.text("exclusiveStartShardId", after.as_deref(), NAME);
    checks.finish()?;

    let stream = api.described(&address.resolve(api)?).await?;
    let count = limit.map_or(SHARDS_MAX, |limit| (limit as usize).min(SHARDS_MAX));
    // A stream that is not there yet shows no shards.
    let shown = match stream.status {
        StreamStatus::Creating => &[],
        _ => stream.map.shards(),
    };
    let mut rest = shown
        .iter()
        .filter(|shard| after.as_ref().is_none_or(|after| shard.id.to_string() > *after));
    let page: Vec<Value> =
        rest.by_ref().take(count).map(|shard| shapes::shard(shard).into()).collect();
    let description = shapes::description(api, &stream)
        .with("Shards", page)
        .with("HasMoreShards", rest.next().is_some());
    Ok(Members::new().with("StreamDescription", description).into())
}
