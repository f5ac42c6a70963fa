//! A node's place: its disk, its clock, and one life of the node after the other.
//!
//! Invariant: what outlives a process is here, and nothing else does. Must not know faults.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tristream_node::config::{Config, Log, NodeAddress, Raft};
use tristream_node::disk::{Damage, Disk, SimulatedDisk};
use tristream_node::failpoint::NoFailpoints;
use tristream_node::metrics::Metrics;
use tristream_node::{Node, World};

use super::tables::LastingTables;
use super::watched::WatchedDisk;
use super::world::{SeededEntropy, SimulatedClock, SimulatedNet};

/// The nodes' names and availability zones.
pub(super) const AZS: [&str; 3] = ["az-a", "az-b", "az-c"];
const PEER_PORT: u16 = 5567;
/// Over which the load of a stream on demand is watched: shorter than a run, so that shards are merged again, too.
const ON_DEMAND_WINDOW_SECONDS: u64 = 10;
const DATA_DIR: &str = "/data";
/// Of a disk, kept free of records.
pub(super) const RESERVE_BYTES: u64 = 64 << 20;
/// The folder of a node's log.
pub(super) const LOG_DIR: &str = "/data/log";
pub(super) const KINESIS_PORT: u16 = 4567;

/// What of nodes' metrics tells how far a run went.
const COUNTED: [(&str, &str); 7] = [
    ("elections", "tristream_elections_total"),
    ("torn_tails", "tristream_torn_tails_total"),
    ("entries_faulty", "tristream_log_faulty_entries_total"),
    ("entries_repaired", "tristream_log_repaired_entries_total"),
    ("log_bytes_rewritten", "tristream_log_rewritten_bytes_total"),
    ("trims", "tristream_trims_total"),
    ("purges", "tristream_purges_total"),
];

/// Where a node's native door is.
pub(super) fn peer_address(node: usize) -> String {
    format!("{}:{PEER_PORT}", AZS[node])
}

/// How a node's life ended by itself.
pub(super) enum Ended {
    NotStarted(String),
    Failed(String),
    Stopped,
}

/// A node's place: what outlives its process.
pub(super) struct Place {
    node: usize,
    seed: u64,
    log: Log,
    /// For how long records are kept; none: for longer than a run takes.
    retention_seconds: Option<u64>,
    disks: Mutex<Disks>,
    /// The metadata tables, where they outlive the process.
    tables: OnceLock<LastingTables>,
    pub(super) clock: Arc<SimulatedClock>,
    pub(super) stop: Notify,
    pub(super) state: Mutex<State>,
    /// Of each life so far.
    metrics: Mutex<Vec<Arc<Metrics>>>,
}

/// The disk that is plugged in, and the node's own while another one is.
struct Disks {
    plugged: WatchedDisk,
    own: Option<WatchedDisk>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) lives: u64,
    pub(super) running: bool,
    pub(super) ended: Option<Ended>,
    /// Faults that entitle the node to stop itself, or not to start: by kind. Those of syncs end with this life.
    pub(super) excuses: BTreeSet<&'static str>,
    /// Somebody asked it to stop, and wants it back after this many milliseconds.
    pub(super) back_after_stop: Option<u64>,
}

impl Place {
    pub(super) fn new(
        node: usize,
        seed: u64,
        log: Log,
        retention_seconds: Option<u64>,
        disk: WatchedDisk,
    ) -> Place {
        let (clock, stop, state) = (Arc::default(), Notify::new(), Mutex::default());
        let disks = Mutex::new(Disks { plugged: disk, own: None });
        let (tables, metrics) = (OnceLock::new(), Mutex::default());
        Place { node, seed, log, retention_seconds, disks, tables, clock, stop, state, metrics }
    }

    /// From now on the metadata tables outlive the process. Before the first life.
    pub(super) fn let_tables_last(&self) {
        self.tables.get_or_init(LastingTables::default);
    }

    /// The disk that is plugged in.
    pub(super) fn disk(&self) -> SimulatedDisk {
        self.watched().disk
    }

    /// The same, with those who watch it.
    pub(super) fn watched(&self) -> WatchedDisk {
        self.disks.lock().plugged.clone()
    }

    /// Puts `empty` in the place of the node's disk. Only while no process runs.
    pub(super) fn unplug(&self, empty: WatchedDisk) {
        let mut disks = self.disks.lock();
        let plugged = std::mem::replace(&mut disks.plugged, empty);
        disks.own.get_or_insert(plugged);
    }

