//! Splits and merges, carried through their steps by the node that leads the metadata group.
//!
//! Owns the order of the steps (docs/resharding.md). Invariant: whatever this node is about to do
//! can be read from the metadata view, and doing it a second time does nothing: so a new leader
//! looks at the view and goes on, and nothing is lost with the old one. The steps must not know why a
//! reshard was asked for, or what a shard hands over.
//!
//! ```text
//!  metadata view --> due     what is to be done: reshards to finish, steps of goals to begin
//!                    driver  does it: many side by side, each tried until it succeeds
//!                      |---> saga   the steps of one reshard        --> calls --> router, metadata
//!                      '---> goal   begins the next splits, merges  --> calls --> metadata
//!  metadata view --> expire  drops closed shards past their retention
//!  loads --> demand (pure)   on_demand  proposes what makes streams on demand fit their load
//! ```

mod calls;
pub mod demand;
mod driver;
mod due;
mod expire;
mod goal;
mod handover;
pub mod on_demand;
mod saga;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::failpoint::Failpoints;
use crate::metadata;
use crate::metrics::Metrics;
use crate::raft::{Groups, Leadership};
use crate::router::Router;
use crate::tasks::{Kind, Tasks};

use calls::Cluster;
use driver::Driver;

/// What resharding works on.
pub struct Parts {
    /// The metadata group, open.
    pub metadata: metadata::Handle,
    /// To the leaders of shards.
    pub router: Router,
    /// The groups of this node: it has a replica of every shard.
    pub groups: Groups,
    /// Wall-clock time, for expiry and for the wait before a seal.
    pub clock: Arc<dyn Clock>,
    /// Reached after every step.
    pub failpoints: Arc<dyn Failpoints>,
    /// For the time that each step took.
    pub metrics: Arc<Metrics>,
    /// Seconds for which closed shards are kept, whatever their streams say.
    pub retention_override_seconds: Option<u64>,
    /// Over which the load of streams on demand is observed.
    pub on_demand_window: Duration,
}

/// Starts resharding; it ends with the node.
pub fn start(parts: Parts, tasks: &Tasks) {
    let Parts { metadata, router, groups, clock, failpoints, metrics, .. } = parts;
    let retention = parts.retention_override_seconds;
    let watching = on_demand::Parts {
        router: router.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        window: parts.on_demand_window,
    };
    on_demand::start(watching, tasks);
    let leader = metadata.watch_leader();
    let expiring = router.clone();
    let calls =
        Cluster { metadata: metadata.clone(), router, groups, clock: clock.clone(), failpoints };
    let driver = Driver::new(metadata.watch(), calls, metrics);
    let (of_driver, of_expiry) = (leader.clone(), leader);
    tasks.spawn(Kind::Resharder, async move {
        while_leading(of_driver, || driver.drive().boxed()).await;
    });
    tasks.spawn(Kind::Resharder, async move {
        let expire = || expire::run(&metadata, &expiring, &*clock, retention).boxed();
        while_leading(of_expiry, expire).await;
    });
}

/// Does `work` whenever this node leads, once for each term; it is dropped at its next await when
/// the leadership ends. Returns when the group is closed or the work ends by itself.
async fn while_leading<'a>(
    mut leader: watch::Receiver<Leadership>,
    work: impl Fn() -> BoxFuture<'a, ()>,
) {
    loop {
        let Ok(term) = leader.wait_for(|now| now.ready_here).await.map(|now| now.term) else {
            return;
        };
        let lost = async {
            let ended = leader.wait_for(|now| !now.ready_here || now.term != term).await;
            ended.is_ok()
        };
        tokio::select! {
            biased;
            goes_on = lost => if !goes_on {
                return;
            },
            () = work() => return,
        }
    }
}
