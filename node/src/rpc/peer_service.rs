//! What the nodes of one cluster ask of each other, apart from Raft.
//!
//! Served from the first moment, for a cluster is founded over it; what needs a founded cluster is
//! refused as unavailable (no effect) until the router is there. Invariant: nothing is forwarded
//! from here.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tristream_proto::domain::GroupId;
use tristream_proto::domain::limits::GRPC_MESSAGE_BYTES_MAX;
use tristream_proto::wire;
use tristream_proto::wire::peer_server::{Peer, PeerServer};
use tristream_proto::wire::refusal::Kind;

use super::status;
use crate::founding::SelfPortrait;
use crate::router::Router;

/// How long a leader asks its quorum for a peer's barrier.
const BARRIER_TIME: Duration = Duration::from_millis(500);
/// Time for a command whose proposer names none.
const PROPOSE_TIME: Duration = Duration::from_secs(5);
/// A proposer cannot make this node wait longer.
const PROPOSE_TIME_MAX: Duration = Duration::from_secs(60);
const NOT_YET: &str = "this node does not serve yet";

/// The service.
#[derive(Clone)]
pub struct PeerService {
    portrait: SelfPortrait,
    router: watch::Receiver<Option<Router>>,
}

impl PeerService {
    /// A service that only knows how to found a cluster until `router` holds one.
    pub fn new(portrait: SelfPortrait, router: watch::Receiver<Option<Router>>) -> PeerService {
        PeerService { portrait, router }
    }

