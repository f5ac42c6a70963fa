//! Which stream a request means: by name, or by ARN (kinesis-contract 5.10, 5.11, 6.5, 7.1).
//! `StreamId` is reserved at AWS and ignored here.

use tristream_proto::domain::StreamName;

use super::validate::{Checks, NAME, STREAM_ARN};
use super::{Api, Error, Members};

/// A stream as a request names it.
pub(super) struct Address {
    name: Option<String>,
    arn: Option<String>,
}

impl Address {
    /// Takes `StreamName` and `StreamARN` out of the input.
    pub(super) fn take(input: &mut Members) -> Result<Address, Error> {
        Ok(Address { name: input.text("StreamName")?, arn: input.text("StreamARN")? })
    }

    /// Takes `StreamARN` alone out of the input, for operations that know no name.
    pub(super) fn take_arn(input: &mut Members) -> Result<Address, Error> {
        Ok(Address { name: None, arn: input.text("StreamARN")? })
    }

    /// Checks the constraints of the model, for operations that must be given the ARN.
    pub(super) fn check_required(&self, checks: &mut Checks) {
        checks.required("streamARN", &self.arn);
        self.check(checks);
    }

    /// Checks the constraints of the model.
    pub(super) fn check(&self, checks: &mut Checks) {
        checks.text("streamName", self.name.as_deref(), NAME);
        checks.text("streamARN", self.arn.as_deref(), STREAM_ARN);
    }

    /// Whether the request names a stream at all.
    pub(super) fn is_given(&self) -> bool {
        self.name.is_some() || self.arn.is_some()
    }

    /// The name of the stream. Only after `check`.
    pub(super) fn resolve(self, api: &Api) -> Result<StreamName, Error> {
        let name = match (self.name, self.arn) {
            (None, None) => {
                return Err(Error::InvalidArgument(
                    "Either StreamName or StreamARN must be provided.".to_owned(),
                ));
            }
            (Some(name), None) => name,
            (named, Some(arn)) => {
                let name = name_in(api, &arn)?;
                if named.is_some_and(|named| named != name) {
                    return Err(Error::InvalidArgument(
                        "StreamName and StreamARN do not name the same stream.".to_owned(),
                    ));
                }
                name
            }
        };
        StreamName::try_from(name).map_err(|invalid| api.no_such_stream(invalid.0))
    }
}

/// The name in an ARN of this account and region.
fn name_in(api: &Api, arn: &str) -> Result<String, Error> {
    let mut parts = arn.splitn(6, ':').skip(3);
    let region = parts.next().unwrap_or_default();
    let account = parts.next().unwrap_or_default();
    let resource = parts.next().unwrap_or_default();
    let stream = resource.strip_prefix("stream/").unwrap_or(resource).to_owned();
    if account != api.account || region != api.region {
        return Err(Error::StreamNotFound { stream, account: account.to_owned() });
    }
    Ok(stream)
}
