//! The history that all parts of the walk write to, and how far they are.
//!
//! Invariant: the lock is never held across an await.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tristream_cluster_tests::history::{Event, History, Position, RecordId};

/// Between two looks at how far the others are.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Shared by everybody who puts.
pub(crate) struct Progress {
    history: Mutex<History>,
    acked: AtomicUsize,
    acked_by_client: AtomicUsize,
    others_ended: AtomicBool,
    notes: Mutex<BTreeMap<String, usize>>,
    per_shard: Mutex<BTreeMap<String, usize>>,
    client_half: std::ops::Range<usize>,
}

impl Progress {
    /// Records from `client_half` on belong to the native half.
    pub(crate) fn new(history: History, client_half: std::ops::Range<usize>) -> Progress {
        Progress {
            history: Mutex::new(history),
            acked: AtomicUsize::new(0),
            acked_by_client: AtomicUsize::new(0),
            others_ended: AtomicBool::new(false),
            notes: Mutex::default(),
            per_shard: Mutex::default(),
            client_half,
        }
    }

    /// Looks at the history or writes to it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut History) -> T) -> T {
        act(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A record was acked.
    pub(crate) fn acked(&self, id: RecordId, position: Position) {
        let shard = position.shard.clone();
        self.with(|history| history.push(Event::Acked(id, position)));
        let mut shards = self.per_shard.lock().unwrap_or_else(PoisonError::into_inner);
        *shards.entry(shard).or_default() += 1;
        self.acked.fetch_add(1, Ordering::Relaxed);
        if self.client_half.contains(&id.0) {
            self.acked_by_client.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An attempt failed, for a reason given in words.
    pub(crate) fn failed(&self, event: Event, words: &str) {
        self.with(|history| history.push(event));
        self.note(words.trim().chars().take(160).collect());
    }

    /// Something worth a line in the report; the same words are counted.
    pub(crate) fn note(&self, words: String) {
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner).entry(words).or_default() += 1;
    }

    /// The notes, with how often each was made.
    pub(crate) fn notes(&self) -> BTreeMap<String, usize> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many acks there were, over both halves.
    pub(crate) fn acks(&self) -> usize {
        self.acked.load(Ordering::Relaxed)
    }

    /// How many acks the native half got.
    pub(crate) fn acks_by_client(&self) -> usize {
        self.acked_by_client.load(Ordering::Relaxed)
    }

    /// Shards by acks, busiest first.
    pub(crate) fn busiest(&self) -> Vec<String> {
        let shards = self.per_shard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut busiest: Vec<(usize, String)> =
            shards.iter().map(|(shard, acks)| (*acks, shard.clone())).collect();
        busiest.sort_by(|one, other| other.cmp(one));
        busiest.into_iter().map(|(_, shard)| shard).collect()
    }

    /// The other half has ended, well or badly: nobody need wait for it.
    pub(crate) fn others_ended(&self) {
        self.others_ended.store(true, Ordering::Relaxed);
    }

    /// Waits until the other half, which has `share` acks to get in all, is at `done` (0 to 1).
    pub(crate) async fn wait_for_the_others(&self, done: f64, share: f64) {
        while !self.others_ended.load(Ordering::Relaxed) {
            let others = self.acks().saturating_sub(self.acks_by_client());
            if others as f64 >= done * share {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
