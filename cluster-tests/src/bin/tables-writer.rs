//! Writes to metadata tables without end, and says what it flushed: to be killed.
//!
//! `tables-writer DIR SEED` opens the tables in DIR, goes on after the batch they stand at, and prints `at N` and then
//! `flushed N` after each flush. It ends only when it is killed, or with an error.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tristream_cluster_tests::power_loss::rows;
use tristream_node::state::{SledTables, Tables};

/// Most batches between two flushes.
const BATCHES_MAX: u64 = 40;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().context("no folder")?;
    let seed = arguments.next().context("no seed")?.parse()?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let tables = SledTables::open_or_rebuild(Path::new(&dir))?;
    let applied = tables.applied()?;
    let mut at = applied.and_then(|marker| rows::number(&marker)).unwrap_or_default();
    let mut out = std::io::stdout();
    writeln!(out, "at {at}")?;
    loop {
        for _ in 0..rng.random_range(1..=BATCHES_MAX) {
            at += 1;
            tables.apply(&rows::batch(at), rows::marker(at))?;
        }
        tables.flush()?;
        writeln!(out, "flushed {at}")?;
    }
}
