//! Large logs: resident memory, opening after a crash, scanning.
//!
//! What needs a fresh process runs in a child of this program. Large logs are sparse: their payloads
//! are zeros that take no room; everything else in them is as ever. What a cold figure reads from
//! the disk is real.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tristream_node::log::Log;
use tristream_proto::domain::GroupId;

use super::{Figure, Size, listed, median};
use crate::bench::disk::{BenchDisk, Sync};
use crate::bench::load::Load;
use crate::bench::{Bench, TAIL_BYTES, config, folder, on_worker};

/// The first argument of a child.
pub(crate) const CHILD: &str = "--child";

const SEGMENT_BYTES: u64 = 256 << 20;
const GROUPS: u64 = 256;

/// What a child does: `sparse DIR BYTES`, `real DIR BYTES` (both end like a crash), `open DIR`.
pub(crate) fn child(args: &[String]) {
    let dir = PathBuf::from(args.get(1).expect("a folder"));
    let bytes = args.get(2).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    let runtime = Runtime::new().expect("a runtime");
    let what = args[0].clone();
    let told = on_worker(&runtime, async move {
        match what.as_str() {
            "sparse" => write(&dir, Sync::Sparse, bytes, 64 << 10, true).await,
            "real" => write(&dir, Sync::Real, bytes, 25 << 10, false).await,
            _ => reopen(&dir).await,
        }
    });
    println!("{told}");
    std::process::exit(0);
}

async fn write(dir: &Path, sync: Sync, bytes: u64, entry_bytes: usize, zeros: bool) -> Value {
    let bench = Bench::open(config(dir.to_owned(), SEGMENT_BYTES), BenchDisk::new(sync)).await;
    let mut load = Load::new(&bench.log, GROUPS, entry_bytes, zeros);
    load.run(bytes / entry_bytes as u64).await;
    json!({ "resident": resident_mib() })
}

#[allow(clippy::disallowed_methods)]
async fn reopen(dir: &Path) -> Value {
    let began = Instant::now();
    let config = config(dir.to_owned(), SEGMENT_BYTES);
    let bench = Bench::open(config, BenchDisk::new(Sync::Real)).await;
    let seconds = began.elapsed().as_secs_f64();
    let opened = resident_mib();
    let bytes = read_group(&bench.log, GroupId(3), 1 << 20, u64::MAX).await;
    let read = resident_mib();
    bench.close().await;
    json!({ "seconds": seconds, "opened": opened, "read": read, "read_bytes": bytes })
}

/// Payload bytes of a group's entries, read in pieces from the first on, until there were `upto`.
async fn read_group(log: &Log, group: GroupId, bytes_max: usize, upto: u64) -> u64 {
    let group = log.group(group);
    let (mut next, mut bytes) = (0, 0);
    while bytes < upto {
        let most = bytes_max.min(usize::try_from(upto - bytes).unwrap_or(usize::MAX));
        let entries = group.read(next..u64::MAX, most).await.expect("the log reads");
        let Some(last) = entries.last() else { return bytes };
        next = last.id.index + 1;
        bytes += entries.iter().map(|entry| entry.payload.len() as u64).sum::<u64>();
    }
    bytes
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

fn run_child(what: &str, dir: &Path, bytes: u64) -> Value {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args([CHILD, what]).arg(dir).arg(bytes.to_string());
    let output = command.output().expect("a child starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a child tells JSON")
}

fn number(of: &Value, name: &str) -> f64 {
    of[name].as_f64().unwrap_or(f64::NAN)
}

/// Makes the next reads of all files come from the disk.
fn forget_cached(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = std::fs::File::open(entry.path()).expect("the folder is readable");
        // Only what is on the disk can be forgotten.
        file.sync_all().expect("the disk works");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("it is a file");
    }
}

