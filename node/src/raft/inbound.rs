//! What peers ask of the groups here: the receiving end of the peer streams, heartbeats and votes.
//!
//! Owns the demultiplexing of one peer's stream into its sessions. Invariant: frames of another cluster are
//! refused before they reach a group; a group that is not open here answers "unreachable" and nothing else
//! changes. Must not know tonic's services: `rpc` calls this.

use std::collections::HashMap;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tristream_proto::domain::{GroupId, NodeId};
use tristream_proto::wire;

use super::groups::Groups;
use super::peer_stream::{FORMAT, IN_FLIGHT_MAX};
use super::snapshot::{SnapshotMetaOf, SnapshotOf};
use super::types::Types;
use super::{convert, liveness, overtaken, peer, repair};
use crate::tasks::Kind;

/// Answers of all sessions of one stream that wait to be sent.
const ANSWERS_WAITING_MAX: usize = 256;

/// Heartbeats of one stream at work at a time; the next ones wait on the wire.
const BEATS_MAX: usize = 1_024;

/// A peer's frames as they come in.
pub trait Frames:
    Stream<Item = Result<wire::ReplicateFrame, Status>> + Send + Unpin + 'static
{
}
impl<T> Frames for T where
    T: Stream<Item = Result<wire::ReplicateFrame, Status>> + Send + Unpin + 'static
{
}

type Answers = mpsc::Sender<Result<wire::ReplicateAnswer, Status>>;
type Request = openraft::raft::AppendEntriesRequest<Types>;

/// The groups as peers reach them. Clones are handles.
#[derive(Clone)]
pub struct Inbound {
    groups: Groups,
    cluster: String,
}

impl Inbound {
    /// Serves `groups` to peers of `cluster`.
    pub fn new(groups: Groups, cluster: String) -> Inbound {
        Inbound { groups, cluster }
    }

    /// Serves one peer's stream of entries until it ends.
    pub async fn replicate(
        &self,
        mut frames: impl Frames,
    ) -> Result<ReceiverStream<Result<wire::ReplicateAnswer, Status>>, Status> {
        let (answers, out) = mpsc::channel(ANSWERS_WAITING_MAX);
        let inbound = self.clone();
        self.groups.tasks().spawn(Kind::Connection, async move {
            let Some(hello) = inbound.welcome(&mut frames, &answers).await else { return };
            let groups = inbound.groups.clone();
            let mut sessions = Sessions { inbound, answers, open: HashMap::new() };
            while let Some(Ok(frame)) = frames.next().await {
                sessions.take(frame).await;
            }
            liveness::suspect(&groups, NodeId(hello.node));
        });
        Ok(ReceiverStream::new(out))
    }

    /// Serves one peer's stream of appends without entries until it ends.
    pub async fn beat(
        &self,
        mut frames: impl Frames,
    ) -> Result<ReceiverStream<Result<wire::ReplicateAnswer, Status>>, Status> {
        let (answers, out) = mpsc::channel(ANSWERS_WAITING_MAX);
        let inbound = self.clone();
        self.groups.tasks().spawn(Kind::Connection, async move {
            let Some(hello) = inbound.welcome(&mut frames, &answers).await else { return };
            // A group that waits for its disk must not hold up the others' answers.
            let mut asked = FuturesUnordered::new();
            loop {
                tokio::select! {
                    biased;
                    Some(answer) = asked.next() => {
                        // A peer that is gone does not need the answer.
                        let _ = answers.send(Ok(answer)).await;
                    }
                    frame = frames.next(), if asked.len() < BEATS_MAX => match frame {
                        Some(Ok(frame)) => asked.push(inbound.answer_beat(frame)),
                        _ => break,
                    },
                }
            }
            liveness::suspect(&inbound.groups, NodeId(hello.node));
        });
        Ok(ReceiverStream::new(out))
    }

    async fn answer_beat(&self, frame: wire::ReplicateFrame) -> wire::ReplicateAnswer {
        let (group, session) = (frame.group, frame.session);
        let answer = async {
            let request = convert::from_wire_append(frame.append.unwrap_or_default());
            let request = request.map_err(|error| error.to_string())?;
            let group = self.group(group).map_err(|status| status.message().to_owned())?;
            group.append(request).await
        };
        let append = match answer.await {
            Ok(appended) => convert::to_wire_appended(&appended),
            Err(why) => unreachable_answer(&why),
        };
        self.answer(group, session, append)
    }

