//! An open group without its machine's type: what peers ask of it, and the registry.
//!
//! Invariant: nothing here blocks for longer than openraft, the log or a peer does. Must not know other groups.

use std::io;
use std::sync::atomic;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest, VoteResponse};
use tokio::sync::watch;
use tristream_proto::wire::GroupCheckpoint;

use super::convert::{self, Appended};
use super::group::Inner;
use super::snapshot::SnapshotOf;
use super::types::{RaftVote, Types};
use super::{Leadership, Machine, Status};

/// An open group without its machine's type: what peers and the registry need.
pub(super) trait Peer: Send + Sync {
    fn append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> BoxFuture<'_, Result<Appended, String>>;
    fn stream_append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<Types>>,
    ) -> BoxStream<'static, Result<Appended, String>>;
    fn vote(
        &self,
        request: VoteRequest<Types>,
    ) -> BoxFuture<'_, Result<VoteResponse<Types>, String>>;
    fn pre_vote(
        &self,
        request: VoteRequest<Types>,
    ) -> BoxFuture<'_, Result<VoteResponse<Types>, String>>;
    /// Whether `take_over` would not be refused.
    fn may_take_over(&self) -> bool;
    fn take_over(
        &self,
        request: TransferLeaderRequest<Types>,
    ) -> BoxFuture<'_, Result<bool, String>>;
    fn install_snapshot(
        &self,
        vote: RaftVote,
        snapshot: SnapshotOf,
    ) -> BoxFuture<'_, Result<RaftVote, String>>;
    fn hand_over(&self, to: u64) -> BoxFuture<'_, Result<(), String>>;
    /// Campaigns as one to whom leadership is handed over: voters that have a leader grant it too.
    fn campaign(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Campaigns if a majority says that it would vote for this node.
    fn elect(&self) -> BoxFuture<'_, Result<(), String>>;
    /// The request by which this node would ask for votes now.
    fn pre_vote_request(&self) -> VoteRequest<Types>;
    /// Whether the group may stand for election here.
    fn let_stand(&self, may: bool);
    fn let_lead(&self, may: bool);
    /// For a replica that needs one which covers `index`.
    fn checkpoint_for(&self, index: u64) -> BoxFuture<'_, io::Result<GroupCheckpoint>>;
    fn status(&self) -> Status;
    fn leadership(&self) -> watch::Receiver<Leadership>;
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

impl<M: Machine> Peer for Inner<M> {
    fn append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> BoxFuture<'_, Result<Appended, String>> {
        use openraft::raft::{AppendEntriesResponse as Answer, StreamAppendError as Refusal};
        Box::pin(async move {
            let previous = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(previous);
            let answer = self.raft.append_entries(request).await.map_err(|e| e.to_string())?;
            Ok(match answer {
                Answer::Success => Ok(last),
                Answer::PartialSuccess(id) => Ok(id),
                Answer::HigherVote(vote) => Err(Refusal::HigherVote(vote)),
                Answer::Conflict => {
                    Err(Refusal::Conflict(previous.ok_or("a conflict before the first entry")?))
                }
            })
        })
    }

    fn stream_append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<Types>>,
    ) -> BoxStream<'static, Result<Appended, String>> {
        let answers = self.raft.stream_append(requests);
        Box::pin(answers.map(|answer| answer.map_err(|fatal| fatal.to_string())))
    }

    fn vote(
        &self,
        request: VoteRequest<Types>,
    ) -> BoxFuture<'_, Result<VoteResponse<Types>, String>> {
        Box::pin(async move { self.raft.vote(request).await.map_err(|e| e.to_string()) })
    }

    fn pre_vote(
        &self,
        request: VoteRequest<Types>,
    ) -> BoxFuture<'_, Result<VoteResponse<Types>, String>> {
        Box::pin(async move { self.raft.pre_vote(request).await.map_err(|e| e.to_string()) })
    }

    fn let_stand(&self, may: bool) {
        self.raft.runtime_config().elect(may);
    }

    /// openraft has no way to resign but to name a successor: a leader that sends nothing is replaced, too.
    fn let_lead(&self, may: bool) {
        self.raft.runtime_config().heartbeat(may);
        let resigned = self.resigns.swap(!may, atomic::Ordering::Relaxed);
        if !may && !resigned {
            tracing::info!(group = %self.id, "does not lead on where it leads: it cannot read what it may have to send");
        }
    }

    fn checkpoint_for(&self, index: u64) -> BoxFuture<'_, io::Result<GroupCheckpoint>> {
        Box::pin(self.checkpoint_that_covers(index))
    }

    fn may_take_over(&self) -> bool {
        !self.log.is_damaged()
    }

    fn take_over(
        &self,
        request: TransferLeaderRequest<Types>,
    ) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async move {
            if !self.may_take_over() {
                return Ok(false);
            }
            let answer = self.raft.handle_transfer_leader(request).await;
            answer.map(|answer| answer.is_ok()).map_err(|e| e.to_string())
        })
    }

    fn install_snapshot(
        &self,
        vote: RaftVote,
        snapshot: SnapshotOf,
    ) -> BoxFuture<'_, Result<RaftVote, String>> {
        Box::pin(async move {
            let answer = self.raft.install_full_snapshot(vote, snapshot).await;
            answer.map(|answer| answer.vote).map_err(|e| e.to_string())
        })
    }

    fn hand_over(&self, to: u64) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(
            async move { self.raft.trigger().transfer_leader(to).await.map_err(|e| e.to_string()) },
        )
    }

    fn campaign(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.check_may_stand()?;
            let vote = self.raft.server_metrics().borrow_watched().vote;
            let request = TransferLeaderRequest::new(vote, self.me.0, None);
            let answer = self.raft.handle_transfer_leader(request).await;
            answer.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        })
    }

    fn elect(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.check_may_stand()?;
            self.raft.trigger().elect(true).await.map_err(|e| e.to_string())
        })
    }

    fn pre_vote_request(&self) -> VoteRequest<Types> {
        let last = self.log.state().last.map(convert::log_id);
        let term = self.raft.server_metrics().borrow_watched().vote.leader_id().term;
        VoteRequest::new(RaftVote::new(term + 1, self.me.0), last)
    }

    fn status(&self) -> Status {
        Inner::status(self)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            tracing::debug!(group = %self.id, "closing");
            self.closing.cancel();
            if let Err(error) = self.raft.shutdown().await {
                tracing::warn!(group = %self.id, %error, "group did not end cleanly");
            }
        })
    }
}

pub(super) fn transfer_request(
    from: RaftVote,
    to: u64,
    last: Option<super::types::RaftLogId>,
) -> TransferLeaderRequest<Types> {
    TransferLeaderRequest::new(from, to, last)
}
