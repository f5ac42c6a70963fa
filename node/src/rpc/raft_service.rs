//! Raft's gRPC service: hands every call to `raft::Inbound`, once the node has one.

use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tristream_proto::wire;
use tristream_proto::wire::raft_server::Raft;

use crate::raft::Inbound;

/// The service. Until `inbound` is set every call answers UNAVAILABLE.
pub struct RaftService {
    inbound: watch::Receiver<Option<Inbound>>,
}

impl RaftService {
    /// Serves what `inbound` holds.
    pub fn new(inbound: watch::Receiver<Option<Inbound>>) -> RaftService {
        RaftService { inbound }
    }

    fn inbound(&self) -> Result<Inbound, Status> {
        let inbound = self.inbound.borrow().clone();
        inbound.ok_or_else(|| Status::unavailable("the node is starting"))
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    type ReplicateStream = ReceiverStream<Result<wire::ReplicateAnswer, Status>>;
    type BeatStream = ReceiverStream<Result<wire::ReplicateAnswer, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<wire::ReplicateFrame>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let answers = self.inbound()?.replicate(request.into_inner()).await?;
        Ok(Response::new(answers))
    }

    async fn beat(
        &self,
        request: Request<Streaming<wire::ReplicateFrame>>,
    ) -> Result<Response<Self::BeatStream>, Status> {
        Ok(Response::new(self.inbound()?.beat(request.into_inner()).await?))
    }

    async fn vote(
        &self,
        request: Request<wire::GroupVote>,
    ) -> Result<Response<wire::VoteAnswer>, Status> {
        Ok(Response::new(self.inbound()?.vote(request.into_inner()).await?))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::GroupVote>,
    ) -> Result<Response<wire::VoteAnswer>, Status> {
        Ok(Response::new(self.inbound()?.pre_vote(request.into_inner()).await?))
    }

    async fn install_snapshot(
        &self,
        request: Request<wire::GroupSnapshot>,
    ) -> Result<Response<wire::SnapshotAnswer>, Status> {
        Ok(Response::new(self.inbound()?.install_snapshot(request.into_inner()).await?))
    }

    async fn fetch_entries(
        &self,
        request: Request<wire::GroupIndexes>,
    ) -> Result<Response<wire::GroupEntries>, Status> {
        Ok(Response::new(self.inbound()?.fetch_entries(request.into_inner()).await?))
    }

    async fn fetch_checkpoint(
        &self,
        request: Request<wire::GroupPosition>,
    ) -> Result<Response<wire::GroupCheckpoint>, Status> {
        Ok(Response::new(self.inbound()?.fetch_checkpoint(request.into_inner()).await?))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::GroupTransfer>,
    ) -> Result<Response<wire::TransferAnswer>, Status> {
        Ok(Response::new(self.inbound()?.transfer_leader(request.into_inner()).await?))
    }
}
