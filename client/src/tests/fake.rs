//! A fake cluster: up to three gRPC servers that share one script. It seals and splits when told to,
//! recognises records by their origins, loses answers, and lets nodes fall silent.

mod serving;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tristream_proto::domain::{
    GroupId, HashKey, HashKeyRange, NodeId, Origin, Record, SequenceNumber, Shard, ShardId,
};
use tristream_proto::wire;
use tristream_proto::wire::refusal::Kind;
use tristream_proto::wire::tristream_server::{Tristream, TristreamServer};

use crate::{Client, Options};

pub(super) const CREATION_SECOND: u64 = 1_790_000_000;

/// How long a description waits for a newer map.
const MAP_TIME: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(1);

/// What a node says to a put, instead of storing the records and saying so.
#[derive(Clone, Debug)]
pub(super) enum Says {
    Refusal(wire::Refusal),
    /// The call breaks off.
    Status(tonic::Code),
    /// The records are stored if they may be, and then the call breaks off.
    Lost,
    /// The same, and the shard is sealed before anybody asks again.
    LostAndSealed,
}

/// What a node does with a subscription.
#[derive(Clone, Debug)]
pub(super) enum Feed {
    /// Sends the events and ends the stream.
    ThenEnd(Vec<wire::SubscribeEvent>),
    /// Sends the events and then nothing.
    ThenSilence(Vec<wire::SubscribeEvent>),
}

#[derive(Default)]
pub(super) struct State {
    pub(super) incarnation: u64,
    pub(super) map_version: u64,
    pub(super) shards: Vec<Shard>,
    /// Leader per shard, as descriptions tell it; who is not the leader refuses puts.
    pub(super) leaders: BTreeMap<ShardId, u64>,
    /// Each put takes the first of these, if there is one, whoever is asked.
    pub(super) puts: VecDeque<Says>,
    /// Each subscription takes the first of these.
    pub(super) feeds: VecDeque<Feed>,
    pub(super) stored: BTreeMap<ShardId, Vec<String>>,
    /// (node asked, shard, records) of every put that came in.
    pub(super) asked: Vec<(u64, u32, usize)>,
    pub(super) subscribed: Vec<(u64, Option<wire::subscribe_request::From>)>,
    /// Subscriptions are served what is stored, not feeds.
    pub(super) live: bool,
    pub(super) described: usize,
    /// Take nothing more; their children are not in the map.
    pub(super) sealed: BTreeSet<ShardId>,
    /// What was stored, by origin: children remember it of their parents.
    pub(super) window: BTreeMap<Origin, SequenceNumber>,
    /// Nodes that never answer a put.
    pub(super) paused: BTreeSet<u64>,
    /// Descriptions name no leaders.
    pub(super) leaders_untold: bool,
    pub(super) addresses: BTreeMap<u64, String>,
    puts_running: BTreeMap<u32, usize>,
    pub(super) overlapped: bool,
}

/// The cluster; its servers end with it.
pub(super) struct Fake {
    pub(super) state: Arc<Mutex<State>>,
    servers: BTreeMap<u64, Runtime>,
}

impl Fake {
    /// Three nodes; node 1 leads every shard.
    pub(super) async fn start(shards: u32) -> Fake {
        let mut fake = Fake { state: Arc::default(), servers: BTreeMap::new() };
        {
            let mut state = fake.state.lock();
            (state.incarnation, state.map_version) = (1, 1);
            let ranges = HashKeyRange::uniform(shards);
            state.shards = (0..).zip(ranges).map(|(i, range)| shard(i, range)).collect();
            state.leaders = (0..shards).map(|i| (ShardId::from(i), 1)).collect();
        }
        for node in 1..=3 {
            // A runtime per node: with it end its connections too, as those of a killed process do.
            let server = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.set_nonblocking(true).expect("a socket");
            let address = listener.local_addr().expect("bound").to_string();
            fake.state.lock().addresses.insert(node, address);
            let service = TristreamServer::new(Node { id: node, state: fake.state.clone() });
            server.spawn(async move {
                let listener = TcpListener::from_std(listener).expect("a socket");
                let incoming = TcpListenerStream::new(listener);
                let served =
                    Server::builder().add_service(service).serve_with_incoming(incoming).await;
                served.expect("serves");
            });
            fake.servers.insert(node, server);
        }
        fake
    }

