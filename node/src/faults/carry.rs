//! A connection to or from a peer, with the faults between its two ends.
//!
//! What the node writes goes through a pipe in memory and on to the network, and the other way round; each piece
//! that is read counts as a message. Invariants: messages of a connection never overtake each other; a lost message
//! takes its connection with it, for TCP never leaves a hole; the end of a connection is a message too, but waits
//! at most [`END_HELD_MAX`], so that cut connections do not pile up.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Faults, Flow};
use crate::net::{Caller, Stream};
use crate::tasks::Kind;

/// Most bytes of one message.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Messages of one direction that are held up at a time; the next ones wait with whoever sends them.
const MESSAGES_MAX: usize = 64;
/// How long a cut hides that a connection has ended: about as long as its keep-alive would take to find out.
const END_HELD_MAX: Duration = Duration::from_secs(5);

/// One message on its way, and when it arrives.
struct Message {
    due: Instant,
    bytes: BytesMut,
}

/// Puts the faults between a connection and the node. `caller` tells whose it is, from when somebody knows.
pub(super) fn behind_faults(faults: &Faults, outside: Stream, caller: Caller) -> Stream {
    let (inside, handle) = duplex(MESSAGE_BYTES_MAX);
    let (work, known) = (faults.clone(), caller.clone());
    faults.inner.tasks.spawn(Kind::Connection, async move {
        let over = CancellationToken::new();
        let link = Link { faults: work, caller: known, over: over.clone() };
        let (from_peer, to_peer) = split(outside);
        let (from_node, to_node) = split(handle);
        let both = async {
            tokio::join!(
                link.carry(from_node, to_peer, Flow::To),
                link.carry(from_peer, to_node, Flow::From)
            )
        };
        tokio::select! {
            _ = both => {}
            // Dropping both ends tells both sides.
            () = over.cancelled() => {}
        }
    });
    Stream::from_caller(inside, caller)
}

/// Both directions of one connection.
struct Link {
    faults: Faults,
    caller: Caller,
    /// The connection has ended, or a message was lost.
    over: CancellationToken,
}

impl Link {
    /// Carries messages until one side ends, or one is lost; either ends the whole connection.
    async fn carry(&self, from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, flow: Flow) {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        tokio::join!(self.take(from, sender, flow), self.give(messages, to, flow));
        self.over.cancel();
    }

    async fn take(
        &self,
        mut from: impl AsyncRead + Unpin,
        messages: mpsc::Sender<Message>,
        flow: Flow,
    ) {
        loop {
            let mut bytes = BytesMut::with_capacity(MESSAGE_BYTES_MAX);
            match from.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            // Nobody is known to have sent it as long as the connection's first request is not read.
            let toll = match self.caller.zone() {
                Some(zone) => self.faults.toll(zone, flow),
                None => Some(Duration::ZERO),
            };
            let Some(longer) = toll else { return self.over.cancel() };
            let due = Instant::now() + longer;
            if messages.send(Message { due, bytes }).await.is_err() {
                return;
            }
        }
    }

    async fn give(
        &self,
        mut messages: mpsc::Receiver<Message>,
        mut to: impl AsyncWrite + Unpin,
        flow: Flow,
    ) {
        while let Some(Message { due, bytes }) = messages.recv().await {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            self.wait_open(flow).await;
            let written = async {
                to.write_all(&bytes).await?;
                to.flush().await
            };
            if written.await.is_err() {
                return self.over.cancel();
            }
        }
        let _ = timeout(END_HELD_MAX, self.wait_open(flow)).await;
        // The other side may be gone already: then it knows.
        let _ = to.shutdown().await;
    }

    async fn wait_open(&self, flow: Flow) {
        if let Some(zone) = self.caller.zone() {
            self.faults.wait_open(zone, flow).await;
        }
    }
}
