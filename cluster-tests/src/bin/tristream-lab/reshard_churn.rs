//! `reshard-churn`: three real processes, and what they keep of shards that came and went.
//!
//! Must not know what a run does.

use std::io::Write;

use clap::Args;
use tokio::time::Instant;
use tristream_cluster_tests::churn::{self, Footprint, Report};

#[derive(Args)]
pub(super) struct Arguments {
    /// How often 8 shards become 16 and 8 again: 16 splits and merges each time.
    #[arg(long, default_value_t = 63)]
    cycles: u32,
    /// One JSON report instead of a table; progress goes to standard error.
    #[arg(long)]
    json: bool,
}

/// Runs it. Whether everything came back.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let progress = |words: &str| {
        super::simulate::complain(&format!("{:>6.1} s  {words}", begun.elapsed().as_secs_f64()));
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(churn::run(arguments.cycles, &progress))?;
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", in_words(&report))?;
    }
    Ok(report.leaks.is_empty())
}

fn in_words(report: &Report) -> String {
    let mut lines = vec![
        format!("{} splits and merges in {:.1} s", report.reshards, report.took_ms as f64 / 1000.0),
        "node         groups  threads  descriptors  disk MiB  RssAnon MiB".to_owned(),
    ];
    for (when, footprints) in [("before", &report.before), ("after", &report.after)] {
        lines.extend(footprints.iter().map(|footprint| line(when, footprint)));
    }
    lines.extend(report.leaks.iter().map(|leak| format!("DID NOT COME BACK  {leak}")));
    lines.join("\n")
}

fn line(when: &str, of: &Footprint) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "{} {when:<6} {:>7} {:>8} {:>12} {:>9.1} {:>12.1}",
        of.zone,
        of.groups,
        of.threads,
        of.descriptors,
        mib(of.disk_bytes),
        mib(of.anonymous_bytes)
    )
}
