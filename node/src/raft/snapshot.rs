//! Snapshots: which checkpoint of the log is one, for a purge and for a replica that is behind it.
//!
//! Owns nothing: checkpoints live in the log. Invariant: a snapshot is exactly a checkpoint at or below
//! what is trimmed, or the one at the purge point; so whoever installs it lacks no entry that is
//! retained. (A snapshot of the newest state would make its receiver drop the whole log.)

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::RaftSnapshotBuilder;

use super::state_machine::Shared;
use super::types::Types;
use super::{Machine, convert};
use crate::log::{EntryId, GroupLog};

pub(super) type SnapshotMetaOf = openraft::alias::SnapshotMetaOf<Types>;
pub(super) type SnapshotOf = openraft::alias::SnapshotOf<Types, Bytes>;

/// A purge may take the chosen checkpoint away before it is read; then another is chosen.
const TRIES: usize = 8;

/// The newest checkpoint at or below what is trimmed, or else the one at the purge point.
pub(super) fn choose(log: &GroupLog, purgeable: Option<u64>) -> Option<EntryId> {
    let purged = log.state().purged.map(|purged| purged.index);
    let upto = purgeable.max(purged)?;
    log.checkpoints().into_iter().rev().find(|id| id.index <= upto)
}

/// The chosen snapshot; `None` when no checkpoint can be one.
pub(super) async fn read(log: &GroupLog, purgeable: Option<u64>) -> io::Result<Option<SnapshotOf>> {
    let purgeable = if planted!(SnapshotPastTrim) { Some(u64::MAX) } else { purgeable };
    for _ in 0..TRIES {
        let Some(id) = choose(log, purgeable) else { return Ok(None) };
        let Some(bytes) = log.read_checkpoint(id).await? else { continue };
        let (last_membership, _) = convert::decode_checkpoint(bytes.clone())?;
        let last_log_id = Some(convert::log_id(id));
        let meta = SnapshotMetaOf { last_log_id, last_membership };
        return Ok(Some(SnapshotOf { meta, snapshot: bytes }));
    }
    Err(io::Error::other("the log is purged faster than its checkpoints can be read"))
}

/// Whether there is a snapshot; damaged ones are not told of again.
pub(super) async fn is_readable(log: &GroupLog, purgeable: Option<u64>) -> io::Result<bool> {
    while let Some(id) = choose(log, purgeable) {
        match log.read_checkpoint(id).await {
            Ok(Some(_)) => return Ok(true),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "looking for an older checkpoint");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Names the snapshot of the moment; it is in the log already.
pub(super) struct Builder<M> {
    pub(super) log: GroupLog,
    pub(super) shared: Arc<Shared<M>>,
}

impl<M: Machine> RaftSnapshotBuilder<Types> for Builder<M> {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        let purgeable = self.shared.machine.lock().purgeable();
        let missing = || convert::bad("the log was purged and has no checkpoint to begin with");
        read(&self.log, purgeable).await?.ok_or_else(missing)
    }
}
