//! `simulate`: many seeds, one process each, on all cores.
//!
//! Must not know what a run does.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use tokio::time::Instant;
use tristream_cluster_tests::simulation::{self, Event, Plant, Report, Settings, Storm, Sum};

#[derive(Args)]
pub(super) struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
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
    /// How many simulated seconds faults come.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Which faults a seed draws.
    #[arg(long, value_enum, default_value_t)]
    faults: Faults,
    /// Faults from a file of JSON instead of from the seed.
    #[arg(long, conflicts_with = "faults")]
    script: Option<PathBuf>,
    /// How many real seconds one seed may take.
    #[arg(long, default_value_t = 900)]
    patience: u64,
    /// Hash the log with every line of debugging, which takes several times as long.
    #[arg(long)]
    full: bool,
    /// Write the log here (one seed only).
    #[arg(long)]
    log: Option<PathBuf>,
    /// Make a mistake on purpose, and watch it being found.
    #[arg(long, value_enum)]
    plant: Option<Planted>,
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

/// What each seed of `--faults power_loss_all` is about.
const EVERYWHERE: &str = "fault_power_loss_everywhere";

#[derive(Clone, Copy, ValueEnum)]
enum Planted {
    /// No disk keeps what it says it has synced.
    DisksLie,
}

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
        storm_ms: arguments.run.seconds * 1000,
        script: arguments.run.script()?,
        storm: match arguments.run.faults {
            Faults::Mixed => Storm::Mixed,
            Faults::PowerLossAll => Storm::PowerLossAll,
        },
        full: arguments.run.full,
        log: arguments.run.log.clone(),
        plant: arguments.run.plant.map(|Planted::DisksLie| Plant::DisksLie),
    })?;
    say(&serde_json::to_string(&report)?)?;
    Ok(report.violations.is_empty())
}

impl Run {
    fn script(&self) -> anyhow::Result<Option<Vec<Event>>> {
        let Some(path) = &self.script else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut events: Vec<Event> = serde_json::from_str(&text)
            .with_context(|| format!("{} is no list of faults", path.display()))?;
        events.sort_by_key(|event| event.at);
        Ok(Some(events))
    }
}

/// Runs seeds in processes of their own.
pub(super) fn sweep(arguments: &Arguments) -> anyhow::Result<bool> {
    arguments.run.script()?;
    if arguments.run.log.is_some() && arguments.seeds != 1 {
        bail!("--log wants --seeds 1");
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(cores).max(1);
    let end = arguments.from.checked_add(arguments.seeds).context("seeds end at 2^64")?;
    let next = AtomicU64::new(arguments.from);
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
            }
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a worker panicked"),
        })
    })?;
    let sum = sum.into_inner().unwrap_or_else(|broken| broken.into_inner());
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
    command.args(["seed", "--seed", &seed.to_string(), "--seconds", &run.seconds.to_string()]);
    command.args(["--patience", &run.patience.to_string()]);
    if run.full {
        command.arg("--full");
    }
    if run.faults == Faults::PowerLossAll {
        command.args(["--faults", "power_loss_all"]);
    }
    if let Some(Planted::DisksLie) = run.plant {
        command.args(["--plant", "disks-lie"]);
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
    let faults: u64 = report
        .coverage
        .iter()
        .filter(|(what, _)| what.starts_with("fault_"))
        .map(|(_, count)| count)
        .sum();
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
        let again = &arguments.run;
        say(&format!(
            "    again: tristream-lab simulate --from {} --seconds {} --full --log run.log{}{}",
            report.seed,
            again.seconds,
            if again.faults == Faults::PowerLossAll { " --faults power_loss_all" } else { "" },
            again.script.as_ref().map_or(String::new(), |at| format!(" --script {}", at.display())),
        ))?;
    }
    Ok(())
}
