//! Chaos on real processes: producers (the native client and HTTP), a reader (the AWS SDK) and reshards, while nodes are
//! killed, paused, cut off and slowed by a schedule from a seed; then calm, and judgement by the same promises as
//! everything else.
//!
//! Invariants: it ends, within [`Settings::limit`]; when it ends, however it does, no process of its own is left; from
//! the first fault on, whatever fails is a finding and stands in the report. Must not know what a fault does to a node.
//! It shows nothing about fsync: a killed process leaves its page cache.
//!
//! | part | file |
//! |---|---|
//! | which fault comes when, from a seed | `chaos/schedule.rs` |
//! | faults inflicted, and whether they hit | `chaos/inflict.rs` |
//! | when each fault came and went, in words | `chaos/diary.rs` |
//! | producers and the reader | `chaos/clients.rs` |
//! | the number of shards, up and down | `chaos/reshards.rs` |
//! | what came of it | `chaos/report.rs` |

mod clients;
mod diary;
mod inflict;
mod report;
mod reshards;
mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tristream_node::clock::{Clock, SystemClock};

use crate::generations::Live;
use crate::history::History;
use crate::processes::{Cluster, Options, ZONES};
use crate::producers::{Pace, Producers};
use crate::recording::{self, Case};
use crate::workload::{Shared, with};
use crate::{admin, generations, promises, sdk};

use diary::Diary;
use report::brief;

pub use report::{Count, Report};
pub use schedule::Kind;

const STREAM: &str = "chaos";
/// For the cluster to be whole again, and for puts to flow.
const CALM_LIMIT: Duration = Duration::from_secs(60);
/// For everything but the faults: start, calm, reading back, end.
const AROUND_LIMIT: Duration = Duration::from_secs(420);
/// Breaches of a promise that are told with what was recorded about them.
const STORIES_MAX: usize = 3;
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

/// What the run is about, and what is written down of it.
struct Scene<'a> {
    settings: &'a Settings,
    addresses: Vec<String>,
    /// When the history began, by two clocks.
    begun: Instant,
    begun_ms: u64,
    history: Shared,
}

struct Clients {
    producers: Producers,
    live: Live,
}

/// What is seen besides the history.
struct Findings {
    faults: BTreeMap<Kind, Count>,
    storm: Duration,
    diary: Diary,
    errors: usize,
    not_healed: Option<String>,
    failures: Vec<String>,
}

impl Findings {
    fn new(scene: &Scene<'_>) -> Findings {
        Findings {
            faults: BTreeMap::new(),
            storm: Duration::ZERO,
            diary: Diary::new(&scene.history, scene.begun),
            errors: 0,
            not_healed: None,
            failures: Vec::new(),
        }
    }

    fn note<T>(&mut self, outcome: anyhow::Result<T>) -> Option<T> {
        outcome.map_err(|error| self.failures.push(brief(&error))).ok()
    }
}

/// Runs it all, telling `progress` what happens. An error means that it could not be tried: no fault came.
pub async fn run(settings: &Settings, progress: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let until = Instant::now() + settings.limit();
    if let Some(path) = &settings.history {
        // Better now than when all is over.
        std::fs::File::create(path).with_context(|| path.display().to_string())?;
    }
    let up_arguments = ["--enable-faults", "--quotas", "off"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start(Options { up_arguments, ..Options::default() }).await?;
    progress("three nodes serve");
    let ran = chaos(&mut cluster, settings, progress, until).await;
    let ran = ran.with_context(|| cluster.last_words());
    if let Err(error) = cluster.kill_all().await {
        // What is still there ends with the cluster's value.
        progress(&format!("{error:#}"));
    }
    ran
}

async fn chaos(
    cluster: &mut Cluster,
    settings: &Settings,
    progress: &dyn Fn(&str),
    until: Instant,
) -> anyhow::Result<Report> {
    let prepared = timeout_at(until, prepare(cluster, settings)).await;
    let (scene, clients) = prepared.context("the time was over before any fault")??;
    let mut findings = Findings::new(&scene);
    let trial = trial(cluster, &scene, clients, &mut findings, progress);
    let cut_short = timeout_at(until, trial).await.is_err();
    if cut_short {
        let limit = settings.limit().as_secs();
        findings.failures.push(format!("the run was not over after {limit} s"));
        findings.not_healed.get_or_insert_with(|| "not seen, the run was cut short".to_owned());
    }
    let mut report = scene.report(&findings);
    if !report.is_clean() {
        progress(&cluster.last_words());
    }
    match scene.keep(&report, &findings.diary) {
        Ok(path) => report.history = path,
        Err(error) if report.is_clean() => return Err(error),
        // What was found matters more.
        Err(error) => progress(&format!("no history is kept: {error:#}")),
    }
    let cases = as_recorded(&report);
    if cut_short {
        // Nobody is accused of what was not read: a recording knows how far its readers came.
        report.promises = cases.iter().map(Report::promise).collect();
    }
    let told = cases.into_iter().filter(|case| !case.stories.is_empty());
    let first = |case: Case| (case.promise, case.stories.into_iter().take(STORIES_MAX).collect());
    report.stories = told.map(first).collect();
    Ok(report)
}

/// A stream, and clients that get through to it.
async fn prepare<'a>(
    cluster: &Cluster,
    settings: &'a Settings,
) -> anyhow::Result<(Scene<'a>, Clients)> {
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    sdk::create_stream(&sdk::client(&addresses[0], 3), STREAM, 2).await?;
    admin::wait_all_led(&addresses[0], STREAM, 2, CALM_LIMIT).await?;
    let (begun, begun_ms) = (Instant::now(), SystemClock.now().0);
    let history: Shared = Arc::new(Mutex::new(History::new()));
    let doors = clients::doors(cluster, &addresses, settings.producers)?;
    let pace = Pace { batch_max: 10, pause: Duration::from_millis(10) };
    let mut producers = Producers::start(doors, STREAM, settings.seed, pace, &history);
    let live = Live::start(&addresses, STREAM, &history).await?;
    producers.wait_acks(10 * settings.producers, CALM_LIMIT).await.context("before any fault")?;
    let scene = Scene { settings, addresses, begun, begun_ms, history };
    Ok((scene, Clients { producers, live }))
}

