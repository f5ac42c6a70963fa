//! One run: a storm of faults, then calm, then everything must come back.
//!
//! Must not know how a verdict is shown.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tracing::Level;

use super::blocks::Copy;
use super::board::{Board, Phase, STREAM};
use super::clients;
use super::cluster::{Client, Cluster};
use super::fault::{Event, Storm, schedule};
use super::plant::Plant;
use super::report::Report;
use super::trace::Trace;
use super::{kinesis, operator, resharder, seeker, surveyor};
use crate::history::{History, Hope, RecordId};
use crate::promises::{self, About, Verdict};
use crate::recording::{self, Deed};

/// The cluster forms, and the stream is active, within this time.
const FORMING_MAX_MS: u64 = 60_000;
/// Every shard takes puts again within this time of the calm.
const CALM_MAX_MS: u64 = 30_000;
/// The calm lasts at least this long, so that what was delayed meets it.
const CALM_MIN_MS: u64 = 2_000;
/// What the calm is to bring, and the time after it.
const USABLE: &str = "a reshard, a put to each open shard, a stream created and deleted";
const WHOLE: &str = "each replica of each shard read whole";
/// Every replica is whole within this time of the last put.
const AUDIT_MAX_MS: u64 = 60_000;
const PRODUCERS: u64 = 2;
/// Stories that are told of one promise.
const STORIES_MAX: usize = 2;
/// Futures of a whole cluster are polled on it.
const STACK_BYTES: usize = 16 << 20;

/// What to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides everything that is not written in `script`.
    pub seed: u64,
    /// How long faults come.
    pub storm_ms: u64,
    /// The faults; none: by the seed.
    pub script: Option<Vec<Event>>,
    /// Which faults the seed draws, where there is no script.
    pub storm: Storm,
    /// Whether metadata tables outlive their process. Else the log is all that a node starts from.
    pub tables_last: bool,
    /// For how many seconds records are kept; none: for longer than a run takes.
    pub retention_seconds: Option<u64>,
    /// Hash every line of debugging too: slow, and the proof that two runs are the same.
    pub full: bool,
    /// Where the log goes.
    pub log: Option<PathBuf>,
    /// Where the history goes, as a recording.
    pub history: Option<PathBuf>,
    /// A mistake made on purpose.
    pub plant: Option<Plant>,
}

/// For how many seconds a seed keeps records: in one of three for so few that they expire while faults come.
pub fn retention_seconds(seed: u64) -> Option<u64> {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x7e7e);
    random.random_ratio(1, 3).then(|| random.random_range(4..=14))
}

/// Runs it. Once per process: see `simulation`.
///
/// # Errors
/// When it could not be run; a broken promise is in the report.
pub fn run(settings: Settings) -> anyhow::Result<Report> {
    let level = if settings.full { Level::DEBUG } else { Level::INFO };
    let trace = Trace::new(level, settings.log.as_deref())?;
    tracing::subscriber::set_global_default(trace.clone())?;
    // Thread-locals of libraries are new on a new thread.
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let running = thread.spawn(move || {
        tristream_interpose::replace(settings.seed);
        Plant::switch_on(settings.plant);
        storm_and_calm(&settings, &trace)
    })?;
    running.join().map_err(|_| anyhow::anyhow!("the simulation itself panicked"))?
}

