//! Who owns this key, and how to get there: here, one hop away, or nowhere.
//!
//! Owns routing, forwarding (one hop, never again) and retries within a deadline. Invariant: a
//! request whose outcome is unknown is never sent again. Must not know HTTP, JSON or gRPC services'
//! business.

mod attempt;
mod barrier;
mod forward;
mod records;
mod route;
mod status;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use tristream_proto::domain::{Effect, GroupId, NodeId, Retry, StreamName};

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::metadata::{self, StreamMode, View};
use crate::net::Peers;
use crate::raft::Groups;
use crate::roster::Roster;
use crate::shard::{self, Shards};

use barrier::Barriers;
use forward::Forward;

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
    /// The shard's queue is full.
    #[error("throttled: {0}")]
    Throttled(String),
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
            Error::Throttled(_) | Error::Unavailable(_) | Error::Unknown(_) => Retry::Later,
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
}

impl Router {
    /// A router over this node's replicas (`metadata`, `shards`; `groups` is for their status) and
    /// the other nodes (`peers`). `clock` dates new streams, `entropy` spreads the pauses between
    /// attempts.
    pub fn new(
        roster: Roster,
        metadata: metadata::Handle,
        shards: Shards,
        groups: Groups,
        peers: Peers,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Router {
        let (forward, barriers) = (Forward::new(peers), Barriers::default());
        let inner = Inner { roster, forward, metadata, shards, groups, clock, entropy, barriers };
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
