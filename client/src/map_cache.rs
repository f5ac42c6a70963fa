//! The shard maps this client knows, and who leads which shard as far as it has heard.
//!
//! Invariant: what is cached of a stream never goes back to an older incarnation or map version. Leaders
//! are hints: a wrong one costs one hop. Must not know how a map is fetched.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tristream_proto::domain::{
    GroupId, Incarnation, MapVersion, NodeId, Shard, ShardMap, StreamName, Timestamp,
};
use tristream_proto::wire;

use crate::error::Error;

/// Streams cached at most; past it the cache starts anew.
const STREAMS_MAX: usize = 4096;

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStatus {
    /// Its shards are being opened.
    Creating,
    /// It takes and serves records.
    Active,
    /// It takes and serves records, while its shards are being split or merged.
    Updating,
    /// It is going away.
    Deleting,
}

/// A stream with its shard map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDescription {
    /// Its name.
    pub name: StreamName,
    /// Tells it from earlier streams of the name.
    pub incarnation: Incarnation,
    /// Where it is in its life.
    pub status: StreamStatus,
    /// When it was created.
    pub created: Timestamp,
    /// Its shards.
    pub map: ShardMap,
    /// Who led each shard, in the order of `map.shards()`, when the answer was made.
    pub leaders: Vec<Option<NodeId>>,
}

impl StreamDescription {
    /// What orders two descriptions of one name in time.
    pub(crate) fn version(&self) -> (Incarnation, MapVersion) {
        (self.incarnation, self.map.version())
    }
}

impl TryFrom<wire::Stream> for StreamDescription {
    type Error = Error;

    fn try_from(stream: wire::Stream) -> Result<Self, Error> {
        let bad = |what: String| Error::Protocol(what);
        let status = match stream.status() {
            wire::StreamStatus::Creating => StreamStatus::Creating,
            wire::StreamStatus::Active => StreamStatus::Active,
            wire::StreamStatus::Updating => StreamStatus::Updating,
            wire::StreamStatus::Deleting => StreamStatus::Deleting,
            wire::StreamStatus::Unspecified => return Err(bad("a stream without status".into())),
        };
        let shards = stream
            .shards
            .iter()
            .map(Shard::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad(error.to_string()))?;
        let map = ShardMap::new(MapVersion(stream.map_version), shards)
            .map_err(|error| bad(error.to_string()))?;
        Ok(StreamDescription {
            name: StreamName::try_from(stream.name).map_err(|error| bad(error.to_string()))?,
            incarnation: Incarnation(stream.incarnation),
            status,
            created: Timestamp(stream.created_ms),
            map,
            leaders: stream.shards.iter().map(|s| node(s.leader)).collect(),
        })
    }
}

fn node(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

#[derive(Default)]
pub(crate) struct MapCache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: HashMap<StreamName, Arc<StreamDescription>>,
    leaders: HashMap<GroupId, NodeId>,
}

impl MapCache {
    pub(crate) fn get(&self, name: &StreamName) -> Option<Arc<StreamDescription>> {
        self.state.lock().streams.get(name).cloned()
    }

    /// Takes in an answer, and gives the newest that is known: a node that lags may have sent an older
    /// map than one that is cached.
    pub(crate) fn insert(&self, fresh: StreamDescription) -> Arc<StreamDescription> {
        let mut state = self.state.lock();
        if state.streams.len() >= STREAMS_MAX {
            *state = State::default();
        }
        let cached = state.streams.get(&fresh.name);
        if let Some(newer) = cached.filter(|cached| cached.version() > fresh.version()) {
            return newer.clone();
        }
        for (shard, leader) in fresh.map.shards().iter().zip(&fresh.leaders) {
            if let Some(leader) = leader {
                state.leaders.insert(shard.group, *leader);
            }
        }
        let fresh = Arc::new(fresh);
        state.streams.insert(fresh.name.clone(), fresh.clone());
        fresh
    }

