//! Has the preferred leader of a new group ask for votes at once, instead of waiting for a leader
//! that nobody is yet.
//!
//! A matter of speed and of who leads, not of safety: without it, or where the preferred leader is
//! away, any replica asks when its election timeout is over.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tristream_proto::domain::{GroupId, NodeId};

use super::reconcile::Present;
use super::retries::Retries;
use crate::metadata::{self, View};
use crate::raft::{Groups, Status};
use crate::tasks::{Kind, Tasks};

/// How often groups are looked at while some are new.
const TICK: Duration = Duration::from_millis(100);
/// The others may not have opened the group when they are asked first.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The new groups of which `me` is the preferred leader, and which nobody leads or ever led.
pub(super) fn unled(
    view: &View,
    me: NodeId,
    was_never_led: impl Fn(GroupId) -> bool,
) -> BTreeSet<GroupId> {
    let mine = super::new_shards(view).filter(|shard| shard.replicas.first() == Some(&me));
    mine.map(|shard| shard.group).filter(|&group| was_never_led(group)).collect()
}

/// Whether the log has its first entry only, which no leader writes, and nobody leads.
pub(super) fn was_never_led(status: &Status) -> bool {
    status.leader.is_none() && status.last_index == Some(0)
}

/// Starts it. `present` changes when a group was opened here.
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
    let mut retries = Retries::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
    loop {
        present.mark_unchanged();
        let view = views.borrow_and_update().clone();
        let unled = unled(&view, me, |group| {
            groups.status(group).is_some_and(|status| was_never_led(&status))
        });
        retries.retain(|group| unled.contains(&group));
        let now = Instant::now();
        for group in unled {
            if !retries.is_due(group, now) {
                continue;
            }
            let times = retries.failed(group, now);
            if let Err(error) = groups.campaign(group).await {
                tracing::debug!(%group, times, error = format!("{error:#}"), "cannot campaign");
            }
        }

        let some_are_new = super::new_shards(&view).next().is_some();
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
