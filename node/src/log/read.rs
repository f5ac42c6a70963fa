//! Reading entries: from memory where they are hot, else from their segments.
//!
//! Invariant: what is returned carries the group and the id that were asked for, and its checksums
//! match; anything else is an error, and the entry is noted as faulty. Must not change what entries
//! there are.

use std::io;
use std::ops::Range;

use tristream_proto::domain::GroupId;

use super::fetch::{Fetched, Wanted, fetch};
use super::frame::{HEAD_BYTES, Head};
use super::group::{Group, Place};
use super::segment::directory::Position;
use super::segment::footer::{Trailer, offset_of};
use super::state::{State, Stop, removed};
use super::{Entry, EntryId, Faulty, Shared};

/// Entries of one segment are read at most so many at a time.
const ENTRIES_MAX: u64 = 4096;
/// How often the index is looked at again when what it said was not there: its segments may have
/// been rewritten meanwhile.
const TRIES_MAX: usize = 16;

/// What to read next.
enum Chunk {
    /// There is nothing more.
    End,
    Memory(Vec<Entry>),
    /// Entries of one segment whose places are known.
    Places {
        segment: u64,
        salt: u32,
        wanted: Vec<(EntryId, Wanted)>,
    },
    /// Entries of one segment whose places its footer tells.
    Run {
        segment: u64,
        salt: u32,
        trailer: Trailer,
        table_at: u64,
        ids: Vec<EntryId>,
    },
    Faulty(Faulty),
    /// Of a planted bug: the next entry is passed over.
    #[cfg(planted)]
    Lost,
}

/// How far a read has come.
struct Progress {
    entries: Vec<Entry>,
    next: u64,
    end: u64,
    bytes_left: usize,
}

impl Progress {
    /// How many of the next entries, with payloads of these lengths, may be added: at least one if
    /// there is none yet.
    fn admits(&self, lens: impl Iterator<Item = usize>) -> usize {
        let (mut count, mut left) = (0, self.bytes_left);
        for len in lens {
            let bytes = len + HEAD_BYTES;
            if bytes > left && (count > 0 || !self.entries.is_empty()) {
                break;
            }
            left = left.saturating_sub(bytes);
            count += 1;
        }
        count
    }

    fn push(&mut self, entry: Entry) {
        self.next = entry.id.index + 1;
        self.bytes_left = self.bytes_left.saturating_sub(entry.payload.len() + HEAD_BYTES);
        self.entries.push(entry);
    }

    fn is_done(&self) -> bool {
        self.next >= self.end || (self.bytes_left == 0 && !self.entries.is_empty())
    }
}

impl Shared {
    pub(super) async fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<Entry>> {
        let mut progress = Progress {
            entries: Vec::new(),
            next: range.start,
            end: range.end,
            bytes_left: bytes_max,
        };
        let mut tries = 0;
        while !progress.is_done() {
            let before = progress.next;
            let more = match self.step(group, &mut progress).await {
                Ok(more) => more,
                // What was read is good; the next call meets the error again, if it is still there.
                Err(_) if !progress.entries.is_empty() => false,
                Err(error) => return Err(error),
            };
            if !more {
                break;
            }
            tries = if progress.next > before { 0 } else { tries + 1 };
            if tries > TRIES_MAX {
                let index = progress.next;
                return Err(io::Error::other(format!(
                    "group {group}: entry {index} moves faster than it can be read: try again"
                )));
            }
        }
        Ok(progress.entries)
    }

    /// Reads some more. `false`: there is no more to read.
    async fn step(&self, group: GroupId, progress: &mut Progress) -> io::Result<bool> {
        let chunk = plan(&self.state.lock(), group, progress)?;
        match chunk {
            Chunk::End => Ok(false),
            Chunk::Memory(entries) => {
                let all = entries.len();
                let admitted = progress.admits(entries.iter().map(|entry| entry.payload.len()));
                entries.into_iter().take(admitted).for_each(|entry| progress.push(entry));
                Ok(admitted == all)
            }
            Chunk::Places { segment, salt, wanted } => {
                self.read_places(group, segment, salt, &wanted, progress).await
            }
            Chunk::Run { segment, salt, trailer, table_at, ids } => {
                let Some(file) = self.file(segment)? else { return Ok(true) };
                let count = ids.len() as u64;
                let found = self.positions(&*file, segment, &trailer, table_at, count).await?;
                let Some(positions) = found else { return Ok(true) };
                drop(file);
                let place = |(id, position): (EntryId, Position)| {
                    (id, Wanted { offset: offset_of(position), len: position.len })
                };
                let wanted: Vec<_> = ids.into_iter().zip(positions).map(place).collect();
                self.read_places(group, segment, salt, &wanted, progress).await
            }
            Chunk::Faulty(faulty) => Err(faulty.error()),
            #[cfg(planted)]
            Chunk::Lost => {
                progress.next += 1;
                Ok(true)
            }
        }
    }

