//! What can happen to the cluster, and when: drawn from a seed, or written down as a script.
//!
//! Pure. Must not know how a fault is carried out.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Nodes are numbered 0, 1, 2; times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The power of these nodes fails: what was not synced is lost, kept or torn.
    PowerLoss { nodes: Vec<usize>, back_after: u64 },
    /// The same, at the first moment from now on at which the first of them has unsynced bytes.
    PowerLossUnsynced { nodes: Vec<usize>, back_after: u64 },
    /// The power of all three fails, at the first moment from now on at which all run and one has unsynced bytes. Each
    /// is back after its own time.
    PowerLossEverywhere { back_after: [u64; 3] },
    /// The process dies: unsynced bytes stay readable, and are not durable.
    ProcessCrash { node: usize, back_after: u64 },
    /// The process is asked to stop, and is started again.
    Stop { node: usize, back_after: u64 },
    /// Nothing passes between a node and the other two; clients are cut off too, or not.
    Isolate { node: usize, clients: bool, lasts: u64 },
    /// Nothing passes from one node to another; the way back is open.
    OneWay { from: usize, to: usize, lasts: u64 },
    /// Nothing passes between two nodes; both see the third.
    Bridge { a: usize, b: usize, lasts: u64 },
    /// Messages to and from a node take up to this long.
    Delay { node: usize, up_to: u64, lasts: u64 },
    /// Every message to and from a node takes at least this long: its zone is far away.
    SlowZone { node: usize, at_least: u64, lasts: u64 },
    /// Of a thousand messages to and from a node so many are lost; nothing sends them again, so their
    /// connections hang until somebody gives up.
    Loss { node: usize, permille: u32, lasts: u64 },
    /// Syncs of a node take up to this long.
    SlowSync { node: usize, up_to: u64, lasts: u64 },
    /// Syncs of a node do not end before this is over.
    StalledSync { node: usize, lasts: u64 },
    /// Whatever a node's disk is asked for waits until this is over.
    StalledDisk { node: usize, lasts: u64 },
    /// The next sync of a node fails, and what it was to make durable is not: of a file, or of names in a folder.
    FailedSync {
        node: usize,
        #[serde(default)]
        folder: bool,
    },
    /// The next so many reads of a node fail, for at most so long. A replica that met one stops for good, so somebody
    /// kills the process: half-way, so that who starts again meets the rest, and at the end.
    FailedReads { node: usize, count: u32, lasts: u64 },
    /// A node's disk has less room than is kept for what must go on.
    NearlyFullDisk { node: usize, lasts: u64 },
    /// A node's disk finds room for so many more writes, and then for none. The node stops, and somebody makes room.
    FullDisk { node: usize, writes: u64 },
    /// So many bits flip in what a node has synced and no longer writes to: all in one segment of its log.
    Rot { node: usize, bits: usize },
    /// A node loses power, comes back with an empty disk, and gets its own again later.
    EmptyDisk { node: usize, back_after: u64, found_after: u64 },
    /// Somebody sets a node's clock.
    ClockJump { node: usize, by: i64 },
    /// A node's clock runs fast or slow, by parts in a million.
    ClockDrift { node: usize, ppm: i64 },
}

/// Whether storms let bits rot: not while a node that holds a damaged entry which was never committed, and which
/// its peers do not have, waits for it for ever (docs/status.md).
const ROT_IS_DRAWN: bool = true;

