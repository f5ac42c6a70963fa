//! Drives a `Machine` as openraft commits entries.
//!
//! Owns the applied position, the membership as of it, and when the state is checkpointed. Invariants: the
//! machine sees each command once, in order, exactly up to `applied`; a persisted state is never ahead of
//! the durable log; what was restored from a checkpoint and what applied everything are the same state.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::repair::Mended;
use super::snapshot::{self, Builder, SnapshotMetaOf, SnapshotOf};
use super::types::{RaftLogId, RaftMembership, Reply, Types};
use super::{Machine, MachineError, convert};
use crate::log::{EntryId, EntryKind, GroupLog};

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
        mended: &Mended,
    ) -> io::Result<(StateMachine<M>, Arc<Shared<M>>)> {
        let log = mended.log().clone();
        let (applied, membership) = loop {
            match restore_here(&mut machine, mended).await {
                Ok(restored) => break restored,
                Err(error) if is_lost(&error) => mended.replace_checkpoint(error).await?,
                Err(error) => return Err(error),
            }
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
        if self.bytes_since_checkpoint == 0 {
            return Ok(());
        }
        let is_due = {
            let machine = self.shared.machine.lock();
            self.bytes_since_checkpoint >= machine.checkpoint_every_bytes()
        };
        if is_due { self.checkpoint_now().await } else { Ok(()) }
    }

    /// Checkpoints the state as of `applied`, unless the newest checkpoint is as new.
    pub(super) async fn checkpoint_now(&mut self) -> io::Result<()> {
        let Some(applied) = self.applied.as_ref().map(convert::entry_id) else { return Ok(()) };
        if self.log.state().checkpoint.is_some_and(|newest| newest.index >= applied.index) {
            return Ok(());
        }
        let state = self.shared.machine.lock().checkpoint();
        self.bytes_since_checkpoint = 0;
        let checkpoint = convert::encode_checkpoint(&self.membership, &state);
        self.log.checkpoint(applied, checkpoint).await
    }

    fn publish_applied(&self, at: EntryId) {
        self.shared.applied.send_replace(Some(at.index));
        let leader = Some((at.term, at.node.0));
        self.shared.applied_leader.send_if_modified(|now| std::mem::replace(now, leader) != leader);
    }
}

/// The log is purged, and no checkpoint is left with which it could be begun here or elsewhere.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the log was purged and no checkpoint can be read")]
struct Lost;

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Lost)
}

fn is_lost(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Lost>())
}

/// From what this node has.
async fn restore_here<M: Machine>(
    machine: &mut M,
    mended: &Mended,
) -> io::Result<(Option<EntryId>, RaftMembership)> {
    let log = mended.log();
    let restored = match machine.wants_durable() {
        true => restore_own(machine, mended).await?,
        false => restore_checkpoint(machine, log).await?,
    };
    // A newer one may have done for the machine; openraft wants one for the replicas that lag.
    let is_purged = log.state().purged.is_some();
    if is_purged && !snapshot::is_readable(log, machine.purgeable()).await? {
        return Err(lost());
    }
    Ok(restored)
}

/// A machine that persists itself says where it stands. If its log does not hold that entry (any more),
/// it starts again from the newest checkpoint or from nothing. Its membership is the last one in the log
/// up to there, or else that of the purge point.
async fn restore_own<M: Machine>(
    machine: &mut M,
    mended: &Mended,
) -> io::Result<(Option<EntryId>, RaftMembership)> {
    let log = mended.log();
    let state = log.state();
    let applied = match machine.applied() {
        Some(applied) if planted!(StateAheadOfLog) || holds(mended, applied).await? => applied,
        other => {
            if other.is_some() {
                tracing::warn!(applied = ?other, last = ?state.last, "persisted state is not in the log: rebuilding it");
                machine.reset();
            }
            return restore_checkpoint(machine, log).await;
        }
    };
    let mut membership = match state.purged {
        Some(purged) => {
            let bytes = match log.read_checkpoint(purged).await {
                Ok(bytes) => bytes.ok_or_else(lost)?,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(lost()),
                Err(error) => return Err(error),
            };
            convert::decode_checkpoint(bytes)?.0
        }
        None => RaftMembership::default(),
    };
    let mut at = log.state().purged.map_or(0, |purged| purged.index + 1);
    while at <= applied.index {
        let entries = mended.read_patiently(at..applied.index + 1, 1 << 20).await?;
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

/// Whether exactly this entry is in the log, or is where it was purged.
async fn holds(mended: &Mended, id: EntryId) -> io::Result<bool> {
    let purged = mended.log().state().purged;
    if purged.is_some_and(|purged| purged.index >= id.index) {
        return Ok(purged == Some(id));
    }
    let entries = mended.read_patiently(id.index..id.index + 1, 1).await?;
    Ok(entries.first().map(|entry| entry.id) == Some(id))
}

/// The newest checkpoint that can be read; a damaged one is not told of again.
async fn restore_checkpoint<M: Machine>(
    machine: &mut M,
    log: &GroupLog,
) -> io::Result<(Option<EntryId>, RaftMembership)> {
    let (applied, bytes) = loop {
        let state = log.state();
        let Some(applied) = state.checkpoint else {
            return match state.purged {
                None => Ok((None, RaftMembership::default())),
                Some(_) => Err(lost()),
            };
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

impl<M: Machine> RaftStateMachine<Types> for StateMachine<M> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder<M>;

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
            if wants_durable && !planted!(StateAheadOfLog) {
                self.log.wait_durable(at.index).await?;
            }
            let reply = match entry.payload {
                // Planted: a follower leaves out one command in sixteen.
                EntryPayload::Normal(_)
                    if planted!(SkippedApply) && responder.is_none() && at.index % 16 == 11 =>
                {
                    self.shared.machine.lock().advance(at);
                    None
                }
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
            self.publish_applied(at);
            if let Some(responder) = responder {
                responder.send(Reply::new(reply));
            }
        }
        self.checkpoint_if_due().await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<M>> {
        let purgeable = self.shared.machine.lock().purgeable();
        let is_possible = snapshot::choose(&self.log, purgeable).is_some();
        (force || is_possible).then(|| self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        self.builder()
    }

    /// Begins again at another replica's checkpoint. It is queued for the log before the purge up to it
    /// is, so no crash can leave the one without the other.
    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf, data: Bytes) -> io::Result<()> {
        let Some(last) = meta.last_log_id else { return Ok(()) };
        let (membership, state) = convert::decode_checkpoint(data.clone())?;
        self.shared.machine.lock().restore(state).map_err(machine_error)?;
        let at = convert::entry_id(&last);
        self.log.checkpoint(at, data).await?;
        tracing::info!(?at, "began again at another replica's checkpoint");
        self.membership = membership;
        self.applied = Some(last);
        self.bytes_since_checkpoint = 0;
        self.publish_applied(at);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        let purgeable = self.shared.machine.lock().purgeable();
        snapshot::read(&self.log, purgeable).await
    }
}

impl<M> StateMachine<M> {
    fn builder(&self) -> Builder<M> {
        Builder { log: self.log.clone(), shared: self.shared.clone() }
    }
}

#[cfg(test)]
mod tests;
