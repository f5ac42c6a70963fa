//! `tristream bench reshard`: puts by the native client while shards are split and merged.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tristream_client::{Client, Error, StreamDescription, StreamStatus};
use tristream_proto::domain::{Shard, ShardId, StreamName};

use super::load::{Load, Shape};
use super::report::{Report, Step};
use super::tally::{Phase, Place, Tally};
use crate::cli::endpoints::{Endpoints, explain};
use crate::cli::{colours_refused, screen};
use crate::entropy::{Entropy, OsEntropy};

/// How long the stream may take to become active, and a step to be done.
const STEP_MAX: Duration = Duration::from_secs(120);
/// How often is asked whether it is. By a client of its own, so that the one that puts learns of a new map
/// as any other does.
const LOOK_STEP: Duration = Duration::from_millis(20);
/// After a step, what it delayed may still arrive.
const SETTLE: Duration = Duration::from_millis(500);
/// Puts before the first measured ones: connections open and caches fill.
const WARM_UP: Duration = Duration::from_secs(2);

/// What `--help` adds to the flags.
const HELP: &str = "\
It creates a stream, puts at a steady rate, waits --seconds, makes --splits splits (always of
the widest shard) and as many merges (of the narrowest neighbours), one after the other, waits
--seconds again and deletes the stream. A put counts from the moment it was due. A pause is the
longest time that one key had a put due and got no ack. The exit code is 0 only if every put was
acked and every step done.";

