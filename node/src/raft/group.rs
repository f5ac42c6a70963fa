//! A handle on one open group.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::Instant as _;
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::impls::ProgressResponder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tristream_proto::domain::{GroupId, NodeId};
use tristream_proto::wire::GroupCheckpoint;

use super::repair::{Mended, READER_PATIENCE};
use super::state_machine::{Shared, StateMachine};
use super::types::{Command, LeaderId, Types};
use super::{Leadership, Machine, ProposeError, Status, overtaken};
use crate::disk::Room;
use crate::log::{Entry, EntryId, GroupLog};

pub(super) type Raft<M> = openraft::Raft<Types, StateMachine<M>>;

/// A handle on one open group. Clones are cheap.
pub struct Group<M: Machine> {
    pub(super) inner: Arc<Inner<M>>,
}

pub(super) struct Inner<M: Machine> {
    pub(super) id: GroupId,
    pub(super) me: NodeId,
    pub(super) raft: Raft<M>,
    pub(super) log: GroupLog,
    pub(super) mended: Mended,
    pub(super) shared: Arc<Shared<M>>,
    pub(super) leadership: watch::Sender<Leadership>,
    /// A leader whose majority was silent for longer may have been replaced.
    pub(super) lease: Duration,
    pub(super) room: Room,
    /// It is to be replaced if it leads: it sends no heartbeats, by which it would go on leading.
    pub(super) resigns: AtomicBool,
    /// Ends the waits for repairs.
    pub(super) closing: CancellationToken,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Group { inner: self.inner.clone() }
    }
}

/// A proposal in the leader's queue, waiting to be committed and applied.
pub type Proposal<R> = BoxFuture<'static, Result<(EntryId, R), ProposeError>>;

impl<M: Machine> Group<M> {
    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Puts `command` into the log, when this node leads in `term` (or in any term, when `None`). Returns
    /// when the command has its place in the order, so that two calls in a row keep theirs; the future it
    /// returns resolves when the command is committed and applied, or will never be by this node. It has no
    /// deadline: the caller sets one, and a caller that stops waiting does not stop the command.
    pub async fn propose(
        &self,
        command: Bytes,
        term: Option<u64>,
    ) -> Result<Proposal<M::Reply>, ProposeError> {
        #[cfg(planted)]
        let written_down = command.clone();
        let (responder, done) = ProgressResponder::complete_only();
        let mut write = self.inner.raft.write(Command(command)).responder(responder);
        if let Some(term) = term {
            write = write.with_leader(LeaderId { term, node_id: self.inner.me.0 });
        }
        #[cfg(planted)]
        let early = self.early_reply(written_down);
        write.await.map_err(|fatal| ProposeError::Unavailable(fatal.to_string()))?;
        let outcome = async move {
            let written = match done.await {
                Ok(Ok(written)) => written,
                Ok(Err(error)) => return Err(write_error(error)),
                Err(_) => return Err(ProposeError::Unknown("the group stopped".to_owned())),
            };
            let at = super::convert::entry_id(&written.log_id);
            let reply = written.data.into_inner().and_then(|reply| reply.downcast().ok());
            match reply {
                Some(reply) => Ok((at, *reply)),
                // A machine replies to every command; only a bug of ours ends here.
                None => Err(ProposeError::Unknown("the machine gave no reply".to_owned())),
            }
        };
        #[cfg(planted)]
        if planted!(AckBeforeQuorum) {
            return Ok(Box::pin(async move {
                tokio::select! { biased; early = early => early, outcome = outcome => outcome }
            }));
        }
        Ok(Box::pin(outcome))
    }

