//! Who owns this key, and how to get there: here, one hop away, or nowhere.
//!
//! Owns routing, forwarding (one hop, never again) and retries within a deadline. Invariant: a
//! request whose outcome is unknown is never sent again, but for puts whose records say which call
//! they came in with: a shard recognises those. Must not know HTTP, JSON or gRPC services' business.

mod attempt;
mod barrier;
mod clocks;
mod forward;
mod loads;
mod puts;
mod records;
mod reshard;
mod route;
mod status;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tristream_proto::domain::{Effect, GroupId, NodeId, Retry, ShardId, StreamName};

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::metadata::{self, StreamMode, View};
use crate::net::Peers;
use crate::raft::Groups;
use crate::roster::Roster;
use crate::shard::{self, Shards};

pub use clocks::ClockSample;
pub use streams::Fresh;

use barrier::Barriers;
use forward::Forward;

pub use loads::observed;

/// What a new stream shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStream {
    /// Its name.
    pub name: StreamName,
    /// How many shards.
    pub shard_count: u32,
    /// Provisioned or on demand.
    pub mode: StreamMode,
    /// Largest record in bytes.
    pub record_bytes_max: usize,
    /// Labels.
    pub tags: BTreeMap<String, String>,
}

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such stream (or it is not the incarnation meant).
    #[error("stream {0} not found")]
    StreamNotFound(StreamName),
    /// The name is taken.
    #[error("stream {0} already exists")]
    AlreadyExists(StreamName),
    /// Too many shards.
    #[error("{open} shards are open and the limit is {limit}")]
    ShardLimit {
        /// Open shards now.
        open: usize,
        /// The limit.
        limit: usize,
    },
    /// The stream is being created, changed or deleted, and the request needs it ACTIVE.
    #[error("stream {0} is not active")]
    NotActive(StreamName),
    /// The stream is on demand: its shards are not the caller's to change.
    #[error("stream {0} is on demand")]
    OnDemand(StreamName),
    /// The stream has no such shard.
    #[error("no such shard: {0}")]
    NoShard(ShardId),
    /// The shard is closed, or being split or merged.
    #[error("{0} is closed, or being split or merged")]
    NotEligible(ShardId),
    /// The split or merge does not fit the shards' ranges.
    #[error("the ranges do not fit: {0}")]
    BadRange(String),
    /// AWS's limits on changes forbid it, in AWS's words.
    #[error("{0}")]
    ChangeLimit(String),
    /// The shard's queue is full.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The disk of a replica is nearly full. Did not happen.
    #[error("not stored: {0}")]
    StorageFull(String),
    /// No leader or no quorum could be reached within the deadline. Did not happen.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It may have happened, or may yet.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The request breaks a rule.
    #[error("invalid: {0}")]
    Invalid(String),
    /// A replica's log cannot be read.
    #[error("damaged: {0}")]
    Damaged(String),
}

impl Error {
    /// May the caller send it again?
    pub fn retry(&self) -> Retry {
        match self {
            Error::Throttled(_)
            | Error::StorageFull(_)
            | Error::Unavailable(_)
            | Error::Unknown(_) => Retry::Later,
            Error::Damaged(_) => Retry::Elsewhere,
            _ => Retry::Never,
        }
    }

    /// Did it happen?
    pub fn effect(&self) -> Effect {
        match self {
            Error::Unknown(_) => Effect::Unknown,
            _ => Effect::None,
        }
    }
}

/// The router of a node. Clones are handles.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    roster: Roster,
    forward: Forward,
    metadata: metadata::Handle,
    shards: Shards,
    groups: Groups,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    barriers: Barriers,
    /// Whether AWS's limits on changes hold.
    limited: bool,
}

impl Router {
    /// A router over this node's replicas (`metadata`, `shards`; `groups` is for their status) and
    /// the other nodes (`peers`). `clock` dates new streams, `entropy` spreads the pauses between
    /// attempts; `limited` says whether AWS's limits on changes hold.
    #[expect(clippy::too_many_arguments, reason = "one for each floor below")]
    pub fn new(
        roster: Roster,
        metadata: metadata::Handle,
        shards: Shards,
        groups: Groups,
        peers: Peers,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        limited: bool,
    ) -> Router {
        let (forward, barriers) = (Forward::new(peers), Barriers::default());
        let inner =
            Inner { roster, forward, metadata, shards, groups, clock, entropy, barriers, limited };
        Router { inner: Arc::new(inner) }
    }

    /// The nodes.
    pub fn roster(&self) -> &Roster {
        &self.inner.roster
    }

    /// The newest view this node has, perhaps a little old.
    pub fn view(&self) -> Arc<View> {
        self.inner.metadata.view()
    }

    /// The same, with what comes after it.
    pub fn watch_view(&self) -> watch::Receiver<Arc<View>> {
        self.inner.metadata.watch()
    }

    /// Who leads a group, as far as this node knows.
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        if group.is_meta() {
            return self.inner.metadata.watch_leader().borrow().leader;
        }
        self.local_shard(group).and_then(|shard| shard.leadership().leader)
    }

    /// This node's replica of a shard, when it is open.
    pub fn local_shard(&self, group: GroupId) -> Option<shard::Handle> {
        self.inner.shards.get(group)
    }
}
