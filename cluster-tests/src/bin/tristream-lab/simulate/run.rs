//! One seed: what it is run with, in which process, and by which command it is run again.
//!
//! Must not know what a run does.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tristream_cluster_tests::pinned;
use tristream_cluster_tests::simulation::{self, Event, Plant, Report, Script, Storm, broken};

#[derive(Args, Clone)]
pub(super) struct Run {
    /// How many simulated seconds faults come: by default 20, or what the script says.
    #[arg(long)]
    pub(super) seconds: Option<u64>,
    /// Which faults a seed draws.
    #[arg(long, value_enum, default_value_t)]
    pub(super) faults: Faults,
    /// Faults from a file of JSON instead of from the seed.
    #[arg(long, conflicts_with = "faults")]
    pub(super) script: Option<PathBuf>,
    /// Of these faults only some, by their places in the list, from 0 on: `2,5`, or `none`.
    #[arg(long)]
    pub(super) only: Option<Only>,
    /// How many real seconds one seed may take.
    #[arg(long, default_value_t = 900)]
    pub(super) patience: u64,
    /// Hash the log with every line of debugging, which takes several times as long.
    #[arg(long)]
    pub(super) full: bool,
    /// Write the log here (one seed only).
    #[arg(long)]
    pub(super) log: Option<PathBuf>,
    /// Write what clients saw here, and the faults, as a recording for `verify` (one seed only).
    #[arg(long)]
    pub(super) history: Option<PathBuf>,
    /// Make a mistake on purpose, and watch it being found. `list` tells which there are.
    #[arg(long)]
    pub(super) plant: Option<String>,
    /// Faults from the script that is pinned for the planted bug. `--plant` alone means this, over the script's seeds.
    #[arg(long, requires = "plant", conflicts_with_all = ["script", "faults"])]
    pub(super) pinned: bool,
}

/// Places in a list of faults.
#[derive(Clone, Debug)]
pub(super) struct Only(pub(super) Vec<usize>);

impl FromStr for Only {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Only, Self::Err> {
        if text == NONE {
            return Ok(Only(vec![]));
        }
        text.split(',').map(|place| place.trim().parse()).collect::<Result<_, _>>().map(Only)
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        let places: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&places.join(","))
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Faults {
    /// Any.
    #[default]
    Mixed,
    /// Any, and in each seed the power of all three nodes fails at once, two to four times.
    #[value(name = "power_loss_all")]
    PowerLossAll,
}

impl Faults {
    pub(super) fn storm(self) -> Storm {
        match self {
            Faults::Mixed => Storm::Mixed,
            Faults::PowerLossAll => Storm::PowerLossAll,
        }
    }
}

const NONE: &str = "none";
const SECONDS: u64 = 20;

impl Run {
    pub(super) fn script(&self) -> anyhow::Result<Option<Script>> {
        if let (true, Some(plant)) = (self.pinned, &self.plant) {
            let script = pinned::script(plant)?;
            return script.map(Some).with_context(|| format!("no script is pinned for {plant}"));
        }
        let Some(path) = &self.script else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let script = Script::parse(&text);
        script.map(Some).with_context(|| format!("{} is no script of faults", path.display()))
    }

    pub(super) fn seconds(&self) -> anyhow::Result<u64> {
        let written = || Ok::<_, anyhow::Error>(self.script()?.and_then(|script| script.seconds));
        Ok(self.seconds.map_or_else(written, |seconds| Ok(Some(seconds)))?.unwrap_or(SECONDS))
    }

    /// A script's, or the seed's where there is none.
    pub(super) fn retention_seconds(&self, seed: u64) -> anyhow::Result<Option<u64>> {
        let script = self.script()?;
        Ok(script
            .map_or_else(|| simulation::retention_seconds(seed), |script| script.retention_seconds))
    }

    pub(super) fn plant(&self) -> anyhow::Result<Option<Plant>> {
        self.plant.as_deref().map(|name| name.parse().map_err(anyhow::Error::msg)).transpose()
    }

