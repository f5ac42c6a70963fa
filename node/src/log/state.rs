//! The log's memory: every group's index, the segments' accounts, the queue to the committer.
//!
//! Invariants: the order of the queue is the order in which the groups changed, since both happen
//! under one lock; an entry is counted dead only when the frame that made it useless is durable.
//! Never held across an await. Must not do I/O.

mod publish;
mod segments;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use tokio::sync::OwnedSemaphorePermit;
use tristream_proto::domain::GroupId;

use super::Flushed;
use super::frame::{Frame, What};
use super::group::{Dying, Group, Kept, Slot};
use super::retired::Retired;
use super::tail::Tail;

pub(super) use publish::rewritable;
pub(super) use segments::{Segment, Shadow, Stage};

/// A callback that is called exactly once, whatever happens.
pub(super) struct Done(Option<Flushed>);

impl Done {
    pub(super) fn new(flushed: Flushed) -> Done {
        Done(Some(flushed))
    }

    pub(super) fn call(mut self, result: io::Result<()>) {
        if let Some(flushed) = self.0.take() {
            flushed(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(flushed) = self.0.take() {
            flushed(Err(Stop::Closed.error()));
        }
    }
}

/// Why the log takes nothing more.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    /// It was closed.
    Closed,
    /// A write or sync failed: nothing is known of what was not acknowledged.
    Failed(String),
}

impl Stop {
    /// What callers get. What they asked for did not happen, or nobody knows.
    pub(super) fn error(&self) -> io::Error {
        match self {
            Stop::Closed => io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed"),
            Stop::Failed(reason) => io::Error::other(format!("the log failed: {reason}")),
        }
    }
}

/// Frames that wait for the committer.
pub(super) struct Write {
    /// Each with its ticket.
    pub(super) frames: Vec<(u64, Frame)>,
    pub(super) dying: Dying,
    pub(super) done: Option<Done>,
    /// Room in the queue, given back when the write is dropped.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Write {
    /// Bytes in the queue.
    pub(super) fn bytes(&self) -> usize {
        self.frames.iter().map(|(_, frame)| frame.bytes()).sum()
    }
}

/// Everything under the log's one lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Segments that were rewritten while writes in the queue make entries of theirs useless, and by
    /// which.
    pub(super) rewritten: BTreeMap<u64, u64>,
    pub(super) queue: VecDeque<Write>,
    pub(super) queued_bytes: usize,
    /// Groups whose committed id waits to ride along.
    pub(super) noted: BTreeSet<GroupId>,
    pub(super) tail: Tail,
    /// Batches whose segments may be missing.
    pub(super) retired: Option<Kept<Retired>>,
    /// Set when nothing more is taken in.
    pub(super) stop: Option<Stop>,
    /// The committer shall begin a new segment.
    pub(super) seal: bool,
    /// Sequence number of the next segment.
    pub(super) next_segment: u64,
    /// Bytes that may still be rewritten only to bring a group's entries together: most of what was
    /// taken in and was not rewritten yet. Below zero when space had to be given back.
    pub(super) rewrite_budget: i64,
    tickets: u64,
}

impl State {
    /// The group, made when it is new; an error when nothing may be written for it.
    pub(super) fn writable(&mut self, group: GroupId) -> io::Result<&mut Group> {
        if let Some(stop) = &self.stop {
            return Err(stop.error());
        }
        let known = self.groups.entry(group).or_default();
        if known.removed {
            return Err(removed(group));
        }
        Ok(known)
    }

    /// A number that tells one frame from every other of this process.
    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// A sequence number for a segment.
    pub(super) fn take_sequence(&mut self) -> u64 {
        self.next_segment += 1;
        self.next_segment - 1
    }

    /// Queues frames that were already applied to the index.
    pub(super) fn enqueue(&mut self, write: Write) {
        for segment in write.dying.0.keys() {
            if let Some(segment) = self.segments.get_mut(segment) {
                segment.dying += 1;
            }
        }
        self.queued_bytes += write.bytes();
        self.queue.push_back(write);
    }

    /// Everything that waits, up to `bytes_max` or one larger write, with the committed ids on top.
    pub(super) fn take(&mut self, bytes_max: usize) -> Vec<Write> {
        let (mut writes, mut bytes) = (Vec::new(), 0);
        while let Some(write) = self.queue.front() {
            bytes += write.bytes();
            if !writes.is_empty() && bytes > bytes_max {
                break;
            }
            writes.extend(self.queue.pop_front());
        }
        if writes.is_empty() {
            return writes;
        }
        self.queued_bytes -= writes.iter().map(Write::bytes).sum::<usize>();
        writes.extend(self.take_noted());
        writes
    }

    /// The committed ids that were noted since the last batch.
    pub(super) fn take_noted(&mut self) -> Option<Write> {
        let mut frames = Vec::new();
        for group in std::mem::take(&mut self.noted) {
            let kept = self.groups.get(&group).and_then(|known| known.committed.as_ref());
            if let Some(committed) = kept.map(|kept| kept.value) {
                let ticket = self.ticket();
                frames.push((ticket, Frame::bare(group, What::Committed { committed })));
            }
        }
        let write = Write { frames, dying: Dying::default(), done: None, room: None };
        (!write.frames.is_empty()).then_some(write)
    }

    /// Lets go of what removed entries hold of the tail.
    pub(super) fn forget(&mut self, slots: &[Slot]) {
        for slot in slots {
            self.tail.forget(slot);
        }
    }

    /// Drops payloads beyond the budget from memory.
    pub(super) fn trim_tail(&mut self, budget_bytes: usize) {
        while let Some((id, index, ticket)) = self.tail.pop_over(budget_bytes) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if let Some(slot) = group.slot_mut(index).filter(|slot| slot.ticket == ticket) {
                self.tail.forget(slot);
                slot.payload = None;
                group.drop_cold();
            }
        }
    }

    /// Entries known to be damaged.
    pub(super) fn faulty(&self) -> Vec<(GroupId, u64)> {
        let of = |(&id, group): (&GroupId, &Group)| {
            group.faulty.keys().map(|&index| (id, index)).collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(of).collect()
    }
}

/// The error for a group that was removed.
pub(super) fn removed(group: GroupId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("group {group} was removed"))
}