    /// `refused` was said to be out of date: drops it, but nothing newer that came in meanwhile.
    pub(crate) fn forget(&self, refused: &StreamDescription) {
        let mut state = self.state.lock();
        let cached = state.streams.get(&refused.name);
        if cached.is_some_and(|cached| cached.version() <= refused.version()) {
            state.streams.remove(&refused.name);
        }
    }

    pub(crate) fn forget_name(&self, name: &StreamName) {
        self.state.lock().streams.remove(name);
    }

    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.state.lock().leaders.get(&group).copied()
    }

    pub(crate) fn set_leader(&self, group: GroupId, leader: NodeId) {
        self.state.lock().leaders.insert(group, leader);
    }

    /// `node` turned out not to lead `group`, or cannot be reached.
    pub(crate) fn forget_leader(&self, group: GroupId, node: NodeId) {
        let mut state = self.state.lock();
        if state.leaders.get(&group) == Some(&node) {
            state.leaders.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{HashKeyRange, ShardId};

    fn stream(incarnation: u64, version: u64, leader: u64) -> StreamDescription {
        let shard = Shard {
            id: ShardId::from(0),
            group: GroupId(7),
            range: HashKeyRange::uniform(1)[0],
            creation_second: 1,
            parents: vec![],
            replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
            closed_second: None,
        };
        StreamDescription {
            name: "s".parse().expect("a name"),
            incarnation: Incarnation(incarnation),
            status: StreamStatus::Active,
            created: Timestamp(1),
            map: ShardMap::new(MapVersion(version), vec![shard]).expect("tiles"),
            leaders: vec![node(leader)],
        }
    }

    #[test]
    fn a_map_never_goes_back() {
        let cache = MapCache::default();
        cache.insert(stream(1, 5, 1));
        assert_eq!(cache.insert(stream(1, 4, 2)).version(), (Incarnation(1), MapVersion(5)));
        assert_eq!(cache.leader(GroupId(7)), Some(NodeId(1)), "nor do the leaders it names");
        assert_eq!(cache.insert(stream(2, 6, 2)).version(), (Incarnation(2), MapVersion(6)));
        assert_eq!(cache.leader(GroupId(7)), Some(NodeId(2)));
    }

    #[test]
    fn only_what_was_refused_is_forgotten() {
        let cache = MapCache::default();
        let old = cache.insert(stream(1, 5, 1));
        cache.insert(stream(1, 6, 1));
        cache.forget(&old);
        assert!(cache.get(&old.name).is_some(), "a newer map came in meanwhile");
        cache.forget(&stream(1, 6, 1));
        assert!(cache.get(&old.name).is_none());
    }

    #[test]
    fn a_leader_is_forgotten_only_while_it_is_the_hint() {
        let cache = MapCache::default();
        cache.set_leader(GroupId(7), NodeId(1));
        cache.forget_leader(GroupId(7), NodeId(2));
        assert_eq!(cache.leader(GroupId(7)), Some(NodeId(1)));
        cache.forget_leader(GroupId(7), NodeId(1));
        assert_eq!(cache.leader(GroupId(7)), None);
    }

    #[test]
    fn descriptions_from_the_wire_are_checked() {
        let good = wire::Stream {
            name: "s".to_owned(),
            incarnation: 1,
            status: wire::StreamStatus::Active.into(),
            created_ms: 5,
            map_version: 3,
            shards: stream(1, 3, 0).map.shards().iter().map(wire::Shard::from).collect(),
            on_demand: false,
        };
        assert_eq!(
            StreamDescription::try_from(good.clone()).map(|d| (d.version(), d.leaders)),
            Ok(((Incarnation(1), MapVersion(3)), vec![None]))
        );
        let no_shards = wire::Stream { shards: vec![], ..good.clone() };
        let no_status = wire::Stream { status: 0, ..good.clone() };
        let no_name = wire::Stream { name: String::new(), ..good };
        for bad in [no_shards, no_status, no_name] {
            assert!(matches!(StreamDescription::try_from(bad), Err(Error::Protocol(_))));
        }
    }
}
