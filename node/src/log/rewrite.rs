//! Rewriting: adjacent sealed segments become one file that holds only what counts, group by group.
//!
//! Compaction and re-clustering in one: dead frames are left out, and a group's entries lie together,
//! so that reading one group alone is fast and its space comes back in one piece.
//!
//! ```text
//!  plan      under the lock: which entries and marks count now              (plan)
//!  copy      a portion of some groups at a time, read in the order of the
//!            old files, written in the order of groups, into NNN.seg.tmp    (copy)
//!  finish    footer, sync, name; then memory turns to the new file, then
//!            the old ones go
//! ```
//!
//! Crash-safe without a manifest: the new file's header says which batches it covers, and once it has
//! its name, it replaces all older segments with any of these. Invariants: what counted when the plan
//! was made is in the new file, bit for bit; no entry was queued to be dropped then, and whatever else
//! was is durable before the new file counts (else a crash could show neither the entry or mark nor what
//! dropped it); what happens meanwhile happens in younger segments. Trouble with the copy leaves everything as it is.

mod copy;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tristream_proto::domain::GroupId;

use super::committer::salt;
use super::group::{Dying, Place};
use super::keeper;
use super::segment::directory::Directory;
use super::segment::footer::{self, Trailer};
use super::segment::{self, Header};
use super::state::{Done, Segment, State, Write};
use super::writer::write_footer;
use super::{Faulty, Shared};
use crate::disk::Open;
use copy::Copier;
use plan::Plan;

/// Segments that must have room besides the copy: the one that is being written, and the next. Votes go there.
const SEGMENTS_SPARED: u64 = 2;

/// Rewrites these segments, which are adjacent, oldest first, unless the disk is too full for a copy.
///
/// # Errors
/// Only what leaves open whether the new file is there: the log cannot go on then.
pub(super) async fn rewrite(shared: &Arc<Shared>, sources: &[u64]) -> io::Result<()> {
    match has_room(shared, sources) {
        Ok(true) => {}
        Ok(false) => {
            tracing::debug!(
                ?sources,
                "log segments not rewritten: the disk has no room for a copy"
            );
            return Ok(());
        }
        Err(error) => return trouble(shared, sources, &error),
    }
    let shadows = match keeper::needed_shadows(shared, sources, &BTreeSet::new()).await {
        Ok(shadows) => shadows,
        Err(error) => return trouble(shared, sources, &error),
    };
    let Some(plan) = Plan::make(&mut shared.state.lock(), sources, shadows) else { return Ok(()) };
    let header = Header {
        salt: salt(&*shared.entropy),
        sequence: plan.sequence,
        log: shared.log,
        follows: plan.follows,
        whole_upto: plan.upto,
        rewritten: true,
    };
    let temporary = segment::temporary(&shared.config.dir, header.sequence);
    let written = match write(shared, &plan, header).await {
        Ok(written) => written,
        Err(error) => {
            // Opening the log removes it, too, so failure is no matter.
            let _ = shared.disk.remove(&temporary);
            return trouble(shared, sources, &error);
        }
    };
    // What the plan left out because it was queued to go must be gone for good first: else a crash could
    // show neither the mark nor what replaced it.
    if let Err(error) = all_queued_is_durable(shared).await {
        let _ = shared.disk.remove(&temporary);
        return trouble(shared, sources, &error);
    }
    // From here on the new file may be the one that counts at the next open.
    shared.disk.rename(&temporary, &segment::path(&shared.config.dir, header.sequence))?;
    shared.disk.sync_dir(&shared.config.dir).await?;
    swap(&mut shared.state.lock(), sources, header, &written);
    shared.metrics.observe_rewritten(written.bytes);
    let after = written.len;
    tracing::debug!(?sources, into = header.sequence, after, "log segments rewritten");
    for &sequence in sources {
        keeper::remove(shared, sequence).await?;
    }
    Ok(())
}

fn has_room(shared: &Shared, sources: &[u64]) -> io::Result<bool> {
    let live: u64 = {
        let state = shared.state.lock();
        let known = sources.iter().filter_map(|sequence| state.segments.get(sequence));
        known.map(|known| known.live_bytes).sum()
    };
    let spared = SEGMENTS_SPARED * shared.config.segment_bytes;
    Ok(shared.disk.space(&shared.config.dir)?.free_bytes >= live + spared)
}

