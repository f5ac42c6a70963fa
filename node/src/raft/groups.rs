//! The groups open on this node, of whatever machine.
//!
//! Owns opening and closing, and the settings of all groups. Invariant: a group that was destroyed is never
//! opened again. Must not know which group is for what.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use openraft::SnapshotPolicy;
use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tristream_proto::domain::{GroupId, NodeId};

use super::founding;
use super::group::{Group, Inner};
use super::log_store::LogStore;
use super::network::{Connection, Factory, Transport};
use super::peer::Peer;
use super::repair::{self, Mended, Repair};
use super::state_machine::StateMachine;
use super::{Leadership, Machine, Status};
use crate::disk::Room;
use crate::entropy::Entropy;
use crate::log::{GroupLog, Log};
use crate::metrics::Metrics;
use crate::net::Peers;
use crate::roster::Roster;
use crate::tasks::{Kind, Tasks};

/// How long a survivor's answer about its log is waited for.
const COMPARE_TIMEOUT: Duration = Duration::from_millis(200);

/// How long it is waited for a replica's word that it would take over.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_millis(500);
/// For all groups to be handed over when all are closed ...
const YIELD_ALL_TIMEOUT: Duration = Duration::from_secs(2);
/// ... and how many at a time.
const YIELDS_AT_ONCE: usize = 64;

/// How long a replica may take to receive and install a checkpoint.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// Times of every group.
#[derive(Clone, Debug)]
pub struct Config {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing campaigns after a random time from here ...
    pub election_timeout_min: Duration,
    /// ... to here. Also the leader's lease.
    pub election_timeout_max: Duration,
}

impl Config {
    fn openraft(&self) -> anyhow::Result<Arc<openraft::Config>> {
        let config = openraft::Config {
            cluster_name: "tristream".to_owned(),
            heartbeat_interval: self.heartbeat.as_millis() as u64,
            election_timeout_min: self.election_timeout_min.as_millis() as u64,
            election_timeout_max: self.election_timeout_max.as_millis() as u64,
            // The log is the shard: it is kept until retention trims it, never snapshotted away. Purges
            // are asked for (`Group::purge_trimmed`).
            snapshot_policy: SnapshotPolicy::Never,
            install_snapshot_timeout: SNAPSHOT_TIMEOUT.as_millis() as u64,
            max_in_snapshot_log_to_keep: u64::MAX >> 1,
            replication_lag_threshold: u64::MAX >> 1,
            max_payload_entries: 256,
            // The defaults (65,536 slots) cost megabytes per group; the appenders keep these queues short.
            api_channel_size: Some(1024),
            notification_channel_size: Some(1024),
            state_machine_channel_size: Some(256),
            // Resuming leadership in the same term after a restart loses acked writes when the last
            // append was sent but not synced: the same log id gets another entry.
            enable_leader_restore: Some(planted!(ResumedLeadership)),
            enable_pre_vote: Some(true),
            ..Default::default()
        };
        Ok(Arc::new(config.validate().context("settings of Raft")?))
    }
}

/// The groups open on this node. Clones are handles.
#[derive(Clone)]
pub struct Groups {
    inner: Arc<Registry>,
}

struct Registry {
    config: Arc<openraft::Config>,
    log: Log,
    me: NodeId,
    transport: Arc<Transport>,
    repair: Arc<Repair>,
    peers: Peers,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    room: Room,
    /// Peers about which it is being found out whether they are gone.
    investigated: Mutex<BTreeSet<NodeId>>,
    open: RwLock<BTreeMap<GroupId, Arc<dyn Peer>>>,
    /// Groups that are being opened; the tokens end their waits for repairs.
    opening: Mutex<BTreeMap<GroupId, CancellationToken>>,
}

/// A group's place among those that are being opened.
struct Opening<'a> {
    registry: &'a Registry,
    id: GroupId,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.registry.opening.lock().remove(&self.id);
    }
}

