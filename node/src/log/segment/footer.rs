//! Footers: a segment's directory and the places of its entries, behind its blocks.
//!
//! Written in the background once a segment is full and the next one is begun, so a segment with a
//! footer is never the newest. Invariant: a footer that decodes tells exactly what a scan of the
//! blocks tells. Must not know how it is written.
//!
//! The trailer, at the beginning of the last `TRAILER_BYTES` of the file:
//!
//! ```text
//!  0  8 bytes  "TSLOGEND"
//!  8  u64      sequence number of the segment
//! 16  u64      its last batch
//! 24  u64      end of its blocks, where the footer begins
//! 32  u64      entries in the table
//! 40  u32      groups, 44 u32 marks, 48 u32 spans of leaders
//! 52  u32      crc32c of groups, marks and spans, from the salt
//! 56  u32      crc32c of the table, from the salt
//! 60  u32      1 when the last mark is the list of retired batches
//! 64  u32      crc32c of bytes 0..64, from the salt
//! ```
//!
//! The footer: groups, sorted; marks; spans; the table, 8 bytes for each entry:
//!
//! ```text
//! group  0 u64 group, 8 u32 flags (1: removed), 12 u32 marks, 16 u32 spans, 20 u32 zero,
//!        24 u64 cut_from, 32 u64 first, 40 u64 count, 48 u64 bytes, 56 u64 stamp_min, 64 u64 stamp_max
//! mark   0 u64 offset of the frame's head in the file, 8 a copy of that head
//! span   0 u64 from, 8 u64 term, 16 u64 node
//! entry  0 u32 offset of its head in units of 8 bytes, 4 u32 length of its payload
//! ```

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tristream_proto::domain::{GroupId, NodeId};

use super::directory::{Directory, Mark, OFFSET_UNIT, Part, Position};
use super::{ALIGN_BYTES, Header, damaged, name};
use crate::disk::File;
use crate::log::EntryId;
use crate::log::frame::{HEAD_BYTES, Head};

/// Room for the trailer.
pub(in crate::log) const TRAILER_BYTES: u64 = 4096;
/// Bytes of an entry in the table.
pub(in crate::log) const ENTRY_BYTES: u64 = 8;

const ENCODED_BYTES: usize = 68;
const GROUP_BYTES: u64 = 72;
const MARK_BYTES: u64 = 8 + HEAD_BYTES as u64;
const SPAN_BYTES: u64 = 24;
const MAGIC: &[u8; 8] = b"TSLOGEND";

/// About what one more group takes in a footer.
pub(in crate::log) const GROUP_BYTES_ABOUT: u64 = GROUP_BYTES + 3 * MARK_BYTES + 2 * SPAN_BYTES;

/// Where the parts of a footer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Trailer {
    /// The segment's last batch.
    pub(in crate::log) last_batch: u64,
    /// Where the blocks end and the footer begins.
    pub(in crate::log) blocks_end: u64,
    /// It has a list of retired batches.
    pub(in crate::log) retired: bool,
    entries: u64,
    groups: u32,
    marks: u32,
    spans: u32,
    directory_crc: u32,
    table_crc: u32,
}

impl Trailer {
    fn directory_bytes(&self) -> u64 {
        u64::from(self.groups) * GROUP_BYTES
            + u64::from(self.marks) * MARK_BYTES
            + u64::from(self.spans) * SPAN_BYTES
    }

    /// Where in the file the table's entry number `at` is.
    pub(in crate::log) fn table_offset(&self, at: u64) -> u64 {
        self.blocks_end + self.directory_bytes() + at * ENTRY_BYTES
    }

    /// Bytes of the footer, without the trailer.
    pub(in crate::log) fn footer_bytes(&self) -> u64 {
        self.directory_bytes() + self.entries * ENTRY_BYTES
    }

    fn encode(&self, header: &Header) -> Bytes {
        let mut to = BytesMut::with_capacity(ENCODED_BYTES);
        to.put_slice(MAGIC);
        to.put_u64_le(header.sequence);
        to.put_u64_le(self.last_batch);
        to.put_u64_le(self.blocks_end);
        to.put_u64_le(self.entries);
        to.put_u32_le(self.groups);
        to.put_u32_le(self.marks);
        to.put_u32_le(self.spans);
        to.put_u32_le(self.directory_crc);
        to.put_u32_le(self.table_crc);
        to.put_u32_le(u32::from(self.retired));
        let crc = crc32c::crc32c_append(header.salt, &to);
        to.put_u32_le(crc);
        to.freeze()
    }

