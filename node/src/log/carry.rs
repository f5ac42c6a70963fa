//! Writing again, at the log's end, what must outlive its segment: the newest vote, purge point,
//! committed id and checkpoints of every group, idle ones too; repairs; tombstones.
//!
//! Invariant: when it returns, nothing of that lies in the segments as far as memory knows, and the
//! new copies are durable. Must not remove anything.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tristream_proto::domain::GroupId;

use super::fetch::{Fetched, Wanted, fetch};
use super::frame::{Frame, What};
use super::group::{Dying, Group, Place};
use super::state::{Done, State, Write};
use super::{EntryId, Shared};

/// Carries what counts and lies in `sources`, and those tombstones.
pub(super) async fn carry(
    shared: &Arc<Shared>,
    sources: &BTreeSet<u64>,
    tombstones: &BTreeSet<GroupId>,
) -> io::Result<()> {
    let concerned: Vec<GroupId> = {
        let state = shared.state.lock();
        let here = |group: &Group| sources.iter().any(|segment| group.lives_in(*segment));
        let groups =
            state.groups.iter().filter(|(id, group)| here(group) || tombstones.contains(id));
        groups.map(|(id, _)| *id).collect()
    };
    let mut answers = Vec::new();
    for group in concerned {
        carry_large(shared, group, sources, &mut answers).await?;
        let room = shared.room_for(small_bytes(shared, group, sources)).await?;
        let mut state = shared.state.lock();
        let mut frames = small(&state, group, sources);
        if tombstones.contains(&group) {
            frames.push(Frame::bare(group, What::Remove));
        }
        if !frames.is_empty() {
            answers.push(enqueue(&mut state, frames, room)?);
            shared.work.notify_one();
        }
    }
    carry_retired(shared, sources, &mut answers).await?;
    for answer in answers {
        answer.await.unwrap_or_else(|_| Err(shared.stopped()))?;
    }
    Ok(())
}

type Answer = oneshot::Receiver<io::Result<()>>;

fn enqueue(
    state: &mut State,
    frames: Vec<Frame>,
    room: tokio::sync::OwnedSemaphorePermit,
) -> io::Result<Answer> {
    if let Some(stop) = &state.stop {
        return Err(stop.error());
    }
    let (durable, answer) = oneshot::channel();
    let done = Done::new(Box::new(move |result| {
        // Whoever asked may have gone.
        let _ = durable.send(result);
    }));
    let frames = frames.into_iter().map(|frame| (state.ticket(), frame)).collect();
    let (done, room) = (Some(done), Some(room));
    state.enqueue(Write { frames, dying: Dying::default(), done, room });
    Ok(answer)
}

fn small_bytes(shared: &Shared, group: GroupId, sources: &BTreeSet<u64>) -> usize {
    small(&shared.state.lock(), group, sources).iter().map(Frame::bytes).sum()
}

/// Marks whose values are in memory, those whose newest durable frames lie in the segments. Newer
/// values than those on disk may have been queued, and these are them.
fn small(state: &State, id: GroupId, sources: &BTreeSet<u64>) -> Vec<Frame> {
    let Some(group) = state.groups.get(&id) else { return Vec::new() };
    let here = |place: Option<Place>| place.is_some_and(|place| sources.contains(&place.segment));
    let mut frames = Vec::new();
    if let Some(kept) = group.purged.as_ref().filter(|kept| here(kept.place)) {
        frames.push(Frame::bare(id, What::Purge { upto: kept.value }));
    }
    if let Some(kept) = group.vote.as_ref().filter(|kept| here(kept.place))
        && !planted!(VoteLostWithSegment)
    {
        frames.push(Frame::new(id, What::Vote, kept.value.clone()));
    }
    if let Some(kept) = group.committed.as_ref().filter(|kept| here(kept.place)) {
        frames.push(Frame::bare(id, What::Committed { committed: kept.value }));
    }
    frames
}

/// Checkpoints and repairs, whose bytes are on disk alone.
async fn carry_large(
    shared: &Arc<Shared>,
    id: GroupId,
    sources: &BTreeSet<u64>,
    answers: &mut Vec<Answer>,
) -> io::Result<()> {
    let places: Vec<(What, Place)> = {
        let state = shared.state.lock();
        let Some(group) = state.groups.get(&id) else { return Ok(()) };
        large(group, sources)
    };
    for (what, place) in places {
        let Some(frame) = read_mark(shared, id, what, place).await? else { continue };
        let room = shared.room_for(frame.payload.len()).await?;
        let mut state = shared.state.lock();
        // It may have been replaced meanwhile, or may count no more.
        let counts = state
            .groups
            .get(&id)
            .is_some_and(|group| large(group, sources).iter().any(|(_, still)| *still == place));
        if counts {
            answers.push(enqueue(&mut state, vec![frame], room)?);
            shared.work.notify_one();
        }
    }
    Ok(())
}

/// Checkpoints and repairs that lie in the segments.
fn large(group: &Group, sources: &BTreeSet<u64>) -> Vec<(What, Place)> {
    let here = |place: &Place| sources.contains(&place.segment);
    let checkpoints = group
        .checkpoints
        .iter()
        .filter_map(|kept| Some((What::Checkpoint { applied: kept.id }, kept.place.filter(here)?)));
    let repairs = group.repairs.iter().filter(|(_, place)| here(place));
    let repairs = repairs.map(|(&index, place)| {
        let id = group.id(index).unwrap_or(EntryId { index, ..EntryId::default() });
        (What::Repair { id, kind: super::EntryKind::Blank }, *place)
    });
    checkpoints.chain(repairs).collect()
}

/// Reads a checkpoint or repair. `None`: it is damaged, and was noted so.
pub(super) async fn read_mark(
    shared: &Arc<Shared>,
    id: GroupId,
    what: What,
    place: Place,
) -> io::Result<Option<Frame>> {
    let salt = shared.state.lock().segments.get(&place.segment).map(|known| known.header.salt);
    let (Some(salt), Some(file)) = (salt, shared.file(place.segment)?) else { return Ok(None) };
    let fetched = fetch(&*file, salt, &[Wanted { offset: place.offset, len: 0 }]).await;
    if let Some(Fetched::Frame(head, payload)) = fetched.into_iter().next()
        && head.group == id
    {
        return Ok(Some(Frame { head, payload }));
    }
    match what {
        What::Checkpoint { applied } => {
            shared.forget_checkpoint(id, applied, place);
            tracing::warn!(group = %id, index = applied.index, "checkpoint in the log is damaged");
        }
        What::Repair { id: entry, .. } => shared.forget_repair(id, entry.index, place),
        _ => {}
    }
    Ok(None)
}

/// The list of retired batches.
async fn carry_retired(
    shared: &Arc<Shared>,
    sources: &BTreeSet<u64>,
    answers: &mut Vec<Answer>,
) -> io::Result<()> {
    let retired = |state: &State| {
        let kept = state.retired.as_ref()?;
        let here = kept.place.is_some_and(|place| sources.contains(&place.segment));
        here.then(|| Frame::retired(kept.value.encode()))
    };
    let bytes = retired(&shared.state.lock()).map_or(0, |frame| frame.payload.len());
    if bytes == 0 {
        return Ok(());
    }
    let room = shared.room_for(bytes).await?;
    let mut state = shared.state.lock();
    if let Some(frame) = retired(&state) {
        answers.push(enqueue(&mut state, vec![frame], room)?);
        shared.work.notify_one();
    }
    Ok(())
}
