//! Times of the log alone, by criterion: `cargo bench -p tristream-node --bench log`.
//!
//! Each size of load stands beside the bare loop with the same batches (`bare/..`). The two do not
//! take turns here: for ratios on a machine that does other things too, see `log_figures`.

// `log_figures` uses the rest.
#[allow(dead_code)]
mod bench;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;
use tristream_proto::domain::GroupId;

use bench::bare::Bare;
use bench::disk::{BenchDisk, Sync};
use bench::load::Load;
use bench::{Bench, config, folder, on_worker};

const SEGMENT_BYTES: u64 = 64 << 20;
/// What is older than this is purged: the folder stays small.
const EXPIRE_BYTES: u64 = 64 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let runtime = Runtime::new().expect("a runtime");
    append(&mut criterion, &runtime);
    scan(&mut criterion, &runtime);
    recovery(&mut criterion, &runtime);
    criterion.final_summary();
}

/// One append with its sync, of 64 that are outstanding.
fn append(criterion: &mut Criterion, runtime: &Runtime) {
    let mut timed = criterion.benchmark_group("append_sync");
    timed.sampling_mode(SamplingMode::Flat);
    for entry_bytes in [1 << 10, 25 << 10, 512 << 10] {
        for groups in [1, 16, 256, 2000] {
            let folder = folder();
            let config = config(folder.path().join("log"), SEGMENT_BYTES);
            let bench = runtime.block_on(Bench::open(config, BenchDisk::new(Sync::Real)));
            let mut load = Load::new(&bench.log, groups, entry_bytes, false);
            load.let_expire(EXPIRE_BYTES);
            let mut load = Some(load);
            let mut run = |entries| {
                let mut running = load.take().expect("it was given back");
                let (running, took) = on_worker(runtime, async move {
                    let took = running.run(entries).await.took;
                    (running, took)
                });
                load = Some(running);
                took
            };
            let name = format!("{}KiB/{groups}", entry_bytes >> 10);
            timed.throughput(Throughput::Bytes(entry_bytes as u64));
            timed.bench_function(BenchmarkId::new("log", &name), |bencher| {
                bencher.iter_custom(&mut run);
            });
            // Batches of a run that lasts long enough to be typical.
            bench.disk.take_batches();
            let entries = (64 << 20) / entry_bytes as u64;
            run(entries);
            let batches = bench.disk.take_batches();
            runtime.block_on(bench.close());
            let mut bare = Bare::new(folder.path(), SEGMENT_BYTES).expect("the disk works");
            timed.bench_function(BenchmarkId::new("bare", &name), |bencher| {
                bencher.iter_custom(|asked| {
                    let share = asked as usize * batches.len() / entries as usize;
                    let some = batches.iter().cycle().take(share.max(1));
                    let took = bare.run(&some.copied().collect::<Vec<_>>());
                    let done = share.max(1) as f64 / batches.len() as f64 * entries as f64;
                    took.expect("the disk works").mul_f64(asked as f64 / done)
                });
            });
        }
    }
}

/// All entries of one group among 256, entries of 4 KiB, files in the page cache.
fn scan(criterion: &mut Criterion, runtime: &Runtime) {
    let folder = folder();
    let config = config(folder.path().join("log"), 16 << 20);
    let bench = runtime.block_on(Bench::open(config, BenchDisk::new(Sync::Real)));
    let entries = (256 << 20) / (4 << 10);
    runtime.block_on(Load::new(&bench.log, 256, 4 << 10, false).run(entries));
    let group = bench.log.group(GroupId(7));
    let read = || async {
        let (mut next, mut bytes) = (0, 0);
        loop {
            let entries = group.read(next..u64::MAX, 4 << 20).await.expect("the log reads");
            let Some(last) = entries.last() else { return bytes };
            next = last.id.index + 1;
            bytes += entries.iter().map(|entry| entry.payload.len() as u64).sum::<u64>();
        }
    };
    let mut timed = criterion.benchmark_group("scan");
    timed.throughput(Throughput::Bytes(runtime.block_on(read())));
    timed.bench_function("1_of_256_groups_4KiB_warm", |bencher| {
        bencher.iter(|| runtime.block_on(read()));
    });
    runtime.block_on(bench.close());
}

/// Opening a log of 64 MiB whose newest segment has no footer.
fn recovery(criterion: &mut Criterion, runtime: &Runtime) {
    let mut timed = criterion.benchmark_group("recovery");
    timed.sampling_mode(SamplingMode::Flat);
    for entry_bytes in [1 << 10, 25 << 10] {
        let folder = folder();
        let config = config(folder.path().join("log"), SEGMENT_BYTES * 2);
        let disk = BenchDisk::new(Sync::Real);
        let bench = runtime.block_on(Bench::open(config.clone(), disk.clone()));
        let entries = (64 << 20) / entry_bytes as u64;
        runtime.block_on(Load::new(&bench.log, 256, entry_bytes, false).run(entries));
        runtime.block_on(bench.close());
        timed.throughput(Throughput::Bytes(64 << 20));
        let name = format!("open_64MiB_of_{}KiB", entry_bytes >> 10);
        timed.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    took += open_and_close(runtime, &config, &disk);
                }
                took
            });
        });
    }
}

#[allow(clippy::disallowed_methods)]
fn open_and_close(
    runtime: &Runtime,
    config: &tristream_node::log::Config,
    disk: &BenchDisk,
) -> Duration {
    let began = std::time::Instant::now();
    let bench = runtime.block_on(Bench::open(config.clone(), disk.clone()));
    let took = began.elapsed();
    runtime.block_on(bench.close());
    took
}
