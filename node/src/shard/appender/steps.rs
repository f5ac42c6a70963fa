//! Steps of a reshard that wait for their entry: a seal, or what a child inherits.
//!
//! Pure. Invariant: as for puts, a step leaves the queue once, into an entry or
//! with an answer that says it had no effect. Must not know Raft.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::shard::AppendError;
use crate::shard::machine::Outcome;

/// Steps of one shard that may wait: there is one saga, and it may repeat itself.
const WAITING_STEPS_MAX: usize = 16;

pub(super) type StepReply = oneshot::Sender<Result<Outcome, AppendError>>;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Seal the shard.
    Seal,
    /// Propose this inherit command.
    Inherit(Bytes),
}

/// A step whose caller waits.
#[derive(Debug)]
pub(super) struct WaitingStep {
    id: u64,
    pub(super) step: Step,
    /// Once past, the step must not be proposed any more.
    pub(super) deadline: Instant,
    pub(super) reply: StepReply,
}

/// The waiting steps of one shard.
#[derive(Debug, Default)]
pub(super) struct Steps {
    waiting: VecDeque<WaitingStep>,
    next_id: u64,
    closed: bool,
}

impl Steps {
    /// Lets a step in and gives its id.
    pub(super) fn admit(
        &mut self,
        step: Step,
        deadline: Instant,
        reply: StepReply,
    ) -> Result<u64, AppendError> {
        if self.closed {
            return Err(AppendError::Unavailable("the shard is closing".to_owned()));
        }
        if self.waiting.len() >= WAITING_STEPS_MAX {
            let why = format!("{WAITING_STEPS_MAX} steps wait at this shard already");
            return Err(AppendError::Unavailable(why));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back(WaitingStep { id, step, deadline, reply });
        Ok(id)
    }

    /// Whether the step was still waiting, and now never happens.
    pub(super) fn withdraw(&mut self, id: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|step| step.id != id);
        self.waiting.len() < before
    }

    /// Takes the next step. Its deadline may have passed.
    pub(super) fn next(&mut self) -> Option<WaitingStep> {
        self.waiting.pop_front()
    }

    /// Takes everything that waits, to be answered.
    pub(super) fn drain(&mut self) -> Vec<WaitingStep> {
        self.waiting.drain(..).collect()
    }

    /// Lets nothing in any more, and drains.
    pub(super) fn close(&mut self) -> Vec<WaitingStep> {
        self.closed = true;
        self.drain()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}
