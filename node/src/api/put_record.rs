//! PutRecord (kinesis-contract 10.24).

use super::address::Address;
use super::foreign_number::ForeignNumber;
use super::put::{self, RecordInput};
use super::validate::{Checks, SEQUENCE_NUMBER};
use super::{Api, Call, Error, Members, Reply};
use crate::router;

/// Stores one record.
pub(super) async fn run(api: &Api, mut input: Members, call: Call) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    let record = RecordInput::take(&mut input)?;
    let above = input.text("SequenceNumberForOrdering")?;
    let dry_run = input.boolean("DryRun")?.unwrap_or(false);
    let mut checks = Checks::new();
    address.check(&mut checks);
    record.check(&mut checks, "");
    checks.text("sequenceNumberForOrdering", above.as_deref(), SEQUENCE_NUMBER);
    checks.finish()?;

    let name = address.resolve(api)?;
    let Some(stream) = api.serving(&name).await? else {
        return Err(api.no_such_stream(name));
    };
    let record = record.record()?;
    if let Some(number) = above {
        check_ordering(api, &stream.name, &number)?;
    }
    put::check_size(&stream, &record, "")?;
    if dry_run {
        return Err(Error::DryRun);
    }
    let shard = stream.map.owner(record.hash_key());
    let mut records = vec![record];
    call.mark(api, "PutRecord", stream.incarnation, &mut records).await;
    let mut outcomes = api.streams.put(&stream, records, api.put_deadline).await;
    let number = outcomes
        .pop()
        .unwrap_or_else(|| Err(router::Error::Unknown("a put without an outcome".to_owned())))
        .map_err(|error| put::refusal(api, &stream, shard.id, error))?;
    Ok(Members::new()
        .with("ShardId", number.shard.to_string())
        .with("SequenceNumber", number.to_string())
        .into())
}

/// Every number we gave out is below the next one of its shard, so ordering holds by itself; what
/// is left is to refuse what cannot be a number, or comes from the future.
fn check_ordering(
    api: &Api,
    stream: &tristream_proto::domain::StreamName,
    number: &str,
) -> Result<(), Error> {
    let now = api.clock.now().seconds();
    match ForeignNumber::parse(number) {
        Some(parsed) if parsed.record_second <= now => Ok(()),
        _ => Err(Error::InvalidArgument(format!(
            "ExclusiveMinimumSequenceNumber {number} used in PutRecord on stream {stream} under \
             account {} is invalid.",
            api.account
        ))),
    }
}
