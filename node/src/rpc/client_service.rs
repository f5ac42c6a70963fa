//! The service that native clients call: `wire::Tristream`.
//!
//! Owns the checks of what comes in and the words that go out. Invariant: a put is accepted only by the
//! shard's leader and only while the shard that it was routed to is open; it is never forwarded. The
//! port may open before the node knows its cluster: until then every answer is "unavailable".

mod control;
mod subscribe;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tristream_proto::domain::{
    GroupId, Incarnation, MapVersion, Record, SequenceNumber, Shard, ShardId, StreamName, limits,
};
use tristream_proto::wire;
use tristream_proto::wire::refusal::Kind;
use tristream_proto::wire::tristream_server::{Tristream, TristreamServer};

use super::status;
use crate::clock::Clock;
use crate::metadata::{Stream, StreamMode, StreamStatus};
use crate::router::{self, NewStream, Router};
use crate::shard::{self, AppendError};
use crate::tasks::Tasks;

/// No call of a client waits longer than this, whatever it asks for.
const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// How long a put waits for the map by which it was routed, when this node has yet to learn of it.
const PUT_MAP_TIME: Duration = Duration::from_secs(1);
/// How long a description waits for the map that is asked for.
const DESCRIBE_MAP_TIME: Duration = Duration::from_secs(2);
/// Events that wait for a slow subscriber; a chunk is about 1 MiB.
const SUBSCRIBE_EVENTS_MAX: usize = 4;

/// The native door of a node.
#[derive(Clone)]
pub struct ClientService {
    router: watch::Receiver<Option<Router>>,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    deadline_default: Duration,
}

impl ClientService {
    /// A door onto `router`, which may come later. `deadline_default` is for calls that name none.
    pub fn new(
        router: watch::Receiver<Option<Router>>,
        tasks: Tasks,
        clock: Arc<dyn Clock>,
        deadline_default: Duration,
    ) -> ClientService {
        ClientService { router, tasks, clock, deadline_default }
    }

    /// The service for a tonic server, with the limits of the protocol.
    pub fn into_server(self) -> TristreamServer<ClientService> {
        TristreamServer::new(self)
            .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
    }

    fn router(&self) -> Result<Router, wire::Refusal> {
        self.router.borrow().clone().ok_or_else(|| {
            status::refusal(Kind::Unavailable, "the node has not joined its cluster yet")
        })
    }

    async fn stream(&self, router: &Router, name: &str) -> Result<Arc<Stream>, wire::Refusal> {
        let name = stream_name(name)?;
        found(router.stream(&name).await, &name)
    }

    async fn create(&self, request: wire::CreateStreamRequest) -> Result<(), wire::Refusal> {
        let router = self.router()?;
        let stream = NewStream {
            name: stream_name(&request.name)?,
            shard_count: match request.shard_count {
                0 => limits::SHARDS_DEFAULT,
                count => count,
            },
            mode: StreamMode::Provisioned,
            record_bytes_max: limits::RECORD_BYTES_DEFAULT,
            tags: Default::default(),
        };
        let created = router.create_stream(stream, self.deadline_default).await;
        created.map_err(|e| status::of_router(&e))
    }

    async fn delete(&self, request: wire::DeleteStreamRequest) -> Result<(), wire::Refusal> {
        let (router, stream) = self.newest(&request.name).await?;
        let deleted = router.delete_stream(&stream, self.deadline_default).await;
        deleted.map_err(|e| status::of_router(&e))
    }

    async fn describe(
        &self,
        request: &wire::DescribeStreamRequest,
    ) -> Result<(wire::Stream, Vec<wire::NodeAddress>), wire::Refusal> {
        let (router, name) = (self.router()?, stream_name(&request.name)?);
        let version = MapVersion(request.map_version_min);
        let stream = found(router.stream_since(&name, version, DESCRIBE_MAP_TIME).await, &name)?;
        Ok((describe(&router, &stream), nodes(&router)))
    }

    async fn store(&self, request: wire::PutRequest) -> Result<Vec<SequenceNumber>, wire::Refusal> {
        let (router, name) = (self.router()?, stream_name(&request.stream)?);
        let deadline = match request.deadline_ms {
            0 => self.deadline_default,
            millis => Duration::from_millis(u64::from(millis)).min(DEADLINE_MAX),
        };
        let (until, routed) = (Instant::now() + deadline, Routed::from(&request));
        let wait = PUT_MAP_TIME.min(deadline);
        let stream = router.stream_since(&name, routed.map_version, wait).await;
        let stream = found(stream, &name)?;
        let shard = match find_shard(&stream, &routed) {
            Ok(shard) => shard,
            Err(refusal) => {
                let left = until.saturating_duration_since(Instant::now());
                return Err(confirmed(&router, &stream, refusal, left).await);
            }
        };
        let records = check_records(&stream, shard, request.records)?;
        let handle = open_here(&router, shard)?;
        let stored = handle.append(records, until.saturating_duration_since(Instant::now())).await;
        stored.map_err(|error| not_stored(&stream, &error))
    }
}

