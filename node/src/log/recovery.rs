//! Opening the log: from files back to memory.
//!
//! Invariants: only bytes that were never acknowledged are cut; damage anywhere else refuses to
//! open and changes nothing. What was read back but is not proven durable (after a kill, or a
//! failed sync, it may live in the page cache alone, and a second sync would lie) is written again,
//! into a new segment, and synced before anything of it is reported. A block is proven by a later
//! one that was written after its sync, by the header of a later segment, or by having been synced
//! before its file got its name.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tristream_proto::domain::GroupId;

use super::EntryId;
use super::committer::{Numbers, salt};
use super::frame::{Body, Frame};
use super::group::{Dying, Group, Kept, Place, Slot, keep};
use super::segment::{self, Block, Header, Next, Reader, Writer, damaged};
use super::state::{Segment, State};
use crate::disk::{Disk, File, Open};
use crate::entropy::Entropy;
use crate::metrics::Metrics;

/// What was found.
pub(super) struct Recovered {
    pub(super) state: State,
    /// The segment that holds what was written again, to be continued.
    pub(super) active: Option<Writer>,
    pub(super) next: Numbers,
}

/// Opens the log in `dir`.
pub(super) async fn recover(
    dir: &Path,
    disk: &dyn Disk,
    entropy: &dyn Entropy,
    metrics: &Metrics,
) -> io::Result<Recovered> {
    disk.create_dir_all(dir)?;
    let names = disk.list(dir)?;
    let found = read_headers(dir, disk, &names).await?;
    let last = found.last().map(|segment| segment.header.sequence);

    let mut scan = Scan::default();
    for at in 0..found.len() {
        let next = found.get(at + 1).map(|next| next.header);
        scan.segment(&found[at], next).await?;
        let (segment, segments) = (found[at].header.sequence, found.len());
        tracing::info!(segment, done = at + 1, segments, "log segment scanned");
    }
    let Scan { mut groups, mut segments, unproven, cuts, torn, proven, .. } = scan;

    // Until here nothing was changed; all of it made sense, so now it may be.
    remove_unfinished(dir, disk, &names).await?;
    let mut next = Numbers { segment: last.unwrap_or(0) + 1, batch: proven + 1 };
    let has_frames = unproven.iter().any(|block| !block.frames.is_empty());
    let mut active = None;
    if has_frames {
        let writer =
            write_again(dir, disk, entropy, next.segment, proven, &unproven, &mut groups).await?;
        next.segment += 1;
        next.batch = writer.0.header.whole_upto + 1;
        segments.insert(writer.0.header.sequence, writer.1);
        active = Some(writer.0);
    }
    for cut in cuts {
        // What was written again is not needed twice; what is written nowhere else stays.
        let len = if has_frames || !cut.last { cut.proven_len } else { cut.valid_len };
        if cut.file.len()? > len {
            cut.file.set_len(len).await?;
            cut.file.sync().await?;
        }
    }
    if torn {
        metrics.observe_torn_tail();
        tracing::warn!("a torn tail of the log was cut: a write that was never acknowledged");
    }
    let mut state = State::default();
    state.segments = segments;
    for (id, group) in groups {
        let group = group.finish(id)?;
        state.groups.insert(id, group);
    }
    count(&mut state);
    let (count, bytes) = state.size();
    metrics.set_log_size(count, bytes);
    Ok(Recovered { state, active, next })
}

struct Found {
    file: Arc<dyn File>,
    header: Header,
    crc: u32,
}

/// Opens all segments, oldest first. Changes nothing.
async fn read_headers(dir: &Path, disk: &dyn Disk, names: &[String]) -> io::Result<Vec<Found>> {
    let mut sequences: Vec<u64> =
        names.iter().filter_map(|name| segment::sequence_of(name)).collect();
    sequences.sort_unstable();
    let mut found = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        let file = disk.open(&dir.join(segment::name(sequence)), Open::Existing)?;
        let (header, crc) = Header::read(&*file, sequence).await?;
        found.push(Found { file, header, crc });
    }
    Ok(found)
}

