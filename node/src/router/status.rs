//! Nodes, groups, leaders and lag: this node's own picture, corrected by what every leader says.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tristream_proto::domain::{GroupId, NodeId};
use tristream_proto::wire;

use super::Router;
use super::loads::{on_demand, thin};
use crate::metadata::View;
use crate::raft::Status;

/// A node that does not answer within this time counts as not alive.
const ANSWER_TIME: Duration = Duration::from_secs(1);
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Router {
    /// Nodes, groups, leaders and lag, gathered from every node that answers within a second.
    pub async fn cluster_status(&self) -> wire::ClusterStatusResponse {
        let roster = &self.inner.roster;
        let (answers, mut groups) = self.all_groups().await;
        groups.iter_mut().filter_map(|group| group.load.as_mut()).for_each(thin);
        let node = |member: &crate::roster::Member| {
            let answer = answers.get(&member.node);
            let is_me = member.node == roster.me;
            wire::NodeStatus {
                id: member.node.0,
                az: member.az.clone(),
                kinesis: member.kinesis.clone(),
                peer: member.peer.clone(),
                alive: is_me || answer.is_some(),
                version: match answer {
                    Some(answer) => answer.version.clone(),
                    None if is_me => VERSION.to_owned(),
                    None => String::new(),
                },
                storage: match answer {
                    None if is_me => self.storage(),
                    answer => answer.and_then(|answer| answer.storage),
                },
            }
        };
        let nodes = roster.members.iter().map(node).collect();
        wire::ClusterStatusResponse { cluster: roster.cluster.clone(), nodes, groups }
    }

    /// The other nodes that answer within a second, without their groups, and every group as its leader
    /// tells it.
    pub(super) async fn all_groups(
        &self,
    ) -> (BTreeMap<NodeId, wire::LedGroupsResponse>, Vec<wire::GroupStatus>) {
        let ask = self.inner.roster.others().map(|member| async move {
            let answer = self.inner.forward.led_groups(member.node, ANSWER_TIME).await;
            (member.node, answer.ok())
        });
        let (mut answers, mut told) = (BTreeMap::new(), vec![]);
        for (node, answer) in join_all(ask).await {
            let Some(mut answer) = answer else { continue };
            let groups = std::mem::take(&mut answer.groups);
            answers.insert(node, answer);
            // Leaders speak for themselves only.
            told.extend(groups.into_iter().filter(|group| group.leader == node.0));
        }
        (answers, merge(self.known_groups(), told.into_iter()))
    }

    /// What this node tells another that gathers: the groups it leads, and the room it has.
    pub fn led_groups(&self) -> wire::LedGroupsResponse {
        let me = self.inner.roster.me.0;
        let groups = self.known_groups().into_iter().filter(|group| group.leader == me).collect();
        let (version, storage) = (VERSION.to_owned(), self.storage());
        wire::LedGroupsResponse { node: me, version, groups, storage }
    }

    fn storage(&self) -> Option<wire::StorageStatus> {
        let storage = self.inner.groups.room().storage()?;
        Some(wire::StorageStatus {
            free_bytes: storage.free_bytes,
            total_bytes: storage.total_bytes,
            reserve_bytes: storage.reserve_bytes,
            low: storage.is_low,
        })
    }

    /// Every group of the view, as this node sees it.
    fn known_groups(&self) -> Vec<wire::GroupStatus> {
        let view = self.view();
        let outline = outline(&view, &self.inner.roster.ids());
        let groups = &self.inner.groups;
        let on_demand = on_demand(&view);
        outline
            .into_iter()
            .map(|group| match groups.status(GroupId(group.group)) {
                Some(status) => with_status(group, &status),
                None => group,
            })
            .map(|group| self.with_records(group))
            .map(|group| match on_demand.contains(&group.group) {
                true => self.with_load(group),
                false => group,
            })
            .collect()
    }

    /// What the group holds, by this node's replica.
    fn with_records(&self, group: wire::GroupStatus) -> wire::GroupStatus {
        let Some(shard) = self.local_shard(GroupId(group.group)) else { return group };
        let last = shard.last_sequence_number();
        wire::GroupStatus {
            records: shard.records(),
            last_sequence_number: last.map(|number| number.to_string()).unwrap_or_default(),
            ..group
        }
    }
}

