//! Gives the groups of new shards their members, once their replica here is open: those of streams
//! that are being created, and the children of reshards under way.
//!
//! The node of the preferred leader does it. When that node is away, the next replica does it after
//! a while, so two nodes may both initialise a group, with the same members. That is safe.
//! Initialising writes the first entry of the local log, which names the members, in term 0, and
//! only into a log that is empty and has not voted. Both entries name the same members, so every
//! election counts the same majority, and nobody leads in term 0: the entry counts as committed
//! only when a leader of a later term has an entry of its own behind it on a majority. Until then
//! it is an ordinary uncommitted entry, which that leader's log overwrites; from then on no log
//! with the other entry can win a vote. A node that comes late finds its log filled, or its log
//! loses every vote to those that went on.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, sleep, timeout};
use tristream_proto::domain::{GroupId, NodeId, Shard};

use super::reconcile::Present;
use super::retries::Retries;
use crate::metadata::{self, StreamStatus, View};
use crate::raft::Groups;
use crate::tasks::{Kind, Tasks};

/// How often groups are looked at while some are new.
const TICK: Duration = Duration::from_millis(100);
/// A replica leaves each one before it this long.
const TURN: Duration = Duration::from_secs(3);
const CALLS_AT_ONCE: usize = 16;
const CALL_DEADLINE: Duration = Duration::from_secs(5);
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Since when groups have been open here without members.
#[derive(Default)]
pub(super) struct Blank(BTreeMap<GroupId, Instant>);

impl Blank {
    /// The groups to initialise now, and their members. `is_blank` tells of a group whether it is
    /// open here and has no members.
    pub(super) fn due(
        &mut self,
        view: &View,
        me: NodeId,
        now: Instant,
        is_blank: impl Fn(GroupId) -> bool,
    ) -> Vec<(GroupId, Vec<NodeId>)> {
        let mut since = BTreeMap::new();
        let mut due = Vec::new();
        for shard in new_shards(view) {
            let Some(rank) = shard.replicas.iter().position(|&node| node == me) else { continue };
            if !is_blank(shard.group) {
                continue;
            }
            let first = self.0.get(&shard.group).copied().unwrap_or(now);
            since.insert(shard.group, first);
            if now >= first + TURN * rank as u32 {
                due.push((shard.group, shard.replicas.clone()));
            }
        }
        self.0 = since;
        due
    }
}

/// The shards whose groups may have no members yet. A shard is served only when a majority has an
/// entry of its group, so one that is served is never among them.
fn new_shards(view: &View) -> impl Iterator<Item = &Shard> {
    view.streams.values().flat_map(|stream| {
        let (mapped, children) = match stream.status {
            StreamStatus::Creating => (stream.map.shards(), &stream.reshards[..]),
            StreamStatus::Active | StreamStatus::Updating => (&[][..], &stream.reshards[..]),
            StreamStatus::Deleting => (&[][..], &[][..]),
        };
        mapped.iter().chain(children.iter().flat_map(|reshard| &reshard.children))
    })
}

/// Starts initialising. `present` changes when a group was opened here.
pub(super) fn spawn(
    me: NodeId,
    metadata: metadata::Handle,
    groups: Groups,
    present: Present,
    tasks: &Tasks,
) {
    tasks.spawn(Kind::Reconciler, run(me, metadata, groups, present));
}

async fn run(me: NodeId, metadata: metadata::Handle, groups: Groups, mut present: Present) {
    let mut views = metadata.watch();
    let mut blank = Blank::default();
    let mut retries = Retries::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
    loop {
        present.mark_unchanged();
        let view = views.borrow_and_update().clone();
        let now = Instant::now();
        let is_blank = |group| groups.status(group).is_some_and(|s| s.members.is_empty());
        let mut due = blank.due(&view, me, now, is_blank);
        retries.retain(|group| blank.0.contains_key(&group));
        due.retain(|(group, _)| retries.is_due(*group, now));
        initialise(&groups, due, &mut retries).await;

        let some_are_new = new_shards(&view).next().is_some();
        let changed = tokio::select! {
            changed = views.changed() => changed,
            changed = present.changed(), if some_are_new => changed,
            () = sleep(TICK), if some_are_new => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn initialise(
    groups: &Groups,
    due: Vec<(GroupId, Vec<NodeId>)>,
    retries: &mut Retries<GroupId>,
) {
    let call = |(group, members): (GroupId, Vec<NodeId>)| async move {
        let done = timeout(CALL_DEADLINE, groups.initialize(group, &members)).await;
        (group, done.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {CALL_DEADLINE:?}"))))
    };
    let mut calls = futures::stream::iter(due).map(call).buffer_unordered(CALLS_AT_ONCE);
    while let Some((group, done)) = calls.next().await {
        match done {
            Ok(()) => {
                retries.succeeded(group);
                tracing::info!(%group, "group initialised");
            }
            Err(error) => {
                let times = retries.failed(group, Instant::now());
                tracing::warn!(%group, times, error = format!("{error:#}"), "cannot initialise");
            }
        }
    }
}
