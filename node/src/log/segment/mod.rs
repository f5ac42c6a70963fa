//! Segments: the files of the log, as bytes.
//!
//! Owns their names and their codecs; what is here is pure, but for the few reads that `header` and
//! `footer` do on an open file.
//!
//! ```text
//! NNNNNNNNNN.seg   header | block block block .. | junk | footer: directory, table | junk | trailer
//!                  4 KiB    multiples of 4 KiB                                            4 KiB
//! ```
//!
//! The file comes from the pool: its bytes were all written before, and are junk (zeros, or what an
//! older segment held). Nothing of it counts that no checksum with this segment's salt covers.
//! `.seg.tmp` is an unfinished file and is ignored.

pub(super) mod block;
pub(super) mod directory;
pub(super) mod footer;
pub(super) mod header;

use std::io;
use std::path::{Path, PathBuf};

pub(super) use directory::Directory;
pub(super) use header::{HEADER_BYTES, Header};

/// What lies in a segment begins at multiples of this: a torn sector never touches what was durable.
pub(super) const ALIGN_BYTES: u64 = 4096;

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

/// Where a segment lies.
pub(super) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(name(sequence))
}

/// Where a rewritten segment's file grows before it is finished.
pub(super) fn temporary(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{}.tmp", name(sequence)))
}

/// The error for damaged bytes.
pub(super) fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_segments() {
        assert_eq!(sequence_of(&name(17)), Some(17));
        assert_eq!(sequence_of(&name(12_345_678_901)), Some(12_345_678_901));
        for other in ["0000000017.seg.tmp", "17.seg", "000000001x.seg", "LOCK", "free-1.tmp"] {
            assert_eq!(sequence_of(other), None, "{other}");
        }
    }
}
