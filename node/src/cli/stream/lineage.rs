//! Which shard came from which: what `tristream stream shards` draws.
//!
//! Pure: made of a stream's description and the cluster's status. Invariant: every shard of the map
//! is in it once, and every parent that a shard names, if only by its id: it has expired.

use std::collections::BTreeMap;

use serde_json::json;
use tristream_client::{StreamDescription, StreamStatus};
use tristream_proto::domain::{HashKey, MapVersion, Shard, ShardId, StreamName};
use tristream_proto::wire;

/// A stream's shards and what they came from.
#[derive(Clone, Debug)]
pub(super) struct Lineage {
    pub(super) stream: StreamName,
    pub(super) status: StreamStatus,
    pub(super) version: MapVersion,
    nodes: BTreeMap<ShardId, Node>,
}

/// A shard, or what is left of one.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) id: ShardId,
    /// `None` when it has expired.
    pub(super) shard: Option<Shard>,
    /// By their ranges.
    pub(super) children: Vec<ShardId>,
    /// Records stored since its beginning, where its leader said so.
    pub(super) records: Option<u64>,
    /// Number of its newest record.
    pub(super) last: Option<String>,
    /// AZ of its leader.
    pub(super) leader: Option<String>,
}

impl Node {
    pub(super) fn is_open(&self) -> bool {
        self.shard.as_ref().is_some_and(Shard::is_open)
    }

    /// One word for where it is in its life.
    pub(super) fn state(&self) -> &'static str {
        match &self.shard {
            Some(shard) if shard.is_open() => "open",
            Some(_) => "closed",
            None => "expired",
        }
    }

    /// Number below its first record.
    pub(super) fn first(&self) -> Option<String> {
        self.shard.as_ref().map(|shard| shard.starting_sequence_number().to_string())
    }

    fn parents(&self) -> &[ShardId] {
        self.shard.as_ref().map_or(&[], |shard| &shard.parents)
    }
}

impl Lineage {
    /// From what a node knows of the stream, and what the leaders say of its groups.
    pub(super) fn new(
        stream: &StreamDescription,
        cluster: &wire::ClusterStatusResponse,
    ) -> Lineage {
        let zones: BTreeMap<u64, &str> =
            cluster.nodes.iter().map(|node| (node.id, node.az.as_str())).collect();
        let groups: BTreeMap<u64, &wire::GroupStatus> =
            cluster.groups.iter().map(|group| (group.group, group)).collect();
        let mut nodes: BTreeMap<ShardId, Node> = BTreeMap::new();
        for shard in stream.map.shards() {
            let told = groups.get(&shard.group.0).filter(|group| group.leader != 0);
            let az = told.map(|group| match zones.get(&group.leader) {
                Some(az) => (*az).to_owned(),
                None => format!("node {}", group.leader),
            });
            let last = told.map(|group| group.last_sequence_number.clone());
            let node = Node {
                shard: Some(shard.clone()),
                records: told.map(|group| group.records),
                last: last.filter(|last| !last.is_empty()),
                leader: az,
                ..Node::expired(shard.id)
            };
            nodes.insert(shard.id, node);
        }
        let mut by_range: Vec<&Shard> = stream.map.shards().iter().collect();
        by_range.sort_by_key(|shard| shard.range.first);
        for shard in by_range {
            for parent in &shard.parents {
                let node = nodes.entry(*parent).or_insert_with(|| Node::expired(*parent));
                node.children.push(shard.id);
            }
        }
        let (status, version) = (stream.status, stream.map.version());
        Lineage { stream: stream.name.clone(), status, version, nodes }
    }

