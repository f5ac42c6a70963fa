//! Copying what counts into a new segment.
//!
//! Reads a portion at a time: as many entries of as few groups as memory allows, in the order in which
//! they lie in the old files; writes them in the order of groups and indexes. Keeps to the rate, and
//! steps back while commits wait.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tristream_proto::domain::GroupId;

use super::plan::{Part, Piece, Plan};
use crate::disk::File;
use crate::log::carry::read_mark;
use crate::log::fetch::{Fetched, Wanted, fetch};
use crate::log::frame::{Frame, What};
use crate::log::group::Place;
use crate::log::keeper::frame_of;
use crate::log::pace::Pace;
use crate::log::read::is_entry;
use crate::log::segment::directory::Directory;
use crate::log::segment::footer::offset_of;
use crate::log::segment::{Header, damaged};
use crate::log::writer::Writer;
use crate::log::{EntryId, Shared};

/// Bytes of entries in memory at a time.
const PORTION_BYTES: u64 = 16 << 20;
/// Blocks are gathered up to this size.
const BLOCK_BYTES: usize = 1 << 20;
/// While commits wait for the disk, the copy waits this long between its writes.
const STEP_BACK: Duration = Duration::from_millis(2);

/// A copy in the making.
pub(super) struct Copier<'a> {
    shared: &'a Arc<Shared>,
    pace: Pace,
    writer: Writer,
    directory: Directory,
    gathered: Vec<(Frame, Option<Place>)>,
    bytes: usize,
    moved: BTreeMap<Place, Place>,
    mended: Vec<(GroupId, u64, Place)>,
}

/// A finished copy, not synced.
pub(super) struct Copied {
    pub(super) writer: Writer,
    pub(super) directory: Directory,
    pub(super) moved: BTreeMap<Place, Place>,
    pub(super) mended: Vec<(GroupId, u64, Place)>,
}

/// Part of a piece.
struct Portion {
    group: GroupId,
    piece: Piece,
}

