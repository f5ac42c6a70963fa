//! The metadata group: streams and their versioned shard maps.
//!
//! Owns the one place where the shape of the cluster changes. Invariant: every node applies the
//! same commands in the same order, so all views of one index are equal. Must not know records, or
//! what a shard group does.

mod apply;
mod command;
#[cfg(test)]
mod compaction_tests;
mod flusher;
mod machine;
pub mod plan;
mod rows;
#[cfg(test)]
mod trial;
mod view;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tristream_proto::domain::GroupId;

use crate::raft::{Group, Groups, Leadership, ProposeError};
use crate::roster::Roster;
use crate::state::Tables;
use crate::tasks::Tasks;

use machine::Machine;

pub use command::{Command, Outcome};
pub use view::{Goal, Reshard, Stream, StreamMode, StreamStatus, View};

/// A handle on the metadata group of this node. Clones are cheap.
#[derive(Clone)]
pub struct Handle {
    group: Group<Machine>,
    view: watch::Receiver<Arc<View>>,
}

impl Handle {
    /// Opens the metadata group on this node, on the rows in `tables`, and keeps them flushed.
    /// Where the folder is new, the members of the roster found the group.
    pub async fn open(
        groups: &Groups,
        tables: Box<dyn Tables>,
        roster: &Roster,
        tasks: &Tasks,
    ) -> anyhow::Result<Handle> {
        let tables: Arc<dyn Tables> = tables.into();
        let machine = Machine::open(tables.clone()).context("open the metadata tables")?;
        let (view, dirty) = (machine.watch(), machine.dirty());
        let group = groups.open(GroupId::META, machine, &roster.ids()).await;
        let group = group.context("open the metadata group")?;
        flusher::spawn(tasks, tables, dirty);
        let applied = view.borrow().applied;
        tracing::info!(node = %roster.me, applied, "the metadata group is open");
        Ok(Handle { group, view })
    }

    /// The newest picture this node has.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Changes with every applied command that changes the view. `View::applied` may move without a
    /// change.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Proposes a command here; only the leader succeeds. Gives the command's index and outcome.
    pub async fn propose(
        &self,
        command: &Command,
        deadline: Duration,
    ) -> Result<(u64, Outcome), ProposeError> {
        let end = Instant::now() + deadline;
        let bytes = serde_json::to_vec(command)
            .map_err(|error| ProposeError::Unavailable(format!("no command: {error}")))?;
        // Also the first wait may have put the command into the log before it is given up.
        let late = |_| ProposeError::Unknown("the deadline passed".to_owned());
        let proposal = timeout_at(end, self.group.propose(bytes.into(), None)).await;
        let proposal = proposal.map_err(late)??;
        let (at, outcome) = timeout_at(end, proposal).await.map_err(late)??;
        Ok((at.index, outcome))
    }

    /// The index that a fresh view must have applied. Leader only.
    pub async fn read_barrier(&self, deadline: Duration) -> Result<u64, ProposeError> {
        self.group.read_barrier(deadline).await
    }

    /// Waits until this node's view has applied `index`; `false` when the deadline passed first.
    pub async fn wait_applied(&self, index: u64, deadline: Duration) -> bool {
        let mut applied = self.group.applied();
        let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= index));
        matches!(timeout_at(Instant::now() + deadline, reached).await, Ok(Ok(_)))
    }

    /// Purges this node's log of the group when more than `entries_max` entries were applied since the last
    /// time: a checkpoint of the view takes their place. Answers up to where it was purged.
    ///
    /// # Errors
    /// The group has stopped, or gave no answer within `deadline`. Trying again is safe.
    pub async fn compact(&self, entries_max: u64, deadline: Duration) -> io::Result<Option<u64>> {
        let first = self.group.purged().map_or(0, |purged| purged + 1);
        let applied = *self.group.applied().borrow();
        if applied.is_none_or(|applied| applied < first.saturating_add(entries_max)) {
            return Ok(None);
        }
        tokio::time::timeout(deadline, self.group.checkpoint()).await??;
        self.group.purge_trimmed(deadline).await
    }

    /// Who leads the metadata group.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.group.watch_leader()
    }
}
