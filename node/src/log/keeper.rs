//! The keeper: gives the space of dead frames back, in the background.
//!
//! Only sealed segments are touched, oldest first:
//! - nothing in it counts any more: it is removed;
//! - no entry in it counts, only a few marks (votes, checkpoints, ..): they are written again at
//!   the log's end, so that an idle group does not pin old segments;
//! - it is more than half dead: what counts is copied into a file that takes its name.
//!
//! Invariants: a frame is dropped only when what made it useless is durable; a truncation or
//! tombstone is dropped only when every frame that it makes useless is durably gone. Never delays a
//! commit.

use std::io;
use std::sync::Arc;

use tristream_proto::domain::GroupId;

use super::Shared;
use super::committer::salt;
use super::frame::{Body, Frame};
use super::group::{Dying, Group, Place};
use super::segment::{self, Header, Next, Reader, Writer, damaged};
use super::state::{Segment, Shadow, State, Write, note_presence};
use crate::tasks::Kind;

/// Copied frames are gathered into blocks of about this size.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;

/// Works whenever something may have died, until the node stops.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        shared.keep.notified().await;
        if let Err(error) = tidy(&shared).await {
            if shared.state.lock().stop.is_none() {
                shared.tasks.failed(Kind::LogKeeper, &error);
            }
            return;
        }
    }
}

/// What to do with one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Remove(u64),
    MoveMarks(u64),
    Rewrite(u64),
}

async fn tidy(shared: &Arc<Shared>) -> io::Result<()> {
    // Only sequence numbers beyond the last one done: a pass ends, whatever goes on meanwhile.
    let mut from = 0;
    loop {
        let step = plan(&shared.state.lock(), from, shared.config.segment_bytes);
        let Some(step) = step else { break };
        match step {
            Step::Remove(segment) => {
                remove(shared, segment).await?;
                from = segment + 1;
            }
            Step::MoveMarks(segment) => {
                move_marks(shared, segment).await?;
                let gone = plan(&shared.state.lock(), segment, shared.config.segment_bytes);
                if gone == Some(Step::Remove(segment)) {
                    remove(shared, segment).await?;
                }
                from = segment + 1;
            }
            Step::Rewrite(segment) => {
                rewrite(shared, segment).await?;
                from = segment + 1;
            }
        }
    }
    let mut state = shared.state.lock();
    let State { groups, segments, .. } = &mut *state;
    groups.retain(|id, group| {
        let here = |segment: &Segment| segment.present.contains_key(id);
        !group.buried || segments.values().any(here)
    });
    let (count, bytes) = state.size();
    drop(state);
    shared.metrics.set_log_size(count, bytes);
    Ok(())
}

/// The next step, in a segment from `from` on.
pub(super) fn plan(state: &State, from: u64, segment_bytes: u64) -> Option<Step> {
    if state.stop.is_some() {
        return None;
    }
    state.segments.range(from..).find_map(|(&sequence, segment)| {
        if !segment.sealed || segment.damaged || segment.dying > 0 {
            return None;
        }
        let shadows = segment.shadows.iter().filter(|shadow| state.shadow_needed(shadow));
        let shadow_bytes: u64 = shadows.map(|shadow| shadow.place.len).sum();
        let small = segment.live_bytes <= segment_bytes / 8;
        if segment.live_bytes + shadow_bytes == 0 {
            Some(Step::Remove(sequence))
        } else if segment.live_entries == 0 && shadow_bytes == 0 && small {
            Some(Step::MoveMarks(sequence))
        } else if (segment.compact_len() + shadow_bytes) * 2 < segment.len {
            Some(Step::Rewrite(sequence))
        } else {
            None
        }
    })
}

async fn remove(shared: &Shared, sequence: u64) -> io::Result<()> {
    let dir = &shared.config.dir;
    shared.disk.remove(&dir.join(segment::name(sequence)))?;
    // Only a durable removal lets the truncations and tombstones of what was in there go.
    shared.disk.sync_dir(dir).await?;
    shared.state.lock().segments.remove(&sequence);
    tracing::debug!(segment = sequence, "log segment removed");
    Ok(())
}