    pub(super) fn get(&self, id: ShardId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All, by rising id.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The shards that are left, by rising id.
    pub(super) fn shards(&self) -> impl Iterator<Item = (&Node, &Shard)> {
        self.nodes.values().filter_map(|node| Some((node, node.shard.as_ref()?)))
    }

    /// Where nobody knows what came before, by their ranges.
    pub(super) fn roots(&self) -> Vec<&Node> {
        let mut roots: Vec<&Node> =
            self.nodes.values().filter(|node| node.parents().is_empty()).collect();
        roots.sort_by_key(|node| (self.first_key(node), self.place(node), node.id));
        roots
    }

    /// How many are open, closed and expired.
    pub(super) fn counts(&self) -> [usize; 3] {
        ["open", "closed", "expired"]
            .map(|state| self.nodes.values().filter(|node| node.state() == state).count())
    }

    /// Records of all shards that are left, as far as their leaders told.
    pub(super) fn records(&self) -> u64 {
        self.nodes.values().filter_map(|node| node.records).sum()
    }

    /// Of an expired shard nothing is known but where its children begin.
    fn first_key(&self, node: &Node) -> Option<HashKey> {
        let own = node.shard.as_ref().map(|shard| shard.range.first);
        let children =
            node.children.iter().filter_map(|child| self.nodes.get(child)?.shard.as_ref());
        own.or_else(|| children.map(|child| child.range.first).min())
    }

    /// Which of its child's parents it is: of two that are gone only their order is known.
    fn place(&self, node: &Node) -> usize {
        let child = node.children.first().and_then(|child| self.nodes.get(child));
        let parents = child.map_or(&[][..], Node::parents);
        parents.iter().position(|parent| *parent == node.id).unwrap_or(0)
    }

    /// For programs.
    pub(super) fn as_json(&self) -> serde_json::Value {
        let ids = |ids: &[ShardId]| ids.iter().map(ShardId::to_string).collect::<Vec<_>>();
        let shard = |(node, shard): (&Node, &Shard)| {
            json!({
                "shard": node.id.to_string(),
                "state": node.state(),
                "parents": ids(&shard.parents),
                "children": ids(&node.children),
                "first_hash_key": shard.range.first.to_string(),
                "last_hash_key": shard.range.last.to_string(),
                "creation_second": shard.creation_second,
                "closed_second": shard.closed_second,
                "starting_sequence_number": node.first(),
                "ending_sequence_number": shard.ending_sequence_number().map(|n| n.to_string()),
                "last_sequence_number": node.last,
                "records": node.records,
                "group": shard.group.0,
                "leader": node.leader,
            })
        };
        let expired = self.nodes.values().filter(|node| node.shard.is_none());
        json!({
            "name": self.stream.as_str(),
            "status": super::word(self.status),
            "map_version": self.version.0,
            "shards": self.shards().map(shard).collect::<Vec<_>>(),
            "expired": expired.map(|node| node.id.to_string()).collect::<Vec<_>>(),
        })
    }
}

impl Node {
    fn expired(id: ShardId) -> Node {
        Node { id, shard: None, children: vec![], records: None, last: None, leader: None }
    }
}

/// A lineage for tests: every kind of shard once.
#[cfg(test)]
pub(super) mod sample {
    use super::*;
    use tristream_proto::domain::*;

    const QUARTER: u128 = 1 << 126;

    pub(in crate::cli::stream) fn shard(
        index: u32,
        range: [u128; 2],
        life: (u64, Option<u64>),
        parents: &[u32],
    ) -> Shard {
        Shard {
            id: ShardId::from(index),
            group: GroupId(u64::from(index) + 10),
            range: HashKeyRange { first: HashKey(range[0]), last: HashKey(range[1]) },
            creation_second: life.0,
            parents: parents.iter().map(|&parent| ShardId::from(parent)).collect(),
            replicas: [1, 2, 3].map(NodeId).to_vec(),
            closed_second: life.1,
        }
    }

    pub(in crate::cli::stream) fn described(shards: Vec<Shard>) -> StreamDescription {
        StreamDescription {
            name: "orders".parse().expect("a name"),
            incarnation: Incarnation(1),
            status: StreamStatus::Active,
            created: Timestamp(1_795_255_200_000),
            leaders: vec![None; shards.len()],
            map: ShardMap::new(MapVersion(5), shards).expect("tiles"),
        }
    }

    /// 0 and 1 from the beginning; 0 has expired. 0 was split into 2 and 3, 1 into 4 and 5; 3 and 4
    /// were merged into 6.
    pub(in crate::cli::stream) fn stream() -> StreamDescription {
        let at = |quarter: u128| quarter * QUARTER;
        let begin = 1_795_255_200;
        described(vec![
            shard(1, [at(2), u128::MAX], (begin, Some(begin + 299)), &[]),
            shard(2, [0, at(1) - 1], (begin + 60, None), &[0]),
            shard(3, [at(1), at(2) - 1], (begin + 60, Some(begin + 899)), &[0]),
            shard(4, [at(2), at(3) - 1], (begin + 300, Some(begin + 899)), &[1]),
            shard(5, [at(3), u128::MAX], (begin + 300, None), &[1]),
            shard(6, [at(1), at(3) - 1], (begin + 900, None), &[3, 4]),
        ])
    }

