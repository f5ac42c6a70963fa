//! Three nodes on three simulated disks: started, crashed, cut, stalled, mended.
//!
//! Owns turmoil's simulation and carries faults out, each until its time is over. Invariant: a node that
//! ends by itself is a violation unless a fault made its disk lie. Must not know what clients do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tristream_node::config::Log;
use tristream_node::disk::SimulatedDisk;
use turmoil::Sim;

use super::fault::Fault;
use super::place::{AZS, Ended, Place};

/// The host of all clients.
const CLIENTS: &str = "clients";
/// The simulation's grain.

const LATENCY_MIN: Duration = Duration::from_micros(300);
/// Syncs of a disk in health.
const SYNC_MIN: Duration = Duration::from_micros(100);
const SYNC_MAX_MS: [u64; 4] = [1, 3, 10, 30];
/// A node that was asked to stop and has not is killed after this long.
const STOP_MAX_MS: u64 = 15_000;

/// A host's name: clients are number 3.
fn host(number: usize) -> &'static str {
    AZS.get(number).copied().unwrap_or(CLIENTS)
}

/// These nodes, all back after the same time.
fn all_at(nodes: &[usize], back_after: u64) -> Vec<(usize, u64)> {
    nodes.iter().map(|node| (*node, back_after)).collect()
}

/// One of those who use the cluster. An error stops the simulation.
pub(super) type Client = LocalBoxFuture<'static, turmoil::Result>;

/// What is undone when a fault's time is over.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Start(usize),
    Join(usize, usize),
    Latency(usize),
    Loss(usize),
    SyncTime(usize),
    Release(usize),
    /// Kills the life of this number, if it has not stopped.
    Kill(usize, u64),
    /// The node's own folder is back.
    Folder(usize),
}

/// A cluster under simulation.
pub(super) struct Cluster {
    pub(super) sim: Sim<'static>,
    places: Vec<Arc<Place>>,
    random: SmallRng,
    latency_max: Duration,
    sync_max: Duration,
    now: u64,
    undo: BTreeMap<(u64, u64), Undo>,
    undo_made: u64,
    /// Until when nothing passes from one host to another.
    cuts: BTreeMap<(usize, usize), u64>,
    /// Losses of power that wait for their moment.
    armed: Vec<Fault>,
    coverage: BTreeMap<String, u64>,
    /// What nodes did that they must not.
    pub(super) violations: Vec<String>,
}

impl Cluster {
    /// Three nodes with empty disks, not stepped yet.
    pub(super) fn new(seed: u64) -> Cluster {
        let mut random = SmallRng::seed_from_u64(seed ^ 0xc1);
        let latency_max = Duration::from_millis(random.random_range(2..30));
        let sync_max = Duration::from_millis(SYNC_MAX_MS[random.random_range(0..4)]);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .tick_duration(Duration::from_millis(super::board::knob("K_TICK", 1)))
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(latency_max)
            .tcp_capacity(1 << 16);
        if random.random() {
            builder.enable_random_order();
        }
        // Small, so that segments fill and cold reads happen.
        let tail_bytes = [64 << 10, 1 << 20, 128 << 20][random.random_range(0..3)];
        let log = Log { segment_bytes: 1 << 20, tail_bytes, ..Log::default() };
        let mut cluster = Cluster {
            sim: builder.build(),
            places: Vec::new(),
            random,
            latency_max,
            sync_max,
            now: 0,
            undo: BTreeMap::new(),
            undo_made: 0,
            cuts: BTreeMap::new(),
            armed: Vec::new(),
            coverage: BTreeMap::new(),
            violations: Vec::new(),
        };
        (0..3).for_each(|node| cluster.add_node(node, seed, log.clone()));
        cluster
    }

    fn add_node(&mut self, node: usize, seed: u64, log: Log) {
        let disk = SimulatedDisk::new();
        disk.set_sync_latency(self.random.random(), SYNC_MIN, self.sync_max);
        let place = Arc::new(Place::new(node, seed, log, disk));
        self.places.push(place.clone());
        self.sim.host(AZS[node], move || {
            let place = place.clone();
            async move {
                place.live().await;
                Ok(())
            }
        });
    }

