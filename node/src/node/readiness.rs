//! When a node is ready: its groups are open, and every group has a leader as seen from here.
//!
//! Children of reshards under way do not count: nobody asks them, and their parents serve.

use std::collections::BTreeSet;

use tristream_proto::domain::GroupId;

use crate::metadata::View;
use crate::raft::Groups;

/// What the node still waits for, or nothing.
pub(super) fn waits_for(groups: &Groups, view: &View, groups_open: bool) -> Result<(), String> {
    if groups.status(GroupId::META).is_none_or(|status| status.leader.is_none()) {
        return Err("the metadata group has no leader yet".to_owned());
    }
    if !groups_open {
        return Err("shards are being opened".to_owned());
    }
    let reshards = view.streams.values().flat_map(|stream| &stream.reshards);
    let children: BTreeSet<GroupId> =
        reshards.flat_map(|reshard| &reshard.children).map(|child| child.group).collect();
    let leaderless = |id: &GroupId| groups.status(*id).is_some_and(|s| s.leader.is_none());
    let is_served = |id: &&GroupId| !children.contains(id);
    match groups.ids().iter().filter(is_served).filter(|id| leaderless(id)).count() {
        0 => Ok(()),
        n => Err(format!("{n} shards have no leader yet")),
    }
}