impl Groups {
    /// No groups yet.
    pub fn new(
        config: &Config,
        log: Log,
        peers: &Peers,
        roster: &Roster,
        entropy: &dyn Entropy,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Groups> {
        let room = Room::new();
        let transport = Arc::new(Transport::new(peers, roster, entropy.u64(), &room, &tasks));
        let others = roster.others().map(|member| member.node).collect();
        let repair = Arc::new(Repair::new(log.clone(), others, transport.clone()));
        let groups = Groups {
            inner: Arc::new(Registry {
                config: config.openraft()?,
                log,
                me: roster.me,
                transport,
                repair,
                peers: peers.clone(),
                tasks,
                metrics,
                room,
                investigated: Mutex::default(),
                open: RwLock::default(),
                opening: Mutex::default(),
            }),
        };
        groups.spawn_observer();
        let weak = Arc::downgrade(&groups.inner);
        let here = move || weak.upgrade().map(|inner| Groups { inner });
        let repair = repair::run(groups.inner.repair.clone(), here);
        groups.inner.tasks.spawn(Kind::Helper, repair);
        Ok(groups)
    }

    /// Opens a group on this node: restores `machine` from its newest checkpoint and replays what is known
    /// to be committed after it.
    ///
    /// `founders` are the members of a group that is new, the same in the same order on every replica;
    /// empty for one that is not, or may have been deleted: a log without entries then stays without
    /// members until a leader sends them. A log that has entries is not touched.
    pub async fn open<M: Machine>(
        &self,
        id: GroupId,
        machine: M,
        founders: &[NodeId],
    ) -> anyhow::Result<Group<M>> {
        let registry = &self.inner;
        anyhow::ensure!(!registry.open.read().contains_key(&id), "group {id} is open already");
        let closing = CancellationToken::new();
        registry.opening.lock().insert(id, closing.clone());
        let opening = Opening { registry, id };
        let mended = Mended::new(id, registry.repair.clone(), closing.clone());
        let log = mended.log().clone();
        founding::found(&log, founders).await.with_context(|| format!("founding group {id}"))?;
        #[cfg(planted)]
        if planted!(TruncationAtRot) {
            repair::cut_at_damage(&log).await?;
        }
        mended.settle().await.with_context(|| format!("the log of group {id}"))?;
        let (driver, shared) = StateMachine::restore(machine, &mended)
            .await
            .with_context(|| format!("restoring the state of group {id}"))?;
        let factory = Factory { transport: registry.transport.clone(), group: id };
        let covered = *shared.applied.borrow();
        let store = LogStore::new(mended.clone(), M::stamp_ms, covered);
        let raft =
            openraft::Raft::new(registry.me.0, registry.config.clone(), factory, store, driver)
                .await
                .with_context(|| format!("starting group {id}"))?;
        // From here on nobody gives it up, and the token is that of the group's end.
        drop(opening);
        if closing.is_cancelled() {
            // It has not been seen by anybody yet.
            let _ = raft.shutdown().await;
            anyhow::bail!("the opening of group {id} was given up");
        }
        mended.set_open();
        raft.runtime_config().elect(!log.is_damaged());
        let inner = Arc::new(Inner {
            id,
            me: registry.me,
            raft,
            log,
            mended,
            closing,
            shared,
            leadership: watch::channel(Leadership::default()).0,
            lease: Duration::from_millis(registry.config.election_timeout_max),
            room: registry.room.clone(),
            resigns: AtomicBool::new(false),
        });
        self.spawn_leadership(&inner);
        registry.open.write().insert(id, inner.clone());
        tracing::debug!(group = %id, "group is open");
        Ok(Group { inner })
    }

    /// Keeps `leadership` true: looks again whenever openraft's vote or the newest applied term changes.
    fn spawn_leadership<M: Machine>(&self, inner: &Arc<Inner<M>>) {
        let mut server = inner.raft.server_metrics();
        let mut applied = inner.shared.applied_leader.subscribe();
        let (group, metrics) = (Arc::downgrade(inner), self.inner.metrics.clone());
        self.inner.tasks.spawn(Kind::Helper, async move {
            let mut was_ready = false;
            loop {
                let Some(inner) = group.upgrade() else { return };
                let now = inner.refresh_leadership();
                if now.ready_here && !was_ready {
                    metrics.observe_election();
                    tracing::info!(group = %inner.id, term = now.term, "leads");
                }
                was_ready = now.ready_here;
                drop(inner);
                let changed = tokio::select! {
                    changed = server.changed() => changed.is_ok(),
                    changed = applied.changed() => changed.is_ok(),
                };
                if !changed {
                    return;
                }
            }
        });
    }

    /// Publishes terms, leaderships and lags once a second.
    fn spawn_observer(&self) {
        let registry = Arc::downgrade(&self.inner);
        self.inner.tasks.spawn(Kind::Helper, async move {
            let mut every = tokio::time::interval(Duration::from_secs(1));
            let mut stopped = BTreeSet::new();
            loop {
                every.tick().await;
                let Some(registry) = registry.upgrade() else { return };
                registry.observe(&mut stopped);
            }
        });
    }

    /// Asks the members for their votes now, and not only when a leader was missed for long. For new
    /// groups, which nobody leads yet.
    pub async fn campaign(&self, id: GroupId) -> anyhow::Result<()> {
        self.get(id)?.elect().await.map_err(anyhow::Error::msg)
    }

    /// Asks `to` to take over leadership of `id`, when this node leads.
    ///
    /// # Errors
    /// When `to` does not answer or would refuse; nothing has changed then. (From the moment at which openraft hands over
    /// it takes no more proposals in this term, whatever the other says.)
    pub async fn hand_over(&self, id: GroupId, to: NodeId) -> anyhow::Result<()> {
        let group = self.get(id)?;
        let connection = Connection::new(self.inner.transport.clone(), id, to);
        let would = connection.ask_take_over(TAKE_OVER_TIMEOUT).await;
        anyhow::ensure!(would.map_err(anyhow::Error::msg)?, "it cannot read all of its log");
        group.hand_over(to.0).await.map_err(anyhow::Error::msg)
    }

    /// Room for records, here and on the peers that answer.
    pub fn room(&self) -> &Room {
        &self.inner.room
    }

    /// Status of an open group of whatever kind.
    pub fn status(&self, id: GroupId) -> Option<Status> {
        self.peer(id).map(|group| group.status())
    }

    /// Who leads an open group.
    pub fn leadership(&self, id: GroupId) -> Option<watch::Receiver<Leadership>> {
        self.peer(id).map(|group| group.leadership())
    }

    /// Ids of the open groups.
    pub fn ids(&self) -> Vec<GroupId> {
        self.inner.open.read().keys().copied().collect()
    }

    /// Who may stand for election here.
    pub(super) fn let_stand(&self, may: impl Fn(GroupId) -> bool) {
        for (&id, group) in &*self.inner.open.read() {
            group.let_stand(may(id));
        }
    }

    /// Who may go on leading here.
    pub(super) fn let_lead(&self, may: impl Fn(GroupId) -> bool) {
        for (&id, group) in &*self.inner.open.read() {
            group.let_lead(may(id));
        }
    }

    /// Asks the replica that is furthest to take over leadership of `id`, when this node leads; the next one if it would
    /// not.
    pub(super) async fn yield_leadership(&self, id: GroupId) {
        let me = self.inner.me;
        let Some(status) = self.status(id).filter(|status| status.leader == Some(me)) else {
            return;
        };
        let mut others = status.matched;
        others.retain(|(node, _)| *node != me);
        others.sort_by_key(|(_, at)| Reverse(*at));
        for (to, _) in others {
            match self.hand_over(id, to).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(group = %id, %to, %error, "could not hand over"),
            }
        }
    }

