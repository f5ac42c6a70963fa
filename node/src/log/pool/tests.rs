//! Tests of the pool on the simulated disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::disk::SimulatedDisk;

const SEGMENT: u64 = 64 << 10;
const DIR: &str = "/log";

struct Bench {
    disk: SimulatedDisk,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    segment_bytes: u64,
}

impl Bench {
    fn new() -> Bench {
        let disk = SimulatedDisk::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
        Bench { disk, tasks, metrics, segment_bytes: SEGMENT }
    }

    async fn open(&self) -> Pool {
        let (disk, metrics) = (Arc::new(self.disk.clone()), Arc::clone(&self.metrics));
        Pool::open(disk, DIR.into(), self.segment_bytes, &self.tasks, metrics).await.unwrap()
    }

    /// The next process, after a crash of this one.
    async fn next_life(self) -> Bench {
        self.tasks.shutdown().await;
        Bench { disk: self.disk.restarted(), tasks: Tasks::new(), ..self }
    }

    fn names(&self) -> Vec<String> {
        self.disk.list(Path::new(DIR)).unwrap()
    }

    fn file(&self, name: &str) -> Arc<dyn File> {
        self.disk.open(&Path::new(DIR).join(name), Open::Existing).unwrap()
    }

    fn zero_filled(&self) -> u64 {
        let text = self.metrics.encode();
        let line =
            text.lines().find(|line| line.starts_with("tristream_log_zero_fill_bytes_total"));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// Waits until so many files are ready, in the paused clock's time.
async fn ready(pool: &Pool, count: usize) {
    let until = async {
        while pool.ready() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), until).await.expect("never ready");
}

/// What segment `number` holds, recognisable anywhere.
fn content(number: u64, bytes: u64) -> Bytes {
    vec![number as u8; bytes as usize].into()
}

fn segment(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("{number:010}.seg"))
}

/// Begins and fills a segment as the log does.
async fn write_segment(disk: &dyn Disk, pool: &Pool, number: u64, len: u64) -> io::Result<()> {
    let taken = pool.take(len)?;
    taken.file.write_synced(0, vec![content(number, 64)]).await?;
    disk.rename(&taken.path, &segment(number))?;
    disk.sync_dir(Path::new(DIR)).await?;
    taken.file.write_synced(0, vec![content(number, len)]).await
}

async fn give(disk: &dyn Disk, pool: &Pool, number: u64) -> io::Result<()> {
    let file = disk.open(&segment(number), Open::Existing)?;
    pool.give(&segment(number), file).await
}

#[tokio::test(start_paused = true)]
async fn nothing_is_filled_before_the_log_needs_it() {
    let bench = Bench::new();
    let pool = bench.open().await;
    let first = pool.take(100).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((bench.zero_filled(), first.file.len().unwrap()), (0, 0));
    let second = pool.take(100).unwrap();
    assert_eq!(second.file.len().unwrap(), 0, "it does not wait for zeros");
    ready(&pool, 1).await;
    assert_eq!(pool.take(100).unwrap().file.len().unwrap(), SEGMENT);
}

