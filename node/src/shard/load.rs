//! What comes in at a shard that this node leads: its highest rate within a window, and an even sample
//! of the hash keys.
//!
//! Owns the observation; what is done about it is decided elsewhere. It begins when somebody asks,
//! and ends when nobody has asked for a while or the leadership is gone, so that a shard which
//! nobody watches pays one atomic read per put. Invariant: about 100 KiB per shard, whatever comes
//! in. Deterministic: the sample is drawn by a generator seeded with the group and the term. Must
//! not know streams, or who asks.
//!
//! Errors of what is told, by design:
//! - a rate is that of five seconds: a shorter burst counts for what it is over five (`peaks`);
//! - a peak is remembered up to 1/64 of the window (at least 1 s) too long, a sampled key up to 1/8;
//! - the first two seconds count for the sample but not for the peak: they bring what waited while
//!   nobody led;
//! - puts count in the second in which they came, once they are stored or their outcome is unknown;
//!   refused ones do not count, for they come again.

mod peaks;
mod sample;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tristream_proto::domain::limits::{SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND};
use tristream_proto::domain::{GroupId, HashKey, Record};

use peaks::Peaks;
use sample::{Pick, Sample};

/// Seconds at the beginning that do not count for the peak.
const SETTLING_SECONDS: u64 = 2;
/// Nobody has asked for this long, or for the window if that is longer: the observation ends.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What came in at a shard within the window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Highest bytes (data and keys) per second, over five seconds.
    pub peak_bytes: u64,
    /// Highest records per second, perhaps of other seconds.
    pub peak_records: u64,
    /// Hash keys that came in, rising, at most 1,024: each record is in it with a chance that grows
    /// with the share of a shard's second that the record takes.
    pub sampled: Vec<HashKey>,
    /// For how long was observed, at most the window.
    pub observed: Duration,
}

/// The observation of one shard.
pub struct Load {
    window: Duration,
    seed: u64,
    /// Whether there is a state: read without the lock on the way of every put.
    watched: AtomicBool,
    state: Mutex<Option<Box<State>>>,
}

struct State {
    term: u64,
    since: Instant,
    asked: Instant,
    peaks: Peaks,
    sample: Sample,
}

/// A put that was looked at before it was stored.
#[derive(Debug)]
pub struct Glance {
    at: Instant,
    records: u64,
    bytes: u64,
    slice: u64,
    picks: Vec<Pick>,
}

impl Load {
    /// Observes nothing yet. `window` is at least a second.
    pub fn new(group: GroupId, window: Duration) -> Load {
        let window = window.max(Duration::from_secs(1));
        Load { window, seed: group.0, watched: AtomicBool::new(false), state: Mutex::new(None) }
    }

    /// Looks at a put that came at `at`. Without effect on what is told until `count` follows.
    pub fn glance(&self, at: Instant, records: &[Record]) -> Option<Glance> {
        if !self.watched.load(Ordering::Relaxed) {
            return None;
        }
        let mut glance = Glance {
            at,
            records: records.len() as u64,
            bytes: records.iter().map(|record| record.bytes() as u64).sum(),
            slice: 0,
            picks: vec![],
        };
        let mut state = self.state.lock();
        let state = state.as_mut()?;
        glance.slice = state.sample.advance(at.saturating_duration_since(state.since));
        for record in records {
            if let Some(rank) = state.sample.draw(weight(record)) {
                glance.picks.push(Pick { rank, key: record.hash_key() });
            }
        }
        Some(glance)
    }

    /// The put was stored, or may have been, by the leader of `term`.
    pub fn count(&self, term: u64, glance: Option<Glance>) {
        let Some(glance) = glance else { return };
        let mut state = self.state.lock();
        let Some(now) = state.as_mut().filter(|state| state.term == term) else { return };
        if glance.at > now.asked + FORGOTTEN_AFTER.max(self.window) {
            *state = None;
            self.watched.store(false, Ordering::Relaxed);
            return;
        }
        let second = glance.at.saturating_duration_since(now.since).as_secs();
        if second >= SETTLING_SECONDS {
            now.peaks.add(second, glance.bytes, glance.records);
        }
        now.sample.insert(glance.slice, glance.picks);
    }

    /// What came in while this node led in `term`. The observation begins with the first such
    /// question in a term.
    pub fn observed(&self, term: u64, now: Instant) -> Observed {
        let mut state = self.state.lock();
        if state.as_ref().is_none_or(|state| state.term != term) {
            *state = Some(Box::new(State {
                term,
                since: now,
                asked: now,
                peaks: Peaks::new(self.window),
                // Other draws in another term, and the same in every run of a simulation.
                sample: Sample::new(self.window, self.seed << 32 ^ term),
            }));
            self.watched.store(true, Ordering::Relaxed);
        }
        let Some(state) = state.as_mut() else { return Observed::default() };
        state.asked = now;
        let elapsed = now.saturating_duration_since(state.since);
        let (peak_bytes, peak_records) = state.peaks.largest(elapsed.as_secs());
        state.sample.advance(elapsed);
        let sampled = state.sample.keys();
        Observed { peak_bytes, peak_records, sampled, observed: elapsed.min(self.window) }
    }

    /// This node does not lead: what it observed is of no use any more.
    pub fn forget(&self) {
        if self.watched.swap(false, Ordering::Relaxed) {
            *self.state.lock() = None;
        }
    }
}

/// The share of a shard's second that a record takes, by whichever is scarcer: a split at the
/// median then halves the load, be it of few large records or of many small ones.
fn weight(record: &Record) -> f64 {
    let bytes = record.bytes() as f64 / SHARD_BYTES_PER_SECOND as f64;
    bytes.max(1.0 / SHARD_RECORDS_PER_SECOND as f64)
}
