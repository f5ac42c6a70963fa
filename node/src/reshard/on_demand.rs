//! Keeps the shards of streams on demand fitting their load, on the node that leads the metadata group.
//!
//! A loop around a pure decision (`demand`): ask the leaders of all shards what comes in, decide, propose
//! the steps; the saga carries them out. Keeps nothing but when it last told of a hot key: a new metadata
//! leader simply goes on. Must not know how a reshard is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{GroupId, ShardId, StreamName};

use super::demand::{self, Decision, HotKey};
use crate::clock::Clock;
use crate::metadata::plan::Step;
use crate::metadata::{Command, Outcome, Stream, StreamMode, View};
use crate::metrics::Metrics;
use crate::router::Router;
use crate::tasks::{Kind, Tasks};

/// How often the loads are looked at.
const INTERVAL: Duration = Duration::from_secs(3);
const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What the loop works with.
pub struct Parts {
    /// Asks the leaders, and proposes.
    pub router: Router,
    /// Dates the steps.
    pub clock: Arc<dyn Clock>,
    /// Where steps and hot keys are counted.
    pub metrics: Arc<Metrics>,
    /// Over which loads are observed.
    pub window: Duration,
}

/// Starts the loop; it ends with the node.
pub fn start(parts: Parts, tasks: &Tasks) {
    tasks.spawn(Kind::StreamKeeper, run(parts));
}

async fn run(parts: Parts) {
    let mut told = Told::default();
    loop {
        sleep(INTERVAL).await;
        let router = &parts.router;
        let leads = router.leader_of(GroupId::META) == Some(router.roster().me);
        let hot_keys = match leads && watches(&router.view()) {
            true => parts.look(&mut told).await,
            false => 0,
        };
        parts.metrics.set_hot_keys(hot_keys);
    }
}

fn watches(view: &View) -> bool {
    view.streams.values().any(|stream| stream.mode == StreamMode::OnDemand)
}

impl Parts {
    /// Looks at every stream on demand once; gives how many shards have a hot key.
    async fn look(&self, told: &mut Told) -> usize {
        let loads = self.router.shard_loads().await;
        // The view after the loads: it knows every step that they do not show yet.
        let view = self.router.view();
        let mut room = ACCOUNT_SHARDS_MAX.saturating_sub(planned_shards(&view));
        let mut hot_keys = 0;
        for stream in view.streams.values() {
            let Decision { steps, hot_keys: hot, wanted } =
                demand::decide(stream, &loads, self.window, room);
            for &(shard, key) in &hot {
                told.tell(stream, shard, key, self.window);
            }
            hot_keys += hot.len();
            for step in steps {
                room = room.saturating_sub(usize::from(matches!(step, Step::Split { .. })));
                self.take(stream, step, wanted).await;
            }
        }
        told.forget(self.window);
        hot_keys
    }

    async fn take(&self, stream: &Stream, step: Step, wanted: usize) {
        let (name, incarnation) = (stream.name.clone(), stream.incarnation);
        let (now, while_updating) = (self.clock.now(), true);
        let (kind, command) = match step {
            Step::Split { shard, at } => {
                ("split", Command::SplitShard { name, incarnation, shard, at, now, while_updating })
            }
            Step::Merge { shard, adjacent } => (
                "merge",
                Command::MergeShards { name, incarnation, shard, adjacent, now, while_updating },
            ),
        };
        match self.router.propose_here(&command, PROPOSE_DEADLINE).await {
            Ok((_, Outcome::Done)) => {
                self.metrics.observe_on_demand_step(kind);
                tracing::info!(stream = %stream.name, ?step, wanted, "the load asks for it");
            }
            // The map moved on, or the stream went away; the next look sees it.
            Ok((_, outcome)) => {
                tracing::info!(stream = %stream.name, ?step, ?outcome, "not done for the load");
            }
            Err(error) => {
                tracing::info!(stream = %stream.name, ?step, %error, "not proposed for the load");
            }
        }
    }
}

/// Open shards when every reshard under way is done.
fn planned_shards(view: &View) -> usize {
    let reshards = view.streams.values().flat_map(|stream| &stream.reshards);
    reshards.fold(view.open_shards(), |count, reshard| {
        (count + reshard.children.len()).saturating_sub(reshard.parents.len())
    })
}

/// When it was last told of a shard's hot key: once per window is enough.
#[derive(Default)]
struct Told {
    at: BTreeMap<(StreamName, ShardId), Instant>,
}

impl Told {
    fn tell(&mut self, stream: &Stream, shard: ShardId, hot: HotKey, window: Duration) {
        let now = Instant::now();
        let known = (stream.name.clone(), shard);
        if self.at.get(&known).is_some_and(|at| now < *at + window) {
            return;
        }
        self.at.insert(known, now);
        tracing::warn!(
            stream = %stream.name,
            %shard,
            hash_key = %hot.key,
            percent = (hot.share * 100.0).round(),
            "one key brings more than the shard bears: no split can help"
        );
    }

    /// Forgets what may be told again, so that this stays small.
    fn forget(&mut self, window: Duration) {
        let now = Instant::now();
        self.at.retain(|_, at| now < *at + window);
    }
}
