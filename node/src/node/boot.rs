//! The way up, once the doors are open: founding, log, metadata, shards, router, API.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tristream_proto::domain::{GroupId, TokenKey};

use super::readiness;
use crate::api::Api;
use crate::config::Config;
use crate::disk::Reserve;
use crate::founding::{self, SelfPortrait};
use crate::identity::{Folder, Founding, Identity};
use crate::log::{self, Log};
use crate::metadata;
use crate::metrics::Metrics;
use crate::net::{self, Peers};
use crate::placement;
use crate::raft::{self, Groups, Inbound};
use crate::reshard;
use crate::retention;
use crate::roster::{Member, Roster};
use crate::router::Router;
use crate::rpc;
use crate::shard::Shards;
use crate::state::{MemoryTables, SledTables, Tables};
use crate::tasks::{Kind, Tasks};
use crate::world::World;

/// How often readiness is looked at.
const READINESS_INTERVAL: Duration = Duration::from_millis(100);

/// How often the first founder asks for votes for the new metadata group, beside what Raft does by
/// itself.
const FIRST_CAMPAIGNS_MAX: u32 = 10;
const FIRST_CAMPAIGN_PAUSE: Duration = Duration::from_millis(250);

/// What is needed to bring the node up.
pub(super) struct Boot {
    pub(super) config: Config,
    pub(super) world: World,
    /// The metadata tables, of a node that does not open its own.
    pub(super) tables: Option<Box<dyn Tables>>,
    pub(super) folder: Folder,
    pub(super) portrait: SelfPortrait,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<Metrics>,
    pub(super) rpc: rpc::Slots,
    pub(super) api: watch::Sender<Option<Arc<Api>>>,
    pub(super) ready: watch::Sender<Result<(), String>>,
    pub(super) floors: Arc<OnceLock<Floors>>,
}

/// What must be taken down in order.
pub(super) struct Floors {
    groups: Groups,
    log: Log,
}

impl Floors {
    pub(super) async fn shutdown(&self) {
        self.groups.close_all().await;
        tracing::debug!("groups are closed");
        if let Err(error) = self.log.close().await {
            tracing::error!(%error, "the log did not close cleanly");
        }
    }
}

fn log_dir(config: &Config) -> PathBuf {
    config.data_dir.join("log")
}

/// Refuses a folder that had a log and has none: its votes and records are lost, and it must not vote.
pub(super) fn check_log(config: &Config, world: &World, identity: &Identity) -> anyhow::Result<()> {
    let dir = log_dir(config);
    let there = world.disk.list(&dir).is_ok_and(|names| !names.is_empty());
    if identity.log_created && !there {
        bail!(
            "the log in {} is gone: this node must not vote without it. Bring the folder back",
            dir.display()
        );
    }
    Ok(())
}

