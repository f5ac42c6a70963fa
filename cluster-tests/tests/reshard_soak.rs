//! The soak of `tristream-lab reshard-soak`, short: up and down again with producers that never pause.

#![allow(clippy::print_stdout)]

use std::time::Duration;

use anyhow::ensure;
use tristream_cluster_tests::soak::{self, Settings};

fn short() -> Settings {
    Settings {
        producers: 6,
        steps: vec![2, 4, 3, 1],
        hold: Duration::from_secs(1),
        kills: false,
        // The product promises 2 s; a machine that is busy with other tests may take longer.
        grace: Duration::from_secs(10),
        pause: Duration::from_millis(2),
        seed: 1,
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let report = soak::run(&settings, &|words| println!("{words}")).await?;
    println!("{report:#?}");
    ensure!(report.is_clean(), "{report:#?}");
    ensure!(report.acked > 300, "only {} acks", report.acked);
    if settings.kills {
        ensure!(report.kills > 1, "nobody died");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_sees_an_error_while_shards_come_and_go() -> anyhow::Result<()> {
    run(short()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_deaths_are_seen_while_shards_come_and_go() -> anyhow::Result<()> {
    run(Settings { kills: true, hold: Duration::from_secs(3), seed: 2, ..short() }).await
}
