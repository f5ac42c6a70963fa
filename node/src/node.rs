//! A node: builds the floors bottom-up, tears them down top-down.
//!
//! Owns the order of starting and stopping. Invariants: ports are bound before the data folder is touched; the
//! peer door is open before the cluster exists (founding needs it); nobody is served by a floor that is not
//! there yet. Must not know what any floor does.

mod boot;
mod readiness;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use crate::config::Config;
use crate::faults::{Faults, FaultyNet};
use crate::founding::SelfPortrait;
use crate::http;
use crate::identity::Folder;
use crate::metrics::Metrics;
use crate::net::Listener;
use crate::rpc;
use crate::state::Tables;
use crate::tasks::{Kind, Tasks};
use crate::world::World;

/// A running node.
pub struct Node {
    tasks: Tasks,
    floors: Arc<OnceLock<boot::Floors>>,
    ready: watch::Receiver<Result<(), String>>,
    kinesis: SocketAddr,
    peer: SocketAddr,
    metrics: Arc<Metrics>,
}

impl Node {
    /// Starts a node in `world`. Returns when its doors are open; `ready` tells when the cluster serves. Errors
    /// are mistakes to mend before anything happens: a port in use, a folder of another node.
    pub async fn start(config: Config, world: World) -> anyhow::Result<Node> {
        Node::start_with(config, world, None).await
    }

    /// Starts a node with these metadata tables in the place of its own: a simulated disk cannot keep those.
    pub async fn start_with(
        config: Config,
        mut world: World,
        tables: Option<Box<dyn Tables>>,
    ) -> anyhow::Result<Node> {
        config.validate()?;
        let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
        let own = config.own().clone();
        let peer_at = config.peer_listen.clone().unwrap_or(own.peer);
        let kinesis_at = config.kinesis_listen.clone().unwrap_or(own.kinesis);
        // Clients are not to be touched by faults between nodes.
        let kinesis_door = bind(&world, &kinesis_at, "Kinesis").await?;
        let faults = config.enable_faults.then(|| faults(&config, &world, &metrics, &tasks));
        if let Some(faults) = &faults {
            tracing::warn!("faults may be imposed on this node: POST /admin/v1/faults");
            world.net = Arc::new(FaultyNet::new(world.net.clone(), faults.clone()));
        }
        let peer_door = bind(&world, &peer_at, "peers").await?;
        let (peer, kinesis) = (peer_door.local_addr()?, kinesis_door.local_addr()?);
        let (folder, identity) =
            Folder::open(world.disk.clone(), &*world.entropy, &config.data_dir, &config.az).await?;
        boot::check_log(&config, &world, &identity)?;

        let portrait = SelfPortrait::new(identity);
        let put_deadline = Duration::from_millis(config.put_deadline_ms);
        let (services, slots) = rpc::services(portrait.clone(), put_deadline, &world, &tasks);
        let (ready_tx, ready) = watch::channel(Err("the node is starting".to_owned()));
        let (api_tx, api) = watch::channel(None);
        rpc::serve(peer_door, services, faults.clone(), &tasks);
        let entropy = world.entropy.clone();
        let mut door =
            http::Door::new(api, ready.clone(), metrics.clone(), entropy, http::Limits::default());
        if let Some(faults) = faults {
            door = door.with_faults(faults, config.fault_token.clone());
        }
        door.open(kinesis_door, &tasks);

        let floors = Arc::new(OnceLock::new());
        let boot = boot::Boot {
            config,
            world,
            tables,
            folder,
            portrait,
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            rpc: slots,
            api: api_tx,
            ready: ready_tx,
            floors: floors.clone(),
        };
        let failing = tasks.clone();
        tasks.spawn(Kind::Boot, async move {
            if let Err(error) = boot.run().await {
                failing.failed(Kind::Boot, format!("{error:#}"));
            }
        });
        Ok(Node { tasks, floors, ready, kinesis, peer, metrics })
    }

    /// Where Kinesis and admin are served.
    pub fn kinesis_addr(&self) -> SocketAddr {
        self.kinesis
    }

    /// Where peers and native clients are served.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// What it counts; outlives it.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Whether the node serves: `Err` says what it waits for.
    pub fn readiness(&self) -> watch::Receiver<Result<(), String>> {
        self.ready.clone()
    }

    /// Resolves when the node cannot go on, with the reason: going on could break a promise.
    pub async fn failure(&self) -> String {
        self.tasks.failure().await
    }

    /// Stops the node: hands its groups over, closes them, makes everything accepted durable.
    pub async fn shutdown(self) {
        if let Some(floors) = self.floors.get() {
            floors.shutdown().await;
        }
        tracing::debug!("groups and log are closed; ending tasks");
        self.tasks.shutdown().await;
    }
}

/// The faults that may be imposed between this node and its peers.
fn faults(config: &Config, world: &World, metrics: &Arc<Metrics>, tasks: &Tasks) -> Faults {
    let peers = config.nodes.iter().filter(|node| node.az != config.az);
    let peers = peers.map(|node| (node.peer.clone(), node.az.clone()));
    Faults::new(peers, world.entropy.clone(), metrics.clone(), tasks.clone())
}

async fn bind(world: &World, addr: &str, whom: &str) -> anyhow::Result<Box<dyn Listener>> {
    let bound = world.net.bind(addr).await;
    bound.with_context(|| format!("cannot listen on {addr} for {whom}"))
}
