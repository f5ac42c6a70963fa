//! Blocks: what one sync makes durable.
//!
//! Pure. Invariants: a block begins at a multiple of `ALIGN_BYTES` and is padded to one; what
//! decodes was written into this very segment. Damage in the header or among the heads loses the
//! block; damage in a payload loses that frame, whose head is known. Must not know what frames mean.
//!
//! A header of `HEADER_BYTES`, the heads of all frames, their payloads without gaps, zeros:
//!
//! ```text
//!  0  u32  "TSLB"
//!  4  u32  number of frames
//!  8  u64  batch: rises by one with each block of the log
//! 16  u64  durable_upto: the newest batch known to be durable when this one was written
//! 24  u64  bytes of all payloads
//! 32  u64  sequence number of the segment
//! 40  u32  prev_crc: the checksum (60) of the block before; of the segment's header for the first
//! 44  u32  crc32c of all heads, from the salt
//! 48  12 bytes zero
//! 60  u32  crc32c of bytes 0..60, started from the salt
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ALIGN_BYTES;
use crate::log::frame::{self, Bad, Frame, HEAD_BYTES};

/// Length of a block's header.
pub(in crate::log) const HEADER_BYTES: usize = 64;

const MAGIC: u32 = u32::from_le_bytes(*b"TSLB");
/// Payloads up to this size are copied next to each other: a slice of its own costs a write about as
/// much as copying this does.
const COPY_BYTES_MAX: usize = 2 << 10;

static ZEROS: [u8; ALIGN_BYTES as usize] = [0; ALIGN_BYTES as usize];

/// A block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Header {
    pub(in crate::log) frames: u32,
    pub(in crate::log) batch: u64,
    pub(in crate::log) durable_upto: u64,
    pub(in crate::log) payload_bytes: u64,
    pub(in crate::log) sequence: u64,
    pub(in crate::log) prev_crc: u32,
    pub(in crate::log) heads_crc: u32,
}

impl Header {
    fn encode(&self, salt: u32) -> ([u8; HEADER_BYTES], u32) {
        let mut bytes = [0; HEADER_BYTES];
        let mut to = &mut bytes[..];
        to.put_u32_le(MAGIC);
        to.put_u32_le(self.frames);
        to.put_u64_le(self.batch);
        to.put_u64_le(self.durable_upto);
        to.put_u64_le(self.payload_bytes);
        to.put_u64_le(self.sequence);
        to.put_u32_le(self.prev_crc);
        to.put_u32_le(self.heads_crc);
        let crc = crc32c::crc32c_append(salt, &bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// The header at the beginning of `bytes`, and its checksum; `None` when there is none of this
    /// segment.
    pub(in crate::log) fn decode(bytes: &[u8], salt: u32, sequence: u64) -> Option<(Header, u32)> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let mut from = bytes;
        if from.get_u32_le() != MAGIC {
            return None;
        }
        let header = Header {
            frames: from.get_u32_le(),
            batch: from.get_u64_le(),
            durable_upto: from.get_u64_le(),
            payload_bytes: from.get_u64_le(),
            sequence: from.get_u64_le(),
            prev_crc: from.get_u32_le(),
            heads_crc: from.get_u32_le(),
        };
        from.advance(12);
        let crc = from.get_u32_le();
        let intact = crc == crc32c::crc32c_append(salt, &bytes[..60]);
        (intact && header.sequence == sequence).then_some((header, crc))
    }

    /// Bytes of all heads.
    pub(in crate::log) fn heads_bytes(&self) -> u64 {
        u64::from(self.frames) * HEAD_BYTES as u64
    }

    /// Bytes of the block, padding included.
    pub(in crate::log) fn block_bytes(&self) -> u64 {
        let bytes = (HEADER_BYTES as u64 + self.heads_bytes()).saturating_add(self.payload_bytes);
        bytes.checked_next_multiple_of(ALIGN_BYTES).unwrap_or(u64::MAX)
    }

    /// The heads, each with where it begins in the block; `None` when they are damaged.
    ///
    /// # Errors
    /// One that is intact, and of a kind that this program does not know.
    pub(in crate::log) fn decode_heads(
        &self,
        bytes: &[u8],
        salt: u32,
    ) -> Result<Option<Vec<(u64, frame::Head)>>, Bad> {
        if crc32c::crc32c_append(salt, bytes) != self.heads_crc && !planted!(NoCrc) {
            return Ok(None);
        }
        let (mut heads, mut payload_at) = (Vec::new(), HEADER_BYTES as u64 + self.heads_bytes());
        for (at, bytes) in bytes.chunks(HEAD_BYTES).enumerate() {
            let begins = (HEADER_BYTES + at * HEAD_BYTES) as u64;
            match frame::Head::decode(bytes, salt) {
                Ok(head) if begins + u64::from(head.payload_at) == payload_at => {
                    payload_at += u64::from(head.len);
                    heads.push((begins, head));
                }
                Err(unknown @ Bad::Unknown(_)) => return Err(unknown),
                _ => return Ok(None),
            }
        }
        let whole = HEADER_BYTES as u64 + self.heads_bytes() + self.payload_bytes == payload_at;
        Ok(whole.then_some(heads))
    }
}

/// A block ready to be written.
pub(in crate::log) struct Encoded {
    pub(in crate::log) parts: Vec<Bytes>,
    /// Checksum of its header: the `prev_crc` of the next.
    pub(in crate::log) crc: u32,
    /// Length in bytes, padding included.
    pub(in crate::log) len: u64,
    pub(in crate::log) padding: u64,
    /// The frames' heads, each with where it begins in the block.
    pub(in crate::log) heads: Vec<(u64, frame::Head)>,
}

/// Where a block belongs.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) struct Position {
    pub(in crate::log) salt: u32,
    pub(in crate::log) sequence: u64,
    pub(in crate::log) prev_crc: u32,
    pub(in crate::log) batch: u64,
    pub(in crate::log) durable_upto: u64,
}

