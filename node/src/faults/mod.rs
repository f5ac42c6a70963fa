//! Faults in the transport between nodes, imposed from outside: partitions, delays, losses.
//!
//! Owns what is on, and heals it when its time is over. Invariants: there is none unless the node was started to
//! allow them, and then nothing of this is in any message's way; every fault ends by itself within ten minutes; at
//! most [`FAULTS_MAX`] at a time. Clients are never touched. Must not know what travels.
//!
//! ```text
//!  http/faults.rs  --impose, heal-->  Faults  --what is on-->  FaultyNet  --wraps-->  connections to and from peers
//!  rpc/gate.rs     --who called--------------------------------^
//! ```

mod carry;
mod faulty_net;
mod rule;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::entropy::Entropy;
use crate::metrics::Metrics;
use crate::tasks::{self, Tasks};

pub use faulty_net::FaultyNet;
pub use rule::{DELAY_MAX, Direction, Fault, Flow, Kind, LAST_DEFAULT, LAST_MAX, Order};

/// Faults that may be on at a time.
pub const FAULTS_MAX: usize = 32;

/// The faults of one node. Clones are handles to the same.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<Inner>,
}

struct Inner {
    /// Addresses of the peers, with their zones.
    peers: BTreeMap<String, String>,
    others: Vec<String>,
    on: watch::Sender<Arc<Vec<On>>>,
    made: AtomicU64,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

/// A fault that is on.
#[derive(Clone)]
struct On {
    id: u64,
    fault: Arc<Fault>,
    until: Instant,
    hits: Arc<AtomicU64>,
    healed: CancellationToken,
}

/// A fault as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Picture {
    /// Its number on this node.
    pub id: u64,
    /// Which kind.
    pub fault: Kind,
    /// The zones that it is about.
    pub az: Vec<String>,
    /// Which messages.
    pub direction: Direction,
    /// Of a delay: the fixed part, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Of a delay: the most of the random part, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_ms: Option<u64>,
    /// Of a loss: the share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// In how many milliseconds it heals by itself.
    pub heals_in_ms: u64,
    /// How many messages and connections it has met.
    pub hits: u64,
    /// The same in words.
    pub words: String,
}

/// Why a fault is not imposed. Nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Of no use to repeat.
    #[error("{0}")]
    Invalid(String),
    /// May be repeated when others have healed.
    #[error("{FAULTS_MAX} faults are on already: heal some first")]
    TooMany,
}

