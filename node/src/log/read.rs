//! Reading entries: from memory where they are hot, else from their segments.
//!
//! Invariant: what is returned carries the group and the id that were asked for, and its checksums
//! match; anything else is an error that names the place. Must not change the log.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tristream_proto::domain::GroupId;

use super::frame::{Body, Frame, HEADER_BYTES};
use super::group::{Place, Slot};
use super::segment::{self, damaged};
use super::state::{State, Stop, removed};
use super::{Entry, EntryId, EntryKind, Shared};
use crate::disk::File;

/// Frames this near to each other are read in one go, with what lies between.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// One read is not made longer than this by joining frames.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// Where an entry is to be had.
enum Source {
    Memory(Bytes),
    File { file: Arc<dyn File>, salt: u32, place: Place },
}

struct Piece {
    id: EntryId,
    kind: EntryKind,
    source: Source,
}

impl Shared {
    pub(super) async fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<Entry>> {
        let pieces = plan(&self.state.lock(), group, range, bytes_max)?;
        let mut entries = Vec::with_capacity(pieces.len());
        let mut rest = pieces.into_iter().peekable();
        while let Some(piece) = rest.next() {
            let (file, salt, first) = match piece.source {
                Source::Memory(payload) => {
                    entries.push(Entry { id: piece.id, kind: piece.kind, payload });
                    continue;
                }
                Source::File { file, salt, place } => (file, salt, place),
            };
            let mut run = vec![(piece.id, first)];
            let mut end = first.offset + first.len;
            while let Some(Piece { id, source: Source::File { place, .. }, .. }) =
                rest.next_if(|next| joins(next, first, end))
            {
                end = place.offset + place.len;
                run.push((id, place));
            }
            read_run(group, &*file, salt, &run, end, &mut entries).await?;
        }
        Ok(entries)
    }
}

/// What to read from where. Places and files are taken together, under the lock: a file that is
/// replaced meanwhile goes on to be readable at the old places.
fn plan(
    state: &State,
    group: GroupId,
    range: Range<u64>,
    bytes_max: usize,
) -> io::Result<Vec<Piece>> {
    if let Some(stop @ Stop::Failed(_)) = &state.stop {
        return Err(stop.error());
    }
    let Some(known) = state.groups.get(&group) else { return Ok(Vec::new()) };
    if known.removed {
        return Err(removed(group));
    }
    if range.is_empty() {
        return Ok(Vec::new());
    }
    if range.start < known.first() {
        let (start, first) = (range.start, known.first());
        let why = format!("group {group}: entry {start} was purged, the first is {first}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    for index in range {
        let Some(slot) = known.slot(index) else { break };
        bytes += slot.len + HEADER_BYTES;
        if bytes > bytes_max && !pieces.is_empty() {
            break;
        }
        pieces.push(Piece { id: slot.id, kind: slot.kind, source: source_of(state, group, slot)? });
    }
    Ok(pieces)
}

fn source_of(state: &State, group: GroupId, slot: &Slot) -> io::Result<Source> {
    if let Some(payload) = &slot.payload {
        return Ok(Source::Memory(payload.clone()));
    }
    let segment = slot.place.and_then(|place| state.segments.get(&place.segment).zip(Some(place)));
    let Some((segment, place)) = segment else {
        let index = slot.id.index;
        return Err(damaged(format!("group {group}: entry {index} is nowhere")));
    };
    Ok(Source::File { file: Arc::clone(&segment.file), salt: segment.header.salt, place })
}

fn joins(next: &Piece, first: Place, end: u64) -> bool {
    let Source::File { place, .. } = &next.source else { return false };
    place.segment == first.segment
        && place.offset >= end
        && place.offset - end <= GAP_BYTES_MAX
        && place.offset + place.len - first.offset <= RUN_BYTES_MAX
}

async fn read_run(
    group: GroupId,
    file: &dyn File,
    salt: u32,
    run: &[(EntryId, Place)],
    end: u64,
    entries: &mut Vec<Entry>,
) -> io::Result<()> {
    let Some(&(_, first)) = run.first() else { return Ok(()) };
    let bytes = file.read_at(first.offset, (end - first.offset) as usize).await?;
    for &(wanted, place) in run {
        let from = (place.offset - first.offset) as usize;
        let frame = Frame::decode(&bytes.slice(from..from + place.len as usize), salt);
        match frame {
            Ok(Frame { group: found, body: Body::Entry { id, kind, payload }, .. })
                if found == group && id == wanted =>
            {
                entries.push(Entry { id, kind, payload });
            }
            _ => {
                let (index, name) = (wanted.index, segment::name(place.segment));
                let offset = place.offset;
                return Err(damaged(format!(
                    "group {group}: entry {index} is damaged, in segment {name} at {offset}"
                )));
            }
        }
    }
    Ok(())
}
