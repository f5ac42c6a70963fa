//! `chaos`: three real processes under clients, while faults come by a schedule from a seed.
//!
//! Must not know what a run does.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tristream_cluster_tests::chaos::{self, Report, Settings};
use tristream_cluster_tests::recording::Story;

/// What `--help` adds to the flags.
const HELP: &str = "\
Starts a cluster of its own (three processes, free ports on loopback, a folder that is removed at the
end) and needs nothing else. The exit status is 0 if every promise held, the cluster healed and every
kind of fault hit something; 1 if not, also when a node does not serve again, the reader is misled or the
run is not over in time; 2 if it could not be tried: it failed before the first fault. The seed decides which faults come
when and what is written; the machine's own timing stays its own. Chaos on processes shows nothing
about fsync, since the page cache outlives a killed process: that is what `simulate` is for.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// How long faults come, in minutes; at least until each kind has come once.
    #[arg(long, default_value_t = 1.0, value_parser = minutes)]
    minutes: f64,
    /// Of the faults and of what is written; by default a random one, which is told.
    #[arg(long)]
    seed: Option<u64>,
    /// How many write: every second one the native client, the others HTTP.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=64))]
    producers: u8,
    /// Write the history to this file, for `verify`; that of a broken run is kept anyway.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// One JSON report instead of words.
    #[arg(long)]
    json: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| *minutes > 0.0 && *minutes <= 1440.0);
    minutes.ok_or_else(|| "a number of minutes, up to 1440".to_owned())
}

/// Runs it. Whether nothing is wrong.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let settings = Settings {
        storm: Duration::from_secs_f64(arguments.minutes * 60.0),
        seed: arguments.seed.unwrap_or_else(|| rand::random::<u32>().into()),
        producers: arguments.producers.into(),
        history: arguments.history.clone(),
    };
    super::simulate::complain(&format!("seed {}", settings.seed));
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(watched(&settings))?;
    let mut out = std::io::stdout();
    if arguments.json {
        let mut json = serde_json::to_value(&report)?;
        json["clean"] = report.is_clean().into();
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{}", in_words(&report))?;
    }
    Ok(report.is_clean())
}

/// Runs it with a bar, until it is over or somebody ends it: then everything that it started ends with it.
async fn watched(settings: &Settings) -> anyhow::Result<Report> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let begun = Instant::now();
    let bar = bar(settings.storm);
    let progress = |words: &str| match bar.is_hidden() {
        true => {
            let seconds = begun.elapsed().as_secs_f64();
            super::simulate::complain(&format!("{seconds:>6.1} s  {words}"));
        }
        false => bar.set_message(words.to_owned()),
    };
    let ran = tokio::select! {
        ran = chaos::run(settings, &progress) => ran,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted; the nodes are ended")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated; the nodes are ended")),
        () = tick(&bar, begun) => Err(anyhow::anyhow!("the clock ended")),
    };
    bar.finish_and_clear();
    ran
}

/// Moves the bar, for ever.
async fn tick(bar: &ProgressBar, begun: Instant) {
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        bar.set_position(begun.elapsed().as_secs());
    }
}

/// Shown on a terminal only.
fn bar(storm: Duration) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(storm.as_secs());
    match ProgressStyle::with_template("{bar:24} {elapsed} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn in_words(report: &Report) -> String {
    let mut lines = vec![
        format!(
            "{} records acked, {} outcomes unknown, {} errors seen, longest time without an ack \
             {} ms, {} reshards, {:.0} s of faults, seed {}",
            report.acked,
            report.unknown,
            report.errors,
            report.silence_ms,
            report.reshards,
            report.storm_ms as f64 / 1000.0,
            report.seed,
        ),
        String::new(),
    ];
    for (kind, count) in &report.faults {
        let name = serde_json::json!(kind);
        let name = name.as_str().unwrap_or_default().to_owned();
        lines.push(format!("{name:<10} {:>4} inflicted, {:>4} hit", count.inflicted, count.hit));
    }
    for kind in report.missing() {
        lines.push(format!("{kind:?} NEVER HIT: it was not tested"));
    }
    lines.push(String::new());
    for promise in &report.promises {
        let word = match (promise.holds, promise.checked) {
            (true, _) => "holds",
            (false, 0) => "NOT SHOWN",
            (false, _) => "BROKEN",
        };
        lines.push(format!("{:<24} {word}: {} checked", promise.promise, promise.checked));
        match report.stories.get(promise.promise) {
            Some(stories) => lines.extend(stories.iter().flat_map(story_in_words)),
            None => lines.extend(promise.told.iter().map(|told| format!("    {told}"))),
        }
    }
    match &report.not_healed {
        None => lines.push(format!("{:<24} holds", "heals_when_calm")),
        Some(why) => lines.push(format!("{:<24} BROKEN: {why}", "heals_when_calm")),
    }
    lines.extend(report.failures.iter().map(|failure| format!("FAILED: {failure}")));
    if let Some(path) = &report.history {
        lines.push(format!("history: {0} (tristream-lab verify --all-puts {0})", path.display()));
    }
    lines.join("\n")
}

/// A breach, with the lines about it.
pub(super) fn story_in_words(story: &Story) -> Vec<String> {
    let lines = story.lines.iter().map(|line| format!("        {line}"));
    std::iter::once(format!("    {}", story.what)).chain(lines).collect()
}
