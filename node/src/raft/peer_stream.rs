//! A pipelined bidirectional gRPC stream to one peer, shared by all groups: one carries their entries, another,
//! on a connection of its own, their heartbeats.
//!
//! Owns the connection and the sessions on it. Invariants: answers of a session come back in order; at most
//! `IN_FLIGHT_MAX` requests of a session are unanswered, so a slow group never blocks the others; when the
//! connection breaks, every session on it ends with an error. An absent peer costs one connection attempt
//! per `RETRY_AFTER`, however many groups ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Channel;
use tristream_proto::domain::NodeId;
use tristream_proto::domain::limits::GRPC_MESSAGE_BYTES_MAX;
use tristream_proto::wire;
use tristream_proto::wire::raft_client::RaftClient;

use crate::disk::Room;
use crate::tasks::{Kind, Tasks};

/// Requests of one session that may be unanswered.
pub(super) const IN_FLIGHT_MAX: usize = 16;
/// Frames that wait for the connection, of all sessions.
const FRAMES_WAITING_MAX: usize = 64;
/// After a failed attempt to connect, how long further ones fail at once.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long opening the stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Format of the stream, sent in Hello.
pub(super) const FORMAT: u32 = 1;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Appends with entries: a session per group, answered in order.
    Entries,
    /// Appends without: a session per request.
    Beats,
}

/// A stream to one peer; opened when first used, and again after it broke.
pub(super) struct PeerStream {
    lane: Lane,
    peer: NodeId,
    channel: Channel,
    hello: wire::Hello,
    room: Room,
    tasks: Tasks,
    sessions_made: AtomicU64,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    failed_at: Option<Instant>,
}

/// An open stream.
pub(super) struct Connection {
    frames: mpsc::Sender<wire::ReplicateFrame>,
    /// `None` once the stream broke: nobody begins to wait for answers then that cannot come.
    sessions: Mutex<Option<HashMap<u64, mpsc::Sender<wire::AppendAnswer>>>>,
}

/// One group's use of the stream. Its sessions end when it is dropped.
pub(super) struct Session {
    id: u64,
    group: u64,
    pub(super) connection: Arc<Connection>,
    /// Ends when the stream breaks.
    pub(super) answers: mpsc::Receiver<wire::AppendAnswer>,
}

impl PeerStream {
    pub(super) fn new(
        lane: Lane,
        peer: NodeId,
        channel: Channel,
        hello: wire::Hello,
        room: Room,
        tasks: Tasks,
    ) -> Self {
        PeerStream {
            lane,
            peer,
            channel,
            hello,
            room,
            tasks,
            sessions_made: AtomicU64::new(0),
            state: tokio::sync::Mutex::default(),
        }
    }

    /// Begins a session for `group`, opening the stream first where needed.
    pub(super) async fn session(&self, group: u64) -> Result<Session, String> {
        let connection = self.connection().await?;
        let id = self.sessions_made.fetch_add(1, Ordering::Relaxed);
        let (tx, answers) = mpsc::channel(IN_FLIGHT_MAX);
        match &mut *connection.sessions.lock() {
            Some(sessions) => sessions.insert(id, tx),
            None => return Err(format!("the stream to node {} just broke", self.peer)),
        };
        Ok(Session { id, group, connection, answers })
    }

    /// One request and its answer, as a session of its own. Whoever gives up waiting just drops it.
    pub(super) async fn ask(
        &self,
        group: u64,
        append: wire::AppendRequest,
    ) -> Result<wire::AppendAnswer, String> {
        let mut session = self.session(group).await?;
        let broke = || format!("the stream to node {} broke", self.peer);
        let frame = session.frame(append);
        session.connection.permit().await.ok_or_else(broke)?.send(frame);
        session.answers.recv().await.ok_or_else(broke)
    }

    async fn connection(&self) -> Result<Arc<Connection>, String> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection
            && !connection.frames.is_closed()
            && connection.sessions.lock().is_some()
        {
            return Ok(connection.clone());
        }
        state.connection = None;
        if state.failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return Err(format!("node {} was not reachable a moment ago", self.peer));
        }
        match tokio::time::timeout(OPEN_TIMEOUT, self.open()).await {
            Ok(Ok(connection)) => {
                state.failed_at = None;
                state.connection = Some(connection.clone());
                tracing::debug!(peer = %self.peer, lane = ?self.lane, "stream is open");
                Ok(connection)
            }
            Ok(Err(error)) => {
                state.failed_at = Some(Instant::now());
                Err(error)
            }
            Err(_) => {
                state.failed_at = Some(Instant::now());
                Err(format!("node {} did not answer in time", self.peer))
            }
        }
    }

    async fn open(&self) -> Result<Arc<Connection>, String> {
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING_MAX);
        let hello = wire::ReplicateFrame { hello: Some(self.hello.clone()), ..Default::default() };
        // The channel is new and has room.
        frames.try_send(hello).map_err(|error| error.to_string())?;
        let mut client = RaftClient::new(self.channel.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let opened = match self.lane {
            Lane::Entries => client.replicate(outgoing).await,
            Lane::Beats => client.beat(outgoing).await,
        };
        let mut incoming = opened.map_err(|status| status.to_string())?.into_inner();
        let sessions = Mutex::new(Some(HashMap::new()));
        let connection = Arc::new(Connection { frames, sessions });
        let (reader, peer) = (Arc::downgrade(&connection), self.peer);
        let room = self.room.clone();
        self.tasks.spawn(Kind::PeerStream, async move {
            while let Some(answer) = incoming.next().await {
                let Some(connection) = reader.upgrade() else { return };
                match answer {
                    Ok(answer) => {
                        room.heard(peer, answer.storage_full);
                        connection.deliver(answer);
                    }
                    Err(status) => {
                        tracing::debug!(%peer, %status, "a stream broke");
                        break;
                    }
                }
            }
            if let Some(connection) = reader.upgrade() {
                *connection.sessions.lock() = None;
            }
            // Dropping `incoming` ends the call, which closes `frames`: the next session opens a new one.
        });
        Ok(connection)
    }
}

impl Connection {
    /// Waits for room on the stream; `None` when it broke.
    pub(super) async fn permit(&self) -> Option<mpsc::Permit<'_, wire::ReplicateFrame>> {
        self.frames.reserve().await.ok()
    }

    /// Hands an answer to its session. The session has room for as many as it may have in flight; one that
    /// has not is broken, or gone.
    fn deliver(&self, answer: wire::ReplicateAnswer) {
        let mut sessions = self.sessions.lock();
        let Some(sessions) = &mut *sessions else { return };
        if let Some(session) = sessions.get(&answer.session)
            && session.try_send(answer.append.unwrap_or_default()).is_err()
        {
            sessions.remove(&answer.session);
        }
    }
}

impl Session {
    /// The frame of one request.
    pub(super) fn frame(&self, append: wire::AppendRequest) -> wire::ReplicateFrame {
        wire::ReplicateFrame {
            hello: None,
            group: self.group,
            session: self.id,
            append: Some(append),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(sessions) = &mut *self.connection.sessions.lock() {
            sessions.remove(&self.id);
        }
    }
}