    pub(in crate::cli::stream) fn cluster(
        stream: &StreamDescription,
    ) -> wire::ClusterStatusResponse {
        let node = |(id, az): (u64, &str)| wire::NodeStatus {
            id,
            az: az.to_owned(),
            alive: true,
            ..Default::default()
        };
        let group = |shard: &Shard| {
            let newest = SequenceNumber {
                counter: RecordPosition { index: 77, position: 0 }.counter(),
                ..shard.starting_sequence_number()
            };
            let stored = u64::from(shard.id.index() % 3) * 61_728;
            wire::GroupStatus {
                group: shard.group.0,
                stream: "orders".to_owned(),
                shard_index: shard.id.index(),
                leader: u64::from(shard.id.index() % 4),
                records: stored,
                last_sequence_number: match stored {
                    0 => String::new(),
                    _ => newest.to_string(),
                },
                ..Default::default()
            }
        };
        wire::ClusterStatusResponse {
            cluster: "otter".to_owned(),
            nodes: [(1, "az-a"), (2, "az-b"), (3, "az-c")].map(node).to_vec(),
            groups: stream.map.shards().iter().map(group).collect(),
        }
    }

    pub(in crate::cli::stream) fn lineage() -> Lineage {
        let stream = stream();
        Lineage::new(&stream, &cluster(&stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(shards: &[u32]) -> Vec<ShardId> {
        shards.iter().map(|&shard| ShardId::from(shard)).collect()
    }

    #[test]
    fn children_and_expired_parents_are_found() {
        let lineage = sample::lineage();
        let children = |id: u32| lineage.get(ShardId::from(id)).expect("known").children.clone();
        assert_eq!(children(0), ids(&[2, 3]));
        assert_eq!(children(3), ids(&[6]));
        assert_eq!(children(4), ids(&[6]));
        assert_eq!(children(6), []);
        let roots: Vec<ShardId> = lineage.roots().iter().map(|node| node.id).collect();
        assert_eq!(roots, ids(&[0, 1]));
        assert_eq!(lineage.counts(), [3, 3, 1]);
    }

    #[test]
    fn parents_that_are_gone_keep_their_order() {
        let begin = 1_795_255_200;
        let stream =
            sample::described(vec![sample::shard(4, [0, u128::MAX], (begin, None), &[3, 1])]);
        let lineage = Lineage::new(&stream, &sample::cluster(&stream));
        let roots: Vec<ShardId> = lineage.roots().iter().map(|node| node.id).collect();
        assert_eq!(roots, ids(&[3, 1]));
    }

    #[test]
    fn what_no_leader_tells_is_not_known() {
        let lineage = sample::lineage();
        let of = |id: u32| lineage.get(ShardId::from(id)).expect("known");
        assert_eq!((of(4).records, of(4).leader.as_deref()), (None, None));
        assert_eq!((of(5).records, of(5).leader.as_deref()), (Some(123_456), Some("az-a")));
        assert_eq!((of(3).records, &of(3).last), (Some(0), &None));
        assert_eq!(lineage.records(), 61_728 + 2 * 123_456);
    }

    #[test]
    fn as_json_everything_is_there_in_full() {
        let json = sample::lineage().as_json();
        assert_eq!(json["expired"], json!(["shardId-000000000000"]));
        let six = &json["shards"][5];
        assert_eq!(six["parents"], json!(["shardId-000000000003", "shardId-000000000004"]));
        assert_eq!((&six["state"], &six["closed_second"]), (&json!("open"), &json!(null)));
        assert_eq!(six["starting_sequence_number"].as_str().map(str::len), Some(56));
        let three = &json["shards"][2];
        assert_eq!(three["children"], json!(["shardId-000000000006"]));
        assert!(three["ending_sequence_number"].is_string());
        assert_eq!(three["last_hash_key"], "170141183460469231731687303715884105727");
    }
}