#[tonic::async_trait]
impl Tristream for ClientService {
    type SubscribeStream = ReceiverStream<Result<wire::SubscribeEvent, Status>>;

    async fn create_stream(
        &self,
        request: Request<wire::CreateStreamRequest>,
    ) -> Result<Response<wire::CreateStreamResponse>, Status> {
        let refusal = self.create(request.into_inner()).await.err();
        Ok(Response::new(wire::CreateStreamResponse { refusal }))
    }

    async fn delete_stream(
        &self,
        request: Request<wire::DeleteStreamRequest>,
    ) -> Result<Response<wire::DeleteStreamResponse>, Status> {
        let refusal = self.delete(request.into_inner()).await.err();
        Ok(Response::new(wire::DeleteStreamResponse { refusal }))
    }

    async fn list_streams(
        &self,
        _request: Request<wire::ListStreamsRequest>,
    ) -> Result<Response<wire::ListStreamsResponse>, Status> {
        let router = self.router().map_err(|refusal| Status::unavailable(refusal.message))?;
        let view = router.fresh_view().await.view;
        let streams = view.streams.values().map(|stream| describe(&router, stream)).collect();
        Ok(Response::new(wire::ListStreamsResponse { streams }))
    }

    async fn describe_stream(
        &self,
        request: Request<wire::DescribeStreamRequest>,
    ) -> Result<Response<wire::DescribeStreamResponse>, Status> {
        Ok(Response::new(match self.describe(&request.into_inner()).await {
            Ok((stream, nodes)) => {
                wire::DescribeStreamResponse { stream: Some(stream), nodes, refusal: None }
            }
            Err(refusal) => {
                wire::DescribeStreamResponse { refusal: Some(refusal), ..Default::default() }
            }
        }))
    }

    async fn split_shard(
        &self,
        request: Request<wire::SplitShardRequest>,
    ) -> Result<Response<wire::ChangeStreamResponse>, Status> {
        Ok(control::answer(self.split(request.into_inner()).await))
    }

    async fn merge_shards(
        &self,
        request: Request<wire::MergeShardsRequest>,
    ) -> Result<Response<wire::ChangeStreamResponse>, Status> {
        Ok(control::answer(self.merge(request.into_inner()).await))
    }

    async fn update_shard_count(
        &self,
        request: Request<wire::UpdateShardCountRequest>,
    ) -> Result<Response<wire::ChangeStreamResponse>, Status> {
        Ok(control::answer(self.rescale(request.into_inner()).await))
    }

    async fn update_stream_mode(
        &self,
        request: Request<wire::UpdateStreamModeRequest>,
    ) -> Result<Response<wire::ChangeStreamResponse>, Status> {
        Ok(control::answer(self.set_mode(request.into_inner()).await))
    }

    async fn put(
        &self,
        request: Request<wire::PutRequest>,
    ) -> Result<Response<wire::PutResponse>, Status> {
        Ok(Response::new(match self.store(request.into_inner()).await {
            Ok(numbers) => stored(&numbers),
            Err(refusal) => wire::PutResponse { refusal: Some(refusal), ..Default::default() },
        }))
    }

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Ok(Response::new(self.start_subscription(request.into_inner())))
    }

    async fn cluster_status(
        &self,
        _request: Request<wire::ClusterStatusRequest>,
    ) -> Result<Response<wire::ClusterStatusResponse>, Status> {
        let router = self.router().map_err(|refusal| Status::unavailable(refusal.message))?;
        Ok(Response::new(router.cluster_status().await))
    }
}

/// The answer to a put: one number where the others follow from it.
fn stored(numbers: &[SequenceNumber]) -> wire::PutResponse {
    let follows = |pair: &[SequenceNumber]| {
        pair[1] == SequenceNumber { counter: pair[0].counter + 1, ..pair[0] }
    };
    let text = SequenceNumber::to_string;
    match numbers.first() {
        Some(first) if numbers.windows(2).all(follows) => {
            wire::PutResponse { first_sequence_number: text(first), ..Default::default() }
        }
        _ => wire::PutResponse {
            sequence_numbers: numbers.iter().map(text).collect(),
            ..Default::default()
        },
    }
}

/// The stream, or what is known of its absence.
fn found(
    stream: Result<Option<Arc<Stream>>, router::Error>,
    name: &StreamName,
) -> Result<Arc<Stream>, wire::Refusal> {
    stream.map_err(|e| status::of_router(&e))?.ok_or_else(|| status::stream_not_found(name))
}

/// A refusal by this node's view: that the stream is gone is said only when a quorum says so, too.
async fn confirmed(
    router: &Router,
    stream: &Stream,
    refusal: wire::Refusal,
    left: Duration,
) -> wire::Refusal {
    match refusal.kind() {
        Kind::StreamNotFound => status::of_router(&router.gone(stream, left).await),
        _ => refusal,
    }
}

fn stream_name(text: &str) -> Result<StreamName, wire::Refusal> {
    text.parse().map_err(|error| status::refusal(Kind::Invalid, error))
}

/// The open shard on this node.
fn open_here(router: &Router, shard: &Shard) -> Result<shard::Handle, wire::Refusal> {
    router.local_shard(shard.group).ok_or_else(|| {
        status::not_leader("the shard is not open on this node", router.leader_of(shard.group))
    })
}

