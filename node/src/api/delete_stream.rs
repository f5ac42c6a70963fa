//! DeleteStream (kinesis-contract 10.5). Nothing is registered as a consumer in this version, so
//! `EnforceConsumerDeletion` makes no difference.

use super::address::Address;
use super::validate::Checks;
use super::{Api, CONTROL_DEADLINE, Error, Members, Reply};
use crate::metadata::StreamStatus;
use crate::router;

/// Begins to delete a stream.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    input.boolean("EnforceConsumerDeletion")?;
    let mut checks = Checks::new();
    address.check(&mut checks);
    checks.finish()?;

    let name = address.resolve(api)?;
    let stream = api.newest(&name).await?.stream;
    if stream.status == StreamStatus::Deleting {
        return Err(api.not_active(&name, stream.status));
    }
    match api.streams.delete_stream(&stream, CONTROL_DEADLINE).await {
        Ok(()) => Ok(Reply::default()),
        Err(router::Error::StreamNotFound(name)) => Err(api.no_such_stream(name)),
        Err(other) => Err(other.into()),
    }
}
