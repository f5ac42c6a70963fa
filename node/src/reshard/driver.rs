//! Does what is due: several pieces side by side, each until it succeeds.
//!
//! Invariant: a piece of work that fails leaves its place to others until it is due again, and
//! never stops being tried while the view says that it is to be done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until};

use super::calls::Calls;
use super::due::{self, AT_ONCE, Key, Work};
use super::{goal, saga};
use crate::metadata::{Stream, View};
use crate::metrics::Metrics;
use crate::placement::Retries;

/// Puts may be waiting for a reshard that was cut short behind its seals.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Reshards that hand over at a time, from the copy of the window to the publication. They share disks
/// and syncs, and while one of them is between its seal and its publication its puts wait: many at
/// once would all make theirs wait longer.
const HANDOVERS_AT_ONCE: usize = 4;

/// A piece of work that did not get further. It is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {step}: {why}")]
pub(super) struct Stuck {
    /// At what.
    pub(super) step: &'static str,
    /// Why.
    pub(super) why: String,
}

impl Stuck {
    pub(super) fn new(step: &'static str, why: impl ToString) -> Stuck {
        Stuck { step, why: why.to_string() }
    }
}

/// Everything to be done, as the view says.
pub(super) struct Driver<C> {
    views: watch::Receiver<Arc<View>>,
    calls: C,
    metrics: Arc<Metrics>,
    handovers: Semaphore,
}

impl<C: Calls> Driver<C> {
    pub(super) fn new(
        views: watch::Receiver<Arc<View>>,
        calls: C,
        metrics: Arc<Metrics>,
    ) -> Driver<C> {
        Driver { views, calls, metrics, handovers: Semaphore::new(HANDOVERS_AT_ONCE) }
    }

    /// Does it, until the views end. Dropping it stops all of it at their next await.
    pub(super) async fn drive(&self) {
        let mut views = self.views.clone();
        let mut retries = Retries::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
        let mut running = BTreeSet::new();
        // Reshards that failed behind their seals, as far as this node knows: their puts wait.
        let mut sealed = BTreeSet::new();
        let mut pieces = FuturesUnordered::new();
        loop {
            let view = views.borrow_and_update().clone();
            let work = due::work(&view);
            let keys: BTreeSet<Key> = work.iter().map(Work::key).collect();
            retries.retain(|key| keys.contains(&key));
            sealed.retain(|key| keys.contains(key));
            for piece in due::admit(work, &running, &retries, Instant::now()) {
                running.insert(piece.key());
                let is_sealed = sealed.contains(&piece.key());
                pieces.push(self.attempt(piece, is_sealed));
            }
            // What is due and was not admitted waits for a place, not for the time.
            let waiting = keys.iter().filter(|_| running.len() < AT_ONCE);
            let waiting = waiting.filter(|key| !running.contains(key));
            let next = waiting.filter_map(|key| retries.due(*key)).min();
            tokio::select! {
                Some((key, done)) = pieces.next() => {
                    running.remove(&key);
                    if matches!(&done, Err(stuck) if saga::is_behind_seal(stuck)) {
                        sealed.insert(key);
                    }
                    settle(&mut retries, key, done);
                }
                changed = views.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// One attempt at a piece of work; it ends early when the stream is being deleted.
    async fn attempt(&self, work: Work, is_sealed: bool) -> (Key, Result<(), Stuck>) {
        let key = work.key();
        let stream = work.stream().clone();
        let mut views = self.views.clone();
        let deleted = views.wait_for(|view| !is_served(view, &stream));
        let done = tokio::select! {
            biased;
            done = self.work(&work, is_sealed) => done,
            _ = deleted => Ok(()),
        };
        (key, done)
    }

    async fn work(&self, work: &Work, is_sealed: bool) -> Result<(), Stuck> {
        match work {
            Work::Finish { stream, reshard } => {
                let handovers = (!is_sealed).then_some(&self.handovers);
                saga::run(&self.calls, &self.metrics, stream, *reshard, handovers).await
            }
            Work::Begin { stream, steps } => goal::begin(&self.calls, stream, steps).await,
            Work::Reach { stream } => goal::reach(&self.calls, stream).await,
        }
    }
}

fn is_served(view: &View, stream: &Stream) -> bool {
    let now = view.streams.get(&stream.name);
    now.is_some_and(|now| now.incarnation == stream.incarnation && due::is_served(now))
}

fn settle(retries: &mut Retries<Key>, key: Key, done: Result<(), Stuck>) {
    let Err(stuck) = done else { return retries.succeeded(key) };
    let times = retries.failed(key, Instant::now());
    if times.is_power_of_two() {
        tracing::info!(?key, times, error = %stuck, "reshard did not get on, tried again");
    }
}
