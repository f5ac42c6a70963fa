//! The header of a segment: which log it belongs to, and which batches it covers.
//!
//! Pure but for reading the bytes. Invariant: a header that decodes was written for this very file
//! name. Must not know about blocks.
//!
//! In the first `HEADER_BYTES` of the file, little-endian; the rest of them is junk:
//!
//! ```text
//!  0  8 bytes  "TSLOGSEG"
//!  8  u32      format version (3)
//! 12  u32      salt: random, starts every other checksum in the file
//! 16  u64      sequence number: the file's name
//! 24  u64      log: random, the same in all segments of a log
//! 32  u64      follows: the last batch before this segment. Batches above it in earlier segments
//!              do not count (their content, if any, is in this one); those up to it are durable
//! 40  u64      whole_upto: the batches up to this one were synced before the file got its name
//! 48  u32      kind: 0 written by the committer, 1 rewritten: holds what counts of the batches above
//!              `follows` up to `whole_upto`, in place of all older segments with any of these
//! 52  8 bytes  zero
//! 60  u32      crc32c of bytes 0..60
//! ```

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{damaged, name};
use crate::disk::File;

/// Room for the header: the first block begins here.
pub(in crate::log) const HEADER_BYTES: u64 = 4096;
/// Bytes of the header that count.
pub(super) const ENCODED_BYTES: usize = 64;
/// The format that this program reads and writes.
pub(in crate::log) const FORMAT: u32 = 3;

const MAGIC: &[u8; 8] = b"TSLOGSEG";

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Header {
    pub(in crate::log) salt: u32,
    pub(in crate::log) sequence: u64,
    pub(in crate::log) log: u64,
    pub(in crate::log) follows: u64,
    pub(in crate::log) whole_upto: u64,
    pub(in crate::log) rewritten: bool,
}

impl Header {
    /// The header's bytes, and their checksum: what the first block's `prev_crc` must be.
    pub(in crate::log) fn encode(&self) -> (Bytes, u32) {
        let mut to = BytesMut::with_capacity(ENCODED_BYTES);
        to.put_slice(MAGIC);
        to.put_u32_le(FORMAT);
        to.put_u32_le(self.salt);
        to.put_u64_le(self.sequence);
        to.put_u64_le(self.log);
        to.put_u64_le(self.follows);
        to.put_u64_le(self.whole_upto);
        to.put_u32_le(u32::from(self.rewritten));
        to.put_u64_le(0);
        let crc = crc32c::crc32c(&to);
        to.put_u32_le(crc);
        (to.freeze(), crc)
    }

    /// The header's checksum.
    pub(in crate::log) fn crc(&self) -> u32 {
        self.encode().1
    }

    /// Reads the header of the segment `sequence`.
    ///
    /// # Errors
    /// `Unsupported`: of another format. `InvalidData`: damaged, or another segment's.
    pub(in crate::log) async fn read(file: &dyn File, sequence: u64) -> io::Result<Header> {
        if file.len()? < ENCODED_BYTES as u64 {
            let name = name(sequence);
            return Err(damaged(format!("segment {name} is damaged: its header is cut short")));
        }
        Header::decode(&file.read_at(0, ENCODED_BYTES).await?, sequence)
    }

    /// The header in a file, whichever segment it was written for; `None` when there is none.
    pub(in crate::log) async fn read_any(file: &dyn File) -> io::Result<Option<Header>> {
        if file.len()? < ENCODED_BYTES as u64 {
            return Ok(None);
        }
        let bytes = file.read_at(0, ENCODED_BYTES).await?;
        let sequence = (&bytes[16..24]).get_u64_le();
        Ok(Header::decode(&bytes, sequence).ok())
    }

    fn decode(bytes: &[u8], sequence: u64) -> io::Result<Header> {
        let name = name(sequence);
        let mut from = bytes;
        if from.len() < ENCODED_BYTES || &from[..8] != MAGIC {
            return Err(damaged(format!("{name} is damaged, or not a segment of this log")));
        }
        let mut crc = &from[ENCODED_BYTES - 4..];
        let intact = crc.get_u32_le() == crc32c::crc32c(&from[..ENCODED_BYTES - 4]);
        from.advance(8);
        let format = from.get_u32_le();
        // Format 1 has its checksum in the same place, and over the same bytes.
        if intact && format != FORMAT {
            return Err(unsupported(&name, format));
        }
        let header = Header {
            salt: from.get_u32_le(),
            sequence: from.get_u64_le(),
            log: from.get_u64_le(),
            follows: from.get_u64_le(),
            whole_upto: from.get_u64_le(),
            rewritten: from.get_u32_le() == 1,
        };
        if !intact || header.sequence != sequence {
            return Err(damaged(format!("segment {name} is damaged: its header")));
        }
        Ok(header)
    }
}

fn unsupported(name: &str, format: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "segment {name} has format {format}, this program knows only {FORMAT}: start the \
             version that wrote it"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { salt: 9, sequence: 7, log: 123_456, follows: 40, whole_upto: 55, rewritten: true };

    #[test]
    fn decodes_what_was_encoded_and_refuses_any_flipped_bit() {
        let (bytes, crc) = HEADER.encode();
        assert_eq!(bytes.len(), ENCODED_BYTES);
        assert_eq!(Header::decode(&bytes, 7).unwrap(), HEADER);
        assert_eq!(HEADER.crc(), crc);
        for at in 0..ENCODED_BYTES * 8 {
            let mut flipped = bytes.to_vec();
            flipped[at / 8] ^= 1 << (at % 8);
            let text = Header::decode(&flipped, 7).unwrap_err().to_string();
            assert!(text.contains("0000000007.seg"), "bit {at}: {text}");
        }
    }

    #[test]
    fn another_segments_header_is_refused() {
        let error = Header::decode(&HEADER.encode().0, 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn another_format_is_told_from_damage() {
        for format in [1u32, 2, 4] {
            let mut bytes = HEADER.encode().0.to_vec();
            bytes[8..12].copy_from_slice(&format.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..60]);
            bytes[60..].copy_from_slice(&crc.to_le_bytes());
            let error = Header::decode(&bytes, 7).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        }
    }
}