/// By what a put was routed.
struct Routed {
    incarnation: Incarnation,
    map_version: MapVersion,
    shard: ShardId,
    group: GroupId,
}

impl From<&wire::PutRequest> for Routed {
    fn from(request: &wire::PutRequest) -> Self {
        Routed {
            incarnation: Incarnation(request.incarnation),
            map_version: MapVersion(request.map_version),
            shard: ShardId::from(request.shard_index),
            group: GroupId(request.group),
        }
    }
}

/// The shard that the put is for, when it still takes what the put was routed by.
///
/// A put routed by an older map is taken while its shard is open, so that a reshard elsewhere in the
/// stream does not disturb it. That is safe: a group is never used for a second shard, a shard's
/// range never changes, and one that was sealed refuses by itself, whatever this node's map says.
fn find_shard<'a>(stream: &'a Stream, routed: &Routed) -> Result<&'a Shard, wire::Refusal> {
    let known = stream.map_version();
    if routed.incarnation > stream.incarnation || routed.map_version > known {
        // The caller knows more than this node: routing by this node's map would lead it astray.
        return Err(status::refusal(
            Kind::Unavailable,
            "the node has yet to learn of this shard map",
        ));
    }
    if routed.incarnation < stream.incarnation {
        return Err(status::stale_map("the stream was deleted and created anew", known));
    }
    if stream.status == StreamStatus::Deleting {
        return Err(status::stream_not_found(&stream.name));
    }
    match stream.map.get(routed.shard) {
        Some(shard) if shard.group != routed.group || !shard.is_open() => {
            Err(status::stale_map("the shard is closed, or another group", known))
        }
        Some(shard) => Ok(shard),
        None => Err(status::stale_map("the stream has no such shard", known)),
    }
}

/// Why the shard that `stream`'s map names did not take a put.
fn not_stored(stream: &Stream, error: &AppendError) -> wire::Refusal {
    match error {
        // By this map the shard was open, so the one that says who takes its records comes later.
        AppendError::Sealed => status::stale_map(error, MapVersion(stream.map_version().0 + 1)),
        error => status::of_append(error),
    }
}

/// The records, when they may all be stored in `shard`.
fn check_records(
    stream: &Stream,
    shard: &Shard,
    records: Vec<wire::Record>,
) -> Result<Vec<Record>, wire::Refusal> {
    let invalid = |what: String| Err(status::refusal(Kind::Invalid, what));
    if records.is_empty() || records.len() > limits::PUT_RECORDS_COUNT_MAX {
        let max = limits::PUT_RECORDS_COUNT_MAX;
        return invalid(format!("a put has 1 to {max} records, not {}", records.len()));
    }
    let records = records
        .into_iter()
        .map(Record::try_from)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| status::refusal(Kind::Invalid, error))?;
    let (mut bytes, mut origins) = (0, HashSet::new());
    for record in &records {
        if record.bytes() > stream.record_bytes_max {
            return invalid(format!(
                "a record has {} bytes with its key, and stream {} takes {}",
                record.bytes(),
                stream.name,
                stream.record_bytes_max
            ));
        }
        bytes += record.bytes();
        if !shard.range.contains(record.hash_key()) {
            let why = "a record's hash key is not in the shard's range";
            return Err(status::stale_map(why, stream.map_version()));
        }
        if record.origin.is_some_and(|origin| !origins.insert(origin)) {
            return invalid(format!("two records have one origin: {:?}", record.origin));
        }
    }
    if bytes > limits::PUT_RECORDS_BYTES_MAX {
        let max = limits::PUT_RECORDS_BYTES_MAX;
        return invalid(format!("a put has at most {max} bytes, not {bytes}"));
    }
    Ok(records)
}

fn describe(router: &Router, stream: &Stream) -> wire::Stream {
    let status = match stream.status {
        StreamStatus::Creating => wire::StreamStatus::Creating,
        StreamStatus::Active => wire::StreamStatus::Active,
        StreamStatus::Updating => wire::StreamStatus::Updating,
        StreamStatus::Deleting => wire::StreamStatus::Deleting,
    };
    let shard = |shard: &Shard| wire::Shard {
        leader: router.leader_of(shard.group).map_or(0, |node| node.0),
        ..wire::Shard::from(shard)
    };
    wire::Stream {
        name: stream.name.to_string(),
        incarnation: stream.incarnation.0,
        status: status.into(),
        created_ms: stream.created.0,
        map_version: stream.map_version().0,
        shards: stream.map.shards().iter().map(shard).collect(),
        on_demand: stream.mode == StreamMode::OnDemand,
    }
}

fn nodes(router: &Router) -> Vec<wire::NodeAddress> {
    let members = router.roster().members.iter();
    let address = |member: &crate::roster::Member| wire::NodeAddress {
        node: member.node.0,
        az: member.az.clone(),
        peer: member.peer.clone(),
        kinesis: member.kinesis.clone(),
    };
    members.map(address).collect()
}

#[cfg(test)]
mod tests;