    /// The node's port closes, and its connections.
    pub(super) async fn kill(&mut self, node: u64) {
        let server = self.servers.remove(&node).expect("a running node");
        let end = move || server.shutdown_timeout(Duration::from_secs(10));
        tokio::task::spawn_blocking(end).await.expect("ended");
    }

    pub(super) fn address(&self, node: u64) -> String {
        self.state.lock().addresses[&node].clone()
    }

    /// A client that is told of these nodes only.
    pub(super) fn client(&self, nodes: &[u64], options: Options) -> Client {
        let addresses = nodes.iter().map(|node| self.address(*node));
        Client::connect(addresses, options).expect("good addresses")
    }

    /// The shard takes nothing more.
    pub(super) fn seal(&self, shard: u32) {
        self.state.lock().sealed.insert(ShardId::from(shard));
    }

    /// Publishes a map in which the sealed `parents`, neighbours, have `children` in their place.
    pub(super) fn publish(&self, parents: &[u32], children: u32) {
        let mut state = self.state.lock();
        let mut range: Option<HashKeyRange> = None;
        for &parent in parents {
            let closed = state.shards.iter_mut().find(|shard| shard.id.index() == parent);
            let closed = closed.expect("a parent");
            assert!(closed.is_open(), "closed once");
            closed.closed_second = Some(CREATION_SECOND + 100);
            let first = range.map_or(closed.range.first, |range| range.first);
            range = Some(HashKeyRange { first, last: closed.range.last });
        }
        let (next, range) = (state.shards.len() as u32, range.expect("a parent"));
        let width = (range.last.0 - range.first.0) / u128::from(children);
        for i in 0..children {
            let first = HashKey(range.first.0 + (width + 1) * u128::from(i));
            let last = if i + 1 == children { range.last } else { HashKey(first.0 + width) };
            let parents = parents.iter().map(|&parent| ShardId::from(parent)).collect();
            let child = shard(next + i, HashKeyRange { first, last });
            state.leaders.insert(child.id, u64::from(next + i) % 3 + 1);
            state.shards.push(Shard { parents, ..child });
        }
        state.map_version += 1;
    }

    pub(super) fn stored(&self, shard: u32) -> Vec<String> {
        self.state.lock().stored.get(&ShardId::from(shard)).cloned().unwrap_or_default()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for (_, server) in std::mem::take(&mut self.servers) {
            server.shutdown_background();
        }
    }
}

/// Short waits, and a deadline that only a broken client reaches.
pub(super) fn options() -> Options {
    Options {
        deadline: Duration::from_secs(20),
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(10),
        ..Options::default()
    }
}

pub(super) fn shard(index: u32, range: HashKeyRange) -> Shard {
    Shard {
        id: ShardId::from(index),
        group: GroupId(u64::from(index) + 10),
        range,
        creation_second: CREATION_SECOND,
        parents: vec![],
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        closed_second: None,
    }
}

pub(super) fn refusal(kind: Kind) -> Says {
    Says::Refusal(wire::Refusal { kind: kind.into(), ..Default::default() })
}

pub(super) fn number(shard: u32, counter: u64) -> SequenceNumber {
    let start = SequenceNumber::start_of(ShardId::from(shard), CREATION_SECOND);
    SequenceNumber { counter, ..start }
}

#[derive(Clone)]
struct Node {
    id: u64,
    state: Arc<Mutex<State>>,
}

impl Node {
    fn describe(&self, name: String) -> wire::DescribeStreamResponse {
        let mut state = self.state.lock();
        state.described += 1;
        let shard = |shard: &Shard| wire::Shard {
            leader: match state.leaders_untold {
                true => 0,
                false => state.leaders.get(&shard.id).copied().unwrap_or_default(),
            },
            ..wire::Shard::from(shard)
        };
        let stream = wire::Stream {
            name,
            incarnation: state.incarnation,
            on_demand: false,
            status: wire::StreamStatus::Active.into(),
            created_ms: 1,
            map_version: state.map_version,
            shards: state.shards.iter().map(shard).collect(),
        };
        let address = |(node, peer): (&u64, &String)| wire::NodeAddress {
            node: *node,
            peer: peer.clone(),
            ..Default::default()
        };
        let nodes = state.addresses.iter().map(address).collect();
        wire::DescribeStreamResponse { stream: Some(stream), nodes, refusal: None }
    }