/// The groups that must exist, without leaders: the metadata group and every shard, those that are
/// about to be born too.
fn outline(view: &View, nodes: &[NodeId]) -> Vec<wire::GroupStatus> {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let mut groups =
        vec![wire::GroupStatus { group: 0, members: ids(nodes), ..Default::default() }];
    for stream in view.streams.values() {
        groups.extend(stream.all_shards().map(|shard| wire::GroupStatus {
            group: shard.group.0,
            stream: stream.name.to_string(),
            shard_index: shard.id.index(),
            members: ids(&shard.replicas),
            ..Default::default()
        }));
    }
    groups.sort_by_key(|group| group.group);
    groups
}

fn with_status(group: wire::GroupStatus, status: &Status) -> wire::GroupStatus {
    let replicas = status.matched.iter().map(|&(node, matched)| wire::ReplicaStatus {
        node: node.0,
        matched: matched.unwrap_or(0),
        lag: after(status.last_index).saturating_sub(after(matched)),
    });
    wire::GroupStatus {
        leader: status.leader.map_or(0, |leader| leader.0),
        term: status.term,
        members: match status.members.is_empty() {
            true => group.members,
            false => status.members.iter().map(|node| node.0).collect(),
        },
        committed: status.committed.unwrap_or(0),
        replicas: replicas.collect(),
        ..group
    }
}

/// How many entries there are up to an index.
fn after(index: Option<u64>) -> u64 {
    index.map_or(0, |index| index + 1)
}

/// This node's picture, with each group replaced by what its leader of the highest term says of it.
/// A leader of an older term than this node knows of is a leader no more.
fn merge(
    known: Vec<wire::GroupStatus>,
    told: impl Iterator<Item = wire::GroupStatus>,
) -> Vec<wire::GroupStatus> {
    let mut groups: BTreeMap<u64, wire::GroupStatus> =
        known.into_iter().map(|group| (group.group, group)).collect();
    for told in told {
        match groups.get_mut(&told.group) {
            Some(known) if known.term > told.term => {}
            Some(known) => *known = told,
            // Of a stream that this node has not heard of yet, or that is gone.
            None => {
                groups.insert(told.group, told);
            }
        }
    }
    groups.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(group: u64, term: u64, leader: u64, committed: u64) -> wire::GroupStatus {
        wire::GroupStatus { group, term, leader, committed, ..Default::default() }
    }

    #[test]
    fn the_leader_of_the_highest_term_is_believed() {
        let known = vec![group(0, 5, 1, 50), group(1, 3, 2, 10), group(2, 7, 0, 10)];
        let told =
            vec![group(1, 3, 2, 12), group(2, 6, 3, 99), group(1, 2, 3, 99), group(9, 1, 3, 1)];
        let merged = merge(known, told.into_iter());
        let expected =
            [group(0, 5, 1, 50), group(1, 3, 2, 12), group(2, 7, 0, 10), group(9, 1, 3, 1)];
        assert_eq!(merged, expected);
    }

    #[test]
    fn lag_counts_the_entries_that_a_replica_lacks() {
        let status = Status {
            leader: Some(NodeId(1)),
            term: 4,
            members: [1, 2, 3].map(NodeId).to_vec(),
            last_index: Some(9),
            committed: Some(8),
            matched: vec![(NodeId(1), Some(9)), (NodeId(2), Some(7)), (NodeId(3), None)],
            ..Status::default()
        };
        let seen = with_status(group(3, 0, 0, 0), &status);
        let lags: Vec<u64> = seen.replicas.iter().map(|replica| replica.lag).collect();
        assert_eq!(lags, [0, 2, 10]);
        assert_eq!((seen.leader, seen.term, seen.committed), (1, 4, 8));
        assert_eq!(seen.members, [1, 2, 3]);
    }

    #[test]
    fn a_group_that_is_not_initialised_keeps_its_planned_members() {
        let planned = wire::GroupStatus { members: vec![1, 2, 3], ..group(3, 0, 0, 0) };
        assert_eq!(with_status(planned, &Status::default()).members, [1, 2, 3]);
    }
}
