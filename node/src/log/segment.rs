//! Segments: the files of the log, and the commit blocks in them.
//!
//! Owns the names, the header, the blocks, and reading them back in order. Invariants: a `.seg`
//! file has a whole header, because it gets its name only after its header was synced; a block is
//! written only after the block before it was synced. Must not know what frames mean.
//!
//! `NNNNNNNNNN.seg` (decimal sequence number; a higher one is newer; `.seg.tmp` is unfinished and
//! ignored). All numbers little-endian. The header, `HEADER_BYTES` long:
//!
//! ```text
//!  0  8 bytes  "TSLOGSEG"
//!  8  u32      format version (1)
//! 12  u32      salt: random, starts every other checksum in the file
//! 16  u64      sequence number
//! 24  u64      follows: the last batch before this segment. Batches above it in earlier segments
//!              do not count (their content, if any, is in this one); those up to it are durable
//! 32  u64      whole_upto: the batches up to this one were synced before the file got its name
//! 40  20 bytes zero
//! 60  u32      crc32c of bytes 0..60
//! ```
//!
//! Then blocks, each at a multiple of 8, without gaps: a header of `BLOCK_HEADER_BYTES`, its
//! frames, zeros up to a multiple of 8:
//!
//! ```text
//!  0  u32  "TSLB"
//!  4  u32  bytes behind this header, zeros included
//!  8  u64  batch: rises by one with each block of the log (compaction leaves gaps)
//! 16  u64  durable_upto: the newest batch known to be durable when this one was written
//! 24  u32  number of frames
//! 28  u32  prev_crc: the checksum (44) of the block before; of the header (60) for the first
//! 32  u32  crc32c of all frame headers (they cover their payloads' checksums), from the salt
//! 36  8 bytes zero
//! 44  u32  crc32c of bytes 0..44, started from the salt
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::{self, Bad, Frame};
use crate::disk::{Disk, File, Open};

/// Length of a segment's header.
pub(super) const HEADER_BYTES: usize = 64;
/// Length of a block's header.
pub(super) const BLOCK_HEADER_BYTES: usize = 48;
/// The newest format that this program reads and writes.
pub(super) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"TSLOGSEG";
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"TSLB");
/// Payloads up to this size are copied next to their headers: fewer, larger writes.
const COPY_BYTES_MAX: usize = 64 << 10;
/// Read ahead this much when reading a file in order.
const WINDOW_BYTES: usize = 1 << 20;

/// Name of a segment's file.
pub(super) fn name(sequence: u64) -> String {
    format!("{sequence:010}.seg")
}

/// The sequence number in a segment's name; `None` for other files.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let whole = digits.len() >= 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    whole.then(|| digits.parse().ok()).flatten()
}

/// The error for damaged bytes.
pub(super) fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) salt: u32,
    pub(super) sequence: u64,
    pub(super) follows: u64,
    pub(super) whole_upto: u64,
}

impl Header {
    /// The header's bytes, and their checksum: what the first block's `prev_crc` must be.
    pub(super) fn encode(&self) -> (Bytes, u32) {
        let mut to = BytesMut::with_capacity(HEADER_BYTES);
        to.put_slice(MAGIC);
        to.put_u32_le(FORMAT);
        to.put_u32_le(self.salt);
        to.put_u64_le(self.sequence);
        to.put_u64_le(self.follows);
        to.put_u64_le(self.whole_upto);
        to.put_bytes(0, 20);
        let crc = crc32c::crc32c(&to);
        to.put_u32_le(crc);
        (to.freeze(), crc)
    }

    /// Reads the header of the segment `sequence`, and gives its checksum too.
    pub(super) async fn read(file: &dyn File, sequence: u64) -> io::Result<(Header, u32)> {
        let name = name(sequence);
        if file.len()? < HEADER_BYTES as u64 {
            return Err(damaged(format!("segment {name} is damaged: its header is cut short")));
        }
        let bytes = file.read_at(0, HEADER_BYTES).await?;
        let mut from = &bytes[..];
        if &from[..8] != MAGIC {
            return Err(damaged(format!("{name} is damaged, or not a segment of this log")));
        }
        from.advance(8);
        let format = from.get_u32_le();
        if format > FORMAT {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "segment {name} has format {format}, this program knows up to {FORMAT}: start \
                     a newer version"
                ),
            ));
        }
        let salt = from.get_u32_le();
        let header = Header {
            salt,
            sequence: from.get_u64_le(),
            follows: from.get_u64_le(),
            whole_upto: from.get_u64_le(),
        };
        from.advance(20);
        let crc = from.get_u32_le();
        if format != FORMAT || crc != crc32c::crc32c(&bytes[..60]) || header.sequence != sequence {
            return Err(damaged(format!("segment {name} is damaged: its header")));
        }
        Ok((header, crc))
    }
}

