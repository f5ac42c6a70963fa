//! Which fault comes when: all of it from a seed.
//!
//! Pure. Invariant: of any `Kind::ALL.len()` faults in a row from the beginning, each kind is one.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::processes::ZONES;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `kill -9`, then a start.
    Kill,
    /// SIGSTOP, then SIGCONT: a leader that does not know that it was deposed.
    Pause,
    /// A node from both others.
    Isolate,
    /// One direction between a node and the others.
    OneWay,
    /// One link of three.
    Bridge,
    /// Messages are slow.
    Delay,
    /// Messages and their connections are lost.
    Loss,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] = [
        Kind::Kill,
        Kind::Pause,
        Kind::Isolate,
        Kind::OneWay,
        Kind::Bridge,
        Kind::Delay,
        Kind::Loss,
    ];

    fn is_of_messages(self) -> bool {
        !matches!(self, Kind::Kill | Kind::Pause)
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) zone: &'static str,
    /// Of a bridge: the other end.
    pub(super) other: &'static str,
    /// Of one way: `to` the others, or `from` them.
    pub(super) direction: &'static str,
    /// Of a delay.
    pub(super) delay_ms: u64,
    /// Of a loss.
    pub(super) share: f64,
}

/// What is next: a pause, then a fault, perhaps with another one around it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) calm: Duration,
    pub(super) last: Duration,
    pub(super) fault: Fault,
    /// A fault of messages at another node, for all of that time.
    pub(super) around: Option<Fault>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { last, fault, around, .. } = self;
        write!(f, "{fault} for {} ms", last.as_millis())?;
        match around {
            Some(around) => write!(f, ", with {around}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kind, zone, other, direction, delay_ms, share } = self;
        match kind {
            Kind::Kill => write!(f, "kill -9 {zone}"),
            Kind::Pause => write!(f, "{zone} is paused"),
            Kind::Isolate => write!(f, "{zone} is cut off"),
            Kind::OneWay if *direction == "to" => write!(f, "nobody hears {zone}"),
            Kind::OneWay => write!(f, "{zone} hears nobody"),
            Kind::Bridge => write!(f, "{zone} is cut from {other}"),
            Kind::Delay => write!(f, "{zone} is slow by {delay_ms} to {} ms", 2 * delay_ms),
            Kind::Loss => write!(f, "{zone} loses {:.1} % of its messages", share * 100.0),
        }
    }
}

/// An endless row of faults.
pub(super) struct Schedule {
    rng: SmallRng,
    bag: Vec<Kind>,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Schedule {
        Schedule { rng: SmallRng::seed_from_u64(seed), bag: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Step {
        if self.bag.is_empty() {
            self.bag = Kind::ALL.to_vec();
            self.bag.shuffle(&mut self.rng);
        }
        let kind = self.bag.pop().unwrap_or(Kind::Kill);
        let fault = self.fault(kind);
        let around = self.rng.random_bool(0.25).then(|| {
            let of_messages: Vec<Kind> =
                Kind::ALL.into_iter().filter(|kind| kind.is_of_messages()).collect();
            let kind = *of_messages.choose(&mut self.rng).unwrap_or(&Kind::Delay);
            self.fault(kind)
        });
        let (calm, last) = (self.rng.random_range(200..1_200), self.rng.random_range(800..3_000));
        Step {
            calm: Duration::from_millis(calm),
            last: Duration::from_millis(last),
            around: around.filter(|around| around.zone != fault.zone),
            fault,
        }
    }

    fn fault(&mut self, kind: Kind) -> Fault {
        let zone = *ZONES.choose(&mut self.rng).unwrap_or(&ZONES[0]);
        let others: Vec<&'static str> = ZONES.into_iter().filter(|other| *other != zone).collect();
        Fault {
            kind,
            zone,
            other: others.choose(&mut self.rng).unwrap_or(&ZONES[0]),
            direction: if self.rng.random_bool(0.5) { "to" } else { "from" },
            delay_ms: self.rng.random_range(10..400),
            share: self.rng.random_range(0.1..0.5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let steps = |seed| {
            let mut schedule = Schedule::new(seed);
            (0..50).map(|_| schedule.next()).collect::<Vec<_>>()
        };
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }

    #[test]
    fn each_kind_comes_in_every_round_and_nothing_hits_itself() {
        for seed in 0..100 {
            let mut schedule = Schedule::new(seed);
            let round: Vec<Step> = Kind::ALL.iter().map(|_| schedule.next()).collect();
            let mut kinds: Vec<Kind> = round.iter().map(|step| step.fault.kind).collect();
            kinds.sort_unstable();
            assert_eq!(kinds, Kind::ALL);
            for step in &round {
                assert_ne!(step.fault.zone, step.fault.other);
                let around = step.around.as_ref();
                assert!(around.is_none_or(
                    |around| around.zone != step.fault.zone && around.kind.is_of_messages()
                ));
            }
        }
    }
}
