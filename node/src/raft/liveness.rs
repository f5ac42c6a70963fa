//! A quick successor for the leaderships of a process that died.
//!
//! When a peer's stream breaks and its port refuses connections, its process is gone: nobody has to wait for
//! an election timeout. Each group that it led is taken over by a survivor, in turns, by an election that the
//! old leader's lease does not hold up (Raft dissertation 4.2.3, leadership transfer). Ordinary elections go
//! on beside this and cover everything else: a cut network, a paused process, a lost vote. Invariant: this
//! only ever asks for votes; whoever lacks a committed entry does not get them.

use std::cmp::Ordering;
use std::time::Duration;

use futures::StreamExt;
use tristream_proto::domain::{GroupId, NodeId};

use super::Status;
use super::groups::Groups;
use crate::tasks::Kind;

/// How often the port must refuse before the process counts as gone, and the pause between.
const REFUSALS: usize = 3;
const REFUSAL_PAUSE: Duration = Duration::from_millis(15);
/// A survivor leaves each one before it this long.
const TURN: Duration = Duration::from_millis(200);
/// Turns of one survivor before it leaves the group to ordinary elections.
const ROUNDS: usize = 3;
/// Groups taken over at a time.
const AT_ONCE: usize = 16;

/// Looks whether `node` is gone and takes over what it led. Returns at once.
pub(super) fn suspect(groups: &Groups, node: NodeId) {
    if !groups.begin_investigation(node) {
        return;
    }
    let groups = groups.clone();
    groups.tasks().clone().spawn(Kind::Helper, async move {
        if is_gone(&groups, node).await {
            take_over(&groups, node).await;
        }
        groups.end_investigation(node);
    });
}

async fn is_gone(groups: &Groups, node: NodeId) -> bool {
    for _ in 0..REFUSALS {
        if !groups.refuses_connections(node).await {
            return false;
        }
        tokio::time::sleep(REFUSAL_PAUSE).await;
    }
    true
}

async fn take_over(groups: &Groups, gone: NodeId) {
    let led_by_it = |id: &GroupId| groups.status(*id).is_some_and(|s| s.leader == Some(gone));
    let led: Vec<GroupId> = groups.ids().into_iter().filter(led_by_it).collect();
    tracing::info!(node = %gone, groups = led.len(), "a node's process is gone: taking over");
    futures::stream::iter(led).for_each_concurrent(AT_ONCE, |id| campaign(groups, id, gone)).await;
}

/// Campaigns for one group until somebody else leads it. Whoever has the longest log goes first; equals go in
/// turns, so that they do not depose each other.
async fn campaign(groups: &Groups, id: GroupId, gone: NodeId) {
    for _ in 0..ROUNDS {
        let Some(status) = groups.status(id).filter(|status| leaderless(status, gone)) else {
            return;
        };
        let survivors: Vec<NodeId> = status.members.into_iter().filter(|n| *n != gone).collect();
        let Some(turn) = turn(&survivors, groups.me(), id) else { return };
        let others: Vec<NodeId> =
            survivors.iter().copied().filter(|node| *node != groups.me()).collect();
        let compared = groups.compare_logs(id, &others).await;
        tracing::debug!(group = %id, ?compared, turn, "a survivor's log against the others");
        let wait = match compared {
            Some(Ordering::Greater) => Duration::ZERO,
            Some(Ordering::Equal) => TURN * turn as u32,
            // Another survivor's log is longer, or there is none: no vote to be had.
            Some(Ordering::Less) | None => {
                tokio::time::sleep(TURN * survivors.len() as u32).await;
                continue;
            }
        };
        tokio::time::sleep(wait).await;
        let Some(group) = groups.peer(id) else { return };
        if !leaderless(&group.status(), gone) {
            return;
        }
        if let Err(error) = group.campaign().await {
            tracing::debug!(group = %id, %error, "could not campaign");
        }
        tokio::time::sleep(TURN).await;
    }
}

fn leaderless(status: &Status, gone: NodeId) -> bool {
    status.leader.is_none_or(|leader| leader == gone)
}

/// When it is this node's turn: survivors take turns in an order that differs by group, so that the
/// leaderships spread.
fn turn(survivors: &[NodeId], me: NodeId, id: GroupId) -> Option<usize> {
    let place = survivors.iter().position(|node| *node == me)?;
    let count = survivors.len();
    Some((place + (id.0 % count as u64) as usize) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_take_turns_and_groups_spread() {
        let survivors = [NodeId(1), NodeId(3)];
        for id in 0..10 {
            let turns = survivors.map(|me| turn(&survivors, me, GroupId(id)));
            assert!(turns == [Some(0), Some(1)] || turns == [Some(1), Some(0)]);
        }
        let first = |id| turn(&survivors, NodeId(1), GroupId(id));
        assert_ne!(first(1), first(2), "not all groups go to one survivor");
        assert_eq!(turn(&survivors, NodeId(2), GroupId(1)), None);
    }
}
