//! Three nodes on three simulated disks, through time: started, undone what was done to them, mended.
//!
//! Owns turmoil's simulation. Invariant: a node that ends by itself is a violation unless a fault of its disk
//! excuses it. Must not know what clients do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tristream_node::config::Log;
use tristream_node::disk::{Damage, SimulatedDisk};
use turmoil::Sim;

use super::blocks::Copy;
use super::fault::Fault;
use super::place::{AZS, Ended, Place, RESERVE_BYTES};
use super::strike::{SOON_MS, STOP_MAX_MS};
use super::watched::WatchedDisk;
use super::world::clocks;

/// The host of all clients.
pub(super) const CLIENTS: &str = "clients";
/// The simulation's grain: every tick costs time on every host.
const TICK: Duration = Duration::from_millis(2);
pub(super) const LATENCY_MIN: Duration = Duration::from_micros(300);
/// Syncs of a disk in health.
pub(super) const SYNC_MIN: Duration = Duration::from_micros(100);
const SYNC_MAX_MS: [u64; 4] = [1, 3, 10, 30];

/// A host's name: clients are number 3.
pub(super) fn host(number: usize) -> &'static str {
    AZS.get(number).copied().unwrap_or(CLIENTS)
}

/// Which of the faults of its disk a node that ended by itself names.
fn excuse(faults: &BTreeSet<&'static str>, reason: &str) -> Option<&'static str> {
    let words = |fault: &str| match fault {
        "failed_sync" => "injected I/O error in sync",
        "failed_reads" => "Input/output error",
        "full_disk" => "no storage space",
        "empty_disk" => "this data folder is empty",
        _ => unreachable!("{fault} lets no node end"),
    };
    faults.iter().copied().find(|fault| reason.contains(words(fault)))
}

/// Who hears which record, at which place of its shard's log, a zone's disk keeps from now on.
pub(super) type Tell = Arc<dyn Fn(&'static str, &Copy) + Send + Sync>;

/// One of those who use the cluster. An error stops the simulation.
pub(super) type Client = LocalBoxFuture<'static, turmoil::Result>;

/// What is undone when a fault's time is over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Undo {
    Start(usize),
    Join(usize, usize),
    Latency(usize),
    Loss(usize),
    SyncTime(usize),
    Release(usize),
    Room(usize),
    Reads(usize),
    OwnDisk(usize),
    Kill(usize),
    /// Kills the life of this number, if it has not stopped.
    StopByForce(usize, u64),
}

/// A cluster under simulation.
pub(super) struct Cluster {
    pub(super) sim: Sim<'static>,
    pub(super) places: Vec<Arc<Place>>,
    pub(super) random: SmallRng,
    tell: Tell,
    latency_max: Duration,
    pub(super) sync_max: Duration,
    pub(super) now: u64,
    undo: BTreeMap<(u64, u64), Undo>,
    undo_made: u64,
    /// Until when nothing passes from one host to another.
    pub(super) cuts: BTreeMap<(usize, usize), u64>,
    /// The one node whose disk rots.
    pub(super) rotten: Option<usize>,
    /// Whether its footers do; else the heads of entries.
    pub(super) footers_rot: Option<bool>,
    /// Losses of power that wait for their moment.
    pub(super) armed: Vec<Fault>,
    coverage: BTreeMap<String, u64>,
    /// What nodes did that they must not.
    pub(super) violations: Vec<String>,
}

impl Cluster {
    /// Three nodes with empty disks, not stepped yet, that keep records for so long, or for longer than a run takes.
    pub(super) fn new(seed: u64, retention_seconds: Option<u64>, tell: Tell) -> Cluster {
        let mut random = SmallRng::seed_from_u64(seed ^ 0xc1);
        let latency_max = Duration::from_millis(random.random_range(2..30));
        let sync_max = Duration::from_millis(SYNC_MAX_MS[random.random_range(0..4)]);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(latency_max)
            .tcp_capacity(1 << 16);
        if random.random() {
            builder.enable_random_order();
        }
        // Small, so that segments fill and cold reads happen.
        let tail_bytes = [64 << 10, 1 << 20, 128 << 20][random.random_range(0..3)];
        let log = Log {
            segment_bytes: 1 << 20,
            tail_bytes,
            reserve_bytes: Some(RESERVE_BYTES),
            ..Log::default()
        };
        let mut cluster = Cluster {
            sim: builder.build(),
            places: Vec::new(),
            random,
            tell,
            latency_max,
            sync_max,
            now: 0,
            undo: BTreeMap::new(),
            undo_made: 0,
            cuts: BTreeMap::new(),
            rotten: None,
            footers_rot: None,
            armed: Vec::new(),
            coverage: BTreeMap::new(),
            violations: Vec::new(),
        };
        (0..3).for_each(|node| cluster.add_node(node, seed, log.clone(), retention_seconds));
        cluster
    }

    fn add_node(&mut self, node: usize, seed: u64, log: Log, retention_seconds: Option<u64>) {
        let disk = SimulatedDisk::new();
        disk.set_sync_latency(self.random.random(), SYNC_MIN, self.sync_max);
        let disk = self.watch(node, disk);
        let place = Arc::new(Place::new(node, seed, log, retention_seconds, disk));
        self.places.push(place.clone());
        self.sim.host(AZS[node], move || {
            let place = place.clone();
            async move {
                place.live().await;
                Ok(())
            }
        });
    }

    /// The disk of this node, or one that is put in its place.
    pub(super) fn watch(&self, node: usize, disk: SimulatedDisk) -> WatchedDisk {
        let tell = self.tell.clone();
        WatchedDisk::new(disk, Arc::new(move |copy| tell(AZS[node], copy)))
    }

    /// What each node's disk keeps, by zone.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&'static str, Vec<Copy>)> {
        AZS.into_iter().zip(self.places.iter().map(|place| place.watched().kept()))
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

    /// The lowest of the nodes' clocks, and the highest that a majority agrees with, by the end of the next tick.
    pub(super) fn clocks(&self) -> (u64, Option<u64>) {
        let at = |ms: u64| clocks([0, 1, 2].map(|node| self.places[node].clock.at(ms)));
        (at(self.now).0, at(self.now + TICK.as_millis() as u64).1)
    }

    /// How often what happened.
    pub(super) fn coverage(&self) -> BTreeMap<String, u64> {
        let mut coverage = self.coverage.clone();
        let damage = self.damage().into_iter();
        coverage.extend(damage.map(|(what, times)| (format!("writes_{what}"), times)));
        for (what, times) in self.places.iter().flat_map(|place| place.counted()) {
            *coverage.entry(what.to_owned()).or_default() += times;
        }
        coverage
    }

    /// What losses of power have done to writes so far.
    pub(super) fn damage(&self) -> [(&'static str, u64); 3] {
        let of_all = |count: fn(Damage) -> u32| {
            self.places.iter().map(|place| u64::from(count(place.damage()))).sum()
        };
        [
            ("lost", of_all(|damage| damage.lost)),
            ("kept", of_all(|damage| damage.kept)),
            ("torn", of_all(|damage| damage.torn)),
        ]
    }

    pub(super) fn runs(&self, node: usize) -> bool {
        self.places[node].state.lock().running
    }

    /// A tick passes.
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

    pub(super) fn count(&mut self, what: &str, times: u64) {
        *self.coverage.entry(what.to_owned()).or_default() += times;
    }

    /// Told once, however often it happens.
    pub(super) fn violate(&mut self, what: String) {
        if !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    pub(super) fn after(&mut self, ms: u64, undo: Undo) {
        self.undo_made += 1;
        self.undo.insert((self.now + ms, self.undo_made), undo);
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
                self.places[node].disk().set_sync_latency(seed, SYNC_MIN, self.sync_max);
            }
            Undo::Release(node) => {
                if self.places[node].disk().waiting_syncs() > 0 {
                    self.count("fault_stalled_sync", 1);
                }
                self.places[node].disk().release_syncs();
            }
            Undo::Room(node) => self.make_room(node),
            Undo::Reads(node) => {
                self.places[node].disk().fail_reads(0);
                self.places[node].state.lock().excuses.remove("failed_reads");
                self.process_crash(node, SOON_MS);
            }
            Undo::OwnDisk(node) => self.plug_own_disk(node),
            Undo::Kill(node) => {
                self.process_crash(node, SOON_MS);
            }
            Undo::StopByForce(node, life) => {
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
        let (ended, excuses, back_after) = {
            let mut state = self.places[node].state.lock();
            (state.ended.take(), state.excuses.clone(), state.back_after_stop)
        };
        let Some(ended) = ended else { return };
        match ended {
            Ended::Stopped => self.count("stops_to_the_end", 1),
            Ended::Failed(reason) | Ended::NotStarted(reason)
                if let Some(why) = excuse(&excuses, &reason) =>
            {
                tracing::info!(node, reason, "ended by a fault of its disk");
                self.count(&format!("fault_{why}"), 1);
                self.make_room(node);
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

    /// Metadata tables outlive their process. Before the first step.
    pub(super) fn let_tables_last(&self) {
        self.places.iter().for_each(|place| place.let_tables_last());
    }

    /// From now on no disk keeps what it says it keeps.
    pub(super) fn let_disks_lie(&self) {
        self.places.iter().for_each(|place| place.disk().lie());
    }

    /// No more faults: every node runs, every link is whole, disks are quick and honest. Clocks that were set
    /// stay set.
    pub(super) fn mend(&mut self) {
        tracing::info!("calm");
        self.armed.clear();
        for undo in std::mem::take(&mut self.undo).into_values() {
            if !matches!(undo, Undo::StopByForce(..)) {
                self.undo(undo);
            }
        }
        for (from, to) in std::mem::take(&mut self.cuts).into_keys() {
            self.sim.repair_oneway(host(from), host(to));
        }
        for node in 0..3 {
            self.heal_disk(node);
            self.places[node].clock.drift(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fault_that_a_node_names_excuses_it() {
        let faults = BTreeSet::from(["failed_sync", "full_disk"]);
        let synced = "Committer: injected I/O error in sync";
        assert_eq!(excuse(&faults, synced), Some("failed_sync"));
        assert_eq!(excuse(&faults, "Committer: no storage space"), Some("full_disk"));
        assert_eq!(excuse(&faults, "this data folder is empty, but"), None);
        assert_eq!(excuse(&BTreeSet::new(), synced), None);
    }
}