    /// The faults of a seed.
    pub(super) fn faults(&self, seed: u64) -> anyhow::Result<Vec<Event>> {
        let all = match self.script()? {
            Some(script) => script.events,
            None => simulation::schedule(seed, self.seconds()? * 1000, self.faults.storm()),
        };
        let Some(Only(places)) = &self.only else { return Ok(all) };
        let found = places.iter().map(|place| all.get(*place).cloned());
        let found: Option<Vec<Event>> = found.collect();
        found.with_context(|| format!("--only: there are {} faults", all.len()))
    }

    /// The command that runs a seed again.
    pub(super) fn command(&self, seed: u64) -> anyhow::Result<String> {
        let script = self.script.as_ref().map(|path| ("script", path.display().to_string()));
        let plant = self.plant.as_ref().map(|plant| ("plant", plant.clone()));
        let only = self.only.as_ref().map(|only| ("only", only.to_string()));
        let pinned = if self.pinned { " --pinned" } else { "" };
        let everywhere = self.faults == Faults::PowerLossAll;
        let faults = everywhere.then(|| ("faults", "power_loss_all".to_owned()));
        let options = [faults, script, plant, only].into_iter().flatten();
        let options = options.map(|(name, value)| format!(" --{name} {value}"));
        let (seconds, options) = (self.seconds()?, options.collect::<String>());
        Ok(format!(
            "tristream-lab simulate --seed {seed} --seeds 1 --seconds {seconds}{options}{pinned}"
        ))
    }
}

/// What two runs of a seed break that are not the same.
pub(super) const RUNS_DIFFER: &str = "runs_differ";

/// Runs a seed in two processes, which must be the same to the last line of debugging.
pub(super) fn twice(seed: u64, run: &Run) -> anyhow::Result<Report> {
    let run = Run { full: true, ..run.clone() };
    let (mut first, second) = (in_a_process(seed, &run)?, in_a_process(seed, &run)?);
    if first != second {
        first.violations.push(not_the_same(&first.hash, &second.hash));
    }
    Ok(first)
}

/// In the form in which promises tell what is broken.
fn not_the_same(one: &str, other: &str) -> String {
    format!("{RUNS_DIFFER} BROKEN: two runs of the seed, {one} and {other}")
}

/// Whether it takes two runs to see what is broken.
pub(super) fn differs(report: &Report) -> bool {
    broken(&report.violations).contains(RUNS_DIFFER)
}

/// A process that dies without a report broke something too.
pub(super) fn in_a_process(seed: u64, run: &Run) -> anyhow::Result<Report> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["seed", "--seed", &seed.to_string(), "--seconds", &run.seconds()?.to_string()]);
    command.args(["--patience", &run.patience.to_string()]);
    if run.full {
        command.arg("--full");
    }
    if let Some(plant) = &run.plant {
        command.args(["--plant", plant]);
    }
    if run.pinned {
        command.arg("--pinned");
    }
    if let Some(only) = &run.only {
        command.args(["--only", &only.to_string()]);
    }
    if run.faults == Faults::PowerLossAll {
        command.args(["--faults", "power_loss_all"]);
    }
    for (name, path) in
        [("--script", &run.script), ("--log", &run.log), ("--history", &run.history)]
    {
        if let Some(path) = path {
            command.arg(name).arg(path);
        }
    }
    let output = command.stdin(Stdio::null()).output().context("cannot start a process")?;
    let died = || Report {
        seed,
        hash: String::new(),
        log_lines: 0,
        simulated_ms: 0,
        violations: vec![format!(
            "the process ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )],
        stories: Vec::new(),
        coverage: Default::default(),
    };
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| died()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_two_runs_show_is_told_from_the_rest() {
        let report = |violation: String| Report {
            seed: 1,
            hash: String::new(),
            log_lines: 0,
            simulated_ms: 1,
            violations: vec![violation],
            stories: Vec::new(),
            coverage: Default::default(),
        };
        assert!(differs(&report(not_the_same("a", "b"))));
        assert!(!differs(&report("acked_records_survive BROKEN: 2 checked".to_owned())));
    }
}
