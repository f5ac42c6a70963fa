//! Opening the log: from files back to memory.
//!
//! ```text
//!  survey (changes nothing)   headers -> which count -> footers, in order -> blocks of the newest
//!                             -> does all fit together?
//!  recover (writes)           unproven tail again -> footers that were lost -> what is left over goes
//! ```
//!
//! Invariants: only bytes that were never acknowledged are dropped; damage to a payload whose head is
//! known makes that entry faulty; damage that may have held anything else refuses to open and
//! changes nothing. What was read back but is not proven durable (after a kill, or a failed sync, it
//! may live in the page cache alone, and a second sync would lie) is written again, into a new
//! segment, and synced before anything of it is reported. A block is proven by a later one that was
//! written after its sync, by the header of a later segment, or by having been synced before its file
//! got its name.

mod found;
pub(super) mod names;
mod rebuild;
mod replay;
mod tail;

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::committer::salt;
use super::files::Files;
use super::frame::Frame;
use super::group::{Kept, Place};
use super::pool::Pool;
use super::retired::Retired;
use super::scan::Block;
use super::segment::{self, HEADER_BYTES, Header, footer};
use super::state::{Segment, Stage, State};
use super::writer::{self, Writer};
use crate::disk::Disk;
use crate::entropy::Entropy;
use crate::metrics::Metrics;
use replay::Replay;

/// The log as it lies on the disk; nothing was changed.
pub(super) struct Survey {
    files: Files,
    /// Tells this log from others; `None` when there is nothing of it yet.
    log: Option<u64>,
    last_sequence: u64,
    replay: Replay,
    /// Footers that were lost.
    lost: Vec<(u64, footer::Encoded)>,
    /// Segments that others replace.
    replaced: Vec<u64>,
    /// Names of segments that are gone: their files were used again.
    used_again: Vec<u64>,
    /// The batches that were given up, as an earlier reading found them said.
    retired: Retired,
    /// Unfinished files.
    unfinished: Vec<String>,
    /// Blocks at the end of the newest segment that may live in the page cache alone.
    unproven: Vec<Block>,
    /// The newest batch that is proven durable.
    proven: u64,
    torn: bool,
}

/// The log as it is in memory.
pub(super) struct Recovered {
    pub(super) log: u64,
    pub(super) files: Files,
    pub(super) state: State,
    /// The segment that holds what was written again, to be continued.
    pub(super) active: Option<Writer>,
    pub(super) next_batch: u64,
}

/// Reads what is in `dir`.
pub(super) async fn survey(dir: &Path, disk: &Arc<dyn Disk>) -> io::Result<Survey> {
    disk.create_dir_all(dir)?;
    let names = disk.list(dir)?;
    let files = Files::new(Arc::clone(disk), dir.to_owned());
    let (all, used_again) = found::headers(&files, &names).await?;
    let log = found::same_log(&all)?;
    let last_sequence = all.last().map_or(0, |header| header.sequence);
    let (mut found, replaced) = found::split_replaced(all);
    let mut survey = Survey {
        files,
        log,
        last_sequence,
        replay: Replay::default(),
        lost: Vec::new(),
        replaced,
        used_again,
        retired: Retired::default(),
        unfinished: names.into_iter().filter(|name| name.ends_with(".seg.tmp")).collect(),
        unproven: Vec::new(),
        proven: 0,
        torn: false,
    };
    // Each reading drops a segment, or learns from another one of batches that were given up.
    let mut readings_left = 8 + 2 * found.len();
    while let Some(again) = survey.read(&found).await? {
        if readings_left == 0 {
            return Err(segment::damaged("what its segments say was given up contradicts itself"));
        }
        readings_left -= 1;
        // What they say of other segments counts no more: all is read again without them.
        found.retain(|header| !again.given_up.contains(&header.sequence));
        survey.replaced.extend(again.given_up);
        survey.retired = again.retired;
        survey.forget();
    }
    Ok(survey)
}

/// Why all is to be read again.
struct Again {
    /// Segments that were given up and are back: a folder's sync that failed may have lost that they
    /// were removed.
    given_up: Vec<u64>,
    /// The batches that were given up. None of them counts, in whatever segment it is met.
    retired: Retired,
}