fn storm_and_calm(settings: &Settings, trace: &Trace) -> anyhow::Result<Report> {
    let seed = settings.seed;
    let panics = watch_panics();
    let board = Board::new(seed, settings.retention_seconds)?;
    let heard = board.clone();
    let tell = Arc::new(move |zone, copy: &_| heard.note_copy(zone, copy));
    let mut cluster = Cluster::new(seed, settings.retention_seconds, tell);
    if settings.tables_last {
        cluster.let_tables_last();
    }
    cluster.add_clients(all_clients(seed, &board));
    let script = settings.script.clone();
    let script = script.unwrap_or_else(|| schedule(seed, settings.storm_ms, settings.storm));
    let (mut violations, mut deeds) = (Vec::new(), Vec::new());
    if let Err(error) = phases(settings, &script, &mut cluster, &board, &mut deeds) {
        violations.push(error);
    }
    violations.append(&mut cluster.violations);
    violations.append(&mut panics.lock());
    let broken = broken(&board);
    violations.extend(broken.iter().map(ToString::to_string));
    let stories = match broken[..] {
        [] => Vec::new(),
        _ => board.with_history(|history| stories(history, &deeds, &broken, &cluster)),
    };
    let mut coverage = cluster.coverage();
    coverage.extend(board.counts());
    coverage.insert("leader_moves".to_owned(), trace.leader_moves());
    if let Some(Plant::Node(_)) = settings.plant {
        coverage.insert("planted_reached".to_owned(), tristream_node::planted::reached());
    }
    if let Some(path) = &settings.history {
        board.with_history(|history| record(history, &deeds, path))?;
    }
    let simulated_ms = cluster.now();
    drop(cluster);
    let (hash, log_lines) = trace.sum();
    let hash = format!("{hash:016x}");
    Ok(Report { seed, hash, log_lines, simulated_ms, violations, stories, coverage })
}

fn all_clients(seed: u64, board: &Arc<Board>) -> Vec<Client> {
    let mut all = vec![clients::founder(board.clone()).boxed_local()];
    for number in 0..PRODUCERS {
        all.push(clients::producer(number, seed, board.clone()).boxed_local());
    }
    all.push(kinesis::producer(seed, board.clone()).boxed_local());
    all.push(clients::reader(board.clone()).boxed_local());
    all.push(operator::operator(seed, board.clone()).boxed_local());
    all.push(resharder::resharder(seed, board.clone()).boxed_local());
    all.push(kinesis::reader(seed, board.clone()).boxed_local());
    all.push(seeker::seeker(seed, board.clone()).boxed_local());
    all.push(clients::auditor(board.clone()).boxed_local());
    if board.expires() {
        all.extend((0..3).map(|node| surveyor::surveyor(node, board.clone()).boxed_local()));
    }
    all
}

/// The error says why it went no further.
fn phases(
    settings: &Settings,
    script: &[Event],
    cluster: &mut Cluster,
    board: &Arc<Board>,
    deeds: &mut Vec<Deed>,
) -> Result<(), String> {
    let formed = |board: &Board| board.phase() == Phase::Storm;
    if !until(cluster, FORMING_MAX_MS, board, formed)? {
        return Err(format!("no cluster and stream within {FORMING_MAX_MS} ms"));
    }
    if settings.plant == Some(Plant::DisksLie) {
        cluster.let_disks_lie();
    }
    let begin = cluster.now();
    let last = script.last().map_or(0, |event| event.at);
    let end = begin + settings.storm_ms.max(last);
    let mut events = script.iter().peekable();
    while cluster.now() < end {
        while let Some(event) = events.next_if(|event| begin + event.at <= cluster.now()) {
            let after = board.with_history(|history| history.events().len());
            let (at, what) = (Duration::from_millis(cluster.now()), format!("{:?}", event.fault));
            deeds.push(Deed { after, at, what });
            cluster.inflict(&event.fault);
        }
        step(cluster, board)?;
    }
    cluster.mend();
    board.enter(Phase::Calm);
    until(cluster, CALM_MIN_MS, board, |_| false)?;
    if hope(cluster, board, USABLE, CALM_MAX_MS, Board::unhealed)? {
        board.enter(Phase::Audit);
        let unread = |board: &Board| (board.phase() != Phase::Done).then(|| board.waits_for());
        hope(cluster, board, WHOLE, AUDIT_MAX_MS, unread)?;
    }
    Ok(())
}

/// Waits until nothing is `missing`, and notes how that went. Whether it came about.
fn hope(
    cluster: &mut Cluster,
    board: &Board,
    what: &'static str,
    most_ms: u64,
    missing: impl Fn(&Board) -> Option<String>,
) -> Result<bool, String> {
    let begun = cluster.now();
    until(cluster, most_ms, board, |board| missing(board).is_none())?;
    let (within, took) = (Duration::from_millis(most_ms), cluster.now() - begun);
    let took = missing(board).map_or(Ok(Duration::from_millis(took)), Err);
    let came = took.is_ok();
    board.note_hope(Hope { what, within, took });
    Ok(came)
}