    /// Adds all clients, on one host: every host costs time in every tick. Clients are cut off and delayed together.
    pub(super) fn add_clients(&mut self, clients: Vec<Client>) {
        self.sim.client(CLIENTS, async move {
            let mut running = JoinSet::new();
            for client in clients {
                running.spawn_local(client);
            }
            while let Some(ended) = running.join_next().await {
                ended??;
            }
            Ok(())
        });
    }

    /// Milliseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// How often what happened.
    pub(super) fn coverage(&self) -> BTreeMap<String, u64> {
        let mut coverage = self.coverage.clone();
        for damage in self.places.iter().map(|place| place.disk.damage()) {
            for (what, times) in
                [("lost", damage.lost), ("kept", damage.kept), ("torn", damage.torn)]
            {
                *coverage.entry(format!("writes_{what}")).or_default() += u64::from(times);
            }
        }
        for (what, times) in self.places.iter().flat_map(|place| place.counted()) {
            *coverage.entry(what.to_owned()).or_default() += times;
        }
        coverage
    }

    /// A millisecond passes.
    pub(super) fn step(&mut self) -> turmoil::Result {
        tristream_interpose::set_clock(self.sim.elapsed());
        self.sim.step()?;
        self.now = self.sim.elapsed().as_millis() as u64;
        (0..3).for_each(|node| self.heed_end(node));
        while let Some(entry) = self.undo.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let undo = entry.remove();
            self.undo(undo);
        }
        self.fire_armed();
        Ok(())
    }

    fn count(&mut self, what: &str, times: u64) {
        *self.coverage.entry(what.to_owned()).or_default() += times;
    }

    /// Told once, however often it happens.
    fn violate(&mut self, what: String) {
        if !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    fn after(&mut self, ms: u64, undo: Undo) {
        self.undo_made += 1;
        self.undo.insert((self.now + ms, self.undo_made), undo);
    }

    /// Lets `fault` happen now.
    pub(super) fn inflict(&mut self, fault: &Fault) {
        tracing::info!(?fault, "fault");
        let hit = match fault.clone() {
            Fault::PowerLoss { nodes, back_after } => self.power_loss(&all_at(&nodes, back_after)),
            // Counted when they fire.
            Fault::PowerLossUnsynced { .. } | Fault::PowerLossEverywhere { .. } => {
                self.armed.push(fault.clone());
                false
            }
            Fault::ProcessCrash { node, back_after } => self.process_crash(node, back_after),
            Fault::Stop { node, back_after } => self.stop(node, back_after),
            Fault::Isolate { node, clients, lasts } => self.isolate(node, clients, lasts),
            Fault::OneWay { from, to, lasts } => self.cut(from, to, lasts),
            Fault::Bridge { a, b, lasts } => self.cut(a, b, lasts) | self.cut(b, a, lasts),
            Fault::Delay { node, up_to, lasts } => self.delay(node, up_to, lasts),
            Fault::Loss { node, permille, lasts } => {
                self.set_loss(node, f64::from(permille) / 1000.0);
                self.after(lasts, Undo::Loss(node));
                self.runs(node)
            }
            Fault::SlowSync { node, up_to, lasts } => {
                let (seed, max) = (self.random.random(), Duration::from_millis(up_to));
                self.places[node].disk.set_sync_latency(seed, max / 4, max);
                self.after(lasts, Undo::SyncTime(node));
                self.runs(node)
            }
            Fault::StalledSync { node, lasts } => {
                self.places[node].disk.hold_syncs();
                self.after(lasts, Undo::Release(node));
                // Counted when it is over, by whether anybody waited.
                false
            }
            Fault::FailedSync { node } => {
                if self.runs(node) {
                    self.places[node].disk.fail_syncs(1);
                    self.places[node].state.lock().disk_failed = true;
                }
                // Counted when the node noticed.
                false
            }
            Fault::ClockJump { node, by } => {
                self.places[node].clock.jump(by);
                self.runs(node)
            }
            Fault::ClockDrift { node, ppm } => {
                self.places[node].clock.drift(ppm);
                self.runs(node)
            }
            // Three empty folders may found a cluster, and rightly so.
            Fault::EmptyFolder { node, lasts } if !self.lacks_folder() => {
                self.process_crash(node, 20);
                let stand_in = SimulatedDisk::new();
                stand_in.set_sync_latency(self.random.random(), SYNC_MIN, self.sync_max);
                *self.places[node].stand_in.lock() = Some(stand_in);
                self.after(lasts, Undo::Folder(node));
                // Counted when the node says that it is not its folder.
                false
            }
            Fault::EmptyFolder { .. } => false,
        };
        if hit {
            self.count(&format!("fault_{}", fault.kind()), 1);
        }
    }

    /// Whether some node finds an empty folder in the place of its own.
    fn lacks_folder(&self) -> bool {
        self.places.iter().any(|place| place.stand_in.lock().is_some())
    }

    fn runs(&self, node: usize) -> bool {
        self.places[node].state.lock().running
    }

    /// The power of these nodes fails; each comes back after its milliseconds.
    fn power_loss(&mut self, nodes: &[(usize, u64)]) -> bool {
        let mut hit = false;
        for &(node, back_after) in nodes {
            if !self.runs(node) {
                continue;
            }
            hit = true;
            self.places[node].disk.power_loss(self.random.random());
            tracing::info!(node, damage = ?self.places[node].disk.damage(), "power lost");
            self.end(node, back_after);
        }
        hit
    }

    fn process_crash(&mut self, node: usize, back_after: u64) -> bool {
        let runs = self.runs(node);
        if runs {
            self.places[node].disk.process_crash();
            self.end(node, back_after);
        }
        runs
    }

    /// The process is gone, its disk already knows.
    fn end(&mut self, node: usize, back_after: u64) {
        self.places[node].end();
        self.sim.crash(AZS[node]);
        self.after(back_after, Undo::Start(node));
    }

    fn stop(&mut self, node: usize, back_after: u64) -> bool {
        let runs = self.runs(node);
        if runs {
            let life = {
                let mut state = self.places[node].state.lock();
                state.back_after_stop = Some(back_after);
                state.lives
            };
            self.places[node].stop.notify_one();
            self.after(STOP_MAX_MS, Undo::Kill(node, life));
        }
        runs
    }

    fn isolate(&mut self, node: usize, clients: bool, lasts: u64) -> bool {
        let mut hit = false;
        for other in (0..3 + usize::from(clients)).filter(|other| *other != node) {
            hit |= self.cut(node, other, lasts) | self.cut(other, node, lasts);
        }
        hit
    }

    /// Whether both ends are there to notice.
    fn cut(&mut self, from: usize, to: usize, lasts: u64) -> bool {
        self.sim.partition_oneway(host(from), host(to));
        let until = self.cuts.entry((from, to)).or_default();
        *until = (*until).max(self.now + lasts);
        self.after(lasts, Undo::Join(from, to));
        [from, to].into_iter().all(|end| end >= 3 || self.runs(end))
    }

    fn delay(&mut self, node: usize, up_to: u64, lasts: u64) -> bool {
        self.set_latency(node, Duration::from_millis(up_to));
        self.after(lasts, Undo::Latency(node));
        self.runs(node)
    }

    fn set_latency(&mut self, node: usize, max: Duration) {
        for other in (0..3).filter(|other| *other != node) {
            self.sim.set_link_max_message_latency(AZS[node], AZS[other], max);
        }
        self.sim.set_link_max_message_latency(AZS[node], CLIENTS, max);
    }

    fn set_loss(&mut self, node: usize, rate: f64) {
        for other in (0..3).filter(|other| *other != node) {
            self.sim.set_link_fail_rate(AZS[node], AZS[other], rate);
        }
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Start(node) if !self.runs(node) => {
                self.count("restarts", 1);
                tracing::info!(node, "restart");
                self.sim.bounce(AZS[node]);
            }
            Undo::Start(_) => {}
            Undo::Join(from, to) => {
                if self.cuts.get(&(from, to)).is_some_and(|until| *until <= self.now) {
                    self.cuts.remove(&(from, to));
                    self.sim.repair_oneway(host(from), host(to));
                }
            }
            Undo::Latency(node) => self.set_latency(node, self.latency_max),
            Undo::Loss(node) => self.set_loss(node, 0.0),
            Undo::SyncTime(node) => {
                let seed = self.random.random();
                self.places[node].disk.set_sync_latency(seed, SYNC_MIN, self.sync_max);
            }
            Undo::Release(node) => {
                if self.places[node].disk.waiting_syncs() > 0 {
                    self.count("fault_stalled_sync", 1);
                }
                self.places[node].disk.release_syncs();
            }
            Undo::Folder(node) => {
                self.process_crash(node, 20);
                *self.places[node].stand_in.lock() = None;
            }
            Undo::Kill(node, life) => {
                if self.runs(node) && self.places[node].state.lock().lives == life {
                    self.violations
                        .push(format!("{} did not stop within {STOP_MAX_MS} ms", AZS[node]));
                    self.process_crash(node, 0);
                }
            }
        }
    }

    /// A node that ended by itself is gone like any process, and is started again.
    fn heed_end(&mut self, node: usize) {
        let (ended, disk_failed, back_after) = {
            let mut state = self.places[node].state.lock();
            (state.ended.take(), state.disk_failed, state.back_after_stop)
        };
        let Some(ended) = ended else { return };
        match ended {
            Ended::Stopped => self.count("stops_to_the_end", 1),
            Ended::Failed(reason) | Ended::NotStarted(reason)
                if reason.contains("data folder is empty") =>
            {
                tracing::info!(node, reason, "ended in front of an empty folder");
                self.count("fault_empty_folder", 1);
                let lacks = self.places[node].stand_in.lock().is_some();
                if !lacks {
                    self.violate(format!("{} took its own folder for empty", AZS[node]));
                }
            }
            Ended::Failed(reason) | Ended::NotStarted(reason) if disk_failed => {
                tracing::info!(node, reason, "ended after a failed sync");
                self.count("fault_failed_sync", 1);
            }
            Ended::Failed(reason) => {
                self.violate(format!("{} stopped itself: {reason}", AZS[node]));
            }
            Ended::NotStarted(reason) => {
                self.violate(format!("{} did not start: {reason}", AZS[node]));
            }
        }
        let by_itself = self.random.random_range(20..1_000);
        self.process_crash(node, back_after.unwrap_or(by_itself));
    }

    fn fire_armed(&mut self) {
        for fault in std::mem::take(&mut self.armed) {
            let struck = match &fault {
                Fault::PowerLossUnsynced { nodes, back_after } if self.has_unsynced(nodes[0]) => {
                    all_at(nodes, *back_after)
                }
                Fault::PowerLossEverywhere { back_after }
                    if (0..3).all(|node| self.runs(node))
                        && (0..3).any(|node| self.has_unsynced(node)) =>
                {
                    back_after.iter().copied().enumerate().collect()
                }
                _ => {
                    self.armed.push(fault);
                    continue;
                }
            };
            self.power_loss(&struck);
            self.count(&format!("fault_{}", fault.kind()), 1);
        }
    }

    fn has_unsynced(&self, node: usize) -> bool {
        self.runs(node) && self.places[node].disk.unsynced_bytes() > 0
    }

    /// From now on no disk keeps what it says it keeps.
    pub(super) fn let_disks_lie(&self) {
        self.places.iter().for_each(|place| place.disk.lie());
    }

    /// No more faults: every node runs, every link is whole, disks are quick and honest. Clocks that were set
    /// stay set.
    pub(super) fn mend(&mut self) {
        tracing::info!("calm");
        self.armed.clear();
        for undo in std::mem::take(&mut self.undo).into_values() {
            if !matches!(undo, Undo::Kill(..)) {
                self.undo(undo);
            }
        }
        for (from, to) in std::mem::take(&mut self.cuts).into_keys() {
            self.sim.repair_oneway(host(from), host(to));
        }
        for place in &self.places {
            place.disk.fail_syncs(0);
            place.clock.drift(0);
        }
    }
}
