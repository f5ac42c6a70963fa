//! What is due at one shard. Pure.
//!
//! Invariant: a record is never due before its retention is over. A trim is an entry in the log, a
//! checkpoint a piece of it, so neither is due for every record: readers may be shown a record for a
//! 32nd of the retention longer, and it may take room for a 16th longer.

use std::time::Duration;

use tokio::time::Instant;
use tristream_proto::domain::Timestamp;

use super::cutoff;
use crate::shard::Retained;

/// Trims are this part of the retention apart, but for the last one of a shard that fell idle.
const TRIMS_PER_RETENTION: u32 = 32;
/// Checkpoints are at most this part of the retention apart while there are records.
const CHECKPOINTS_PER_RETENTION: u32 = 16;

/// What the leader of a shard is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trim {
    /// Wait.
    Nothing,
    /// Find the oldest record: it is not known.
    LookForOldest,
    /// Let go of what has expired.
    Now,
}

/// What is remembered of one shard from look to look.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Entry and stamp of the oldest record.
    pub(super) oldest: Option<(u64, Timestamp)>,
    /// Behind which checkpoint there are records, and since when that is known.
    unsaved: Option<(Option<u64>, Instant)>,
    /// What was kept when the last purge had nothing to do.
    purged_at: Option<Retained>,
}

impl Memory {
    /// Whether the state is to be checkpointed: records came after the newest checkpoint, and a part of
    /// the retention has passed since. So the last records of a shard that falls idle get one, too.
    pub(super) fn wants_checkpoint(
        &mut self,
        retained: &Retained,
        kept: Duration,
        now: Instant,
    ) -> bool {
        let checkpointed = retained.checkpointed;
        if retained.newest.is_none_or(|(newest, _)| checkpointed >= Some(newest)) {
            self.unsaved = None;
            return false;
        }
        let known = self.unsaved.filter(|(behind, _)| *behind == checkpointed);
        let (_, since) = *self.unsaved.insert(known.unwrap_or((checkpointed, now)));
        now.duration_since(since) >= kept / CHECKPOINTS_PER_RETENTION
    }

    /// Whether records are to be trimmed, on the shard's leader.
    pub(super) fn wants_trim(&self, retained: &Retained, kept: Duration, now: Timestamp) -> Trim {
        let Some((_, newest)) = retained.newest.filter(|_| !retained.is_empty()) else {
            return Trim::Nothing;
        };
        let expired = cutoff(now, kept);
        if newest < expired {
            return Trim::Now;
        }
        let oldest = self.oldest.filter(|(index, _)| retained.trimmed.is_none_or(|t| *index > t));
        match oldest {
            None => Trim::LookForOldest,
            Some((_, oldest)) if oldest < expired.before(kept / TRIMS_PER_RETENTION) => Trim::Now,
            Some(_) => Trim::Nothing,
        }
    }

    /// Whether a purge may have something to do: it had not when things were as they are.
    pub(super) fn wants_purge(&mut self, retained: &Retained) -> bool {
        let now = Retained { newest: None, applied: None, ..*retained };
        if retained.trimmed.is_none() || self.purged_at == Some(now) {
            return false;
        }
        self.purged_at = Some(now);
        true
    }

    /// The last purge did something, or did not succeed.
    pub(super) fn try_purge_again(&mut self) {
        self.purged_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In milliseconds.
    const KEPT: Duration = Duration::from_millis(32_000);

    fn retained(trimmed: Option<u64>, newest: Option<(u64, u64)>) -> Retained {
        let newest = newest.map(|(index, millis)| (index, Timestamp(millis)));
        Retained { trimmed, newest, ..Retained::default() }
    }

    fn trim(trimmed: Option<u64>, newest: (u64, u64), oldest: (u64, u64), now: u64) -> Trim {
        let oldest = Some((oldest.0, Timestamp(oldest.1)));
        let memory = Memory { oldest, ..Memory::default() };
        memory.wants_trim(&retained(trimmed, Some(newest)), KEPT, Timestamp(now))
    }

    #[test]
    fn nothing_is_trimmed_before_its_time() {
        // Stamped at 100 s, and so kept until 132 s; trimmed when a 32nd more has passed.
        let at = |now| trim(None, (9, 120_000), (3, 100_000), now);
        assert_eq!(at(100_000), Trim::Nothing);
        assert_eq!(at(132_000), Trim::Nothing);
        assert_eq!(at(133_000), Trim::Nothing);
        assert_eq!(at(133_001), Trim::Now);
    }

    #[test]
    fn the_last_records_of_an_idle_shard_need_not_wait_for_more() {
        let at = |now| trim(None, (9, 100_000), (9, 100_000), now);
        assert_eq!(at(132_000), Trim::Nothing, "it is kept up to and with this millisecond");
        assert_eq!(at(132_001), Trim::Now);
    }

    #[test]
    fn what_is_trimmed_is_not_trimmed_again() {
        let empty = Memory::default().wants_trim(&retained(None, None), KEPT, Timestamp(1 << 40));
        assert_eq!(empty, Trim::Nothing, "a shard without records");
        assert_eq!(trim(Some(9), (9, 1), (3, 1), 1 << 40), Trim::Nothing);
        let forgotten = trim(Some(5), (9, 120_000), (3, 100_000), 135_000);
        assert_eq!(forgotten, Trim::LookForOldest, "entry 3 is gone");
        assert_eq!(trim(Some(5), (9, 120_000), (6, 100_000), 135_000), Trim::Now);
    }

    #[test]
    fn a_clock_before_the_retention_trims_nothing() {
        assert_eq!(trim(None, (9, 5), (3, 0), 31_000), Trim::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_checkpointed_a_while_after_the_checkpoint_before_them() {
        let mut memory = Memory::default();
        let begun = Instant::now();
        let kept = KEPT;
        let step = kept / CHECKPOINTS_PER_RETENTION;
        let mut wants = |newest: u64, checkpointed: Option<u64>, after: Duration| {
            let retained = Retained { checkpointed, ..retained(None, Some((newest, 1))) };
            memory.wants_checkpoint(&retained, kept, begun + after)
        };
        assert!(!wants(5, None, Duration::ZERO));
        assert!(!wants(6, None, step - Duration::from_millis(1)));
        assert!(wants(7, None, step));
        assert!(!wants(7, Some(7), step), "it was taken");
        assert!(!wants(7, Some(8), step * 9), "idle: none is needed");
        assert!(!wants(9, Some(8), step * 10));
        assert!(!wants(19, Some(15), step * 11), "another one was taken meanwhile");
        assert!(wants(19, Some(15), step * 12));
    }

    #[test]
    fn a_purge_is_tried_when_something_changed_or_the_last_did_something() {
        let mut memory = Memory::default();
        let trimmed = |trimmed, checkpointed, newest| Retained {
            checkpointed: Some(checkpointed),
            ..retained(trimmed, Some((newest, 1)))
        };
        assert!(!memory.wants_purge(&trimmed(None, 3, 9)), "nothing was ever trimmed");
        assert!(memory.wants_purge(&trimmed(Some(4), 3, 9)));
        assert!(!memory.wants_purge(&trimmed(Some(4), 3, 10)), "more records do not matter");
        assert!(memory.wants_purge(&trimmed(Some(4), 8, 10)));
        memory.try_purge_again();
        assert!(memory.wants_purge(&trimmed(Some(4), 8, 10)));
    }
}