    /// An answer of this node: with it goes what peers must know of its disk.
    fn answer(
        &self,
        group: u64,
        session: u64,
        append: wire::AppendAnswer,
    ) -> wire::ReplicateAnswer {
        let storage_full = self.groups.room().is_low();
        wire::ReplicateAnswer { group, session, append: Some(append), storage_full }
    }

    /// Reads the Hello that begins a stream; `None` when the peer was refused.
    async fn welcome(&self, frames: &mut impl Frames, answers: &Answers) -> Option<wire::Hello> {
        let refused = match frames.next().await {
            Some(Ok(wire::ReplicateFrame { hello: Some(hello), .. })) => {
                match self.check_hello(&hello) {
                    Ok(()) => return Some(hello),
                    Err(status) => status,
                }
            }
            _ => Status::invalid_argument("no Hello"),
        };
        tracing::warn!(status = %refused, "refused a stream");
        // A peer that is gone does not need the answer.
        let _ = answers.send(Err(refused)).await;
        None
    }

    fn check_hello(&self, hello: &wire::Hello) -> Result<(), Status> {
        self.check_cluster(&hello.cluster)?;
        if hello.format != FORMAT {
            let why = format!("replication format {} is not known here", hello.format);
            return Err(Status::failed_precondition(why));
        }
        Ok(())
    }

    fn check_cluster(&self, cluster: &str) -> Result<(), Status> {
        if cluster != self.cluster {
            let why = format!("this node belongs to cluster {}, not {cluster}", self.cluster);
            return Err(Status::failed_precondition(why));
        }
        Ok(())
    }

    fn group(&self, id: u64) -> Result<std::sync::Arc<dyn peer::Peer>, Status> {
        let group = self.groups.peer(GroupId(id));
        group.ok_or_else(|| Status::not_found(format!("group {id} is not open here")))
    }

    /// A candidate asks for a vote.
    pub async fn vote(&self, message: wire::GroupVote) -> Result<wire::VoteAnswer, Status> {
        self.check_cluster(&message.cluster)?;
        let request = convert::from_wire_vote_request(&message).map_err(bad)?;
        let answer = self.group(message.group)?.vote(request).await.map_err(Status::unavailable)?;
        Ok(convert::to_wire_vote_answer(&answer))
    }

    /// Somebody asks whether it would get a vote.
    pub async fn pre_vote(&self, message: wire::GroupVote) -> Result<wire::VoteAnswer, Status> {
        self.check_cluster(&message.cluster)?;
        let request = convert::from_wire_vote_request(&message).map_err(bad)?;
        let group = self.group(message.group)?;
        let answer = group.pre_vote(request).await.map_err(Status::unavailable)?;
        Ok(convert::to_wire_vote_answer(&answer))
    }

    /// A leader hands its group over, or asks whether it could.
    pub async fn transfer_leader(
        &self,
        message: wire::GroupTransfer,
    ) -> Result<wire::TransferAnswer, Status> {
        self.check_cluster(&message.cluster)?;
        if message.only_asks {
            let accepted = self.group(message.group)?.may_take_over();
            return Ok(wire::TransferAnswer { accepted });
        }
        let from = convert::required_vote(message.from.as_ref()).map_err(bad)?;
        let last = message.last.as_ref().map(convert::from_wire_id);
        let request = peer::transfer_request(from, message.to, last);
        let group = self.group(message.group)?;
        let accepted = group.take_over(request).await.map_err(Status::unavailable)?;
        Ok(wire::TransferAnswer { accepted })
    }
}

impl Inbound {
    /// A leader sends a checkpoint, for it has purged what this replica lacks.
    pub async fn install_snapshot(
        &self,
        message: wire::GroupSnapshot,
    ) -> Result<wire::SnapshotAnswer, Status> {
        self.check_cluster(&message.cluster)?;
        let vote = convert::required_vote(message.vote.as_ref()).map_err(bad)?;
        let last = message.last.as_ref().map(convert::from_wire_id);
        let last = last.ok_or_else(|| Status::invalid_argument("a snapshot of no entry"))?;
        // Nothing that cannot be read is let near the group.
        let (last_membership, _) =
            convert::decode_checkpoint(message.state.clone()).map_err(bad)?;
        let meta = SnapshotMetaOf { last_log_id: Some(last), last_membership };
        let snapshot = SnapshotOf { meta, snapshot: message.state };
        let group = self.group(message.group)?;
        let vote = group.install_snapshot(vote, snapshot).await.map_err(Status::unavailable)?;
        Ok(wire::SnapshotAnswer { vote: Some(convert::to_wire_vote(&vote)) })
    }
}

