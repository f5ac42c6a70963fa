//! The log's memory: every group's index, the segments' accounts, the queue to the committer.
//!
//! Invariants: the order of the queue is the order in which the groups changed, since both happen
//! under one lock; a frame is counted dead only when the frame that made it useless is durable.
//! Never held across an await. Must not do I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tristream_proto::domain::GroupId;

use super::frame::{Body, Frame};
use super::group::{Checkpoint, Dying, Group, Kept, Place, Slot};
use super::segment::{BLOCK_HEADER_BYTES, HEADER_BYTES, Header};
use super::tail::Tail;
use super::{EntryId, Flushed};
use crate::disk::File;

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
        self.frames.iter().map(|(_, frame)| frame.len()).sum()
    }
}

/// A frame that makes older ones of its group useless, and must outlive them.
pub(super) struct Shadow {
    pub(super) group: GroupId,
    /// Entries from here on; `None`: everything of the group.
    pub(super) from: Option<u64>,
    pub(super) place: Place,
}

/// A segment's account.
pub(super) struct Segment {
    pub(super) file: Arc<dyn File>,
    pub(super) header: Header,
    pub(super) header_crc: u32,
    /// Bytes up to the end of the last block that counts.
    pub(super) len: u64,
    pub(super) last_batch: u64,
    pub(super) sealed: bool,
    /// Damage was met: it is neither rewritten nor removed.
    pub(super) damaged: bool,
    pub(super) live_bytes: u64,
    pub(super) live_entries: u64,
    /// Writes in the queue that will make frames here useless.
    pub(super) dying: u64,
    pub(super) shadows: Vec<Shadow>,
    /// The groups with frames in here, dead ones included, and their highest entry.
    pub(super) present: BTreeMap<GroupId, Option<u64>>,
}

impl Segment {
    pub(super) fn new(file: Arc<dyn File>, header: Header, header_crc: u32) -> Segment {
        Segment {
            file,
            header,
            header_crc,
            len: HEADER_BYTES as u64,
            last_batch: header.follows,
            sealed: false,
            damaged: false,
            live_bytes: 0,
            live_entries: 0,
            dying: 0,
            shadows: Vec::new(),
            present: BTreeMap::new(),
        }
    }

    /// About the size it would have without its dead frames.
    pub(super) fn compact_len(&self) -> u64 {
        let blocks = 2 + self.live_bytes / super::keeper::BLOCK_BYTES;
        HEADER_BYTES as u64 + self.live_bytes + blocks * (BLOCK_HEADER_BYTES as u64 + 8)
    }

    /// A frame lies at `place`, in this segment.
    pub(super) fn note(&mut self, frame: &Frame, place: Place) {
        note_presence(&mut self.present, frame);
        if let Some(from) = frame.body.shadows() {
            self.shadows.push(Shadow { group: frame.group, from, place });
        }
    }
}

/// Notes that a frame lies in a segment.
pub(super) fn note_presence(present: &mut BTreeMap<GroupId, Option<u64>>, frame: &Frame) {
    let highest = present.entry(frame.group).or_default();
    if let Body::Entry { id, .. } = &frame.body {
        *highest = (*highest).max(Some(id.index));
    }
}

