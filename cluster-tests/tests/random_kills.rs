//! Many producers and live readers while nodes are killed, stopped and paused at random; then calm, and judgement.
//!
//! The seed is printed; `TRISTREAM_SEED=n cargo test --test random_kills` plays the same faults and the same puts
//! again, though the machine's own timing stays its own.

#![allow(clippy::print_stdout)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tristream_cluster_tests::generations;
use tristream_cluster_tests::history::History;
use tristream_cluster_tests::processes::{Cluster, Options, ZONES};
use tristream_cluster_tests::workload::{self, Shared, Workload};
use tristream_cluster_tests::{admin, promises, sdk};

const STREAM: &str = "random";
const SHARDS: usize = 3;
const PRODUCERS: usize = 6;
/// How long faults come.
const STORM: Duration = Duration::from_secs(25);
/// For the cluster to be whole again.
const CALM_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// `kill -9`, then a start.
    Kill,
    /// `kill -9` of two nodes at once: for a while there is no quorum.
    KillTwo,
    /// SIGTERM, then a start.
    Terminate,
    /// SIGSTOP, then SIGCONT: a leader that does not know that it was deposed.
    Pause,
}

#[tokio::test]
async fn no_promise_breaks_while_nodes_die_at_random() -> anyhow::Result<()> {
    let seed = match std::env::var("TRISTREAM_SEED") {
        Ok(seed) => seed.parse().context("TRISTREAM_SEED")?,
        Err(_) => rand::random::<u32>().into(),
    };
    println!("again with TRISTREAM_SEED={seed}");
    let mut cluster = Cluster::start(Options::default()).await?;
    let tested = storm(&mut cluster, seed).await;
    tested.with_context(|| format!("TRISTREAM_SEED={seed}\n{}", cluster.last_words()))
}

async fn storm(cluster: &mut Cluster, seed: u64) -> anyhow::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    let client = sdk::client(&addresses[0], 3);
    sdk::create_stream(&client, STREAM, SHARDS as i32).await?;
    let shards = sdk::shards(&client, STREAM).await?;
    let history: Shared = Arc::new(Mutex::new(History::new()));
    let workload = Workload::start(&addresses, STREAM, &shards, PRODUCERS, seed, &history);
    let started = Instant::now();
    let mut faults = 0;
    while started.elapsed() < STORM {
        pause_for(&mut rng, 300..1500).await;
        let fault = [Fault::Kill, Fault::Kill, Fault::KillTwo, Fault::Terminate, Fault::Pause];
        let fault = *fault.choose(&mut rng).context("no fault")?;
        let zone = *ZONES.choose(&mut rng).context("no zone")?;
        println!("{} ms: {fault:?} {zone}", started.elapsed().as_millis());
        inflict(cluster, &mut rng, fault, zone)
            .await
            .with_context(|| format!("{fault:?} {zone}"))?;
        faults += 1;
    }
    ensure!(faults > 3, "only {faults} faults: nothing was tested");
    for (zone, address) in ZONES.into_iter().zip(&addresses) {
        cluster.wait_ready(zone).await?;
        admin::wait_all_led(address, STREAM, SHARDS, CALM_LIMIT).await?;
    }
    // Calm has come: puts must go through again.
    let enough = workload.acks() + 200;
    admin::wait("acks in the calm", CALM_LIMIT, async || {
        Ok((workload.acks() >= enough).then_some(()))
    })
    .await?;
    let unknown = workload::with(&history, |history| history.unknown());
    println!("{faults} faults, {} acks, {unknown} unknown outcomes", workload.acks());
    workload.stop().await?;
    generations::read_all(&addresses[0], STREAM, "az-a", &history).await?;
    generations::read_all(&addresses[1], STREAM, "az-b", &history).await?;
    generations::read_all(&addresses[2], STREAM, "az-c", &history).await?;
    workload::with(&history, |history| {
        promises::judge(history).iter().for_each(|verdict| println!("{verdict}"));
        promises::demand(history)
    })
}

async fn inflict(
    cluster: &mut Cluster,
    rng: &mut SmallRng,
    fault: Fault,
    zone: &'static str,
) -> anyhow::Result<()> {
    match fault {
        Fault::Kill => {
            cluster.kill(zone).await?;
            pause_for(rng, 0..3000).await;
            cluster.restart(zone)?;
        }
        Fault::KillTwo => {
            let others: Vec<&str> = ZONES.into_iter().filter(|other| *other != zone).collect();
            let other = *others.choose(rng).context("no other")?;
            cluster.kill(zone).await?;
            cluster.kill(other).await?;
            pause_for(rng, 0..2000).await;
            cluster.restart(other)?;
            pause_for(rng, 0..1000).await;
            cluster.restart(zone)?;
            cluster.wait_ready(other).await?;
        }
        Fault::Terminate => {
            cluster.terminate(zone).await?;
            pause_for(rng, 0..1000).await;
            cluster.restart(zone)?;
        }
        Fault::Pause => {
            cluster.pause(zone)?;
            pause_for(rng, 100..3000).await;
            cluster.resume(zone)?;
        }
    }
    // The next fault may come before the node has caught up, but not before it is a process that serves: signals
    // to a process that is still starting test the start, and there is `failover.rs` for that.
    cluster.wait_ready(zone).await
}

async fn pause_for(rng: &mut SmallRng, milliseconds: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(milliseconds))).await;
}