/// Writes the marks that count in a segment again, at the log's end, and waits until they are
/// durable.
async fn move_marks(shared: &Arc<Shared>, sequence: u64) -> io::Result<()> {
    let groups: Vec<GroupId> = match shared.state.lock().segments.get(&sequence) {
        Some(segment) => segment.present.keys().copied().collect(),
        None => return Ok(()),
    };
    let mut answers = Vec::new();
    for group in groups {
        let bytes = shared
            .state
            .lock()
            .groups
            .get(&group)
            .map_or(0, |known| marks(group, known, sequence).iter().map(Frame::len).sum());
        if bytes == 0 {
            continue;
        }
        let room = shared.room_for(bytes).await?;
        let (durable, answer) = tokio::sync::oneshot::channel();
        {
            let mut state = shared.state.lock();
            if let Some(stop) = &state.stop {
                return Err(stop.error());
            }
            // Looked at again: newer values than those on disk may have been queued, and these are
            // them.
            let Some(known) = state.groups.get(&group) else { continue };
            let frames = marks(group, known, sequence);
            let frames = frames.into_iter().map(|frame| (state.ticket(), frame)).collect();
            let done = super::Done::new(Box::new(move |result| {
                let _ = durable.send(result);
            }));
            let (done, room) = (Some(done), Some(room));
            state.enqueue(Write { frames, dying: Dying::default(), done, room });
        }
        shared.work.notify_one();
        answers.push(answer);
    }
    for answer in answers {
        answer.await.unwrap_or_else(|_| Err(shared.stopped()))?;
    }
    Ok(())
}

/// The group's newest marks, those whose durable frames lie in the segment.
fn marks(id: GroupId, group: &Group, sequence: u64) -> Vec<Frame> {
    let here = |place: Option<Place>| place.is_some_and(|place| place.segment == sequence);
    let mut bodies = Vec::new();
    if let Some(kept) = group.purged.as_ref().filter(|kept| here(kept.place)) {
        bodies.push(Body::Purge { upto: kept.value });
    }
    if let Some(kept) = group.vote.as_ref().filter(|kept| here(kept.place)) {
        bodies.push(Body::Vote { vote: kept.value.clone() });
    }
    if let Some(kept) = group.committed.as_ref().filter(|kept| here(kept.place)) {
        bodies.push(Body::Committed { committed: kept.value });
    }
    for kept in group.checkpoints.iter().filter(|kept| here(kept.place)) {
        let (applied, state) = kept.value.clone();
        bodies.push(Body::Checkpoint { applied, state });
    }
    bodies.into_iter().map(|body| Frame::new(id, body)).collect()
}

/// What a rewritten file holds, and from where.
#[derive(Default)]
pub(super) struct Copied {
    moved: Vec<(GroupId, Body, Place, Place)>,
    present: std::collections::BTreeMap<GroupId, Option<u64>>,
    shadows: Vec<Shadow>,
}

/// Copies what counts into a file of the same sequence number. Trouble with the copy leaves the
/// segment as it is; only trouble after the copy took the name is an error.
async fn rewrite(shared: &Arc<Shared>, sequence: u64) -> io::Result<()> {
    let (writer, copied) = match copy(shared, sequence).await {
        Ok(Some(done)) => done,
        Ok(None) => {
            give_up(shared, sequence);
            return Ok(());
        }
        Err(error) => {
            give_up(shared, sequence);
            if error.kind() == io::ErrorKind::InvalidData
                && let Some(segment) = shared.state.lock().segments.get_mut(&sequence)
            {
                segment.damaged = true;
            }
            tracing::warn!(segment = sequence, %error, "log segment not compacted");
            return Ok(());
        }
    };
    let (disk, dir) = (&*shared.disk, &shared.config.dir);
    writer.finish(disk, dir).await?;
    let mut state = shared.state.lock();
    for (group, body, from, to) in &copied.moved {
        state.relocate(body, *group, *from, *to);
    }
    if let Some(segment) = state.segments.get_mut(&sequence) {
        tracing::debug!(segment = sequence, before = segment.len, after = writer.len, "compacted");
        segment.file = Arc::clone(&writer.file);
        segment.header = writer.header;
        segment.header_crc = writer.header.encode().1;
        segment.len = writer.len;
        segment.present = copied.present;
        segment.shadows = copied.shadows;
    }
    Ok(())
}

