//! What comes in at the shards of streams on demand, as their leaders observed it, and how it travels.
//!
//! Only those are asked: a shard observes from the first question on. Must not know what is decided from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tristream_proto::domain::{GroupId, HashKey};
use tristream_proto::wire;

use super::Router;
use crate::metadata::{StreamMode, View};
use crate::shard::Observed;

/// Of a shard's sampled hash keys a client is told an even part: what it shows needs no more.
const TOLD_KEYS_MAX: usize = 128;

impl Router {
    /// What comes in at the open shards of streams on demand. Shards whose leader did not answer within
    /// a second are missing.
    pub async fn shard_loads(&self) -> BTreeMap<GroupId, Observed> {
        let load = |group: wire::GroupStatus| Some((GroupId(group.group), observed(group.load?)));
        self.all_groups().await.1.into_iter().filter_map(load).collect()
    }

    /// With what this node observed, where it leads.
    pub(super) fn with_load(&self, group: wire::GroupStatus) -> wire::GroupStatus {
        let shard = self.local_shard(GroupId(group.group));
        let load = shard.and_then(|shard| shard.load()).map(to_wire);
        wire::GroupStatus { load, ..group }
    }
}

/// Groups of the open shards of streams on demand.
pub(super) fn on_demand(view: &View) -> BTreeSet<u64> {
    let streams = view.streams.values().filter(|stream| stream.mode == StreamMode::OnDemand);
    streams.flat_map(|stream| stream.map.open().map(|shard| shard.group.0)).collect()
}

fn to_wire(load: Observed) -> wire::ShardLoad {
    let key = |key: HashKey| Bytes::copy_from_slice(&key.0.to_be_bytes());
    wire::ShardLoad {
        peak_bytes: load.peak_bytes,
        peak_records: load.peak_records,
        sampled_hash_keys: load.sampled.into_iter().map(key).collect(),
        observed_ms: load.observed.as_millis() as u64,
    }
}

/// A load as it travels, in domain words. What is no hash key is left out.
pub fn observed(load: wire::ShardLoad) -> Observed {
    let key = |bytes: &Bytes| <[u8; 16]>::try_from(&bytes[..]).ok().map(u128::from_be_bytes);
    let keys = load.sampled_hash_keys.iter().filter_map(key).map(HashKey);
    let mut sampled: Vec<HashKey> = keys.collect();
    sampled.sort_unstable();
    Observed {
        peak_bytes: load.peak_bytes,
        peak_records: load.peak_records,
        sampled,
        observed: Duration::from_millis(load.observed_ms),
    }
}

/// Leaves `TOLD_KEYS_MAX` at most, evenly: the keys are in order, so the picture stays the same.
pub(super) fn thin(load: &mut wire::ShardLoad) {
    let keys = &mut load.sampled_hash_keys;
    let all = keys.len();
    if all > TOLD_KEYS_MAX {
        *keys = (0..TOLD_KEYS_MAX).map(|i| keys[i * all / TOLD_KEYS_MAX].clone()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_travel_and_clients_get_an_even_part_of_the_sample() {
        let load = Observed {
            peak_bytes: 1 << 20,
            peak_records: 900,
            sampled: (0..1024u128).map(|n| HashKey(n << 100)).collect(),
            observed: Duration::from_millis(1234),
        };
        assert_eq!(observed(to_wire(load.clone())), load);
        let mut thinned = to_wire(load.clone());
        thin(&mut thinned);
        let thinned = observed(thinned);
        assert_eq!(thinned.sampled.len(), TOLD_KEYS_MAX);
        assert_eq!(thinned.sampled[64], load.sampled[512]);
        let mut damaged = to_wire(load);
        damaged.sampled_hash_keys[0] = Bytes::from_static(b"short");
        assert_eq!(observed(damaged).sampled.len(), 1023);
    }
}
