//! How each fault is carried out, until its time is over.
//!
//! Invariant: a fault is counted where it met something that runs, or when it was noticed. Must not know how
//! faults are chosen.

use std::path::Path;
use std::time::Duration;

use rand::Rng;
use tristream_node::disk::{Disk, SimulatedDisk};

use super::cluster::{CLIENTS, Cluster, SYNC_MIN, Undo, host};
use super::fault::Fault;
use super::place::{AZS, LOG_DIR, RESERVE_BYTES};
use super::rot;

/// A node that was asked to stop and has not is killed after this long.
pub(super) const STOP_MAX_MS: u64 = 15_000;
/// Until a process that was killed for good measure is back.
pub(super) const SOON_MS: u64 = 20;
/// On a disk in health.
const ROOM_BYTES: u64 = 1 << 40;

/// These nodes, all back after the same time.
fn all_at(nodes: &[usize], back_after: u64) -> Vec<(usize, u64)> {
    nodes.iter().map(|node| (*node, back_after)).collect()
}

impl Cluster {
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
            Fault::Delay { node, up_to, lasts } => {
                self.set_latency(node, Duration::from_millis(up_to));
                self.after(lasts, Undo::Latency(node));
                self.runs(node)
            }
            Fault::SlowZone { node, at_least, lasts } => {
                self.fix_latency(node, Duration::from_millis(at_least));
                self.after(lasts, Undo::Latency(node));
                self.runs(node)
            }
            Fault::Loss { node, permille, lasts } => {
                self.set_loss(node, f64::from(permille) / 1000.0);
                self.after(lasts, Undo::Loss(node));
                self.runs(node)
            }
            Fault::ClockJump { node, by } => {
                self.places[node].clock.jump(by);
                self.runs(node)
            }
            Fault::ClockDrift { node, ppm } => {
                self.places[node].clock.drift(ppm);
                self.runs(node)
            }
            of_disk => self.inflict_on_disk(&of_disk),
        };
        if hit {
            self.count(&format!("fault_{}", fault.kind()), 1);
        }
    }

    fn inflict_on_disk(&mut self, fault: &Fault) -> bool {
        match *fault {
            Fault::SlowSync { node, up_to, lasts } => {
                let (seed, max) = (self.random.random(), Duration::from_millis(up_to));
                self.places[node].disk().set_sync_latency(seed, max / 4, max);
                self.after(lasts, Undo::SyncTime(node));
                self.runs(node)
            }
            // Counted when it is over, by whether anybody waited.
            Fault::StalledSync { node, lasts } => {
                self.places[node].disk().hold_syncs();
                self.after(lasts, Undo::Release(node));
                false
            }
            Fault::StalledDisk { node, lasts } => {
                self.places[node].disk().stall(Duration::from_millis(lasts));
                self.runs(node)
            }
            // This and the next are counted when the node notices.
            Fault::FailedSync { node, folder } => {
                if self.runs(node) {
                    let disk = self.places[node].disk();
                    if folder {
                        disk.fail_dir_syncs(1)
                    } else {
                        disk.fail_syncs(1)
                    }
                    self.excuse(node, fault);
                }
                false
            }
            Fault::FailedReads { node, count, lasts } => {
                self.places[node].disk().fail_reads(count);
                self.excuse(node, fault);
                self.after(lasts / 2, Undo::Kill(node));
                self.after(lasts, Undo::Reads(node));
                false
            }
            Fault::FullDisk { node, writes } => {
                self.places[node].disk().fill_after(writes);
                self.excuse(node, fault);
                false
            }
            Fault::NearlyFullDisk { node, lasts } => {
                self.make_room(node);
                self.places[node].leave_room(RESERVE_BYTES / 2);
                self.after(lasts, Undo::Room(node));
                self.runs(node)
            }
            Fault::EmptyDisk { node, back_after, found_after } => {
                self.lose_disk(node, back_after, found_after);
                false
            }
            Fault::Rot { node, bits } => self.rot(node, bits),
            _ => false,
        }
    }

    fn excuse(&mut self, node: usize, fault: &Fault) {
        self.places[node].state.lock().excuses.insert(fault.kind());
    }

    /// The power of these nodes fails; each comes back after its milliseconds.
    fn power_loss(&mut self, nodes: &[(usize, u64)]) -> bool {
        let mut hit = false;
        for &(node, back_after) in nodes {
            if !self.runs(node) {
                continue;
            }
            hit = true;
            let disk = self.places[node].watched();
            disk.power_loss(self.random.random());
            tracing::info!(node, damage = ?disk.disk.damage(), "power lost");
            self.end(node, back_after);
        }
        hit
    }

    pub(super) fn process_crash(&mut self, node: usize, back_after: u64) -> bool {
        let runs = self.runs(node);
        if runs {
            self.places[node].disk().process_crash();
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
            self.after(STOP_MAX_MS, Undo::StopByForce(node, life));
        }
        runs
    }

    /// One node at a time: with three empty disks there would be nothing that a node could know.
    fn lose_disk(&mut self, node: usize, back_after: u64, found_after: u64) {
        let strange = self.places.iter().any(|place| place.has_a_strange_disk());
        if strange || !self.power_loss(&[(node, back_after)]) {
            return;
        }
        // Whatever was to be undone on it is, for what comes now is undone on the other.
        self.heal_disk(node);
        let empty = SimulatedDisk::new();
        empty.set_sync_latency(self.random.random(), SYNC_MIN, self.sync_max);
        self.places[node].unplug(self.watch(node, empty));
        self.places[node].state.lock().excuses.insert("empty_disk");
        self.after(found_after, Undo::OwnDisk(node));
    }

    /// What an empty disk holds now: a node that took part would have begun a log.
    pub(super) fn plug_own_disk(&mut self, node: usize) {
        self.process_crash(node, SOON_MS);
        let Some(strange) = self.places[node].plug_own() else { return };
        self.places[node].state.lock().excuses.clear();
        let log = strange.restarted().list(Path::new(LOG_DIR));
        if log.is_ok_and(|names| !names.is_empty()) {
            self.violate(format!("{} began a log on an empty disk", AZS[node]));
        }
    }

    /// Damages what one node has, and no other in the whole run: of each record two sound copies stay. Where heads rot
    /// no footer does, nor the other way round: each is made good from the other.
    fn rot(&mut self, node: usize, bits: usize) -> bool {
        if self.rotten.is_some_and(|rotten| rotten != node)
            || self.places[node].has_a_strange_disk()
        {
            return false;
        }
        let disk = self.places[node].disk().restarted();
        let mut segments = disk.list(Path::new(LOG_DIR)).unwrap_or_default();
        segments.sort();
        let rottable = |name: &String| {
            let number = name.strip_suffix(".seg")?.parse().ok()?;
            let path = Path::new(LOG_DIR).join(name);
            let bytes = disk.synced(&path).ok()?;
            let found = rot::rottable(number, &bytes);
            (!found.payloads.is_empty()).then_some((path, found))
        };
        let mut sealed: Vec<_> = segments.iter().filter_map(rottable).collect();
        if sealed.is_empty() {
            return false;
        }
        self.rotten = Some(node);
        let (path, found) = sealed.swap_remove(self.random.random_range(0..sealed.len()));
        let is_of_footer = *self.footers_rot.get_or_insert_with(|| self.random.random_bool(0.2));
        let places = match (self.random.random_bool(0.7), is_of_footer) {
            (true, _) => found.payloads,
            (false, true) => found.footer,
            (false, false) => found.heads,
        };
        for _ in 0..bits {
            let place = places[self.random.random_range(0..places.len())].clone();
            let flipped = disk.rot(&path, place, 1, self.random.random());
            tracing::info!(node, ?path, ?flipped, "rot");
        }
        true
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

    pub(super) fn set_loss(&mut self, node: usize, rate: f64) {
        for other in (0..3).filter(|other| *other != node) {
            self.sim.set_link_fail_rate(AZS[node], AZS[other], rate);
        }
    }

    /// Losses of power whose moment has come.
    pub(super) fn fire_armed(&mut self) {
        for fault in std::mem::take(&mut self.armed) {
            let Some(struck) = self.struck_by(&fault) else {
                self.armed.push(fault);
                continue;
            };
            let before = self.damage();
            self.power_loss(&struck);
            self.count(&format!("fault_{}", fault.kind()), 1);
            if matches!(fault, Fault::PowerLossEverywhere { .. }) {
                for ((what, now), (_, before)) in self.damage().into_iter().zip(before) {
                    self.count(&format!("everywhere_writes_{what}"), now - before);
                }
            }
        }
    }

    /// Whom a loss of power meets, if this is the moment.
    fn struck_by(&self, fault: &Fault) -> Option<Vec<(usize, u64)>> {
        let has_unsynced =
            |node: usize| self.runs(node) && self.places[node].disk().unsynced_bytes() > 0;
        let whole = |node: usize| self.runs(node) && !self.places[node].has_a_strange_disk();
        match fault {
            Fault::PowerLossUnsynced { nodes, back_after } => {
                has_unsynced(*nodes.first()?).then(|| all_at(nodes, *back_after))
            }
            Fault::PowerLossEverywhere { back_after } => ((0..3).all(whole)
                && (0..3).any(has_unsynced))
            .then(|| back_after.iter().copied().enumerate().collect()),
            _ => None,
        }
    }

    /// All of a node's disk is in health again, but for what it has lost.
    pub(super) fn heal_disk(&mut self, node: usize) {
        let disk = self.places[node].disk();
        disk.fail_syncs(0);
        disk.fail_dir_syncs(0);
        disk.fail_reads(0);
        disk.stall(Duration::ZERO);
        disk.release_syncs();
        disk.set_sync_latency(self.random.random(), SYNC_MIN, self.sync_max);
        self.make_room(node);
        self.places[node].state.lock().excuses.clear();
    }

    /// A full disk is emptied by whoever starts the node again.
    pub(super) fn make_room(&mut self, node: usize) {
        self.places[node].leave_room(ROOM_BYTES);
        self.places[node].state.lock().excuses.remove("full_disk");
    }

    pub(super) fn set_latency(&mut self, node: usize, max: Duration) {
        // turmoil sets the shortest time only together with the longest.
        self.fix_latency(node, super::cluster::LATENCY_MIN);
        for other in (0..3).filter(|other| *other != node) {
            self.sim.set_link_max_message_latency(AZS[node], AZS[other], max);
        }
        self.sim.set_link_max_message_latency(AZS[node], CLIENTS, max);
    }

    /// Every message to and from the node takes this long.
    fn fix_latency(&mut self, node: usize, latency: Duration) {
        for other in (0..3).filter(|other| *other != node) {
            self.sim.set_link_latency(AZS[node], AZS[other], latency);
        }
        self.sim.set_link_latency(AZS[node], CLIENTS, latency);
    }
}
