//! Changing a stream's shards: each call returns when the change has begun, and the stream is
//! `Updating` until it is done.

use tristream_proto::domain::{HashKey, ShardId, StreamName};
use tristream_proto::wire;

use super::{Client, answer};
use crate::error::{Error, accepted};
use crate::retry::Policy;

impl Client {
    /// Begins to split a shard in two, the second of which begins at `at`, or in the middle.
    pub async fn split_shard(
        &self,
        stream: &StreamName,
        shard: ShardId,
        at: Option<HashKey>,
    ) -> Result<(), Error> {
        let request = wire::SplitShardRequest {
            stream: stream.to_string(),
            shard_index: shard.index(),
            new_first_hash_key: at
                .map(|key| key.0.to_be_bytes().to_vec().into())
                .unwrap_or_default(),
        };
        self.ask(Policy::OnlyWithoutEffect, |mut node| {
            let request = request.clone();
            async move { accepted(answer(node.split_shard(request).await)?.refusal) }
        })
        .await
    }

    /// Begins to merge two neighbours; the range of `adjacent` follows that of `shard`.
    pub async fn merge_shards(
        &self,
        stream: &StreamName,
        shard: ShardId,
        adjacent: ShardId,
    ) -> Result<(), Error> {
        let request = wire::MergeShardsRequest {
            stream: stream.to_string(),
            shard_index: shard.index(),
            adjacent_index: adjacent.index(),
        };
        self.ask(Policy::OnlyWithoutEffect, |mut node| {
            let request = request.clone();
            async move { accepted(answer(node.merge_shards(request).await)?.refusal) }
        })
        .await
    }

    /// Begins to bring a stream to `target` open shards (at least 1) of equal ranges.
    pub async fn update_shard_count(&self, stream: &StreamName, target: u32) -> Result<(), Error> {
        let request = wire::UpdateShardCountRequest { stream: stream.to_string(), target };
        self.ask(Policy::OnlyWithoutEffect, |mut node| {
            let request = request.clone();
            async move { accepted(answer(node.update_shard_count(request).await)?.refusal) }
        })
        .await
    }

    /// Changes whether a stream's shards follow the load. To ask for what is so is no error.
    pub async fn update_stream_mode(
        &self,
        stream: &StreamName,
        on_demand: bool,
    ) -> Result<(), Error> {
        let request = wire::UpdateStreamModeRequest { stream: stream.to_string(), on_demand };
        self.ask(Policy::OnlyWithoutEffect, |mut node| {
            let request = request.clone();
            async move { accepted(answer(node.update_stream_mode(request).await)?.refusal) }
        })
        .await
    }
}