    fn decode(bytes: &[u8], header: &Header) -> Option<Trailer> {
        let bytes = bytes.get(..ENCODED_BYTES)?;
        let mut from = bytes;
        if &from[..8] != MAGIC {
            return None;
        }
        from.advance(8);
        let sequence = from.get_u64_le();
        let trailer = Trailer {
            last_batch: from.get_u64_le(),
            blocks_end: from.get_u64_le(),
            entries: from.get_u64_le(),
            groups: from.get_u32_le(),
            marks: from.get_u32_le(),
            spans: from.get_u32_le(),
            directory_crc: from.get_u32_le(),
            table_crc: from.get_u32_le(),
            retired: from.get_u32_le() == 1,
        };
        let intact = from.get_u32_le() == crc32c::crc32c_append(header.salt, &bytes[..64]);
        (intact && sequence == header.sequence).then_some(trailer)
    }

    /// The trailer of a file; `None` when it has none that is intact.
    pub(in crate::log) async fn read(
        file: &dyn File,
        header: &Header,
    ) -> io::Result<Option<Trailer>> {
        let len = file.len()?;
        let Some(at) = len.checked_sub(TRAILER_BYTES) else { return Ok(None) };
        let trailer = Trailer::decode(&file.read_at(at, ENCODED_BYTES).await?, header);
        Ok(trailer
            .filter(|trailer| trailer.blocks_end.saturating_add(trailer.footer_bytes()) <= at))
    }

    /// The directory, without positions; `None` when it is damaged.
    pub(in crate::log) async fn read_directory(
        &self,
        file: &dyn File,
        header: &Header,
    ) -> io::Result<Option<Directory>> {
        let bytes = file.read_at(self.blocks_end, self.directory_bytes() as usize).await?;
        if crc32c::crc32c_append(header.salt, &bytes) != self.directory_crc {
            return Ok(None);
        }
        Ok(self.decode_directory(&bytes, header.salt))
    }

    /// Whether the table is intact. Reads all of it, a piece at a time.
    pub(in crate::log) async fn table_is_intact(
        &self,
        file: &dyn File,
        header: &Header,
    ) -> io::Result<bool> {
        let (mut at, end) = (self.table_offset(0), self.table_offset(self.entries));
        let mut crc = header.salt;
        while at < end {
            let len = (end - at).min(1 << 20);
            crc = crc32c::crc32c_append(crc, &file.read_at(at, len as usize).await?);
            at += len;
        }
        Ok(crc == self.table_crc)
    }

    /// Entries `at..at + count` of the table. Not checked: what they lead to is.
    pub(in crate::log) async fn read_positions(
        &self,
        file: &dyn File,
        at: u64,
        count: u64,
    ) -> io::Result<Vec<Position>> {
        let count = count.min(self.entries.saturating_sub(at));
        let len = (count * ENTRY_BYTES) as usize;
        let bytes = file.read_at(self.table_offset(at), len).await?;
        Ok(bytes.chunks_exact(ENTRY_BYTES as usize).map(decode_position).collect())
    }

    fn decode_directory(&self, bytes: &[u8], salt: u32) -> Option<Directory> {
        let (groups, rest) =
            bytes.split_at(usize::try_from(self.groups).ok()? * GROUP_BYTES as usize);
        let (marks, spans) = rest.split_at(self.marks as usize * MARK_BYTES as usize);
        let mut marks = marks.chunks_exact(MARK_BYTES as usize);
        let mut spans = spans.chunks_exact(SPAN_BYTES as usize);
        let (mut parts, mut table_at) = (BTreeMap::new(), 0);
        for mut from in groups.chunks_exact(GROUP_BYTES as usize) {
            let group = GroupId(from.get_u64_le());
            let (flags, mark_count) = (from.get_u32_le(), from.get_u32_le());
            let span_count = from.get_u32_le();
            from.advance(4);
            let mut part = Part {
                removed: flags & 1 == 1,
                cut_from: from.get_u64_le(),
                first: from.get_u64_le(),
                count: from.get_u64_le(),
                table_at,
                bytes: from.get_u64_le(),
                stamp_min: from.get_u64_le(),
                stamp_max: from.get_u64_le(),
                ..Part::default()
            };
            table_at += part.count;
            for _ in 0..mark_count {
                part.put_mark(decode_mark(marks.next()?, salt)?);
            }
            for _ in 0..span_count {
                part.leaders.push(decode_span(spans.next()?));
            }
            parts.insert(group, part);
        }
        let retired = match self.retired {
            true => Some(decode_mark(marks.next()?, salt)?),
            false => None,
        };
        Some(Directory::without_positions(parts, retired))
    }
}