/// Arguments of `tristream bench reshard`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    endpoints: Endpoints,
    /// Shards to begin with.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    shards: u32,
    /// Records per second, of all keys together.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Seconds before the first split, and after the last merge.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How many splits, and then as many merges.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    splits: u32,
    /// How many keys. Each has one put on its way at a time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    keys: u32,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    bytes: u32,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let explained = |error: Error| explain(error, &args.endpoints);
    let (control, putting) = (args.endpoints.client()?, args.endpoints.client()?);
    let stream: StreamName = format!("bench-reshard-{:08x}", OsEntropy.u64() as u32).parse()?;
    control.create_stream(&stream, Some(args.shards)).await.map_err(explained)?;
    let bench = Bench { control: &control, putting: &putting, stream: &stream, args: &args };
    let done = tokio::select! {
        done = bench.run() => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // Whatever happened: what we made goes.
    if let Err(error) = control.delete_stream(&stream).await {
        screen::say(format!("cannot delete {stream}: {error} (delete it by hand)"));
    }
    let report = done?;
    if args.json {
        screen::line(report.as_json().to_string())?;
    } else {
        screen::line(report.show(screen::Colours::of_stdout()).join("\n"))?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench<'a> {
    /// For everything but puts.
    control: &'a Client,
    putting: &'a Client,
    stream: &'a StreamName,
    args: &'a Args,
}

impl Bench<'_> {
    async fn run(&self) -> anyhow::Result<Report> {
        self.wait(|now| now.status == StreamStatus::Active).await.context("creating the stream")?;
        let Args { rate, keys, bytes, splits, .. } = *self.args;
        let shape = Shape { rate, keys: keys.min(rate), bytes: bytes as usize };
        let warm_up = Arc::new(Mutex::new(Tally::new(0)));
        let load = Load::start(self.putting, self.stream, shape, &warm_up);
        sleep(WARM_UP).await;
        load.stop().await;
        let tally = Arc::new(Mutex::new(Tally::new(2 * splits as usize)));
        let load = Load::start(self.putting, self.stream, shape, &tally);
        let progress = Progress::new(tally.clone());
        let steps = self.phases(&tally, &progress).await;
        load.stop().await;
        progress.bar.finish_and_clear();
        drop(progress);
        let (steps, seconds) = steps?;
        let tally = Arc::into_inner(tally).context("the load has ended")?.into_inner();
        Ok(Report { shape, shards: self.args.shards, tally, steps, seconds })
    }

    /// Goes through the phases; with the seconds that each took.
    async fn phases(
        &self,
        tally: &Mutex<Tally>,
        progress: &Progress,
    ) -> anyhow::Result<(Vec<Step>, [f64; 4])> {
        let calm = Duration::from_secs(self.args.seconds.into());
        let (mut steps, mut seconds) = (vec![], [0.0; 4]);
        for phase in Phase::ALL {
            let began = Instant::now();
            match phase {
                Phase::Before | Phase::After => {
                    tally.lock().place = Place { phase, step: steps.len() };
                    progress.say(phase.name());
                    sleep(calm).await;
                }
                Phase::Splits | Phase::Merges => {
                    for number in 1..=self.args.splits {
                        tally.lock().place = Place { phase, step: steps.len() };
                        progress.say(&format!("{} {number} of {}", phase.name(), self.args.splits));
                        let step = self.step(phase).await?;
                        sleep(SETTLE).await;
                        progress.tell(&step, tally.lock().pause(steps.len()));
                        steps.push(step);
                    }
                }
            }
            seconds[phase as usize] = began.elapsed().as_secs_f64();
        }
        Ok((steps, seconds))
    }

    async fn step(&self, phase: Phase) -> anyhow::Result<Step> {
        let explained = |error| explain(error, &self.args.endpoints);
        let now = self.control.describe_stream(self.stream).await.map_err(explained)?;
        let open = by_range(&now);
        let began = Instant::now();
        let parents = match phase {
            Phase::Merges => {
                let pair = open.windows(2).min_by_key(|pair| width(&pair[0]) + width(&pair[1]));
                let Some([one, other]) = pair else { bail!("no neighbours are left to merge") };
                let begun = self.control.merge_shards(self.stream, one.id, other.id).await;
                begun.map_err(explained)?;
                vec![one.id, other.id]
            }
            _ => {
                // The first of those as wide.
                let widest = open.iter().rev().max_by_key(|shard| width(shard));
                let Some(shard) = widest else { bail!("the stream has no open shard") };
                let begun = self.control.split_shard(self.stream, shard.id, None).await;
                begun.map_err(explained)?;
                vec![shard.id]
            }
        };
        let is_open = |now: &StreamDescription, id| now.map.get(id).is_some_and(Shard::is_open);
        let done = |now: &StreamDescription| {
            now.status == StreamStatus::Active && !parents.iter().any(|&id| is_open(now, id))
        };
        let now = self.wait(done).await?;
        let took = began.elapsed();
        let comes = |shard: &&Shard| shard.parents.iter().any(|parent| parents.contains(parent));
        let children: Vec<ShardId> = now.map.shards().iter().filter(comes).map(|s| s.id).collect();
        Ok(Step { phase, parents, children, took })
    }

    /// Asks for the stream until `done` says so.
    async fn wait(
        &self,
        done: impl Fn(&StreamDescription) -> bool,
    ) -> anyhow::Result<Arc<StreamDescription>> {
        let until = Instant::now() + STEP_MAX;
        loop {
            let now = self.control.describe_stream(self.stream).await;
            let now = now.map_err(|error| explain(error, &self.args.endpoints))?;
            if done(&now) {
                return Ok(now);
            }
            if Instant::now() >= until {
                bail!("not done within {} s: see `tristream status`", STEP_MAX.as_secs());
            }
            sleep(LOOK_STEP).await;
        }
    }
}

/// Open shards by rising range.
fn by_range(stream: &StreamDescription) -> Vec<Shard> {
    let mut open: Vec<Shard> = stream.map.open().cloned().collect();
    open.sort_by_key(|shard| shard.range.first);
    open
}

/// Half of the width, so that two fit a number.
fn width(shard: &Shard) -> u128 {
    (shard.range.last.0 - shard.range.first.0) / 2
}

/// A moving line on a terminal; elsewhere a line per step.
struct Progress {
    bar: ProgressBar,
    tally: Arc<Mutex<Tally>>,
}

impl Progress {
    fn new(tally: Arc<Mutex<Tally>>) -> Progress {
        let bar = if std::io::stderr().is_terminal() && !colours_refused() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar, tally }
    }

    fn say(&self, what: &str) {
        let (acked, failed) = {
            let tally = self.tally.lock();
            (tally.acked(), tally.failed())
        };
        self.bar.set_message(format!("{what}: {acked} acked so far, {failed} failed"));
    }

    fn tell(&self, step: &Step, pause: Duration) {
        let line = format!(
            "{} in {:.2} s, longest pause of a key {:.1} ms",
            step.title(),
            step.took.as_secs_f64(),
            pause.as_secs_f64() * 1e3
        );
        self.bar.suspend(|| screen::say(line));
    }
}
