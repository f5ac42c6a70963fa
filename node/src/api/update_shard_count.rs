//! UpdateShardCount (kinesis-contract 10.37). AWS's limits (half, double, changes per day) are the
//! metadata group's, in AWS's words: only there nobody comes between the count and the change.

use super::address::Address;
use super::control::Changeable;
use super::validate::Checks;
use super::{Api, CONTROL_DEADLINE, Error, Members, Reply};
use crate::router;

/// Begins to bring a stream to another number of shards; it is UPDATING until that is done.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    let target = input.integer("TargetShardCount")?;
    let scaling = input.text("ScalingType")?;
    let mut checks = Checks::new();
    address.check(&mut checks);
    checks.required("targetShardCount", &target);
    checks.integer("targetShardCount", target, 1, i64::MAX);
    checks.required("scalingType", &scaling);
    checks.one_of("scalingType", scaling.as_deref(), &["UNIFORM_SCALING"]);
    checks.finish()?;

    let name = address.resolve(api)?;
    let found = Changeable::find(api, &name).await?;
    let stream = &found.stream;
    let open = stream.map.open().count();
    // `check` lets 1 to 2^31 - 1 through.
    let target = target.and_then(|target| u32::try_from(target).ok()).unwrap_or(u32::MAX);
    match api.streams.update_shard_count(stream, target, CONTROL_DEADLINE).await {
        Ok(()) => {}
        Err(router::Error::ShardLimit { limit, .. }) if target as usize > limit => {
            return Err(Error::LimitExceeded(format!(
                "Target shard count or number of open shards cannot be greater than {limit}. \
                 Current open shard count: {open}, Target shard count: {target}"
            )));
        }
        Err(router::Error::ShardLimit { open: all, limit }) => {
            let more = target.saturating_sub(u32::try_from(open).unwrap_or(u32::MAX));
            return Err(api.shard_limit(all, limit, more));
        }
        Err(error) => return Err(api.refused(&name, error).await),
    }
    Ok(Members::new()
        .with("StreamName", name.as_str())
        .with("CurrentShardCount", open)
        .with("TargetShardCount", i64::from(target))
        .with("StreamARN", api.arn(&name))
        .into())
}