    fn store(&self, request: wire::PutRequest) -> Result<wire::PutResponse, Status> {
        let mut state = self.state.lock();
        state.asked.push((self.id, request.shard_index, request.records.len()));
        let refuse =
            |refusal| Ok(wire::PutResponse { refusal: Some(refusal), ..Default::default() });
        let id = ShardId::from(request.shard_index);
        let says = state.puts.pop_front();
        match &says {
            Some(Says::Refusal(refusal)) => return refuse(refusal.clone()),
            Some(Says::Status(code)) => return Err(Status::new(*code, "told to break off")),
            Some(Says::Lost | Says::LostAndSealed) | None => {}
        }
        let stored = self.store_in(&mut state, id, request);
        match says {
            None => match stored {
                Ok(numbers) => Ok(answer(&numbers)),
                Err(refusal) => refuse(refusal),
            },
            Some(says) => {
                if matches!(says, Says::LostAndSealed) {
                    state.sealed.insert(id);
                }
                Err(Status::unavailable("the answer is lost"))
            }
        }
    }

    /// As a node does: a shard that is open takes what was routed by an older map too.
    fn store_in(
        &self,
        state: &mut State,
        id: ShardId,
        request: wire::PutRequest,
    ) -> Result<Vec<SequenceNumber>, wire::Refusal> {
        let of = |kind: Kind| wire::Refusal { kind: kind.into(), ..Default::default() };
        let stale = |map_version| wire::Refusal { map_version, ..of(Kind::StaleMap) };
        if request.map_version > state.map_version {
            return Err(of(Kind::Unavailable));
        }
        let shard = state.shards.iter().find(|shard| shard.id == id);
        let shard = match shard.filter(|shard| shard.is_open()) {
            Some(shard) if request.incarnation == state.incarnation => shard.clone(),
            _ => return Err(stale(state.map_version)),
        };
        let leader = state.leaders.get(&id).copied().unwrap_or_default();
        if leader != self.id {
            return Err(wire::Refusal { leader, ..of(Kind::NotLeader) });
        }
        if state.sealed.contains(&id) {
            return Err(stale(state.map_version + 1));
        }
        let records: Vec<Record> =
            request.records.into_iter().map(|r| r.try_into().expect("valid")).collect();
        if records.iter().any(|record| !shard.range.contains(record.hash_key())) {
            return Err(stale(state.map_version));
        }
        let mut numbers = vec![];
        for record in records {
            let origin = record.origin.expect("every record says which call it came in with");
            let stored = state.stored.entry(id).or_default();
            let next = number(request.shard_index, stored.len() as u64 + 1);
            let known = *state.window.entry(origin).or_insert(next);
            if known == next {
                stored.push(String::from_utf8_lossy(&record.data).into_owned());
            }
            numbers.push(known);
        }
        Ok(numbers)
    }
}

/// One number where the others follow from it.
fn answer(numbers: &[SequenceNumber]) -> wire::PutResponse {
    let follows = |pair: &[SequenceNumber]| {
        pair[1] == SequenceNumber { counter: pair[0].counter + 1, ..pair[0] }
    };
    if numbers.windows(2).all(follows) {
        let first_sequence_number = numbers[0].to_string();
        return wire::PutResponse { first_sequence_number, ..Default::default() };
    }
    let sequence_numbers = numbers.iter().map(SequenceNumber::to_string).collect();
    wire::PutResponse { sequence_numbers, ..Default::default() }
}

#[tonic::async_trait]
impl Tristream for Node {
    type SubscribeStream = ReceiverStream<Result<wire::SubscribeEvent, Status>>;

    async fn split_shard(
        &self,
        _: Request<wire::SplitShardRequest>,
    ) -> Result<Response<wire::ChangeStreamResponse>, Status> {
        Err(Status::unimplemented("the fake reshards nothing"))
    }

    async fn merge_shards(
        &self,
        _: Request<wire::MergeShardsRequest>,
    ) -> Result<Response<wire::ChangeStreamResponse>, Status> {
        Err(Status::unimplemented("the fake reshards nothing"))
    }

