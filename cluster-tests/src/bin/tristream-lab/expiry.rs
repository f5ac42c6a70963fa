//! `expiry`: three real processes under load, whose records expire, and whether their logs stay as large as they are.
//!
//! Must not know what a run does.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tristream_cluster_tests::expiry::{self, Report, Settings};

#[derive(Args)]
pub(super) struct Arguments {
    /// How many retention periods the load goes on.
    #[arg(long, default_value_t = 20)]
    periods: usize,
    /// Seconds for which records are kept.
    #[arg(long, default_value_t = 10)]
    period: u64,
    /// Load in KiB a second.
    #[arg(long, default_value_t = 4096)]
    rate: u64,
    /// The `tristream` to run, such as a release build; by default the one beside this program, built if need be.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// One JSON report instead of words; progress goes to standard error.
    #[arg(long)]
    json: bool,
}

/// Runs it. Whether the logs stayed as they were.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let settings = Settings {
        binary: arguments.binary.clone(),
        period: Duration::from_secs(arguments.period),
        periods: arguments.periods,
        bytes_per_second: arguments.rate << 10,
    };
    let begun = Instant::now();
    let progress = |period: usize, peaks: [u64; 3]| {
        let seconds = begun.elapsed().as_secs_f64();
        let [a, b, c] = peaks.map(mib);
        super::simulate::complain(&format!(
            "{seconds:>6.1} s  period {period:>2}: logs take up to {a:.0}, {b:.0} and {c:.0} MiB"
        ));
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(expiry::run(&settings, &progress))?;
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", in_words(&report))?;
    }
    Ok(report.flat)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn in_words(report: &Report) -> String {
    let mut lines = vec![
        format!(
            "{:.0} MiB acked in {} periods of {} s",
            mib(report.acked_bytes),
            report.peaks.len(),
            report.period_seconds
        ),
        "most that a log took, MiB".to_owned(),
        "period     az-a     az-b     az-c".to_owned(),
    ];
    for (period, peaks) in (1..).zip(&report.peaks) {
        let [a, b, c] = peaks.map(mib);
        lines.push(format!("{period:>6} {a:>8.1} {b:>8.1} {c:>8.1}"));
    }
    let flat = if report.flat { "the logs stay as large as they are" } else { "THE LOGS GROW" };
    lines.push(flat.to_owned());
    lines.join("\n")
}