/// Bytes of a block of these frames, padding included.
pub(in crate::log) fn block_bytes<'a>(frames: impl Iterator<Item = &'a Frame>) -> u64 {
    let bytes = HEADER_BYTES + frames.map(Frame::bytes).sum::<usize>();
    (bytes as u64).next_multiple_of(ALIGN_BYTES)
}

/// The block of these frames.
pub(in crate::log) fn encode(position: Position, frames: &[&Frame]) -> Encoded {
    let Position { salt, sequence, prev_crc, batch, durable_upto } = position;
    let heads_end = HEADER_BYTES + frames.len() * HEAD_BYTES;
    let (mut heads, mut payload_at) = (Vec::with_capacity(frames.len()), heads_end);
    let lens = frames.iter().map(|frame| frame.payload.len());
    let payload_bytes: usize = lens.clone().sum();
    let copied: usize = lens.filter(|len| *len <= COPY_BYTES_MAX).sum();
    let mut to = BytesMut::with_capacity(heads_end + copied);
    to.put_bytes(0, HEADER_BYTES);
    for (at, frame) in frames.iter().enumerate() {
        let begins = HEADER_BYTES + at * HEAD_BYTES;
        // A block is far smaller than 4 GiB: see BATCH_BYTES_MAX and PAYLOAD_BYTES_MAX.
        let head = frame::Head { payload_at: (payload_at - begins) as u32, ..frame.head };
        payload_at += frame.payload.len();
        to.put_slice(&head.encode(salt));
        heads.push((begins as u64, head));
    }
    let heads_crc = crc32c::crc32c_append(salt, &to[HEADER_BYTES..]);
    let header = Header {
        frames: frames.len() as u32,
        batch,
        durable_upto,
        payload_bytes: payload_bytes as u64,
        sequence,
        prev_crc,
        heads_crc,
    };
    let (bytes, crc) = header.encode(salt);
    to[..HEADER_BYTES].copy_from_slice(&bytes);

    let mut parts = Vec::new();
    for frame in frames {
        if frame.payload.len() <= COPY_BYTES_MAX {
            to.put_slice(&frame.payload);
        } else {
            if !to.is_empty() {
                parts.push(to.split().freeze());
            }
            parts.push(frame.payload.clone());
        }
    }
    let (len, used) = (header.block_bytes(), payload_at as u64);
    if !to.is_empty() {
        parts.push(to.freeze());
    }
    let padding = len - used;
    parts.push(Bytes::from_static(&ZEROS[..padding as usize]));
    Encoded { parts, crc, len, padding, heads }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POSITION: Position =
        Position { salt: 77, sequence: 3, prev_crc: 5, batch: 40, durable_upto: 39 };

    fn bytes_of(encoded: &Encoded) -> Vec<u8> {
        encoded.parts.concat()
    }

    /// The frames that a block still tells, with the payload where it is intact.
    fn decode(bytes: &[u8]) -> Option<Vec<(frame::Head, Option<Bytes>)>> {
        let (header, _) = Header::decode(bytes, POSITION.salt, POSITION.sequence)?;
        let heads = &bytes[HEADER_BYTES..HEADER_BYTES + header.heads_bytes() as usize];
        let heads = header.decode_heads(heads, POSITION.salt).ok()??;
        let payload = |(at, head): (u64, frame::Head)| {
            let from = (at + u64::from(head.payload_at)) as usize;
            let payload = &bytes[from..from + head.len as usize];
            (head, head.fits(payload).then(|| Bytes::copy_from_slice(payload)))
        };
        Some(heads.into_iter().map(payload).collect())
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(
            frames in prop::collection::vec(frame::tests::frame(), 0..20),
        ) {
            let encoded = encode(POSITION, &frames.iter().collect::<Vec<_>>());
            let bytes = bytes_of(&encoded);
            prop_assert_eq!(bytes.len() as u64, encoded.len);
            prop_assert_eq!(encoded.len, block_bytes(frames.iter()));
            prop_assert_eq!(encoded.len % ALIGN_BYTES, 0);
            let found = decode(&bytes).unwrap();
            prop_assert_eq!(found.len(), frames.len());
            for ((head, payload), frame) in found.into_iter().zip(&frames) {
                prop_assert_eq!(payload.as_ref(), Some(&frame.payload));
                prop_assert_eq!(frame::Head { payload_at: 0, ..head }, frame.head);
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed_and_costs_no_more_than_it_must() {
        let frames: Vec<Frame> = (0..3u64)
            .map(|index| {
                let id = crate::log::EntryId { index, ..Default::default() };
                let what = frame::What::Entry { id, kind: crate::log::EntryKind::Command };
                Frame::new(tristream_proto::domain::GroupId(1), what, vec![7; 50].into())
            })
            .collect();
        let encoded = encode(POSITION, &frames.iter().collect::<Vec<_>>());
        let whole = bytes_of(&encoded);
        let heads_end = HEADER_BYTES + 3 * HEAD_BYTES;
        let used = whole.len() - encoded.padding as usize;
        for at in 0..used {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            match decode(&bytes) {
                None => assert!(at < heads_end, "flipped at {at}"),
                Some(found) => {
                    assert!(at >= heads_end, "flipped at {at}");
                    let lost: Vec<bool> =
                        found.iter().map(|(_, payload)| payload.is_none()).collect();
                    let mut expected = vec![false; 3];
                    expected[(at - heads_end) / 50] = true;
                    assert_eq!(lost, expected, "flipped at {at}");
                }
            }
        }
    }

    #[test]
    fn large_payloads_are_not_copied() {
        let large = Bytes::from(vec![1; COPY_BYTES_MAX + 1]);
        let group = tristream_proto::domain::GroupId(1);
        let frame = Frame::new(group, frame::What::Vote, large.clone());
        let encoded = encode(POSITION, &[&frame]);
        assert!(encoded.parts.iter().any(|part| part.as_ptr() == large.as_ptr()));
    }

    #[test]
    fn another_segments_block_is_none() {
        let whole = bytes_of(&encode(POSITION, &[]));
        assert!(Header::decode(&whole, POSITION.salt, POSITION.sequence).is_some());
        assert!(Header::decode(&whole, POSITION.salt, POSITION.sequence + 1).is_none());
        assert!(Header::decode(&whole, POSITION.salt + 1, POSITION.sequence).is_none());
    }
}
