//! Hands leadership back to the preferred leaders, so that load spreads again after a restart.
//!
//! The leader of a group acts, when the preferred leader has kept up for a while without a break.
//! Invariant: at most one hand-over at a time from this node; a node to which hand-overs fail is
//! left in peace for longer and longer.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tristream_proto::domain::{GroupId, NodeId};

use super::retries::Retries;
use crate::metadata::{self, Stream, StreamStatus, View};
use crate::raft::{Groups, Status};
use crate::tasks::{Kind, Tasks};

/// Between two looks, and so at least between two hand-overs.
const TICK: Duration = Duration::from_millis(500);
/// A replica that did not answer for this long may be gone.
const SILENCE_MS_MAX: u64 = 2_000;
/// A hand-over that did not happen in this time failed.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(3);
const NODE_PAUSE_MIN: Duration = Duration::from_secs(10);
const NODE_PAUSE_MAX: Duration = Duration::from_secs(300);

/// A group that is led here and prefers another leader.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) group: GroupId,
    pub(super) preferred: NodeId,
    pub(super) status: Status,
}

/// The decision: which group to hand over, and when.
pub(super) struct Balance {
    after: Duration,
    kept_up: BTreeMap<GroupId, KeptUp>,
    /// The hand-over under way, and until when it may take.
    under_way: Option<(GroupId, NodeId, Instant)>,
    nodes: Retries<NodeId>,
}

/// How a group's preferred leader has done so far.
#[derive(Clone, Copy)]
struct KeptUp {
    term: u64,
    /// Last entry of the leader's log at the last look.
    last_index: Option<u64>,
    /// Since when it has kept up without a break.
    since: Option<Instant>,
}

impl Balance {
    pub(super) fn new(after: Duration) -> Balance {
        Balance {
            after,
            kept_up: BTreeMap::new(),
            under_way: None,
            nodes: Retries::new(NODE_PAUSE_MIN, NODE_PAUSE_MAX),
        }
    }

    /// Takes in how all guests stand; gives the group to hand over now, and to whom.
    pub(super) fn look(&mut self, guests: &[Guest], now: Instant) -> Option<(GroupId, NodeId)> {
        let before = std::mem::take(&mut self.kept_up);
        for guest in guests {
            let old = before.get(&guest.group).filter(|old| old.term == guest.status.term);
            self.kept_up.insert(guest.group, observe(guest, old, now));
        }
        if let Some((group, node, until)) = self.under_way {
            if !self.kept_up.contains_key(&group) {
                self.nodes.succeeded(node);
            } else if now < until {
                return None;
            } else {
                self.failed(now);
            }
            self.under_way = None;
        }
        let ripe = |guest: &&Guest| {
            let since = self.kept_up.get(&guest.group).and_then(|kept| kept.since);
            since.is_some_and(|since| now >= since + self.after)
                && self.nodes.is_due(guest.preferred, now)
        };
        // Who was refused has kept up anew since then, and comes after the others.
        let since = |guest: &&Guest| self.kept_up.get(&guest.group).and_then(|kept| kept.since);
        let guest = guests.iter().filter(ripe).min_by_key(|guest| (since(guest), guest.group))?;
        self.under_way = Some((guest.group, guest.preferred, now + HAND_OVER_DEADLINE));
        Some((guest.group, guest.preferred))
    }

    /// The hand-over under way failed.
    pub(super) fn failed(&mut self, now: Instant) {
        if let Some((group, node, _)) = self.under_way.take() {
            let times = self.nodes.failed(node, now);
            tracing::info!(%group, %node, times, "leadership was not taken over");
            if let Some(kept) = self.kept_up.get_mut(&group) {
                kept.since = None;
            }
        }
    }
}

fn observe(guest: &Guest, old: Option<&KeptUp>, now: Instant) -> KeptUp {
    let status = &guest.status;
    let known =
        |&(node, matched): &(NodeId, Option<u64>)| (node == guest.preferred).then_some(matched);
    let matched = status.matched.iter().find_map(known).flatten();
    // Under load the tip is always on its way: whoever has now what the leader had a look ago keeps
    // up.
    let goal = old.map_or(status.last_index, |old| old.last_index);
    let answers = |age: Option<u64>| age.is_some_and(|age| age <= SILENCE_MS_MAX);
    let silence = status.silent_ms.iter().find(|(node, _)| *node == guest.preferred);
    let keeps_up = matched.is_some()
        && matched >= goal
        && answers(status.quorum_ack_age_ms)
        && silence.is_none_or(|&(_, age)| answers(age))
        && status.members.contains(&guest.preferred);
    let since = old.and_then(|old| old.since).unwrap_or(now);
    KeptUp { term: status.term, last_index: status.last_index, since: keeps_up.then_some(since) }
}

/// Starts balancing.
pub(super) fn spawn(
    me: NodeId,
    metadata: metadata::Handle,
    groups: Groups,
    after: Duration,
    tasks: &Tasks,
) {
    // Its failure costs evenness, not service: no reason to stop the node.
    tasks.spawn(Kind::Helper, run(me, metadata, groups, after));
}

async fn run(me: NodeId, metadata: metadata::Handle, groups: Groups, after: Duration) {
    let mut balance = Balance::new(after);
    loop {
        sleep(TICK).await;
        let guests = guests(me, &metadata.view(), |group| groups.status(group));
        let Some((group, to)) = balance.look(&guests, Instant::now()) else { continue };
        match timeout(HAND_OVER_DEADLINE, groups.hand_over(group, to)).await {
            Ok(Ok(())) => tracing::info!(%group, %to, "leadership handed to the preferred leader"),
            Ok(Err(error)) => {
                tracing::info!(%group, %to, error = format!("{error:#}"), "hand-over refused");
                balance.failed(Instant::now());
            }
            // The next look finds out what became of it.
            Err(_) => {}
        }
    }
}

/// The groups led here that prefer another leader. Those of a reshard under way are left alone: a
/// hand-over among its steps would make puts wait longer, and its parents are about to close.
pub(super) fn guests(
    me: NodeId,
    view: &View,
    status: impl Fn(GroupId) -> Option<Status>,
) -> Vec<Guest> {
    let guest = |shard: &tristream_proto::domain::Shard| {
        let preferred = *shard.replicas.first().filter(|&&node| node != me)?;
        let status = status(shard.group).filter(|status| status.leader == Some(me))?;
        Some(Guest { group: shard.group, preferred, status })
    };
    let alive = view.streams.values().filter(|stream| stream.status != StreamStatus::Deleting);
    let settled = |stream: &Stream| {
        let shards = stream.map.shards().iter();
        let settled = shards.filter(|shard| stream.reshard_of(shard.id).is_none());
        settled.filter_map(guest).collect::<Vec<_>>()
    };
    alive.flat_map(|stream| settled(stream)).collect()
}