/// Whether it came about within `most_ms`.
fn until(
    cluster: &mut Cluster,
    most_ms: u64,
    board: &Board,
    come: impl Fn(&Board) -> bool,
) -> Result<bool, String> {
    let end = cluster.now() + most_ms;
    while cluster.now() < end {
        if come(board) {
            return Ok(true);
        }
        step(cluster, board)?;
    }
    Ok(come(board))
}

fn step(cluster: &mut Cluster, board: &Board) -> Result<(), String> {
    if board.expires() {
        board.clocks_show(cluster.clocks());
    }
    cluster.step().map_err(|error| format!("the simulation stopped: {error}"))
}

/// The promises that were broken, or that the run does not show.
fn broken(board: &Board) -> Vec<Verdict> {
    let judge = |history: &History| {
        // First, for what did not come about keeps others from being shown. Why there was no calm is told elsewhere.
        let healed = promises::heals_when_calm::check(history);
        let mut verdicts = Vec::from_iter((healed.broken > 0).then_some(healed));
        verdicts.extend(promises::judge(history));
        verdicts.push(promises::acks_are_durable::check(history));
        verdicts.push(promises::tips_are_fresh::check(history));
        // A storm may leave no reader a place: that some had one is asked of a sweep.
        let begun = promises::iterators_begin_as_asked::check(history);
        verdicts.extend((begun.broken > 0).then_some(begun));
        verdicts.retain(|verdict| !verdict.holds());
        verdicts
    };
    board.with_history(judge)
}

/// What the first breaches of each promise are about.
fn stories(
    history: &History,
    deeds: &[Deed],
    broken: &[Verdict],
    cluster: &Cluster,
) -> Vec<Vec<String>> {
    let at_last: Vec<_> = cluster.kept().collect();
    let story = |about: &About| {
        let mut story = recording::story(history, deeds, about);
        if !story.is_empty() {
            story.extend(about.records.iter().map(|id| kept_at_last(history, *id, &at_last)));
        }
        story
    };
    let told = |verdict: &Verdict| {
        let first = verdict.about.iter().map(story);
        let first = first.filter(|story| !story.is_empty()).take(STORIES_MAX);
        let title = |story: Vec<String>| {
            let title = format!("{}:", verdict.promise);
            std::iter::once(title).chain(story).collect()
        };
        first.map(title).collect::<Vec<Vec<String>>>()
    };
    broken.iter().flat_map(told).collect()
}

/// Whose disks have the record at the end, of all that each zone's disk keeps.
fn kept_at_last(history: &History, id: RecordId, at_last: &[(&'static str, Vec<Copy>)]) -> String {
    let data = &history.intent(id).data;
    let keep = |copies: &[Copy]| copies.iter().any(|copy| copy.data == *data);
    let zones = at_last.iter().filter(|(_, copies)| keep(copies)).map(|(zone, _)| *zone);
    let zones: Vec<&str> = zones.collect();
    let id = id.0;
    match zones[..] {
        [] => format!("  at last  no disk has record {id}"),
        _ => format!("  at last  record {id} is on the disks of {}", zones.join(", ")),
    }
}

/// Writes what clients saw, and the faults, for `verify`.
fn record(history: &History, deeds: &[Deed], path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    let begun_ms = tristream_interpose::EPOCH_SECONDS.unsigned_abs() * 1000;
    recording::write_with_deeds(history, deeds, STREAM, begun_ms, &mut file)?;
    file.flush().with_context(|| format!("cannot write {}", path.display()))
}

/// Collects panics: most are caught somewhere in the node, and none is right.
fn watch_panics() -> Arc<Mutex<Vec<String>>> {
    let panics = Arc::new(Mutex::new(Vec::new()));
    let seen = panics.clone();
    std::panic::set_hook(Box::new(move |panic| seen.lock().push(format!("panic: {panic}"))));
    panics
}
