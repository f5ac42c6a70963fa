//! Damage that was met while the log runs: noting it, and putting it right.
//!
//! Invariants: an entry is noted as faulty only while the index says that it lies where the damage
//! is; a repair changes no entry, it only gives back bytes that the checksums vouch for. A lost
//! footer is made again from the blocks; what was already known of the segment stays known.

use std::io;

use bytes::Bytes;
use tokio::sync::oneshot;
use tristream_proto::domain::GroupId;

use super::fetch::fetch_head;
use super::fetch::fetch_payload;
use super::frame::{Frame, Head, What};
use super::group::{Dying, Place};
use super::scan::{Next, Scanner};
use super::segment::directory::Position;
use super::segment::footer::{Trailer, offset_of};
use super::segment::{Directory, Header, footer, name};
use super::state::{Done, Stage, State, Write, removed};
use super::{Entry, EntryId, EntryKind, Faulty, Shared, writer};
use crate::disk::File;

impl Shared {
    /// An entry was not found intact at `place`; `head` if that much of it is. Notes it as faulty,
    /// unless it lies elsewhere by now: then it is to be read again.
    pub(super) async fn suspect(
        &self,
        group: GroupId,
        id: EntryId,
        place: Place,
        head: Option<Head>,
    ) -> io::Result<()> {
        let is_lost = head.is_none();
        if is_lost
            && (self.mend_footer(place.segment).await?
                || self.is_elsewhere(group, id, place).await?)
        {
            return Ok(());
        }
        let mut state = self.state.lock();
        if !lies_at(&state, group, id, place) {
            return Ok(());
        }
        let index = id.index;
        if let Some(known) = state.groups.get_mut(&group)
            && known.faulty.insert(index, head).is_none()
        {
            drop(state);
            self.metrics.observe_faulty();
            let segment = name(place.segment);
            tracing::warn!(%group, index, segment, at = place.offset, "log entry is damaged on disk");
        }
        Err(Faulty { group, index }.error())
    }

    /// Whether the footer, which is intact, says that the entry lies elsewhere in the segment: it was made
    /// again after somebody else had looked the place up.
    async fn is_elsewhere(&self, group: GroupId, id: EntryId, place: Place) -> io::Result<bool> {
        let known = {
            let state = self.state.lock();
            let group = state.groups.get(&group);
            // A repair lies where memory says.
            let group = group.filter(|known| known.place(id.index).is_none());
            let run = group.and_then(|known| known.run(id.index)).copied();
            let run = run.filter(|run| run.segment == place.segment);
            let segment = state.segments.get(&place.segment);
            run.zip(segment.and_then(|known| known.trailer()))
        };
        let (Some((run, trailer)), Some(file)) = (known, self.file(place.segment)?) else {
            return Ok(false);
        };
        let at = run.table_at + (id.index - run.first);
        let positions = trailer.read_positions(&*file, at, 1).await?;
        Ok(positions.first().is_some_and(|found| offset_of(*found) != place.offset))
    }

    pub(super) async fn repair(&self, group: GroupId, entry: Entry) -> io::Result<()> {
        let room = self.room_for(entry.payload.len()).await?;
        let (durable, answer) = oneshot::channel();
        let frame = Frame::repair(group, entry);
        {
            let mut state = self.state.lock();
            if !check_repair(&mut state, group, &frame)? {
                return Ok(());
            }
            let frames = vec![(state.ticket(), frame)];
            let done = Done::new(Box::new(move |result| {
                // Whoever asked may have gone.
                let _ = durable.send(result);
            }));
            let (done, room) = (Some(done), Some(room));
            state.enqueue(Write { frames, dying: Dying::default(), done, room });
        }
        self.work.notify_one();
        answer.await.unwrap_or_else(|_| Err(self.stopped()))?;
        self.metrics.observe_repaired();
        Ok(())
    }

