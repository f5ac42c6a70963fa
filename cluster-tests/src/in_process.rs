//! Three nodes in one process, each in a world of its own that a test can break.
//!
//! Owns starting, stopping, crashing and restarting single nodes, their disks, and the links between them. Each
//! node runs on a runtime of its own, so that a crash takes every task with it, at any await and without a
//! last word. Must not know what a test wants to prove.
//!
//! | part | file |
//! |---|---|
//! | links that can be cut, frozen and healed | `in_process/wires.rs` |
//! | writers, and what became of each put | `in_process/load.rs` |
//! | what a node serves, and the judgement | `in_process/reading.rs` |
//! | named points at which a node is held | `in_process/stops.rs` |

pub mod load;
pub mod reading;
pub mod stops;
pub mod wires;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tristream_client::domain::StreamName;
use tristream_client::{Client, Options, StreamDescription, StreamStatus};
use tristream_node::clock::SystemClock;
use tristream_node::config::{Config, NodeAddress};
use tristream_node::disk::{Disk, RealDisk, SimulatedDisk};
use tristream_node::entropy::OsEntropy;
use tristream_node::{Node, World};

use stops::Stops;
use wires::Wires;

/// Bound of every wait for something that will happen on a healthy machine, however slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];

/// What the nodes keep their data on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Folders of the operating system; the metadata tables are sled's.
    Real,
    /// A disk in memory each, which can hold and fail syncs and lose power.
    Simulated,
}

/// Three nodes. Dropping it stops them hard.
pub struct Cluster {
    seats: Vec<Seat>,
    wires: Wires,
    stops: Stops,
    folder: tempfile::TempDir,
}

struct Seat {
    config: Config,
    disk: Option<SimulatedDisk>,
    running: Option<Running>,
}

struct Running {
    node: Arc<Node>,
    runtime: Runtime,
}

impl Cluster {
    /// Three new nodes that serve.
    pub async fn start(storage: Storage) -> anyhow::Result<Cluster> {
        Cluster::start_with(storage, |_| {}).await
    }

