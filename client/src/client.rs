//! One call: which shard, which node, and whether again.
//!
//! Owns the calls that any node answers: they go round the nodes. Puts and subscriptions, which have a node
//! of their choice, are told here whom to ask. Must not know how records are gathered.

mod control;

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};
use tristream_proto::domain::{
    CallId, Effect, MapVersion, NodeId, Record, Retry, SequenceNumber, Shard, ShardId, StreamName,
    Timestamp,
};
use tristream_proto::wire;

use crate::connections::{Connections, Stub};
use crate::consumer::Consumer;
use crate::error::{Error, accepted};
use crate::map_cache::{MapCache, StreamDescription, StreamStatus};
use crate::options::Options;
use crate::producer::{self, Producer};
use crate::retry::{Policy, Retries, Step};
use crate::subscription::{Start, Subscription};

/// A client of one cluster. Clones share connections and maps.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    connections: Connections,
    maps: MapCache,
    random: Mutex<SmallRng>,
}

/// A stream as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSummary {
    /// Its name.
    pub name: StreamName,
    /// Where it is in its life.
    pub status: StreamStatus,
    /// Its open shards.
    pub shard_count: usize,
    /// When it was created.
    pub created: Timestamp,
}

impl Client {
    /// A client that begins with the nodes at `addresses` (`host:port` of their native door) and learns of
    /// the others. Opens no connection yet: a cluster that is down shows in the first call.
    pub fn connect<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        options: Options,
    ) -> Result<Client, Error> {
        let addresses = addresses.into_iter().map(Into::into).collect();
        let connections = Connections::new(addresses, &options)?;
        let random = Mutex::new(SmallRng::from_os_rng());
        let inner = Inner { options, connections, maps: MapCache::default(), random };
        Ok(Client { inner: Arc::new(inner) })
    }

    /// Creates a stream; `None` leaves the number of shards to the cluster. Returns when it is created,
    /// not yet when it is active.
    pub async fn create_stream(&self, name: &StreamName, shards: Option<u32>) -> Result<(), Error> {
        let request = wire::CreateStreamRequest {
            name: name.to_string(),
            shard_count: shards.unwrap_or_default(),
        };
        self.ask(Policy::OnlyWithoutEffect, |mut node| {
            let request = request.clone();
            async move { accepted(answer(node.create_stream(request).await)?.refusal) }
        })
        .await
    }

    /// Begins to delete a stream.
    pub async fn delete_stream(&self, name: &StreamName) -> Result<(), Error> {
        let request = wire::DeleteStreamRequest { name: name.to_string() };
        self.ask(Policy::OnlyWithoutEffect, |mut node| {
            let request = request.clone();
            async move { accepted(answer(node.delete_stream(request).await)?.refusal) }
        })
        .await?;
        self.inner.maps.forget_name(name);
        Ok(())
    }

    /// All streams, by name.
    pub async fn list_streams(&self) -> Result<Vec<StreamSummary>, Error> {
        let answer = self
            .ask(Policy::Always, |mut node| async move {
                answer(node.list_streams(wire::ListStreamsRequest {}).await)
            })
            .await?;
        let summary = |stream| {
            let stream = StreamDescription::try_from(stream)?;
            let shard_count = stream.map.open().count();
            let (status, created) = (stream.status, stream.created);
            Ok(StreamSummary { name: stream.name, status, shard_count, created })
        };
        answer.streams.into_iter().map(summary).collect()
    }

    /// The stream as a node knows it now, with its shard map and leaders.
    pub async fn describe_stream(
        &self,
        name: &StreamName,
    ) -> Result<Arc<StreamDescription>, Error> {
        self.describe_from(name, MapVersion(0)).await
    }

    /// The same, from a node that waits a moment until it has a map at least as new as `version`.
    async fn describe_from(
        &self,
        name: &StreamName,
        version: MapVersion,
    ) -> Result<Arc<StreamDescription>, Error> {
        let request =
            wire::DescribeStreamRequest { name: name.to_string(), map_version_min: version.0 };
        let answer = self
            .ask(Policy::Always, |mut node| {
                let request = request.clone();
                async move {
                    let answer = answer(node.describe_stream(request).await)?;
                    accepted(answer.refusal.clone())?;
                    Ok(answer)
                }
            })
            .await;
        if let Err(Error::StreamNotFound(_)) = answer {
            self.inner.maps.forget_name(name);
        }
        let answer = answer?;
        self.inner.connections.learn(&answer.nodes);
        let stream = answer
            .stream
            .ok_or_else(|| Error::Protocol("a description without a stream".to_owned()))?;
        let stream = StreamDescription::try_from(stream)?;
        if stream.name != *name {
            return Err(Error::Protocol(format!("asked for {name}, was told of {}", stream.name)));
        }
        Ok(self.inner.maps.insert(stream))
    }

    /// Nodes, groups, leaders and lag, as one node gathered them.
    pub async fn cluster_status(&self) -> Result<wire::ClusterStatusResponse, Error> {
        let status = self
            .ask(Policy::Always, |mut node| async move {
                answer(node.cluster_status(wire::ClusterStatusRequest {}).await)
            })
            .await?;
        let address = |node: &wire::NodeStatus| wire::NodeAddress {
            node: node.id,
            az: node.az.clone(),
            peer: node.peer.clone(),
            kinesis: node.kinesis.clone(),
        };
        self.inner.connections.learn(&status.nodes.iter().map(address).collect::<Vec<_>>());
        Ok(status)
    }

    /// Stores one record, durable on a majority when this returns `Ok`. A caller who may repeat a put that
    /// ended as unknown gives the record an origin of its own, the same in each: else it is stored anew.
    pub async fn put(&self, stream: &StreamName, record: Record) -> Result<SequenceNumber, Error> {
        let mut outcomes = self.put_batch(stream, vec![record]).await;
        outcomes.pop().unwrap_or_else(|| Err(Error::Protocol("a put without outcome".to_owned())))
    }

    /// Stores records, each on the shard of its key: in this order within a key, several to a request.
    /// One outcome per record, in the order of `records`; some may be stored while others are not.
    pub async fn put_batch(
        &self,
        stream: &StreamName,
        records: Vec<Record>,
    ) -> Vec<Result<SequenceNumber, Error>> {
        producer::put_all(self, stream, records).await
    }

    /// For many records in a row: see [`Producer`].
    pub async fn producer(&self, stream: &StreamName) -> Result<Producer, Error> {
        Ok(Producer::start(self.clone(), self.stream(stream).await?))
    }

    /// Reads one shard, first what is stored from `start` on, then each record as it is committed.
    pub async fn subscribe(
        &self,
        stream: &StreamName,
        shard: ShardId,
        start: Start,
    ) -> Result<Subscription, Error> {
        let mut description = self.stream(stream).await?;
        if description.map.get(shard).is_none() {
            description = self.describe_stream(stream).await?;
        }
        match description.map.get(shard) {
            Some(shard) => Ok(Subscription::new(self.clone(), stream.clone(), shard, start)),
            None => Err(Error::Invalid(format!("stream {stream} has no {shard}"))),
        }
    }

    /// Reads all shards of a stream, those too that come from splits and merges: see [`Consumer`]. `start`
    /// is a point in time; a sequence number is of one shard only and refused as invalid.
    pub async fn consumer(&self, stream: &StreamName, start: Start) -> Result<Consumer, Error> {
        if matches!(start, Start::At(_) | Start::After(_)) {
            let what = "a sequence number is of one shard: subscribe to that";
            return Err(Error::Invalid(what.to_owned()));
        }
        Ok(Consumer::walk(self.clone(), &*self.describe_stream(stream).await?, start))
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// A random number in [0, 1), for jitter.
    pub(crate) fn draw(&self) -> f64 {
        self.inner.random.lock().random()
    }

    /// A call id that nobody else has.
    pub(crate) fn mint_call(&self) -> CallId {
        let mut random = self.inner.random.lock();
        CallId::minted(random.random(), random.random())
    }

    pub(crate) fn maps(&self) -> &MapCache {
        &self.inner.maps
    }

    /// The stream from the cache, or else from a node.
    pub(crate) async fn stream(&self, name: &StreamName) -> Result<Arc<StreamDescription>, Error> {
        match self.inner.maps.get(name) {
            Some(stream) => Ok(stream),
            None => self.describe_stream(name).await,
        }
    }

    /// The stream with a map of at least this version: waits as long as it takes. Errors are those that
    /// trying again would not change.
    pub(crate) async fn stream_from(
        &self,
        name: &StreamName,
        version: MapVersion,
    ) -> Result<Arc<StreamDescription>, Error> {
        match self.inner.maps.get(name).filter(|stream| stream.map.version() >= version) {
            Some(stream) => Ok(stream),
            None => self.describe_until(name, version).await,
        }
    }

    /// The same, but as a node knows it now.
    pub(crate) async fn describe_until(
        &self,
        name: &StreamName,
        version: MapVersion,
    ) -> Result<Arc<StreamDescription>, Error> {
        let mut retries = Retries::new(Policy::Always, self.options());
        loop {
            match self.describe_from(name, version).await {
                Ok(stream) if stream.map.version() >= version => return Ok(stream),
                // The node lags, or the change is not done yet.
                Ok(_) => self.inner.connections.prefer_another(),
                Err(error) if error.retry() == Retry::Never => return Err(error),
                Err(error) => tracing::debug!(%error, %name, ?version, "no newer map yet"),
            }
            sleep(retries.wait(self.draw())).await;
        }
    }

    /// The node to ask for a shard: its leader as far as known, else its replicas in turn, else any node.
    /// With the node's id, where it is known.
    pub(crate) fn target(
        &self,
        shard: &Shard,
        attempt: usize,
    ) -> Result<(Option<NodeId>, Stub), Error> {
        let inner = &self.inner;
        if let Some(leader) = inner.maps.leader(shard.group)
            && let Some(stub) = inner.connections.node(leader)
        {
            return Ok((Some(leader), stub));
        }
        if !shard.replicas.is_empty() {
            let replica = shard.replicas[attempt % shard.replicas.len()];
            if let Some(stub) = inner.connections.node(replica) {
                return Ok((Some(replica), stub));
            }
        }
        let addresses = inner.connections.addresses();
        Ok((None, inner.connections.stub(&addresses[attempt % addresses.len()])?))
    }

    /// Notes what an error says about who leads.
    pub(crate) fn heed(&self, shard: &Shard, asked: Option<NodeId>, error: &Error) {
        let (maps, Some(asked)) = (&self.inner.maps, asked) else { return };
        match error {
            Error::NotLeader { leader: Some(leader), .. } if *leader != asked => {
                maps.set_leader(shard.group, *leader);
            }
            Error::NotLeader { .. } => maps.forget_leader(shard.group, asked),
            // The node may be dying, and a request that still reaches its connection would be lost with
            // an unknown outcome. Any other replica knows at least as well who leads.
            Error::Unavailable(_) | Error::Unknown(_) => match next_replica(shard, asked) {
                Some(other) => maps.set_leader(shard.group, other),
                None => maps.forget_leader(shard.group, asked),
            },
            _ => {}
        }
    }

    /// Waits before the next attempt, where there shall be one.
    pub(crate) async fn pause(&self, retries: &mut Retries, error: &Error, until: Instant) -> Step {
        let step = match retries.after(error, self.draw()) {
            Step::Again(wait) if Instant::now() + wait >= until => Step::Late,
            step => step,
        };
        if let Step::Again(wait) = step {
            sleep(wait).await;
        }
        step
    }

    /// Puts one question to the nodes in turn until one answers it. A round past all nodes is one attempt.
    async fn ask<T, F, Fut>(&self, policy: Policy, question: F) -> Result<T, Error>
    where
        F: Fn(Stub) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let options = self.options();
        let until = Instant::now() + options.deadline;
        let mut retries = Retries::new(policy, options);
        loop {
            let mut last = Error::Unavailable("no node is known".to_owned());
            for address in self.inner.connections.addresses() {
                let rest = until.saturating_duration_since(Instant::now());
                let patience = match policy {
                    Policy::Always => options.attempt_timeout.min(rest),
                    // A second try could do harm, so the first gets all the time there is.
                    Policy::OnlyWithoutEffect => rest,
                };
                let node = self.inner.connections.stub(&address)?;
                last = match timeout(patience, question(node)).await {
                    Ok(Ok(answer)) => {
                        self.inner.connections.prefer(&address);
                        return Ok(answer);
                    }
                    Ok(Err(error)) => error,
                    Err(_) => Error::from_silence(patience),
                };
                tracing::debug!(error = %last, %address, "node gave no answer");
                let harmless = policy == Policy::Always || last.effect() == Effect::None;
                if !harmless || last.retry() == Retry::Never {
                    return Err(last);
                }
            }
            match self.pause(&mut retries, &last, until).await {
                Step::Again(_) => {}
                Step::GiveUp => return Err(last),
                Step::Late => return Err(last.at_deadline(options.deadline)),
            }
        }
    }
}

/// The replica after `node`, in the order of the shard's replicas.
fn next_replica(shard: &Shard, node: NodeId) -> Option<NodeId> {
    let at = shard.replicas.iter().position(|replica| *replica == node)?;
    let other = shard.replicas[(at + 1) % shard.replicas.len()];
    (other != node).then_some(other)
}

/// The message of an answer, or what its failure means.
pub(crate) fn answer<T>(response: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Error> {
    match response {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(Error::from_status(&status)),
    }
}
