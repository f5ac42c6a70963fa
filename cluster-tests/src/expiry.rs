//! Records that expire under load that never pauses, for many retention periods, and what the nodes' logs take meanwhile.
//!
//! What is written in a period is gone a little after the next one, so after a few periods the logs take as much as ever
//! after. Invariant: every wait has an end. Must not know how a log gives space back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::doors::native::Native;
use crate::doors::{Door, Put};
use crate::processes::{Cluster, Options, PROCESS_LIMIT, ZONES};
use crate::{admin, sdk};

const STREAM: &str = "expiry";
const SHARDS: usize = 4;
/// Producers, each with its part of the load.
const PRODUCERS: u64 = 8;
/// Data of a record.
const RECORD_BYTES: u64 = 25 << 10;
/// Small beside what a period writes, so that what is left of segments does not hide a trend.
const SEGMENT_BYTES: i64 = 16 << 20;
/// Periods until the first records are gone and segments are used again.
const WARM_UP: usize = 4;
/// What the second half's peak may be, in hundredths of the first half's.
const FLAT_PERCENT: u64 = 125;

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The binary; by default the one of this build.
    pub binary: Option<PathBuf>,
    /// How long records are kept.
    pub period: Duration,
    /// For how many such periods.
    pub periods: usize,
    /// Load in bytes a second, over all shards.
    pub bytes_per_second: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Seconds for which records were kept.
    pub period_seconds: u64,
    /// Bytes of records that were acked.
    pub acked_bytes: u64,
    /// Most bytes that the log of each node took, in each period.
    pub peaks: Vec<[u64; 3]>,
    /// Whether the logs took no more at the end than at the beginning, the first periods aside.
    pub flat: bool,
}

/// Runs it, telling `progress` each period's peaks. An error means that it could not be tried, or that puts failed.
pub async fn run(
    settings: &Settings,
    progress: &dyn Fn(usize, [u64; 3]),
) -> anyhow::Result<Report> {
    ensure!(settings.periods >= WARM_UP + 4, "at least {} periods", WARM_UP + 4);
    let seconds = settings.period.as_secs();
    ensure!(seconds >= 1, "records are kept for whole seconds");
    let change = |table: &mut toml::Table| {
        table.insert("retention_override_seconds".to_owned(), seconds.cast_signed().into());
        let log = table.entry("log").or_insert_with(|| toml::Table::new().into());
        if let Some(log) = log.as_table_mut() {
            log.insert("segment_bytes".to_owned(), SEGMENT_BYTES.into());
        }
    };
    let options = Options { binary: settings.binary.clone(), ..Options::default() };
    let mut cluster = Cluster::start_with(options, change).await?;
    let ran = watch(&cluster, settings, progress).await.with_context(|| cluster.last_words());
    cluster.stop().await?;
    ran
}

async fn watch(
    cluster: &Cluster,
    settings: &Settings,
    progress: &dyn Fn(usize, [u64; 3]),
) -> anyhow::Result<Report> {
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    sdk::create_stream(&sdk::client(&addresses[0], 3), STREAM, i32::try_from(SHARDS)?).await?;
    admin::wait_all_led(&addresses[0], STREAM, SHARDS, PROCESS_LIMIT).await?;
    let mut load = Load::start(cluster, settings.bytes_per_second)?;
    let mut peaks = Vec::with_capacity(settings.periods);
    for period in 1..=settings.periods {
        let peak = peak(cluster, settings.period, &mut load).await?;
        progress(period, peak);
        peaks.push(peak);
    }
    let acked_bytes = load.stop().await?;
    let flat = is_flat(&peaks);
    Ok(Report { period_seconds: settings.period.as_secs(), acked_bytes, peaks, flat })
}

/// The most that each node's log takes while this time goes by.
async fn peak(cluster: &Cluster, time: Duration, load: &mut Load) -> anyhow::Result<[u64; 3]> {
    let mut peak = [0; 3];
    let end = Instant::now() + time;
    while Instant::now() < end {
        for (zone, peak) in ZONES.into_iter().zip(&mut peak) {
            let log = cluster.data_dir().join(zone).join("log");
            *peak = (*peak).max(crate::churn::disk_bytes(&log)?);
        }
        load.check().await?;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(peak)
}

/// Whether no node's log takes clearly more in the second half than in the first.
fn is_flat(peaks: &[[u64; 3]]) -> bool {
    let settled = peaks.get(WARM_UP..).unwrap_or_default();
    let (first, second) = settled.split_at(settled.len() / 2);
    let most = |half: &[[u64; 3]], node: usize| half.iter().map(|peak| peak[node]).max();
    (0..3).all(|node| match (most(first, node), most(second, node)) {
        (Some(first), Some(second)) => second * 100 <= first * FLAT_PERCENT,
        _ => false,
    })
}

/// Producers at a steady rate.
struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Load {
    fn start(cluster: &Cluster, bytes_per_second: u64) -> anyhow::Result<Load> {
        let peers: Vec<String> =
            ZONES.iter().map(|zone| cluster.peer(zone)).collect::<anyhow::Result<_>>()?;
        let options = tristream_client::Options::default();
        let client = tristream_client::Client::connect(peers, options)?;
        let mut load = Load { stop: Arc::default(), acked: Arc::default(), tasks: JoinSet::new() };
        let every = RECORD_BYTES * PRODUCERS * 1_000_000 / bytes_per_second.max(1);
        for number in 0..PRODUCERS {
            let (stop, acked) = (Arc::clone(&load.stop), Arc::clone(&load.acked));
            let door = Native(client.clone());
            let every = Duration::from_micros(every.max(1));
            load.tasks.spawn(produce(door, number, every, stop, acked));
        }
        Ok(load)
    }

    /// The error of a producer that gave up.
    async fn check(&mut self) -> anyhow::Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }

    /// How many bytes were acked in all.
    async fn stop(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.acked.load(Ordering::Relaxed))
    }
}

async fn produce(
    mut door: Native,
    number: u64,
    every: Duration,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let data = Bytes::from(vec![b'x'; RECORD_BYTES as usize]);
    for made in 0_u64.. {
        ticks.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let put = Put { key: format!("p{number}-{}", made % 64), data: data.clone() };
        for outcome in door.put(STREAM, &[put]).await? {
            let refused = |failure: crate::doors::Failure| anyhow::anyhow!("{}", failure.why);
            outcome.map_err(refused).context("a put failed")?;
            acked.fetch_add(RECORD_BYTES, Ordering::Relaxed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peaks(of: &[u64]) -> Vec<[u64; 3]> {
        of.iter().map(|peak| [50, *peak, 50]).collect()
    }

    #[test]
    fn flat_is_no_more_at_the_end_than_at_the_beginning() {
        assert!(is_flat(&peaks(&[1, 2, 3, 4, 100, 110, 124, 100])));
        assert!(
            is_flat(&peaks(&[900, 2, 3, 4, 100, 110, 124, 60])),
            "what comes first does not count"
        );
        assert!(!is_flat(&peaks(&[1, 2, 3, 4, 100, 110, 120, 140])));
        assert!(!is_flat(&peaks(&[1, 2, 3, 4])));
    }
}