impl Inbound {
    /// A replica's disk has damaged entries that may be intact here.
    pub async fn fetch_entries(
        &self,
        message: wire::GroupIndexes,
    ) -> Result<wire::GroupEntries, Status> {
        self.check_cluster(&message.cluster)?;
        if message.indexes.len() > repair::ENTRIES_MAX {
            return Err(Status::invalid_argument("too many entries asked at once"));
        }
        // Of the log and not of the group: it may not be open yet, for want of an entry of ours.
        let log = self.groups.log(GroupId(message.group));
        Ok(repair::serve(&log, &message.indexes).await)
    }

    /// A replica cannot go on from its own log.
    pub async fn fetch_checkpoint(
        &self,
        message: wire::GroupPosition,
    ) -> Result<wire::GroupCheckpoint, Status> {
        self.check_cluster(&message.cluster)?;
        let id = GroupId(message.group);
        let found = match self.groups.peer(id) {
            Some(group) => group.checkpoint_for(message.index).await,
            // Nothing but the purge point tells what is trimmed.
            None => overtaken::serve(&self.groups.log(id), None, message.index).await,
        };
        found.map_err(|error| Status::unavailable(error.to_string()))
    }
}

fn bad(error: std::io::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The sessions of one stream: at most one a group, the newest.
struct Sessions {
    inbound: Inbound,
    answers: Answers,
    open: HashMap<u64, (u64, mpsc::Sender<Request>)>,
}

impl Sessions {
    async fn take(&mut self, frame: wire::ReplicateFrame) {
        let (group, session) = (frame.group, frame.session);
        let request = match convert::from_wire_append(frame.append.unwrap_or_default()) {
            Ok(request) => request,
            Err(error) => return self.unreachable(group, session, error).await,
        };
        let open = self.open.get(&group).filter(|(id, _)| *id == session);
        let requests = match open {
            Some((_, requests)) => requests.clone(),
            None => match self.begin(group, session) {
                Ok(requests) => requests,
                Err(status) => return self.unreachable(group, session, status.message()).await,
            },
        };
        // Has room: the peer keeps no more than IN_FLIGHT_MAX requests unanswered.
        if requests.send(request).await.is_err() {
            self.open.remove(&group);
            self.unreachable(group, session, "the group has stopped here").await;
        }
    }

    fn begin(&mut self, group: u64, session: u64) -> Result<mpsc::Sender<Request>, Status> {
        // A session outlives its group by what the map holds of it, and with it openraft's side of the
        // stream: groups come and go, so those of groups that are gone are let go here.
        let groups = &self.inbound.groups;
        self.open.retain(|group, _| groups.peer(GroupId(*group)).is_some());
        let peer = self.inbound.group(group)?;
        let (tx, rx) = mpsc::channel(IN_FLIGHT_MAX);
        let mut appended = peer.stream_append(Box::pin(ReceiverStream::new(rx)));
        let (answers, inbound) = (self.answers.clone(), self.inbound.clone());
        self.inbound.groups.tasks().spawn(Kind::Connection, async move {
            while let Some(outcome) = appended.next().await {
                let answer = match &outcome {
                    Ok(appended) => convert::to_wire_appended(appended),
                    Err(reason) => unreachable_answer(reason),
                };
                let answer = inbound.answer(group, session, answer);
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        self.open.insert(group, (session, tx.clone()));
        Ok(tx)
    }

    async fn unreachable(&self, group: u64, session: u64, why: impl std::fmt::Display) {
        let append = unreachable_answer(&why.to_string());
        let answer = self.inbound.answer(group, session, append);
        // A peer that is gone does not need the answer.
        let _ = self.answers.send(Ok(answer)).await;
    }
}

fn unreachable_answer(why: &str) -> wire::AppendAnswer {
    wire::AppendAnswer {
        result: wire::append_answer::Result::Unreachable.into(),
        message: why.to_owned(),
        ..Default::default()
    }
}
