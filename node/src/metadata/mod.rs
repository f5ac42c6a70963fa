//! The metadata group: streams and their versioned shard maps.
//!
//! Owns the one place where the shape of the cluster changes. Invariant: every node applies the same
//! commands in the same order, so all views of one index are equal. Must not know records, or what a
//! shard group does.

mod command;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::raft::{Leadership, ProposeError};

pub use command::{Command, Outcome};
pub use view::{Stream, StreamMode, StreamStatus, View};

/// A handle on the metadata group of this node. Clones are cheap.
#[derive(Clone)]
pub struct Handle {
    _inner: Arc<()>,
}

impl Handle {
    /// The newest picture this node has.
    pub fn view(&self) -> Arc<View> {
        unimplemented!()
    }

    /// Changes with every applied command that changes the view.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        unimplemented!()
    }

    /// Proposes a command here; only the leader succeeds. Gives the command's index and outcome.
    pub async fn propose(
        &self,
        _command: &Command,
        _deadline: Duration,
    ) -> Result<(u64, Outcome), ProposeError> {
        unimplemented!()
    }

    /// The index that a fresh view must have applied. Leader only.
    pub async fn read_barrier(&self, _deadline: Duration) -> Result<u64, ProposeError> {
        unimplemented!()
    }

    /// Waits until this node's view has applied `index`; `false` when the deadline passed first.
    pub async fn wait_applied(&self, _index: u64, _deadline: Duration) -> bool {
        unimplemented!()
    }

    /// Who leads the metadata group.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        unimplemented!()
    }
}
