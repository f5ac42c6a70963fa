//! Carries streams through their life, on the node that leads the metadata group.
//!
//! Each step is a command that does nothing the second time, so a new leader simply goes on.
//! Nothing depends on a step's condition being seen everywhere: a node that still has groups of a
//! forgotten stream destroys them by itself.

use std::time::Duration;

use tokio::time::sleep;
use tristream_proto::domain::GroupId;

use super::reconcile::Present;
use super::takes_entries;
use crate::metadata::{self, Command, Outcome, Stream, StreamStatus, View};
use crate::raft::Groups;
use crate::tasks::{Kind, Tasks};

/// How often streams on their way are looked at: a look costs no call.
const TICK: Duration = Duration::from_millis(20);
/// After a proposal failed.
const FAILED_PAUSE: Duration = Duration::from_millis(500);
const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);

/// The commands that are due. `has_leader` and `is_present` tell what this node sees of a group:
/// whether it is led by anyone, and whether anything of it is left here.
pub(super) fn steps(
    view: &View,
    has_leader: impl Fn(GroupId) -> bool,
    is_present: impl Fn(GroupId) -> bool,
) -> Vec<Command> {
    let step = |stream: &Stream| {
        let mut groups = stream.all_shards().map(|shard| shard.group);
        let (name, incarnation) = (stream.name.clone(), stream.incarnation);
        match stream.status {
            StreamStatus::Creating => {
                groups.all(&has_leader).then_some(Command::ActivateStream { name, incarnation })
            }
            StreamStatus::Deleting => {
                (!groups.any(&is_present)).then_some(Command::ForgetStream { name, incarnation })
            }
            StreamStatus::Active | StreamStatus::Updating => None,
        }
    };
    view.streams.values().filter_map(|stream| step(stream)).collect()
}

fn on_their_way(view: &View) -> bool {
    let serves = |status| matches!(status, StreamStatus::Active | StreamStatus::Updating);
    view.streams.values().any(|stream| !serves(stream.status))
}

/// Starts the keeper.
pub(super) fn spawn(metadata: metadata::Handle, groups: Groups, present: Present, tasks: &Tasks) {
    tasks.spawn(Kind::StreamKeeper, run(metadata, groups, present));
}

async fn run(metadata: metadata::Handle, groups: Groups, present: Present) {
    let (mut views, mut leader) = (metadata.watch(), metadata.watch_leader());
    loop {
        let leads = leader.borrow_and_update().ready_here;
        let view = views.borrow_and_update().clone();
        if leads && on_their_way(&view) {
            let pause =
                if keep(&metadata, &groups, &present, &view).await { TICK } else { FAILED_PAUSE };
            sleep(pause).await;
            continue;
        }
        let changed = tokio::select! {
            changed = views.changed(), if leads => changed,
            changed = leader.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Takes the steps that are due; `false` when one failed.
async fn keep(
    metadata: &metadata::Handle,
    groups: &Groups,
    present: &Present,
    view: &View,
) -> bool {
    let left = present.borrow().clone();
    let has_leader = |group| takes_entries(groups, group);
    let is_present = |group| left.contains(&group) || groups.status(group).is_some();
    for command in steps(view, has_leader, is_present) {
        match metadata.propose(&command, PROPOSE_DEADLINE).await {
            Ok((_, Outcome::Done | Outcome::NotFound)) => tracing::info!(?command, "stream step"),
            Ok((_, outcome)) => tracing::warn!(?command, ?outcome, "stream step refused"),
            Err(error) => {
                tracing::info!(?command, %error, "stream step failed, tried again while we lead");
                return false;
            }
        }
    }
    true
}
