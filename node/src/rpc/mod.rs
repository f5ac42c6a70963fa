//! The inner door: gRPC for peers and native clients.
//!
//! Owns the translation between wire messages and domain words. Must not decide anything. The door is open
//! before the floors below exist: until their slot is filled, a service answers UNAVAILABLE.

pub mod client_service;
mod gate;
pub mod peer_service;
pub mod raft_service;
pub mod status;

use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::Server;
use tower::util::option_layer;
use tristream_proto::domain::limits::GRPC_MESSAGE_BYTES_MAX;
use tristream_proto::wire::raft_server::RaftServer;

use crate::faults::Faults;
use crate::founding::SelfPortrait;
use crate::net::{Listener, Stream};
use crate::raft::Inbound;
use crate::router::Router;
use crate::tasks::{Kind, Tasks};
use crate::world::World;

pub use client_service::ClientService;
pub use peer_service::PeerService;
pub use raft_service::RaftService;

/// HTTP/2 window of a connection: a few replication messages in flight.
const WINDOW_BYTES: u32 = 16 << 20;

/// After a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Where the floors below are put once they exist.
pub struct Slots {
    /// For Raft's service.
    pub inbound: watch::Sender<Option<Inbound>>,
    /// For peers and clients.
    pub router: watch::Sender<Option<Router>>,
}

/// The services of the door.
pub struct Services {
    raft: RaftService,
    peer: PeerService,
    client: ClientService,
}

/// The services, and the slots that they wait for.
pub fn services(
    portrait: SelfPortrait,
    put_deadline: Duration,
    world: &World,
    tasks: &Tasks,
) -> (Services, Slots) {
    let (inbound, inbound_rx) = watch::channel(None);
    let (router, router_rx) = watch::channel(None);
    let services = Services {
        raft: RaftService::new(inbound_rx),
        peer: PeerService::new(portrait, router_rx.clone()),
        client: ClientService::new(router_rx, tasks.clone(), world.clock.clone(), put_deadline),
    };
    (services, Slots { inbound, router })
}

/// Serves until the node stops; behind `faults`, where they are allowed.
pub fn serve(
    listener: Box<dyn Listener>,
    services: Services,
    faults: Option<Faults>,
    tasks: &Tasks,
) {
    let Services { raft, peer, client } = services;
    let raft = RaftServer::new(raft)
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2)
        .layer(option_layer(faults.map(gate::Gate::new)))
        .add_service(raft)
        .add_service(peer.into_server())
        .add_service(client.into_server());
    let incoming = futures::stream::unfold(listener, |listener| async move {
        Some((accept(&*listener).await, listener))
    });
    let (stopping, failing) = (tasks.stopping(), tasks.clone());
    tasks.spawn(Kind::Door, async move {
        let served = server.serve_with_incoming_shutdown(incoming, stopping.cancelled_owned());
        if let Err(error) = served.await {
            failing.failed(Kind::Door, error);
        }
    });
}

/// The next connection. An error (out of file descriptors, say) must not end the door: it waits a little
/// and goes on.
async fn accept(listener: &dyn Listener) -> std::io::Result<Stream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Ok(stream),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
