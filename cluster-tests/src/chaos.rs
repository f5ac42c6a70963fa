//! Chaos on real processes: clients of all kinds and reshards, while nodes are killed, paused, cut off and slowed by a
//! schedule from a seed; then calm, and judgement by the same promises as everything else.
//!
//! Invariants: it ends, within [`Settings::limit`]; when it ends, however it does, no process of its own is left. Must
//! not know what a fault does to a node. It shows nothing about fsync: a killed process leaves its page cache.
//!
//! | part | file |
//! |---|---|
//! | which fault comes when, from a seed | `chaos/schedule.rs` |
//! | faults inflicted, and whether they hit | `chaos/inflict.rs` |
//! | the number of shards, up and down | `chaos/reshards.rs` |

mod inflict;
mod reshards;
mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use aws_sdk_kinesis::Client;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tristream_node::clock::{Clock, SystemClock};

use crate::doors::Door;
use crate::doors::native::Native;
use crate::doors::raw::Raw;
use crate::history::History;
use crate::processes::{Cluster, Options, ZONES};
use crate::producers::{Pace, Producers};
use crate::soak::Promise;
use crate::workload::{Shared, with};
use crate::{admin, generations, promises, recording, sdk};

pub use schedule::Kind;

const STREAM: &str = "chaos";
/// For the cluster to be whole again, and for puts to flow.
const CALM_LIMIT: Duration = Duration::from_secs(60);
/// For everything but the faults: start, calm, reading back, end.
const AROUND_LIMIT: Duration = Duration::from_secs(420);
/// How often HTTP by hand sends a call before it gives up.
const HTTP_ATTEMPTS: u32 = 5;

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long faults come; they go on until each kind has come once.
    pub storm: Duration,
    /// Of the faults and of what is written.
    pub seed: u64,
    /// How many write: every second one the native client, the others HTTP.
    pub producers: usize,
    /// Where the history is written, for `verify`; without it only that of a broken run is kept.
    pub history: Option<PathBuf>,
}

impl Settings {
    /// No run takes longer: what is not over by then has failed.
    pub fn limit(&self) -> Duration {
        2 * self.storm + AROUND_LIMIT
    }
}

/// What became of the faults of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many were inflicted.
    pub inflicted: u64,
    /// How many of them met something: a process that died or stood still, a message that was held.
    pub hit: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How long faults came.
    pub storm_ms: u128,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, Count>,
    /// Splits and merges that came to their end.
    pub reshards: usize,
    /// Records acked.
    pub acked: usize,
    /// Attempts of unknown outcome.
    pub unknown: usize,
    /// Calls of which a client saw an error.
    pub errors: usize,
    /// Longest time without any ack.
    pub silence_ms: u128,
    /// Why the cluster did not come to rest after the faults, if so.
    pub not_healed: Option<String>,
    /// The promises.
    pub promises: Vec<Promise>,
    /// Where the history is.
    pub history: Option<PathBuf>,
}

impl Report {
    /// Whether no promise is broken, the cluster healed, and every kind of fault hit.
    pub fn is_clean(&self) -> bool {
        self.promises.iter().all(|promise| promise.holds)
            && self.not_healed.is_none()
            && self.missing().is_empty()
    }

    /// Kinds of faults that never met anything: they were not tested.
    pub fn missing(&self) -> Vec<Kind> {
        let hit = |kind: &Kind| self.faults.get(kind).is_some_and(|count| count.hit > 0);
        Kind::ALL.into_iter().filter(|kind| !hit(kind)).collect()
    }
}

/// Runs it all, telling `progress` what happens. An error means that it could not be tried.
pub async fn run(settings: &Settings, progress: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let limit = settings.limit();
    let ran = tokio::time::timeout(limit, within(settings, progress)).await;
    ran.with_context(|| format!("not over after {} s", limit.as_secs()))?
}

async fn within(settings: &Settings, progress: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let up_arguments = ["--enable-faults", "--quotas", "off"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start(Options { up_arguments, ..Options::default() }).await?;
    progress("three nodes serve");
    let ran = chaos(&mut cluster, settings, progress).await;
    let ran = ran.with_context(|| cluster.last_words());
    cluster.kill_all().await?;
    ran
}

async fn chaos(
    cluster: &mut Cluster,
    settings: &Settings,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Report> {
    let begun_ms = SystemClock.now().0;
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    sdk::create_stream(&sdk::client(&addresses[0], 3), STREAM, 2).await?;
    admin::wait_all_led(&addresses[0], STREAM, 2, CALM_LIMIT).await?;
    let history: Shared = Arc::new(Mutex::new(History::new()));
    let doors = doors(cluster, &addresses, settings.producers)?;
    let pace = Pace { batch_max: 10, pause: Duration::from_millis(10) };
    let mut producers = Producers::start(doors, STREAM, settings.seed, pace, &history);
    let live = Live::start(&addresses, &history).await?;
    producers.wait_acks(10 * settings.producers, CALM_LIMIT).await.context("before any fault")?;

    let (over, ended) = watch::channel(false);
    let begun = Instant::now();
    let storm = async {
        let faults = storm(cluster, settings, progress, || producers.acks()).await;
        over.send_replace(true);
        faults
    };
    let reshards = reshards::run(&addresses, STREAM, settings.seed, ended);
    let (faults, ()) = tokio::join!(storm, reshards);
    let (faults, storm_ms) = (faults?, begun.elapsed().as_millis());
    progress("the faults are over: now it must heal");
    let healed = calm(cluster, &addresses, &mut producers, 20 * settings.producers).await;
    let errors = producers.stop().await?.len();
    live.stop().await?;
    // What cannot be read does not count as read; the promises say so.
    let mut not_healed = healed.err();
    for (address, reader) in addresses.iter().zip(ZONES) {
        progress(&format!("reading everything back from {reader}"));
        let read = generations::read_all(address, STREAM, reader, &history).await;
        not_healed = not_healed.or(read.err());
    }
    let mut report = with(&history, |history| Report {
        seed: settings.seed,
        storm_ms,
        faults,
        reshards: reshards::done(history),
        acked: history.acked(),
        unknown: history.unknown(),
        errors,
        silence_ms: history.longest_silence(None).as_millis(),
        not_healed: not_healed.map(|error| format!("{error:#}")),
        promises: promises::judge(history).into_iter().map(Promise::from).collect(),
        history: None,
    });
    report.history = keep(settings, &report, &history, begun_ms)?;
    if !report.is_clean() {
        progress(&cluster.last_words());
    }
    Ok(report)
}

/// Writes the history where it is wanted, or where it is needed.
fn keep(
    settings: &Settings,
    report: &Report,
    history: &Shared,
    begun_ms: u64,
) -> anyhow::Result<Option<PathBuf>> {
    let path = match &settings.history {
        Some(path) => path.clone(),
        None if report.is_clean() => return Ok(None),
        None => std::env::temp_dir().join(format!("tristream-chaos-{}.jsonl", settings.seed)),
    };
    let file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    let mut file = std::io::BufWriter::new(file);
    with(history, |history| recording::write(history, STREAM, begun_ms, &mut file))?;
    std::io::Write::flush(&mut file)?;
    Ok(Some(path))
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
            let options = tristream_client::Options::default();
            let client = tristream_client::Client::connect(peers.clone(), options)?;
            (format!("native-{number}"), Box::new(Native(client)))
        } else {
            (format!("http-{number}"), Box::new(Raw::new(addresses, number, HTTP_ATTEMPTS)))
        });
    }
    Ok(doors)
}

