//! Calls to other nodes: one hop, each with a deadline.
//!
//! Owns the border between "never sent" and "may have happened". Invariant: a call that could
//! change something misses `Elsewhere` only when the request certainly reached no handler, or the
//! handler said that nothing happened. Must not know who should be asked.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Response, Status};
use tristream_proto::domain::limits::GRPC_MESSAGE_BYTES_MAX;
use tristream_proto::domain::{
    GroupId, InvalidSequenceNumber, MapVersion, NodeId, SequenceNumber, Timestamp,
};
use tristream_proto::wire;
use tristream_proto::wire::peer_client::PeerClient;
use tristream_proto::wire::refusal::Kind;
use tristream_proto::wire::tristream_client::TristreamClient;

use super::Error;
use super::attempt::Miss;
use super::puts::Landed;
use crate::metadata::Outcome;
use crate::net::Peers;

/// The leader's own deadline ends this much before ours, so that its exact answer ("no effect", or
/// "unknown") is back before we must call it unknown.
const ANSWER_SLACK: Duration = Duration::from_millis(50);

/// Calls to the other nodes.
#[derive(Clone)]
pub(super) struct Forward {
    peers: Peers,
}

impl Forward {
    pub(super) fn new(peers: Peers) -> Forward {
        Forward { peers }
    }

    /// A put at its shard's leader.
    pub(super) async fn put(
        &self,
        node: NodeId,
        mut put: wire::PutRequest,
        left: Duration,
    ) -> Result<Landed, Miss> {
        let mut client = self.tristream(node)?;
        let (count, routed_by) = (put.records.len(), MapVersion(put.map_version));
        put.deadline_ms = leaders_share_ms(left);
        let answer = effective(client.put(bounded(put, left)), left).await?;
        if let Some(refusal) = &answer.refusal
            && refusal.kind() == Kind::StaleMap
        {
            return Ok(moved(refusal, routed_by));
        }
        refused(answer.refusal.clone())?;
        let numbers = numbers(&answer, count);
        let unknown = |error| Miss::Final(Error::Unknown(format!("node {node}: {error}")));
        numbers.map(Landed::Stored).map_err(unknown)
    }

    /// A metadata command (JSON) at the metadata leader: its index and outcome.
    pub(super) async fn propose_metadata(
        &self,
        node: NodeId,
        command: Bytes,
        left: Duration,
    ) -> Result<(u64, Outcome), Miss> {
        let mut client = self.peer(node)?;
        let deadline_ms = leaders_share_ms(left);
        let request = wire::ProposeMetadataRequest { command, deadline_ms };
        let answer = effective(client.propose_metadata(bounded(request, left)), left).await?;
        refused(answer.refusal)?;
        match serde_json::from_slice(&answer.outcome) {
            Ok(outcome) => Ok((answer.index, outcome)),
            Err(error) => Err(Miss::Final(Error::Unknown(format!("node {node}: {error}")))),
        }
    }

    /// The barrier of a group at its leader. Changes nothing, so every failure may be tried
    /// elsewhere.
    pub(super) async fn read_barrier(
        &self,
        node: NodeId,
        group: GroupId,
        left: Duration,
    ) -> Result<u64, Miss> {
        let mut client = self.peer(node)?;
        let request = wire::ReadBarrierRequest { group: group.0 };
        let answer = harmless(client.read_barrier(bounded(request, left)), left).await?;
        match answer.refusal {
            None => Ok(answer.index),
            Some(refusal) => {
                Err(Miss::Elsewhere { leader: leader_in(&refusal), why: refusal.message })
            }
        }
    }

    /// A part of a shard's window. Changes nothing.
    pub(super) async fn copy_window(
        &self,
        node: NodeId,
        ask: wire::CopyWindowRequest,
        left: Duration,
    ) -> Result<wire::CopyWindowResponse, Miss> {
        let mut client = self.peer(node)?;
        let answer = harmless(client.copy_window(bounded(ask, left)), left).await?;
        asked_again(answer.refusal.as_ref())?;
        Ok(answer)
    }

    /// The seal of a shard. It does nothing the second time, so every failure may be tried again.
    pub(super) async fn seal_shard(
        &self,
        node: NodeId,
        mut ask: wire::SealShardRequest,
        left: Duration,
    ) -> Result<wire::SealShardResponse, Miss> {
        let mut client = self.peer(node)?;
        ask.deadline_ms = leaders_share_ms(left);
        let answer = harmless(client.seal_shard(bounded(ask, left)), left).await?;
        asked_again(answer.refusal.as_ref())?;
        Ok(answer)
    }

    /// What a child is given. It does nothing the second time, so every failure may be tried again.
    pub(super) async fn inherit(
        &self,
        node: NodeId,
        mut ask: wire::InheritRequest,
        left: Duration,
    ) -> Result<wire::InheritResponse, Miss> {
        let mut client = self.peer(node)?;
        ask.deadline_ms = leaders_share_ms(left);
        let answer = harmless(client.inherit(bounded(ask, left)), left).await?;
        asked_again(answer.refusal.as_ref())?;
        Ok(answer)
    }

