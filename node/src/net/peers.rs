//! gRPC channels to the other nodes, made when first used and kept.
//!
//! Each peer has three connections, so that bulk never delays heartbeats and neither waits for
//! requests. Must not know the services that run over them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tristream_proto::domain::NodeId;

use super::{Net, caller};
use crate::roster::Roster;

/// A connection is given up when it does not open within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A peer that is silent for an interval is asked for a sign of life, and dropped without one.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 window of a bulk connection: a few replication messages in flight.
const BULK_WINDOW_BYTES: u32 = 16 << 20;

/// Channels to every other node.
#[derive(Clone)]
pub struct Peers {
    channels: Arc<BTreeMap<NodeId, Lanes>>,
    net: Arc<dyn Net>,
}

struct Lanes {
    address: String,
    control: Channel,
    bulk: Channel,
    requests: Channel,
}

impl Peers {
    /// Channels to the others of `roster`; nothing is connected yet.
    pub fn new(net: &Arc<dyn Net>, roster: &Roster) -> anyhow::Result<Peers> {
        let zone = roster.get(roster.me).map_or("", |me| me.az.as_str());
        let lanes = |address: &str| -> anyhow::Result<Lanes> {
            Ok(Lanes {
                address: address.to_owned(),
                control: peer_channel(net, zone, address, 1 << 20)?,
                bulk: peer_channel(net, zone, address, BULK_WINDOW_BYTES)?,
                requests: peer_channel(net, zone, address, BULK_WINDOW_BYTES)?,
            })
        };
        let channels = roster
            .others()
            .map(|member| Ok((member.node, lanes(&member.peer)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Peers { channels: Arc::new(channels), net: net.clone() })
    }

    /// Whether nobody can be connected to at the node's address: refused, no route, no such name. A timeout
    /// proves nothing: the network may be cut.
    pub async fn refuses_connections(&self, node: NodeId) -> bool {
        let Some(lanes) = self.channels.get(&node) else { return false };
        let attempt = timeout(CONNECT_TIMEOUT, self.net.connect(&lanes.address)).await;
        matches!(attempt, Ok(Err(_)))
    }

    /// For heartbeats and votes.
    pub fn control(&self, node: NodeId) -> Option<Channel> {
        self.channels.get(&node).map(|lanes| lanes.control.clone())
    }

    /// For replication.
    pub fn bulk(&self, node: NodeId) -> Option<Channel> {
        self.channels.get(&node).map(|lanes| lanes.bulk.clone())
    }

    /// For forwarded requests.
    pub fn requests(&self, node: NodeId) -> Option<Channel> {
        self.channels.get(&node).map(|lanes| lanes.requests.clone())
    }
}

/// A lazy channel to `address` over `net`.
pub fn channel(net: &Arc<dyn Net>, address: &str, window_bytes: u32) -> anyhow::Result<Channel> {
    Ok(lazy(net, address, window_bytes, endpoint(address)?))
}

/// The same, by which the node at `address` knows that the one in `zone` calls.
pub fn peer_channel(
    net: &Arc<dyn Net>,
    zone: &str,
    address: &str,
    window_bytes: u32,
) -> anyhow::Result<Channel> {
    let endpoint = endpoint(address)?;
    // A zone whose name no header can carry goes unnamed.
    let endpoint = endpoint.clone().user_agent(caller::agent(zone)).unwrap_or(endpoint);
    Ok(lazy(net, address, window_bytes, endpoint))
}

fn endpoint(address: &str) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?)
}

fn lazy(net: &Arc<dyn Net>, address: &str, window_bytes: u32, endpoint: Endpoint) -> Channel {
    let endpoint = endpoint
        .initial_stream_window_size(window_bytes)
        .initial_connection_window_size(window_bytes.saturating_mul(2))
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let (net, address) = (net.clone(), address.to_owned());
    let connector = tower::service_fn(move |_| {
        let (net, address) = (net.clone(), address.clone());
        async move {
            // Timed here and not by the endpoint, so that tonic reports it as the `ConnectError`
            // that it is: callers must be able to tell that nothing was sent.
            let connected = timeout(CONNECT_TIMEOUT, net.connect(&address)).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
        }
    });
    endpoint.connect_with_connector_lazy(connector)
}
