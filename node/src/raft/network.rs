//! openraft's network: entries over one shared stream, heartbeats and probes over another, votes as calls.
//!
//! Invariants: an append without entries never waits behind bulk; a group has at most one session to a peer, so
//! that its entries arrive in the order in which they were sent. (openraft sends heartbeats through
//! `stream_append` too: a session for each would end the one that carries the entries.)

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use tonic::transport::Channel;
use tristream_proto::domain::limits::GRPC_MESSAGE_BYTES_MAX;
use tristream_proto::domain::{GroupId, NodeId};
use tristream_proto::wire;
use tristream_proto::wire::raft_client::RaftClient;

use super::convert;
use super::peer_stream::{IN_FLIGHT_MAX, Lane, PeerStream, Session};
use super::repair::Given;
use super::snapshot::SnapshotOf;
use super::types::{RaftVote, Types};
use crate::disk::Room;
use crate::log::EntryId;
use crate::net::Peers;
use crate::roster::Roster;
use crate::tasks::Tasks;

type RpcError = RPCError<Types>;

/// How long an append without entries may take at least: the first of a term waits for the sync of a vote.
const PROBE_TIMEOUT_MIN: Duration = Duration::from_secs(1);

fn unreachable(why: impl std::fmt::Display) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(why)))
}

/// The ways to every peer, shared by all groups of a node.
pub(super) struct Transport {
    cluster: String,
    me: NodeId,
    peers: BTreeMap<NodeId, Way>,
}

struct Way {
    entries: PeerStream,
    beats: PeerStream,
    control: Channel,
    bulk: Channel,
}

impl Transport {
    #[cfg(test)]
    pub(super) fn nowhere() -> Transport {
        Transport { cluster: String::new(), me: NodeId(0), peers: BTreeMap::new() }
    }

    pub(super) fn new(
        peers: &Peers,
        roster: &Roster,
        incarnation: u64,
        room: &Room,
        tasks: &Tasks,
    ) -> Self {
        let way = |node: NodeId| {
            let hello = wire::Hello {
                cluster: roster.cluster.clone(),
                node: roster.me.0,
                incarnation,
                format: super::peer_stream::FORMAT,
            };
            let (bulk, control) = (peers.bulk(node)?, peers.control(node)?);
            let stream = |lane, channel: &Channel| {
                let (room, tasks) = (room.clone(), tasks.clone());
                PeerStream::new(lane, node, channel.clone(), hello.clone(), room, tasks)
            };
            let entries = stream(Lane::Entries, &bulk);
            Some((node, Way { entries, beats: stream(Lane::Beats, &control), control, bulk }))
        };
        let peers = roster.others().filter_map(|member| way(member.node)).collect();
        Transport { cluster: roster.cluster.clone(), me: roster.me, peers }
    }
}

/// Makes connections of one group.
pub(super) struct Factory {
    pub(super) transport: Arc<Transport>,
    pub(super) group: GroupId,
}

/// One group's connection to one peer.
pub(super) struct Connection {
    transport: Arc<Transport>,
    group: GroupId,
    to: NodeId,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &()) -> Connection {
        Connection::new(self.transport.clone(), self.group, NodeId(target))
    }
}

impl Connection {
    pub(super) fn new(transport: Arc<Transport>, group: GroupId, to: NodeId) -> Connection {
        Connection { transport, group, to }
    }

    /// Asks whether `to` would vote for this node; nothing changes there.
    pub(super) async fn ask_pre_vote(
        &self,
        request: &VoteRequest<Types>,
        deadline: Duration,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let mut client = self.client()?;
        let message = self.vote_message(request);
        let answer = call(deadline, client.pre_vote(message)).await?;
        convert::from_wire_vote_answer(&answer).map_err(unreachable)
    }

    /// Asks whether `to` would take over leadership; nothing changes there.
    pub(super) async fn ask_take_over(&self, deadline: Duration) -> Result<bool, RpcError> {
        let message = wire::GroupTransfer {
            group: self.group.0,
            to: self.to.0,
            cluster: self.transport.cluster.clone(),
            only_asks: true,
            ..Default::default()
        };
        let mut client = self.client()?;
        Ok(call(deadline, client.transfer_leader(message)).await?.accepted)
    }