impl<'a> Copier<'a> {
    pub(super) async fn begin(
        shared: &'a Arc<Shared>,
        file: Arc<dyn File>,
        header: Header,
    ) -> io::Result<Copier<'a>> {
        Ok(Copier {
            shared,
            pace: Pace::new(shared.config.rewrite_bytes_per_second),
            writer: Writer::begin(file, header).await?,
            directory: Directory::default(),
            gathered: Vec::new(),
            bytes: 0,
            moved: BTreeMap::new(),
            mended: Vec::new(),
        })
    }

    /// Copies all of it.
    pub(super) async fn copy(&mut self, plan: &Plan) -> io::Result<()> {
        for shadow in &plan.shadows {
            self.add(frame_of(shadow), None).await?;
        }
        for (&group, part) in &plan.groups {
            self.marks(group, part).await?;
        }
        if let Some(place) = plan.retired {
            self.retired(place).await?;
        }
        let mut waiting: Vec<Portion> = Vec::new();
        let mut bytes = 0;
        for (&group, part) in &plan.groups {
            for &piece in &part.pieces {
                for piece in split(piece) {
                    bytes += piece.bytes;
                    waiting.push(Portion { group, piece });
                    if bytes >= PORTION_BYTES {
                        self.portion(plan, &std::mem::take(&mut waiting)).await?;
                        bytes = 0;
                    }
                }
            }
        }
        self.portion(plan, &waiting).await
    }

    async fn marks(&mut self, group: GroupId, part: &Part) -> io::Result<()> {
        for &(what, place) in &part.marks {
            // A damaged one was noted; a vote or the like is in memory, and comes from there.
            match read_mark(self.shared, group, what, place).await? {
                Some(frame) => self.add(frame, Some(place)).await?,
                None if matches!(what, What::Checkpoint { .. } | What::Repair { .. }) => {}
                None => return Err(damaged(format!("group {group}: a mark at {place:?}"))),
            }
        }
        Ok(())
    }

    async fn retired(&mut self, place: Place) -> io::Result<()> {
        let frame = {
            let state = self.shared.state.lock();
            state.retired.as_ref().map(|kept| Frame::retired(kept.value.encode()))
        };
        match frame {
            Some(frame) => self.add(frame, Some(place)).await,
            None => Ok(()),
        }
    }

    /// Reads some entries and adds them.
    async fn portion(&mut self, plan: &Plan, portion: &[Portion]) -> io::Result<()> {
        let mut wanted: BTreeMap<u64, Vec<(GroupId, u64, Wanted, u32)>> = BTreeMap::new();
        for Portion { group, piece } in portion {
            let file = self.file(piece.segment)?;
            let positions =
                piece.trailer.read_positions(&*file, piece.table_at, piece.count).await?;
            let repairs = plan.groups.get(group).map(|part| &part.repairs);
            for (index, position) in (piece.first..).zip(positions) {
                let (mut segment, mut salt) = (piece.segment, piece.salt);
                let mut want = Wanted { offset: offset_of(position), len: position.len };
                if let Some(place) = repairs.and_then(|repairs| repairs.get(&index)) {
                    (segment, want.offset) = (place.segment, place.offset);
                    salt = self.salt(segment)?;
                    self.mended.push((*group, index, *place));
                }
                wanted.entry(segment).or_default().push((*group, index, want, salt));
            }
        }
        let mut frames = BTreeMap::new();
        for (segment, mut wanted) in wanted {
            wanted.sort_unstable_by_key(|(_, _, want, _)| want.offset);
            self.read(segment, &wanted, &mut frames).await?;
        }
        for frame in frames.into_values() {
            self.add(frame, None).await?;
        }
        Ok(())
    }

    async fn read(
        &mut self,
        segment: u64,
        wanted: &[(GroupId, u64, Wanted, u32)],
        frames: &mut BTreeMap<(GroupId, u64), Frame>,
    ) -> io::Result<()> {
        let Some((_, _, _, salt)) = wanted.first().copied() else { return Ok(()) };
        let places: Vec<Wanted> = wanted.iter().map(|(_, _, want, _)| *want).collect();
        let fetched = fetch(&*self.file(segment)?, salt, &places).await;
        for ((group, index, want, _), fetched) in wanted.iter().zip(fetched) {
            let place = Place { segment, offset: want.offset };
            let id = self.id(*group, *index);
            match fetched {
                Fetched::Frame(head, payload)
                    if id.is_none_or(|id| is_entry(&head, *group, id))
                        && head.entry().is_some_and(|(id, _)| id.index == *index) =>
                {
                    let frame = Frame { head, payload };
                    if let Some(entry) = frame.into_entry() {
                        frames.insert((*group, *index), Frame::entry(*group, entry));
                    }
                }
                fetched => {
                    let head = match fetched {
                        Fetched::Payload(head) => Some(head),
                        _ => None,
                    };
                    // If it does not count any more, a later attempt leaves it out.
                    if let Some(id) = id {
                        self.shared.suspect(*group, id, place, head).await?;
                    }
                    return Err(io::Error::other(format!(
                        "group {group}: entry {index} moved while it was copied"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The id of an entry, if it counts still.
    fn id(&self, group: GroupId, index: u64) -> Option<EntryId> {
        self.shared.state.lock().groups.get(&group)?.id(index)
    }

    fn file(&self, segment: u64) -> io::Result<Arc<dyn File>> {
        self.shared.file(segment)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn salt(&self, segment: u64) -> io::Result<u32> {
        let state = self.shared.state.lock();
        let known = state.segments.get(&segment).map(|known| known.header.salt);
        known.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Adds a frame; `from` is where a mark was.
    async fn add(&mut self, frame: Frame, from: Option<Place>) -> io::Result<()> {
        self.bytes += frame.bytes();
        self.gathered.push((frame, from));
        if self.bytes >= BLOCK_BYTES {
            let follows = self.writer.header.follows;
            self.write(follows).await?;
        }
        Ok(())
    }

    async fn write(&mut self, batch: u64) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.bytes = 0;
        let frames: Vec<&Frame> = gathered.iter().map(|(frame, _)| frame).collect();
        let header = self.writer.header;
        let begins = self.writer.len;
        let block = self.writer.encode(batch, header.follows, &frames);
        for ((at, head), (_, from)) in block.heads.iter().zip(&gathered) {
            self.directory.note(head, begins + at);
            if let Some(from) = from {
                let to = Place { segment: header.sequence, offset: begins + at };
                self.moved.insert(*from, to);
            }
        }
        self.writer.write(block.parts, block.len, block.crc, false).await?;
        self.pace.spend(block.len).await;
        let busy = self.shared.state.lock().queued_bytes > 0;
        if busy {
            tokio::time::sleep(STEP_BACK).await;
        }
        Ok(())
    }

    /// Writes the last block: it has the last of the batches.
    pub(super) async fn finish(mut self) -> io::Result<Copied> {
        self.write(self.writer.header.whole_upto).await?;
        let Copier { writer, directory, moved, mended, .. } = self;
        Ok(Copied { writer, directory, moved, mended })
    }
}

/// Cuts a piece so that each has about a portion's bytes at most.
fn split(piece: Piece) -> impl Iterator<Item = Piece> {
    let parts = piece.bytes.div_ceil(PORTION_BYTES).clamp(1, piece.count.max(1));
    let each = piece.count.div_ceil(parts).max(1);
    let starts = (0..piece.count).step_by(usize::try_from(each).unwrap_or(usize::MAX));
    starts.map(move |at| {
        let count = each.min(piece.count - at);
        let bytes = piece.bytes / piece.count.max(1) * count;
        let (table_at, first) = (piece.table_at + at, piece.first + at);
        Piece { table_at, first, count, bytes, ..piece }
    })
}
