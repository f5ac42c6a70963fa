//! Power losses under a real process: the metadata tables' writer, killed at random, on a disk that forgets.
//!
//! ```text
//! round   folder --copy--> work --writer, preloaded with shim/journal.c--> journal, "flushed N" ... kill -9
//!         folder + journal --replay on a simulated disk, power loss by seed--> folder'   (for a few seeds)
//!         folder' --open--> it opens; it stands at N or later; its rows are those of the batch it stands at
//! ```
//!
//! The last of a round's folders is the next round's. Invariant: nothing of the real folder survives but what the
//! journal says was synced, and what luck kept. Must not know how the tables keep their word.

pub mod journal;
pub mod rows;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use tristream_node::disk::Damage;
use tristream_node::state::{SledTables, Tables};

use crate::command;

use journal::Replay;

/// Longest life of a writer after it has opened the tables.
const LIFE_MS_MAX: u64 = 400;
/// Longest time of a sync, so that writes go on while it runs.
const SYNC_US_MAX: u64 = 1_500;
/// For the writer to open the tables.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// The preloaded library, built once.
pub struct Shim {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Shim {
    /// Builds it. `Err` in the inner result says why this machine cannot.
    pub fn build() -> anyhow::Result<Result<Shim, String>> {
        if !cfg!(target_os = "linux") {
            return Ok(Err("preloading is done for Linux only".to_owned()));
        }
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        if !command::is_installed(&compiler) && !Path::new(&compiler).is_file() {
            return Ok(Err(format!("no C compiler: {compiler} is not on the path")));
        }
        let folder = tempfile::Builder::new().prefix("tristream-shim-").tempdir()?;
        let path = folder.path().join("journal.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/journal.c");
        let built = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&path)
            .arg(&source)
            .args(["-ldl", "-lpthread"])
            .output()
            .with_context(|| format!("cannot run {compiler}"))?;
        let errors = String::from_utf8_lossy(&built.stderr);
        ensure!(built.status.success(), "{compiler} refuses the shim:\n{errors}");
        Ok(Ok(Shim { path, _folder: folder }))
    }
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often the writer is started and killed.
    pub rounds: u64,
    /// Power losses tried on what each round leaves.
    pub losses: u64,
    /// Of everything.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Power losses.
    pub losses: u64,
    /// Flushes that were answered.
    pub flushes: u64,
    /// Batches that stood after a loss although nobody had promised.
    pub unpromised: u64,
    /// Losses after which the tables were set aside, to be built again from the log.
    pub rebuilt: u64,
    /// The batch at which the tables stood in the end.
    pub at: u64,
    /// What the losses did to the writes that were not synced.
    pub damage: Damage,
}

/// Starts `writer` and kills it, round after round, and loses the power at each end.
///
/// # Errors
/// A breach, in words, with the seed; or that it could not be tried.
pub fn run(shim: &Shim, writer: &Path, settings: Settings) -> anyhow::Result<Report> {
    let house = tempfile::Builder::new().prefix("tristream-power-loss-").tempdir()?;
    let (root, base) = (house.path().join("root"), house.path().join("base"));
    std::fs::create_dir_all(&base)?;
    let (mut rng, mut report) = (SmallRng::seed_from_u64(settings.seed), Report::default());
    for round in 0..settings.rounds {
        let told = || format!("seed {}, round {round}", settings.seed);
        copy(&base, &root)?;
        let journal = house.path().join("journal");
        let life = Life { shim, writer, root: &root, journal: &journal };
        let written = life.live(report.at, &mut rng).with_context(told)?;
        report.flushes += written.flushes;
        copy(&base, &root)?;
        for turn in 0..settings.losses {
            let left = house.path().join("left");
            let damage = lose(&root, &journal, rng.random(), &left).with_context(told)?;
            report.note(damage);
            // Judged on a copy: the next round begins with what the loss left, not with what an open made of it.
            let judged = house.path().join("judged");
            copy(&left, &judged)?;
            let stood = judge(&judged, written.flushed);
            match stood.with_context(|| format!("{}, loss {turn}", told()))? {
                Stood::At(at) => {
                    report.unpromised += at - written.flushed;
                    report.at = at;
                    copy(&left, &base)?;
                }
                Stood::Rebuilt => {
                    (report.at, report.rebuilt) = (0, report.rebuilt + 1);
                    copy(&judged.join("nothing"), &base)?;
                }
            }
        }
    }
    Ok(report)
}

impl Report {
    fn note(&mut self, damage: Damage) {
        self.losses += 1;
        self.damage.lost += damage.lost;
        self.damage.kept += damage.kept;
        self.damage.torn += damage.torn;
    }
}

/// One process of the writer.
struct Life<'a> {
    shim: &'a Shim,
    writer: &'a Path,
    root: &'a Path,
    journal: &'a Path,
}