/// Where the next block of a file goes.
pub(super) struct Writer {
    pub(super) file: Arc<dyn File>,
    pub(super) header: Header,
    /// End of the file in bytes.
    pub(super) len: u64,
    prev_crc: u32,
}

/// A block ready to be written.
pub(super) struct Encoded {
    parts: Vec<Bytes>,
    crc: u32,
    /// Length in bytes.
    pub(super) len: u64,
    /// Where each frame will be in the file.
    pub(super) offsets: Vec<u64>,
}

impl Writer {
    /// Begins a file under its temporary name; nothing is durable before `finish`.
    pub(super) async fn begin(disk: &dyn Disk, dir: &Path, header: Header) -> io::Result<Writer> {
        let path = temporary(dir, header.sequence);
        // Left by an attempt that failed in this process.
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(&path, Open::New)?;
        let (bytes, prev_crc) = header.encode();
        file.write_at(0, vec![bytes]).await?;
        Ok(Writer { file, header, len: HEADER_BYTES as u64, prev_crc })
    }

    /// Makes the file durable under its name, in place of an older version of it.
    pub(super) async fn finish(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        self.file.sync().await?;
        let sequence = self.header.sequence;
        disk.rename(&temporary(dir, sequence), &dir.join(name(sequence)))?;
        disk.sync_dir(dir).await
    }

    /// The next block.
    pub(super) fn encode(&self, batch: u64, durable_upto: u64, frames: &[&Frame]) -> Encoded {
        let salt = self.header.salt;
        let headers: Vec<_> = frames.iter().map(|frame| frame.header(salt)).collect();
        let frames_crc =
            headers.iter().fold(salt, |crc, header| crc32c::crc32c_append(crc, header));
        let bytes: usize = frames.iter().map(|frame| frame.len()).sum();
        let padded = bytes.next_multiple_of(8);

        let mut to = BytesMut::with_capacity(BLOCK_HEADER_BYTES + padded.min(1 << 20));
        to.put_u32_le(BLOCK_MAGIC);
        to.put_u32_le(padded as u32);
        to.put_u64_le(batch);
        to.put_u64_le(durable_upto);
        to.put_u32_le(frames.len() as u32);
        to.put_u32_le(self.prev_crc);
        to.put_u32_le(frames_crc);
        to.put_u64_le(0);
        let crc = crc32c::crc32c_append(salt, &to);
        to.put_u32_le(crc);

        let (mut parts, mut offsets) = (Vec::new(), Vec::with_capacity(frames.len()));
        let mut at = self.len + BLOCK_HEADER_BYTES as u64;
        for (frame, header) in frames.iter().zip(&headers) {
            offsets.push(at);
            at += frame.len() as u64;
            to.put_slice(header);
            let payload = frame.body.payload();
            if payload.len() <= COPY_BYTES_MAX {
                to.put_slice(payload);
            } else {
                parts.push(to.split().freeze());
                parts.push(payload.clone());
            }
        }
        to.put_bytes(0, padded - bytes);
        if !to.is_empty() {
            parts.push(to.freeze());
        }
        Encoded { parts, crc, len: (BLOCK_HEADER_BYTES + padded) as u64, offsets }
    }

    /// Writes the block; durable when it returns, if `sync`.
    pub(super) async fn write(&mut self, block: Encoded, sync: bool) -> io::Result<()> {
        let Encoded { parts, crc, len, .. } = block;
        if sync {
            self.file.write_synced(self.len, parts).await?;
        } else {
            self.file.write_at(self.len, parts).await?;
        }
        self.len += len;
        self.prev_crc = crc;
        Ok(())
    }
}

/// A block as it was read.
pub(super) struct Block {
    pub(super) batch: u64,
    pub(super) durable_upto: u64,
    /// The frames, each with its place in the file.
    pub(super) frames: Vec<(u64, Frame)>,
}

/// What lies at the reader's position.
pub(super) enum Next {
    /// A whole block; the reader is behind it now.
    Block(Block),
    /// The end of the file; zeros up to the end count as such.
    End,
    /// Bytes that are no valid block; the reader stays.
    Bad,
}

/// Reads the blocks of a file in order.
pub(super) struct Reader {
    file: Arc<dyn File>,
    salt: u32,
    prev_crc: u32,
    end: u64,
    /// Position in bytes.
    pub(super) at: u64,
    window: Bytes,
    window_at: u64,
}