impl Fault {
    /// The kinds that storms draw, as [`Fault::kind`] names them.
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        [
            "power_loss",
            "power_loss_unsynced",
            "power_loss_everywhere",
            "process_crash",
            "stop",
            "isolate",
            "one_way",
            "bridge",
            "delay",
            "slow_zone",
            "loss",
            "slow_sync",
            "stalled_sync",
            "stalled_disk",
            "failed_sync",
            "failed_reads",
            "nearly_full_disk",
            "full_disk",
            "empty_disk",
            "clock_jump",
            "clock_drift",
            "rot",
        ]
        .into_iter()
        .filter(|kind| ROT_IS_DRAWN || *kind != "rot")
    }

    /// What kind of fault it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::PowerLoss { .. } => "power_loss",
            Fault::PowerLossUnsynced { .. } => "power_loss_unsynced",
            Fault::PowerLossEverywhere { .. } => "power_loss_everywhere",
            Fault::ProcessCrash { .. } => "process_crash",
            Fault::Stop { .. } => "stop",
            Fault::Isolate { .. } => "isolate",
            Fault::OneWay { .. } => "one_way",
            Fault::Bridge { .. } => "bridge",
            Fault::Delay { .. } => "delay",
            Fault::SlowZone { .. } => "slow_zone",
            Fault::Loss { .. } => "loss",
            Fault::SlowSync { .. } => "slow_sync",
            Fault::StalledSync { .. } => "stalled_sync",
            Fault::StalledDisk { .. } => "stalled_disk",
            Fault::FailedSync { .. } => "failed_sync",
            Fault::FailedReads { .. } => "failed_reads",
            Fault::NearlyFullDisk { .. } => "nearly_full_disk",
            Fault::FullDisk { .. } => "full_disk",
            Fault::EmptyDisk { .. } => "empty_disk",
            Fault::ClockJump { .. } => "clock_jump",
            Fault::ClockDrift { .. } => "clock_drift",
            Fault::Rot { .. } => "rot",
        }
    }
}

/// A fault at its time: milliseconds from the first ack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub fault: Fault,
}

/// Which faults a seed draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storm {
    /// Any.
    #[default]
    Mixed,
    /// Any, and in each seed the power of all three nodes fails at once, two to four times.
    PowerLossAll,
}

/// Faults over `span_ms`, by rising time. Each seed has a temper of its own: some are dense, some sparse.
pub fn schedule(seed: u64, span_ms: u64, storm: Storm) -> Vec<Event> {
    let mut random = SmallRng::seed_from_u64(seed ^ 0xfa17);
    let pause_max = random.random_range(400..3_000);
    let mut events = Vec::new();
    let mut at = random.random_range(100..1_500);
    while at < span_ms {
        let fault = draw(&mut random);
        let again = power_lost_again(&mut random, at, &fault);
        events.push(Event { at, fault });
        events.extend(again);
        at += random.random_range(50..pause_max);
    }
    if storm == Storm::PowerLossAll {
        events.extend(power_lost_everywhere(&mut random, span_ms));
    }
    rot_on_one_node(&mut random, &mut events);
    events.sort_by_key(|event| event.at);
    events
}

/// Of what rots on one node a majority is sound; of what rots on two, a replica that lags may be all that is left.
fn rot_on_one_node(random: &mut SmallRng, events: &mut [Event]) {
    let rotten = random.random_range(0..3);
    for event in events {
        if let Fault::Rot { node, .. } = &mut event.fault {
            *node = rotten;
        }
    }
}

/// Two to four times, one in each part of the span but the last: other faults may keep a node down for a while.
fn power_lost_everywhere(random: &mut SmallRng, span_ms: u64) -> Vec<Event> {
    let times = random.random_range(2..=4);
    let part = (span_ms / (times + 1)).max(1);
    let once = |number| Event {
        at: number * part + random.random_range(0..part),
        fault: Fault::PowerLossEverywhere { back_after: [(); 3].map(|()| back_after(random)) },
    };
    (0..times).map(once).collect()
}

/// Now and then the power fails once more while a node recovers, when what it writes decides what it is.
fn power_lost_again(random: &mut SmallRng, at: u64, fault: &Fault) -> Option<Event> {
    let (Fault::PowerLoss { nodes, back_after } | Fault::PowerLossUnsynced { nodes, back_after }) =
        fault
    else {
        return None;
    };
    let at = at + back_after + random.random_range(0..20);
    let fault =
        Fault::PowerLossUnsynced { nodes: nodes.clone(), back_after: self::back_after(random) };
    random.random_bool(0.3).then_some(Event { at, fault })
}

fn draw(random: &mut SmallRng) -> Fault {
    let node = random.random_range(0..3);
    let other = (node + random.random_range(1..3)) % 3;
    let lasts = random.random_range(100..4_000);
    let back_after = back_after(random);
    match random.random_range(0..if ROT_IS_DRAWN { 28 } else { 26 }) {
        0 | 1 => Fault::PowerLoss { nodes: some_nodes(random, node), back_after },
        2..=5 => Fault::PowerLossUnsynced { nodes: some_nodes(random, node), back_after },
        6 => Fault::PowerLossEverywhere { back_after: [(); 3].map(|()| self::back_after(random)) },
        7 => Fault::ProcessCrash { node, back_after },
        8 => Fault::Stop { node, back_after },
        9 => Fault::Isolate { node, clients: random.random(), lasts },
        10 => Fault::OneWay { from: node, to: other, lasts },
        11 => Fault::Bridge { a: node, b: other, lasts },
        12 => Fault::Delay { node, up_to: random.random_range(20..400), lasts },
        13 => Fault::SlowZone { node, at_least: random.random_range(10..150), lasts },
        14 => Fault::Loss { node, permille: random.random_range(1..80), lasts },
        15 => Fault::ClockJump { node, by: random.random_range(-5_000..5_000) },
        16 => Fault::ClockDrift { node, ppm: random.random_range(-20_000..20_000) },
        _ => draw_of_disk(random, node),
    }
}

