//! The steps of a reshard at the leader of a shard's group, here or one hop away.
//!
//! Invariant: each of these steps does nothing the second time, so that every failure, an unknown
//! outcome too, is tried again until the deadline: what comes back in the end is that it happened,
//! or that it could not be found out. Must not know the order of the steps.

mod messages;

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};
use tristream_proto::domain::{GroupId, Shard};
use tristream_proto::wire;

use super::attempt::{Miss, at_leader};
use super::route::{Route, Search};
use super::{Error, Router};
use crate::shard::{AppendError, Inheritance, Inherited, Sealed, WindowPart};

/// A node that does not answer in this time may have lost the leadership: another one is asked.
const ATTEMPT_TIME: Duration = Duration::from_secs(1);

impl Router {
    /// What `shard` remembers of calls in entries behind `after`. Changes nothing.
    pub async fn copy_window(
        &self,
        shard: &Shard,
        after: u64,
        deadline: Duration,
    ) -> Result<WindowPart, Error> {
        let group = shard.group;
        let attempt = |route, left| -> BoxFuture<'_, Result<WindowPart, Miss>> {
            Box::pin(async move {
                match route {
                    Route::Here => Ok(timeout(left, self.copy_window_here(group, after))
                        .await
                        .map_err(|_| Miss::elsewhere("no window in time"))??),
                    Route::There(node) => {
                        let ask = wire::CopyWindowRequest { group: group.0, after };
                        let answer = self.inner.forward.copy_window(node, ask, left).await?;
                        Ok(part(answer.part)?)
                    }
                    Route::NoLeader => Err(Miss::elsewhere("nobody leads")),
                }
            })
        };
        self.step(shard, deadline, attempt).await
    }

    /// Seals `shard`, with what it remembers behind `after`. An error leaves open whether it is
    /// sealed.
    pub async fn seal(
        &self,
        shard: &Shard,
        after: u64,
        deadline: Duration,
    ) -> Result<(Sealed, WindowPart), Error> {
        let group = shard.group;
        let attempt = |route, left| -> BoxFuture<'_, Result<(Sealed, WindowPart), Miss>> {
            Box::pin(async move {
                match route {
                    Route::Here => Ok(self.seal_here(group, after, left).await?),
                    Route::There(node) => {
                        let ask = wire::SealShardRequest { group: group.0, after, deadline_ms: 0 };
                        let answer = self.inner.forward.seal_shard(node, ask, left).await?;
                        Ok((Sealed::from(&answer), part(answer.part)?))
                    }
                    Route::NoLeader => Err(Miss::elsewhere("nobody leads")),
                }
            })
        };
        self.step(shard, deadline, attempt).await
    }

    /// Gives `shard` what its parents hand over. An error leaves open how much it took.
    pub async fn inherit(
        &self,
        shard: &Shard,
        inheritance: Inheritance,
        deadline: Duration,
    ) -> Result<Inherited, Error> {
        let group = shard.group;
        let inheritance = &inheritance;
        let attempt = |route, left| -> BoxFuture<'_, Result<Inherited, Miss>> {
            Box::pin(async move {
                match route {
                    Route::Here => Ok(self.inherit_here(group, inheritance.clone(), left).await?),
                    Route::There(node) => {
                        let ask = messages::inherit_request(group, inheritance.clone());
                        let answer = self.inner.forward.inherit(node, ask, left).await?;
                        Ok(Inherited::from(answer))
                    }
                    Route::NoLeader => Err(Miss::elsewhere("nobody leads")),
                }
            })
        };
        self.step(shard, deadline, attempt).await
    }

    /// `copy_window` when this node leads the group.
    pub async fn copy_window_here(
        &self,
        group: GroupId,
        after: u64,
    ) -> Result<WindowPart, AppendError> {
        self.open_here(group)?.window(after).await
    }

    /// `seal` when this node leads the group.
    pub async fn seal_here(
        &self,
        group: GroupId,
        after: u64,
        deadline: Duration,
    ) -> Result<(Sealed, WindowPart), AppendError> {
        self.open_here(group)?.seal(after, deadline).await
    }

    /// `inherit` when this node leads the group.
    pub async fn inherit_here(
        &self,
        group: GroupId,
        inheritance: Inheritance,
        deadline: Duration,
    ) -> Result<Inherited, AppendError> {
        self.open_here(group)?.inherit(inheritance, deadline).await
    }

    fn open_here(&self, group: GroupId) -> Result<crate::shard::Handle, AppendError> {
        let closed = || AppendError::Unavailable(format!("group {group} is not open here"));
        self.local_shard(group).ok_or_else(closed)
    }

    async fn step<'a, T: 'a>(
        &'a self,
        shard: &Shard,
        deadline: Duration,
        attempt: impl Fn(Route, Duration) -> BoxFuture<'a, Result<T, Miss>>,
    ) -> Result<T, Error> {
        let search = Search::new(self.inner.roster.me, &shard.replicas);
        let leader = || self.leader_of(shard.group);
        let until = Instant::now() + deadline;
        let attempt = |route, left: Duration| -> BoxFuture<'a, Result<T, Miss>> {
            let tried = attempt(route, left.min(ATTEMPT_TIME));
            Box::pin(async move { tried.await.map_err(again) })
        };
        at_leader(search, leader, until, &*self.inner.entropy, attempt).await
    }
}

/// Whatever went wrong with a step that does nothing the second time: it may be tried again.
fn again(miss: Miss) -> Miss {
    match miss {
        Miss::Final(error) => Miss::elsewhere(error.to_string()),
        other => other,
    }
}

fn part(part: Option<wire::WindowPart>) -> Result<WindowPart, Miss> {
    part.map(WindowPart::from).ok_or_else(|| Miss::elsewhere("an answer without its part"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_may_be_tried_again() {
        let why = || "why".to_owned();
        for error in [
            AppendError::NotLeader { leader: None },
            AppendError::Throttled { waiting_bytes: 1 },
            AppendError::Unavailable(why()),
            AppendError::Sealed,
            AppendError::Invalid(why()),
            AppendError::Unknown(why()),
        ] {
            let miss = again(error.clone().into());
            assert!(!matches!(miss, Miss::Final(_)), "{error:?}");
        }
        let leader = Some(tristream_proto::domain::NodeId(3));
        let hint = again(AppendError::NotLeader { leader }.into());
        assert!(matches!(hint, Miss::Elsewhere { leader: to, .. } if to == leader), "{hint:?}");
    }
}