    /// Plugs the node's own disk in again, and gives what was there instead. Only while no process runs.
    pub(super) fn plug_own(&self) -> Option<WatchedDisk> {
        let mut disks = self.disks.lock();
        let own = disks.own.take()?;
        Some(std::mem::replace(&mut disks.plugged, own))
    }

    /// Lets the disk have room for so many more bytes.
    pub(super) fn leave_room(&self, bytes: u64) {
        let disk = self.disk();
        // Only a disk in the hands of a process that is gone does not tell.
        let space = disk.restarted().space(Path::new("/"));
        let used = space.map_or(0, |space| space.total_bytes - space.free_bytes);
        disk.set_capacity(used + bytes);
    }

    /// Whether another disk is in the place of the node's own.
    pub(super) fn has_a_strange_disk(&self) -> bool {
        self.disks.lock().own.is_some()
    }

    /// What power losses have done to its own disk.
    pub(super) fn damage(&self) -> Damage {
        let disks = self.disks.lock();
        disks.own.as_ref().unwrap_or(&disks.plugged).disk.damage()
    }

    /// One life of the node's process; the caller drops it when it ends.
    pub(super) async fn live(&self) {
        let life = {
            let mut state = self.state.lock();
            let mut excuses = std::mem::take(&mut state.excuses);
            excuses.remove("failed_sync");
            let lives = state.lives + 1;
            *state = State { lives, running: true, excuses, ..State::default() };
            lives
        };
        let ended = self.run(life).await;
        self.state.lock().ended = Some(ended);
        // What it left behind goes with the process, which the cluster kills at the end of this step.
        std::future::pending::<()>().await;
    }

    async fn run(&self, life: u64) -> Ended {
        let world = World {
            disk: Arc::new(self.watched().restarted()),
            net: Arc::new(SimulatedNet),
            clock: self.clock.clone(),
            entropy: SeededEntropy::new(
                self.seed.wrapping_mul(1_000_003).wrapping_add(life * 3 + self.node as u64),
            ),
            failpoints: Arc::new(NoFailpoints),
        };
        // Those of another disk are not there.
        let lasting = self.tables.get().filter(|_| !self.has_a_strange_disk());
        let tables = match lasting.map(LastingTables::open).transpose() {
            Ok(tables) => tables,
            Err(error) => return Ended::NotStarted(format!("{error:#}")),
        };
        let node = match Node::start_with(self.config(), world, tables).await {
            Ok(node) => node,
            Err(error) => return Ended::NotStarted(format!("{error:#}")),
        };
        self.metrics.lock().push(node.metrics());
        let failure = tokio::select! {
            biased;
            reason = node.failure() => Some(reason),
            () = self.stop.notified() => None,
        };
        match failure {
            Some(reason) => Ended::Failed(reason),
            None => {
                node.shutdown().await;
                Ended::Stopped
            }
        }
    }

    /// What the node's lives counted, by the names of coverage.
    pub(super) fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let texts: Vec<String> = self.metrics.lock().iter().map(|life| life.encode()).collect();
        COUNTED.into_iter().map(move |(what, metric)| {
            let of_life = |text: &String| -> u64 {
                let values = text.lines().filter_map(|line| line.strip_prefix(metric));
                values.filter_map(|value| value.trim().parse::<u64>().ok()).sum()
            };
            (what, texts.iter().map(of_life).sum())
        })
    }

    /// The process is gone.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.running = false;
        state.ended = None;
    }

    fn config(&self) -> Config {
        let address = |node: usize| NodeAddress {
            az: AZS[node].to_owned(),
            peer: peer_address(node),
            kinesis: format!("{}:{KINESIS_PORT}", AZS[node]),
        };
        Config {
            az: AZS[self.node].to_owned(),
            data_dir: PathBuf::from(DATA_DIR),
            kinesis_listen: Some(format!("0.0.0.0:{KINESIS_PORT}")),
            peer_listen: Some(format!("0.0.0.0:{PEER_PORT}")),
            account: "000000000000".to_owned(),
            region: "us-east-1".to_owned(),
            raft: Raft::default(),
            log: self.log.clone(),
            iterator_seconds: 300,
            put_deadline_ms: 5_000,
            quotas: false,
            deduplicate: true,
            retention_override_seconds: self.retention_seconds,
            on_demand_window_seconds: ON_DEMAND_WINDOW_SECONDS,
            enable_faults: false,
            fault_token: None,
            nodes: (0..3).map(address).collect(),
        }
    }
}