    /// The service as tonic wants it, with our message limits.
    pub fn into_server(self) -> PeerServer<PeerService> {
        PeerServer::new(self)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    fn router(&self) -> Result<Router, wire::Refusal> {
        self.router.borrow().clone().ok_or_else(|| status::refusal(Kind::Unavailable, NOT_YET))
    }

    async fn propose(
        &self,
        request: wire::ProposeMetadataRequest,
    ) -> Result<wire::ProposeMetadataResponse, wire::Refusal> {
        let router = self.router()?;
        let invalid = |e: serde_json::Error| status::refusal(Kind::Invalid, e.to_string());
        let command = serde_json::from_slice(&request.command).map_err(invalid)?;
        router.check_room(&command).map_err(|e| status::of_router(&e))?;
        let proposed = router.propose_here(&command, bounded(request.deadline_ms)).await;
        let (index, outcome) = proposed.map_err(|e| status::of_propose(&e))?;
        // It happened, so whatever goes wrong from here is an unknown outcome for who asked.
        let unknown = |e: serde_json::Error| status::refusal(Kind::Unknown, e.to_string());
        let outcome = serde_json::to_vec(&outcome).map_err(unknown)?.into();
        Ok(wire::ProposeMetadataResponse { outcome, index, refusal: None })
    }

    async fn barrier(&self, group: GroupId) -> Result<u64, wire::Refusal> {
        let barrier = self.router()?.local_barrier(group, BARRIER_TIME).await;
        barrier.map_err(|e| status::of_read(&e))
    }

    async fn window(
        &self,
        request: wire::CopyWindowRequest,
    ) -> Result<wire::CopyWindowResponse, wire::Refusal> {
        let router = self.router()?;
        let window = router.copy_window_here(GroupId(request.group), request.after);
        let window = timeout(PROPOSE_TIME, window).await;
        let late = |_| status::refusal(Kind::Unavailable, "no window in time");
        let part = window.map_err(late)?.map_err(|e| status::of_append(&e))?;
        Ok(wire::CopyWindowResponse { part: Some(part.into()), refusal: None })
    }

    async fn seal(
        &self,
        request: wire::SealShardRequest,
    ) -> Result<wire::SealShardResponse, wire::Refusal> {
        let wire::SealShardRequest { group, after, deadline_ms } = request;
        let sealed = self.router()?.seal_here(GroupId(group), after, bounded(deadline_ms)).await;
        let (sealed, part) = sealed.map_err(|e| status::of_append(&e))?;
        Ok(wire::SealShardResponse { part: Some(part.into()), ..sealed.into() })
    }

    async fn give(
        &self,
        request: wire::InheritRequest,
    ) -> Result<wire::InheritResponse, wire::Refusal> {
        let (group, deadline) = (GroupId(request.group), bounded(request.deadline_ms));
        let inherited = self.router()?.inherit_here(group, request.into(), deadline).await;
        Ok(inherited.map_err(|e| status::of_append(&e))?.into())
    }
}

/// The time that a peer gives, within what this node allows.
fn bounded(deadline_ms: u32) -> Duration {
    match deadline_ms {
        0 => PROPOSE_TIME,
        ms => Duration::from_millis(ms.into()).min(PROPOSE_TIME_MAX),
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn probe(
        &self,
        _request: Request<wire::ProbeRequest>,
    ) -> Result<Response<wire::ProbeResponse>, Status> {
        Ok(Response::new(self.portrait.probe()))
    }

    async fn propose_metadata(
        &self,
        request: Request<wire::ProposeMetadataRequest>,
    ) -> Result<Response<wire::ProposeMetadataResponse>, Status> {
        let answer = self.propose(request.into_inner()).await.unwrap_or_else(|refusal| {
            wire::ProposeMetadataResponse { refusal: Some(refusal), ..Default::default() }
        });
        Ok(Response::new(answer))
    }

    async fn read_barrier(
        &self,
        request: Request<wire::ReadBarrierRequest>,
    ) -> Result<Response<wire::ReadBarrierResponse>, Status> {
        let group = GroupId(request.into_inner().group);
        let answer = match self.barrier(group).await {
            Ok(index) => wire::ReadBarrierResponse { index, refusal: None },
            Err(refusal) => wire::ReadBarrierResponse { index: 0, refusal: Some(refusal) },
        };
        Ok(Response::new(answer))
    }

    async fn copy_window(
        &self,
        request: Request<wire::CopyWindowRequest>,
    ) -> Result<Response<wire::CopyWindowResponse>, Status> {
        let answer = self.window(request.into_inner()).await.unwrap_or_else(|refusal| {
            wire::CopyWindowResponse { refusal: Some(refusal), ..Default::default() }
        });
        Ok(Response::new(answer))
    }

    async fn seal_shard(
        &self,
        request: Request<wire::SealShardRequest>,
    ) -> Result<Response<wire::SealShardResponse>, Status> {
        let answer = self.seal(request.into_inner()).await.unwrap_or_else(|refusal| {
            wire::SealShardResponse { refusal: Some(refusal), ..Default::default() }
        });
        Ok(Response::new(answer))
    }

    async fn inherit(
        &self,
        request: Request<wire::InheritRequest>,
    ) -> Result<Response<wire::InheritResponse>, Status> {
        let answer = self.give(request.into_inner()).await.unwrap_or_else(|refusal| {
            wire::InheritResponse { refusal: Some(refusal), ..Default::default() }
        });
        Ok(Response::new(answer))
    }

    async fn clock(
        &self,
        _: Request<wire::ClockRequest>,
    ) -> Result<Response<wire::ClockResponse>, Status> {
        match &*self.router.borrow() {
            Some(router) => Ok(Response::new(wire::ClockResponse { now_ms: router.now().0 })),
            None => Err(Status::unavailable(NOT_YET)),
        }
    }

    async fn led_groups(
        &self,
        _: Request<wire::LedGroupsRequest>,
    ) -> Result<Response<wire::LedGroupsResponse>, Status> {
        match &*self.router.borrow() {
            Some(router) => Ok(Response::new(router.led_groups())),
            None => Err(Status::unavailable(NOT_YET)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn empty() -> SelfPortrait {
        SelfPortrait::new(Identity {
            format: 1,
            az: "az-a".to_owned(),
            nonce: "n".to_owned(),
            log_created: false,
            founding: None,
        })
    }

    #[tokio::test]
    async fn before_the_cluster_is_founded_only_probes_are_answered() {
        let (_slot, router) = watch::channel(None);
        let service = PeerService::new(empty(), router);
        let request = wire::ProbeRequest { az: "az-a".to_owned() };
        let answer = Peer::probe(&service, Request::new(request)).await.expect("answers");
        assert_eq!((answer.get_ref().az.as_str(), answer.get_ref().nonce.as_str()), ("az-a", "n"));
        let request = Request::new(wire::ProposeMetadataRequest::default());
        let answer = service.propose_metadata(request).await.expect("answers").into_inner();
        let kind = answer.refusal.map(|refusal| refusal.kind());
        assert_eq!(kind, Some(Kind::Unavailable), "certainly without effect");
        let request = Request::new(wire::ReadBarrierRequest { group: 1 });
        let answer = service.read_barrier(request).await.expect("answers").into_inner();
        assert_eq!(answer.refusal.map(|refusal| refusal.kind()), Some(Kind::Unavailable));
        let answer = service.seal_shard(Request::new(wire::SealShardRequest::default())).await;
        let refusal = answer.expect("answers").into_inner().refusal;
        assert_eq!(refusal.map(|refusal| refusal.kind()), Some(Kind::Unavailable));
        let answer = service.inherit(Request::new(wire::InheritRequest::default())).await;
        let refusal = answer.expect("answers").into_inner().refusal;
        assert_eq!(refusal.map(|refusal| refusal.kind()), Some(Kind::Unavailable));
        let answer = service.copy_window(Request::new(wire::CopyWindowRequest::default())).await;
        let refusal = answer.expect("answers").into_inner().refusal;
        assert_eq!(refusal.map(|refusal| refusal.kind()), Some(Kind::Unavailable));
        let refused = service.led_groups(Request::new(wire::LedGroupsRequest {})).await;
        assert_eq!(refused.map_err(|status| status.code()).err(), Some(tonic::Code::Unavailable));
    }
}