    fn way(&self) -> Result<&Way, RpcError> {
        let way = self.transport.peers.get(&self.to);
        way.ok_or_else(|| unreachable(format_args!("node {} is not in the roster", self.to)))
    }

    async fn session(&self) -> Result<Session, RpcError> {
        self.way()?.entries.session(self.group.0).await.map_err(unreachable)
    }

    fn client(&self) -> Result<RaftClient<Channel>, RpcError> {
        Ok(RaftClient::new(self.way()?.control.clone()))
    }

    /// An append without entries, beside the stream.
    async fn probe(
        &self,
        request: AppendEntriesRequest<Types>,
        deadline: Duration,
    ) -> Result<StreamAppendResult<Types>, RpcError> {
        let append = convert::to_wire_append(request);
        let asked = self.way()?.beats.ask(self.group.0, append);
        let answer = match tokio::time::timeout(deadline, asked).await {
            Ok(answer) => answer.map_err(unreachable)?,
            Err(_) => return Err(unreachable("no answer in time")),
        };
        convert::from_wire_appended(&answer).map_err(unreachable)
    }

    /// One message: a state is a few megabytes at most. It goes the way of bulk.
    async fn send_snapshot(
        &self,
        vote: RaftVote,
        snapshot: SnapshotOf,
        deadline: Duration,
    ) -> Result<SnapshotResponse<Types>, RpcError> {
        let message = wire::GroupSnapshot {
            group: self.group.0,
            vote: Some(convert::to_wire_vote(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(convert::to_wire_id),
            state: snapshot.snapshot,
            cluster: self.transport.cluster.clone(),
        };
        let mut client = RaftClient::new(self.way()?.bulk.clone())
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
        let answer = call(deadline, client.install_snapshot(message)).await?;
        let vote = convert::required_vote(answer.vote.as_ref()).map_err(unreachable)?;
        Ok(SnapshotResponse::new(vote))
    }

    /// What `to` has of these entries. They go the way of bulk.
    pub(super) async fn fetch_entries(
        &self,
        indexes: &[u64],
        deadline: Duration,
    ) -> Result<Given, RpcError> {
        let message = wire::GroupIndexes {
            group: self.group.0,
            cluster: self.transport.cluster.clone(),
            indexes: indexes.to_vec(),
        };
        let mut client = RaftClient::new(self.way()?.bulk.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX);
        let answer = call(deadline, client.fetch_entries(message)).await?;
        let id = |id: &wire::LogId| convert::entry_id(&convert::from_wire_id(id));
        let (committed, ids) =
            (answer.committed.as_ref().map(id), answer.ids.iter().map(id).collect());
        let entries = answer.entries.into_iter().map(convert::from_wire_log_entry);
        let entries = entries.collect::<std::io::Result<_>>().map_err(unreachable)?;
        Ok(Given { entries, ids, committed })
    }

    /// A checkpoint of `to` that covers `index`: its last entry, and the state. It goes the way of bulk.
    pub(super) async fn fetch_checkpoint(
        &self,
        index: u64,
        deadline: Duration,
    ) -> Result<Option<(EntryId, Bytes)>, RpcError> {
        let cluster = self.transport.cluster.clone();
        let message = wire::GroupPosition { group: self.group.0, cluster, index };
        let mut client = RaftClient::new(self.way()?.bulk.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX);
        let answer = call(deadline, client.fetch_checkpoint(message)).await?;
        let last = answer.last.as_ref().map(convert::from_wire_id);
        Ok(last.map(|last| (convert::entry_id(&last), answer.state)))
    }

    fn vote_message(&self, request: &VoteRequest<Types>) -> wire::GroupVote {
        wire::GroupVote {
            group: self.group.0,
            vote: Some(convert::to_wire_vote(&request.vote)),
            last: request.last_log_id.as_ref().map(convert::to_wire_id),
            leadership_transfer: request.leadership_transfer,
            cluster: self.transport.cluster.clone(),
            node: self.transport.me.0,
        }
    }
}

/// A call with a deadline; any failure means that the peer cannot be reached.
async fn call<T>(
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, RpcError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(unreachable(status)),
        Err(_) => Err(unreachable("no answer in time")),
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = bytes::Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        match self.probe(request, option.hard_ttl()).await? {
            Ok(_) => Ok(AppendEntriesResponse::Success),
            Err(StreamAppendError::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            Err(StreamAppendError::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let deadline = option.hard_ttl().max(PROBE_TIMEOUT_MIN);
            let feed = Feed { to: self, input, deadline, pump: None };
            let answers = futures::stream::unfold(Some(feed), |feed| async move {
                let mut feed = feed?;
                let next = feed.next().await?;
                // After an error nothing more comes of this stream.
                let goes_on = matches!(next, Ok(Ok(_)));
                Some((next, goes_on.then_some(feed)))
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let mut client = self.client()?;
        let message = self.vote_message(&request);
        let answer = call(option.hard_ttl(), client.vote(message)).await?;
        convert::from_wire_vote_answer(&answer).map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_pre_vote(&request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let fail =
            |why: String| StreamingError::Unreachable(Unreachable::new(&AnyError::error(why)));
        let sent = self.send_snapshot(vote, snapshot, option.hard_ttl());
        tokio::select! {
            sent = sent => sent.map_err(|error| fail(error.to_string())),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let message = wire::GroupTransfer {
            group: self.group.0,
            from: Some(convert::to_wire_vote(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(convert::to_wire_id),
            cluster: self.transport.cluster.clone(),
            only_asks: false,
        };
        let mut client = self.client()?;
        let answer = call(option.hard_ttl(), client.transfer_leader(message)).await?;
        match answer.accepted {
            true => Ok(Ok(())),
            false => Err(unreachable("leadership was refused")),
        }
    }
}

/// Requests of one `stream_append`: beside the stream until one has entries, from then on over a session.
struct Feed<'s, S> {
    to: &'s Connection,
    input: S,
    deadline: Duration,
    pump: Option<Pump>,
}

impl<S: Stream<Item = AppendEntriesRequest<Types>> + Unpin> Feed<'_, S> {
    /// The next answer. `None` once the input has ended and everything is answered.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types>, RpcError>> {
        if self.pump.is_none() {
            let request = self.input.next().await?;
            if request.entries.is_empty() {
                return Some(self.to.probe(request, self.deadline).await);
            }
            match self.to.session().await {
                Ok(session) => self.pump = Some(Pump::new(session, request)),
                Err(error) => return Some(Err(error)),
            }
        }
        self.pump.as_mut()?.next(&mut self.input).await
    }
}

/// Moves requests of one session out and answers back, without a task of its own.
struct Pump {
    session: Session,
    waiting: Option<wire::ReplicateFrame>,
    in_flight: usize,
    input_ended: bool,
}

impl Pump {
    fn new(session: Session, first: AppendEntriesRequest<Types>) -> Pump {
        let waiting = Some(session.frame(convert::to_wire_append(first)));
        Pump { session, waiting, in_flight: 0, input_ended: false }
    }

    async fn next(
        &mut self,
        input: &mut (impl Stream<Item = AppendEntriesRequest<Types>> + Unpin),
    ) -> Option<Result<StreamAppendResult<Types>, RpcError>> {
        loop {
            if self.input_ended && self.in_flight == 0 && self.waiting.is_none() {
                return None;
            }
            let wants_input =
                !self.input_ended && self.waiting.is_none() && self.in_flight < IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                answer = self.session.answers.recv() => {
                    let Some(answer) = answer else {
                        return Some(Err(unreachable("the replication stream broke")));
                    };
                    self.in_flight = self.in_flight.saturating_sub(1);
                    return Some(convert::from_wire_appended(&answer).map_err(unreachable));
                }
                permit = self.session.connection.permit(), if self.waiting.is_some() => {
                    let Some(permit) = permit else {
                        return Some(Err(unreachable("the replication stream broke")));
                    };
                    if let Some(frame) = self.waiting.take() {
                        permit.send(frame);
                        self.in_flight += 1;
                    }
                }
                request = input.next(), if wants_input => match request {
                    Some(request) => {
                        let append = convert::to_wire_append(request);
                        self.waiting = Some(self.session.frame(append));
                    }
                    None => self.input_ended = true,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
