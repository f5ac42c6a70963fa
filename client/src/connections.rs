//! One gRPC channel per node, opened when first used and kept.
//!
//! Owns the addresses: those the caller gave, and those that nodes told of. Must not know which node
//! leads what.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tristream_proto::domain::{NodeId, limits};
use tristream_proto::wire;
use tristream_proto::wire::tristream_client::TristreamClient;

use crate::connector::Connector;
use crate::error::Error;
use crate::options::Options;

/// A node that is silent for an interval is asked for a sign of life; without one the connection is
/// dropped, so that a call to a node that is cut off does not wait for its whole deadline.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 window: a few of the largest requests in flight.
const WINDOW_BYTES: u32 = 16 << 20;
/// Channels kept at most. A cluster has three nodes; a caller may name them in several ways.
const CHANNELS_MAX: usize = 64;

/// A client stub on a shared channel.
pub(crate) type Stub = TristreamClient<Channel>;

pub(crate) struct Connections {
    connect_timeout: Duration,
    connector: Option<Connector>,
    given: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    channels: HashMap<String, Channel>,
    nodes: BTreeMap<NodeId, String>,
    /// Where the next call to any node begins in `addresses`: the one that answered last.
    first: usize,
}

impl Connections {
    /// Checks the addresses (`host:port`, or a URL with `http://`); connects to none.
    pub(crate) fn new(given: Vec<String>, options: &Options) -> Result<Self, Error> {
        let given: Vec<String> = given
            .into_iter()
            .map(|address| address.trim().trim_start_matches("http://").to_owned())
            .collect();
        if given.is_empty() {
            return Err(Error::Invalid("no address of any node was given".to_owned()));
        }
        let connections = Connections {
            connect_timeout: options.connect_timeout,
            connector: options.connector.clone(),
            given,
            state: Mutex::new(State::default()),
        };
        for address in &connections.given {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() || connections.endpoint(address).is_err() {
                return Err(Error::Invalid(format!("{address:?} is not host:port")));
            }
        }
        Ok(connections)
    }

    /// Notes where the nodes of the cluster are.
    pub(crate) fn learn(&self, nodes: &[wire::NodeAddress]) {
        let mut state = self.state.lock();
        for node in nodes.iter().filter(|node| !node.peer.is_empty()) {
            state.nodes.insert(NodeId(node.node), node.peer.clone());
        }
    }

    /// The node of this id, when its address is known.
    pub(crate) fn node(&self, node: NodeId) -> Option<Stub> {
        let address = self.state.lock().nodes.get(&node).cloned()?;
        self.stub(&address).ok()
    }

    /// Every address known, the one that answered last first.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut all = self.all(&state);
        let first = state.first % all.len();
        all.rotate_left(first);
        all
    }

    /// The node at `address` answered: ask it first from now on.
    pub(crate) fn prefer(&self, address: &str) {
        let mut state = self.state.lock();
        if let Some(at) = self.all(&state).iter().position(|known| known == address) {
            state.first = at;
        }
    }

    /// The node that is asked first knows too little: begin with the next one.
    pub(crate) fn prefer_another(&self) {
        let mut state = self.state.lock();
        state.first = (state.first + 1) % self.all(&state).len();
    }

    fn all(&self, state: &State) -> Vec<String> {
        let mut all = self.given.clone();
        for address in state.nodes.values() {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    /// A stub for `address`, on the channel all calls to it share.
    pub(crate) fn stub(&self, address: &str) -> Result<Stub, Error> {
        let mut state = self.state.lock();
        let channel = match state.channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                if state.channels.len() >= CHANNELS_MAX {
                    state.channels.clear();
                }
                let endpoint = self.endpoint(address)?;
                let channel = match &self.connector {
                    Some(connector) => connector.channel(&endpoint, address),
                    None => endpoint.connect_lazy(),
                };
                state.channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(TristreamClient::new(channel)
            .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX))
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| Error::Invalid(format!("{address:?} is not host:port")))?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES.saturating_mul(2))
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(given: &[&str]) -> Result<Connections, Error> {
        Connections::new(given.iter().map(|s| s.to_string()).collect(), &Options::default())
    }

    #[test]
    fn addresses_are_checked() {
        assert!(connections(&["127.0.0.1:5567", "http://localhost:1", "[::1]:7"]).is_ok());
        for bad in [&[][..], &["localhost"], &["host:port"], &["a b:1"], &["host:70000"]] {
            assert!(matches!(connections(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn nodes_learnt_are_asked_too_and_the_one_that_answered_comes_first() {
        let connections = connections(&["a:1", "b:1"]).expect("valid");
        let node = |node, peer: &str| wire::NodeAddress {
            node,
            peer: peer.to_owned(),
            ..Default::default()
        };
        connections.learn(&[node(1, "b:1"), node(2, "c:1"), node(3, "")]);
        assert_eq!(connections.addresses(), ["a:1", "b:1", "c:1"]);
        connections.prefer("c:1");
        assert_eq!(connections.addresses(), ["c:1", "a:1", "b:1"]);
        connections.prefer("unknown:1");
        assert_eq!(connections.addresses(), ["c:1", "a:1", "b:1"]);
        connections.prefer_another();
        assert_eq!(connections.addresses(), ["a:1", "b:1", "c:1"]);
    }
}