async fn remove_unfinished(dir: &Path, disk: &dyn Disk, names: &[String]) -> io::Result<()> {
    for name in names.iter().filter(|name| name.ends_with(".seg.tmp")) {
        disk.remove(&dir.join(name))?;
    }
    // Also makes sure that the names which were read back are durable ones.
    disk.sync_dir(dir).await?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => disk.sync_dir(parent).await,
        _ => Ok(()),
    }
}

/// A file with bytes at its end that do not count.
struct Cut {
    file: Arc<dyn File>,
    /// It is the newest segment.
    last: bool,
    proven_len: u64,
    valid_len: u64,
}

/// Progress of reading all segments.
#[derive(Default)]
struct Scan {
    groups: BTreeMap<GroupId, Replay>,
    segments: BTreeMap<u64, Segment>,
    /// Valid blocks at the end of the newest segment that may live in the page cache alone.
    unproven: Vec<Block>,
    cuts: Vec<Cut>,
    torn: bool,
    /// The newest batch that is proven durable.
    proven: u64,
}

impl Scan {
    /// Reads one segment; `next` is the header of the one after it.
    async fn segment(&mut self, found: &Found, next: Option<Header>) -> io::Result<()> {
        let Found { file, header, crc } = found;
        let bound = next.map(|next| next.follows);
        let mut account = Segment::new(Arc::clone(file), *header, *crc);
        account.sealed = true;
        let proven = header.follows.max(header.whole_upto);
        self.proven = self.proven.max(bound.unwrap_or(proven));

        let mut reader = Reader::new(Arc::clone(file), header.salt, *crc, file.len()?);
        let mut held: Vec<(Block, u64)> = Vec::new();
        let (mut last, mut bad) = (header.follows, false);
        loop {
            match reader.next().await? {
                Next::Block(block) if bound.is_some_and(|bound| block.batch > bound) => break,
                Next::Block(block) => {
                    last = block.batch;
                    self.proven = self.proven.max(block.durable_upto);
                    held.push((block, reader.at));
                    let known = held.iter().take_while(|(block, _)| block.batch <= self.proven);
                    let known = known.count();
                    for (block, end) in held.drain(..known) {
                        account.len = end;
                        account.last_batch = block.batch;
                        self.apply(&mut account, block.frames);
                    }
                }
                Next::End => break,
                Next::Bad => {
                    bad = true;
                    break;
                }
            }
        }
        check_end(&mut reader, header, next, last, bad).await?;
        // Bad bytes before a newer segment are leftovers of an earlier opening, not news.
        self.torn |= bad && bound.is_none();
        let valid_len = held.last().map_or(account.len, |(_, end)| *end);
        let (file, proven_len) = (Arc::clone(file), account.len);
        if file.len()? > proven_len {
            self.cuts.push(Cut { file, last: bound.is_none(), proven_len, valid_len });
        }
        self.unproven = held.into_iter().map(|(block, _)| block).collect();
        self.segments.insert(header.sequence, account);
        Ok(())
    }

    fn apply(&mut self, account: &mut Segment, frames: Vec<(u64, Frame)>) {
        for (offset, frame) in frames {
            apply(&mut self.groups, account, offset, &frame);
        }
    }
}

/// Whether a segment may end where its valid blocks end.
async fn check_end(
    reader: &mut Reader,
    header: &Header,
    next: Option<Header>,
    last: u64,
    bad: bool,
) -> io::Result<()> {
    let known_upto = match next {
        // With a segment missing in between, this one need not reach up to the next.
        Some(next) if bad || next.sequence == header.sequence + 1 => next.follows,
        Some(_) => header.whole_upto,
        None if bad => header.whole_upto.max(reader.proof_behind().await?.unwrap_or(0)),
        None => header.whole_upto,
    };
    if last < known_upto {
        let (name, at) = (segment::name(header.sequence), reader.at);
        return Err(damaged(format!(
            "segment {name} is damaged at {at}: batch {} was durable and is not readable. This is \
             no torn tail; nothing was changed",
            last + 1
        )));
    }
    Ok(())
}

fn apply(
    groups: &mut BTreeMap<GroupId, Replay>,
    account: &mut Segment,
    offset: u64,
    frame: &Frame,
) {
    let place = Place { segment: account.header.sequence, offset, len: frame.len() as u64 };
    account.note(frame, place);
    groups.entry(frame.group).or_default().apply(frame, place);
}