/// Faults, one after the other, until the time is over and each kind has come.
async fn storm(
    cluster: &mut Cluster,
    settings: &Settings,
    progress: &dyn Fn(&str),
    acks: impl Fn() -> usize,
) -> anyhow::Result<BTreeMap<Kind, Count>> {
    let mut schedule = schedule::Schedule::new(settings.seed);
    let mut counts: BTreeMap<Kind, Count> = BTreeMap::new();
    let begun = Instant::now();
    while begun.elapsed() < settings.storm
        || !Kind::ALL.iter().all(|kind| counts.contains_key(kind))
    {
        let step = schedule.next();
        tokio::time::sleep(step.calm).await;
        progress(&format!("{step}; {} acked", acks()));
        let hits = inflict::step(cluster, &step).await.with_context(|| step.to_string())?;
        for (kind, hit) in hits {
            let count = counts.entry(kind).or_default();
            count.inflicted += 1;
            count.hit += u64::from(hit);
        }
    }
    Ok(counts)
}

/// No fault is left: the cluster must come to rest, and puts must flow.
async fn calm(
    cluster: &mut Cluster,
    addresses: &[String],
    producers: &mut Producers,
    acks: usize,
) -> anyhow::Result<()> {
    for zone in ZONES {
        inflict::heal(cluster, zone).await?;
        cluster.wait_ready(zone).await?;
    }
    producers.wait_acks(acks, CALM_LIMIT).await.context("in the calm")?;
    for address in addresses {
        reshards::wait_active(&sdk::client(address, 3), STREAM, CALM_LIMIT).await?;
        admin::wait("leaders of all shards", CALM_LIMIT, async || {
            let leaders = admin::view(address).await?.leaders(STREAM);
            Ok((!leaders.is_empty() && leaders.iter().all(|(_, az)| az.is_some())).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// A reader that follows the shards all the time.
struct Live {
    stop: Arc<AtomicBool>,
    reader: JoinSet<anyhow::Result<()>>,
}

impl Live {
    async fn start(addresses: &[String], history: &Shared) -> anyhow::Result<Live> {
        let clients: Vec<Client> = addresses.iter().map(|at| sdk::client(at, 1)).collect();
        let roots = generations::shards(&clients[0], STREAM).await?;
        let roots = roots.into_iter().map(|shard| shard.shard).collect();
        let stop = Arc::default();
        let mut reader = JoinSet::new();
        let follow = generations::follow;
        reader.spawn(follow(clients, STREAM.into(), roots, history.clone(), Arc::clone(&stop)));
        Ok(Live { stop, reader })
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.reader.join_next().await {
            ended?.context("the live reader")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(faults: BTreeMap<Kind, Count>) -> Report {
        let holds = Promise { promise: "p", holds: true, checked: 1, told: vec![] };
        Report {
            seed: 1,
            storm_ms: 1,
            faults,
            reshards: 1,
            acked: 1,
            unknown: 0,
            errors: 0,
            silence_ms: 0,
            not_healed: None,
            promises: vec![holds],
            history: None,
        }
    }

    #[test]
    fn a_run_is_clean_only_if_all_holds_and_all_was_tried() {
        let all: BTreeMap<Kind, Count> =
            Kind::ALL.into_iter().map(|kind| (kind, Count { inflicted: 2, hit: 1 })).collect();
        let clean = report(all.clone());
        assert!(clean.is_clean());
        let mut broken = clean.clone();
        broken.promises[0].holds = false;
        assert!(!broken.is_clean());
        let sick = Report { not_healed: Some("no acks".to_owned()), ..clean.clone() };
        assert!(!sick.is_clean());
        for kind in Kind::ALL {
            let mut some = all.clone();
            some.insert(kind, Count { inflicted: 5, hit: 0 });
            assert_eq!(report(some.clone()).missing(), [kind]);
            some.remove(&kind);
            assert!(!report(some).is_clean(), "{kind:?} never came");
        }
    }
}
