//! The shards open on this node, by group.
//!
//! Invariant: a group has at most one appender here. Must not know why a shard is opened or
//! destroyed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tristream_proto::domain::{GroupId, NodeId, Shard};

use super::Handle;
use super::appender::{Appender, Depth};
use super::load::Load;
use super::machine::ShardMachine;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::raft::Groups;
use crate::tasks::{Kind, Tasks};

/// The shards open on this node.
#[derive(Clone)]
pub struct Shards {
    inner: Arc<Inner>,
}

struct Inner {
    groups: Groups,
    me: NodeId,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    depth: Arc<Depth>,
    /// Over which the load of a shard is observed.
    load_window: Duration,
    /// A cell is empty while its group is being opened.
    open: Mutex<BTreeMap<GroupId, Arc<OnceCell<Handle>>>>,
    /// Counts openings, so that one can be waited for.
    opened: watch::Sender<u64>,
}

impl Shards {
    /// No shards yet, on node `me`. Their load is observed over `load_window`.
    pub fn new(
        groups: Groups,
        me: NodeId,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
        load_window: Duration,
    ) -> Shards {
        let depth = Arc::new(Depth::new(metrics.clone()));
        let (open, opened) = (Mutex::default(), watch::channel(0).0);
        let inner = Inner { groups, me, clock, tasks, metrics, depth, load_window, open, opened };
        Shards { inner: Arc::new(inner) }
    }

    /// Opens the shard's group on this node, as one that `is_new` where no replica may have entries
    /// yet. Harmless when it is open.
    pub async fn open(&self, shard: &Shard, is_new: bool) -> anyhow::Result<Handle> {
        let cell = self.inner.open.lock().entry(shard.group).or_default().clone();
        let handle = cell.get_or_try_init(|| self.open_group(shard, is_new)).await?.clone();
        let is_kept =
            self.inner.open.lock().get(&shard.group).is_some_and(|kept| Arc::ptr_eq(kept, &cell));
        if !is_kept {
            handle.close();
            anyhow::bail!("group {} was destroyed while it was being opened", shard.group);
        }
        self.inner.opened.send_modify(|count| *count += 1);
        Ok(handle)
    }

    /// The open shard of this group.
    pub fn get(&self, group: GroupId) -> Option<Handle> {
        self.inner.open.lock().get(&group).and_then(|cell| cell.get().cloned())
    }

    /// The open shard of this group, which may be about to open.
    pub async fn wait_open(&self, group: GroupId, deadline: Duration) -> Option<Handle> {
        if let Some(handle) = self.get(group) {
            return Some(handle);
        }
        let mut opened = self.inner.opened.subscribe();
        let is_open = opened.wait_for(|_| self.get(group).is_some());
        // Whether it opened or not is asked below.
        let _ = timeout(deadline, is_open).await;
        self.get(group)
    }

    /// Groups of the open shards.
    pub fn ids(&self) -> Vec<GroupId> {
        let open = self.inner.open.lock();
        open.iter().filter(|(_, cell)| cell.initialized()).map(|(id, _)| *id).collect()
    }

    /// Closes the shard and gives its log's space back, for good.
    pub async fn destroy(&self, group: GroupId) -> anyhow::Result<()> {
        let cell = self.inner.open.lock().remove(&group);
        if let Some(handle) = cell.as_ref().and_then(|cell| cell.get()) {
            handle.close();
        }
        self.inner.groups.destroy(group).await?;
        Ok(())
    }

    async fn open_group(&self, shard: &Shard, is_new: bool) -> anyhow::Result<Handle> {
        let Inner { groups, me, clock, tasks, metrics, depth, load_window, .. } = &*self.inner;
        let founders = if is_new { &shard.replicas[..] } else { &[] };
        let group = groups.open(shard.group, ShardMachine::new(shard), founders).await?;
        let (appender, owner) = Appender::new(group.clone(), *me, clock.clone(), depth.clone());
        let closing = CancellationToken::new();
        let closed = closing.clone();
        tasks.spawn(Kind::Appender, async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = owner => {}
            }
        });
        let load = Load::new(shard.group, *load_window);
        Ok(Handle::new(shard.clone(), group, appender, load, metrics.clone(), closing))
    }
}
