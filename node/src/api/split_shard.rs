//! SplitShard (kinesis-contract 10.29).

use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{HashKey, Shard, StreamName};

use super::address::Address;
use super::control::{Changeable, shard_id};
use super::validate::{Checks, HASH_KEY, NAME};
use super::{Api, CONTROL_DEADLINE, Error, Members, Reply};
use crate::router;

/// Begins to split a shard in two; the stream is UPDATING until that is done.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    let shard = input.text("ShardToSplit")?;
    let key = input.text("NewStartingHashKey")?;
    let mut checks = Checks::new();
    address.check(&mut checks);
    checks.required("shardToSplit", &shard);
    checks.text("shardToSplit", shard.as_deref(), NAME);
    checks.required("newStartingHashKey", &key);
    checks.text("newStartingHashKey", key.as_deref(), HASH_KEY);
    checks.finish()?;

    let name = address.resolve(api)?;
    let id = shard_id(api, &name, &shard.unwrap_or_default())?;
    let found = Changeable::find(api, &name).await?;
    let shard = found.shard(api, id)?;
    found.eligible(api, shard)?;
    let open = found.view.open_shards();
    if open >= ACCOUNT_SHARDS_MAX {
        return Err(api.shard_limit(open, ACCOUNT_SHARDS_MAX, 1));
    }
    let key = key.unwrap_or_default();
    let at = inside(shard, &key).ok_or_else(|| outside(api, &name, shard, &key))?;
    match api.streams.split_shard(&found.stream, id, at, CONTROL_DEADLINE).await {
        Ok(()) => Ok(Reply::default()),
        Err(router::Error::BadRange(_)) => Err(outside(api, &name, shard, &key)),
        Err(error) => Err(api.refused(&name, error).await),
    }
}

/// The key, when both children get at least two keys of the shard but for its last. The pattern
/// lets numbers through that are no hash keys at all.
fn inside(shard: &Shard, key: &str) -> Option<HashKey> {
    let (first, last) = (shard.range.first.0, shard.range.last.0);
    let key: HashKey = key.parse().ok()?;
    let fits = first.checked_add(1).is_some_and(|above| key.0 > above) && key.0 < last;
    fits.then_some(key)
}

fn outside(api: &Api, stream: &StreamName, shard: &Shard, key: &str) -> Error {
    Error::InvalidArgument(format!(
        "NewStartingHashKey {key} used in SplitShard() on shard {} in stream {stream} under \
         account {} is not both greater than one plus the shard's StartingHashKey {} and less \
         than the shard's EndingHashKey {}.",
        shard.id, api.account, shard.range.first, shard.range.last
    ))
}
