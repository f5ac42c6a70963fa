//! The accept loop: HTTP/1.1 and HTTP/2 with prior knowledge on one plain port.
//!
//! Invariant: at most `connections_max` connections are open; a connection that sends no request,
//! or takes no answer, is closed after a while; when the node stops, requests at work are answered
//! first.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tristream_proto::domain::limits::{HTTP_BODIES_BYTES_MAX, HTTP_BODY_BYTES_MAX};

use super::faults::Desk;
use super::patience::Patience;
use super::service;
use crate::api::Api;
use crate::entropy::Entropy;
use crate::faults::Faults;
use crate::metrics::Metrics;
use crate::net::{Listener, Stream};
use crate::tasks::{Kind, Tasks};

/// What the door bears.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at a time; more wait in the listener's backlog.
    pub connections_max: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams_max: u32,
    /// Kinesis requests at work at a time on the node; one more is told to come later. Bounds what
    /// their answers take.
    pub requests_max: usize,
    /// Bytes of one request body.
    pub body_bytes_max: usize,
    /// Bytes of all request bodies in memory.
    pub bodies_bytes_max: usize,
    /// How long a connection may take for (or rest before) the head of a request.
    pub head_wait: Duration,
    /// How long a body may take.
    pub body_wait: Duration,
    /// How long the other side may take nothing of an answer.
    pub write_wait: Duration,
    /// How long requests at work may go on when the node stops.
    pub drain_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 4_096,
            streams_max: 256,
            requests_max: 1_024,
            body_bytes_max: HTTP_BODY_BYTES_MAX,
            bodies_bytes_max: HTTP_BODIES_BYTES_MAX,
            head_wait: Duration::from_secs(60),
            body_wait: Duration::from_secs(60),
            write_wait: Duration::from_secs(60),
            drain_wait: Duration::from_secs(10),
        }
    }
}

/// What the door gives its requests.
pub struct Door {
    /// The operations, from when the node knows its cluster.
    pub(super) api: watch::Receiver<Option<Arc<Api>>>,
    /// Whether the node serves, or why not.
    pub(super) ready: watch::Receiver<Result<(), String>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) limits: Limits,
    /// Bytes of request bodies that may still be taken in.
    pub(super) bodies: Arc<Semaphore>,
    /// Requests that may still begin to work.
    pub(super) requests: Semaphore,
    /// Where faults may be imposed.
    pub(super) faults: Option<Desk>,
}

/// Spawns what a connection needs, as tasks of the node.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, work: F) {
        // To the end: the connection that owns it decides when it is over.
        self.0.spawn_to_end(Kind::Connection, work);
    }
}

impl Door {
    /// A door. It can be opened before there is an api: Kinesis requests are then told to come
    /// later.
    pub fn new(
        api: watch::Receiver<Option<Arc<Api>>>,
        ready: watch::Receiver<Result<(), String>>,
        metrics: Arc<Metrics>,
        entropy: Arc<dyn Entropy>,
        limits: Limits,
    ) -> Door {
        let bodies = Arc::new(Semaphore::new(limits.bodies_bytes_max));
        let requests = Semaphore::new(limits.requests_max);
        Door { api, ready, metrics, entropy, limits, bodies, requests, faults: None }
    }

    /// Lets faults be imposed: by whoever is on this machine, or shows `token` if there is one.
    pub fn with_faults(self, faults: Faults, token: Option<String>) -> Door {
        Door { faults: Some(Desk::new(faults, token)), ..self }
    }

    /// Serves `listener` until the node stops. Returns at once; `Tasks::shutdown` waits for the
    /// requests at work, for at most `drain_wait`.
    pub fn open(self, listener: Box<dyn Listener>, tasks: &Tasks) {
        let accept = accept_all(Arc::new(self), listener, tasks.clone());
        // Dropped as a whole when the node stops: no connection is accepted after that.
        tasks.spawn(Kind::Door, accept);
    }
}

async fn accept_all(door: Arc<Door>, listener: Box<dyn Listener>, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(door.limits.connections_max));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                tracing::trace!(%from, "connection");
                let work = connection(door.clone(), stream, from, tasks.clone(), slot);
                tasks.spawn_to_end(Kind::Connection, work);
            }
            Err(error) => {
                // Out of file descriptors, or a client that went away at once: neither ends the
                // door.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    door: Arc<Door>,
    stream: Stream,
    from: SocketAddr,
    tasks: Tasks,
    _slot: OwnedSemaphorePermit,
) {
    let limits = door.limits.clone();
    let stop = tasks.stopping();
    let asked = Arc::new(AtomicBool::new(false));
    let seen = asked.clone();
    let service = service_fn(move |request| {
        seen.store(true, Ordering::Relaxed);
        let door = door.clone();
        async move { Ok::<_, Infallible>(service::serve(&door, from.ip(), request).await) }
    });
    let builder = builder(&limits, tasks);
    let io = TokioIo::new(Patience::new(stream, limits.write_wait));
    let mut serving = pin!(builder.serve_connection(io, service));
    // hyper has no limit on the time until it knows the version.
    let mut first_request = pin!(sleep(limits.head_wait));
    let mut waiting = true;
    let mut drain_end: Option<Instant> = None;
    loop {
        tokio::select! {
            done = serving.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = first_request.as_mut(), if waiting => {
                waiting = false;
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = stop.cancelled(), if drain_end.is_none() => {
                serving.as_mut().graceful_shutdown();
                drain_end = Some(Instant::now() + limits.drain_wait);
            }
            () = sleep_until(drain_end.unwrap_or_else(Instant::now)), if drain_end.is_some() => {
                return;
            }
        }
    }
}

fn builder(limits: &Limits, tasks: Tasks) -> auto::Builder<Spawner> {
    /// Flow-control windows: one large body does not stall on round trips, many do not fill the
    /// memory.
    const STREAM_WINDOW_BYTES: u32 = 1 << 20;
    const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
    const PING_EVERY: Duration = Duration::from_secs(20);
    let mut builder = auto::Builder::new(Spawner(tasks));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head_wait);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    builder
}
