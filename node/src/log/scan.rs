//! Reading a segment's blocks in order: at open, by the scrubber, and to make a lost footer again.
//!
//! Invariant: what it gives out was written so into this very segment, in this order; a payload that
//! is damaged is left out, and its head is given. Must not know what frames mean.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::Head;
use super::segment::block::{self, HEADER_BYTES};
use super::segment::{ALIGN_BYTES, Header, name};
use crate::disk::File;

/// Read ahead this much.
const WINDOW_BYTES: u64 = 1 << 20;

/// A frame of a block.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) head: Head,
    /// Where its head begins in the file.
    pub(super) offset: u64,
    /// `None` when it is damaged.
    pub(super) payload: Option<Bytes>,
}

/// A block, with all that is intact of it.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) batch: u64,
    pub(super) durable_upto: u64,
    /// Where it begins in the file, and where it ends.
    pub(super) begins: u64,
    pub(super) end: u64,
    pub(super) frames: Vec<Found>,
}

impl Block {
    /// Whether nothing of it is damaged.
    pub(super) fn is_whole(&self) -> bool {
        self.frames.iter().all(|found| found.payload.is_some())
    }
}

/// What comes next in a segment.
pub(super) enum Next {
    /// A block whose frames are known.
    Block(Block),
    /// Nothing, or a header that is damaged.
    Nothing,
    /// A block's header, and heads that are damaged or missing.
    Torn,
}

/// Reads a segment's blocks from the first on.
pub(super) struct Scanner {
    file: Arc<dyn File>,
    header: Header,
    prev_crc: Option<u32>,
    end: u64,
    /// Position in bytes: where the next block begins.
    pub(super) at: u64,
    window: Bytes,
    window_at: u64,
}

impl Scanner {
    /// A reader of the blocks before `end`.
    pub(super) fn new(file: Arc<dyn File>, header: Header, end: u64) -> Scanner {
        let at = super::segment::HEADER_BYTES;
        let prev_crc = Some(header.crc());
        Scanner { file, header, prev_crc, end, at, window: Bytes::new(), window_at: 0 }
    }

    /// The next block.
    ///
    /// # Errors
    /// `Unsupported`: a frame of an unknown kind. Others: the disk's.
    pub(super) async fn next(&mut self) -> io::Result<Next> {
        let Some((header, crc)) = self.header_at(self.at).await? else { return Ok(Next::Nothing) };
        if self.prev_crc.is_some_and(|prev| prev != header.prev_crc) {
            return Ok(Next::Nothing);
        }
        if header.block_bytes() > self.end - self.at {
            return Ok(Next::Torn);
        }
        let heads_at = self.at + HEADER_BYTES as u64;
        let heads = self.get(heads_at, header.heads_bytes()).await?;
        let decoded = header.decode_heads(&heads, self.header.salt).map_err(|unknown| {
            let name = name(self.header.sequence);
            io::Error::new(io::ErrorKind::Unsupported, format!("segment {name}: {unknown}"))
        })?;
        let Some(heads) = decoded else { return Ok(Next::Torn) };
        let body = self.get(self.at, header.block_bytes()).await?;
        let found = |(begins, head): (u64, Head)| {
            let from = (begins + u64::from(head.payload_at)) as usize;
            let payload = body.slice(from..from + head.len as usize);
            let payload = head.fits(&payload).then_some(payload);
            Found { head, offset: self.at + begins, payload }
        };
        let frames = heads.into_iter().map(found).collect();
        let begins = self.at;
        self.at += header.block_bytes();
        self.prev_crc = Some(crc);
        let (batch, durable_upto) = (header.batch, header.durable_upto);
        Ok(Next::Block(Block { batch, durable_upto, begins, end: self.at, frames }))
    }

    /// Goes on behind damage: to the next position that holds a block's header, anywhere. `false`:
    /// there is none.
    pub(super) async fn skip_damage(&mut self) -> io::Result<bool> {
        self.at += ALIGN_BYTES;
        self.prev_crc = None;
        while self.at < self.end {
            if self.header_at(self.at).await?.is_some() {
                return Ok(true);
            }
            self.at += ALIGN_BYTES;
        }
        Ok(false)
    }

    /// The newest `durable_upto` in headers of batches after `batch`, anywhere behind the position.
    /// A header proves that the blocks before it were synced, whatever became of its own block.
    pub(super) async fn proof_behind(&mut self, batch: u64) -> io::Result<Option<u64>> {
        let (mut newest, mut at) = (None, self.at + ALIGN_BYTES);
        while at < self.end {
            if let Some((header, _)) = self.header_at(at).await?
                && header.batch > batch
            {
                newest = newest.max(Some(header.durable_upto));
            }
            at += ALIGN_BYTES;
        }
        Ok(newest)
    }

    async fn header_at(&mut self, at: u64) -> io::Result<Option<(block::Header, u32)>> {
        if self.end.saturating_sub(at) < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let bytes = self.get(at, HEADER_BYTES as u64).await?;
        Ok(block::Header::decode(&bytes, self.header.salt, self.header.sequence))
    }

    /// Bytes that lie before `end`.
    async fn get(&mut self, at: u64, len: u64) -> io::Result<Bytes> {
        let inside = at >= self.window_at && at + len <= self.window_at + self.window.len() as u64;
        if !inside {
            let ahead = (self.end - at).min(WINDOW_BYTES);
            self.window = self.file.read_at(at, len.max(ahead) as usize).await?;
            self.window_at = at;
        }
        let from = (at - self.window_at) as usize;
        Ok(self.window.slice(from..from + len as usize))
    }
}
