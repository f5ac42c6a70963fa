//! A group whose log cannot be read here, and need not be held by anyone: it begins again at a peer's
//! checkpoint, before consensus begins.
//!
//! Owns how such a checkpoint takes the place of entries. Must not know why that is needed, nor how peers are
//! asked.
//!
//! Why no promise is broken by it, where `at` is the last entry that the checkpoint covers:
//!
//! - The peer gives what a leader would send to a replica that lags (`snapshot::choose`). It was taken of an
//!   applied state or installed as one, so all up to `at` is committed and the state is exact there; it lies at or
//!   below what is trimmed, or is the peer's purge point, so none of the entries that go is retained. A peer
//!   that is behind has one that covers too little, and that is not taken.
//! - What this replica acked up to `at` is committed, and then the state has it, or it was replaced and counts
//!   for nothing. What follows `at` in this log stays. If this log has another entry at `at`'s index,
//!   that one is not committed and never will be, and neither is what follows it (what is committed has
//!   the same entries before it in all logs): it goes, as it would if a leader sent the entries. Where
//!   this node knows that entry to be committed, something is broken, and nothing is changed.
//! - The vote only rises: to the leader that made `at`, which was elected, for `at` is committed. Otherwise
//!   this log could hold an entry of a later term than this node knows of.
//! - Each step leaves a log that opens, or that is begun again another time. Vote raised: as if that leader
//!   had called. Entries cut: they were never committed. Checkpoint written, and not purged up to it: one that
//!   this log does not hold is not told of, and another is one of this log's own. It is queued before
//!   the purge, so no crash leaves a purge without it.
//! - openraft finds what it finds after a leader's checkpoint was installed: the log begins at or after its
//!   purge point, the state covers that, and the members come with it. What was noted as committed may be
//!   less than the state covers; openraft takes the state's word then.

use std::io;

use bytes::Bytes;
use tristream_proto::wire;

use super::types::RaftVote;
use super::{convert, snapshot};
use crate::log::{EntryId, GroupLog};

/// Lets the log begin at a peer's checkpoint: `at` is the last entry that `state` covers, and becomes the
/// purge point. Durable when it returns, but for a checkpoint at a purge point of old: if that is lost again, it
/// is fetched again.
///
/// # Errors
/// `InvalidData`: this log contradicts it, or it is no checkpoint; nothing changed. Others: the log stopped.
pub(super) async fn begin_at(log: &GroupLog, at: EntryId, state: Bytes) -> io::Result<()> {
    // Nothing that cannot be read is let near the group.
    convert::decode_checkpoint(state.clone())?;
    let is_replaced = check(log, at)?;
    raise_vote(log, at).await?;
    if is_replaced {
        log.truncate_after(at.index.checked_sub(1)).await?;
    }
    log.checkpoint(at, state).await?;
    log.purge(at).await
}

/// Whether the log has another entry there, which was never committed.
fn check(log: &GroupLog, at: EntryId) -> io::Result<bool> {
    let known = log.state();
    if known.purged.is_some_and(|purged| at.index < purged.index) {
        return Err(convert::bad("it lies before the purge point"));
    }
    let here = known.purged.filter(|purged| purged.index == at.index).or(log.id(at.index));
    let is_other = here.is_some_and(|here| here != at);
    if is_other && known.committed.max(known.purged).map(|id| id.index) >= Some(at.index) {
        return Err(convert::bad(format!("it covers {at:?}, and {here:?} is committed here")));
    }
    Ok(is_other)
}

async fn raise_vote(log: &GroupLog, at: EntryId) -> io::Result<()> {
    let vote = log.state().vote.map(|vote| convert::decode_vote(&vote)).transpose()?;
    let leader = RaftVote::new_committed(at.term, at.node.0);
    match vote.is_some_and(|vote| vote >= leader) {
        true => Ok(()),
        false => log.save_vote(convert::encode_vote(&leader)).await,
    }
}

/// The checkpoint for a replica that needs one which covers `index`, if there is one. `purgeable`: as the
/// group's machine says.
pub(super) async fn serve(
    log: &GroupLog,
    purgeable: Option<u64>,
    index: u64,
) -> io::Result<wire::GroupCheckpoint> {
    let covers = |id: &EntryId| id.index >= index;
    if !snapshot::choose(log, purgeable).as_ref().is_some_and(covers) {
        return Ok(wire::GroupCheckpoint::default());
    }
    let found = snapshot::read(log, purgeable).await?;
    let last = found.as_ref().and_then(|found| found.meta.last_log_id.as_ref());
    let last = last.map(convert::to_wire_id);
    Ok(wire::GroupCheckpoint { last, state: found.map(|found| found.snapshot).unwrap_or_default() })
}

#[cfg(test)]
mod tests;
