//! The keeper: gives the space of what does not count any more back, in the background.
//!
//! Only sealed segments are touched, oldest first:
//! - no entry in it counts: what else counts is written again at the log's end (see `carry`), the log
//!   says that the segment may be missing, and it goes;
//! - it is more than half dead, or its groups' runs are short: what counts is copied into another
//!   file, group by group (see `rewrite`).
//!
//! Invariants: nothing is given up before what made it useless is durable; what a segment says about
//! entries of older ones (`Shadow`) stays somewhere as long as an older segment has such entries.
//! Never delays a commit.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tristream_proto::domain::GroupId;

use super::frame::{Frame, What};
use super::group::{Dying, keep};
use super::segment::footer::Trailer;
use super::segment::{ALIGN_BYTES, Directory, HEADER_BYTES, Header, directory::Part};
use super::state::{Done, Segment, Shadow, Stage, State, Write};
use super::{Shared, carry, rewrite, segment};
use crate::tasks::Kind;

/// Runs of this length are read as fast as the disk is.
const RUN_BYTES_WANTED: u64 = 1 << 20;
/// So many segments are rewritten into one at most.
const SOURCES_MAX: usize = 8;

/// Less than this is not given up.
const GIVEN_UP_BYTES_MIN: u64 = 8 * ALIGN_BYTES;

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

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// No entry in these counts.
    GiveUp(Vec<u64>),
    /// Adjacent segments, to be rewritten into one.
    Rewrite(Vec<u64>),
}

async fn tidy(shared: &Arc<Shared>) -> io::Result<()> {
    // Each segment once: a pass ends, whatever goes on meanwhile.
    let mut done = BTreeSet::new();
    loop {
        let step = plan(&shared.state.lock(), &done, &shared.config);
        match step {
            Some(Step::GiveUp(segments)) => {
                done.extend(segments.iter().copied());
                give_up(shared, segments).await?;
            }
            Some(Step::Rewrite(segments)) => {
                done.extend(segments.iter().copied());
                rewrite::rewrite(shared, &segments).await?;
            }
            None => break,
        }
    }
    let mut state = shared.state.lock();
    let State { rewritten, segments, .. } = &mut *state;
    rewritten.retain(|_, by| segments.get(by).is_some_and(|segment| segment.dying > 0));
    let (count, bytes) = state.size();
    let kinds = kinds(&state);
    drop(state);
    shared.metrics.set_log_size(count, bytes);
    for (kind, count) in kinds {
        shared.metrics.set_log_segments(kind, count);
    }
    Ok(())
}

