//! `kill -9` of all three nodes at random moments, again and again, while producers never pause; then everything is
//! read back from each replica and judged.
//!
//! Nothing of a node outlives it but its folder, and no node has another to ask: what was acked must be on the disks.
//! Invariant: every wait has an end. Must not know how a node stores.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::time::Instant;

use crate::doors::Door;
use crate::doors::native::Native;
use crate::doors::rust_sdk::RustSdk;
use crate::history::{Event, History, Stored};
use crate::processes::{Cluster, Options, PROCESS_LIMIT, ZONES};
use crate::producers::{Pace, Producers};
use crate::promises;
use crate::soak::Promise;
use crate::workload::{Shared, with};
use crate::{admin, generations, sdk};

const STREAM: &str = "kill-all";
const READERS: [&str; 3] = ["az-a", "az-b", "az-c"];
/// Acks between two deaths, so that there is always something to lose.
const ACKS_MIN: usize = 30;
/// For those acks, after a start on a busy machine.
const ACKS_LIMIT: Duration = Duration::from_secs(120);
/// One death in so many comes while the nodes are still starting.
const EARLY_DEATHS: u32 = 4;

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The binary; by default the one of this build.
    pub binary: Option<PathBuf>,
    /// How often all nodes die.
    pub rounds: usize,
    /// How many write: every second one the AWS SDK for Rust, the others the native client.
    pub producers: usize,
    /// Shards of the stream.
    pub shards: usize,
    /// How long the nodes live, in milliseconds, after they took enough.
    pub life_ms: Range<u64>,
    /// Of the moments and of what is written.
    pub seed: u64,
}

/// How far it is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Deaths so far.
    pub rounds: usize,
    /// Records acked.
    pub acked: usize,
    /// From the last start to ready; none while nothing was started again.
    pub start: Option<Duration>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How to play it again.
    pub seed: u64,
    /// How often all nodes died.
    pub rounds: usize,
    /// How many of those times they were still starting.
    pub while_starting: usize,
    /// Records acked.
    pub acked: usize,
    /// Attempts of which nobody knows whether they were stored.
    pub unknown: usize,
    /// Longest time from a start to ready.
    pub start_ms_max: u128,
    /// Records on each replica.
    pub records: usize,
    /// Whether all three replicas have the same records in the same order.
    pub replicas_agree: bool,
    /// The promises.
    pub promises: Vec<Promise>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.replicas_agree && self.promises.iter().all(|promise| promise.holds)
    }
}

/// Runs it all. An error means that it could not be tried, or that the nodes did not come back.
pub async fn run(settings: &Settings, progress: &dyn Fn(&Progress)) -> anyhow::Result<Report> {
    let options = Options { binary: settings.binary.clone(), ..Options::default() };
    let mut cluster = Cluster::start(options).await?;
    let ran = rounds(&mut cluster, settings, progress).await;
    let again = || format!("seed {}\n{}", settings.seed, cluster.last_words());
    let report = ran.with_context(again)?;
    cluster.stop().await?;
    Ok(report)
}

async fn rounds(
    cluster: &mut Cluster,
    settings: &Settings,
    progress: &dyn Fn(&Progress),
) -> anyhow::Result<Report> {
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    let shards = i32::try_from(settings.shards)?;
    sdk::create_stream(&sdk::client(&addresses[0], 3), STREAM, shards).await?;
    admin::wait_all_led(&addresses[0], STREAM, settings.shards, PROCESS_LIMIT).await?;
    let history: Shared = Arc::new(Mutex::new(History::new()));
    let pace = Pace { batch_max: 20, pause: Duration::from_millis(1) };
    let doors = doors(cluster, &addresses, settings.producers)?;
    let mut producers = Producers::start(doors, STREAM, settings.seed, pace, &history);
    let mut deaths = Deaths::new(settings);
    for rounds in 1..=settings.rounds {
        producers.wait_acks(ACKS_MIN, ACKS_LIMIT).await.context("between two deaths")?;
        deaths.one(cluster).await.with_context(|| format!("round {rounds}"))?;
        let start = Some(deaths.start_last);
        progress(&Progress { rounds, acked: producers.acks(), start });
    }
    producers.wait_acks(ACKS_MIN, ACKS_LIMIT).await.context("in the calm")?;
    producers.stop().await?;
    for (address, reader) in addresses.iter().zip(READERS) {
        admin::wait_all_led(address, STREAM, settings.shards, PROCESS_LIMIT).await?;
        let read = generations::read_all(address, STREAM, reader, &history).await;
        read.with_context(|| format!("reading everything back from {reader}"))?;
    }
    Ok(with(&history, |history| deaths.report(settings, history)))
}