fn decode_mark(mut bytes: &[u8], salt: u32) -> Option<Mark> {
    let offset = bytes.get_u64_le();
    Some(Mark { offset, head: Head::decode(bytes, salt).ok()? })
}

fn decode_span(mut from: &[u8]) -> EntryId {
    let (index, term, node) = (from.get_u64_le(), from.get_u64_le(), from.get_u64_le());
    EntryId { term, node: NodeId(node), index }
}

fn decode_position(mut from: &[u8]) -> Position {
    Position { offset: from.get_u32_le(), len: from.get_u32_le() }
}

/// A footer ready to be written.
pub(in crate::log) struct Encoded {
    pub(in crate::log) trailer: Trailer,
    /// To be written where the blocks end.
    pub(in crate::log) footer: Bytes,
    /// To be written `TRAILER_BYTES` before the end of the file.
    pub(in crate::log) trailer_bytes: Bytes,
}

impl Encoded {
    /// Length of the shortest file that holds it.
    pub(in crate::log) fn file_bytes(&self) -> u64 {
        let end = self.trailer.blocks_end + self.trailer.footer_bytes();
        end.next_multiple_of(ALIGN_BYTES) + TRAILER_BYTES
    }
}

/// The footer of a segment with this directory (and its positions).
pub(in crate::log) fn encode(
    header: &Header,
    directory: &Directory,
    blocks_end: u64,
    last_batch: u64,
) -> Encoded {
    let (mut groups, mut marks, mut spans) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    let (mut mark_count, mut span_count, mut entries) = (0, 0, 0);
    let mut table = BytesMut::new();
    for (&group, part) in &directory.parts {
        groups.put_u64_le(group.0);
        groups.put_u32_le(u32::from(part.removed));
        groups.put_u32_le(part.marks().count() as u32);
        groups.put_u32_le(part.leaders.spans().len() as u32);
        groups.put_u32_le(0);
        groups.put_u64_le(part.cut_from);
        groups.put_u64_le(part.first);
        groups.put_u64_le(part.count);
        groups.put_u64_le(part.bytes);
        groups.put_u64_le(part.stamp_min);
        groups.put_u64_le(part.stamp_max);
        for mark in part.marks() {
            put_mark(&mut marks, mark, header.salt);
            mark_count += 1;
        }
        for span in part.leaders.spans() {
            spans.put_u64_le(span.from);
            spans.put_u64_le(span.term);
            spans.put_u64_le(span.node.0);
            span_count += 1;
        }
        for position in directory.positions(group) {
            table.put_u32_le(position.offset);
            table.put_u32_le(position.len);
            entries += 1;
        }
    }
    if let Some(mark) = &directory.retired {
        put_mark(&mut marks, mark, header.salt);
        mark_count += 1;
    }
    let mut footer = groups;
    footer.unsplit(marks);
    footer.unsplit(spans);
    let directory_crc = crc32c::crc32c_append(header.salt, &footer);
    let table_crc = crc32c::crc32c_append(header.salt, &table);
    footer.unsplit(table);
    let trailer = Trailer {
        last_batch,
        blocks_end,
        retired: directory.retired.is_some(),
        entries,
        groups: directory.parts.len() as u32,
        marks: mark_count,
        spans: span_count,
        directory_crc,
        table_crc,
    };
    Encoded { trailer, footer: footer.freeze(), trailer_bytes: trailer.encode(header) }
}

fn put_mark(to: &mut BytesMut, mark: &Mark, salt: u32) {
    to.put_u64_le(mark.offset);
    to.put_slice(&mark.head.encode(salt));
}

/// The error of a footer that was intact and is not any more.
pub(in crate::log) fn lost(header: &Header) -> io::Error {
    damaged(format!("segment {} is damaged: its footer", name(header.sequence)))
}

