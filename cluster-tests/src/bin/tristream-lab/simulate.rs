//! `simulate`: many seeds, one process each, on all cores.
//!
//! Must not know what a run does.

mod hunt;
pub(super) mod plants;
mod run;
mod shrinking;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::time::Instant;
use tristream_cluster_tests::simulation::{self, EVERYWHERE, Plant, Report, Settings, Sum};

use run::{Faults, Run, differs, in_a_process, twice};

#[derive(Args, Clone)]
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
    /// Also fail when a kind of fault never hit, or nothing was torn, restarted or elected. Sweeps of 200 random seeds
    /// or more do so anyway.
    #[arg(long)]
    cover: bool,
    /// What never happened is no failure, however many seeds there are.
    #[arg(long, conflicts_with = "cover")]
    no_cover: bool,
    /// How often a broken seed may be run again to find out which of its faults it takes. 0: not at all.
    #[arg(long, default_value_t = 40)]
    tries: usize,
    /// Write the script to which the first broken seed was shrunk here.
    #[arg(long)]
    save: Option<PathBuf>,
    #[command(flatten)]
    run: Run,
    /// No seed begins once one is broken.
    #[arg(skip)]
    until_broken: bool,
}

#[derive(Args)]
pub(super) struct OneSeed {
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    run: Run,
}

/// So many random seeds meet everything that a sweep is to show.
const COVERING_SEEDS: u64 = 200;
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
        history: arguments.run.history.clone(),
        plant: arguments.run.plant()?,
    })?;
    say(&serde_json::to_string(&report)?)?;
    Ok(report.violations.is_empty())
}

/// Runs seeds in processes of their own.
pub(super) fn sweep(arguments: &Arguments) -> anyhow::Result<bool> {
    if arguments.run.plant.as_deref() == Some("list") {
        Plant::all().try_for_each(|plant| say(&format!("{plant:<30} {}", plant.about())))?;
        return Ok(true);
    }
    arguments.run.plant()?;
    match hunt::is_meant(arguments) {
        true => hunt::run(arguments),
        false => run_seeds(arguments),
    }
}

