//! Frames: the unit of the shared log, one fact about one group.
//!
//! Invariant: what decodes was written so, bit for bit, into this very segment: the header's
//! checksum is mixed with the segment's salt and covers the payload's checksum. Must not know where
//! frames lie.
//!
//! Layout, little-endian, `HEADER_BYTES` long, the payload right behind:
//!
//! ```text
//!  0  u8   tag: 1 entry, 2 truncate, 3 purge, 4 vote, 5 committed, 6 checkpoint, 7 remove; never
//!          used again for something else
//!  1  u8   detail: an entry's kind; 1 when an optional id is present (truncate, committed)
//!  2  u16  zero
//!  4  u32  length of the payload in bytes
//!  8  u64  group
//! 16  u64  index, 24 u64 term, 32 u64 node: the entry's id, the purge point, the committed id, the
//!          last entry of a checkpoint; truncate: only the index, of the last entry that stays
//! 40  u32  crc32c of the payload, without salt: the same on every replica
//! 44  u32  crc32c of bytes 0..44, started from the segment's salt
//! ```

use bytes::{Buf, BufMut, Bytes};
use tristream_proto::domain::{GroupId, NodeId};

use super::{EntryId, EntryKind};

/// Length of a frame's header.
pub(super) const HEADER_BYTES: usize = 48;

/// A payload is never longer.
pub(super) const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// What a frame says about its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// An entry was appended. Entries at its index and beyond are gone.
    Entry { id: EntryId, kind: EntryKind, payload: Bytes },
    /// Entries after `after` are gone (all of them: `None`).
    Truncate { after: Option<u64> },
    /// Entries up to `upto` are gone.
    Purge { upto: EntryId },
    /// The vote is this.
    Vote { vote: Bytes },
    /// The newest committed id is this.
    Committed { committed: Option<EntryId> },
    /// The machine's state after `applied`.
    Checkpoint { applied: EntryId, state: Bytes },
    /// The group is gone for good.
    Remove,
}

/// One fact about one group, with its payload's checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) group: GroupId,
    pub(super) body: Body,
    payload_crc: u32,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    /// Damaged, or never written.
    #[error("checksum mismatch")]
    Checksum,
    /// Intact, but of a kind that this program does not know.
    #[error("frame of unknown kind {0}: written by a newer version?")]
    Unknown(u8),
}

impl Frame {
    /// A frame; computes its payload's checksum.
    pub(super) fn new(group: GroupId, body: Body) -> Frame {
        let payload_crc = crc32c::crc32c(body.payload());
        Frame { group, body, payload_crc }
    }

    /// Bytes of the frame in a segment.
    pub(super) fn len(&self) -> usize {
        HEADER_BYTES + self.body.payload().len()
    }