/// Removes the unfinished copy. Opening the log does, too, so failure is no matter.
fn give_up(shared: &Shared, sequence: u64) {
    let _ = shared.disk.remove(&segment::temporary(&shared.config.dir, sequence));
}

pub(super) async fn copy(
    shared: &Arc<Shared>,
    sequence: u64,
) -> io::Result<Option<(Writer, Copied)>> {
    let source = {
        let state = shared.state.lock();
        let Some(segment) = state.segments.get(&sequence) else { return Ok(None) };
        let file = Arc::clone(&segment.file);
        (file, segment.header, segment.header_crc, segment.len, segment.last_batch)
    };
    let (file, old, crc, len, last_batch) = source;
    let header = Header { salt: salt(&*shared.entropy), whole_upto: last_batch, ..old };
    let mut writer = Writer::begin(&*shared.disk, &shared.config.dir, header).await?;
    let mut reader = Reader::new(file, old.salt, crc, len);
    let (mut copied, mut gathered, mut bytes) = (Copied::default(), Vec::new(), 0);
    loop {
        let block = match reader.next().await? {
            Next::Block(block) => block,
            Next::End if reader.at == len => break,
            Next::End | Next::Bad => {
                let (name, at) = (segment::name(sequence), reader.at);
                return Err(damaged(format!("segment {name} is damaged at {at}")));
            }
        };
        let batch = block.batch;
        {
            let state = shared.state.lock();
            // A frame whose end is queued but not durable counts, and nobody knows which these are.
            if state.segments.get(&sequence).is_none_or(|segment| segment.dying > 0) {
                return Ok(None);
            }
            for (offset, frame) in block.frames {
                let place = Place { segment: sequence, offset, len: frame.len() as u64 };
                if state.is_live(&frame, place) {
                    bytes += place.len;
                    gathered.push((place, frame));
                }
            }
        }
        // Sorted into the batch of the last block that is in it: the order stays.
        if bytes >= BLOCK_BYTES || batch == last_batch {
            copy_block(&mut writer, batch, last_batch, &mut gathered, &mut copied).await?;
            bytes = 0;
        }
    }
    Ok(Some((writer, copied)))
}

async fn copy_block(
    writer: &mut Writer,
    batch: u64,
    durable_upto: u64,
    gathered: &mut Vec<(Place, Frame)>,
    copied: &mut Copied,
) -> io::Result<()> {
    let gathered = std::mem::take(gathered);
    let frames: Vec<&Frame> = gathered.iter().map(|(_, frame)| frame).collect();
    let encoded = writer.encode(batch, durable_upto, &frames);
    let offsets = encoded.offsets.clone();
    writer.write(encoded, false).await?;
    for ((from, frame), offset) in gathered.into_iter().zip(offsets) {
        let to = Place { offset, ..from };
        note_presence(&mut copied.present, &frame);
        if let Some(shadowed) = frame.body.shadows() {
            copied.shadows.push(Shadow { group: frame.group, from: shadowed, place: to });
        }
        copied.moved.push((frame.group, without_payload(frame.body), from, to));
    }
    Ok(())
}

/// Enough to find the frame in the index, without holding on to its payload.
fn without_payload(body: Body) -> Body {
    match body {
        Body::Entry { id, kind, .. } => Body::Entry { id, kind, payload: Default::default() },
        Body::Vote { .. } => Body::Vote { vote: Default::default() },
        Body::Checkpoint { applied, .. } => Body::Checkpoint { applied, state: Default::default() },
        other => other,
    }
}