/// Faults, calm, and a last reading from each node. What goes wrong is among the findings.
async fn trial(
    cluster: &mut Cluster,
    scene: &Scene<'_>,
    clients: Clients,
    findings: &mut Findings,
    progress: &dyn Fn(&str),
) {
    let Scene { settings, addresses, history, .. } = scene;
    let Clients { mut producers, live } = clients;
    let (over, ended) = watch::channel(false);
    let storm = async {
        let stormed = storm(cluster, settings, findings, progress, || producers.acks()).await;
        over.send_replace(true);
        stormed
    };
    let reshards = reshards::run(addresses, STREAM, settings.seed, ended);
    let (stormed, ()) = tokio::join!(storm, reshards);
    findings.note(stormed);
    progress("the faults are over: now it must heal");
    let healed = calm(cluster, addresses, &mut producers, 20 * settings.producers).await;
    findings.not_healed = healed.err().map(|error| brief(&error));
    findings.errors = findings.note(producers.stop().await).map_or(0, |errors| errors.len());
    findings.note(live.stop().await);
    // What cannot be read does not count as read; the promises say so.
    for (address, reader) in addresses.iter().zip(ZONES) {
        progress(&format!("reading everything back from {reader}"));
        let read = generations::read_all(address, STREAM, reader, history).await;
        let unread = read.err().map(|error| brief(&error));
        findings.not_healed = findings.not_healed.take().or(unread);
    }
}

/// Faults, one after the other, until the time is over and each kind has come. A fault that does not end, such as a
/// node that does not serve again, is an error.
async fn storm(
    cluster: &mut Cluster,
    settings: &Settings,
    findings: &mut Findings,
    progress: &dyn Fn(&str),
    acks: impl Fn() -> usize,
) -> anyhow::Result<()> {
    let mut schedule = schedule::Schedule::new(settings.seed);
    let begun = Instant::now();
    while begun.elapsed() < settings.storm
        || !Kind::ALL.iter().all(|kind| findings.faults.contains_key(kind))
    {
        let step = schedule.next();
        tokio::time::sleep(step.calm).await;
        progress(&format!("{step}; {} acked", acks()));
        let hits = inflict::step(cluster, &step, &mut findings.diary).await;
        findings.storm = begun.elapsed();
        for (kind, hit) in hits.with_context(|| step.to_string())? {
            let count = findings.faults.entry(kind).or_default();
            count.inflicted += 1;
            count.hit += u64::from(hit);
        }
    }
    Ok(())
}

impl Scene<'_> {
    fn report(&self, findings: &Findings) -> Report {
        with(&self.history, |history| Report {
            seed: self.settings.seed,
            storm_ms: findings.storm.as_millis(),
            faults: findings.faults.clone(),
            reshards: reshards::done(history),
            acked: history.acked(),
            unknown: history.unknown(),
            errors: findings.errors,
            silence_ms: history.longest_silence(None).as_millis(),
            not_healed: findings.not_healed.clone(),
            failures: findings.failures.clone(),
            promises: promises::judge(history).into_iter().map(Into::into).collect(),
            stories: BTreeMap::new(),
            history: None,
        })
    }

    /// Writes the history, with the faults, where it is wanted, or where it is needed.
    fn keep(&self, report: &Report, diary: &Diary) -> anyhow::Result<Option<PathBuf>> {
        let path = match &self.settings.history {
            Some(path) => path.clone(),
            None if report.is_clean() => return Ok(None),
            None => std::env::temp_dir().join(format!("tristream-chaos-{}.jsonl", report.seed)),
        };
        let file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
        let mut file = std::io::BufWriter::new(file);
        with(&self.history, |history| {
            recording::write_with_deeds(history, diary.deeds(), STREAM, self.begun_ms, &mut file)
        })?;
        std::io::Write::flush(&mut file)?;
        Ok(Some(path))
    }
}

/// What `verify` says of the history that was kept; nothing of a clean run.
fn as_recorded(report: &Report) -> Vec<Case> {
    let path = report.history.iter().filter(|_| !report.is_clean()).cloned();
    let settings = recording::Settings { all_puts: true, ..recording::Settings::default() };
    let judged = recording::judge(&path.collect::<Vec<_>>(), &settings);
    judged.map(|judged| judged.promises).unwrap_or_default()
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