    /// The planted bug: replies as the machine will, once the entry is in the leader's own log.
    #[cfg(planted)]
    fn early_reply(&self, command: Bytes) -> Proposal<M::Reply> {
        let group = self.clone();
        let mut next = group.status().last_index.map_or(0, |last| last + 1);
        Box::pin(async move {
            loop {
                let entries = group.inner.log.read(next..u64::MAX, 1 << 20).await;
                for Entry { id, payload, .. } in entries.unwrap_or_default() {
                    next = id.index + 1;
                    if payload != command {
                        continue;
                    }
                    if let Some(reply) = group.inspect(|machine| machine.foretell(id, &command)) {
                        return Ok((id, reply));
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }

    /// The index up to which a read must have applied to see everything acked before now. Confirms
    /// leadership with a quorum. Leader only.
    pub async fn read_barrier(&self, deadline: Duration) -> Result<u64, ProposeError> {
        if planted!(StaleLeaderRead) && self.status().leader == Some(self.inner.me) {
            return Ok(self.status().applied.unwrap_or_default());
        }
        let leads_here = self.inner.leadership.borrow().leader == Some(self.inner.me);
        if leads_here && self.inner.resigns.load(Ordering::Relaxed) {
            // It would ask by heartbeats.
            let why = "the leader cannot read its log, and waits for another one".to_owned();
            return Err(ProposeError::Unavailable(why));
        }
        let barrier = self.inner.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match tokio::time::timeout(deadline, barrier).await {
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(error)) => {
                let leader = self.inner.leadership.borrow().leader;
                match leader {
                    Some(leader) if leader != self.inner.me => {
                        Err(ProposeError::NotLeader { leader: Some(leader) })
                    }
                    _ => Err(ProposeError::Unavailable(error.to_string())),
                }
            }
            Err(_) => Err(ProposeError::Unavailable("no quorum answered in time".to_owned())),
        }
    }

    /// Entries from `from` on that are applied here, repaired where they are damaged, up to about `bytes_max` bytes (at least one where there
    /// is one).
    pub async fn read(&self, from: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let applied = *self.inner.shared.applied.borrow();
        let end = applied.map_or(0, |applied| applied + 1);
        if from >= end {
            return Ok(Vec::new());
        }
        self.inner.mended.read(from..end, bytes_max, READER_PATIENCE).await
    }

    /// Index of the first entry whose stamp is at least `stamp_ms`, or of one without a stamp right
    /// before it; `None` when there is none. It need not be applied.
    ///
    /// # Errors
    /// The disk's. Trying again is safe.
    pub async fn find_stamp(&self, stamp_ms: u64) -> io::Result<Option<u64>> {
        self.inner.log.find_stamp(stamp_ms).await
    }

    /// Index of the newest applied entry; changes as entries are applied.
    pub fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.inner.shared.applied.subscribe()
    }

    /// How the group stands.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// Who leads; changes when that does.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Whether a majority answered this leader within its lease. True where this node does not lead.
    pub fn in_touch(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        // openraft notes no time for a leader that is the majority by itself.
        metrics.membership_config.voter_ids().count() == 1
            || metrics.last_quorum_acked.as_ref().is_none_or(|at| at.elapsed() <= self.inner.lease)
    }

    /// Why the replicas' disks have no room for more records, when one has none.
    pub fn no_room(&self) -> Option<String> {
        self.inner.room.refusal()
    }

    /// Runs `look` on the machine's current state. It must be quick: the group waits for it.
    pub fn inspect<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.inner.shared.machine.lock())
    }

    /// Changes the machine on this node only: never anything on which what it says of an entry to come
    /// depends. It must be quick, too.
    pub fn amend<T>(&self, change: impl FnOnce(&mut M) -> T) -> T {
        change(&mut self.inner.shared.machine.lock())
    }
}

impl<M: Machine> Group<M> {
    /// Everything up to here was purged from the local log.
    pub fn purged(&self) -> Option<u64> {
        self.inner.log.state().purged.map(|purged| purged.index)
    }

    /// The last entry that the newest checkpoint in the local log covers.
    pub fn checkpointed(&self) -> Option<u64> {
        self.inner.log.state().checkpoint.map(|id| id.index)
    }

    /// Checkpoints the state as of the newest applied entry into the local log, on this node only. Does
    /// nothing when the newest checkpoint is as new.
    ///
    /// # Errors
    /// The group has stopped, or the log has. Trying again is safe.
    pub async fn checkpoint(&self) -> io::Result<()> {
        self.inner.checkpoint().await
    }