    async fn read_places(
        &self,
        group: GroupId,
        segment: u64,
        salt: u32,
        all: &[(EntryId, Wanted)],
        progress: &mut Progress,
    ) -> io::Result<bool> {
        let admitted = progress.admits(all.iter().map(|(_, wanted)| wanted.len as usize));
        let (admitted, more) = (&all[..admitted], admitted == all.len());
        let Some(file) = self.file(segment)? else { return Ok(true) };
        let wanted: Vec<Wanted> = admitted.iter().map(|(_, wanted)| *wanted).collect();
        let fetched = fetch(&*file, salt, &wanted).await;
        drop(file);
        for ((id, wanted), fetched) in admitted.iter().zip(fetched) {
            match fetched {
                Fetched::Frame(head, payload) if is_entry(&head, group, *id) => {
                    let Some((id, kind)) = head.entry() else { continue };
                    progress.push(Entry { id, kind, stamp_ms: head.stamp_ms, payload });
                }
                fetched => {
                    let place = Place { segment, offset: wanted.offset };
                    let head = match fetched {
                        Fetched::Payload(head) if is_entry(&head, group, *id) => Some(head),
                        _ => None,
                    };
                    self.suspect(group, *id, place, head).await?;
                    return Ok(true);
                }
            }
        }
        Ok(more)
    }

    /// The file of a segment; `None` when the segment was given up meanwhile.
    pub(super) fn file(
        &self,
        segment: u64,
    ) -> io::Result<Option<std::sync::Arc<dyn crate::disk::File>>> {
        match self.files.get(segment) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match self.state.lock().segments.contains_key(&segment) {
                    true => Err(error),
                    false => Ok(None),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether a head is that of this entry, or of its repair.
pub(super) fn is_entry(head: &Head, group: GroupId, id: EntryId) -> bool {
    head.group == group && head.entry().is_some_and(|(found, _)| found == id)
}

/// What to read next, and from where.
fn plan(state: &State, group: GroupId, progress: &Progress) -> io::Result<Chunk> {
    if let Some(stop @ Stop::Failed(_)) = &state.stop {
        return Err(stop.error());
    }
    let Some(known) = state.groups.get(&group) else { return Ok(Chunk::End) };
    if known.removed {
        return Err(removed(group));
    }
    let (index, first) = (progress.next, known.first());
    if index < first {
        let why = format!("group {group}: entry {index} was purged, the first is {first}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let end = progress.end.min(known.next());
    if index >= end {
        return Ok(Chunk::End);
    }
    let memory = in_memory(known, index..end, progress.bytes_left);
    if !memory.is_empty() {
        return Ok(Chunk::Memory(memory));
    }
    if known.faulty.contains_key(&index) {
        return Ok(Chunk::Faulty(Faulty { group, index }));
    }
    // What was repaired lies elsewhere; what is faulty ends the read.
    let odd = known.repairs.keys().chain(known.faulty.keys()).copied();
    let end = odd.filter(|odd| *odd > index).min().map_or(end, |odd| end.min(odd));
    let end = end.min(index + ENTRIES_MAX);
    if known.repairs.contains_key(&index) {
        return places(state, group, known, index..index + 1);
    }
    match known.run(index) {
        #[cfg(planted)]
        Some(run) if index + 1 == run.end() && planted!(LostAtBorder) => Ok(Chunk::Lost),
        Some(run) => {
            let Some(account) = state.segments.get(&run.segment) else {
                return Err(nowhere(group, index));
            };
            let Some(trailer) = account.trailer() else { return Err(nowhere(group, index)) };
            let ids = (index..end.min(run.end())).filter_map(|index| known.id(index));
            Ok(Chunk::Run {
                segment: run.segment,
                salt: account.header.salt,
                trailer,
                table_at: run.table_at + (index - run.first),
                ids: ids.collect(),
            })
        }
        None => places(state, group, known, index..end),
    }
}

/// The entries from the first on whose payloads are in memory.
fn in_memory(known: &Group, range: Range<u64>, bytes_max: usize) -> Vec<Entry> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for index in range {
        let Some(slot) = known.slot(index) else { break };
        let (Some((kind, payload)), Some(id)) = (&slot.payload, known.id(index)) else { break };
        bytes += payload.len();
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(Entry { id, kind: *kind, stamp_ms: slot.stamp_ms, payload: payload.clone() });
    }
    entries
}

/// Entries whose places the index knows, as far as they lie in one segment.
fn places(state: &State, group: GroupId, known: &Group, range: Range<u64>) -> io::Result<Chunk> {
    let first = range.start;
    let place = known.place(first).ok_or_else(|| nowhere(group, first))?;
    let segment = place.segment;
    let account = state.segments.get(&segment).ok_or_else(|| nowhere(group, first))?;
    let mut wanted = Vec::new();
    for index in range {
        let place = known.place(index).filter(|place| place.segment == segment);
        let (Some(place), Some(id)) = (place, known.id(index)) else { break };
        let slot = known.slot(index);
        if slot.is_some_and(|slot| slot.payload.is_some()) {
            break;
        }
        let len = slot.map_or(0, |slot| slot.len);
        wanted.push((id, Wanted { offset: place.offset, len }));
    }
    if wanted.is_empty() {
        return Err(nowhere(group, first));
    }
    Ok(Chunk::Places { segment, salt: account.header.salt, wanted })
}

/// Never happens: the index is wrong.
fn nowhere(group: GroupId, index: u64) -> io::Error {
    super::segment::damaged(format!("group {group}: entry {index} is nowhere"))
}
