//! `simulate`: many seeds, one process each, on all cores.
//!
//! Must not know what a run does.

pub(super) mod plants;
mod shrinking;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use tokio::time::Instant;
use tristream_cluster_tests::simulation::{
    self, EVERYWHERE, Event, Plant, Report, Script, Settings, Storm, Sum,
};

#[derive(Args)]
pub(super) struct Arguments {
    /// The first seed: by default 1, or what the script says.
    #[arg(long, visible_alias = "seed")]
    from: Option<u64>,
    /// How many seeds: by default 1, or what the script says.
    #[arg(long)]
    seeds: Option<u64>,
    /// Processes at a time; by default one per core.
    #[arg(long)]
    jobs: Option<usize>,
    /// One JSON report per seed and one of the sum, instead of words.
    #[arg(long)]
    json: bool,
    /// Run each seed in two processes, and fail when they are not the same to the last line of debugging.
    #[arg(long)]
    twice: bool,
    /// Also fail when a kind of fault never hit, or nothing was torn, restarted or elected.
    #[arg(long)]
    cover: bool,
    /// How often a broken seed may be run again to find out which of its faults it takes. 0: not at all.
    #[arg(long, default_value_t = 40)]
    tries: usize,
    /// Write the script to which the first broken seed was shrunk here.
    #[arg(long)]
    save: Option<PathBuf>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
pub(super) struct OneSeed {
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    run: Run,
}

#[derive(Args, Clone)]
struct Run {
    /// How many simulated seconds faults come: by default 20, or what the script says.
    #[arg(long)]
    seconds: Option<u64>,
    /// Which faults a seed draws.
    #[arg(long, value_enum, default_value_t)]
    faults: Faults,
    /// Faults from a file of JSON instead of from the seed.
    #[arg(long, conflicts_with = "faults")]
    script: Option<PathBuf>,
    /// Of these faults only some, by their places in the list, from 0 on: `2,5`, or `none`.
    #[arg(long)]
    only: Option<Only>,
    /// How many real seconds one seed may take.
    #[arg(long, default_value_t = 900)]
    patience: u64,
    /// Hash the log with every line of debugging, which takes several times as long.
    #[arg(long)]
    full: bool,
    /// Write the log here (one seed only).
    #[arg(long)]
    log: Option<PathBuf>,
    /// Make a mistake on purpose, and watch it being found. `list` tells which there are.
    #[arg(long)]
    plant: Option<String>,
}

/// Places in a list of faults.
#[derive(Clone, Debug)]
struct Only(Vec<usize>);

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
enum Faults {
    /// Any.
    #[default]
    Mixed,
    /// Any, and in each seed the power of all three nodes fails at once, two to four times.
    #[value(name = "power_loss_all")]
    PowerLossAll,
}

impl Faults {
    fn storm(self) -> Storm {
        match self {
            Faults::Mixed => Storm::Mixed,
            Faults::PowerLossAll => Storm::PowerLossAll,
        }
    }
}

const NONE: &str = "none";
const SECONDS: u64 = 20;
/// So many broken seeds are shrunk.
const SHRUNK_MAX: usize = 2;

/// Prints to standard error.
pub(super) fn complain(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

fn say(words: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{words}")?)
}

/// Runs one seed here.
pub(super) fn one_seed(arguments: &OneSeed) -> anyhow::Result<bool> {
    // A step that never ends is a finding, not a reason to wait for ever.
    let patience = arguments.run.patience;
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(patience));
        complain(&format!("no end after {patience} s: a task runs on and on"));
        std::process::exit(3);
    });
    let report = simulation::run(Settings {
        seed: arguments.seed,
        storm_ms: arguments.run.seconds()? * 1000,
        script: match arguments.run.only {
            None => arguments.run.script()?.map(|script| script.events),
            Some(_) => Some(arguments.run.faults(arguments.seed)?),
        },
        storm: arguments.run.faults.storm(),
        tables_last: arguments.run.script()?.is_some_and(|script| script.tables_last),
        retention_seconds: arguments.run.retention_seconds(arguments.seed)?,
        full: arguments.run.full,
        log: arguments.run.log.clone(),
        plant: arguments.run.plant()?,
    })?;
    say(&serde_json::to_string(&report)?)?;
    Ok(report.violations.is_empty())
}

impl Run {
    fn script(&self) -> anyhow::Result<Option<Script>> {
        let Some(path) = &self.script else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let script = Script::parse(&text);
        script.map(Some).with_context(|| format!("{} is no script of faults", path.display()))
    }

    fn seconds(&self) -> anyhow::Result<u64> {
        let written = || Ok::<_, anyhow::Error>(self.script()?.and_then(|script| script.seconds));
        Ok(self.seconds.map_or_else(written, |seconds| Ok(Some(seconds)))?.unwrap_or(SECONDS))
    }

    /// A script's, or the seed's where there is none.
    fn retention_seconds(&self, seed: u64) -> anyhow::Result<Option<u64>> {
        let script = self.script()?;
        Ok(script
            .map_or_else(|| simulation::retention_seconds(seed), |script| script.retention_seconds))
    }

    fn plant(&self) -> anyhow::Result<Option<Plant>> {
        self.plant.as_deref().map(|name| name.parse().map_err(anyhow::Error::msg)).transpose()
    }

    /// The faults of a seed.
    fn faults(&self, seed: u64) -> anyhow::Result<Vec<Event>> {
        let all = match self.script()? {
            Some(script) => script.events,
            None => simulation::schedule(seed, self.seconds()? * 1000, self.faults.storm()),
        };
        let Some(Only(places)) = &self.only else { return Ok(all) };
        let found = places.iter().map(|place| all.get(*place).cloned());
        let found: Option<Vec<Event>> = found.collect();
        found.with_context(|| format!("--only: there are {} faults", all.len()))
    }
}

