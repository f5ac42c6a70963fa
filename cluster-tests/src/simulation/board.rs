//! What clients share with each other and with the run: the phase, and what they saw.
//!
//! Invariant: an attempt is in the history before it sets out. Must not know how clients talk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::sleep;
use tristream_client::domain::{HashKey, StreamName};

use super::blocks::Copy;
use crate::history::{
    Begun, Event, History, Hope, Position, RecordId, SequenceNumber, ShardSeen, Source, Tip,
};

/// The stream that all is about.
pub(super) const STREAM: &str = "orders";
/// Keys of a producer.
const KEYS: u32 = 4;
/// How the key ends whose records say themselves where they go.
const EXPLICIT: &str = "-k1";
/// Data of a record, in bytes: mostly small, sometimes large, so that segments fill.
const SMALL_BYTES_MAX: usize = 300;
const LARGE_BYTES_MAX: usize = 60_000;

/// Where the records of a key are put, if not where the key says: those of one key of each producer.
pub(super) fn explicit_hash(key: &str) -> Option<HashKey> {
    key.ends_with(EXPLICIT).then(|| HashKey::of(&format!("elsewhere-{key}")))
}

/// How an attempt ended.
pub(super) enum Outcome {
    Acked(Position),
    /// Nothing was stored.
    Refused,
    Unknown,
}

/// What the run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// The stream does not take records yet.
    Forming,
    /// Faults.
    Storm,
    /// No more faults; puts go on.
    Calm,
    /// No more puts; replicas are read.
    Audit,
    /// All is known.
    Done,
}

/// What clients share with each other and with the run.
pub(super) struct Board {
    pub(super) stream: StreamName,
    /// Shards at the beginning.
    pub(super) shard_count: u32,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    history: History,
    /// A reshard completed in the calm, and every shard that was open then took a put.
    calm_probe: bool,
    probes: u64,
    /// Lists of shards that anybody was told.
    maps: u32,
    /// A stream was created and deleted, all in the calm.
    calm_cycle: bool,
    counts: BTreeMap<String, u64>,
    /// What the auditor waits for.
    waits_for: String,
    operator_waits_for: String,
    resharder_waits_for: &'static str,
}

impl Board {
    pub(super) fn new(seed: u64, retention_seconds: Option<u64>) -> anyhow::Result<Arc<Board>> {
        let kept = retention_seconds.map(Duration::from_secs);
        let state = State {
            phase: Phase::Forming,
            history: kept.map_or_else(History::new, History::expiring),
            calm_probe: false,
            probes: 0,
            maps: 0,
            calm_cycle: false,
            counts: BTreeMap::new(),
            waits_for: "nothing yet".to_owned(),
            operator_waits_for: "nothing yet".to_owned(),
            resharder_waits_for: "nothing yet",
        };
        let shard_count = 1 + (seed % 4) as u32;
        let stream = STREAM.parse()?;
        Ok(Arc::new(Board { stream, shard_count, state: Mutex::new(state) }))
    }

    /// Whether records expire.
    pub(super) fn expires(&self) -> bool {
        self.state.lock().history.expires()
    }

    /// What the nodes' clocks show from now on: [`History::clocks_show`].
    pub(super) fn clocks_show(&self, (lowest, agreed): (u64, Option<u64>)) {
        self.state.lock().history.clocks_show(lowest, agreed);
    }

    pub(super) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub(super) fn enter(&self, phase: Phase) {
        tracing::info!(?phase, "phase");
        self.state.lock().phase = phase;
    }

    /// What of a healthy cluster has not been seen since the calm began.
    pub(super) fn unhealed(&self) -> Option<String> {
        let state = self.state.lock();
        if !state.calm_probe {
            return Some(format!("the resharder waits for {}", state.resharder_waits_for));
        }
        let waits = || format!("the operator waits for {}", state.operator_waits_for);
        (!state.calm_cycle).then(waits)
    }

    pub(super) fn cycled_in_calm(&self) {
        self.state.lock().calm_cycle = true;
    }

    pub(super) fn probed_in_calm(&self) {
        self.state.lock().calm_probe = true;
    }

    pub(super) fn resharder_waits_for(&self, what: &'static str) {
        tracing::info!(what, "the resharder waits");
        self.state.lock().resharder_waits_for = what;
    }

    /// Makes up a record, and notes that an attempt to put it sets out.
    pub(super) fn send_probe(&self, key: &str) -> (RecordId, Bytes) {
        let mut state = self.state.lock();
        state.probes += 1;
        let data = Bytes::from(format!("probe-{}", state.probes));
        let id = state.history.intend(Some(key.to_owned()), data.clone());
        state.history.push(Event::Sent(id));
        (id, data)
    }

