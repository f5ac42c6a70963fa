//! A connection against a peer that only counts what arrives on which way.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tristream_proto::wire::raft_server::{Raft, RaftServer};

use super::*;
use crate::log::{Entry, EntryId, EntryKind};
use crate::net::{Net, TcpNet};
use crate::roster::Member;

#[derive(Clone, Default)]
struct Seen {
    heartbeats: Arc<Mutex<u32>>,
    sessions: Arc<Mutex<BTreeSet<u64>>>,
}

fn success(last: Option<wire::LogId>) -> wire::AppendAnswer {
    let last = last.as_ref().map(convert::from_wire_id);
    convert::to_wire_appended(&Ok(last))
}

#[tonic::async_trait]
impl Raft for Seen {
    type ReplicateStream = ReceiverStream<Result<wire::ReplicateAnswer, Status>>;
    type BeatStream = ReceiverStream<Result<wire::ReplicateAnswer, Status>>;

    #[allow(clippy::disallowed_methods)]
    async fn replicate(
        &self,
        request: Request<Streaming<wire::ReplicateFrame>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let (answers, out) = mpsc::channel(16);
        let (seen, mut frames) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(frame)) = frames.next().await {
                if frame.hello.is_some() {
                    continue;
                }
                let (group, session) = (frame.group, frame.session);
                seen.sessions.lock().insert(session);
                let append = convert::from_wire_append(frame.append.unwrap_or_default());
                let last = append.expect("an append").entries.last().map(|entry| entry.log_id);
                let append = Some(success(last.as_ref().map(convert::to_wire_id)));
                let _ = answers
                    .send(Ok(wire::ReplicateAnswer {
                        group,
                        session,
                        append,
                        ..Default::default()
                    }))
                    .await;
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }

    #[allow(clippy::disallowed_methods)]
    async fn beat(
        &self,
        request: Request<Streaming<wire::ReplicateFrame>>,
    ) -> Result<Response<Self::BeatStream>, Status> {
        let (answers, out) = mpsc::channel(16);
        let (seen, mut frames) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(frame)) = frames.next().await {
                if frame.hello.is_some() {
                    continue;
                }
                *seen.heartbeats.lock() += 1;
                let (group, session, append) = (frame.group, frame.session, Some(success(None)));
                let _ = answers
                    .send(Ok(wire::ReplicateAnswer {
                        group,
                        session,
                        append,
                        ..Default::default()
                    }))
                    .await;
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn fetch_entries(
        &self,
        _: Request<wire::GroupIndexes>,
    ) -> Result<Response<wire::GroupEntries>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn fetch_checkpoint(
        &self,
        _: Request<wire::GroupPosition>,
    ) -> Result<Response<wire::GroupCheckpoint>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn install_snapshot(
        &self,
        _: Request<wire::GroupSnapshot>,
    ) -> Result<Response<wire::SnapshotAnswer>, Status> {
        Err(Status::unimplemented("no snapshots here"))
    }

    async fn vote(
        &self,
        _: Request<wire::GroupVote>,
    ) -> Result<Response<wire::VoteAnswer>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn pre_vote(
        &self,
        _: Request<wire::GroupVote>,
    ) -> Result<Response<wire::VoteAnswer>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn transfer_leader(
        &self,
        _: Request<wire::GroupTransfer>,
    ) -> Result<Response<wire::TransferAnswer>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

fn append(index: Option<u64>) -> AppendEntriesRequest<Types> {
    let entry = |index| Entry {
        id: EntryId { term: 1, node: NodeId(1), index },
        kind: EntryKind::Command,
        stamp_ms: 0,
        payload: Bytes::from_static(b"x"),
    };
    let entries = index.map(|index| convert::from_log(entry(index)).expect("an entry"));
    AppendEntriesRequest {
        vote: RaftVote::new_committed(1, 1),
        prev_log_id: None,
        leader_commit: None,
        entries: entries.into_iter().collect(),
    }
}

/// A connection from node 1 to a counting node 2.
#[allow(clippy::disallowed_methods)]
async fn connections(seen: &Seen) -> Factory {
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = door.local_addr().expect("bound").to_string();
    let server = tonic::transport::Server::builder().add_service(RaftServer::new(seen.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(door)));
    let member = |node: u64, peer: &str| Member {
        node: NodeId(node),
        az: format!("az-{node}"),
        peer: peer.to_owned(),
        kinesis: String::new(),
    };
    let roster = Roster {
        cluster: "c".to_owned(),
        me: NodeId(1),
        members: vec![member(1, "127.0.0.1:1"), member(2, &address)],
    };
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let peers = Peers::new(&net, &roster).expect("peers");
    let transport = Transport::new(&peers, &roster, 7, &Room::new(), &Tasks::new());
    Factory { transport: Arc::new(transport), group: GroupId(5) }
}

#[tokio::test]
async fn heartbeats_go_beside_the_stream_and_leave_its_session_alone() {
    let seen = Seen::default();
    let mut factory = connections(&seen).await;
    let mut replication = factory.new_client(2, &()).await;
    let mut heartbeats = factory.new_client(2, &()).await;
    let option = || RPCOption::new(Duration::from_secs(10));

    let (entries, input) = mpsc::channel(4);
    let input = ReceiverStream::new(input);
    let mut answers = replication.stream_append(input, option()).await.expect("a stream");
    for index in 0..3 {
        entries.send(append(Some(index))).await.expect("taken");
        let answer = answers.next().await.expect("an answer").expect("reached");
        let last = answer.expect("appended").expect("an id");
        assert_eq!(convert::entry_id(&last).index, index);
        let once = Box::pin(futures::stream::once(async { append(None) }));
        let mut beats = heartbeats.stream_append(once, option()).await.expect("a stream");
        assert!(matches!(beats.next().await, Some(Ok(Ok(_)))));
        assert!(beats.next().await.is_none());
    }
    assert_eq!(*seen.heartbeats.lock(), 3);
    assert_eq!(seen.sessions.lock().len(), 1, "one session carries the entries");
    drop(entries);
    assert!(answers.next().await.is_none(), "it ends with its input");
}
