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
    /// Of a thousand messages to and from a node so many are lost; nothing sends them again, so their
    /// connections hang until somebody gives up.
    Loss { node: usize, permille: u32, lasts: u64 },
    /// Syncs of a node take up to this long.
    SlowSync { node: usize, up_to: u64, lasts: u64 },
    /// Syncs of a node do not end before this is over.
    StalledSync { node: usize, lasts: u64 },
    /// The next sync of a node fails, and what it was to make durable is not.
    FailedSync { node: usize },
    /// Somebody sets a node's clock.
    ClockJump { node: usize, by: i64 },
    /// A node's clock runs fast or slow, by parts in a million.
    ClockDrift { node: usize, ppm: i64 },
}

impl Fault {
    /// Every kind, as [`Fault::kind`] names it.
    pub const KINDS: [&str; 14] = [
        "power_loss",
        "power_loss_unsynced",
        "process_crash",
        "stop",
        "isolate",
        "one_way",
        "bridge",
        "delay",
        "loss",
        "slow_sync",
        "stalled_sync",
        "failed_sync",
        "clock_jump",
        "clock_drift",
    ];

    /// What kind of fault it is.
    pub fn kind(&self) -> &'static str {
        let place = match self {
            Fault::PowerLoss { .. } => 0,
            Fault::PowerLossUnsynced { .. } => 1,
            Fault::ProcessCrash { .. } => 2,
            Fault::Stop { .. } => 3,
            Fault::Isolate { .. } => 4,
            Fault::OneWay { .. } => 5,
            Fault::Bridge { .. } => 6,
            Fault::Delay { .. } => 7,
            Fault::Loss { .. } => 8,
            Fault::SlowSync { .. } => 9,
            Fault::StalledSync { .. } => 10,
            Fault::FailedSync { .. } => 11,
            Fault::ClockJump { .. } => 12,
            Fault::ClockDrift { .. } => 13,
        };
        Fault::KINDS[place]
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

/// Faults over `span_ms`, by rising time. Each seed has a temper of its own: some are dense, some sparse.
pub fn schedule(seed: u64, span_ms: u64) -> Vec<Event> {
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
    events.sort_by_key(|event| event.at);
    events
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
    match random.random_range(0..17) {
        0 | 1 => Fault::PowerLoss { nodes: some_nodes(random, node), back_after },
        2..=4 => Fault::PowerLossUnsynced { nodes: some_nodes(random, node), back_after },
        5 => Fault::ProcessCrash { node, back_after },
        6 => Fault::Stop { node, back_after },
        7 => Fault::Isolate { node, clients: random.random(), lasts },
        8 => Fault::OneWay { from: node, to: other, lasts },
        9 => Fault::Bridge { a: node, b: other, lasts },
        10 => Fault::Delay { node, up_to: random.random_range(20..400), lasts },
        11 => Fault::SlowSync { node, up_to: random.random_range(10..200), lasts },
        12 => Fault::StalledSync { node, lasts },
        13 => Fault::FailedSync { node },
        14 => Fault::Loss { node, permille: random.random_range(1..80), lasts },
        15 => Fault::ClockJump { node, by: random.random_range(-5_000..5_000) },
        _ => Fault::ClockDrift { node, ppm: random.random_range(-20_000..20_000) },
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

    #[test]
    fn a_seed_means_one_schedule() {
        assert_eq!(schedule(7, 20_000), schedule(7, 20_000));
        assert_ne!(schedule(7, 20_000), schedule(8, 20_000));
    }

    #[test]
    fn every_kind_is_drawn() {
        let events = (0..50).flat_map(|seed| schedule(seed, 20_000));
        let drawn: BTreeSet<&str> = events.map(|event| event.fault.kind()).collect();
        assert_eq!(drawn, BTreeSet::from(Fault::KINDS));
    }

    #[test]
    fn a_script_is_what_was_written() {
        let events = schedule(3, 20_000);
        let text = serde_json::to_string(&events).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Event>>(&text).unwrap(), events);
    }
}
