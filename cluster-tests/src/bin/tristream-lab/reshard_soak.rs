//! `reshard-soak`: three real processes whose stream changes its number of shards while producers never pause.
//!
//! Must not know what a run does.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tristream_cluster_tests::soak::{self, Report, Settings};

#[derive(Args)]
pub(super) struct Arguments {
    /// How many producers: every second one boto3, the others the native client.
    #[arg(long, default_value_t = 20)]
    producers: usize,
    /// Numbers of shards, one after the other; the stream begins with one.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 4, 8, 16, 8, 5, 3, 2, 1])]
    steps: Vec<i32>,
    /// Seconds to stay at each.
    #[arg(long, default_value_t = 3)]
    hold: u64,
    /// Kill and restart nodes at random all the while.
    #[arg(long)]
    kills: bool,
    /// Milliseconds after a death in which a call may set out that fails.
    #[arg(long, default_value_t = 2_000)]
    grace: u64,
    /// Of the deaths and of what is written.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON report instead of words; progress goes to standard error.
    #[arg(long)]
    json: bool,
}

/// Runs it. Whether nothing is wrong.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let settings = Settings {
        producers: arguments.producers,
        steps: arguments.steps.clone(),
        hold: Duration::from_secs(arguments.hold),
        kills: arguments.kills,
        grace: Duration::from_millis(arguments.grace),
        pause: Duration::ZERO,
        seed: arguments.seed,
    };
    let begun = Instant::now();
    let progress = |words: &str| {
        super::simulate::complain(&format!("{:>6.1} s  {words}", begun.elapsed().as_secs_f64()));
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(soak::run(&settings, &progress))?;
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", in_words(&report))?;
    }
    Ok(report.is_clean())
}

fn in_words(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} records acked, longest time without an ack {} ms, {} nodes died, {} errors seen, {} of them unallowed",
        report.acked, report.silence_ms, report.kills, report.errors, report.errors_unallowed
    )];
    lines.extend(report.told.iter().map(|told| format!("    {told}")));
    for promise in &report.promises {
        let word = if promise.holds { "holds" } else { "BROKEN" };
        lines.push(format!("{:<24} {word}: {} checked", promise.promise, promise.checked));
        lines.extend(promise.told.iter().map(|told| format!("    {told}")));
    }
    lines.join("\n")
}