fn draw_of_disk(random: &mut SmallRng, node: usize) -> Fault {
    let lasts = random.random_range(100..4_000);
    match random.random_range(0..if ROT_IS_DRAWN { 11 } else { 9 }) {
        0 => Fault::SlowSync { node, up_to: random.random_range(10..200), lasts },
        1 => Fault::StalledSync { node, lasts },
        2 => Fault::StalledDisk { node, lasts },
        3 | 4 => Fault::FailedSync { node, folder: random.random_bool(0.2) },
        5 => Fault::FailedReads { node, count: random.random_range(1..4), lasts },
        6 => Fault::NearlyFullDisk { node, lasts },
        7 => Fault::FullDisk { node, writes: random.random_range(0..20) },
        8 => Fault::EmptyDisk { node, back_after: back_after(random), found_after: 1_000 + lasts },
        _ => Fault::Rot { node, bits: random.random_range(1..4) },
    }
}

/// Often at once, so that a restarted node meets its peers' old state; else late enough to be missed.
fn back_after(random: &mut SmallRng) -> u64 {
    if random.random() { random.random_range(2..80) } else { random.random_range(80..3_000) }
}

fn some_nodes(random: &mut SmallRng, first: usize) -> Vec<usize> {
    let count = [1, 1, 1, 2, 2, 3][random.random_range(0..6)];
    (0..count).map(|step| (first + step) % 3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn mixed(seed: u64) -> Vec<Event> {
        schedule(seed, 20_000, Storm::Mixed)
    }

    #[test]
    fn a_seed_means_one_schedule() {
        assert_eq!(mixed(7), mixed(7));
        assert_ne!(mixed(7), mixed(8));
    }

    #[test]
    fn power_fails_everywhere_in_every_storm_that_is_to_have_it() {
        for seed in 0..200 {
            let events = schedule(seed, 20_000, Storm::PowerLossAll);
            let everywhere = |event: &&Event| event.fault.kind() == "power_loss_everywhere";
            let early = events.iter().filter(everywhere).filter(|event| event.at < 16_000);
            assert!(early.count() >= 2, "seed {seed}: {events:?}");
            assert!(events.len() > mixed(seed).len(), "seed {seed} has no other faults");
            assert!(events.is_sorted_by_key(|event| event.at));
        }
        let without = (0..200).filter(|seed| {
            !mixed(*seed).iter().any(|event| event.fault.kind() == "power_loss_everywhere")
        });
        assert!(without.count() > 20, "the other storms do not all have it");
    }

    #[test]
    fn every_kind_is_drawn() {
        let events = (0..50).flat_map(mixed);
        let drawn: BTreeSet<&str> = events.map(|event| event.fault.kind()).collect();
        assert_eq!(drawn, Fault::kinds().collect());
    }

    #[test]
    fn one_disk_of_a_run_rots() {
        let nodes_of = |seed| {
            let rotten = mixed(seed).into_iter().filter_map(|event| match event.fault {
                Fault::Rot { node, .. } => Some(node),
                _ => None,
            });
            rotten.collect::<Vec<_>>()
        };
        let all: Vec<Vec<usize>> = (0..100).map(nodes_of).collect();
        for nodes in &all {
            assert!(nodes.windows(2).all(|pair| pair[0] == pair[1]), "{nodes:?}");
        }
        let nodes: BTreeSet<usize> = all.into_iter().flatten().collect();
        assert_eq!(nodes.len(), if ROT_IS_DRAWN { 3 } else { 0 });
    }

    #[test]
    fn a_script_is_what_was_written() {
        let events = mixed(3);
        let text = serde_json::to_string(&events).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Event>>(&text).unwrap(), events);
    }
}