    pub(super) async fn read_checkpoint(
        &self,
        group: GroupId,
        applied: EntryId,
    ) -> io::Result<Option<Bytes>> {
        loop {
            let (place, salt) = {
                let state = self.state.lock();
                let Some(known) = state.groups.get(&group) else { return Ok(None) };
                let Some(kept) = known.checkpoint(applied).filter(|_| known.holds(applied)) else {
                    return Ok(None);
                };
                if let Some(bytes) = &kept.state {
                    return Ok(Some(bytes.clone()));
                }
                let Some(place) = kept.place else { return Ok(None) };
                let Some(segment) = state.segments.get(&place.segment) else { return Ok(None) };
                (place, segment.header.salt)
            };
            let Some(file) = self.file(place.segment)? else { continue };
            let head = fetch_head(&*file, salt, place.offset).await;
            let head = head
                .filter(|head| head.group == group && head.what == What::Checkpoint { applied });
            let bytes = match &head {
                Some(head) => fetch_payload(&*file, place.offset, head).await?,
                None => None,
            };
            if bytes.is_some() {
                return Ok(bytes);
            }
            if self.forget_checkpoint(group, applied, place) {
                let (index, segment) = (applied.index, name(place.segment));
                return Err(super::segment::damaged(format!(
                    "group {group}: the checkpoint at {index} is damaged, in segment {segment}"
                )));
            }
        }
    }

    /// The repair of an entry is damaged, too: it is faulty again.
    pub(super) fn forget_repair(&self, group: GroupId, index: u64, place: Place) {
        let mut state = self.state.lock();
        if let Some(known) = state.groups.get_mut(&group)
            && known.repairs.get(&index) == Some(&place)
        {
            known.repairs.remove(&index);
            known.faulty.insert(index, None);
        }
    }

    /// Tells of a damaged checkpoint no more. `false`: it lies elsewhere by now.
    pub(super) fn forget_checkpoint(&self, group: GroupId, applied: EntryId, place: Place) -> bool {
        let mut state = self.state.lock();
        let Some(known) = state.groups.get_mut(&group) else { return true };
        let before = known.checkpoints.len();
        known
            .checkpoints
            .retain(|kept| kept.id != applied || kept.place != Some(place) || kept.state.is_some());
        let forgotten = known.checkpoints.len() < before;
        forgotten || known.checkpoint(applied).is_none()
    }

    /// Looks whether the footer of a sealed segment is damaged, and makes it again then. `true`: it
    /// was, so what was read from it is to be read again.
    pub(super) async fn mend_footer(&self, sequence: u64) -> io::Result<bool> {
        let Ok(_alone) = self.mending.acquire().await else { return Err(self.stopped()) };
        let known = {
            let state = self.state.lock();
            state.segments.get(&sequence).and_then(|segment| {
                Some((segment.header, segment.trailer()?, segment.len, segment.last_batch))
            })
        };
        let Some((header, trailer, len, last_batch)) = known else { return Ok(false) };
        let Some(file) = self.file(sequence)? else { return Ok(true) };
        let intact = is_intact(&*file, &header, trailer).await;
        if let Ok(true) = intact {
            return Ok(false);
        }
        let Some(directory) = self.scan_again(&header, len).await? else {
            // It may be the disk that does not read: that is not damage.
            intact?;
            return Err(footer::lost(&header));
        };
        let encoded = footer::encode(&header, &directory, len, last_batch);
        writer::write_footer(&*file, &encoded).await?;
        file.sync().await?;
        // It may be laid out otherwise: the one before was written without a checkpoint that opening
        // had found damaged, or that was damaged since is in it. What is numbered in it stays so.
        if let Some(segment) = self.state.lock().segments.get_mut(&sequence) {
            segment.stage = Stage::Sealed(encoded.trailer);
        }
        self.metrics.observe_footer_mended();
        tracing::warn!(segment = name(sequence), "damaged footer of a log segment made again");
        Ok(true)
    }