    /// The groups that a node leads.
    pub(super) async fn led_groups(
        &self,
        node: NodeId,
        left: Duration,
    ) -> Result<wire::LedGroupsResponse, Miss> {
        let mut client = self.peer(node)?;
        let request = wire::LedGroupsRequest {};
        harmless(client.led_groups(bounded(request, left)), left).await
    }

    /// What a node's clock says.
    pub(super) async fn clock(&self, node: NodeId, left: Duration) -> Result<Timestamp, Miss> {
        let mut client = self.peer(node)?;
        let asked = client.clock(bounded(wire::ClockRequest {}, left));
        Ok(Timestamp(harmless(asked, left).await?.now_ms))
    }

    fn tristream(&self, node: NodeId) -> Result<TristreamClient<Channel>, Miss> {
        Ok(TristreamClient::new(self.channel(node)?)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX))
    }

    fn peer(&self, node: NodeId) -> Result<PeerClient<Channel>, Miss> {
        Ok(PeerClient::new(self.channel(node)?)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX))
    }

    fn channel(&self, node: NodeId) -> Result<Channel, Miss> {
        let unknown = || Miss::elsewhere(format!("node {node} is not in the roster"));
        self.peers.requests(node).ok_or_else(unknown)
    }
}

/// One number per record.
fn numbers(
    answer: &wire::PutResponse,
    count: usize,
) -> Result<Vec<SequenceNumber>, InvalidSequenceNumber> {
    if answer.sequence_numbers.is_empty() {
        let first: SequenceNumber = answer.first_sequence_number.parse()?;
        let number = |i| SequenceNumber { counter: first.counter + i, ..first };
        return Ok((0..count as u64).map(number).collect());
    }
    let numbers: Vec<SequenceNumber> =
        answer.sequence_numbers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    if numbers.len() != count {
        return Err(InvalidSequenceNumber(format!(
            "{} numbers for {count} records",
            numbers.len()
        )));
    }
    Ok(numbers)
}

/// What a peer says whose map is another than the one that the put was routed by. It never sends us
/// back to that one, or the put would go in circles.
fn moved(refusal: &wire::Refusal, routed_by: MapVersion) -> Landed {
    Landed::Moved(MapVersion(refusal.map_version.max(routed_by.0 + 1)))
}

fn bounded<T>(message: T, left: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(left);
    request
}

fn leaders_share_ms(left: Duration) -> u32 {
    let share = left - ANSWER_SLACK.min(left / 4);
    // 0 would mean the leader's default.
    u32::try_from(share.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// The answer of a call that may change something.
async fn effective<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
    left: Duration,
) -> Result<T, Miss> {
    match timeout(left, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) if never_handled(&status) => Err(Miss::elsewhere(status.message())),
        Ok(Err(status)) => Err(Miss::Final(Error::Unknown(status.message().to_owned()))),
        Err(_) => Err(Miss::Final(Error::Unknown("no answer in time".to_owned()))),
    }
}

/// The answer of a call that changes nothing, or nothing the second time.
async fn harmless<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
    left: Duration,
) -> Result<T, Miss> {
    match timeout(left, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Miss::elsewhere(status.message())),
        Err(_) => Err(Miss::elsewhere("no answer in time")),
    }
}

/// Whether the request certainly reached no handler. Only two cases prove it: no connection could
/// be opened to carry it, or the peer's gRPC router answered that it has no such method. Everything
/// else (a reset, a lost connection, a timeout, a cancelled stream) may come after the handler
/// began.
fn never_handled(status: &Status) -> bool {
    let mut cause = status.source();
    if cause.is_none() {
        return status.code() == Code::Unimplemented;
    }
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What the router does about a peer's refusal.
fn refused(refusal: Option<wire::Refusal>) -> Result<(), Miss> {
    let Some(refusal) = refusal else { return Ok(()) };
    let leader = leader_in(&refusal);
    let why = refusal.message;
    Err(match Kind::try_from(refusal.kind).unwrap_or_default() {
        Kind::NotLeader => Miss::Elsewhere { leader, why },
        // The peer's metadata are behind ours, or ours behind its: a matter of milliseconds. (A put
        // waits for the newer map: see `moved`.)
        Kind::StreamNotFound | Kind::StaleMap => Miss::elsewhere(why),
        Kind::Unavailable => Miss::elsewhere(why),
        Kind::Throttled => Miss::Final(Error::Throttled(why)),
        Kind::StorageFull => Miss::Final(Error::StorageFull(why)),
        Kind::Invalid => Miss::Final(Error::Invalid(why)),
        // All but the first are no answers to what is forwarded; what we do not understand we do not
        // repeat.
        Kind::Unknown
        | Kind::Unspecified
        | Kind::AlreadyExists
        | Kind::NotActive
        | Kind::LimitExceeded => Miss::Final(Error::Unknown(why)),
    })
}

/// A refusal of what may be asked again, whatever became of it.
fn asked_again(refusal: Option<&wire::Refusal>) -> Result<(), Miss> {
    let Some(refusal) = refusal else { return Ok(()) };
    Err(Miss::Elsewhere { leader: leader_in(refusal), why: refusal.message.clone() })
}

fn leader_in(refusal: &wire::Refusal) -> Option<NodeId> {
    (refusal.leader != 0).then_some(NodeId(refusal.leader))
}

#[cfg(test)]
mod tests;
