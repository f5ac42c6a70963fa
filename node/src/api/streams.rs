//! What the operations need from below, as a trait: the router in a node, a fake in tests.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tristream_proto::domain::{ReadFrom, Record, RecordPosition, Shard, StreamName};
use tristream_proto::wire::ClusterStatusResponse;

use crate::metadata::{Stream, View};
use crate::router::{Error, NewStream, Router};
use crate::shard::{Page, Placed};

/// Streams and their records, wherever they live. Each method is the router's of that name.
pub trait Streams: Send + Sync + 'static {
    /// See [`Router::fresh_view`].
    fn fresh_view(&self) -> BoxFuture<'_, Arc<View>>;
    /// See [`Router::stream`].
    fn stream<'a>(&'a self, name: &'a StreamName) -> BoxFuture<'a, Option<Arc<Stream>>>;
    /// See [`Router::create_stream`].
    fn create_stream(
        &self,
        stream: NewStream,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<(), Error>>;
    /// See [`Router::delete_stream`].
    fn delete_stream<'a>(
        &'a self,
        name: &'a StreamName,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// See [`Router::put`].
    fn put<'a>(
        &'a self,
        stream: &'a Stream,
        shard: &'a Shard,
        records: Vec<Record>,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Placed, Error>>;
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
    fn fresh_view(&self) -> BoxFuture<'_, Arc<View>> {
        Box::pin(Router::fresh_view(self))
    }

    fn stream<'a>(&'a self, name: &'a StreamName) -> BoxFuture<'a, Option<Arc<Stream>>> {
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
        name: &'a StreamName,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(Router::delete_stream(self, name, deadline))
    }

    fn put<'a>(
        &'a self,
        stream: &'a Stream,
        shard: &'a Shard,
        records: Vec<Record>,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Placed, Error>> {
        Box::pin(Router::put(self, stream, shard, records, deadline))
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
