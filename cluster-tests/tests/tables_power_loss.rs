//! The metadata tables' real process on a disk that forgets what was not synced: killed at random moments, many times.
//!
//! `TRISTREAM_ROUNDS=n` makes it longer, `TRISTREAM_SEED=n` plays the same lengths of life and the same losses again.

#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout)]

use std::path::Path;

use anyhow::{Context, ensure};
use tristream_cluster_tests::power_loss::{self, Settings, Shim};

const ROUNDS: u64 = 12;
const LOSSES: u64 = 4;

fn number(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| name.to_owned()),
        Err(_) => Ok(default),
    }
}

#[test]
fn what_was_flushed_outlives_power_losses_at_any_moment() -> anyhow::Result<()> {
    let shim = match Shim::build()? {
        Ok(shim) => shim,
        Err(why) => {
            println!("SKIPPED: {why}");
            return Ok(());
        }
    };
    let rounds = number("TRISTREAM_ROUNDS", ROUNDS)?;
    let seed = number("TRISTREAM_SEED", rand::random::<u32>().into())?;
    println!("again with TRISTREAM_SEED={seed}");
    let settings = Settings { rounds, losses: LOSSES, seed };
    let writer = Path::new(env!("CARGO_BIN_EXE_tables-writer"));
    let report = power_loss::run(&shim, writer, settings)?;
    println!("{report:?}");
    ensure!(report.losses == rounds * LOSSES, "{report:?}");
    // A write that was torn in the middle may leave tables that are built again from the log: seldom (about one loss
    // in 300), and never unnoticed.
    ensure!(report.rebuilt <= 1 + report.losses / 20, "too often damaged: {report:?}");
    // Otherwise nothing was put to the test.
    ensure!(report.flushes >= rounds, "hardly anything was flushed: {report:?}");
    ensure!(report.damage.lost > 0 && report.damage.torn > 0, "nothing was lost: {report:?}");
    Ok(())
}