impl Reader {
    /// A reader of the blocks before `end`. `header_crc` is that of the segment's header.
    pub(super) fn new(file: Arc<dyn File>, salt: u32, header_crc: u32, end: u64) -> Reader {
        let at = HEADER_BYTES as u64;
        Reader { file, salt, prev_crc: header_crc, end, at, window: Bytes::new(), window_at: at }
    }

    /// The next block.
    pub(super) async fn next(&mut self) -> io::Result<Next> {
        if self.at >= self.end || self.zero_to_end().await? {
            return Ok(Next::End);
        }
        match self.block_at(self.at, Some(self.prev_crc)).await? {
            Some((block, len, crc)) => {
                self.at += len;
                self.prev_crc = crc;
                Ok(Next::Block(block))
            }
            None => Ok(Next::Bad),
        }
    }

    /// The newest `durable_upto` of the valid blocks anywhere behind the position.
    pub(super) async fn proof_behind(&mut self) -> io::Result<Option<u64>> {
        let (mut newest, mut at) = (None, self.at + 8);
        while at + BLOCK_HEADER_BYTES as u64 <= self.end {
            let magic = self.get(at, 4).await?;
            if magic[..] == BLOCK_MAGIC.to_le_bytes()
                && let Some((block, len, _)) = self.block_at(at, None).await?
            {
                newest = newest.max(Some(block.durable_upto));
                at += len;
            } else {
                at += 8;
            }
        }
        Ok(newest)
    }

    async fn zero_to_end(&mut self) -> io::Result<bool> {
        let mut at = self.at;
        while at < self.end {
            let len = (self.end - at).min(4096) as usize;
            if self.get(at, len).await?.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }

    async fn block_at(
        &mut self,
        at: u64,
        prev: Option<u32>,
    ) -> io::Result<Option<(Block, u64, u32)>> {
        if self.end - at < BLOCK_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let header = self.get(at, BLOCK_HEADER_BYTES).await?;
        let mut from = &header[..];
        let (magic, len) = (from.get_u32_le(), from.get_u32_le());
        let (batch, durable_upto) = (from.get_u64_le(), from.get_u64_le());
        let (count, prev_crc, frames_crc) =
            (from.get_u32_le(), from.get_u32_le(), from.get_u32_le());
        from.advance(8);
        let crc = from.get_u32_le();
        let whole_len = BLOCK_HEADER_BYTES as u64 + u64::from(len);
        if magic != BLOCK_MAGIC
            || crc != crc32c::crc32c_append(self.salt, &header[..44])
            || prev.is_some_and(|prev| prev != prev_crc)
            || whole_len > self.end - at
        {
            return Ok(None);
        }
        let body_at = at + BLOCK_HEADER_BYTES as u64;
        let body = self.get(body_at, len as usize).await?;
        let Some(frames) = decode_frames(&body, body_at, count, frames_crc, self.salt)? else {
            return Ok(None);
        };
        Ok(Some((Block { batch, durable_upto, frames }, whole_len, crc)))
    }

    async fn get(&mut self, at: u64, len: usize) -> io::Result<Bytes> {
        let inside =
            at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let ahead = (self.end - at).min(WINDOW_BYTES as u64) as usize;
            self.window = self.file.read_at(at, len.max(ahead)).await?;
            self.window_at = at;
        }
        let from = (at - self.window_at) as usize;
        Ok(self.window.slice(from..from + len))
    }
}

/// The frames of a block's body; `None` when it is damaged.
fn decode_frames(
    body: &Bytes,
    body_at: u64,
    count: u32,
    frames_crc: u32,
    salt: u32,
) -> io::Result<Option<Vec<(u64, Frame)>>> {
    let (mut frames, mut at, mut crc) = (Vec::new(), 0, salt);
    for _ in 0..count {
        let rest = body.slice(at..);
        match Frame::decode(&rest, salt) {
            Ok(frame) => {
                crc = crc32c::crc32c_append(crc, &rest[..frame::HEADER_BYTES]);
                let place = body_at + at as u64;
                at += frame.len();
                frames.push((place, frame));
            }
            Err(Bad::Checksum) => return Ok(None),
            Err(unknown) => return Err(io::Error::new(io::ErrorKind::Unsupported, unknown)),
        }
    }
    let padded = body.len() - at < 8 && body[at..].iter().all(|byte| *byte == 0);
    Ok((padded && crc == frames_crc).then_some(frames))
}

/// Where the segment's file grows before it is finished.
pub(super) fn temporary(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{}.tmp", name(sequence)))
}
