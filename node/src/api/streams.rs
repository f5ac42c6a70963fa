//! What the operations need from below, as a trait: the router in a node, a fake in tests.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tristream_proto::domain::{
    HashKey, ReadFrom, Record, RecordPosition, SequenceNumber, Shard, ShardId, StreamName,
};
use tristream_proto::wire::ClusterStatusResponse;

use crate::metadata::{Stream, StreamMode, View};
use crate::router::{Error, Fresh, NewStream, Router};
use crate::shard::Page;

/// Streams and their records, wherever they live. Each method is the router's of that name.
pub trait Streams: Send + Sync + 'static {
    /// See [`Router::fresh_view`].
    fn fresh_view(&self) -> BoxFuture<'_, Fresh>;
    /// See [`Router::confirmed_view`].
    fn confirmed_view(&self) -> BoxFuture<'_, Result<Arc<View>, Error>>;
    /// See [`Router::stream`].
    fn stream<'a>(
        &'a self,
        name: &'a StreamName,
    ) -> BoxFuture<'a, Result<Option<Arc<Stream>>, Error>>;
    /// See [`Router::create_stream`].
    fn create_stream(
        &self,
        stream: NewStream,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<(), Error>>;
    /// See [`Router::delete_stream`].
    fn delete_stream<'a>(
        &'a self,
        stream: &'a Stream,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// See [`Router::put`].
    fn put<'a>(
        &'a self,
        stream: &'a Stream,
        records: Vec<Record>,
        deadline: Duration,
    ) -> BoxFuture<'a, Vec<Result<SequenceNumber, Error>>>;
    /// See [`Router::split_shard`].
    fn split_shard<'a>(
        &'a self,
        stream: &'a Stream,
        shard: ShardId,
        at: HashKey,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// See [`Router::merge_shards`].
    fn merge_shards<'a>(
        &'a self,
        stream: &'a Stream,
        shard: ShardId,
        adjacent: ShardId,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// See [`Router::update_shard_count`].
    fn update_shard_count<'a>(
        &'a self,
        stream: &'a Stream,
        target: u32,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// See [`Router::update_mode`].
    fn update_mode<'a>(
        &'a self,
        stream: &'a Stream,
        mode: StreamMode,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// See [`Router::read`].
    fn read<'a>(
        &'a self,
        shard: &'a Shard,
        from: RecordPosition,
        count_max: usize,
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<(Page, bool), Error>>;
    /// See [`Router::seek`].
    fn seek<'a>(
        &'a self,
        shard: &'a Shard,
        from: ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPosition, Error>>;
    /// See [`Router::cluster_status`].
    fn cluster_status(&self) -> BoxFuture<'_, ClusterStatusResponse>;
}

impl Streams for Router {
    fn fresh_view(&self) -> BoxFuture<'_, Fresh> {
        Box::pin(Router::fresh_view(self))
    }

    fn confirmed_view(&self) -> BoxFuture<'_, Result<Arc<View>, Error>> {
        Box::pin(Router::confirmed_view(self))
    }

    fn stream<'a>(
        &'a self,
        name: &'a StreamName,
    ) -> BoxFuture<'a, Result<Option<Arc<Stream>>, Error>> {
        Box::pin(Router::stream(self, name))
    }

    fn create_stream(
        &self,
        stream: NewStream,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(Router::create_stream(self, stream, deadline))
    }

    fn delete_stream<'a>(
        &'a self,
        stream: &'a Stream,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(Router::delete_stream(self, stream, deadline))
    }

    fn put<'a>(
        &'a self,
        stream: &'a Stream,
        records: Vec<Record>,
        deadline: Duration,
    ) -> BoxFuture<'a, Vec<Result<SequenceNumber, Error>>> {
        Box::pin(Router::put(self, stream, records, deadline))
    }

    fn split_shard<'a>(
        &'a self,
        stream: &'a Stream,
        shard: ShardId,
        at: HashKey,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(Router::split_shard(self, stream, shard, at, deadline))
    }

    fn merge_shards<'a>(
        &'a self,
        stream: &'a Stream,
        shard: ShardId,
        adjacent: ShardId,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(Router::merge_shards(self, stream, shard, adjacent, deadline))
    }

    fn update_shard_count<'a>(
        &'a self,
        stream: &'a Stream,
        target: u32,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(Router::update_shard_count(self, stream, target, deadline))
    }

    fn update_mode<'a>(
        &'a self,
        stream: &'a Stream,
        mode: StreamMode,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(Router::update_mode(self, stream, mode, deadline))
    }

    fn read<'a>(
        &'a self,
        shard: &'a Shard,
        from: RecordPosition,
        count_max: usize,
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<(Page, bool), Error>> {
        Box::pin(Router::read(self, shard, from, count_max, bytes_max))
    }

    fn seek<'a>(
        &'a self,
        shard: &'a Shard,
        from: ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPosition, Error>> {
        Box::pin(Router::seek(self, shard, from))
    }

    fn cluster_status(&self) -> BoxFuture<'_, ClusterStatusResponse> {
        Box::pin(Router::cluster_status(self))
    }
}
