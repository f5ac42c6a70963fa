//! DescribeStreamSummary (kinesis-contract 10.11).

use super::address::Address;
use super::validate::Checks;
use super::{Api, Error, Members, Reply, shapes};

/// Describes a stream without its shards.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    let mut checks = Checks::new();
    address.check(&mut checks);
    checks.finish()?;

    let stream = api.described(&address.resolve(api)?).await?;
    let summary = shapes::description(api, &stream)
        .with("OpenShardCount", stream.map.open().count())
        .with("ConsumerCount", 0_i64)
        .with("MaxRecordSizeInKiB", stream.record_bytes_max / 1024);
    Ok(Members::new().with("StreamDescriptionSummary", summary).into())
}