    /// Purges the local log up to the newest checkpoint at or below what the machine says is trimmed.
    /// Answers up to where it will be purged; `None` when there is nothing to purge. On a leader it may be
    /// done later, when no replica is being fed with what is to go.
    ///
    /// # Errors
    /// The group has stopped, or gave no answer within `deadline`. Trying again is safe.
    pub async fn purge_trimmed(&self, deadline: Duration) -> io::Result<Option<u64>> {
        let Inner { raft, log, shared, .. } = &*self.inner;
        let purgeable = shared.machine.lock().purgeable();
        let Some(upto) = super::snapshot::choose(log, purgeable).map(|id| id.index) else {
            return Ok(None);
        };
        if log.state().purged.is_some_and(|purged| purged.index >= upto) {
            return Ok(None);
        }
        // openraft purges only what a snapshot holds; ours is the checkpoint itself, so that a replica
        // that needs it gets all entries that are retained, too.
        let mut metrics = raft.data_metrics();
        let built = |now: &openraft::metrics::RaftDataMetrics<Types>| {
            now.snapshot.as_ref().map(|id| id.index())
        };
        if built(&metrics.borrow_watched()) < Some(upto) {
            raft.trigger().snapshot().await.map_err(io::Error::other)?;
        }
        let built = async {
            while built(&metrics.borrow_watched()) < Some(upto) {
                metrics.changed().await.map_err(io::Error::other)?;
            }
            Ok::<(), io::Error>(())
        };
        tokio::time::timeout(deadline, built).await??;
        raft.trigger().purge_log(upto).await.map_err(io::Error::other)?;
        Ok(Some(upto))
    }
}

fn write_error(error: ClientWriteError<Types>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => forward_error(&forward),
        // The entry was in this node's log and may be in others': a new leader may commit it.
        other => ProposeError::Unknown(other.to_string()),
    }
}

fn forward_error(forward: &ForwardToLeader<Types>) -> ProposeError {
    match forward.reason {
        ForwardReason::LeaseExpired => {
            ProposeError::Unavailable("the leader has lost touch with the majority".to_owned())
        }
        _ => ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) },
    }
}

impl<M: Machine> Inner<M> {
    /// For a replica that needs a checkpoint which covers `index`.
    pub(super) async fn checkpoint_that_covers(&self, index: u64) -> io::Result<GroupCheckpoint> {
        let purgeable = || self.shared.machine.lock().purgeable();
        let found = overtaken::serve(&self.log, purgeable(), index).await?;
        let applied = *self.shared.applied.borrow();
        // A group that is idle, or that of the metadata, may not take one for long.
        if found.last.is_none() && purgeable() >= applied && applied >= Some(index) {
            self.checkpoint().await?;
            return overtaken::serve(&self.log, purgeable(), index).await;
        }
        Ok(found)
    }

    async fn checkpoint(&self) -> io::Result<()> {
        let done = self.raft.with_state_machine(|driver: &mut StateMachine<M>| {
            Box::pin(async move { driver.checkpoint_now().await })
        });
        done.await.map_err(io::Error::other)?
    }

    pub(super) fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut members: Vec<NodeId> = metrics.membership_config.voter_ids().map(NodeId).collect();
        members.sort_unstable();
        let matched = metrics.replication.iter().flatten();
        Status {
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            members,
            last_index: metrics.last_log_index,
            committed: metrics.local_committed.as_ref().map(|id| id.index()),
            applied: metrics.last_applied.as_ref().map(|id| id.index()),
            purged: metrics.purged.as_ref().map(|id| id.index()),
            matched: matched
                .map(|(node, id)| (NodeId(*node), id.as_ref().map(|id| id.index())))
                .collect(),
            quorum_ack_age_ms: metrics
                .last_quorum_acked
                .as_ref()
                .map(|at| at.elapsed().as_millis() as u64),
            silent_ms: metrics
                .heartbeat
                .iter()
                .flatten()
                .map(|(node, at)| {
                    (NodeId(*node), at.as_ref().map(|at| at.elapsed().as_millis() as u64))
                })
                .collect(),
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Works out who leads from what openraft and the machine's driver say, and tells the watchers.
    pub(super) fn refresh_leadership(&self) -> Leadership {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let vote = server.vote.leader_id();
        let leader = server.current_leader.map(NodeId);
        let here = leader == Some(self.me) && server.vote.is_committed();
        let own_entry_applied =
            *self.shared.applied_leader.borrow() == Some((vote.term, vote.node_id));
        let now = Leadership {
            leader,
            term: vote.term,
            ready_here: here && vote.node_id == self.me.0 && own_entry_applied,
        };
        self.leadership.send_if_modified(|old| std::mem::replace(old, now) != now);
        now
    }

    /// # Errors
    /// The log has damaged entries: what it cannot read it could not hand on to the others.
    pub(super) fn check_may_stand(&self) -> Result<(), String> {
        match self.log.is_damaged() {
            true => Err("its log is being repaired".to_owned()),
            false => Ok(()),
        }
    }
}