/// Waits for everything that was queued so far: an empty write comes after it.
async fn all_queued_is_durable(shared: &Shared) -> io::Result<()> {
    let (durable, answer) = oneshot::channel();
    {
        let mut state = shared.state.lock();
        if let Some(stop) = &state.stop {
            return Err(stop.error());
        }
        let done = Done::new(Box::new(move |result| {
            // The keeper may have ended.
            let _ = durable.send(result);
        }));
        let (frames, dying) = (Vec::new(), Dying::default());
        state.enqueue(Write { frames, dying, done: Some(done), room: None });
    }
    shared.work.notify_one();
    answer.await.unwrap_or_else(|_| Err(shared.stopped()))
}

/// Leaves the segments as they are.
fn trouble(shared: &Shared, sources: &[u64], error: &io::Error) -> io::Result<()> {
    let mut state = shared.state.lock();
    if state.stop.is_some() {
        return Ok(());
    }
    // One that is faulty is waited for, until it is repaired.
    if error.kind() == io::ErrorKind::InvalidData && Faulty::of(error).is_none() {
        for sequence in sources {
            if let Some(known) = state.segments.get_mut(sequence) {
                known.stuck = true;
            }
        }
    }
    tracing::warn!(?sources, %error, "log segments not rewritten");
    Ok(())
}

/// A new segment, complete and durable but for its name.
struct Written {
    directory: Directory,
    trailer: Trailer,
    /// End of its blocks.
    len: u64,
    /// All bytes written.
    bytes: u64,
    /// Where marks were, and where their copies are.
    moved: BTreeMap<Place, Place>,
    /// Entries whose repairs were copied as entries.
    mended: Vec<(GroupId, u64, Place)>,
}

async fn write(shared: &Arc<Shared>, plan: &Plan, header: Header) -> io::Result<Written> {
    let dir = &shared.config.dir;
    let temporary = segment::temporary(dir, header.sequence);
    // Left by an attempt that failed in this process.
    match shared.disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = shared.disk.open(&temporary, Open::New)?;
    let mut copier = Copier::begin(shared, file, header).await?;
    copier.copy(plan).await?;
    let copy::Copied { writer, mut directory, moved, mended } = copier.finish().await?;
    directory.number();
    let encoded = footer::encode(&header, &directory, writer.len, header.whole_upto);
    let footer_bytes = write_footer(&*writer.file, &encoded).await?;
    writer.file.sync().await?;
    let (len, trailer) = (writer.len, encoded.trailer);
    Ok(Written { directory, trailer, len, bytes: len + footer_bytes, moved, mended })
}

/// Memory turns to the new file.
fn swap(state: &mut State, sources: &[u64], header: Header, written: &Written) {
    let set: BTreeSet<u64> = sources.iter().copied().collect();
    let sequence = header.sequence;
    let mut account = Segment::new(header);
    (account.len, account.last_batch) = (written.len, header.whole_upto);
    account.sealed(&written.directory, written.trailer);
    for (id, part) in &written.directory.parts {
        let Some(group) = state.groups.get_mut(id) else { continue };
        if group.removed {
            account.removed_bytes += part.bytes;
        }
        account.live_bytes += group.rewrite(&set, sequence, part);
        let run = group.runs().find(|run| run.segment == sequence);
        account.live_entries += run.map_or(0, |run| run.count);
        group.move_marks(&written.moved);
        let tombstone = group.tombstone.as_mut().filter(|at| set.contains(&at.segment));
        if let Some(tombstone) = tombstone.filter(|_| part.removed) {
            tombstone.segment = sequence;
        }
    }
    for (id, index, place) in &written.mended {
        if let Some(group) = state.groups.get_mut(id)
            && group.repairs.get(index) == Some(place)
        {
            group.repairs.remove(index);
        }
    }
    if let Some(retired) = &mut state.retired
        && let Some(to) = retired.place.and_then(|place| written.moved.get(&place))
    {
        retired.place = Some(*to);
    }
    for source in sources {
        let Some(old) = state.segments.remove(source) else { continue };
        account.dying += old.dying;
        state.rewritten.values_mut().filter(|by| *by == source).for_each(|by| *by = sequence);
        if old.dying > 0 {
            state.rewritten.insert(*source, sequence);
        }
    }
    // Nothing older has anything of them any more.
    let gone = |group: &super::group::Group| {
        group.tombstone.is_some_and(|place| set.contains(&place.segment))
    };
    state.groups.retain(|_, group| !gone(group));
    let spent = i64::try_from(written.bytes).unwrap_or(i64::MAX);
    state.rewrite_budget = state.rewrite_budget.saturating_sub(spent);
    state.segments.insert(sequence, account);
}
