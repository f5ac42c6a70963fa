//! What the operations that change a stream's shards or mode share: when they may, and AWS's words
//! when they may not (kinesis-contract 6.5, 9.6, 10.23, 10.29, 10.37).
//!
//! Invariant: what can be said by the view is said in AWS's order before anything is proposed; what
//! only the metadata group can say (two callers at a time) comes back in the same words.

use std::sync::Arc;

use tristream_proto::domain::{Shard, ShardId, StreamName};

use super::{Api, Error, shapes};
use crate::metadata::{Stream, StreamMode, StreamStatus, View};
use crate::router;

/// A stream as a change must know it, and the confirmed view that has it.
pub(super) struct Changeable {
    pub(super) view: Arc<View>,
    pub(super) stream: Arc<Stream>,
}

impl Changeable {
    /// The stream when its shards may be changed: it is provisioned and ACTIVE.
    pub(super) async fn find(api: &Api, name: &StreamName) -> Result<Changeable, Error> {
        let Changeable { view, stream } = api.newest(name).await?;
        if stream.mode == StreamMode::OnDemand {
            return Err(on_demand(api, name));
        }
        if stream.status != StreamStatus::Active {
            return Err(api.not_active(name, stream.status));
        }
        Ok(Changeable { view, stream })
    }

    /// A shard of the stream, open or closed.
    pub(super) fn shard(&self, api: &Api, id: ShardId) -> Result<&Shard, Error> {
        self.stream.map.get(id).ok_or_else(|| no_shard(api, &self.stream.name, id.to_string()))
    }

    /// Fails when the shard was split or merged before, or is on the way there.
    pub(super) fn eligible(&self, api: &Api, shard: &Shard) -> Result<(), Error> {
        if shard.is_open() && self.stream.reshard_of(shard.id).is_none() {
            return Ok(());
        }
        Err(not_eligible(api, &self.stream.name, shard.id))
    }
}

/// A shard's id as leniently as AWS reads it, before the stream is looked for.
pub(super) fn shard_id(api: &Api, stream: &StreamName, text: &str) -> Result<ShardId, Error> {
    ShardId::parse_lenient(text).ok_or_else(|| no_shard(api, stream, text.to_owned()))
}

fn no_shard(api: &Api, stream: &StreamName, shard: String) -> Error {
    Error::NoShardId { shard, stream: stream.clone(), account: api.account.clone() }
}

fn on_demand(api: &Api, stream: &StreamName) -> Error {
    Error::Validation(format!(
        "Request is invalid. Stream {stream} under account {} is in On-Demand mode.",
        api.account
    ))
}

fn not_eligible(api: &Api, stream: &StreamName, shard: ShardId) -> Error {
    Error::InvalidArgument(format!(
        "Shard {shard} in stream {stream} under account {} has already been merged or split, and \
         thus is not eligible for merging or splitting.",
        api.account
    ))
}

impl Api {
    /// The stream by a view that has everything that was answered before: for changing it.
    pub(super) async fn newest(&self, name: &StreamName) -> Result<Changeable, Error> {
        let view = self.streams.confirmed_view().await?;
        let stream = view.streams.get(name).cloned();
        let stream = stream.ok_or_else(|| self.no_such_stream(name.as_str()))?;
        Ok(Changeable { view, stream })
    }

    /// The stream is in no state for the operation.
    pub(super) fn not_active(&self, stream: &StreamName, status: StreamStatus) -> Error {
        let (stream, account) = (stream.clone(), self.account.clone());
        Error::StreamNotActive { stream, account, state: shapes::status(status) }
    }

    /// `more` shards are too many for the account.
    pub(super) fn shard_limit(&self, open: usize, limit: usize, more: u32) -> Error {
        let (account, region) = (self.account.clone(), self.region.clone());
        Error::ShardLimit { account, region, open, limit, more }
    }

    /// Why the metadata group refused a change of `stream` that the view allowed.
    pub(super) async fn refused(&self, stream: &StreamName, error: router::Error) -> Error {
        match error {
            router::Error::StreamNotFound(name) => self.no_such_stream(name),
            router::Error::NotActive(_) => {
                match self.newest(stream).await.map(|found| found.stream.status) {
                    Err(error) => error,
                    // Another change was quicker, and is done already.
                    Ok(StreamStatus::Active) => self.not_active(stream, StreamStatus::Updating),
                    Ok(status) => self.not_active(stream, status),
                }
            }
            router::Error::OnDemand(_) => on_demand(self, stream),
            router::Error::NoShard(shard) => no_shard(self, stream, shard.to_string()),
            router::Error::NotEligible(shard) => not_eligible(self, stream, shard),
            router::Error::BadRange(why) => Error::InvalidArgument(why),
            router::Error::ChangeLimit(why) => Error::LimitExceeded(why),
            router::Error::ShardLimit { open, limit } => self.shard_limit(open, limit, 1),
            other => other.into(),
        }
    }
}
