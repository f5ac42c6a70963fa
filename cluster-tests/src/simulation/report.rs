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
    /// How often what happened: acked records, faults that hit by kind, and so on.
    pub coverage: BTreeMap<String, u64>,
}

/// What must have happened somewhere in a sweep, besides a fault of each kind.
const MUST_HAPPEN: [&str; 13] = [
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
];

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
    }

    /// In how many seeds this did not happen.
    pub fn seeds_without(&self, what: &str) -> u64 {
        self.seeds - self.seeds_with.get(what).copied().unwrap_or_default()
    }

    /// What never happened although a sweep is to show it.
    pub fn missing(&self) -> Vec<String> {
        let faults = Fault::KINDS.iter().map(|kind| format!("fault_{kind}"));
        let wanted = faults.chain(MUST_HAPPEN.iter().map(|what| (*what).to_owned()));
        wanted.filter(|what| self.coverage.get(what).copied().unwrap_or_default() == 0).collect()
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.simulated_ms / 1000;
        writeln!(f, "{} seeds, {} broken, {seconds} simulated s", self.seeds, self.broken.len())?;
        for (what, count) in &self.coverage {
            writeln!(f, "  {what:<28} {count}")?;
        }
        Ok(())
    }
}