impl Faults {
    /// None is on. `peers` are the other nodes: address of gRPC, zone.
    pub fn new(
        peers: impl IntoIterator<Item = (String, String)>,
        entropy: Arc<dyn Entropy>,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Faults {
        let peers: BTreeMap<String, String> = peers.into_iter().collect();
        let mut others: Vec<String> = peers.values().cloned().collect();
        others.sort_unstable();
        let on = watch::Sender::new(Arc::default());
        let made = AtomicU64::new(0);
        Faults { inner: Arc::new(Inner { peers, others, on, made, entropy, metrics, tasks }) }
    }

    /// Imposes a fault at once; it heals by itself when its time is over.
    pub fn impose(&self, order: Order) -> Result<Picture, Refused> {
        let fault = Fault::of(order, &self.inner.others).map_err(Refused::Invalid)?;
        let on = On {
            id: self.inner.made.fetch_add(1, Ordering::Relaxed) + 1,
            until: Instant::now() + fault.last,
            fault: Arc::new(fault),
            hits: Arc::default(),
            healed: CancellationToken::new(),
        };
        let picture = on.picture();
        let imposed = self.inner.on.send_if_modified(|all| {
            let room = all.len() < FAULTS_MAX;
            if room {
                Arc::make_mut(all).push(on.clone());
            }
            room
        });
        if !imposed {
            return Err(Refused::TooMany);
        }
        let seconds = on.fault.last.as_secs_f64();
        tracing::warn!(id = on.id, seconds, "FAULT imposed: {}", picture.words);
        self.inner.metrics.observe_fault(on.fault.kind.name());
        self.count();
        let faults = self.clone();
        self.inner.tasks.spawn(tasks::Kind::Helper, async move {
            tokio::select! {
                () = sleep_until(on.until) => faults.remove(|one| one.id == on.id, "its time is over"),
                () = on.healed.cancelled() => Vec::new(),
            };
        });
        Ok(picture)
    }

    /// What is on, the oldest first.
    pub fn list(&self) -> Vec<Picture> {
        self.inner.on.borrow().iter().map(On::picture).collect()
    }

    /// Heals the fault of this number, or all. Gives those that were on, with what they met.
    pub fn heal(&self, id: Option<u64>) -> Vec<Picture> {
        self.remove(|one| id.is_none_or(|id| id == one.id), "somebody asked for it")
    }

    fn remove(&self, which: impl Fn(&On) -> bool, why: &str) -> Vec<Picture> {
        let mut gone = Vec::new();
        self.inner.on.send_if_modified(|all| {
            if !all.iter().any(&which) {
                return false;
            }
            let (out, stay) = all.iter().cloned().partition(&which);
            (gone, *all) = (out, Arc::new(stay));
            true
        });
        for one in &gone {
            one.healed.cancel();
            let (id, words) = (one.id, one.fault.words());
            tracing::warn!(
                id,
                hits = one.hits.load(Ordering::Relaxed),
                "FAULT healed ({why}): {words}"
            );
        }
        self.count();
        gone.iter().map(On::picture).collect()
    }

    fn count(&self) {
        let on = self.inner.on.borrow().clone();
        for kind in Kind::ALL {
            let count = on.iter().filter(|one| one.fault.kind == kind).count();
            self.inner.metrics.set_faults(kind.name(), count);
        }
    }

    /// The zone of the peer at an address.
    fn zone_at(&self, address: &str) -> Option<&str> {
        self.inner.peers.get(address).map(String::as_str)
    }

    /// Waits while no message of this way comes through.
    pub async fn wait_open(&self, zone: &str, flow: Flow) {
        let mut on = self.inner.on.subscribe();
        let mut met = None;
        loop {
            let cut = on.borrow_and_update().iter().find(|one| one.cuts(zone, flow)).cloned();
            let Some(cut) = cut else { return };
            // Once for each fault that held it.
            if met != Some(cut.id) {
                met = Some(cut.id);
                self.hit(&cut);
            }
            if on.changed().await.is_err() {
                return;
            }
        }
    }

    /// What becomes of one message: how long it is held up, or `None` if it is lost.
    fn toll(&self, zone: &str, flow: Flow) -> Option<Duration> {
        let on = self.inner.on.borrow().clone();
        let mut longer = Duration::ZERO;
        for one in on.iter().filter(|one| one.fault.covers(zone, flow)) {
            let fault = &one.fault;
            match fault.kind {
                Kind::Partition => {}
                Kind::Delay => {
                    longer += fault.delay + fault.random.mul_f64(self.chance());
                    self.hit(one);
                }
                Kind::Loss if self.chance() < fault.share => {
                    self.hit(one);
                    return None;
                }
                Kind::Loss => {}
            }
        }
        Some(longer)
    }

    /// Evenly between 0 and 1, 1 excluded.
    fn chance(&self) -> f64 {
        (self.inner.entropy.u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn hit(&self, one: &On) {
        one.hits.fetch_add(1, Ordering::Relaxed);
        self.inner.metrics.observe_fault_hit(one.fault.kind.name());
    }
}

impl On {
    fn cuts(&self, zone: &str, flow: Flow) -> bool {
        self.fault.kind == Kind::Partition && self.fault.covers(zone, flow)
    }

    fn picture(&self) -> Picture {
        let fault = &self.fault;
        let is = |kind| fault.kind == kind;
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Picture {
            id: self.id,
            fault: fault.kind,
            az: fault.zones.clone(),
            direction: fault.direction,
            delay_ms: is(Kind::Delay).then(|| ms(fault.delay)),
            random_ms: is(Kind::Delay).then(|| ms(fault.random)),
            share: is(Kind::Loss).then_some(fault.share),
            heals_in_ms: ms(self.until.saturating_duration_since(Instant::now())),
            hits: self.hits.load(Ordering::Relaxed),
            words: fault.words(),
        }
    }
}

#[cfg(test)]
mod tests;