/// Runs seeds in processes of their own.
pub(super) fn sweep(arguments: &Arguments) -> anyhow::Result<bool> {
    if arguments.run.plant.as_deref() == Some("list") {
        Plant::all().try_for_each(|plant| say(&format!("{plant:<30} {}", plant.about())))?;
        return Ok(true);
    }
    arguments.run.plant()?;
    let script = arguments.run.script()?.unwrap_or_default();
    let from = arguments.from.or(script.seed).unwrap_or(1);
    let seeds = arguments.seeds.or(script.seeds).unwrap_or(1);
    if arguments.run.log.is_some() && seeds != 1 {
        bail!("--log wants --seeds 1");
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(cores).max(1);
    let end = from.checked_add(seeds).context("seeds end at 2^64")?;
    let next = AtomicU64::new(from);
    let broken = Mutex::new(Vec::new());
    let sum = Mutex::new(Sum::default());
    let begin = Instant::now();
    thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return Ok(());
                }
                let began = Instant::now();
                let report = arguments.one(seed)?;
                let mut sum = sum.lock().unwrap_or_else(|broken| broken.into_inner());
                sum.add(&report);
                show(&report, began.elapsed(), arguments)?;
                if !report.violations.is_empty() {
                    broken.lock().unwrap_or_else(|broken| broken.into_inner()).push(report);
                }
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a worker panicked"),
        })
    })?;
    let sum = sum.into_inner().unwrap_or_else(|broken| broken.into_inner());
    let broken = broken.into_inner().unwrap_or_else(|broken| broken.into_inner());
    shrinking::tell(&broken, arguments)?;
    let missing = if arguments.cover { arguments.missing(&sum) } else { Vec::new() };
    if arguments.json {
        say(&serde_json::to_string(&sum)?)?;
    } else {
        say(&format!("{sum}in {:.1} s", begin.elapsed().as_secs_f64()))?;
    }
    if !missing.is_empty() {
        complain(&format!("never happened: {}", missing.join(", ")));
    }
    Ok(sum.broken.is_empty() && missing.is_empty())
}

impl Run {
    /// The command that runs a seed again.
    fn command(&self, seed: u64) -> anyhow::Result<String> {
        let script = self.script.as_ref().map(|path| ("script", path.display().to_string()));
        let plant = self.plant.as_ref().map(|plant| ("plant", plant.clone()));
        let only = self.only.as_ref().map(|only| ("only", only.to_string()));
        let everywhere = self.faults == Faults::PowerLossAll;
        let faults = everywhere.then(|| ("faults", "power_loss_all".to_owned()));
        let options = [faults, script, plant, only].into_iter().flatten();
        let options = options.map(|(name, value)| format!(" --{name} {value}"));
        let (seconds, options) = (self.seconds()?, options.collect::<String>());
        Ok(format!("tristream-lab simulate --seed {seed} --seeds 1 --seconds {seconds}{options}"))
    }
}

impl Arguments {
    fn missing(&self, sum: &Sum) -> Vec<String> {
        let mut missing = sum.missing();
        let without = sum.seeds_without(EVERYWHERE);
        if self.run.faults == Faults::PowerLossAll && without > 0 {
            missing.push(format!("{EVERYWHERE} in {without} seeds"));
        }
        missing
    }

    fn one(&self, seed: u64) -> anyhow::Result<Report> {
        // What a seed does not have cannot be asked of it.
        self.run.only.as_ref().map(|_| self.run.faults(seed)).transpose()?;
        if !self.twice {
            return in_a_process(seed, &self.run);
        }
        let run = Run { full: true, ..self.run.clone() };
        let (mut first, second) = (in_a_process(seed, &run)?, in_a_process(seed, &run)?);
        if first != second {
            let (one, other) = (&first.hash, &second.hash);
            first.violations.push(format!("two runs differ: {one} and {other}"));
        }
        Ok(first)
    }
}

/// A process that dies without a report broke something too.
fn in_a_process(seed: u64, run: &Run) -> anyhow::Result<Report> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["seed", "--seed", &seed.to_string(), "--seconds", &run.seconds()?.to_string()]);
    command.args(["--patience", &run.patience.to_string()]);
    if run.full {
        command.arg("--full");
    }
    if let Some(plant) = &run.plant {
        command.args(["--plant", plant]);
    }
    if let Some(only) = &run.only {
        command.args(["--only", &only.to_string()]);
    }
    if run.faults == Faults::PowerLossAll {
        command.args(["--faults", "power_loss_all"]);
    }
    for (name, path) in [("--script", &run.script), ("--log", &run.log)] {
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
        coverage: Default::default(),
    };
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| died()))
}

fn show(report: &Report, took: Duration, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.json {
        return say(&serde_json::to_string(report)?);
    }
    let count = |what| report.coverage.get(what).copied().unwrap_or_default();
    let faults = report.faults();
    say(&format!(
        "seed {:<8} {} {} acked, {} unknown, {faults} faults, {} restarts, {} terms, {:.1} simulated s in {:.1} s",
        report.seed,
        if report.violations.is_empty() { "clean ".to_owned() } else { "BROKEN".to_owned() },
        count("acked_records"),
        count("unknown_records"),
        count("restarts"),
        count("terms"),
        report.simulated_ms as f64 / 1000.0,
        took.as_secs_f64(),
    ))?;
    for violation in &report.violations {
        say(&format!("    {violation}"))?;
    }
    if !report.violations.is_empty() {
        let again = arguments.run.command(report.seed)?;
        say(&format!("    again: {again} --full --log run.log"))?;
    }
    Ok(())
}
