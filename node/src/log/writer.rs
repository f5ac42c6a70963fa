//! Writing one segment: header, blocks in order, and at last the footer.
//!
//! Invariants: a `.seg` file has a whole header, because it gets its name only after its header was
//! synced; blocks follow each other without gaps. Must not know what frames mean, nor when to sync.
//!
//! A sync of a file that grows costs a commit of the file system's journal besides the data: measured on
//! ext4 with blocks of 4 KiB, 3 to 4 writes and twice the time. So a file that was not filled before
//! grows in steps, by zeros behind a block.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::frame::Frame;
use super::segment::block::{self, Encoded, Position};
use super::segment::footer::{self, TRAILER_BYTES};
use super::segment::{self, HEADER_BYTES, Header};
use crate::disk::{Disk, File};

/// A file that grows does so in steps of this size. At one block of 4 KiB a sync, one sync in 64 grows
/// it; the zeros add an eighth to blocks of 1 MiB.
const GROWS_BY: u64 = 256 << 10;

/// Where the next block of a segment goes.
pub(super) struct Writer {
    pub(super) file: Arc<dyn File>,
    pub(super) header: Header,
    /// End of the blocks: where the next one begins.
    pub(super) len: u64,
    prev_crc: u32,
    /// End of what was written at least once: a sync of bytes before it changes no metadata.
    filled: u64,
}

impl Writer {
    /// Begins a segment in a file whose content is junk; nothing is durable before `name`.
    pub(super) async fn begin(file: Arc<dyn File>, header: Header) -> io::Result<Writer> {
        let (bytes, prev_crc) = header.encode();
        // All of its room, so that nothing of the file's former life is taken for its own.
        let mut room = BytesMut::zeroed(HEADER_BYTES as usize);
        room[..bytes.len()].copy_from_slice(&bytes);
        file.write_at(0, vec![room.freeze()]).await?;
        let filled = file.len()?;
        Ok(Writer { file, header, len: HEADER_BYTES, prev_crc, filled })
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

    /// How many zeros should follow a block of `len` bytes, in a file that is to hold `upto`.
    pub(super) fn zeros_behind(&self, len: u64, upto: u64) -> u64 {
        let end = self.len + len;
        match end > self.filled {
            true => end.next_multiple_of(GROWS_BY).min(upto).saturating_sub(end),
            false => 0,
        }
    }

    /// Writes the block, of `len` bytes, and what `parts` have behind it; durable when it returns, if
    /// `sync`.
    pub(super) async fn write(
        &mut self,
        parts: Vec<Bytes>,
        len: u64,
        crc: u32,
        sync: bool,
    ) -> io::Result<()> {
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        self.filled = self.filled.max(self.len + bytes as u64);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Open, SimulatedDisk};

    const UPTO: u64 = 3 * GROWS_BY + 5;

    async fn writer(filled: u64) -> Writer {
        let disk = SimulatedDisk::new();
        disk.create_dir_all(Path::new("/log")).unwrap();
        let file = disk.open(Path::new("/log/a"), Open::New).unwrap();
        file.write_at(0, vec![vec![7; filled as usize].into()]).await.unwrap();
        let header =
            Header { salt: 1, sequence: 1, log: 1, follows: 0, whole_upto: 0, rewritten: false };
        Writer::begin(file, header).await.unwrap()
    }

    /// Blocks of 4 KiB until the file is full; after which of them it grew.
    async fn grows(mut writer: Writer) -> Vec<u64> {
        let mut grew = Vec::new();
        while writer.len < UPTO {
            let zeros = writer.zeros_behind(4096, UPTO);
            let parts = vec![vec![1; 4096].into(), vec![0; zeros as usize].into()];
            let before = writer.file.len().unwrap();
            writer.write(parts, 4096, 0, true).await.unwrap();
            if writer.file.len().unwrap() != before {
                grew.push(writer.file.len().unwrap());
            }
        }
        grew
    }

    #[tokio::test]
    async fn a_file_grows_in_steps_and_no_further_than_it_should() {
        let last = UPTO.next_multiple_of(4096);
        let steps = vec![GROWS_BY, 2 * GROWS_BY, 3 * GROWS_BY, last];
        assert_eq!(grows(writer(0).await).await, steps);
    }

    #[tokio::test]
    async fn what_was_filled_before_does_not_grow() {
        assert_eq!(grows(writer(UPTO.next_multiple_of(4096)).await).await, Vec::<u64>::new());
    }
}