/// Writes the unproven blocks into a new segment, durably, and applies them from there.
async fn write_again(
    dir: &Path,
    disk: &dyn Disk,
    entropy: &dyn Entropy,
    sequence: u64,
    follows: u64,
    blocks: &[Block],
    groups: &mut BTreeMap<GroupId, Replay>,
) -> io::Result<(Writer, Segment)> {
    let whole_upto = blocks.last().map_or(follows, |block| block.batch);
    let header = Header { salt: salt(entropy), sequence, follows, whole_upto };
    let mut writer = Writer::begin(disk, dir, header).await?;
    let mut account = Segment::new(Arc::clone(&writer.file), header, header.encode().1);
    for block in blocks {
        let frames: Vec<&Frame> = block.frames.iter().map(|(_, frame)| frame).collect();
        let encoded = writer.encode(block.batch, follows, &frames);
        for (offset, frame) in encoded.offsets.iter().zip(frames) {
            apply(groups, &mut account, *offset, frame);
        }
        writer.write(encoded, false).await?;
    }
    writer.finish(disk, dir).await?;
    account.len = writer.len;
    account.last_batch = whole_upto;
    Ok((writer, account))
}

/// Counts what is live, segment by segment.
fn count(state: &mut State) {
    let State { groups, segments, .. } = state;
    for (place, entry) in groups.values().flat_map(Group::places) {
        if let Some(segment) = segments.get_mut(&place.segment) {
            segment.live_bytes += place.len;
            segment.live_entries += u64::from(entry);
        }
    }
}

/// A group while its frames are replayed. Sparse: entries that compaction dropped leave holes,
/// until the frame that made them useless is met.
#[derive(Default)]
struct Replay {
    entries: BTreeMap<u64, Slot>,
    group: Group,
}

impl Replay {
    fn apply(&mut self, frame: &Frame, place: Place) {
        if self.group.removed {
            return;
        }
        let group = &mut self.group;
        match &frame.body {
            Body::Entry { id, kind, payload } => {
                if id.index >= group.first() {
                    self.entries.split_off(&id.index);
                    let (len, place) = (payload.len(), Some(place));
                    let slot = Slot { id: *id, kind: *kind, ticket: 0, len, place, payload: None };
                    self.entries.insert(id.index, slot);
                }
            }
            Body::Truncate { after } => {
                let from = after.map_or(0, |after| after.saturating_add(1));
                self.entries.split_off(&from);
                group.truncate_from(from, &mut Dying::default());
            }
            Body::Purge { upto } => {
                if upto.index >= group.first() {
                    self.entries = self.entries.split_off(&(upto.index + 1));
                    group.purged = Some(Kept { value: *upto, place: Some(place) });
                    group.drop_old_checkpoints(&mut Dying::default());
                }
            }
            Body::Vote { vote } => {
                keep(&mut group.vote, own(vote));
                group.vote.as_mut().into_iter().for_each(|kept| kept.place = Some(place));
            }
            Body::Committed { committed } => {
                group.committed = Some(Kept { value: *committed, place: Some(place) });
            }
            Body::Checkpoint { applied, state } => self.checkpoint(*applied, state, place),
            Body::Remove => {
                self.entries.clear();
                group.remove(&mut Dying::default());
                group.buried = true;
            }
        }
    }

    fn checkpoint(&mut self, applied: EntryId, state: &Bytes, place: Place) {
        let group = &mut self.group;
        group.add_checkpoint((applied, own(state)), &mut Dying::default());
        let kept = group.checkpoints.iter_mut().find(|kept| kept.value.0 == applied);
        kept.into_iter().for_each(|kept| kept.place = Some(place));
    }

    /// The group, with its entries; an error when some are missing.
    fn finish(mut self, id: GroupId) -> io::Result<Group> {
        for (index, slot) in self.entries {
            let next = self.group.next();
            if index != next {
                return Err(damaged(format!("group {id}: entry {next} is missing from the log")));
            }
            self.group.push(slot);
            self.group.stored_upto(index);
        }
        Ok(self.group)
    }
}

/// A copy that does not hold on to the buffer around it.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
