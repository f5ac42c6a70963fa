//! Changes to the log: each is applied to the index and queued for the committer in one step.
//!
//! Invariant: what a caller sees in the index is in the queue, in the same order. Must not touch
//! files.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tristream_proto::domain::GroupId;

use super::frame::{Frame, HEAD_BYTES, Head, PAYLOAD_BYTES_MAX, What};
use super::group::{Checkpoint, Dying, Slot, keep};
use super::state::{Done, Stage, State, Write};
use super::{Entry, EntryId, Shared};

/// An append larger than this is cut into several blocks.
pub(super) const BATCH_BYTES_MAX: usize = 8 << 20;

impl Shared {
    pub(super) async fn append(
        &self,
        group: GroupId,
        entries: Vec<Entry>,
        done: Done,
    ) -> io::Result<()> {
        // Checksums are computed here: by the callers in parallel, and outside the lock.
        let result = match frames_of(group, entries) {
            Ok(frames) => match self.room_for(frames.iter().map(Frame::bytes).sum()).await {
                Ok(room) => {
                    let mut state = self.state.lock();
                    match check_follows(&mut state, group, &frames) {
                        Ok(()) => {
                            let user = frames.iter().map(|frame| u64::from(frame.head.len)).sum();
                            self.metrics.observe_log_user(user);
                            push_entries(&mut state, group, frames, done, room);
                            drop(state);
                            self.work.notify_one();
                            return Ok(());
                        }
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            done.call(Err(io::Error::new(error.kind(), error.to_string())));
        }
        result
    }

    pub(super) async fn truncate_after(&self, group: GroupId, last: Option<u64>) -> io::Result<()> {
        self.change(0, |state, dying| {
            let known = state.writable(group)?;
            // Nothing below the purge point is left to be removed.
            let from = last.map_or(0, |last| last.saturating_add(1)).max(known.first());
            let gone = known.truncate_from(from, dying);
            let changed = Arc::clone(&known.changed);
            state.forget(&gone);
            changed.notify_waiters();
            Ok(Some(Frame::bare(group, What::Truncate { from })))
        })
        .await
    }

    pub(super) async fn purge(&self, group: GroupId, upto: EntryId) -> io::Result<()> {
        self.change(0, |state, dying| {
            let known = state.writable(group)?;
            if upto.index < known.first() {
                return Ok(None);
            }
            let gone = known.purge(upto, dying);
            let changed = Arc::clone(&known.changed);
            state.forget(&gone);
            changed.notify_waiters();
            Ok(Some(Frame::bare(group, What::Purge { upto })))
        })
        .await
    }

    pub(super) async fn save_vote(&self, group: GroupId, vote: Bytes) -> io::Result<()> {
        check_payload(group, &vote)?;
        self.change(vote.len(), |state, _| {
            keep(&mut state.writable(group)?.vote, vote.clone());
            Ok(Some(Frame::new(group, What::Vote, vote)))
        })
        .await
    }

    pub(super) fn save_committed(&self, group: GroupId, committed: Option<EntryId>) {
        let mut state = self.state.lock();
        // Best effort: who may not write any more need not be told here.
        if let Ok(known) = state.writable(group) {
            keep(&mut known.committed, committed);
            state.noted.insert(group);
        }
    }

    pub(super) async fn checkpoint(
        &self,
        group: GroupId,
        applied: EntryId,
        machine: Bytes,
    ) -> io::Result<()> {
        check_payload(group, &machine)?;
        let room = self.room_for(machine.len()).await?;
        let frame = Frame::new(group, What::Checkpoint { applied }, machine.clone());
        let mut state = self.state.lock();
        let len = frame.head.len;
        let checkpoint = Checkpoint { id: applied, len, place: None, state: Some(machine) };
        state.writable(group)?.add_checkpoint(checkpoint);
        let frames = vec![(state.ticket(), frame)];
        state.enqueue(Write { frames, dying: Dying::default(), done: None, room: Some(room) });
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    pub(super) async fn remove(&self, group: GroupId) -> io::Result<()> {
        self.change(0, |state, dying| {
            if let Some(stop) = &state.stop {
                return Err(stop.error());
            }
            match state.groups.get_mut(&group) {
                None => return Ok(None),
                Some(known) if known.tombstone.is_some() => return Ok(None),
                // Its tombstone is on its way: a second one makes this caller wait, too.
                Some(known) if known.removed => {}
                Some(known) => {
                    let gone = known.remove(dying);
                    known.changed.notify_waiters();
                    state.forget(&gone);
                    state.noted.remove(&group);
                }
            }
            Ok(Some(Frame::bare(group, What::Remove)))
        })
        .await?;
        let mut state = self.state.lock();
        // Only a sealed segment can give its space back.
        let mut active = state.segments.values().filter(|segment| segment.stage == Stage::Active);
        state.seal = active.any(|segment| {
            let used = segment.len - super::segment::HEADER_BYTES;
            segment.live_bytes * 2 < used && used * 4 > self.config.segment_bytes
        });
        drop(state);
        self.work.notify_one();
        self.keep.notify_one();
        Ok(())
    }

    pub(super) async fn wait_durable(&self, group: GroupId, index: u64) -> io::Result<()> {
        loop {
            let changed = {
                let state = self.state.lock();
                let Some(known) = state.groups.get(&group) else { return Ok(()) };
                let durable = known.durable().is_some_and(|durable| index <= durable);
                if durable || index >= known.next() {
                    return Ok(());
                }
                if let Some(stop) = &state.stop
                    && self.ended.is_cancelled()
                {
                    return Err(stop.error());
                }
                // Made under the lock, so that no change falls between the look and the wait.
                Arc::clone(&known.changed).notified_owned()
            };
            tokio::select! {
                () = changed => {}
                () = self.ended.cancelled() => {}
            }
        }
    }

    /// Applies a change and waits until its frame is durable. `None` means there is nothing to do.
    async fn change(
        &self,
        payload_bytes: usize,
        apply: impl FnOnce(&mut State, &mut Dying) -> io::Result<Option<Frame>>,
    ) -> io::Result<()> {
        let room = self.room_for(payload_bytes).await?;
        let (durable, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            let mut dying = Dying::default();
            let Some(frame) = apply(&mut state, &mut dying)? else { return Ok(()) };
            let frames = vec![(state.ticket(), frame)];
            let done = Done::new(Box::new(move |result| {
                // Whoever asked may have gone.
                let _ = durable.send(result);
            }));
            state.enqueue(Write { frames, dying, done: Some(done), room: Some(room) });
        }
        self.work.notify_one();
        answer.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Waits for room in the queue. What is larger than the queue takes all of it.
    pub(super) async fn room_for(&self, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
        let permits = (bytes + HEAD_BYTES).min(self.room_bytes) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
        room.map_err(|_| self.stopped())
    }
}

fn check_payload(group: GroupId, payload: &Bytes) -> io::Result<()> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        let bytes = payload.len();
        return Err(refused(format!(
            "group {group}: {bytes} bytes in one piece, at most {PAYLOAD_BYTES_MAX} fit"
        )));
    }
    Ok(())
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn frames_of(group: GroupId, entries: Vec<Entry>) -> io::Result<Vec<Frame>> {
    let frame = |entry: Entry| {
        check_payload(group, &entry.payload)?;
        Ok(Frame::entry(group, entry))
    };
    entries.into_iter().map(frame).collect()
}

fn check_follows(state: &mut State, group: GroupId, frames: &[Frame]) -> io::Result<()> {
    let mut next = state.writable(group)?.next();
    for frame in frames {
        if let Some((id, _)) = frame.head.entry() {
            if id.index != next {
                let index = id.index;
                return Err(refused(format!("group {group}: entry {index} given, {next} is next")));
            }
            next += 1;
        }
    }
    Ok(())
}

/// Puts checked entries into the index and the queue. The callback and the room go with the last
/// block.
fn push_entries(
    state: &mut State,
    group: GroupId,
    frames: Vec<Frame>,
    done: Done,
    room: OwnedSemaphorePermit,
) {
    let (mut block, mut bytes) = (Vec::new(), 0);
    for frame in frames {
        if bytes + frame.bytes() > BATCH_BYTES_MAX && !block.is_empty() {
            let frames = std::mem::take(&mut block);
            state.enqueue(Write { frames, dying: Dying::default(), done: None, room: None });
            bytes = 0;
        }
        bytes += frame.bytes();
        let ticket = state.ticket();
        if let (Some((id, kind)), Some(known)) = (frame.head.entry(), state.groups.get_mut(&group))
        {
            let Head { stamp_ms, len, .. } = frame.head;
            let payload = Some((kind, frame.payload.clone()));
            known.push(id, Slot { ticket, stamp_ms, len, place: None, payload });
        }
        block.push((ticket, frame));
    }
    let (done, room) = (Some(done), Some(room));
    state.enqueue(Write { frames: block, dying: Dying::default(), done, room });
}