impl Survey {
    /// As before anything was read.
    fn forget(&mut self) {
        (self.replay, self.proven, self.torn) = (Replay::default(), 0, false);
        self.lost.clear();
        self.unproven.clear();
    }

    /// Reads these segments. `Some`: what they say of batches that were given up was not heeded.
    async fn read(&mut self, headers: &[Header]) -> io::Result<Option<Again>> {
        // In the order of what is in them, which is that of names for the committer's.
        let written = headers.iter().filter(|header| !header.rewritten);
        let newest = written.map(|header| header.sequence).max();
        let mut extents = Vec::with_capacity(headers.len());
        for (at, header) in headers.iter().enumerate() {
            // Rewritten or not: what it says it follows is where the one before it ends. It may have been
            // given up since: then its batches are known all the same.
            let next = headers.get(at + 1).map(|next| next.follows);
            let bound = next.into_iter().chain(self.retired.begins(header.follows)).min();
            let extent = match Some(header.sequence) == newest {
                true => self.read_newest(header).await?,
                false => self.read_full(header, bound).await?,
            };
            extents.push(extent);
            let (segment, segments) = (header.sequence, headers.len());
            tracing::debug!(segment, done = at + 1, segments, "log segment read");
        }
        self.take_in_unproven();
        let retired = self.replay.retired.as_ref().map(|(value, _)| value.clone());
        let retired = retired.unwrap_or_default();
        let given_up = found::given_up(&extents, &retired);
        let is_news =
            retired != self.retired && found::reaches_given_up(headers, &extents, &retired);
        if !given_up.is_empty() || is_news {
            return Ok(Some(Again { given_up, retired }));
        }
        found::check_extents(&extents, &retired)?;
        self.replay.check(&self.files).await?;
        Ok(None)
    }

    /// Takes in the unproven tail, as it will lie in the segment after the newest.
    fn take_in_unproven(&mut self) {
        let mut begins = HEADER_BYTES;
        for block in &self.unproven {
            for found in &block.frames {
                let offset = begins + (found.offset - block.begins);
                let moved = super::scan::Found { offset, ..found.clone() };
                self.replay.found(self.last_sequence + 1, &moved);
            }
            begins += block.end - block.begins;
        }
    }

    /// Reads a segment that has a successor: its footer, or, where that is lost, its blocks.
    async fn read_full(
        &mut self,
        header: &Header,
        bound: Option<u64>,
    ) -> io::Result<found::Extent> {
        let file = self.files.get(header.sequence)?;
        let loaded = found::load(&file, header, bound).await?;
        self.proven = self.proven.max(loaded.extent.upto);
        let mut account = Segment::new(*header);
        (account.len, account.last_batch) = (loaded.trailer.blocks_end, loaded.extent.upto);
        account.sealed(&loaded.directory, loaded.trailer);
        self.replay.directory(&*file, header.sequence, &loaded.directory).await?;
        self.replay.faulty(&loaded.faulty, &loaded.directory);
        self.replay.segments.insert(header.sequence, account);
        self.lost.extend(loaded.lost.map(|encoded| (header.sequence, encoded)));
        Ok(loaded.extent)
    }

    /// Reads the blocks of the newest segment.
    async fn read_newest(&mut self, header: &Header) -> io::Result<found::Extent> {
        let file = self.files.get(header.sequence)?;
        if let Some(trailer) = footer::Trailer::read(&*file, header).await? {
            let name = segment::name(header.sequence);
            return Err(segment::damaged(format!(
                "the segment after {name} is missing: it was there when batch {} was the last",
                trailer.last_batch
            )));
        }
        let tail = tail::read(file, header, &mut self.replay).await?;
        (self.unproven, self.torn) = (tail.unproven, tail.torn);
        self.proven = self.proven.max(tail.extent.upto);
        Ok(tail.extent)
    }