    /// Three new nodes that serve, with settings changed by `change`.
    pub async fn start_with(
        storage: Storage,
        change: impl Fn(&mut Config),
    ) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::prepare(storage, change)?;
        for seat in 0..3 {
            cluster.run(seat).await?;
        }
        cluster.wait_ready(&[0, 1, 2]).await?;
        Ok(cluster)
    }

    /// Three seats, with nobody started yet.
    pub fn prepare(storage: Storage, change: impl Fn(&mut Config)) -> anyhow::Result<Cluster> {
        let folder = tempfile::tempdir()?;
        let first = crate::ports::free(6, None)?;
        let nodes: Vec<NodeAddress> = (0..3)
            .map(|seat| NodeAddress {
                az: ZONES[usize::from(seat)].to_owned(),
                peer: format!("127.0.0.1:{}", first + seat),
                kinesis: format!("127.0.0.1:{}", first + 3 + seat),
            })
            .collect();
        let wires = Wires::new(nodes.iter().map(|node| node.peer.clone()).collect());
        let seat = |seat: usize| {
            let text = format!(
                "az = {:?}\ndata_dir = {:?}\nnodes = []\n",
                ZONES[seat],
                folder.path().join(ZONES[seat])
            );
            let mut config: Config = toml::from_str(&text)?;
            config.nodes = nodes.clone();
            // How full the machine's own disk is, is not what is tested.
            config.log.reserve_bytes = Some(0);
            change(&mut config);
            let disk = (storage == Storage::Simulated).then(SimulatedDisk::new);
            Ok(Seat { config, disk, running: None })
        };
        let seats = (0..3).map(seat).collect::<anyhow::Result<_>>()?;
        Ok(Cluster { seats, wires, stops: Stops::default(), folder })
    }

    /// The links between the nodes.
    pub fn wires(&self) -> &Wires {
        &self.wires
    }

    /// The named points at which a node can be held.
    pub fn stops(&self) -> &Stops {
        &self.stops
    }

    /// The folder that holds the nodes' folders, where storage is real.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The node's data folder.
    pub fn data_dir(&self, seat: usize) -> PathBuf {
        self.seats[seat].config.data_dir.clone()
    }

    /// The node's settings.
    pub fn config(&self, seat: usize) -> &Config {
        &self.seats[seat].config
    }

    /// host:port of the node's HTTP door.
    pub fn kinesis(&self, seat: usize) -> &str {
        &self.seats[seat].config.own().kinesis
    }

    /// The node's simulated disk.
    pub fn disk(&self, seat: usize) -> &SimulatedDisk {
        self.seats[seat].disk.as_ref().expect("the storage is simulated")
    }

    /// Starts the node; its doors are open when this returns, and it may not serve yet.
    pub async fn run(&mut self, seat: usize) -> anyhow::Result<()> {
        let world = self.world(seat);
        let at = &mut self.seats[seat];
        anyhow::ensure!(at.running.is_none(), "node {seat} runs already");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).thread_name(ZONES[seat]).enable_all().build()?;
        let started = runtime.spawn(Node::start(at.config.clone(), world)).await?;
        match started {
            Ok(node) => {
                at.running = Some(Running { node: Arc::new(node), runtime });
                Ok(())
            }
            Err(error) => {
                end(runtime).await?;
                Err(error)
            }
        }
    }

    fn world(&mut self, seat: usize) -> World {
        let at = &mut self.seats[seat];
        let disk: Arc<dyn Disk> = match &mut at.disk {
            Some(disk) => {
                *disk = disk.restarted();
                Arc::new(disk.clone())
            }
            None => Arc::new(RealDisk),
        };
        World {
            disk,
            net: Arc::new(self.wires.of(seat)),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            failpoints: Arc::new(self.stops.of(seat)),
        }
    }

    /// The running node.
    pub fn node(&self, seat: usize) -> Arc<Node> {
        self.seats[seat].running.as_ref().expect("the node runs").node.clone()
    }

    /// Tasks of the running node that have not ended.
    pub fn tasks_alive(&self, seat: usize) -> usize {
        let running = self.seats[seat].running.as_ref().expect("the node runs");
        running.runtime.metrics().num_alive_tasks()
    }

    /// Waits until these nodes serve.
    pub async fn wait_ready(&self, seats: &[usize]) -> anyhow::Result<()> {
        for &seat in seats {
            let node = self.node(seat);
            let mut ready = node.readiness();
            let served = tokio::select! {
                served = tokio::time::timeout(PATIENCE, ready.wait_for(Result::is_ok)) => {
                    served.is_ok_and(|changed| changed.is_ok())
                }
                reason = node.failure() => bail!("node {seat} stopped itself: {reason}"),
            };
            if !served {
                bail!("node {seat} does not serve: {:?}", *node.readiness().borrow());
            }
        }
        Ok(())
    }

    /// Why the node stopped itself; an error when it does not within `PATIENCE`.
    pub async fn failure(&self, seat: usize) -> anyhow::Result<String> {
        let node = self.node(seat);
        let failed = tokio::time::timeout(PATIENCE, node.failure()).await;
        failed.with_context(|| format!("node {seat} goes on as if nothing had happened"))
    }

    /// The process dies: no task runs again, nothing is flushed; what was written stays readable.
    pub async fn crash(&mut self, seat: usize) -> anyhow::Result<()> {
        if let Some(disk) = &self.seats[seat].disk {
            disk.process_crash();
        }
        self.bury(seat).await
    }

    /// The power fails at one node: `seed` decides what is left of what was not synced.
    pub async fn power_loss(&mut self, seat: usize, seed: u64) -> anyhow::Result<()> {
        self.disk(seat).power_loss(seed);
        self.bury(seat).await
    }

    /// The power fails at all nodes, in the same moment.
    pub async fn power_loss_everywhere(&mut self, seed: u64) -> anyhow::Result<()> {
        for seat in 0..3 {
            self.disk(seat).power_loss(seed.wrapping_add(seat as u64));
        }
        for seat in 0..3 {
            self.bury(seat).await?;
        }
        Ok(())
    }

    async fn bury(&mut self, seat: usize) -> anyhow::Result<()> {
        match self.seats[seat].running.take() {
            Some(Running { node, runtime }) => {
                drop(node);
                end(runtime).await
            }
            None => Ok(()),
        }
    }

    /// Stops the node as SIGTERM does.
    pub async fn stop(&mut self, seat: usize) -> anyhow::Result<()> {
        let Some(Running { node, runtime }) = self.seats[seat].running.take() else {
            return Ok(());
        };
        let node = Arc::into_inner(node).context("somebody still holds the node")?;
        let stopping = runtime.spawn(node.shutdown());
        let stopped = tokio::time::timeout(PATIENCE, stopping).await;
        stopped.with_context(|| format!("node {seat} does not stop"))??;
        end(runtime).await
    }

    /// A client that knows these nodes, and learns of the others.
    pub fn client(&self, seats: &[usize], options: Options) -> anyhow::Result<Client> {
        let addresses = seats.iter().map(|&seat| self.seats[seat].config.own().peer.clone());
        Ok(Client::connect(addresses, options)?)
    }

    /// A new stream, when it takes records.
    pub async fn create_stream(
        &self,
        name: &str,
        shards: u32,
    ) -> anyhow::Result<StreamDescription> {
        let name: StreamName = name.parse()?;
        let client = self.client(&[0, 1, 2], Options::default())?;
        client.create_stream(&name, Some(shards)).await?;
        self.wait_active(name.as_str()).await
    }

    /// The stream, once it is active and each of its shards is led.
    pub async fn wait_active(&self, name: &str) -> anyhow::Result<StreamDescription> {
        let name: StreamName = name.parse()?;
        let client = self.client(&[0, 1, 2], Options::default())?;
        let until = Instant::now() + PATIENCE;
        loop {
            let described = client.describe_stream(&name).await;
            if let Ok(stream) = &described
                && stream.status == StreamStatus::Active
                && stream.leaders.iter().all(Option::is_some)
            {
                return Ok(StreamDescription::clone(stream));
            }
            if Instant::now() > until {
                bail!("stream {name} does not become active: {described:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Which seat leads the stream's first shard, as far as `asked` knows.
    pub async fn leader(&self, asked: &[usize], name: &str) -> anyhow::Result<usize> {
        let name: StreamName = name.parse()?;
        let client = self.client(asked, Options::default())?;
        let until = Instant::now() + PATIENCE;
        loop {
            let described = client.describe_stream(&name).await;
            if let Ok(stream) = &described
                && let Some(Some(node)) = stream.leaders.first()
            {
                // Nodes are numbered from 1 by AZ, and the seats are in that order.
                return Ok(node.0 as usize - 1);
            }
            if Instant::now() > until {
                bail!("nobody leads {name}: {described:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for seat in &mut self.seats {
            if let Some(Running { runtime, .. }) = seat.running.take() {
                runtime.shutdown_background();
            }
        }
    }
}

/// Ends a runtime with everything on it.
async fn end(runtime: Runtime) -> anyhow::Result<()> {
    let ending = move || runtime.shutdown_timeout(Duration::from_secs(10));
    tokio::task::spawn_blocking(ending).await.context("a runtime that ends")
}

/// Waits until `holds` says yes; an error that names `what` when it does not within `PATIENCE`.
pub async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !holds().await {
        if Instant::now() > until {
            bail!("waited in vain until {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
