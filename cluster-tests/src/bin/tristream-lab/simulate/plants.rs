//! `plants`: each planted bug over the same random seeds, and the table of how many found it.
//!
//! Must not know what a bug does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use tristream_cluster_tests::simulation::{Plant, Report, broken};

use super::run::{Faults, Run, in_a_process};
use super::{complain, say};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 7000)]
    from: u64,
    /// How many seeds, the same for each bug.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// How many simulated seconds faults come.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only these bugs; `simulate --plant list` tells which there are.
    #[arg(long = "plant")]
    plants: Vec<String>,
    /// Processes at a time; by default one per core.
    #[arg(long)]
    jobs: Option<usize>,
    /// How many real seconds one seed may take.
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// One JSON object per bug, instead of a table.
    #[arg(long)]
    json: bool,
}

/// What became of one bug.
#[derive(Clone, Debug, Default, Serialize)]
struct Row {
    bug: String,
    seeds: u64,
    /// Seeds that broke something.
    found: u64,
    /// Seeds in which somebody came by the bug.
    reached: u64,
    /// In how many seeds which promise broke.
    broke: BTreeMap<String, u64>,
}

impl Row {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.found += u64::from(!report.violations.is_empty());
        let reached = report.coverage.get("planted_reached").copied().unwrap_or_default();
        self.reached += u64::from(reached > 0);
        for word in broken(&report.violations) {
            *self.broke.entry(word).or_default() += 1;
        }
    }

    fn show(&self) -> String {
        let broke = self.broke.iter().map(|(word, seeds)| format!("`{word}` {seeds}"));
        let broke = broke.collect::<Vec<_>>().join(", ");
        let Row { bug, seeds, found, reached, .. } = self;
        format!("| `{bug}` | {found} of {seeds} | {reached} | {broke} |")
    }
}

/// All rows while seeds run: one is shown when it and all before it are whole.
struct Table<'a> {
    rows: Vec<Row>,
    shown: usize,
    arguments: &'a Arguments,
}

impl Table<'_> {
    fn add(&mut self, at: usize, report: &Report) -> anyhow::Result<()> {
        let row = &mut self.rows[at];
        row.add(report);
        complain(&format!("{}: {} of {} seeds", row.bug, row.seeds, self.arguments.seeds));
        while let Some(row) = self.rows.get(self.shown)
            && row.seeds == self.arguments.seeds
        {
            match self.arguments.json {
                true => say(&serde_json::to_string(row)?)?,
                false => say(&row.show())?,
            }
            self.shown += 1;
        }
        Ok(())
    }
}

/// Runs each bug over the seeds. `false` when one was not found by any of them.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let named = arguments.plants.iter().map(|name| name.parse().map_err(anyhow::Error::msg));
    let mut plants = named.collect::<anyhow::Result<Vec<Plant>>>()?;
    if plants.is_empty() {
        plants.extend(Plant::all());
    }
    let rows = plants.iter().map(|plant| Row { bug: plant.to_string(), ..Row::default() });
    let rows: Vec<Row> = rows.collect();
    let runs: Vec<(usize, u64)> = (0..rows.len())
        .flat_map(|at| (0..arguments.seeds).map(move |seed| (at, arguments.from + seed)))
        .collect();
    if !arguments.json {
        say("| bug | found by | seeds that came by it | what broke, in how many seeds |")?;
        say("|---|---|---|---|")?;
    }
    let (next, table) = (AtomicUsize::new(0), Mutex::new(Table { rows, shown: 0, arguments }));
    let work = || -> anyhow::Result<()> {
        while let Some(&(at, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = in_a_process(seed, &settings(&plants[at], arguments))?;
            table.lock().unwrap_or_else(|broken| broken.into_inner()).add(at, &report)?;
        }
        Ok(())
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let jobs = arguments.jobs.unwrap_or(cores).max(1);
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a worker panicked"),
        })
    })?;
    let table = table.into_inner().unwrap_or_else(|broken| broken.into_inner());
    Ok(table.rows.iter().all(|row| row.found > 0))
}

fn settings(plant: &Plant, arguments: &Arguments) -> Run {
    Run {
        seconds: Some(arguments.seconds),
        faults: Faults::Mixed,
        script: None,
        only: None,
        patience: arguments.patience,
        full: false,
        log: None,
        history: None,
        plant: Some(plant.to_string()),
        pinned: false,
    }
}