/// Everything under the log's one lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) queue: VecDeque<Write>,
    pub(super) queued_bytes: usize,
    /// Groups whose committed id waits to ride along.
    pub(super) noted: BTreeSet<GroupId>,
    pub(super) tail: Tail,
    /// Set when nothing more is taken in.
    pub(super) stop: Option<Stop>,
    /// The committer shall begin a new segment.
    pub(super) seal: bool,
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
                frames.push((ticket, Frame::new(group, Body::Committed { committed })));
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

    /// A frame is durable at `place`.
    pub(super) fn publish(&mut self, ticket: u64, frame: &Frame, place: Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.note(frame, place);
        }
        let Some(group) = self.groups.get_mut(&frame.group) else { return };
        let mut replaced = None;
        let lives = match &frame.body {
            Body::Entry { id, .. } => match group.slot_mut(id.index) {
                Some(slot) if slot.ticket == ticket => {
                    slot.place = Some(place);
                    self.tail.push(frame.group, slot);
                    group.stored_upto(id.index);
                    true
                }
                _ => false,
            },
            Body::Vote { .. } => settle(group.vote.as_mut(), place, &mut replaced),
            Body::Purge { .. } => settle(group.purged.as_mut(), place, &mut replaced),
            Body::Committed { .. } => settle(group.committed.as_mut(), place, &mut replaced),
            Body::Checkpoint { applied, .. } => {
                settle(checkpoint_of(group, *applied), place, &mut replaced)
            }
            Body::Truncate { .. } => false,
            Body::Remove => {
                group.buried = true;
                false
            }
        };
        if lives && let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live_bytes += place.len;
            segment.live_entries += u64::from(matches!(frame.body, Body::Entry { .. }));
        }
        if let Some(old) = replaced
            && let Some(segment) = self.segments.get_mut(&old.segment)
        {
            segment.live_bytes -= old.len;
        }
    }

    /// What a durable write made useless is dead now.
    pub(super) fn bury(&mut self, dying: &Dying) {
        for (segment, dead) in &dying.0 {
            if let Some(segment) = self.segments.get_mut(segment) {
                segment.dying -= 1;
                segment.live_bytes -= dead.bytes;
                segment.live_entries -= dead.entries;
            }
        }
    }

    /// Drops payloads beyond the budget from memory.
    pub(super) fn trim_tail(&mut self, budget_bytes: usize) {
        while let Some((group, index, ticket)) = self.tail.pop_over(budget_bytes) {
            let slot = self.groups.get_mut(&group).and_then(|group| group.slot_mut(index));
            if let Some(slot) = slot.filter(|slot| slot.ticket == ticket) {
                self.tail.forget(slot);
                slot.payload = None;
            }
        }
    }

    /// Whether the frame at `place` is still the one that counts.
    pub(super) fn is_live(&self, frame: &Frame, place: Place) -> bool {
        let Some(group) = self.groups.get(&frame.group) else { return false };
        let at = |kept: Option<Place>| kept == Some(place);
        match &frame.body {
            Body::Entry { id, .. } => group.slot(id.index).is_some_and(|slot| at(slot.place)),
            Body::Vote { .. } => at(group.vote.as_ref().and_then(|kept| kept.place)),
            Body::Purge { .. } => at(group.purged.as_ref().and_then(|kept| kept.place)),
            Body::Committed { .. } => at(group.committed.as_ref().and_then(|kept| kept.place)),
            Body::Checkpoint { .. } => group.checkpoints.iter().any(|kept| at(kept.place)),
            Body::Truncate { .. } | Body::Remove => {
                self.segments.get(&place.segment).is_some_and(|segment| {
                    let here = segment.shadows.iter().find(|shadow| shadow.place == place);
                    here.is_some_and(|shadow| self.shadow_needed(shadow))
                })
            }
        }
    }

    /// Whether an older segment still has frames that the shadow makes useless. (In its own
    /// segment, compaction drops them together.)
    pub(super) fn shadow_needed(&self, shadow: &Shadow) -> bool {
        self.segments.range(..shadow.place.segment).any(|(_, older)| {
            match (older.present.get(&shadow.group), shadow.from) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(highest), Some(from)) => highest.is_some_and(|highest| highest >= from),
            }
        })
    }

    /// The frame at `from` was copied to `to`, in the file that takes its segment's name.
    pub(super) fn relocate(&mut self, frame: &Body, group: GroupId, from: Place, to: Place) {
        let Some(group) = self.groups.get_mut(&group) else { return };
        let place = match frame {
            Body::Entry { id, .. } => group.slot_mut(id.index).map(|slot| &mut slot.place),
            Body::Vote { .. } => group.vote.as_mut().map(|kept| &mut kept.place),
            Body::Purge { .. } => group.purged.as_mut().map(|kept| &mut kept.place),
            Body::Committed { .. } => group.committed.as_mut().map(|kept| &mut kept.place),
            Body::Checkpoint { .. } => {
                let here = |kept: &&mut Kept<Checkpoint>| kept.place == Some(from);
                group.checkpoints.iter_mut().find(here).map(|kept| &mut kept.place)
            }
            Body::Truncate { .. } | Body::Remove => None,
        };
        if let Some(place) = place.filter(|place| **place == Some(from)) {
            *place = Some(to);
        }
    }

    /// Segments and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.segments.len(), self.segments.values().map(|segment| segment.len).sum())
    }
}

/// The error for a group that was removed.
pub(super) fn removed(group: GroupId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("group {group} was removed"))
}

fn settle<T>(kept: Option<&mut Kept<T>>, place: Place, replaced: &mut Option<Place>) -> bool {
    match kept {
        Some(kept) => {
            *replaced = kept.place.replace(place);
            true
        }
        None => false,
    }
}

fn checkpoint_of(group: &mut Group, applied: EntryId) -> Option<&mut Kept<Checkpoint>> {
    group.checkpoints.iter_mut().find(|kept| kept.value.0 == applied)
}