/// Resident memory with 50 GB of sealed log: in the process that opened it, after it read a group.
pub(crate) fn memory(size: Size) -> Vec<Figure> {
    let (folder, bytes) = (folder(), 50_000_000_000 / size.part);
    let written = run_child("sparse", folder.path(), bytes);
    let opened = run_child("open", folder.path(), 0);
    let detail = format!(
        "{:.0} GB, {GROUPS} groups, 64 KiB; {:.0} MiB after the opening, {:.0} in the writer \
         (tail budget {} MiB)",
        bytes as f64 / 1e9,
        number(&opened, "opened"),
        number(&written, "resident"),
        TAIL_BYTES >> 20,
    );
    vec![Figure {
        what: "resident memory over the tail, 50 GB sealed",
        got: number(&opened, "read").max(number(&written, "resident")),
        reach: 64.0,
        unit: "MiB",
        detail,
    }]
}

/// Opening after a crash: 10 GiB sealed, the newest segment full to three quarters.
pub(crate) fn open(size: Size) -> Vec<Figure> {
    let (folder, mut seconds) = (folder(), Vec::new());
    run_child("sparse", folder.path(), (10 << 30) / size.part);
    for _ in 0..size.runs {
        run_child("real", folder.path(), SEGMENT_BYTES / 4 * 3 / size.part);
        forget_cached(folder.path());
        seconds.push(number(&run_child("open", folder.path(), 0), "seconds"));
    }
    let detail = format!("nothing in the page cache; runs {}", listed(&seconds));
    vec![Figure {
        what: "open after a crash, 10 GiB sealed",
        got: median(seconds),
        reach: 1.0,
        unit: "s",
        detail,
    }]
}

/// A cold scan of one group among 256, once the log has put the groups' entries together.
#[allow(clippy::disallowed_methods)]
pub(crate) fn scan(size: Size) -> Vec<Figure> {
    const ENTRY_BYTES: usize = 4 << 10;
    let runtime = Runtime::new().expect("a runtime");
    on_worker(&runtime, async move {
        let folder = folder();
        let segment_bytes = SEGMENT_BYTES / size.part;
        let config = config(folder.path().to_owned(), segment_bytes);
        let bench = Bench::open(config, BenchDisk::new(Sync::Sparse)).await;
        let mut load = Load::new(&bench.log, GROUPS, ENTRY_BYTES, false);
        // Short segments are brought together by eight.
        let bytes = if size.part > 1 { segment_bytes * 18 } else { 2 << 30 };
        load.run(bytes / ENTRY_BYTES as u64).await;
        let rewritten = until_quiet(&bench.disk).await;

        // The newest segments were not brought together yet: each entry there is a read of its own.
        let together = rewritten.min(bytes) * 9 / 10 / GROUPS;
        let (mut speeds, mut whole, scans) = (Vec::new(), Vec::new(), size.runs.max(5) as u64);
        for group in 1..=scans {
            for (upto, speeds) in [(together, &mut speeds), (u64::MAX, &mut whole)] {
                forget_cached(folder.path());
                let began = Instant::now();
                let bytes = read_group(&bench.log, GroupId(group * 50), 4 << 20, upto).await;
                speeds.push(bytes as f64 / began.elapsed().as_secs_f64() / 1e6);
            }
        }
        bench.close().await;
        let detail = format!(
            "what was brought together ({} of {} MiB); runs {}; with the newest, scattered: {:.0}",
            rewritten >> 20,
            bytes >> 20,
            listed(&speeds),
            median(whole),
        );
        vec![Figure {
            what: "cold scan, 1 of 256 groups, 4 KiB entries",
            got: median(speeds),
            reach: 300.0,
            unit: "MB/s",
            detail,
        }]
    })
}

/// Waits until the log writes nothing any more, and tells what it wrote meanwhile.
async fn until_quiet(disk: &BenchDisk) -> u64 {
    let written = || disk.counts().written.load(Ordering::Relaxed);
    let (began, mut last) = (written(), written());
    let mut quiet = 0;
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        quiet = if written() == last { quiet + 1 } else { 0 };
        last = written();
        if quiet == 5 {
            break;
        }
    }
    last - began
}
