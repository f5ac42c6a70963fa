//! Output structures that several operations share (kinesis-contract 10.40).

use tristream_proto::domain::{HashKeyRange, Shard};

use super::validate::Checks;
use super::{Api, Error, Members, Value};
use crate::metadata::{Stream, StreamMode, StreamStatus};

/// AWS's word for a status.
pub(super) fn status(status: StreamStatus) -> &'static str {
    match status {
        StreamStatus::Creating => "CREATING",
        StreamStatus::Active => "ACTIVE",
        StreamStatus::Updating => "UPDATING",
        StreamStatus::Deleting => "DELETING",
    }
}

/// `StreamModeDetails`.
pub(super) fn mode(mode: StreamMode) -> Members {
    Members::new().with(
        "StreamMode",
        match mode {
            StreamMode::Provisioned => "PROVISIONED",
            StreamMode::OnDemand => "ON_DEMAND",
        },
    )
}

/// Checks the `StreamMode` of a `StreamModeDetails` that is there.
pub(super) fn check_mode(checks: &mut Checks, mode: &Option<String>) {
    const MODE: &str = "streamModeDetails.streamMode";
    checks.required(MODE, mode);
    checks.one_of(MODE, mode.as_deref(), &["PROVISIONED", "ON_DEMAND"]);
}

/// Warm throughput wants a commitment that no account has here.
pub(super) fn no_warm_throughput() -> Error {
    let text = "WarmThroughputMiBps is not available for this account.";
    Error::InvalidArgument(text.to_owned())
}

/// What `StreamDescription` and `StreamDescriptionSummary` have in common.
pub(super) fn description(api: &Api, stream: &Stream) -> Members {
    let metrics = Members::new().with("ShardLevelMetrics", Vec::new());
    head(api, stream)
        .with("RetentionPeriodHours", stream.retention_hours)
        .with("EnhancedMonitoring", vec![Value::Members(metrics)])
        .with("EncryptionType", "NONE")
}

/// `StreamSummary`, which opens every description.
pub(super) fn head(api: &Api, stream: &Stream) -> Members {
    Members::new()
        .with("StreamName", stream.name.as_str())
        .with("StreamARN", api.arn(&stream.name))
        .with("StreamStatus", status(stream.status))
        .with("StreamModeDetails", mode(stream.mode))
        .with("StreamCreationTimestamp", stream.created)
}

/// `Shard`.
pub(super) fn shard(shard: &Shard) -> Members {
    let numbers = Members::new()
        .with("StartingSequenceNumber", shard.starting_sequence_number().to_string())
        .with_some(
            "EndingSequenceNumber",
            shard.ending_sequence_number().map(|number| number.to_string()),
        );
    let parent = |at: usize| shard.parents.get(at).map(|id| id.to_string());
    Members::new()
        .with("ShardId", shard.id.to_string())
        .with_some("ParentShardId", parent(0))
        .with_some("AdjacentParentShardId", parent(1))
        .with("HashKeyRange", range(shard.range))
        .with("SequenceNumberRange", numbers)
}

/// `ChildShard`.
pub(super) fn child(shard: &Shard) -> Members {
    let parents = shard.parents.iter().map(|parent| Value::Text(parent.to_string()));
    Members::new()
        .with("ShardId", shard.id.to_string())
        .with("ParentShards", parents.collect::<Vec<_>>())
        .with("HashKeyRange", range(shard.range))
}

fn range(range: HashKeyRange) -> Members {
    Members::new()
        .with("StartingHashKey", range.first.to_string())
        .with("EndingHashKey", range.last.to_string())
}
