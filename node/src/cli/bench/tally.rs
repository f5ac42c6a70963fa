//! What became of the puts, phase by phase and step by step.
//!
//! Invariant: a put that was on its way during a step counts for that step, wherever it began or ended.

use std::time::Duration;

use tristream_client::Error;
use tristream_proto::domain::Effect;

use super::latency::Latency;

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Before,
    Splits,
    Merges,
    After,
}

impl Phase {
    pub(super) const ALL: [Phase; 4] = [Phase::Before, Phase::Splits, Phase::Merges, Phase::After];

    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Before => "before",
            Phase::Splits => "splits",
            Phase::Merges => "merges",
            Phase::After => "after",
        }
    }

    fn is_step(self) -> bool {
        matches!(self, Phase::Splits | Phase::Merges)
    }
}

/// Where the bench is: its phase, and the step within all steps, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) phase: Phase,
    pub(super) step: usize,
}

/// The puts of a phase.
#[derive(Clone, Debug, Default)]
pub(super) struct Puts {
    /// From the moment a put was due to its ack.
    pub(super) latency: Latency,
    /// Longest time that one key had a put due and no ack came.
    pub(super) pause: Duration,
    pub(super) not_stored: u64,
    pub(super) unknown: u64,
}

/// All puts.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) place: Place,
    phases: Vec<Puts>,
    /// Longest pause of a key in each step.
    pauses: Vec<Duration>,
    /// The first failure, in words.
    pub(super) failure: Option<String>,
}

/// A put that was answered.
pub(super) struct Answered {
    /// Where the bench was when the put was due.
    pub(super) begun: Place,
    /// From due to ack.
    pub(super) took: Duration,
    /// From due, or from the ack before if that came later, to the ack.
    pub(super) waited: Duration,
    pub(super) outcome: Result<(), Error>,
}

impl Tally {
    pub(super) fn new(steps: usize) -> Tally {
        Tally {
            place: Place { phase: Phase::Before, step: 0 },
            phases: vec![Puts::default(); Phase::ALL.len()],
            pauses: vec![Duration::ZERO; steps],
            failure: None,
        }
    }

    pub(super) fn add(&mut self, answered: Answered) {
        let Answered { begun, took, waited, outcome } = answered;
        let place =
            if self.place.phase.is_step() || !begun.phase.is_step() { self.place } else { begun };
        let puts = &mut self.phases[place.phase as usize];
        puts.pause = puts.pause.max(waited);
        match &outcome {
            Ok(()) => puts.latency.add(took),
            Err(error) => match error.effect() {
                Effect::None => puts.not_stored += 1,
                Effect::Unknown => puts.unknown += 1,
            },
        }
        for place in [begun, self.place] {
            if place.phase.is_step()
                && let Some(pause) = self.pauses.get_mut(place.step)
            {
                *pause = waited.max(*pause);
            }
        }
        if let Err(error) = outcome {
            self.failure.get_or_insert_with(|| error.to_string());
        }
    }

    pub(super) fn puts(&self, phase: Phase) -> &Puts {
        &self.phases[phase as usize]
    }

    /// Longest pause of a key in a step.
    pub(super) fn pause(&self, step: usize) -> Duration {
        self.pauses.get(step).copied().unwrap_or_default()
    }

    pub(super) fn acked(&self) -> u64 {
        self.phases.iter().map(|puts| puts.latency.count()).sum()
    }

    /// Puts that were not acked.
    pub(super) fn failed(&self) -> u64 {
        self.phases.iter().map(|puts| puts.not_stored + puts.unknown).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(begun: Place, millis: u64) -> Answered {
        let time = Duration::from_millis(millis);
        Answered { begun, took: time, waited: time, outcome: Ok(()) }
    }

    #[test]
    fn a_put_counts_for_the_step_that_it_met() {
        let before = Place { phase: Phase::Before, step: 0 };
        let first = Place { phase: Phase::Splits, step: 0 };
        let second = Place { phase: Phase::Splits, step: 1 };
        let after = Place { phase: Phase::After, step: 2 };
        let mut tally = Tally::new(2);
        tally.add(answered(before, 1));
        tally.place = first;
        tally.add(answered(before, 2));
        tally.place = second;
        // Begun in the first step, ended in the second: both made it wait.
        tally.add(answered(first, 30));
        tally.add(answered(second, 4));
        tally.place = after;
        tally.add(answered(second, 50));
        tally.add(answered(after, 6));
        let counts = Phase::ALL.map(|phase| tally.puts(phase).latency.count());
        assert_eq!(counts, [1, 4, 0, 1]);
        assert_eq!(tally.pause(0), Duration::from_millis(30));
        assert_eq!(tally.pause(1), Duration::from_millis(50));
        assert_eq!(tally.puts(Phase::Splits).pause, Duration::from_millis(50));
        assert_eq!((tally.acked(), tally.failed()), (6, 0));
    }

    #[test]
    fn failures_are_told_by_what_is_known_of_them() {
        let begun = Place { phase: Phase::Before, step: 0 };
        let mut tally = Tally::new(0);
        for error in [Error::Unknown("cut off".into()), Error::Throttled("full".into())] {
            tally.add(Answered { outcome: Err(error), ..answered(begun, 9) });
        }
        let puts = tally.puts(Phase::Before);
        assert_eq!((puts.unknown, puts.not_stored, puts.latency.count()), (1, 1, 0));
        assert_eq!(tally.failure.as_deref(), Some("outcome unknown: cut off"));
        assert_eq!(tally.failed(), 2);
    }
}
