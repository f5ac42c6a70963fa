//! The steps of one reshard, each of which does nothing the second time.
//!
//! Invariant: a reshard is published only when every child has said that it is open, and a child is
//! opened only with what every parent said when it was sealed. Whoever begins anew begins at the
//! top and passes quickly over what was done.

use std::time::Duration;

use futures::future::try_join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tristream_proto::domain::{Shard, ShardId, Timestamp};

use super::calls::Calls;
use super::driver::Stuck;
use super::goal::propose;
use super::handover::{missing, opening, reached};
use crate::metadata::{Command, Reshard, Stream};
use crate::metrics::Metrics;
use crate::shard::{Inheritance, Inherited, Opening, Sealed, WindowPart};

/// How often the children's groups are looked at while they open: a look costs no call.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// Children that are not open by then leave their place to other reshards for a while.
const LOOK_TIME: Duration = Duration::from_secs(5);
/// Parts of a window that are copied while the parent takes puts. A window has far fewer; a parent
/// that remembers faster than we copy is sealed all the same, and its rest is copied then.
const COPIES_MAX: usize = 256;
/// Children lead the clock by a second at most, unless it was set back. Then their closed second
/// runs ahead of it, which costs nothing but the look of it.
const CLOCK_WAIT_MAX: Duration = Duration::from_secs(2);

/// The steps, as logs and metrics name them.
const OPEN: &str = "open";
const COPY: &str = "copy";
const SEAL: &str = "seal";
const INHERIT: &str = "inherit";
const PUBLISH: &str = "publish";

/// Whether a reshard that did not get further had been sealed, or may have been.
pub(super) fn is_behind_seal(stuck: &Stuck) -> bool {
    [SEAL, INHERIT, PUBLISH].contains(&stuck.step)
}

/// Carries a reshard of `stream` to its end. Its handover waits for a place among `handovers`, unless
/// there is none to wait for.
pub(super) async fn run<C: Calls>(
    calls: &C,
    metrics: &Metrics,
    stream: &Stream,
    reshard: ShardId,
    handovers: Option<&Semaphore>,
) -> Result<(), Stuck> {
    let lost = || Stuck::new(OPEN, format!("{reshard} is not what the view says"));
    let found = stream.reshards.iter().find(|one| one.id() == reshard).ok_or_else(lost)?;
    let parents: Option<Vec<&Shard>> = found.parents.iter().map(|id| stream.map.get(*id)).collect();
    let parents = parents.filter(|parents| !parents.is_empty()).ok_or_else(lost)?;
    Saga { calls, metrics, stream, reshard: found, parents }.run(handovers).await
}

struct Saga<'a, C> {
    calls: &'a C,
    metrics: &'a Metrics,
    stream: &'a Stream,
    reshard: &'a Reshard,
    parents: Vec<&'a Shard>,
}

/// Says that every child is open, with this creation second: without it nothing is published.
struct Opened {
    creation_second: u64,
}