/// What a writer said before it died.
struct Written {
    /// The newest batch that it called flushed.
    flushed: u64,
    flushes: u64,
}

impl Life<'_> {
    /// Starts the writer and kills it, one time in four while it opens tables that stand at `at`.
    fn live(&self, at: u64, rng: &mut SmallRng) -> anyhow::Result<Written> {
        remove(self.journal)?;
        let mut child = self.start(rng.random())?;
        let (opened, wait_open) = mpsc::sync_channel(1);
        let out = child.stdout.take().context("no output")?;
        let lines = thread::spawn(move || watch(out, &opened));
        if rng.random_range(0..4) > 0 {
            // Whether it opened or died is seen below.
            let _ = wait_open.recv_timeout(OPEN_LIMIT);
        }
        thread::sleep(Duration::from_millis(rng.random_range(0..LIFE_MS_MAX)));
        child.kill()?;
        let ended = child.wait_with_output()?;
        let words = String::from_utf8_lossy(&ended.stderr);
        let killed = ended.status.signal() == Some(Signal::KILL.as_raw());
        ensure!(killed, "the writer ended by itself with {}:\n{words}", ended.status);
        let told = lines.join().map_err(|_| anyhow!("the reader of lines panicked"))??;
        let first = *told.first().unwrap_or(&at);
        ensure!(
            first == at,
            "the tables stood at {at} after the power loss, and opened at {first}"
        );
        let flushes = told.len().saturating_sub(1) as u64;
        Ok(Written { flushed: *told.last().unwrap_or(&at), flushes })
    }

    fn start(&self, seed: u32) -> anyhow::Result<Child> {
        let mut command = Command::new(self.writer);
        command
            .arg(self.root.join("state"))
            .arg(seed.to_string())
            .env("LD_PRELOAD", &self.shim.path)
            .env("JOURNAL_ROOT", self.root)
            .env("JOURNAL_FILE", self.journal)
            .env("JOURNAL_SYNC_US", SYNC_US_MAX.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().context("cannot start the writer")
    }
}

/// The numbers that the writer says, to its end: `at N`, then `flushed N` as often as it comes to it. A line without
/// its end counts as not said.
fn watch(out: impl Read, opened: &mpsc::SyncSender<()>) -> anyhow::Result<Vec<u64>> {
    let mut told = Vec::new();
    let mut lines = BufReader::new(out);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let Some(line) = line.strip_suffix('\n') else { return Ok(told) };
        let number = line.strip_prefix("at ").or_else(|| line.strip_prefix("flushed "));
        told.push(number.with_context(|| format!("the writer says {line:?}"))?.parse()?);
        // Nobody may be waiting.
        let _ = opened.try_send(());
    }
}

/// Replays the journal on what was in `root`, loses the power, and puts what is left into `to`.
fn lose(root: &Path, journal: &Path, seed: u64, to: &Path) -> anyhow::Result<Damage> {
    clear(to)?;
    let calls = match std::fs::read(journal) {
        Ok(bytes) => journal::parse(bytes.into())?,
        // It died before its first call.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let mut replay = Replay::of(root).await?;
        for call in calls {
            let told = format!("{call:.100?}");
            replay.apply(call).await.with_context(|| told)?;
        }
        replay.lose_power(seed, root, to).await
    })
}

/// How the tables were found.
enum Stood {
    /// With the rows of this batch.
    At(u64),
    /// Not at all: they were set aside.
    Rebuilt,
}

/// Opens the tables as a node does, and holds them against what was flushed.
fn judge(house: &Path, flushed: u64) -> anyhow::Result<Stood> {
    let tables = SledTables::open_or_rebuild(&house.join("state")).context("they do not open")?;
    let names = std::fs::read_dir(house)?.flatten().map(|entry| entry.file_name());
    if names.into_iter().any(|name| name.to_string_lossy().contains("damaged")) {
        ensure!(tables.applied()?.is_none(), "rebuilt tables are not empty");
        return Ok(Stood::Rebuilt);
    }
    let at = match tables.applied()? {
        Some(marker) => rows::number(&marker).context("a marker that is no batch")?,
        None => 0,
    };
    ensure!(at >= flushed, "batch {flushed} was flushed, and the tables stand at {at}");
    let found: BTreeMap<Bytes, Bytes> = tables.scan(b"")?.into_iter().collect();
    ensure!(found == rows::rows_after(at), "the rows are not those of batch {at}");
    Ok(Stood::At(at))
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn clear(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(std::fs::create_dir_all(folder)?)
}

/// Makes `to` a copy of `from`; empty when there is none.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    clear(to)?;
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => std::fs::copy(entry.path(), target).map(drop)?,
        }
    }
    Ok(())
}
