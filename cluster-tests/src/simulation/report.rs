//! What a run, or many, showed: verdict and coverage.
//!
//! Must not know how a run goes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::fault::Fault;

/// One seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash of the debug log.
    pub hash: String,
    /// Lines of the debug log.
    pub log_lines: u64,
    /// Time within the simulation.
    pub simulated_ms: u64,
    /// What broke a promise, in words; empty when all hold.
    pub violations: Vec<String>,
    /// The first breaches of each promise, each in the lines of the history that it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stories: Vec<Vec<String>>,
    /// How often what happened: acked records, faults that hit by kind, and so on.
    pub coverage: BTreeMap<String, u64>,
}

/// What must have happened somewhere in a sweep, besides a fault of each kind.
const MUST_HAPPEN: [&str; 25] = [
    "acked_records",
    "terms",
    "elections",
    "torn_tails",
    "tips_told",
    "restarts",
    "writes_torn",
    "records_read_live",
    "records_read_by_iterator",
    "streams_cycled",
    "reshards",
    "calls_sent_again",
    "shards_read_to_their_end",
    "trims",
    "purges",
    "shards_expired",
    "entries_repaired",
    "leader_moves",
    "rides_on_demand",
    "iterators_latest",
    "iterators_at_timestamp",
    "iterators_at_sequence_number",
    "iterators_after_sequence_number",
    "subscriptions_latest",
    "moments_listed",
];

/// The fault that meets all nodes at once.
pub const EVERYWHERE: &str = "fault_power_loss_everywhere";

/// Several seeds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sum {
    /// How many seeds.
    pub seeds: u64,
    /// Seeds that broke a promise.
    pub broken: Vec<u64>,
    /// Time within the simulation.
    pub simulated_ms: u64,
    /// Sum of the coverage.
    pub coverage: BTreeMap<String, u64>,
    /// In how many seeds what happened.
    pub seeds_with: BTreeMap<String, u64>,
    /// Puts with an acked record in the middle one of the seeds.
    pub median_acked_puts: u64,
    /// Faults that hit in the middle one of the seeds.
    pub median_faults: u64,
    #[serde(skip)]
    acked_puts: Vec<u64>,
    #[serde(skip)]
    faults: Vec<u64>,
}

impl Report {
    /// How many faults hit.
    pub fn faults(&self) -> u64 {
        let faults = self.coverage.iter().filter(|(what, _)| what.starts_with("fault_"));
        faults.map(|(_, count)| count).sum()
    }
}

/// Takes in one more, in order, and gives the middle one.
fn median_with(values: &mut Vec<u64>, value: u64) -> u64 {
    values.insert(values.partition_point(|known| *known < value), value);
    values[values.len() / 2]
}

impl Sum {
    /// Adds a seed.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.simulated_ms += report.simulated_ms;
        if !report.violations.is_empty() {
            self.broken.push(report.seed);
        }
        for (what, count) in &report.coverage {
            *self.coverage.entry(what.clone()).or_default() += count;
            *self.seeds_with.entry(what.clone()).or_default() += u64::from(*count > 0);
        }
        let acked_puts = report.coverage.get("acked_puts").copied().unwrap_or_default();
        self.median_acked_puts = median_with(&mut self.acked_puts, acked_puts);
        self.median_faults = median_with(&mut self.faults, report.faults());
    }

    /// In how many seeds this did not happen.
    pub fn seeds_without(&self, what: &str) -> u64 {
        self.seeds - self.seeds_with.get(what).copied().unwrap_or_default()
    }

    /// What never happened although a sweep is to show it.
    pub fn missing(&self) -> Vec<String> {
        let faults = Fault::kinds().map(|kind| format!("fault_{kind}"));
        let wanted = faults.chain(MUST_HAPPEN.iter().map(|what| (*what).to_owned()));
        wanted.filter(|what| self.coverage.get(what).copied().unwrap_or_default() == 0).collect()
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.simulated_ms / 1000;
        writeln!(f, "{} seeds, {} broken, {seconds} simulated s", self.seeds, self.broken.len())?;
        for (what, count) in &self.coverage {
            writeln!(f, "  {what:<32} {count}")?;
        }
        let count = |what: &str| self.coverage.get(what).copied().unwrap_or_default();
        let (lost, kept, torn) = (
            count("everywhere_writes_lost"),
            count("everywhere_writes_kept"),
            count("everywhere_writes_torn"),
        );
        let (acked, faults) = (self.median_acked_puts, self.median_faults);
        writeln!(f, "the median seed has {acked} acked puts and {faults} faults")?;
        writeln!(
            f,
            "power failed on all nodes at once {} times in {} of {} seeds: of the writes under way {lost} \
             were lost, {kept} kept, {torn} torn",
            count(EVERYWHERE),
            self.seeds - self.seeds_without(EVERYWHERE),
            self.seeds,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seed: u64, coverage: &[(&str, u64)]) -> Report {
        Report {
            seed,
            hash: String::new(),
            log_lines: 0,
            simulated_ms: 1_000,
            violations: if seed == 2 { vec!["broken".to_owned()] } else { vec![] },
            stories: Vec::new(),
            coverage: coverage.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect(),
        }
    }

    #[test]
    fn a_sum_knows_the_middle_seed_and_those_without() {
        let mut sum = Sum::default();
        sum.add(&report(1, &[("acked_puts", 900), (EVERYWHERE, 2), ("fault_stop", 1)]));
        sum.add(&report(2, &[("acked_puts", 10), (EVERYWHERE, 0)]));
        sum.add(&report(3, &[("acked_puts", 250), ("fault_stop", 5), ("restarts", 50)]));
        assert_eq!((sum.median_acked_puts, sum.median_faults), (250, 3));
        assert_eq!(sum.seeds_without(EVERYWHERE), 2);
        assert_eq!((sum.broken.clone(), sum.coverage[EVERYWHERE]), (vec![2], 2));
        let missing = sum.missing();
        assert!(missing.contains(&"fault_rot".to_owned()));
        assert!(missing.contains(&"fault_empty_disk".to_owned()));
        assert!(!missing.contains(&"fault_stop".to_owned()));
        let text = sum.to_string();
        assert!(text.contains("at once 2 times in 1 of 3 seeds"), "{text}");
    }
}
