//! What expires: records past their retention, and the log that held them.
//!
//! One loop for all shards of the node. The leader of a shard trims it: an entry in the shard's log says
//! up to where records are gone for readers. Every replica purges its own log up to its newest
//! checkpoint at or below that, so checkpoints are taken often enough.
//!
//! Invariant: nothing expires by a clock that the majority does not agree with, nor by one that is behind
//! what it stamped itself. Must not know how a shard is stored.
//!
//! ```text
//!  metadata view --> how long --.
//!  shards -----> what is kept --+--> due (pure) --> checkpoint, purge     every replica
//!  clocks (pure) ---------------'              '--> trim                  the shard's leader
//! ```

mod clocks;
mod due;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, sleep, timeout};
use tristream_proto::domain::{GroupId, Timestamp};

use crate::metadata::{self, Stream, StreamStatus, View};
use crate::metrics::Metrics;
use crate::router::Router;
use crate::shard;
use crate::tasks::{Kind, Tasks};

use due::{Memory, Trim};

/// Between two looks at all shards.
const TICK: Duration = Duration::from_secs(1);
/// Shards at which something is done at a time.
const AT_ONCE: usize = 8;
/// For one step at one shard.
const STEP_DEADLINE: Duration = Duration::from_secs(5);
/// How long the other nodes may take to tell the time.
const CLOCK_DEADLINE: Duration = Duration::from_secs(1);

/// Entries of the metadata group's log, of a kilobyte or so each, that a node keeps at most.
const METADATA_ENTRIES_MAX: u64 = 10_000;

/// What retention works on.
pub struct Parts {
    /// The shards of this node, what the metadata say of them, and the others' clocks.
    pub router: Router,
    /// The metadata group, open.
    pub metadata: metadata::Handle,
    /// Where trims and purges are counted.
    pub metrics: Arc<Metrics>,
    /// For how long all records are kept, whatever their streams say.
    pub kept_override: Option<Duration>,
}

/// Starts retention; it ends with the node.
pub fn start(parts: Parts, tasks: &Tasks) {
    let retention = Retention { parts, memory: BTreeMap::new(), is_paused: false };
    // Its failure costs space, and is told by the disk; it is no reason to stop the node.
    tasks.spawn(Kind::Helper, retention.run());
}

struct Retention {
    parts: Parts,
    memory: BTreeMap<GroupId, Memory>,
    is_paused: bool,
}

/// A shard that is open here.
struct Open {
    handle: shard::Handle,
    kept: Duration,
}

impl Retention {
    async fn run(mut self) {
        loop {
            sleep(TICK).await;
            let open = self.open();
            self.memory.retain(|group, _| open.contains_key(group));
            self.checkpoint(&open).await;
            self.trim(&open).await;
            self.purge(&open).await;
            self.compact().await;
        }
    }

    /// The shards that are open here, and for how long each keeps records.
    fn open(&self) -> BTreeMap<GroupId, Open> {
        let Parts { router, kept_override, .. } = &self.parts;
        let open = |(group, kept): (GroupId, Duration)| {
            let handle = router.local_shard(group)?;
            Some((group, Open { handle, kept: kept_override.unwrap_or(kept) }))
        };
        kept(&router.view()).filter_map(open).collect()
    }