    /// Notes that the call that puts these sets out again.
    pub(super) fn send_again(&self, batch: &[(RecordId, String, Bytes)]) {
        let mut state = self.state.lock();
        batch.iter().for_each(|(id, ..)| state.history.push(Event::SentAgain(*id)));
    }

    pub(super) fn operator_waits_for(&self, what: String) {
        tracing::info!(what, "the operator waits");
        self.state.lock().operator_waits_for = what;
    }

    pub(super) fn waits_for(&self) -> String {
        self.state.lock().waits_for.clone()
    }

    pub(super) fn wait_for(&self, what: String) {
        self.state.lock().waits_for = what;
    }

    /// The newest record acked on a shard.
    pub(super) fn newest_ack(&self, shard: &str) -> Option<SequenceNumber> {
        let state = self.state.lock();
        let acked = state.history.events().filter_map(|event| match event {
            Event::Acked(_, position) if position.shard == shard => Some(&position.number),
            _ => None,
        });
        acked.max().cloned()
    }

    /// Makes up records, under keys that only `producer` uses, and notes that an attempt to put them sets out.
    pub(super) fn send_batch(
        &self,
        producer: &str,
        made: &mut u64,
        random: &mut SmallRng,
        count_max: usize,
    ) -> Vec<(RecordId, String, Bytes)> {
        let one = count_max == 1 || random.random_bool(0.4);
        let count = if one { 1 } else { random.random_range(2..=count_max) };
        let mut state = self.state.lock();
        let record = |_| {
            *made += 1;
            let key = format!("{producer}-k{}", random.random_range(0..KEYS));
            let most = if random.random_bool(0.05) { LARGE_BYTES_MAX } else { SMALL_BYTES_MAX };
            let padding = "x".repeat(random.random_range(0..most));
            let data = Bytes::from(format!("{producer}-{made} {padding}"));
            let hash = explicit_hash(&key);
            let id = state.history.intend_at(Some(key.clone()), hash, data.clone());
            state.history.push(Event::Sent(id));
            (id, key, data)
        };
        (0..count).map(record).collect()
    }

    /// Notes how the attempts of one put ended.
    pub(super) fn note_put(
        &self,
        batch: Vec<(RecordId, String, Bytes)>,
        outcomes: impl IntoIterator<Item = Outcome>,
    ) {
        let mut acked = false;
        for ((id, ..), outcome) in batch.into_iter().zip(outcomes) {
            acked |= matches!(outcome, Outcome::Acked(_));
            self.note(id, outcome);
        }
        self.count("acked_puts", u64::from(acked));
    }

    /// Notes how an attempt ended.
    pub(super) fn note(&self, id: RecordId, outcome: Outcome) {
        let (event, what) = match outcome {
            Outcome::Acked(position) => (Event::Acked(id, position), "acked_records"),
            Outcome::Refused => (Event::Refused(id), "refused_records"),
            Outcome::Unknown => (Event::Unknown(id), "unknown_records"),
        };
        self.push(event);
        self.count(what, 1);
    }

    pub(super) fn with_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.state.lock().history)
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.state.lock().counts.clone()
    }

    /// Counts something worth knowing of the run.
    pub(super) fn count(&self, what: &str, times: u64) {
        *self.state.lock().counts.entry(what.to_owned()).or_default() += times;
    }

    pub(super) fn push(&self, event: Event) {
        self.state.lock().history.push(event);
    }

    /// Somebody was told of all shards. By which node, and how much it knew, nobody says: no two of these have an order.
    pub(super) fn note_map(&self, map: Vec<ShardSeen>) {
        let mut state = self.state.lock();
        state.maps += 1;
        let source = Source(state.maps);
        state.history.push_seen(source, Event::Map(map));
    }

    pub(super) fn note_tip(&self, tip: Tip) {
        self.state.lock().history.note_tip(tip);
    }

    /// A zone's disk keeps a record, at this place of its shard's log, from now on.
    pub(super) fn note_copy(&self, zone: &'static str, copy: &Copy) {
        let mut state = self.state.lock();
        if let Some(id) = state.history.find(&copy.data) {
            state.history.note_copy(zone, id, copy.at);
        }
    }

    pub(super) fn note_begun(&self, begun: Begun) {
        self.state.lock().history.note_begun(begun);
    }

    pub(super) fn note_hope(&self, hope: Hope) {
        self.state.lock().history.note_hope(hope);
    }

    pub(super) async fn reached(&self, phase: Phase) {
        while self.phase() < phase {
            sleep(Duration::from_millis(5)).await;
        }
    }
}