fn kinds(state: &State) -> [(&'static str, usize); 4] {
    let count =
        |is: fn(&Segment) -> bool| state.segments.values().filter(|known| is(known)).count();
    let sealed = |known: &Segment| known.trailer().is_some() && !known.header.rewritten;
    [
        ("active", count(|known| known.stage == Stage::Active)),
        ("full", count(|known| known.stage == Stage::Full)),
        ("sealed", count(sealed)),
        ("rewritten", count(|known| known.header.rewritten)),
    ]
}

/// The next step, with segments that are not in `done`.
pub(super) fn plan(state: &State, done: &BTreeSet<u64>, config: &super::Config) -> Option<Step> {
    if state.stop.is_some() {
        return None;
    }
    let ready = |known: &&Segment| {
        matches!(known.stage, Stage::Sealed(_))
            && known.dying == 0
            && !known.stuck
            && !done.contains(&known.header.sequence)
    };
    let order = state.in_order();
    // All groups are looked at only if some segment is worth it.
    let marks = OnceCell::new();
    let marks = |known: &Segment| {
        let marks = marks.get_or_init(|| state.mark_bytes());
        marks.get(&known.header.sequence).copied().unwrap_or_default()
    };
    let dead: Vec<&Segment> = order
        .iter()
        .filter_map(|sequence| state.segments.get(sequence).filter(ready))
        .filter(|known| known.live_entries == 0 && marks(known) * 4 <= used_bytes(known))
        .collect();
    // Giving up writes, too: a block for that, and one or two for marks. It must end somewhere.
    if dead.iter().map(|known| used_bytes(known)).sum::<u64>() >= GIVEN_UP_BYTES_MIN {
        return Some(Step::GiveUp(dead.iter().map(|known| known.header.sequence).collect()));
    }
    if config.rewrite_bytes_per_second == 0 {
        return None;
    }
    let adjacent: Vec<Option<&Segment>> =
        order.iter().map(|sequence| state.segments.get(sequence).filter(ready)).collect();
    let mostly_dead = adjacent
        .iter()
        .flatten()
        .find(|known| is_mostly_dead(known, 0) && is_mostly_dead(known, marks(known)));
    if let Some(known) = mostly_dead {
        return Some(Step::Rewrite(vec![known.header.sequence]));
    }
    (0..adjacent.len()).find_map(|at| gather(state, &adjacent[at..], &marks)).map(Step::Rewrite)
}

/// More than half of its entries are dead, or an eighth because groups were removed: whoever deletes a
/// stream wants its space back.
fn is_mostly_dead(known: &Segment, marks: u64) -> bool {
    let dead = known.entry_bytes.saturating_sub(known.live_bytes);
    let half = dead * 2 > known.entry_bytes || known.live_entries == 0;
    let removed = known.removed_bytes * 8 > known.entry_bytes;
    (half && is_sparse(known, marks))
        || (removed && compact_bytes(known, marks) + ALIGN_BYTES < used_bytes(known))
}

/// Most of it is dead, or zeros between blocks.
fn is_sparse(known: &Segment, marks: u64) -> bool {
    compact_bytes(known, marks) * 2 < used_bytes(known)
}

/// Bytes of its blocks.
fn used_bytes(known: &Segment) -> u64 {
    known.len - HEADER_BYTES
}

/// Bytes of its blocks without what is dead. A small file cannot become much smaller.
fn compact_bytes(known: &Segment, marks: u64) -> u64 {
    (known.live_bytes + marks + ALIGN_BYTES).next_multiple_of(ALIGN_BYTES)
}

/// Adjacent segments that are worth it, enough of them that runs get long.
fn gather(
    state: &State,
    adjacent: &[Option<&Segment>],
    marks: &impl Fn(&Segment) -> u64,
) -> Option<Vec<u64>> {
    let first = adjacent.first().copied().flatten()?;
    let is_short = |known: &Segment| known.runs > 1 && known.run_bytes < RUN_BYTES_WANTED;
    let is_worth = |known: &&Segment| {
        !known.header.rewritten
            && (is_short(known) || (is_sparse(known, 0) && is_sparse(known, marks(known))))
    };
    if !is_worth(&first) {
        return None;
    }
    let wanted = match is_short(first) {
        true => RUN_BYTES_WANTED.div_ceil(first.run_bytes.max(1)),
        false => 1,
    };
    let wanted = usize::try_from(wanted).unwrap_or(SOURCES_MAX).min(SOURCES_MAX);
    let sources = adjacent.iter().map_while(|known| known.filter(|known| is_worth(known)));
    let sources: Vec<&Segment> = sources.take(wanted).collect();
    let bytes: u64 = sources.iter().map(|known| known.live_bytes).sum();
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let affordable = sources.len() == wanted && bytes <= state.rewrite_budget;
    affordable.then(|| sources.iter().map(|known| known.header.sequence).collect())
}

/// Gives segments up in which no entry counts.
async fn give_up(shared: &Arc<Shared>, segments: Vec<u64>) -> io::Result<()> {
    let mut leaving = BTreeSet::new();
    let mut tombstones = BTreeSet::new();
    for sequence in segments {
        let shadows = needed_shadows(shared, &[sequence], &leaving).await?;
        if shadows.iter().any(|shadow| shadow.from.is_some()) {
            // Written again at the log's end, it would say the same about younger entries.
            let may = shared.config.rewrite_bytes_per_second > 0;
            if may && worth_shrinking(&shared.state.lock(), sequence) {
                rewrite::rewrite(shared, &[sequence]).await?;
            }
            continue;
        }
        tombstones.extend(shadows.iter().map(|shadow| shadow.group));
        leaving.insert(sequence);
    }
    carry::carry(shared, &leaving, &tombstones).await?;
    let leaving = retire(shared, &leaving, &tombstones).await?;
    for sequence in leaving {
        remove(shared, sequence).await?;
        shared.state.lock().segments.remove(&sequence);
    }
    Ok(())
}

fn worth_shrinking(state: &State, sequence: u64) -> bool {
    let Some(known) = state.segments.get(&sequence) else { return false };
    let marks = state.mark_bytes().get(&sequence).copied().unwrap_or_default();
    !known.header.rewritten || is_sparse(known, marks)
}

/// Says, durably, that these segments may be missing. Gives back those of which that is so.
async fn retire(
    shared: &Arc<Shared>,
    leaving: &BTreeSet<u64>,
    tombstones: &BTreeSet<GroupId>,
) -> io::Result<Vec<u64>> {
    let (durable, answer) = oneshot::channel();
    let room = shared.room_for(leaving.len() * 16).await?;
    let leaving: Vec<u64> = {
        let mut state = shared.state.lock();
        if let Some(stop) = &state.stop {
            return Err(stop.error());
        }
        // Never happens; but what lives is never given up, nor what shadows it.
        let lives = leaving.iter().any(|sequence| state.lives_in(*sequence));
        if leaving.is_empty() || (lives && !planted!(VoteLostWithSegment)) {
            return Ok(Vec::new());
        }
        // Oldest first: what a segment says of older ones goes after them, whenever the power fails.
        let order = state.in_order().into_iter();
        let leaving: Vec<u64> = order.filter(|sequence| leaving.contains(sequence)).collect();
        let mut retired = state.retired.as_ref().map(|kept| kept.value.clone()).unwrap_or_default();
        for sequence in &leaving {
            if let Some(known) = state.segments.get(sequence) {
                retired.add(known.header.follows, known.last_batch);
            }
        }
        let frame = Frame::retired(retired.encode());
        keep(&mut state.retired, retired);
        let buried = |group: &super::group::Group| {
            group.tombstone.is_some_and(|place| leaving.contains(&place.segment))
        };
        // Nothing is left of them anywhere.
        state.groups.retain(|id, group| !buried(group) || tombstones.contains(id));
        let frames = vec![(state.ticket(), frame)];
        let done = Done::new(Box::new(move |result| {
            // Whoever asked may have gone.
            let _ = durable.send(result);
        }));
        let (done, room) = (Some(done), Some(room));
        state.enqueue(Write { frames, dying: Dying::default(), done, room });
        leaving
    };
    shared.work.notify_one();
    answer.await.unwrap_or_else(|_| Err(shared.stopped()))?;
    Ok(leaving)
}

/// Removes a segment's file, durably.
pub(super) async fn remove(shared: &Shared, sequence: u64) -> io::Result<()> {
    let path = segment::path(&shared.config.dir, sequence);
    let file = shared.files.take(sequence)?;
    let given = shared.pool.give(&path, file).await;
    shared.files.left(sequence);
    given?;
    tracing::debug!(segment = sequence, "log segment given up");
    Ok(())
}

/// What these adjacent segments say about entries of older ones, as far as these have such entries.
/// Those that are `leaving` do not count.
pub(super) async fn needed_shadows(
    shared: &Shared,
    sources: &[u64],
    leaving: &BTreeSet<u64>,
) -> io::Result<Vec<Shadow>> {
    let (mut shadows, older) = {
        let state = shared.state.lock();
        let known = sources.iter().filter_map(|sequence| state.segments.get(sequence));
        let shadows: Vec<Shadow> = known.flat_map(|known| known.shadows.clone()).collect();
        let order = state.in_order();
        let older = order.into_iter().take_while(|sequence| !sources.contains(sequence));
        (shadows, older.filter(|sequence| !leaving.contains(sequence)).collect::<Vec<_>>())
    };
    let mut needed = Vec::new();
    for sequence in older {
        if shadows.is_empty() {
            break;
        }
        let directory = directory_of(shared, sequence).await?;
        let (here, rest) = shadows.into_iter().partition(|shadow| match &directory {
            Some(directory) => {
                directory.parts.get(&shadow.group).is_some_and(|part| falls_on(shadow, part))
            }
            // Damaged: nobody knows.
            None => true,
        });
        needed.extend::<Vec<Shadow>>(here);
        shadows = rest;
    }
    Ok(needed)
}

fn falls_on(shadow: &Shadow, part: &Part) -> bool {
    match shadow.from {
        Some(from) => part.reaches(from),
        None => part.count > 0 || part.marks().next().is_some(),
    }
}

/// The directory of a segment; `None` when it is damaged.
async fn directory_of(shared: &Shared, sequence: u64) -> io::Result<Option<Directory>> {
    let known: Option<(Header, Option<Trailer>, Directory)> = {
        let state = shared.state.lock();
        state
            .segments
            .get(&sequence)
            .map(|known| (known.header, known.trailer(), known.directory.clone()))
    };
    let Some((header, trailer, directory)) = known else { return Ok(Some(Directory::default())) };
    match (trailer, shared.file(sequence)?) {
        (None, _) => Ok(Some(directory)),
        (Some(trailer), Some(file)) => trailer.read_directory(&*file, &header).await,
        (Some(_), None) => Ok(Some(Directory::default())),
    }
}

/// A truncation or tombstone that says what the shadow says.
pub(super) fn frame_of(shadow: &Shadow) -> Frame {
    let what = match shadow.from {
        Some(from) => What::Truncate { from },
        None => What::Remove,
    };
    Frame::bare(shadow.group, what)
}
