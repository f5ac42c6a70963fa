//! Read barriers: up to where a replica must have applied to show everything acked before now.
//!
//! Invariant: an index was confirmed by a quorum after the question came. Concurrent questions
//! about one group share a round, here and again at the leader. Must not know what is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tristream_proto::domain::{GroupId, NodeId};

use super::attempt::{Miss, at_leader};
use super::route::{Route, Search};
use super::{Error, Router};
use crate::shard::{ReadError, Rounds};

/// How long one node is waited for: one that is silent may have a successor meanwhile.
const ATTEMPT_TIME: Duration = Duration::from_millis(500);

type Round = Rounds<u64>;

/// The rounds that somebody waits for, by group.
#[derive(Default)]
pub(super) struct Barriers {
    rounds: Mutex<BTreeMap<GroupId, Arc<Round>>>,
}

/// A caller's part in a group's rounds; the last one to leave removes them.
struct Share<'a> {
    barriers: &'a Barriers,
    group: GroupId,
    round: Arc<Round>,
}

impl Barriers {
    fn share(&self, group: GroupId) -> Share<'_> {
        let round = self.rounds.lock().entry(group).or_default().clone();
        Share { barriers: self, group, round }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut rounds = self.barriers.rounds.lock();
        // The map's and this one: shares are only made under the lock.
        if Arc::strong_count(&self.round) == 2 {
            rounds.remove(&self.group);
        }
    }
}

impl Router {
    /// The group's barrier, by its leader, here or one hop away.
    pub(super) async fn barrier(
        &self,
        group: GroupId,
        replicas: &[NodeId],
        until: Instant,
    ) -> Result<u64, Error> {
        let share = self.inner.barriers.share(group);
        let round = share.round.join(self.ask_barrier(group, replicas, until));
        timeout_at(until, round)
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable("no quorum answered in time".to_owned())))
    }

    /// The group's barrier when this node leads it; group 0 is the metadata group.
    pub async fn local_barrier(
        &self,
        group: GroupId,
        deadline: Duration,
    ) -> Result<u64, ReadError> {
        if group.is_meta() {
            return Ok(self.inner.metadata.read_barrier(deadline).await?);
        }
        match self.local_shard(group) {
            Some(shard) => shard.read_barrier(deadline).await,
            None => Err(ReadError::Unavailable(format!("group {group} is not open here"))),
        }
    }

    async fn ask_barrier(
        &self,
        group: GroupId,
        replicas: &[NodeId],
        until: Instant,
    ) -> Result<u64, Error> {
        let search = Search::new(self.inner.roster.me, replicas);
        let leader = || self.leader_of(group);
        let attempt = |route, left: Duration| -> BoxFuture<'_, Result<u64, Miss>> {
            let left = left.min(ATTEMPT_TIME);
            Box::pin(async move {
                match route {
                    Route::Here => Ok(self.local_barrier(group, left).await?),
                    Route::There(node) => self.inner.forward.read_barrier(node, group, left).await,
                    Route::NoLeader => Err(Miss::elsewhere("nobody leads")),
                }
            })
        };
        at_leader(search, leader, until, &*self.inner.entropy, attempt).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_shared_while_somebody_waits_and_then_forgotten() {
        let barriers = Barriers::default();
        let (first, second) = (barriers.share(GroupId(1)), barriers.share(GroupId(1)));
        let other = barriers.share(GroupId(2));
        assert!(Arc::ptr_eq(&first.round, &second.round));
        assert!(!Arc::ptr_eq(&first.round, &other.round));
        drop(first);
        assert!(Arc::ptr_eq(&second.round, &barriers.share(GroupId(1)).round));
        drop((second, other));
        assert!(barriers.rounds.lock().is_empty());
    }
}