    /// Makes durable what was found, and puts it into memory.
    pub(super) async fn recover(
        mut self,
        dir: &Path,
        disk: &Arc<dyn Disk>,
        entropy: &dyn Entropy,
        pool: &Pool,
        metrics: &Metrics,
    ) -> io::Result<Recovered> {
        // The names that were read back are durable before anything hangs on them.
        names::renew(dir, &**disk).await?;
        if !self.used_again.is_empty() {
            // Before such a file, which may be a ready one, is taken for what is written here.
            for &sequence in &self.used_again {
                disk.remove(&segment::path(dir, sequence))?;
            }
            disk.sync_dir(dir).await?;
        }
        let log = self.log.unwrap_or_else(|| entropy.u64());
        let (mut next_segment, mut next_batch) = (self.last_sequence + 1, self.proven + 1);
        let mut active = None;
        if self.unproven.iter().any(|block| !block.frames.is_empty()) {
            let whole_upto = self.unproven.last().map_or(self.proven, |block| block.batch);
            let header = Header {
                salt: salt(entropy),
                sequence: next_segment,
                log,
                follows: self.proven,
                whole_upto,
                rewritten: false,
            };
            active = Some(self.write_again(dir, &**disk, pool, header).await?);
            (next_segment, next_batch) = (next_segment + 1, whole_upto + 1);
        }
        for (sequence, encoded) in &self.lost {
            let file = self.files.get(*sequence)?;
            metrics.observe_log_footer(writer::write_footer(&*file, encoded).await?);
            file.sync().await?;
        }
        let replaced = self.replaced.iter().map(|sequence| segment::name(*sequence));
        for name in self.unfinished.iter().cloned().chain(replaced) {
            disk.remove(&dir.join(name))?;
        }
        disk.sync_dir(dir).await?;
        if self.torn {
            metrics.observe_torn_tail();
            tracing::warn!(
                "a torn tail of the log was dropped: a write that was never acknowledged"
            );
        }
        let mut state = self.replay.finish()?;
        state.next_segment = next_segment;
        let faulty = state.faulty();
        if !faulty.is_empty() {
            tracing::warn!(count = faulty.len(), "log entries are damaged on disk");
            faulty.iter().for_each(|_| metrics.observe_faulty());
        }
        let (count, bytes) = state.size();
        metrics.set_log_size(count, bytes);
        Ok(Recovered { log, files: self.files, state, active, next_batch })
    }

    /// Writes the unproven blocks into a new segment, durably. They were taken in from there.
    async fn write_again(
        &mut self,
        dir: &Path,
        disk: &dyn Disk,
        pool: &Pool,
        header: Header,
    ) -> io::Result<Writer> {
        let frames_of = |block: &Block| -> Vec<Frame> {
            let frame = |found: &super::scan::Found| {
                let payload = found.payload.clone().unwrap_or_default();
                Frame { head: found.head, payload }
            };
            block.frames.iter().map(frame).collect()
        };
        let blocks: Vec<(u64, Vec<Frame>)> =
            self.unproven.iter().map(|block| (block.batch, frames_of(block))).collect();
        let bytes = blocks.iter().map(|(_, frames)| segment::block::block_bytes(frames.iter()));
        let taken = pool.take(HEADER_BYTES + bytes.sum::<u64>())?;
        let mut writer = Writer::begin(taken.file, header).await?;
        let mut account = Segment::new(header);
        for (batch, frames) in &blocks {
            let begins = writer.len;
            let block = writer.encode(*batch, header.follows, &frames.iter().collect::<Vec<_>>());
            for (at, head) in &block.heads {
                account.directory.note(head, begins + at);
                account.frames += 1;
            }
            writer.write(block.parts, block.len, block.crc, false).await?;
        }
        if planted!(UnprovenTailDurable) {
            // Told of as durable, and left to the page cache.
            disk.rename(&taken.path, &segment::path(dir, header.sequence))?;
        } else {
            writer.name(disk, dir, &taken.path).await?;
        }
        (account.len, account.last_batch) = (writer.len, header.whole_upto);
        self.replay.segments.insert(header.sequence, account);
        Ok(writer)
    }
}

/// The list of retired batches as the state keeps it.
fn kept(retired: Option<(Retired, Option<Place>)>) -> Option<Kept<Retired>> {
    retired.map(|(value, place)| Kept { value, place })
}

/// A full segment whose footer is not durable yet.
fn full(mut account: Segment) -> Segment {
    account.stage = Stage::Full;
    account
}
