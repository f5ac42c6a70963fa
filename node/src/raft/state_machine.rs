//! Drives a `Machine` as openraft commits entries.
//!
//! Owns the applied position, the membership as of it, and when the state is checkpointed. Invariants: the
//! machine sees each command once, in order, exactly up to `applied`; a persisted state is never ahead of
//! the durable log. This version never purges a shard's log below what a peer may need, so snapshots are
//! neither built nor sent; both answer with an error that says so.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::convert;
use super::types::{RaftLogId, RaftMembership, Reply, Types};
use super::{Machine, MachineError};
use crate::log::{EntryId, EntryKind, GroupLog};

type SnapshotMetaOf = openraft::alias::SnapshotMetaOf<Types>;
type SnapshotOf = openraft::alias::SnapshotOf<Types, Bytes>;

/// What the group's handles and openraft's driver share.
pub(super) struct Shared<M> {
    pub(super) machine: Mutex<M>,
    /// Newest applied entry, for readers.
    pub(super) applied: watch::Sender<Option<u64>>,
    /// Who made the newest applied entry: (term, node). A leader is ready once it is itself.
    pub(super) applied_leader: watch::Sender<Option<(u64, u64)>>,
}

/// The driver that openraft owns.
pub(super) struct StateMachine<M> {
    shared: Arc<Shared<M>>,
    log: GroupLog,
    applied: Option<RaftLogId>,
    membership: RaftMembership,
    bytes_since_checkpoint: u64,
}

impl<M: Machine> StateMachine<M> {
    /// Restores `machine` to the newest state that is no further than the durable log.
    pub(super) async fn restore(
        mut machine: M,
        log: GroupLog,
    ) -> io::Result<(StateMachine<M>, Arc<Shared<M>>)> {
        let (applied, membership) = match machine.wants_durable() {
            true => restore_own(&mut machine, &log).await?,
            false => restore_checkpoint(&mut machine, &log).await?,
        };
        let shared = Arc::new(Shared {
            machine: Mutex::new(machine),
            applied: watch::channel(applied.map(|id| id.index)).0,
            applied_leader: watch::channel(applied.map(|id| (id.term, id.node.0))).0,
        });
        let applied = applied.map(convert::log_id);
        let driver = StateMachine {
            shared: shared.clone(),
            log,
            applied,
            membership,
            bytes_since_checkpoint: 0,
        };
        Ok((driver, shared))
    }

    async fn checkpoint_if_due(&mut self) -> io::Result<()> {
        let (Some(applied), false) = (self.applied.as_ref(), self.bytes_since_checkpoint == 0)
        else {
            return Ok(());
        };
        let state = {
            let machine = self.shared.machine.lock();
            if machine.wants_durable()
                || self.bytes_since_checkpoint < machine.checkpoint_every_bytes()
            {
                return Ok(());
            }
            machine.checkpoint()
        };
        self.bytes_since_checkpoint = 0;
        let checkpoint = convert::encode_checkpoint(&self.membership, &state);
        self.log.checkpoint(convert::entry_id(applied), checkpoint).await
    }
}

/// A machine that persists itself says where it stands; if that is ahead of the durable log it starts
/// again from nothing. Its membership is the last one in the log up to there.
async fn restore_own<M: Machine>(
    machine: &mut M,
    log: &GroupLog,
) -> io::Result<(Option<EntryId>, RaftMembership)> {
    let last = log.state().last;
    let Some(applied) = machine.applied() else {
        return Ok((None, RaftMembership::default()));
    };
    let known = match log.read(applied.index..applied.index + 1, 1).await {
        Ok(entries) => entries.first().map(|entry| entry.id) == Some(applied),
        Err(_) => false,
    };
    if last.is_none_or(|last| last.index < applied.index) || !known {
        tracing::warn!(?applied, ?last, "persisted state is ahead of the log: rebuilding it");
        machine.reset();
        return Ok((None, RaftMembership::default()));
    }
    let mut membership = RaftMembership::default();
    let mut at = log.state().purged.map_or(0, |purged| purged.index + 1);
    while at <= applied.index {
        let entries = log.read(at..applied.index + 1, 1 << 20).await?;
        if entries.is_empty() {
            break;
        }
        at += entries.len() as u64;
        for entry in entries.into_iter().filter(|entry| entry.kind == EntryKind::Membership) {
            let entry = convert::from_log(entry)?;
            if let EntryPayload::Membership(config) = entry.payload {
                membership = RaftMembership::new(Some(entry.log_id), config);
            }
        }
    }
    Ok((Some(applied), membership))
}

/// The newest checkpoint that can be read; a damaged one is not told of again.
async fn restore_checkpoint<M: Machine>(
    machine: &mut M,
    log: &GroupLog,
) -> io::Result<(Option<EntryId>, RaftMembership)> {
    let (applied, bytes) = loop {
        let Some(applied) = log.state().checkpoint else {
            return Ok((None, RaftMembership::default()));
        };
        match log.read_checkpoint(applied).await {
            Ok(Some(bytes)) => break (applied, bytes),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "falling back to an older checkpoint");
            }
            Err(error) => return Err(error),
        }
    };
    let (membership, state) = convert::decode_checkpoint(bytes)?;
    machine.restore(state).map_err(machine_error)?;
    Ok((Some(applied), membership))
}

fn machine_error(error: MachineError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn no_snapshots() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "logs are never purged, so no snapshot is needed")
}

impl<M: Machine> RaftStateMachine<Types> for StateMachine<M> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let wants_durable = self.shared.machine.lock().wants_durable();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let log_id = entry.log_id();
            let at = convert::entry_id(&log_id);
            if wants_durable {
                self.log.wait_durable(at.index).await?;
            }
            let reply = match entry.payload {
                EntryPayload::Normal(command) => {
                    self.bytes_since_checkpoint += command.0.len() as u64;
                    let reply = self.shared.machine.lock().apply(at, &command.0);
                    Some(Box::new(reply.map_err(machine_error)?) as Box<dyn std::any::Any + Send>)
                }
                EntryPayload::Blank => {
                    self.shared.machine.lock().advance(at);
                    None
                }
                EntryPayload::Membership(config) => {
                    self.membership = RaftMembership::new(Some(log_id), config);
                    self.shared.machine.lock().advance(at);
                    None
                }
            };
            self.applied = Some(log_id);
            self.shared.applied.send_replace(Some(at.index));
            let leader = Some((at.term, at.node.0));
            self.shared
                .applied_leader
                .send_if_modified(|now| std::mem::replace(now, leader) != leader);
            if let Some(responder) = responder {
                responder.send(Reply::new(reply));
            }
        }
        self.checkpoint_if_due().await
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf, _data: Bytes) -> io::Result<()> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        Ok(None)
    }
}

/// Builds nothing.
pub(super) struct NoSnapshots;

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        Err(no_snapshots())
    }
}
