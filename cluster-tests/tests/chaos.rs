//! `tristream-lab chaos`, half a minute of it: every kind of fault on real processes, and the recording of it judged again.

#![allow(clippy::print_stdout)]

use std::time::Duration;

use anyhow::ensure;
use tristream_cluster_tests::chaos::{self, Settings};
use tristream_cluster_tests::recording;

#[tokio::test(flavor = "multi_thread")]
async fn no_promise_breaks_in_half_a_minute_of_chaos() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let history = folder.path().join("chaos.jsonl");
    let seed = match std::env::var("TRISTREAM_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random::<u32>().into(),
    };
    println!("again with TRISTREAM_SEED={seed}");
    let storm = Duration::from_secs(30);
    let settings = Settings { storm, seed, producers: 4, history: Some(history.clone()) };
    let report = chaos::run(&settings, &|words| println!("{words}")).await?;
    println!("{report:#?}");
    ensure!(report.is_clean(), "TRISTREAM_SEED={seed}: {report:#?}");
    ensure!(report.acked > 200, "only {} acks", report.acked);
    let faults = std::fs::read_to_string(&history)?.matches(r#""event":"fault""#).count();
    let inflicted: u64 = report.faults.values().map(|count| count.inflicted).sum();
    ensure!(faults as u64 == 2 * inflicted, "{faults} lines of {inflicted} faults");
    // The form in which users record says the same.
    let settings = recording::Settings { all_puts: true, ..recording::Settings::default() };
    let judged = recording::judge(&[history], &settings)?;
    ensure!(judged.is_clean(), "{judged:#?}");
    for case in &judged.promises {
        ensure!(case.ruling == recording::Ruling::Held, "{case:?}");
    }
    ensure!(judged.acked == report.acked, "{} and {}", judged.acked, report.acked);
    Ok(())
}
