//! Who owns this key, and how to get there: here, one hop away, or nowhere.
//!
//! Owns routing, forwarding (one hop, never again) and retries within a deadline. Invariant: a request whose
//! outcome is unknown is never sent again. Must not know HTTP, JSON or gRPC services' business.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tristream_proto::domain::{
    Effect, GroupId, NodeId, ReadFrom, Record, RecordPosition, Retry, Shard, StreamName,
};
use tristream_proto::wire;

use crate::metadata::{Stream, StreamMode, View};
use crate::roster::Roster;
use crate::shard::{Page, Placed};

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
#[derive(Clone, Debug, thiserror::Error)]
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
    _inner: Arc<()>,
}

impl Router {
    /// The nodes.
    pub fn roster(&self) -> &Roster {
        unimplemented!()
    }

    /// The newest view this node has, perhaps a little old.
    pub fn view(&self) -> Arc<View> {
        unimplemented!()
    }

    /// A view that has everything that was answered before this call; the local one when no quorum answers
    /// in time.
    pub async fn fresh_view(&self) -> Arc<View> {
        unimplemented!()
    }

    /// The stream by name; when this node does not know it, it asks the metadata leader before it says no.
    pub async fn stream(&self, _name: &StreamName) -> Option<Arc<Stream>> {
        unimplemented!()
    }

    /// Creates a stream (status CREATING) and waits until this node's view has it.
    pub async fn create_stream(
        &self,
        _stream: NewStream,
        _deadline: Duration,
    ) -> Result<(), Error> {
        unimplemented!()
    }

    /// Begins to delete a stream and waits until this node's view says so.
    pub async fn delete_stream(
        &self,
        _name: &StreamName,
        _deadline: Duration,
    ) -> Result<(), Error> {
        unimplemented!()
    }

    /// Stores records that all belong to `shard`, in this order, all or none. Goes to the leader, here or
    /// one hop away; while the error proves that nothing happened it tries again until the deadline.
    pub async fn put(
        &self,
        _stream: &Stream,
        _shard: &Shard,
        _records: Vec<Record>,
        _deadline: Duration,
    ) -> Result<Placed, Error> {
        unimplemented!()
    }

    /// Committed records from `from` on. An answer that ends at the tip is confirmed by a quorum; without
    /// one it is what this replica knows, and the flag says that it may be stale.
    pub async fn read(
        &self,
        _shard: &Shard,
        _from: RecordPosition,
        _count_max: usize,
        _bytes_max: usize,
    ) -> Result<(Page, bool), Error> {
        unimplemented!()
    }

    /// The position at which a read of `from` begins. `Latest` is confirmed by a quorum where there is one.
    pub async fn seek(&self, _shard: &Shard, _from: ReadFrom) -> Result<RecordPosition, Error> {
        unimplemented!()
    }

    /// The shard of this group, when it is open on this node.
    pub fn local_shard(&self, _group: GroupId) -> Option<crate::shard::Handle> {
        unimplemented!()
    }

    /// Who leads a group, as far as this node knows.
    pub fn leader_of(&self, _group: GroupId) -> Option<NodeId> {
        unimplemented!()
    }

    /// Nodes, groups, leaders and lag, gathered from every node that answers within a second.
    pub async fn cluster_status(&self) -> wire::ClusterStatusResponse {
        unimplemented!()
    }
}
