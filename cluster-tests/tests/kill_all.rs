//! `tristream-lab kill-all`, short: three real processes die at once under load, three times.

#![allow(clippy::print_stdout)]

use anyhow::ensure;
use tristream_cluster_tests::kill_all::{self, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acked_is_lost_when_all_nodes_die_at_once() -> anyhow::Result<()> {
    let seed = rand::random::<u32>().into();
    println!("seed {seed}");
    let settings =
        Settings { binary: None, rounds: 3, producers: 4, shards: 3, life_ms: 0..800, seed };
    let report = kill_all::run(&settings, &|progress| println!("{progress:?}")).await?;
    println!("{report:#?}");
    ensure!(report.is_clean(), "{report:#?}");
    ensure!(report.rounds >= 3 && report.acked >= 120, "{report:#?}");
    Ok(())
}