fn doors(
    cluster: &Cluster,
    addresses: &[String],
    count: usize,
) -> anyhow::Result<Vec<(String, Box<dyn Door>)>> {
    let peers: Vec<String> =
        ZONES.iter().map(|zone| cluster.peer(zone)).collect::<anyhow::Result<_>>()?;
    let mut doors: Vec<(String, Box<dyn Door>)> = Vec::new();
    for number in 0..count {
        doors.push(if number % 2 == 0 {
            (format!("rust-sdk-{number}"), Box::new(RustSdk::new(addresses, number)))
        } else {
            let options = tristream_client::Options::default();
            let client = tristream_client::Client::connect(peers.clone(), options)?;
            (format!("native-{number}"), Box::new(Native(client)))
        });
    }
    Ok(doors)
}

/// When the nodes die, and what it took to bring them back.
struct Deaths {
    random: SmallRng,
    life_ms: Range<u64>,
    count: usize,
    while_starting: usize,
    start_last: Duration,
    start_max: Duration,
}

impl Deaths {
    fn new(settings: &Settings) -> Deaths {
        Deaths {
            random: SmallRng::seed_from_u64(settings.seed),
            life_ms: settings.life_ms.clone(),
            count: 0,
            while_starting: 0,
            start_last: Duration::ZERO,
            start_max: Duration::ZERO,
        }
    }

    /// All nodes die and come back, now and then only to die once more on the way.
    async fn one(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.wait_and_kill(cluster).await?;
        if self.random.random_ratio(1, EARLY_DEATHS) {
            cluster.launch()?;
            // A process that has not written its file yet could not be found again.
            admin::wait("the nodes' processes", PROCESS_LIMIT, async || {
                Ok(ZONES.iter().all(|zone| cluster.is_running(zone)).then_some(()))
            })
            .await?;
            self.wait_and_kill(cluster).await?;
            self.while_starting += 1;
        }
        let begun = Instant::now();
        cluster.up().await?;
        self.start_last = begun.elapsed();
        self.start_max = self.start_max.max(self.start_last);
        Ok(())
    }

    async fn wait_and_kill(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let life = self.random.random_range(self.life_ms.clone());
        tokio::time::sleep(Duration::from_millis(life)).await;
        cluster.kill_all().await?;
        self.count += 1;
        Ok(())
    }

    fn report(&self, settings: &Settings, history: &History) -> Report {
        let replicas = READERS.map(|reader| replica(history, reader));
        Report {
            seed: settings.seed,
            rounds: self.count,
            while_starting: self.while_starting,
            acked: history.acked(),
            unknown: history.unknown(),
            start_ms_max: self.start_max.as_millis(),
            records: replicas[0].len(),
            replicas_agree: replicas.iter().all(|other| *other == replicas[0]),
            promises: promises::judge(history).into_iter().map(Promise::from).collect(),
        }
    }
}

/// What a reader got, in its order.
fn replica<'a>(history: &'a History, reader: &str) -> Vec<&'a Stored> {
    let read = |event: &'a Event| match event {
        Event::Read(who, stored) if *who == reader => Some(stored),
        _ => None,
    };
    history.events().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Position, SequenceNumber};

    fn read(reader: &'static str, data: &'static str) -> Event {
        let number = SequenceNumber::parse("7").unwrap();
        let position = Position { shard: "s".to_owned(), number };
        Event::Read(reader, Stored { position, key: "k".to_owned(), data: data.into() })
    }

    fn report(third: &[&'static str]) -> Report {
        let mut history = History::new();
        for reader in &READERS[..2] {
            ["a", "b"].iter().for_each(|data| history.push(read(reader, data)));
        }
        third.iter().for_each(|data| history.push(read(READERS[2], data)));
        let settings =
            Settings { binary: None, rounds: 0, producers: 0, shards: 1, life_ms: 0..1, seed: 1 };
        Deaths::new(&settings).report(&settings, &history)
    }

    #[test]
    fn replicas_that_differ_are_seen() {
        assert!(report(&["a", "b"]).replicas_agree);
        for third in [&["b", "a"][..], &["a"], &["a", "b", "b"], &[]] {
            let report = report(third);
            assert!(!report.replicas_agree && !report.is_clean(), "{third:?}");
        }
    }
}