    /// Entries of a footer's table; where they cannot be read, that is mended first. `None`: they are to
    /// be looked for again.
    pub(super) async fn positions(
        &self,
        file: &dyn File,
        segment: u64,
        trailer: &Trailer,
        at: u64,
        count: u64,
    ) -> io::Result<Option<Vec<Position>>> {
        match trailer.read_positions(file, at, count).await {
            Ok(positions) => Ok(Some(positions)),
            Err(_) if self.mend_footer(segment).await? => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the blocks of a segment say; `None` when any of them is lost.
    async fn scan_again(&self, header: &Header, len: u64) -> io::Result<Option<Directory>> {
        let Some(file) = self.file(header.sequence)? else { return Ok(None) };
        let mut scanner = Scanner::new(file, *header, len);
        let mut directory = Directory::default();
        while scanner.at < len {
            let Next::Block(block) = scanner.next().await? else { return Ok(None) };
            for found in block.frames {
                directory.note(&found.head, found.offset);
            }
        }
        Ok(Some(directory))
    }

    /// Reads all entries of a sealed segment whose heads lie in `from..to`, one by one: where there is
    /// damage, this notes it.
    pub(super) async fn check_entries(&self, sequence: u64, from: u64, to: u64) -> io::Result<()> {
        let runs: Vec<_> = {
            let state = self.state.lock();
            let here = |(&id, group): (&GroupId, &super::group::Group)| {
                let runs = group.runs().filter(|run| run.segment == sequence);
                runs.map(|run| (id, *run)).collect::<Vec<_>>()
            };
            state.groups.iter().flat_map(here).collect()
        };
        let trailer = self.state.lock().segments.get(&sequence).and_then(|known| known.trailer());
        let (Some(trailer), Some(file)) = (trailer, self.file(sequence)?) else { return Ok(()) };
        for (group, run) in runs {
            let positions = trailer.read_positions(&*file, run.table_at, run.count).await?;
            for (index, position) in (run.first..).zip(positions) {
                if (from..to).contains(&offset_of(position)) {
                    // Damage is noted by the read; other trouble comes up again where it matters.
                    let _ = self.read(group, index..index + 1, 1).await;
                }
            }
        }
        Ok(())
    }
}

/// Whether a footer is as it was written.
async fn is_intact(file: &dyn File, header: &Header, trailer: Trailer) -> io::Result<bool> {
    let same = Trailer::read(file, header).await? == Some(trailer);
    let directory = trailer.read_directory(file, header).await?.is_some();
    Ok(same && directory && trailer.table_is_intact(file, header).await?)
}

/// Whether the index says that this entry lies there.
fn lies_at(state: &State, group: GroupId, id: EntryId, place: Place) -> bool {
    let Some(known) = state.groups.get(&group) else { return false };
    if known.id(id.index) != Some(id) {
        return false;
    }
    match known.place(id.index) {
        Some(at) => at == place,
        None => known.run(id.index).is_some_and(|run| {
            run.segment == place.segment
                && state
                    .segments
                    .get(&run.segment)
                    .is_some_and(|segment| matches!(segment.stage, Stage::Sealed(_)))
        }),
    }
}

/// Whether there is something to repair with this frame.
fn check_repair(state: &mut State, group: GroupId, frame: &Frame) -> io::Result<bool> {
    if let Some(stop) = &state.stop {
        return Err(stop.error());
    }
    let Some((id, kind)) = frame.head.entry() else { return Ok(false) };
    let Some(known) = state.groups.get(&group) else { return Ok(false) };
    if known.removed {
        return Err(removed(group));
    }
    let Some(faulty) = known.faulty.get(&id.index) else { return Ok(false) };
    let same = known.id(id.index) == Some(id)
        && faulty.is_none_or(|head| is_same(&head, id, kind, &frame.head));
    match same {
        true => Ok(true),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("group {group}: another entry than the damaged one at {} was given", id.index),
        )),
    }
}

fn is_same(damaged: &Head, id: EntryId, kind: EntryKind, given: &Head) -> bool {
    damaged.entry() == Some((id, kind))
        && (damaged.len, damaged.payload_crc) == (given.len, given.payload_crc)
        && damaged.stamp_ms == given.stamp_ms
}
