//! Writing one segment: header, blocks in order, and at last the footer.
//!
//! Invariants: a `.seg` file has a whole header, because it gets its name only after its header was
//! synced; blocks follow each other without gaps. Must not know what frames mean, nor when to sync.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::frame::Frame;
use super::segment::block::{self, Encoded, Position};
use super::segment::footer::{self, TRAILER_BYTES};
use super::segment::{self, HEADER_BYTES, Header};
use crate::disk::{Disk, File};

/// Where the next block of a segment goes.
pub(super) struct Writer {
    pub(super) file: Arc<dyn File>,
    pub(super) header: Header,
    /// End of the blocks: where the next one begins.
    pub(super) len: u64,
    prev_crc: u32,
}

impl Writer {
    /// Begins a segment in a file whose content is junk; nothing is durable before `name`.
    pub(super) async fn begin(file: Arc<dyn File>, header: Header) -> io::Result<Writer> {
        let (bytes, prev_crc) = header.encode();
        // All of its room, so that nothing of the file's former life is taken for its own.
        let mut room = BytesMut::zeroed(HEADER_BYTES as usize);
        room[..bytes.len()].copy_from_slice(&bytes);
        file.write_at(0, vec![room.freeze()]).await?;
        Ok(Writer { file, header, len: HEADER_BYTES, prev_crc })
    }

    /// Makes what was written durable, and its name.
    pub(super) async fn name(&self, disk: &dyn Disk, dir: &Path, from: &Path) -> io::Result<()> {
        self.file.sync().await?;
        disk.rename(from, &segment::path(dir, self.header.sequence))?;
        disk.sync_dir(dir).await
    }

    /// The next block.
    pub(super) fn encode(&self, batch: u64, durable_upto: u64, frames: &[&Frame]) -> Encoded {
        let Header { salt, sequence, .. } = self.header;
        let prev_crc = self.prev_crc;
        block::encode(Position { salt, sequence, prev_crc, batch, durable_upto }, frames)
    }

    /// Writes the block; durable when it returns, if `sync`.
    pub(super) async fn write(
        &mut self,
        parts: Vec<Bytes>,
        len: u64,
        crc: u32,
        sync: bool,
    ) -> io::Result<()> {
        if sync {
            let written = self.file.write_synced(self.len, parts).await;
            if !planted!(IgnoredFsyncError) {
                written?;
            }
        } else {
            self.file.write_at(self.len, parts).await?;
        }
        self.len += len;
        self.prev_crc = crc;
        Ok(())
    }
}

/// Writes a footer, without a sync. Gives back how many bytes that took.
pub(super) async fn write_footer(file: &dyn File, encoded: &footer::Encoded) -> io::Result<u64> {
    let end = file.len()?.max(encoded.file_bytes());
    file.write_at(encoded.trailer.blocks_end, vec![encoded.footer.clone()]).await?;
    let mut trailer = BytesMut::zeroed(TRAILER_BYTES as usize);
    trailer[..encoded.trailer_bytes.len()].copy_from_slice(&encoded.trailer_bytes);
    file.write_at(end - TRAILER_BYTES, vec![trailer.freeze()]).await?;
    Ok(encoded.footer.len() as u64 + TRAILER_BYTES)
}
