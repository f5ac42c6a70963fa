//! `kill-all`: three real processes that all die at once, again and again, under producers that never pause.
//!
//! Must not know what a run does.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use tokio::time::Instant;
use tristream_cluster_tests::kill_all::{self, Progress, Report, Settings};

/// Letters of the bar.
const BAR: usize = 30;

#[derive(Args)]
pub(super) struct Arguments {
    /// How often all three processes die.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// The `tristream` to run, such as a release build; by default the one beside this program, built if need be.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// How many producers: every second one the AWS SDK for Rust, the others the native client.
    #[arg(long, default_value_t = 8)]
    producers: usize,
    /// Shards of the stream.
    #[arg(long, default_value_t = 4)]
    shards: usize,
    /// Longest life in milliseconds, after the nodes took some records.
    #[arg(long, default_value_t = 2_000)]
    life: u64,
    /// Of the moments and of what is written.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON report instead of words; progress goes to standard error.
    #[arg(long)]
    json: bool,
}

/// Runs it. Whether nothing is wrong.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let settings = Settings {
        binary: arguments.binary.clone(),
        rounds: arguments.rounds,
        producers: arguments.producers.max(1),
        shards: arguments.shards.max(1),
        life_ms: 0..arguments.life.max(1),
        seed: arguments.seed,
    };
    let begun = Instant::now();
    let progress = |progress: &Progress| show(progress, arguments.rounds, begun);
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(kill_all::run(&settings, &progress))?;
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", in_words(&report))?;
    }
    Ok(report.is_clean())
}

/// A bar that moves on a terminal, a line each elsewhere.
fn show(progress: &Progress, of: usize, begun: Instant) {
    let full = (BAR * progress.rounds).checked_div(of).unwrap_or(BAR).min(BAR);
    let start = progress
        .start
        .map_or(String::new(), |start| format!(", ready again after {:.1} s", start.as_secs_f64()));
    let line = format!(
        "{:>6.1} s [{}{}] {}/{of} rounds, {} records acked{start}",
        begun.elapsed().as_secs_f64(),
        "#".repeat(full),
        ".".repeat(BAR - full),
        progress.rounds,
        progress.acked,
    );
    let mut err = std::io::stderr();
    let (begin, end) = match err.is_terminal() {
        true if progress.rounds < of => ("\r\x1b[K", ""),
        true => ("\r\x1b[K", "\n"),
        false => ("", "\n"),
    };
    let _ = write!(err, "{begin}{line}{end}");
    let _ = err.flush();
}

fn in_words(report: &Report) -> String {
    let mut lines = vec![format!(
        "all nodes died {} times, {} of them while starting; {} records acked, {} attempts of unknown outcome; \
         longest start {} ms",
        report.rounds, report.while_starting, report.acked, report.unknown, report.start_ms_max
    )];
    let agree = if report.replicas_agree { "the same" } else { "NOT the same" };
    lines.push(format!("replicas: {} records, {agree} on all three", report.records));
    for promise in &report.promises {
        let word = if promise.holds { "holds" } else { "BROKEN" };
        lines.push(format!("{:<24} {word}: {} checked", promise.promise, promise.checked));
        lines.extend(promise.told.iter().map(|told| format!("    {told}")));
    }
    if !report.is_clean() {
        lines.push(format!("again: tristream-lab kill-all --seed {}", report.seed));
    }
    lines.join("\n")
}