    async fn update_shard_count(
        &self,
        _: Request<wire::UpdateShardCountRequest>,
    ) -> Result<Response<wire::ChangeStreamResponse>, Status> {
        Err(Status::unimplemented("the fake reshards nothing"))
    }

    async fn update_stream_mode(
        &self,
        _: Request<wire::UpdateStreamModeRequest>,
    ) -> Result<Response<wire::ChangeStreamResponse>, Status> {
        Err(Status::unimplemented("the fake reshards nothing"))
    }

    async fn create_stream(
        &self,
        _request: Request<wire::CreateStreamRequest>,
    ) -> Result<Response<wire::CreateStreamResponse>, Status> {
        let mut state = self.state.lock();
        state.asked.push((self.id, 0, 0));
        match state.puts.pop_front() {
            Some(Says::Refusal(refusal)) => {
                Ok(Response::new(wire::CreateStreamResponse { refusal: Some(refusal) }))
            }
            Some(Says::Status(code)) => Err(Status::new(code, "told to break off")),
            Some(says) => unreachable!("{says:?} is for puts"),
            None => Ok(Response::new(wire::CreateStreamResponse { refusal: None })),
        }
    }

    async fn delete_stream(
        &self,
        _request: Request<wire::DeleteStreamRequest>,
    ) -> Result<Response<wire::DeleteStreamResponse>, Status> {
        Ok(Response::new(wire::DeleteStreamResponse { refusal: None }))
    }

    async fn list_streams(
        &self,
        _request: Request<wire::ListStreamsRequest>,
    ) -> Result<Response<wire::ListStreamsResponse>, Status> {
        let streams = self.describe("orders".to_owned()).stream.into_iter().collect();
        Ok(Response::new(wire::ListStreamsResponse { streams }))
    }

    async fn describe_stream(
        &self,
        request: Request<wire::DescribeStreamRequest>,
    ) -> Result<Response<wire::DescribeStreamResponse>, Status> {
        let wire::DescribeStreamRequest { name, map_version_min } = request.into_inner();
        let wait = async {
            while self.state.lock().map_version < map_version_min {
                tokio::time::sleep(POLL).await;
            }
        };
        let _ = tokio::time::timeout(MAP_TIME, wait).await;
        Ok(Response::new(self.describe(name)))
    }

    async fn put(
        &self,
        request: Request<wire::PutRequest>,
    ) -> Result<Response<wire::PutResponse>, Status> {
        let request = request.into_inner();
        let index = request.shard_index;
        if self.state.lock().paused.contains(&self.id) {
            self.state.lock().asked.push((self.id, index, request.records.len()));
            std::future::pending::<()>().await;
        }
        {
            let mut state = self.state.lock();
            let running = state.puts_running.entry(index).or_default();
            *running += 1;
            state.overlapped |= state.puts_running[&index] > 1;
        }
        // Gives a client that would send two at a time the chance to do so.
        tokio::task::yield_now().await;
        let stored = self.store(request);
        *self.state.lock().puts_running.entry(index).or_default() -= 1;
        stored.map(Response::new)
    }

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let feed = {
            let mut state = self.state.lock();
            state.subscribed.push((self.id, request.from.clone()));
            if state.live {
                drop(state);
                return Ok(Response::new(self.serve(request)));
            }
            state.feeds.pop_front()
        };
        let (events, silent) = match feed {
            Some(Feed::ThenEnd(events)) => (events, false),
            Some(Feed::ThenSilence(events)) => (events, true),
            None => return Err(Status::unavailable("no feed is left")),
        };
        let (sender, receiver) = mpsc::channel(events.len().max(1));
        for event in events {
            sender.send(Ok(event)).await.expect("room for all");
        }
        if silent {
            // Never dropped, so the stream never ends.
            std::mem::forget(sender);
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn cluster_status(
        &self,
        _request: Request<wire::ClusterStatusRequest>,
    ) -> Result<Response<wire::ClusterStatusResponse>, Status> {
        Ok(Response::new(wire::ClusterStatusResponse::default()))
    }
}

/// A key that falls in the upper or lower half of the key space.
pub(super) fn key_in(upper: bool) -> String {
    let half = |key: &str| HashKey::of(key).0 > u128::MAX / 2;
    (0..).map(|i| format!("k{i}")).find(|key| half(key) == upper).expect("half of all keys")
}