/// Where a position's head begins in the file.
pub(in crate::log) fn offset_of(position: Position) -> u64 {
    u64::from(position.offset) * OFFSET_UNIT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::EntryKind;
    use crate::log::frame::{self, Frame, What};

    const HEADER: Header =
        Header { salt: 5, sequence: 2, log: 1, follows: 3, whole_upto: 3, rewritten: false };

    /// Decodes as recovery does.
    fn decode(encoded: &Encoded) -> Option<(Trailer, Directory)> {
        let trailer = Trailer::decode(&encoded.trailer_bytes, &HEADER)?;
        let bytes = &encoded.footer[..trailer.directory_bytes() as usize];
        if crc32c::crc32c_append(HEADER.salt, bytes) != trailer.directory_crc {
            return None;
        }
        let table = &encoded.footer[trailer.directory_bytes() as usize..];
        if crc32c::crc32c_append(HEADER.salt, table) != trailer.table_crc {
            return None;
        }
        Some((trailer, trailer.decode_directory(bytes, HEADER.salt)?))
    }

    fn built(frames: &[Frame]) -> Directory {
        let mut directory = Directory::default();
        for (at, frame) in frames.iter().enumerate() {
            directory.note(&frame.head, 4096 + at as u64 * 64);
        }
        directory
    }

    /// Entries of three groups, and marks among them.
    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let step = (0..3u64, 0..3u64, frame::tests::frame(), any::<bool>());
        prop::collection::vec(step, 0..40).prop_map(|steps| {
            let mut next = [10u64; 3];
            let frame = |(group, term, mut frame, entry): (u64, u64, Frame, bool)| {
                let index = &mut next[group as usize];
                let id = EntryId { term, node: NodeId(term), index: *index };
                frame.head.group = GroupId(group);
                match frame.head.what {
                    What::Vote | What::Committed { .. } if !entry => {}
                    What::Checkpoint { .. } if !entry => {
                        frame.head.what = What::Checkpoint { applied: id };
                    }
                    What::Truncate { .. } if !entry => {
                        *index -= 1.min(*index - 10);
                        frame.head.what = What::Truncate { from: *index };
                    }
                    What::Retired => {}
                    _ => {
                        frame.head.what = What::Entry { id, kind: EntryKind::Command };
                        *index += 1;
                    }
                }
                frame
            };
            steps.into_iter().map(frame).collect()
        })
    }

    proptest! {
        #[test]
        fn tells_what_the_frames_told(frames in frames()) {
            let directory = built(&frames);
            let encoded = encode(&HEADER, &directory, 8192, 44);
            let (trailer, found) = decode(&encoded).unwrap();
            prop_assert_eq!((trailer.last_batch, trailer.blocks_end), (44, 8192));
            prop_assert_eq!(trailer.footer_bytes(), encoded.footer.len() as u64);
            prop_assert_eq!(found.retired, directory.retired);
            let mut table_at = 0;
            for (group, part) in &directory.parts {
                let expected = Part { table_at, ..part.clone() };
                prop_assert_eq!(&found.parts[group], &expected);
                let table = trailer.directory_bytes() + table_at * ENTRY_BYTES;
                let positions: Vec<Position> = encoded.footer[table as usize..]
                    .chunks_exact(8).take(part.count as usize).map(decode_position).collect();
                prop_assert_eq!(positions, directory.positions(*group).collect::<Vec<_>>());
                table_at += part.count;
            }
            prop_assert_eq!(found.parts.len(), directory.parts.len());
        }

        #[test]
        fn refuses_any_flipped_bit(frames in frames(), bit in 0..8u32) {
            let encoded = encode(&HEADER, &built(&frames), 8192, 44);
            for at in 0..encoded.footer.len() {
                let mut footer = encoded.footer.to_vec();
                footer[at] ^= 1 << bit;
                let trailer_bytes = encoded.trailer_bytes.clone();
                let flipped = Encoded { footer: footer.into(), trailer_bytes, ..encoded };
                prop_assert!(decode(&flipped).is_none(), "flipped at {}", at);
            }
            for at in 0..encoded.trailer_bytes.len() {
                let mut bytes = encoded.trailer_bytes.to_vec();
                bytes[at] ^= 1 << bit;
                prop_assert!(Trailer::decode(&bytes, &HEADER).is_none(), "flipped at {}", at);
            }
        }
    }

    #[test]
    fn another_segments_trailer_is_none() {
        let encoded = encode(&HEADER, &Directory::default(), 4096, 9);
        let other = Header { sequence: 3, ..HEADER };
        assert!(Trailer::decode(&encoded.trailer_bytes, &other).is_none());
        let recycled = Header { salt: 6, ..HEADER };
        assert!(Trailer::decode(&encoded.trailer_bytes, &recycled).is_none());
    }
}