    /// A group's log, open or not.
    pub(super) fn log(&self, id: GroupId) -> GroupLog {
        self.inner.log.group(id)
    }

    /// Closes a group; its log stays.
    pub async fn close(&self, id: GroupId) {
        let group = self.inner.open.write().remove(&id);
        if let Some(group) = group {
            group.shutdown().await;
        }
    }

    /// Closes all groups: those led here first hand leadership to the peer that is furthest, so that the
    /// cluster need not wait for a timeout.
    pub async fn close_all(&self) {
        let ids = self.ids();
        let me = self.inner.me;
        let yielding = futures::stream::iter(&ids);
        let yielding =
            yielding.for_each_concurrent(YIELDS_AT_ONCE, |&id| self.yield_leadership(id));
        // Who does not answer is not waited for: those that are not handed over are elected anew.
        let _ = tokio::time::timeout(YIELD_ALL_TIMEOUT, yielding).await;
        let led_here = |id: &GroupId| self.status(*id).is_some_and(|s| s.leader == Some(me));
        tracing::debug!("asked the peers to take over");
        for _ in 0..20 {
            if !ids.iter().any(led_here) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        futures::stream::iter(ids).for_each_concurrent(16, |id| self.close(id)).await;
    }

    /// Lets the opening of a group fail soon, if it waits for the repair of its log: the group was deleted. Does
    /// nothing to a group that is open.
    pub fn give_up_opening(&self, id: GroupId) {
        if let Some(closing) = self.inner.opening.lock().get(&id) {
            closing.cancel();
        }
    }

    /// Closes a group and removes its log for good.
    pub async fn destroy(&self, id: GroupId) -> io::Result<()> {
        let nodes = self.status(id).map(|status| status.members).unwrap_or_default();
        self.close(id).await;
        let nodes: Vec<u64> = nodes.iter().map(|node| node.0).collect();
        self.inner.metrics.forget_group(id.0, &nodes);
        self.inner.log.remove(id).await
    }

    pub(super) fn peer(&self, id: GroupId) -> Option<Arc<dyn Peer>> {
        self.inner.open.read().get(&id).cloned()
    }

    pub(super) fn me(&self) -> NodeId {
        self.inner.me
    }

    /// `false` when one is under way already.
    pub(super) fn begin_investigation(&self, node: NodeId) -> bool {
        self.inner.investigated.lock().insert(node)
    }

    pub(super) fn end_investigation(&self, node: NodeId) {
        self.inner.investigated.lock().remove(&node);
    }

    pub(super) async fn refuses_connections(&self, node: NodeId) -> bool {
        self.inner.peers.refuses_connections(node).await
    }

    /// How this node's log of `id` compares with the longest of `others`; `None` when none of them answers.
    /// A pre-vote changes nothing, and its answer names the last log id.
    pub(super) async fn compare_logs(&self, id: GroupId, others: &[NodeId]) -> Option<Ordering> {
        let request = self.peer(id)?.pre_vote_request();
        let own = request.last_log_id;
        let answers = others.iter().map(|&to| {
            let connection = Connection::new(self.inner.transport.clone(), id, to);
            let request = request.clone();
            async move { connection.ask_pre_vote(&request, COMPARE_TIMEOUT).await.ok() }
        });
        let answers = futures::future::join_all(answers).await;
        let longest = answers.into_iter().flatten().map(|answer| answer.last_log_id).max()?;
        Some(own.cmp(&longest))
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    fn get(&self, id: GroupId) -> anyhow::Result<Arc<dyn Peer>> {
        self.peer(id).with_context(|| format!("group {id} is not open here"))
    }
}

impl Registry {
    /// `stopped` holds the groups of which it was said already that they stopped.
    fn observe(&self, stopped: &mut BTreeSet<GroupId>) {
        let open: Vec<_> = self.open.read().iter().map(|(id, g)| (*id, g.clone())).collect();
        let mut led = 0;
        for (id, group) in &open {
            let status = group.status();
            self.metrics.set_term(id.0, status.term);
            let here = status.leader == Some(self.me);
            led += usize::from(here);
            for (node, matched) in status.matched.iter().filter(|_| here) {
                let lag = status.last_index.map_or(0, |last| last + 1)
                    - matched.map_or(0, |at| at + 1).min(status.last_index.map_or(0, |l| l + 1));
                self.metrics.set_replica_lag(id.0, node.0, lag);
            }
            if let Some(reason) = status.stopped.filter(|_| stopped.insert(*id)) {
                tracing::error!(group = %id, %reason, "group has stopped on this node");
                // Without the metadata a node knows ever less of what it serves.
                if id.is_meta() {
                    self.tasks.failed(Kind::Metadata, reason);
                }
            }
        }
        self.metrics.set_groups(open.len(), led);
    }
}

#[cfg(test)]
mod tests;