impl Boot {
    /// Runs until the node stops; the last part watches readiness.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let founding = self.join().await?;
        let roster = self.roster(&founding)?;
        tracing::info!(node = %roster.me, az = %self.config.az, cluster = %roster.cluster, "starting");
        let peers = Peers::new(&self.world.net, &roster)?;
        let log = self.open_log().await?;
        let in_log = log.groups();
        let groups = Groups::new(
            &raft::Config {
                heartbeat: Duration::from_millis(self.config.raft.heartbeat_ms),
                election_timeout_min: Duration::from_millis(
                    self.config.raft.election_timeout_ms_min,
                ),
                election_timeout_max: Duration::from_millis(
                    self.config.raft.election_timeout_ms_max,
                ),
            },
            log.clone(),
            &peers,
            &roster,
            &*self.world.entropy,
            self.tasks.clone(),
            self.metrics.clone(),
        )?;
        self.watch_room(&groups);
        let fresh = log.group(GroupId::META).state().last.is_none();
        // From here on a stop must close what is open.
        let _ = self.floors.set(Floors { groups: groups.clone(), log });
        // Before any group is open: a peer's may not open without an entry that is intact here.
        let inbound = Inbound::new(groups.clone(), roster.cluster.clone());
        self.rpc.inbound.send_replace(Some(inbound));
        let metadata =
            metadata::Handle::open(&groups, self.tables()?, &roster, &self.tasks).await?;
        if fresh {
            self.elect_first_leader(&groups, &roster);
        }
        let shards = Shards::new(
            groups.clone(),
            roster.me,
            self.world.clock.clone(),
            self.tasks.clone(),
            self.metrics.clone(),
            Duration::from_secs(self.config.on_demand_window_seconds),
        );
        let placement = placement::start(
            placement::Parts {
                me: roster.me,
                metadata: metadata.clone(),
                shards: shards.clone(),
                groups: groups.clone(),
                logged: in_log,
                rebalance_after: Duration::from_millis(self.config.raft.rebalance_after_ms),
            },
            &self.tasks,
        );
        let router = Router::new(
            roster,
            metadata.clone(),
            shards,
            groups.clone(),
            peers,
            self.world.clock.clone(),
            self.world.entropy.clone(),
            self.config.quotas,
        );
        self.rpc.router.send_replace(Some(router.clone()));
        reshard::start(
            reshard::Parts {
                metadata: metadata.clone(),
                router: router.clone(),
                groups: groups.clone(),
                clock: self.world.clock.clone(),
                failpoints: self.world.failpoints.clone(),
                metrics: self.metrics.clone(),
                retention_override_seconds: self.config.retention_override_seconds,
                on_demand_window: Duration::from_secs(self.config.on_demand_window_seconds),
            },
            &self.tasks,
        );
        retention::start(
            retention::Parts {
                router: router.clone(),
                metadata: metadata.clone(),
                metrics: self.metrics.clone(),
                kept_override: self.config.retention_override_seconds.map(Duration::from_secs),
            },
            &self.tasks,
        );
        let api = Api {
            token_key: TokenKey::derived_from(&router.roster().cluster),
            streams: Arc::new(router),
            clock: self.world.clock.clone(),
            entropy: self.world.entropy.clone(),
            account: self.config.account.clone(),
            region: self.config.region.clone(),
            iterator_life: Duration::from_secs(self.config.iterator_seconds),
            retention_override: self.config.retention_override_seconds.map(Duration::from_secs),
            put_deadline: Duration::from_millis(self.config.put_deadline_ms),
            deduplicate: self.config.deduplicate,
        };
        self.api.send_replace(Some(Arc::new(api)));
        self.watch_readiness(&groups, &metadata, placement.groups_open).await;
        Ok(())
    }

    fn watch_room(&self, groups: &Groups) {
        let log = &self.config.log;
        let reserve = Reserve { configured: log.reserve_bytes, segment_bytes: log.segment_bytes };
        let (disk, metrics) = (self.world.disk.clone(), self.metrics.clone());
        groups.room().watch(disk, log_dir(&self.config), reserve, &self.tasks, metrics);
    }

    async fn join(&mut self) -> anyhow::Result<Founding> {
        let others = self.config.nodes.iter().filter(|node| node.az != self.config.az);
        let others = others
            .map(|node| {
                let channel =
                    net::peer_channel(&self.world.net, &self.config.az, &node.peer, 1 << 16)?;
                Ok((node.az.clone(), channel))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        founding::join_or_found(&self.folder, &self.portrait, &others, &*self.world.entropy).await
    }

    fn roster(&self, founding: &Founding) -> anyhow::Result<Roster> {
        let member = |founder: &crate::identity::Founder| {
            let address = self.config.nodes.iter().find(|node| node.az == founder.az);
            let address =
                address.with_context(|| format!("the settings name no node in {}", founder.az))?;
            Ok(Member {
                node: founder.node,
                az: founder.az.clone(),
                peer: address.peer.clone(),
                kinesis: address.kinesis.clone(),
            })
        };
        let members = founding.founders.iter().map(member).collect::<anyhow::Result<Vec<_>>>()?;
        let identity = self.portrait.identity();
        let me =
            founding.names(&identity).context("this folder is not in the founding document")?;
        Ok(Roster { cluster: founding.cluster.clone(), me: me.node, members })
    }

    /// Has the first founder ask for votes for the new metadata group, until somebody leads it: the
    /// others may not have opened it yet. Were the first away, any other would ask after a timeout.
    fn elect_first_leader(&self, groups: &Groups, roster: &Roster) {
        if roster.ids().first() != Some(&roster.me) {
            return;
        }
        let groups = groups.clone();
        self.tasks.spawn(Kind::Boot, async move {
            for _ in 0..FIRST_CAMPAIGNS_MAX {
                let Some(status) = groups.status(GroupId::META) else { return };
                if status.leader.is_some() || status.last_index > Some(0) {
                    return;
                }
                if let Err(error) = groups.campaign(GroupId::META).await {
                    tracing::debug!(error = format!("{error:#}"), "cannot campaign");
                }
                tokio::time::sleep(FIRST_CAMPAIGN_PAUSE).await;
            }
        });
    }

    async fn open_log(&mut self) -> anyhow::Result<Log> {
        let config = log::Config {
            dir: log_dir(&self.config),
            segment_bytes: self.config.log.segment_bytes,
            tail_bytes: self.config.log.tail_bytes,
            queue_bytes: self.config.log.queue_bytes,
            rewrite_bytes_per_second: self.config.log.rewrite_bytes_per_second,
            scrub_bytes_per_second: self.config.log.scrub_bytes_per_second,
        };
        let log = Log::open(
            config,
            self.world.disk.clone(),
            self.world.entropy.clone(),
            self.tasks.clone(),
            self.metrics.clone(),
        )
        .await
        .context("opening the log")?;
        let mut identity = self.portrait.identity();
        if !identity.log_created {
            identity.log_created = true;
            self.folder.save(&identity).await?;
        }
        Ok(log)
    }

    /// Those that the node was started with, if any. sled opens files by itself, so it needs a disk of the operating
    /// system; elsewhere the tables are kept in memory and rebuilt from the log at each start.
    fn tables(&mut self) -> anyhow::Result<Box<dyn Tables>> {
        if let Some(tables) = self.tables.take() {
            return Ok(tables);
        }
        if !self.world.disk.is_native() {
            return Ok(Box::new(MemoryTables::new()));
        }
        let dir = self.config.data_dir.join("state");
        let tables = SledTables::open_or_rebuild(&dir)
            .with_context(|| format!("opening the metadata tables in {}", dir.display()))?;
        Ok(Box::new(tables))
    }

    async fn watch_readiness(
        &self,
        groups: &Groups,
        metadata: &metadata::Handle,
        groups_open: watch::Receiver<bool>,
    ) {
        let mut every = tokio::time::interval(READINESS_INTERVAL);
        loop {
            every.tick().await;
            let now = readiness::waits_for(groups, &metadata.view(), *groups_open.borrow());
            self.ready.send_if_modified(|old| {
                let changed = *old != now;
                *old = now;
                changed
            });
        }
    }
}