    async fn checkpoint(&mut self, open: &BTreeMap<GroupId, Open>) {
        let now = Instant::now();
        let mut due = vec![];
        for (&group, Open { handle, kept }) in open {
            let memory = self.memory.entry(group).or_default();
            if memory.wants_checkpoint(&handle.retained(), *kept, now) {
                due.push((group, handle.clone()));
            }
        }
        let checkpoint = |(group, handle): (GroupId, shard::Handle)| async move {
            // One that waits for the repair of an entry must not hold up the others.
            match timeout(STEP_DEADLINE, handle.checkpoint()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%group, %error, "no checkpoint, tried again"),
                Err(_) => tracing::debug!(%group, "no checkpoint in time, tried again"),
            }
        };
        futures::stream::iter(due).for_each_concurrent(AT_ONCE, checkpoint).await;
    }

    async fn trim(&mut self, open: &BTreeMap<GroupId, Open>) {
        let router = &self.parts.router;
        let begun = router.now();
        let mut due = vec![];
        for (&group, Open { handle, kept }) in open {
            if !handle.leadership().ready_here {
                continue;
            }
            let memory = self.memory.entry(group).or_default();
            let retained = handle.retained();
            let mut decision = memory.wants_trim(&retained, *kept, begun);
            if decision == Trim::LookForOldest {
                // Where it cannot be read now it may be at the next look.
                memory.oldest = handle.oldest().await.unwrap_or(None);
                decision = memory.wants_trim(&retained, *kept, begun);
            }
            if decision == Trim::Now {
                due.push((group, handle.clone(), retained, *kept));
            }
        }
        if due.is_empty() {
            return self.pause(0);
        }
        let others = router.other_clocks(CLOCK_DEADLINE).await;
        let nodes = router.roster().members.len();
        // A clock that was set back while the others were asked was wrong before.
        let now = begun.min(router.now());
        let wanted = due.len();
        due.retain(|(_, _, retained, kept)| clocks::agree(&others, nodes, retained, *kept, now));
        self.pause(wanted - due.len());
        let (deadline, metrics) = (STEP_DEADLINE, &self.parts.metrics);
        let trim = |(group, handle, _, kept): (GroupId, shard::Handle, _, Duration)| async move {
            match handle.trim_before(cutoff(now, kept), deadline).await {
                Ok(Some(upto)) => {
                    metrics.observe_trim();
                    tracing::debug!(%group, upto, "trimmed");
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%group, %error, "not trimmed, tried again"),
            }
        };
        futures::stream::iter(due).for_each_concurrent(AT_ONCE, trim).await;
    }

    /// The metadata group keeps no records, only what made its view: that need not be long.
    async fn compact(&self) {
        let Parts { metadata, metrics, .. } = &self.parts;
        match metadata.compact(METADATA_ENTRIES_MAX, STEP_DEADLINE).await {
            Ok(Some(upto)) => {
                metrics.observe_purge();
                tracing::info!(upto, "the metadata group's log was purged");
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "metadata log not purged, tried again"),
        }
    }

    fn pause(&mut self, shards: usize) {
        self.parts.metrics.set_trimming_paused(shards);
        let is_paused = shards > 0;
        if is_paused && !self.is_paused {
            tracing::warn!(
                shards,
                "clocks disagree: records that expired are kept until they do not"
            );
        }
        self.is_paused = is_paused;
    }

    async fn purge(&mut self, open: &BTreeMap<GroupId, Open>) {
        let mut due = vec![];
        for (&group, Open { handle, .. }) in open {
            if self.memory.entry(group).or_default().wants_purge(&handle.retained()) {
                due.push((group, handle.clone()));
            }
        }
        let metrics = &self.parts.metrics;
        let purge = |(group, handle): (GroupId, shard::Handle)| async move {
            match handle.purge_trimmed(STEP_DEADLINE).await {
                Ok(Some(upto)) => {
                    metrics.observe_purge();
                    tracing::debug!(%group, upto, "purged");
                    true
                }
                Ok(None) => false,
                Err(error) => {
                    tracing::debug!(%group, %error, "not purged, tried again");
                    true
                }
            }
            .then_some(group)
        };
        let again: Vec<Option<GroupId>> =
            futures::stream::iter(due).map(purge).buffer_unordered(AT_ONCE).collect().await;
        for group in again.into_iter().flatten() {
            self.memory.entry(group).or_default().try_purge_again();
        }
    }
}

/// For how long every shard keeps its records.
fn kept(view: &View) -> impl Iterator<Item = (GroupId, Duration)> {
    let alive = view.streams.values().filter(|stream| stream.status != StreamStatus::Deleting);
    let of_stream = |stream: &Arc<Stream>| {
        let kept = Duration::from_secs(u64::from(stream.retention_hours) * 3600);
        stream.all_shards().map(|shard| (shard.group, kept)).collect::<Vec<_>>()
    };
    alive.flat_map(of_stream)
}

/// The time of the stamps that expire.
fn cutoff(now: Timestamp, kept: Duration) -> Timestamp {
    now.before(kept)
}