    /// The header as it is written into a segment of this salt.
    pub(super) fn header(&self, salt: u32) -> [u8; HEADER_BYTES] {
        let (tag, detail, id) = self.body.fields();
        let mut header = [0; HEADER_BYTES];
        let mut to = &mut header[..];
        to.put_u8(tag);
        to.put_u8(detail);
        to.put_u16_le(0);
        // Bounded by PAYLOAD_BYTES_MAX at the door.
        to.put_u32_le(self.body.payload().len() as u32);
        to.put_u64_le(self.group.0);
        to.put_u64_le(id.index);
        to.put_u64_le(id.term);
        to.put_u64_le(id.node.0);
        to.put_u32_le(self.payload_crc);
        let crc = crc32c::crc32c_append(salt, &header[..44]);
        header[44..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// The frame at the beginning of `bytes`.
    pub(super) fn decode(bytes: &Bytes, salt: u32) -> Result<Frame, Bad> {
        if bytes.len() < HEADER_BYTES {
            return Err(Bad::Checksum);
        }
        let mut from = &bytes[..HEADER_BYTES];
        let (tag, detail, zero) = (from.get_u8(), from.get_u8(), from.get_u16_le());
        let len = from.get_u32_le() as usize;
        let group = GroupId(from.get_u64_le());
        let (index, term, node) = (from.get_u64_le(), from.get_u64_le(), from.get_u64_le());
        let (payload_crc, crc) = (from.get_u32_le(), from.get_u32_le());
        if crc != crc32c::crc32c_append(salt, &bytes[..44]) || len > bytes.len() - HEADER_BYTES {
            return Err(Bad::Checksum);
        }
        let payload = bytes.slice(HEADER_BYTES..HEADER_BYTES + len);
        if payload_crc != crc32c::crc32c(&payload) {
            return Err(Bad::Checksum);
        }
        if zero != 0 {
            return Err(Bad::Unknown(tag));
        }
        let id = EntryId { term, node: NodeId(node), index };
        let body = Body::from_fields(tag, detail, id, payload)?;
        Ok(Frame { group, body, payload_crc })
    }
}

impl Body {
    /// The opaque bytes; empty for most.
    pub(super) fn payload(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match self {
            Body::Entry { payload, .. } => payload,
            Body::Vote { vote } => vote,
            Body::Checkpoint { state, .. } => state,
            Body::Truncate { .. } | Body::Purge { .. } | Body::Committed { .. } | Body::Remove => {
                &NONE
            }
        }
    }

    /// For a frame that makes older ones of its group useless: entries from where on, or (`None`)
    /// all frames.
    pub(super) fn shadows(&self) -> Option<Option<u64>> {
        match self {
            Body::Truncate { after } => {
                Some(Some(after.map_or(0, |after| after.saturating_add(1))))
            }
            Body::Remove => Some(None),
            _ => None,
        }
    }

    fn fields(&self) -> (u8, u8, EntryId) {
        let none = EntryId::default();
        match *self {
            Body::Entry { id, kind, .. } => (1, kind as u8, id),
            Body::Truncate { after } => {
                let index = after.unwrap_or_default();
                (2, u8::from(after.is_some()), EntryId { index, ..none })
            }
            Body::Purge { upto } => (3, 0, upto),
            Body::Vote { .. } => (4, 0, none),
            Body::Committed { committed } => {
                (5, u8::from(committed.is_some()), committed.unwrap_or_default())
            }
            Body::Checkpoint { applied, .. } => (6, 0, applied),
            Body::Remove => (7, 0, none),
        }
    }

    fn from_fields(tag: u8, detail: u8, id: EntryId, payload: Bytes) -> Result<Body, Bad> {
        Ok(match (tag, detail) {
            (1, 1) => Body::Entry { id, kind: EntryKind::Blank, payload },
            (1, 2) => Body::Entry { id, kind: EntryKind::Command, payload },
            (1, 3) => Body::Entry { id, kind: EntryKind::Membership, payload },
            (2, 0) => Body::Truncate { after: None },
            (2, 1) => Body::Truncate { after: Some(id.index) },
            (3, 0) => Body::Purge { upto: id },
            (4, 0) => Body::Vote { vote: payload },
            (5, 0) => Body::Committed { committed: None },
            (5, 1) => Body::Committed { committed: Some(id) },
            (6, 0) => Body::Checkpoint { applied: id, state: payload },
            (7, 0) => Body::Remove,
            _ => return Err(Bad::Unknown(tag)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> impl Strategy<Value = EntryId> {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(term, node, index)| EntryId {
            term,
            node: NodeId(node),
            index,
        })
    }

    fn payload() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from)
    }

    fn body() -> impl Strategy<Value = Body> {
        let kind =
            prop::sample::select(vec![EntryKind::Blank, EntryKind::Command, EntryKind::Membership]);
        prop_oneof![
            (id(), kind, payload()).prop_map(|(id, kind, payload)| Body::Entry {
                id,
                kind,
                payload
            }),
            any::<Option<u64>>().prop_map(|after| Body::Truncate { after }),
            id().prop_map(|upto| Body::Purge { upto }),
            payload().prop_map(|vote| Body::Vote { vote }),
            prop::option::of(id()).prop_map(|committed| Body::Committed { committed }),
            (id(), payload()).prop_map(|(applied, state)| Body::Checkpoint { applied, state }),
            Just(Body::Remove),
        ]
    }

    fn bytes_of(frame: &Frame, salt: u32) -> Vec<u8> {
        let mut bytes = frame.header(salt).to_vec();
        bytes.extend_from_slice(frame.body.payload());
        bytes
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(group: u64, body in body(), salt: u32) {
            let frame = Frame::new(GroupId(group), body);
            let bytes = bytes_of(&frame, salt);
            prop_assert_eq!(bytes.len(), frame.len());
            prop_assert_eq!(Frame::decode(&bytes.into(), salt), Ok(frame));
        }

        #[test]
        fn refuses_any_flipped_bit_and_any_other_salt(
            body in body(), salt: u32, other: u32, at: prop::sample::Index, bit in 0u8..8,
        ) {
            prop_assume!(salt != other);
            let frame = Frame::new(GroupId(7), body);
            let mut bytes = bytes_of(&frame, salt);
            prop_assert_eq!(Frame::decode(&bytes.clone().into(), other), Err(Bad::Checksum));
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert_eq!(Frame::decode(&bytes.into(), salt), Err(Bad::Checksum));
        }
    }

    #[test]
    fn a_frame_of_tomorrow_is_told_from_damage() {
        let mut header = Frame::new(GroupId(1), Body::Remove).header(9);
        header[0] = 200;
        let crc = crc32c::crc32c_append(9, &header[..44]);
        header[44..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Frame::decode(&Bytes::copy_from_slice(&header), 9), Err(Bad::Unknown(200)));
    }
}
