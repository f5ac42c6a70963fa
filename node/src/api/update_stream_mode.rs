//! UpdateStreamMode (kinesis-contract 10.38). Shards keep their layout.

use super::address::Address;
use super::validate::Checks;
use super::{Api, CONTROL_DEADLINE, Error, Members, Reply, shapes};
use crate::metadata::{StreamMode, StreamStatus};

/// Changes whether a stream's shards follow the load.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take_arn(&mut input)?;
    let details = input.structure("StreamModeDetails")?;
    let mode = details.map(|mut details| details.text("StreamMode")).transpose()?;
    let warm_throughput = input.integer("WarmThroughputMiBps")?;
    let mut checks = Checks::new();
    address.check_required(&mut checks);
    checks.required("streamModeDetails", &mode);
    if let Some(mode) = &mode {
        shapes::check_mode(&mut checks, mode);
    }
    checks.integer("warmThroughputMiBps", warm_throughput, 0, i64::MAX);
    checks.finish()?;

    let name = address.resolve(api)?;
    let mode = match mode.flatten().as_deref() {
        Some("ON_DEMAND") => StreamMode::OnDemand,
        // `check` lets nothing else through.
        _ => StreamMode::Provisioned,
    };
    if warm_throughput.is_some_and(|mib| mib > 0) {
        return Err(shapes::no_warm_throughput());
    }
    let stream = api.newest(&name).await?.stream;
    let serves = matches!(stream.status, StreamStatus::Active | StreamStatus::Updating);
    if serves && stream.mode == mode {
        // Terraform asks for the mode that is set, at any time.
        return Ok(Reply::default());
    }
    if stream.status != StreamStatus::Active {
        return Err(api.not_active(&name, stream.status));
    }
    match api.streams.update_mode(&stream, mode, CONTROL_DEADLINE).await {
        Ok(()) => Ok(Reply::default()),
        Err(error) => Err(api.refused(&name, error).await),
    }
}