#[tokio::test(start_paused = true)]
async fn a_prepared_file_is_whole_durable_and_counted() {
    let bench = Bench { segment_bytes: 2 * PIECE_BYTES + 5, ..Bench::new() };
    let pool = bench.open().await;
    let began = tokio::time::Instant::now();
    pool.prepare();
    ready(&pool, 1).await;
    assert!(began.elapsed() >= Duration::from_millis(250), "2 MiB at 8 MiB/s");
    pool.prepare();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pool.ready(), 1, "one ahead is enough");
    assert_eq!(bench.zero_filled(), bench.segment_bytes);
    assert_eq!(bench.disk.unsynced_bytes(), 0);
    let taken = pool.take(bench.segment_bytes).unwrap();
    let bytes = taken.file.read_at(0, bench.segment_bytes as usize).await.unwrap();
    assert!(bytes[MARK_BYTES..].iter().all(|byte| *byte == 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_for_a_ready_file_gets_a_new_one() {
    let bench = Bench::new();
    let pool = bench.open().await;
    pool.prepare();
    ready(&pool, 1).await;
    assert_eq!(pool.take(SEGMENT + 1).unwrap().file.len().unwrap(), 0);
    assert_eq!(pool.take(SEGMENT).unwrap().file.len().unwrap(), SEGMENT);
}

#[tokio::test(start_paused = true)]
async fn a_given_segment_is_used_again_at_its_length() {
    let bench = Bench::new();
    let pool = bench.open().await;
    write_segment(&bench.disk, &pool, 1, SEGMENT + 100).await.unwrap();
    give(&bench.disk, &pool, 1).await.unwrap();
    let taken = pool.take(SEGMENT).unwrap();
    assert_eq!(taken.file.len().unwrap(), SEGMENT);
    assert_eq!(taken.file.read_at(1000, 10).await.unwrap(), content(1, 10), "old bytes");
    assert_eq!(bench.zero_filled(), 0);
    assert_eq!(bench.names().len(), 1, "{:?}", bench.names());
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_grew_almost_to_its_length_is_used_again() {
    let bench = Bench::new();
    let pool = bench.open().await;
    write_segment(&bench.disk, &pool, 1, SEGMENT - SEGMENT / 16).await.unwrap();
    give(&bench.disk, &pool, 1).await.unwrap();
    assert_eq!(bench.zero_filled(), SEGMENT / 16);
    let taken = pool.take(SEGMENT).unwrap();
    assert_eq!(taken.file.len().unwrap(), SEGMENT);
    assert_eq!(bench.disk.unsynced_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn short_segments_and_those_beyond_two_are_removed() {
    let bench = Bench::new();
    let pool = bench.open().await;
    for number in 1..=4 {
        let len = if number == 1 { SEGMENT - SEGMENT / 16 - 1 } else { SEGMENT };
        write_segment(&bench.disk, &pool, number, len).await.unwrap();
    }
    for number in 1..=4 {
        give(&bench.disk, &pool, number).await.unwrap();
    }
    assert_eq!((pool.ready(), bench.names().len()), (2, 2));
    assert!(bench.names().iter().all(|name| name.starts_with("free-")));
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_is_being_read_is_not_used_again() {
    let bench = Bench::new();
    let pool = bench.open().await;
    write_segment(&bench.disk, &pool, 1, SEGMENT).await.unwrap();
    let file = bench.disk.open(&segment(1), Open::Existing).unwrap();
    let reader = Arc::clone(&file);
    pool.give(&segment(1), file).await.unwrap();
    assert_eq!((pool.ready(), bench.names().len()), (0, 0));
    assert_eq!(reader.read_at(0, 10).await.unwrap(), content(1, 10));
}

#[tokio::test(start_paused = true)]
async fn ready_files_survive_a_restart_and_unfinished_ones_go() {
    let bench = Bench::new();
    let pool = bench.open().await;
    write_segment(&bench.disk, &pool, 1, SEGMENT).await.unwrap();
    give(&bench.disk, &pool, 1).await.unwrap();
    drop(pool);
    // An unfinished one, an unused one, one of another length, one without a mark, and strangers.
    for (name, len) in
        [("fill-7.tmp", SEGMENT), ("new-8.tmp", 0), ("free-9.tmp", 5), ("free-10.tmp", SEGMENT)]
    {
        let file = bench.disk.open(&Path::new(DIR).join(name), Open::New).unwrap();
        file.write_synced(0, vec![content(0, len)]).await.unwrap();
    }
    for name in ["free-x.tmp", "0000000002.seg.tmp", "other-1.tmp"] {
        bench.disk.open(&Path::new(DIR).join(name), Open::New).unwrap();
    }
    bench.disk.process_crash();
    let bench = bench.next_life().await;
    let pool = bench.open().await;
    assert_eq!(bench.names().len(), 4, "{:?}", bench.names());
    assert_eq!(pool.ready(), 1);
    let taken = pool.take(SEGMENT).unwrap();
    assert_eq!(taken.file.read_at(1000, 10).await.unwrap(), content(1, 10));
    let path = pool.take(SEGMENT).unwrap().path;
    assert_eq!(path, Path::new("/log/new-12.tmp"), "numbers go on");
}

#[tokio::test(start_paused = true)]
async fn without_room_files_grow() {
    let bench = Bench::new();
    bench.disk.set_capacity(SEGMENT + SEGMENT / 20);
    let pool = bench.open().await;
    pool.prepare();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((bench.zero_filled(), bench.names().len()), (0, 0), "a tenth stays free");
    let taken = pool.take(100).unwrap();
    taken.file.write_synced(0, vec![content(1, 100)]).await.unwrap();
    assert_eq!(taken.file.len().unwrap(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_failed_fill_leaves_no_file_and_a_later_one_takes_its_room_at_once() {
    let bench = Bench { segment_bytes: 3 * PIECE_BYTES, ..Bench::new() };
    let pool = bench.open().await;
    bench.disk.fail_syncs(1);
    pool.prepare();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((pool.ready(), bench.names().len()), (0, 0));
    let ample = bench.segment_bytes * 2;
    bench.disk.set_capacity(ample);
    let other = bench.disk.open(Path::new("/log/other"), Open::New).unwrap();
    bench.disk.hold_syncs();
    pool.prepare();
    while bench.disk.waiting_syncs() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(other.allocate(ample - bench.segment_bytes + 1).await.is_err(), "room was taken");
    bench.disk.release_syncs();
    ready(&pool, 1).await;
}

/// Writes, gives and takes segments until the time is up or all is done.
async fn churn(disk: &SimulatedDisk, pool: &Pool, written: &mut BTreeSet<u64>) -> io::Result<()> {
    for number in 1..=8 {
        pool.prepare();
        // Every third grew, and ended a little short.
        let short = if number % 3 == 0 { SEGMENT / 20 } else { 0 };
        write_segment(disk, pool, number, SEGMENT - short).await?;
        written.insert(number);
        if number > 2 {
            written.remove(&(number - 2));
            give(disk, pool, number - 2).await?;
        }
    }
    Ok(())
}

/// The first byte of each segment's content, wherever all of the segment has the same.
async fn segments(bench: &Bench) -> BTreeMap<u64, Option<u8>> {
    let mut found = BTreeMap::new();
    for name in bench.names() {
        let Some(digits) = name.strip_suffix(".seg") else { continue };
        let file = bench.file(&name);
        let bytes = file.read_at(0, file.len().unwrap() as usize).await.unwrap();
        let header = bytes.first().copied().filter(|byte| bytes[..64].iter().all(|b| b == byte));
        found.insert(digits.parse().unwrap(), header);
    }
    found
}

/// One run up to a power loss after `millis`, the restart, and all that is checked.
async fn crash_after(millis: u64, seed: u64) -> Damaged {
    let bench = Bench::new();
    bench.disk.set_sync_latency(seed, Duration::from_millis(1), Duration::from_millis(9));
    let pool = bench.open().await;
    let mut written = BTreeSet::new();
    let work = churn(&bench.disk, &pool, &mut written);
    let done = tokio::time::timeout(Duration::from_millis(millis), work).await;
    let mut damaged = Damaged { whole_run: done.is_ok(), ..Damaged::default() };
    if let Ok(result) = done {
        result.unwrap();
    }
    bench.disk.power_loss(seed);
    drop(pool);
    let bench = bench.next_life().await;

    let before = segments(&bench).await;
    for (number, header) in &before {
        assert_eq!(
            *header,
            Some(*number as u8),
            "a segment that is none: {millis} ms, seed {seed}"
        );
    }
    for number in &written {
        let file = bench.file(&format!("{number:010}.seg"));
        let len = SEGMENT - SEGMENT / 20;
        let bytes = file.read_at(0, len as usize).await.unwrap();
        assert!(bytes == content(*number, len), "segment {number}: {millis} ms, seed {seed}");
    }
    damaged.two_names = bench.names().len() > before.len();
    // Whatever is handed out now is no segment under another name.
    let pool = bench.open().await;
    damaged.ready = pool.ready();
    for _ in 0..READY_MAX {
        let taken = pool.take(SEGMENT).unwrap();
        assert!([0, SEGMENT].contains(&taken.file.len().unwrap()));
        taken.file.write_synced(0, vec![content(0xee, SEGMENT)]).await.unwrap();
    }
    assert_eq!(segments(&bench).await, before, "{millis} ms, seed {seed}");
    bench.tasks.shutdown().await;
    damaged
}

/// What a run met.
#[derive(Default)]
struct Damaged {
    whole_run: bool,
    two_names: bool,
    ready: usize,
}

#[tokio::test(start_paused = true)]
async fn a_power_loss_at_any_moment_leaves_no_file_that_is_taken_for_a_segment() {
    let (mut whole, mut names, mut ready) = (0, 0, 0);
    for seed in 0..4 {
        for millis in 0..220 {
            let run = crash_after(millis, seed * 1000 + millis).await;
            whole += u32::from(run.whole_run);
            names += u32::from(run.two_names);
            ready += run.ready;
        }
    }
    assert!(whole > 10 && names > 100 && ready > 100, "{whole} whole, {names}, {ready} ready");
}