fn run_seeds(arguments: &Arguments) -> anyhow::Result<bool> {
    let script = arguments.run.script()?.unwrap_or_default();
    let from = arguments.from.or(script.seed).unwrap_or(1);
    let seeds = arguments.seeds.or(script.seeds).unwrap_or(1);
    for (option, path) in [("log", &arguments.run.log), ("history", &arguments.run.history)] {
        let Some(path) = path else { continue };
        if seeds != 1 {
            bail!("--{option} wants --seeds 1, and --pinned beside --plant");
        }
        if arguments.run.script.as_ref() == Some(path) {
            bail!("--{option} would overwrite the script {}", path.display());
        }
        File::create(path)
            .with_context(|| format!("--{option}: cannot write {}", path.display()))?;
    }
    if arguments.run.log.is_some() && arguments.run.log == arguments.run.history {
        bail!("--log and --history are the same file");
    }
    let kept = arguments.run.retention_seconds(from)?;
    if let (Some(_), Some(seconds)) = (&arguments.run.history, kept) {
        complain(&format!(
            "records of seed {from} are kept for {seconds} s, by clocks that faults may set: `verify` does not know \
             them, and may call lost what has expired"
        ));
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(cores).max(1);
    let end = from.checked_add(seeds).context("seeds end at 2^64")?;
    let next = AtomicU64::new(from);
    let broken = Mutex::new(Vec::new());
    let sum = Mutex::new(Sum::default());
    let (begin, enough) = (Instant::now(), AtomicBool::new(false));
    thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end || enough.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let began = Instant::now();
                let report = arguments.one(seed)?;
                let mut sum = sum.lock().unwrap_or_else(|broken| broken.into_inner());
                sum.add(&report);
                show(&report, began.elapsed(), arguments)?;
                if !report.violations.is_empty() {
                    enough.store(arguments.until_broken, Ordering::Relaxed);
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
    let missing = if arguments.is_to_cover(seeds) { arguments.missing(&sum) } else { Vec::new() };
    if arguments.json {
        say(&serde_json::to_string(&sum)?)?;
    } else if !arguments.until_broken {
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

    /// Whether what never happens in so many seeds is a failure.
    fn is_to_cover(&self, seeds: u64) -> bool {
        let Run { script, plant, only, .. } = &self.run;
        let random = script.is_none() && plant.is_none() && only.is_none();
        self.cover || (random && seeds >= COVERING_SEEDS && !self.no_cover)
    }

    fn one(&self, seed: u64) -> anyhow::Result<Report> {
        // What a seed does not have cannot be asked of it.
        self.run.only.as_ref().map(|_| self.run.faults(seed)).transpose()?;
        match self.twice {
            true => twice(seed, &self.run),
            false => in_a_process(seed, &self.run),
        }
    }
}

fn show(report: &Report, took: Duration, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.json {
        return say(&serde_json::to_string(report)?);
    }
    say(&line(report, took))?;
    for violation in &report.violations {
        say(&format!("    {violation}"))?;
    }
    for story in &report.stories {
        say(&format!("      {}", story.join("\n        ")))?;
    }
    if !report.violations.is_empty() {
        let again = arguments.run.command(report.seed)?;
        // Two runs would write one log.
        let how = if differs(report) { "--twice" } else { "--full --log run.log" };
        say(&format!("    again: {again} {how}"))?;
    }
    Ok(())
}

/// A seed in one line.
fn line(report: &Report, took: Duration) -> String {
    let count = |what| report.coverage.get(what).copied().unwrap_or_default();
    let word = if report.violations.is_empty() { "clean " } else { "BROKEN" };
    let (seed, faults) = (report.seed, report.faults());
    let shown = [
        ("acked_records", "acked"),
        ("unknown_records", "unknown"),
        ("restarts", "restarts"),
        ("terms", "terms"),
        ("elections", "elections"),
        ("torn_tails", "torn"),
        ("entries_repaired", "repaired"),
        ("trims", "trims"),
    ];
    let shown = shown.map(|(what, word)| format!("{} {word}", count(what))).join(", ");
    let (simulated, took) = (report.simulated_ms as f64 / 1000.0, took.as_secs_f64());
    format!(
        "seed {seed:<8} {word} {faults} faults, {shown}, {simulated:.1} simulated s in {took:.1} s"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &str) -> Arguments {
        Line::try_parse_from(line.split_whitespace()).unwrap().arguments
    }

    #[test]
    fn many_random_seeds_are_to_meet_everything() {
        let covers = |line: &str, seeds| arguments(line).is_to_cover(seeds);
        assert!(covers("simulate", 200));
        assert!(covers("simulate --faults power_loss_all --twice", 1000));
        assert!(covers("simulate --cover", 1));
        assert!(!covers("simulate", 199));
        assert!(!covers("simulate --no-cover", 10_000));
        for chosen in ["--plant no-crc", "--script file", "--only 1,2"] {
            assert!(!covers(&format!("simulate {chosen}"), 10_000), "{chosen}");
            assert!(covers(&format!("simulate --cover {chosen}"), 10_000), "{chosen}");
        }
        assert!(Line::try_parse_from(["simulate", "--cover", "--no-cover"]).is_err());
    }

    #[test]
    fn a_bug_alone_is_a_hunt() {
        let hunts = |line: &str| hunt::is_meant(&arguments(line));
        assert!(hunts("simulate --plant no-crc"));
        assert!(hunts("simulate --plant no-crc --seconds 5 --json --twice"));
        for more in
            ["--seed 4", "--seeds 7", "--script file", "--only 1", "--faults power_loss_all"]
        {
            assert!(!hunts(&format!("simulate --plant no-crc {more}")), "{more}");
        }
        assert!(!hunts("simulate --seeds 3"));
    }

    #[test]
    fn a_seed_fits_on_a_line() {
        let what = ["acked_records", "unknown_records", "restarts", "terms", "elections"];
        let what = what.into_iter().chain(["torn_tails", "entries_repaired", "trims"]);
        let report = Report {
            seed: 99_999_999,
            hash: String::new(),
            log_lines: 0,
            simulated_ms: 65_000,
            violations: vec![],
            stories: vec![],
            coverage: what.map(|what| (what.to_owned(), 999)).collect(),
        };
        let line = line(&report, Duration::from_secs(99));
        assert!(line.len() <= 160, "{}: {line}", line.len());
        assert!(line.contains("999 elections, 999 torn, 999 repaired, 999 trims"), "{line}");
    }
}