impl<C: Calls> Saga<'_, C> {
    async fn run(&self, handovers: Option<&Semaphore>) -> Result<(), Stuck> {
        self.calls.reach("reshard.begun").await;
        let begun = Instant::now();
        self.wait_for_children().await?;
        let open = self.took(OPEN, begun);
        self.calls.reach("reshard.children_open").await;

        // Both waits come before the bulk of the window is copied, so that little is left for the time
        // behind the seals.
        self.wait_for_clock().await;
        let _place = match handovers {
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        let begun = Instant::now();
        let copied = try_join_all(self.parents.iter().map(|parent| self.copy(parent))).await?;
        let copy = self.took(COPY, begun);
        self.calls.reach("reshard.window_copied").await;

        let pause_begun = Instant::now();
        let seals = self.parents.iter().zip(copied).map(|(parent, after)| self.seal(parent, after));
        let (ends, rest): (Vec<_>, Vec<_>) = try_join_all(seals).await?.into_iter().unzip();
        let seal = self.took(SEAL, pause_begun);
        self.calls.reach("reshard.sealed").await;

        let begun = Instant::now();
        let opened = self.open_children(rest, &opening(&ends)).await?;
        let inherit = self.took(INHERIT, begun);
        self.calls.reach("reshard.opened").await;

        let begun = Instant::now();
        let creation_second = opened.creation_second;
        self.publish(opened).await?;
        let (publish, pause) = (self.took(PUBLISH, begun), pause_begun.elapsed());
        self.metrics.observe_reshard(pause);
        self.calls.reach("reshard.published").await;

        let ids = |shards: &mut dyn Iterator<Item = &Shard>| {
            shards.map(|shard| shard.id.to_string()).collect::<Vec<_>>().join(" ")
        };
        tracing::info!(
            stream = %self.stream.name,
            parents = ids(&mut self.parents.iter().copied()),
            children = ids(&mut self.reshard.children.iter()),
            creation_second,
            open_ms = millis(open),
            copy_ms = millis(copy),
            seal_ms = millis(seal),
            inherit_ms = millis(inherit),
            publish_ms = millis(publish),
            pause_ms = millis(pause),
            "reshard published"
        );
        Ok(())
    }

    fn took(&self, step: &'static str, begun: Instant) -> Duration {
        let took = begun.elapsed();
        self.metrics.observe_reshard_step(step, took);
        took
    }

    /// Waits until every child's group takes entries.
    async fn wait_for_children(&self) -> Result<(), Stuck> {
        let until = Instant::now() + LOOK_TIME;
        let shut = || self.reshard.children.iter().find(|c| !self.calls.takes_entries(c.group));
        while let Some(child) = shut() {
            if Instant::now() >= until {
                return Err(Stuck::new(OPEN, format!("group {} has no leader", child.group)));
            }
            sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }

    /// Waits until the clock has reached the parents' creation: what is closed in the second in
    /// which it was created pushes the next creation further ahead of the clock.
    async fn wait_for_clock(&self) {
        let second = self.parents.iter().map(|parent| parent.creation_second).max();
        let created = Timestamp(second.unwrap_or_default().saturating_mul(1000));
        sleep(created.since(self.calls.now()).min(CLOCK_WAIT_MAX)).await;
    }

    /// Copies the parent's window to every child; gives up to where they all have it.
    async fn copy(&self, parent: &Shard) -> Result<u64, Stuck> {
        let mut after = 0;
        for _ in 0..COPIES_MAX {
            let part = self.window(COPY, parent, after).await?;
            let (upto, more) = (part.upto, part.more);
            let give = |child| {
                let parts = vec![part.clone()];
                self.inherit(COPY, child, Inheritance { parts, opening: None })
            };
            let answers = try_join_all(self.reshard.children.iter().map(give)).await?;
            // Those that were open before this attempt lack nothing.
            let has = |child: &Inherited| match child.opened {
                true => upto,
                false => reached(child, parent.id),
            };
            let all_have = answers.iter().map(has).min().unwrap_or(upto);
            if all_have >= upto && !more {
                return Ok(all_have);
            }
            if all_have <= after {
                return Err(Stuck::new(COPY, format!("{} stays at {after}", parent.id)));
            }
            after = all_have;
        }
        Ok(after)
    }

    async fn seal(
        &self,
        parent: &Shard,
        after: u64,
    ) -> Result<((ShardId, Sealed), WindowPart), Stuck> {
        if planted!(SplitWithoutSeal) {
            // Said to be sealed where its window ends, and never sealed.
            let rest = self.window(SEAL, parent, after).await?;
            let now = self.calls.now();
            let closed_second = now.seconds().max(parent.creation_second);
            let sealed = Sealed { closed_second, last_arrival: now, end: rest.upto };
            return Ok(((parent.id, sealed), rest));
        }
        let sealed = self.calls.seal(parent, after).await;
        let (sealed, rest) = sealed.map_err(|error| Stuck::new(SEAL, error))?;
        Ok(((parent.id, sealed), rest))
    }

    async fn open_children(
        &self,
        rest: Vec<WindowPart>,
        opening: &Opening,
    ) -> Result<Opened, Stuck> {
        let open = |child| self.open(child, rest.clone(), opening);
        try_join_all(self.reshard.children.iter().map(open)).await?;
        Ok(Opened { creation_second: opening.creation_second })
    }

    /// Opens a child with the rest of the windows, and with whatever it turns out to lack.
    async fn open(
        &self,
        child: &Shard,
        mut parts: Vec<WindowPart>,
        opening: &Opening,
    ) -> Result<(), Stuck> {
        let mut lacked = vec![];
        loop {
            let inheritance = Inheritance { parts, opening: Some(opening.clone()) };
            let answer = self.inherit(INHERIT, child, inheritance).await?;
            if answer.opened {
                return Ok(());
            }
            let lacks = missing(&answer, &opening.parents);
            if lacks.is_empty() || lacks == lacked {
                return Err(Stuck::new(INHERIT, format!("{} stays shut: {answer:?}", child.id)));
            }
            let windows = self.parents.iter().filter_map(|parent| {
                let &(_, after) = lacks.iter().find(|(id, _)| *id == parent.id)?;
                Some(self.window(INHERIT, parent, after))
            });
            parts = try_join_all(windows).await?;
            lacked = lacks;
        }
    }

    async fn publish(&self, opened: Opened) -> Result<(), Stuck> {
        let command = Command::FinishReshard {
            name: self.stream.name.clone(),
            incarnation: self.stream.incarnation,
            reshard: self.reshard.id(),
            creation_second: opened.creation_second,
        };
        propose(self.calls, PUBLISH, &command).await
    }

    async fn window(
        &self,
        step: &'static str,
        parent: &Shard,
        after: u64,
    ) -> Result<WindowPart, Stuck> {
        self.calls.copy_window(parent, after).await.map_err(|error| Stuck::new(step, error))
    }

    async fn inherit(
        &self,
        step: &'static str,
        child: &Shard,
        inheritance: Inheritance,
    ) -> Result<Inherited, Stuck> {
        let inherited = self.calls.inherit(child, inheritance).await;
        inherited.map_err(|error| Stuck::new(step, error))
    }
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 10_000.0).round() / 10.0
}
