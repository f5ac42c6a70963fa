//! The metadata group's machine: applies commands to the view and keeps the tables in step.
//!
//! Invariant: the tables hold the view as of their marker, and everything between the marker and
//! the last applied entry changed nothing; so replaying from the marker gives the same view.
//! Entries that change nothing move the marker in memory only, and ride along with the next change.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tristream_proto::domain::{NodeId, ShardMap};

use super::apply::apply;
use super::command::{Command, Outcome};
use super::rows;
use super::view::{Stream, View};
use crate::log::EntryId;
use crate::raft;
use crate::raft::MachineError;
use crate::state::{Change, Tables};

/// State of the metadata group on this node.
pub(super) struct Machine {
    tables: Arc<dyn Tables>,
    /// The view, and who watches it.
    view: watch::Sender<Arc<View>>,
    /// Marker of the tables.
    kept: Option<EntryId>,
    /// The last applied entry.
    last: Option<EntryId>,
    /// Rung when the tables have something to flush.
    dirty: Arc<Notify>,
    /// Set when the tables failed: no entry is applied any more.
    broken: Option<String>,
}

/// A checkpoint: an on-disk and on-wire format, JSON; fields are only ever added.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    format: u32,
    last: Option<Last>,
    next_group: u64,
    next_incarnation: u64,
    map_version: u64,
    streams: Vec<Arc<Stream>>,
}

#[derive(Serialize, Deserialize)]
struct Last {
    term: u64,
    node: NodeId,
    index: u64,
}

const CHECKPOINT_FORMAT: u32 = 1;

impl Machine {
    /// Takes up what the tables hold. Rows that make no view are thrown away: the log has
    /// everything.
    pub(super) fn open(tables: Arc<dyn Tables>) -> std::io::Result<Machine> {
        let loaded = match rows::load(&*tables) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                tracing::error!(%error, "the metadata rows make no view; rebuilt from the log");
                tables.clear()?;
                None
            }
            loaded => loaded?,
        };
        let (view, kept) = match loaded {
            Some((view, at)) => (view, Some(at)),
            None => (View::default(), None),
        };
        Ok(Machine {
            tables,
            view: watch::channel(Arc::new(view)).0,
            kept,
            last: kept,
            dirty: Arc::new(Notify::new()),
            broken: None,
        })
    }

    /// The view as it changes.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Rings when there is something to flush.
    pub(super) fn dirty(&self) -> Arc<Notify> {
        self.dirty.clone()
    }

    fn save(&mut self, changes: &[Change], at: EntryId) -> Result<(), MachineError> {
        self.tables.apply(changes, rows::marker(at)).map_err(|error| {
            let reason = format!("the metadata tables failed: {error}");
            self.broken = Some(reason.clone());
            MachineError(reason)
        })?;
        self.kept = Some(at);
        self.dirty.notify_one();
        Ok(())
    }

    fn check(&self, at: EntryId) -> Result<(), MachineError> {
        if let Some(reason) = &self.broken {
            return Err(MachineError(reason.clone()));
        }
        match self.last {
            Some(last) if last >= at || last.index >= at.index => {
                Err(MachineError(format!("entry {at:?} comes after {last:?} was applied")))
            }
            _ => Ok(()),
        }
    }

    /// Moves `applied` without waking who waits for changes.
    fn note(&mut self, at: EntryId) {
        self.last = Some(at);
        self.view.send_if_modified(|view| {
            Arc::make_mut(view).applied = at.index;
            false
        });
    }
}

impl raft::Machine for Machine {
    type Reply = Outcome;

    fn apply(&mut self, at: EntryId, command: &Bytes) -> Result<Outcome, MachineError> {
        self.check(at)?;
        let command: Command = serde_json::from_slice(command).map_err(|error| {
            MachineError(format!("entry {} is no command of this version: {error}", at.index))
        })?;
        let before = self.view.borrow().clone();
        let (after, outcome) = apply(&before, &command);
        match after {
            None => self.note(at),
            Some(after) => {
                self.save(&rows::diff(&before, &after), at)?;
                self.last = Some(at);
                self.view.send_replace(Arc::new(View { applied: at.index, ..after }));
            }
        }
        Ok(outcome)
    }

    fn advance(&mut self, at: EntryId) {
        self.note(at);
    }

    fn checkpoint(&self) -> Bytes {
        let view = self.view.borrow();
        let checkpoint = Checkpoint {
            format: CHECKPOINT_FORMAT,
            last: self.last.map(|id| Last { term: id.term, node: id.node, index: id.index }),
            next_group: view.next_group,
            next_incarnation: view.next_incarnation,
            map_version: view.map_version,
            streams: view.streams.values().cloned().collect(),
        };
        match serde_json::to_vec(&checkpoint) {
            Ok(bytes) => bytes.into(),
            Err(error) => unreachable!("a view has text keys and no failing types: {error}"),
        }
    }

    fn restore(&mut self, checkpoint: Bytes) -> Result<(), MachineError> {
        let bad = |why: String| MachineError(format!("bad metadata checkpoint: {why}"));
        let from: Checkpoint =
            serde_json::from_slice(&checkpoint).map_err(|error| bad(error.to_string()))?;
        if from.format != CHECKPOINT_FORMAT {
            return Err(bad(format!("format {}", from.format)));
        }
        let last = from.last.map(|l| EntryId { term: l.term, node: l.node, index: l.index });
        for stream in &from.streams {
            ShardMap::new(stream.map_version(), stream.map.shards().to_vec())
                .map_err(|error| bad(format!("stream {}: {error}", stream.name)))?;
        }
        let view = View {
            applied: last.map_or(0, |id| id.index),
            streams: from.streams.into_iter().map(|s| (s.name.clone(), s)).collect(),
            next_group: from.next_group,
            next_incarnation: from.next_incarnation,
            map_version: from.map_version,
        };
        match last {
            Some(at) => {
                let changes = rows::rewrite(&*self.tables, &view).map_err(|error| {
                    MachineError(format!("the metadata tables failed: {error}"))
                })?;
                self.save(&changes, at)?;
            }
            None => self.reset(),
        }
        self.last = last;
        self.view.send_replace(Arc::new(view));
        Ok(())
    }

    fn applied(&self) -> Option<EntryId> {
        self.kept
    }

    fn wants_durable(&self) -> bool {
        true
    }

    /// A view holds everything.
    fn purgeable(&self) -> Option<u64> {
        self.last.map(|last| last.index)
    }

    fn reset(&mut self) {
        if let Err(error) = self.tables.clear() {
            self.broken = Some(format!("the metadata tables cannot be cleared: {error}"));
        }
        self.kept = None;
        self.last = None;
        self.view.send_replace(Arc::default());
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
