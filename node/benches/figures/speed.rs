//! Throughput, acks and bytes written.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Runtime;
use tristream_node::log::Config;

use super::{Figure, Size, listed, median};
use crate::bench::bare::Bare;
use crate::bench::disk::{BenchDisk, Sync};
use crate::bench::load::{Done, Load};
use crate::bench::{Bench, config, folder, on_worker};

const SEGMENT_BYTES: u64 = 256 << 20;
const RUN_BYTES: u64 = 400 << 20;

/// A log with load for it, in a folder of its own.
struct Subject {
    bench: Bench,
    load: Load,
    folder: tempfile::TempDir,
    entries: u64,
}

impl Subject {
    async fn new(sync: Sync, groups: u64, entry_bytes: usize, size: Size) -> Subject {
        let folder = folder();
        let config = Config {
            // Bytes before re-clustering are asked for; the runs are too short for a share of it.
            rewrite_bytes_per_second: 0,
            ..config(folder.path().join("log"), SEGMENT_BYTES / size.part)
        };
        let bench = Bench::open(config, BenchDisk::new(sync)).await;
        let mut load = Load::new(&bench.log, groups, entry_bytes, false);
        // As after days: what is written goes into files of what expired, and zeros are needed no more.
        load.let_expire(SEGMENT_BYTES / size.part / 4);
        let entries = RUN_BYTES / size.part / entry_bytes as u64;
        let mut subject = Subject { bench, load, folder, entries };
        for _ in 0..5 {
            subject.run().await;
        }
        subject
    }

    async fn run(&mut self) -> Done {
        self.bench.disk.take_batches();
        self.load.run(self.entries).await
    }

    /// Bytes written for segments, and to make them ready.
    fn written(&self) -> (u64, u64) {
        let counts = self.bench.disk.counts();
        (counts.written.load(Ordering::Relaxed), counts.filled.load(Ordering::Relaxed))
    }
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

/// The log and the bare loop take turns; and what the log wrote for each user byte.
pub(crate) fn throughput(size: Size) -> Vec<Figure> {
    on_worker(&runtime(), async move {
        let mut log = Subject::new(Sync::Real, 256, 25 << 10, size).await;
        let mut bare =
            Bare::new(log.folder.path(), SEGMENT_BYTES / size.part).expect("the disk works");
        let (mut ratios, mut speeds, mut bares, mut batch) = (vec![], vec![], vec![], vec![]);
        let (mut written, mut filled, mut user) = (0, 0, 0);
        for _ in 0..size.runs {
            let before = log.written();
            let done = log.run().await;
            let after = log.written();
            written += after.0 - before.0;
            filled += after.1 - before.1;
            user += done.user_bytes;
            let batches = log.bench.disk.take_batches();
            let took = bare.run(&batches).expect("the disk works");
            ratios.push(took.as_secs_f64() / done.took.as_secs_f64());
            speeds.push(done.megabytes_per_second());
            bares.push(done.user_bytes as f64 / took.as_secs_f64() / 1e6);
            batch.push(batches.iter().sum::<u64>() as f64 / batches.len() as f64 / 1024.0);
        }
        log.bench.close().await;
        let detail = format!(
            "{:.0} MB/s, bare {:.0} MB/s, {:.0} KiB per commit; runs {}",
            median(speeds),
            median(bares),
            median(batch),
            listed(&ratios)
        );
        let ratio = Figure {
            what: "throughput, 256 groups, 25 KiB, 64 outstanding",
            got: median(ratios),
            reach: 0.7,
            unit: "of the bare loop",
            detail,
        };
        vec![
            ratio,
            bytes_figure("bytes written per user byte, 25 KiB", 1.03, written, filled, user),
        ]
    })
}

fn bytes_figure(what: &'static str, reach: f64, written: u64, filled: u64, user: u64) -> Figure {
    let (written, filled) = (written as f64 / user as f64, filled as f64 / user as f64);
    let detail = format!("besides {filled:.3} of zeros, to make segments ready");
    Figure { what, got: written, reach, unit: "bytes per byte", detail }
}

/// Acks per second where a sync takes 500 us; and what was written for each user byte.
pub(crate) fn acks(size: Size) -> Vec<Figure> {
    on_worker(&runtime(), async move {
        let sync = Sync::Takes(Duration::from_micros(500));
        let mut log = Subject::new(sync, 256, 1 << 10, size).await;
        let (mut speeds, mut batch) = (vec![], vec![]);
        let (mut written, mut filled, mut user) = (0, 0, 0);
        for _ in 0..size.runs {
            let before = log.written();
            let done = log.run().await;
            let after = log.written();
            written += after.0 - before.0;
            filled += after.1 - before.1;
            user += done.user_bytes;
            speeds.push(done.acks_per_second() / 1e3);
            batch.push(done.acks as f64 / log.bench.disk.take_batches().len() as f64);
        }
        log.bench.close().await;
        let detail = format!("{:.1} appends per commit; runs {}", median(batch), listed(&speeds));
        let acks = Figure {
            what: "1 KiB at a sync of 500 us, 256 groups",
            got: median(speeds),
            reach: 70.0,
            unit: "thousand acks/s",
            detail,
        };
        vec![acks, bytes_figure("bytes written per user byte, 1 KiB", 1.15, written, filled, user)]
    })
}

/// 2,000 groups and one take turns.
pub(crate) fn groups(size: Size) -> Vec<Figure> {
    on_worker(&runtime(), async move {
        let mut many = Subject::new(Sync::Real, 2000, 25 << 10, size).await;
        let mut one = Subject::new(Sync::Real, 1, 25 << 10, size).await;
        let (mut ratios, mut manys, mut ones) = (vec![], vec![], vec![]);
        for _ in 0..size.runs {
            let (of_many, of_one) = (many.run().await, one.run().await);
            ratios.push(of_one.took.as_secs_f64() / of_many.took.as_secs_f64());
            manys.push(of_many.megabytes_per_second());
            ones.push(of_one.megabytes_per_second());
        }
        many.bench.close().await;
        one.bench.close().await;
        let detail = format!(
            "{:.0} MB/s against {:.0} MB/s; runs {}",
            median(manys),
            median(ones),
            listed(&ratios)
        );
        vec![Figure {
            what: "2,000 groups, 25 KiB, 64 outstanding",
            got: median(ratios),
            reach: 0.6,
            unit: "of one group",
            detail,
        }]
    })
}
