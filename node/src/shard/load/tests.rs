//! The observation as a whole.

use super::*;
use tristream_proto::domain::PartitionKey;

const WINDOW: Duration = Duration::from_secs(60);

fn record(key: u128, bytes: usize) -> Record {
    Record {
        partition_key: PartitionKey::new("k").expect("a legal key"),
        explicit_hash_key: Some(HashKey(key)),
        data: vec![0; bytes - 1].into(),
        origin: None,
    }
}

fn put(load: &Load, term: u64, at: Instant, records: &[Record]) {
    load.count(term, load.glance(at, records));
}

fn start() -> (Load, Instant) {
    let (load, now) = (Load::new(GroupId(7), WINDOW), Instant::now());
    assert_eq!(load.observed(1, now), Observed::default());
    (load, now)
}

#[test]
fn nothing_is_observed_before_somebody_asks() {
    let (load, now) = (Load::new(GroupId(7), WINDOW), Instant::now());
    assert!(load.glance(now, &[record(1, 100)]).is_none());
    put(&load, 1, now, &[record(1, 100)]);
    assert_eq!(load.observed(1, now), Observed::default());
    put(&load, 1, now, &[record(1, 100)]);
    assert_eq!(load.observed(1, now).sampled, [HashKey(1)]);
}

#[test]
fn the_peak_counts_after_settling_and_the_sample_at_once() {
    let (load, now) = start();
    put(&load, 1, now + Duration::from_millis(1_999), &[record(1, 900), record(2, 100)]);
    put(&load, 1, now + Duration::from_millis(2_000), &[record(3, 500)]);
    put(&load, 1, now + Duration::from_millis(2_000), &vec![record(4, 1); 9]);
    let told = load.observed(1, now + Duration::from_secs(5));
    assert_eq!((told.peak_bytes, told.peak_records), (101, 2));
    assert_eq!(told.sampled[..4], [1, 2, 3, 4].map(HashKey));
    assert_eq!(told.observed, Duration::from_secs(5));
    assert_eq!(load.observed(1, now + Duration::from_secs(500)).observed, WINDOW);
}

#[test]
fn another_term_begins_anew() {
    let (load, now) = start();
    let later = now + Duration::from_secs(10);
    put(&load, 1, later, &[record(1, 900)]);
    assert_eq!(load.observed(1, later).peak_bytes, 180);
    // A put of a term that nobody asked about.
    put(&load, 2, later, &[record(1, 900)]);
    assert_eq!(load.observed(1, later).peak_bytes, 180);
    assert_eq!(load.observed(2, later), Observed::default());
    load.forget();
    assert!(load.glance(later, &[record(1, 900)]).is_none());
}

#[test]
fn a_refused_put_leaves_nothing() {
    let (load, now) = start();
    let later = now + Duration::from_secs(10);
    drop(load.glance(later, &[record(1, 900)]));
    let told = load.observed(1, later);
    assert_eq!((told.peak_bytes, told.sampled.len()), (0, 0));
}

#[test]
fn it_ends_when_nobody_asks_any_more() {
    let (load, now) = start();
    put(&load, 1, now + Duration::from_secs(60), &[record(1, 9)]);
    assert!(load.glance(now + Duration::from_secs(60), &[record(1, 9)]).is_some());
    put(&load, 1, now + Duration::from_secs(61), &[record(1, 9)]);
    assert!(load.glance(now + Duration::from_secs(62), &[record(1, 9)]).is_none());
}

#[test]
fn two_runs_sample_the_same() {
    let run = || {
        let (load, now) = start();
        for n in 0..20_000u64 {
            put(&load, 1, now + Duration::from_millis(n * 5), &[record(u128::from(n) << 90, 50)]);
        }
        load.observed(1, now + Duration::from_secs(100)).sampled
    };
    assert_eq!(run(), run());
}

/// What it costs on the way of a put; prints, for whoever wants to know:
/// `cargo test --release -p tristream-node --lib load::tests::the_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn the_cost_of_a_put() {
    for (name, is_watched, each) in
        [("not watched", false, 1), ("watched, 1 record", true, 1), ("watched, 500", true, 500)]
    {
        let (load, now) = (Load::new(GroupId(7), WINDOW), Instant::now());
        if is_watched {
            load.observed(1, now);
        }
        let records: Vec<Record> = (0..each).map(|n| record(n << 100, 1000)).collect();
        let puts = 1_000_000 / each as u64;
        let begun = std::time::Instant::now();
        for n in 0..puts {
            // A minute of a thousand records a second, again and again.
            let at = now + Duration::from_micros(n * 1000 * each as u64 % 60_000_000);
            put(&load, 1, at, &records);
        }
        let each_put = begun.elapsed() / puts as u32;
        println!("{name}: {each_put:?} a put");
    }
}
