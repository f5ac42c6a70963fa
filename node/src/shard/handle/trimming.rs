//! What a shard keeps, and letting the rest go: the leader says up to where records have expired, and
//! each replica purges its own log up to there.
//!
//! Invariant: nothing is purged that was not trimmed by an entry that is applied here. Must not know
//! how long records are kept, or what time it is.

use std::io;
use std::time::Duration;

use tokio::time::timeout;
use tristream_proto::domain::Timestamp;

use super::Handle;
use crate::shard::machine::Outcome;
use crate::shard::reader::Extent;
use crate::shard::{AppendError, ReadError, command, reader};

/// What a replica keeps of its shard, as far as it has applied the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Up to this entry records are trimmed: no reader is shown them.
    pub trimmed: Option<u64>,
    /// Entry and stamp of the newest record, trimmed or not; `None` before the first.
    pub newest: Option<(u64, Timestamp)>,
    /// The newest applied entry.
    pub applied: Option<u64>,
    /// The last entry that the newest checkpoint of this replica covers.
    pub checkpointed: Option<u64>,
    /// Up to this entry this replica's log is purged.
    pub purged: Option<u64>,
}

impl Retained {
    /// Whether no record is left for readers.
    pub fn is_empty(&self) -> bool {
        self.newest.is_none_or(|(newest, _)| self.trimmed.is_some_and(|upto| newest <= upto))
    }
}

impl Handle {
    /// What this replica keeps.
    pub fn retained(&self) -> Retained {
        let group = &self.inner.group;
        let (checkpointed, purged) = (group.checkpointed(), group.purged());
        group.inspect(|machine| Retained {
            trimmed: machine.trimmed(),
            newest: machine.newest(),
            applied: machine.applied_index(),
            checkpointed,
            purged,
        })
    }

    /// Entry and stamp of the oldest record that readers are shown; `None` when there is none.
    pub async fn oldest(&self) -> Result<Option<(u64, Timestamp)>, ReadError> {
        let group = &self.inner.group;
        let look = |extent: Extent| async move { reader::oldest(group, &extent).await };
        self.within_horizon(look).await
    }

    /// Trims the records that were stamped before `time`. Answers up to which entry the shard is trimmed
    /// then; `None` when there was nothing to trim. Leader only; doing it twice does nothing.
    pub async fn trim_before(
        &self,
        time: Timestamp,
        deadline: Duration,
    ) -> Result<Option<u64>, AppendError> {
        self.inner.appender.check_leads()?;
        let leadership = self.leadership();
        if !leadership.ready_here {
            return Err(AppendError::Unavailable("earlier terms are not applied yet".to_owned()));
        }
        let Some(upto) = self.last_before(time).await? else { return Ok(None) };
        let trim = async {
            let command = command::trim(upto);
            let proposal = self.inner.group.propose(command, Some(leadership.term)).await?;
            let (_, reply) = proposal.await?;
            match reply.outcome {
                Outcome::Trimmed(upto) => Ok::<_, AppendError>(Some(upto)),
                Outcome::NoEffect(closed) => Err(closed.into()),
                // Only a bug of ours ends here.
                other => Err(AppendError::Unknown(format!("a trim was answered with {other:?}"))),
            }
        };
        let late = |_| Err(AppendError::Unknown("a trim had no outcome in time".to_owned()));
        timeout(deadline, trim).await.unwrap_or_else(late)
    }

    /// The last entry that can be trimmed when all records stamped before `time` go.
    async fn last_before(&self, time: Timestamp) -> Result<Option<u64>, AppendError> {
        let retained = self.retained();
        if retained.is_empty() {
            return Ok(None);
        }
        if retained.newest.is_some_and(|(_, arrival)| arrival < time) {
            // What comes after the last record holds none: it may go, too.
            return Ok(retained.applied);
        }
        let unreadable = |error: ReadError| AppendError::Unavailable(error.to_string());
        let oldest = self.oldest().await.map_err(unreadable)?;
        if oldest.is_none_or(|(_, arrival)| arrival >= time) {
            return Ok(None);
        }
        let group = &self.inner.group;
        let seek = |extent: Extent| async move { reader::seek_time(group, &extent, time).await };
        let kept = self.within_horizon(seek).await.map_err(unreadable)?;
        Ok(kept.index.checked_sub(1).filter(|&upto| Some(upto) > retained.trimmed))
    }

    /// Checkpoints the state into this replica's log, unless the newest checkpoint is as new.
    pub async fn checkpoint(&self) -> io::Result<()> {
        self.inner.group.checkpoint().await
    }

    /// Purges this replica's log as far as the shard is trimmed and a checkpoint allows. Answers up to
    /// where; `None` when there is nothing to purge.
    pub async fn purge_trimmed(&self, deadline: Duration) -> io::Result<Option<u64>> {
        self.inner.group.purge_trimmed(deadline).await
    }
}
