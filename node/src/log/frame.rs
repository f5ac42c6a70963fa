//! Frames: the unit of the shared log, one fact about one group.
//!
//! A frame has a head of fixed length and a payload, which lies elsewhere in the same block: all
//! heads of a block come first, so that damage in a payload leaves known what was damaged.
//! Invariant: a head that decodes was written so, bit for bit, into this very segment: its checksum
//! is mixed with the segment's salt, and covers the payload's checksum. Must not know about files.
//!
//! Layout of a head, little-endian, `HEAD_BYTES` long:
//!
//! ```text
//!  0  u8   tag: 1 entry, 2 truncate, 3 purge, 4 vote, 5 committed, 6 checkpoint, 7 remove,
//!          8 repair, 9 retired; never used again for something else
//!  1  u8   detail: kind of an entry or repair; committed: 1 when there is an id
//!  2  u16  zero
//!  4  u32  length of the payload in bytes
//!  8  u64  group
//! 16  u64  index, 24 u64 term, 32 u64 node: the entry's id, the purge point, the committed id, the
//!          last entry of a checkpoint; truncate: only the index, of the first entry that goes
//! 40  u64  stamp of an entry in milliseconds, 0 when it has none
//! 48  u32  where the payload begins, in bytes from the first of this head
//! 52  u32  crc32c of the payload, without salt: the same on every replica
//! 56  u32  zero
//! 60  u32  crc32c of bytes 0..60, started from the segment's salt
//! ```

use bytes::{Buf, BufMut, Bytes};
use tristream_proto::domain::{GroupId, NodeId};

use super::{Entry, EntryId, EntryKind};

/// Length of a frame's head.
pub(super) const HEAD_BYTES: usize = 64;

/// A payload is never longer.
pub(super) const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// The group that frames about the log itself carry.
const NO_GROUP: GroupId = GroupId(u64::MAX);

/// What a frame says about its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An entry was appended. Entries at its index and beyond are gone.
    Entry { id: EntryId, kind: EntryKind },
    /// Entries from `from` on are gone.
    Truncate { from: u64 },
    /// Entries up to `upto` are gone.
    Purge { upto: EntryId },
    /// The vote is the payload.
    Vote,
    /// The newest committed id is this.
    Committed { committed: Option<EntryId> },
    /// The payload is the machine's state after `applied`.
    Checkpoint { applied: EntryId },
    /// The group is gone for good.
    Remove,
    /// The payload of an entry that was damaged where it lies. Changes nothing else.
    Repair { id: EntryId, kind: EntryKind },
    /// The payload lists the batches whose segments may be missing: all that counted in them was
    /// written again.
    Retired,
}

/// A frame but for its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) group: GroupId,
    pub(super) what: What,
    /// Stamp of an entry, 0 when it has none.
    pub(super) stamp_ms: u64,
    /// Length of the payload.
    pub(super) len: u32,
    pub(super) payload_crc: u32,
    /// From the first byte of the head; known once the block is.
    pub(super) payload_at: u32,
}

/// One fact about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) head: Head,
    pub(super) payload: Bytes,
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
    /// A frame; computes its payload's checksum. The payload is at most `PAYLOAD_BYTES_MAX` long.
    pub(super) fn new(group: GroupId, what: What, payload: Bytes) -> Frame {
        Frame::stamped(group, what, payload, 0)
    }

    /// An entry of a group.
    pub(super) fn entry(group: GroupId, entry: Entry) -> Frame {
        let Entry { id, kind, stamp_ms, payload } = entry;
        Frame::stamped(group, What::Entry { id, kind }, payload, stamp_ms)
    }

    /// An entry that is written again because its first copy is damaged.
    pub(super) fn repair(group: GroupId, entry: Entry) -> Frame {
        let Entry { id, kind, stamp_ms, payload } = entry;
        Frame::stamped(group, What::Repair { id, kind }, payload, stamp_ms)
    }

    /// A frame without payload.
    pub(super) fn bare(group: GroupId, what: What) -> Frame {
        Frame::new(group, what, Bytes::new())
    }

    /// The list of batches whose segments may be missing.
    pub(super) fn retired(payload: Bytes) -> Frame {
        Frame::new(NO_GROUP, What::Retired, payload)
    }

    fn stamped(group: GroupId, what: What, payload: Bytes, stamp_ms: u64) -> Frame {
        let payload_crc = crc32c::crc32c(&payload);
        // Bounded by PAYLOAD_BYTES_MAX at the door.
        let len = payload.len() as u32;
        Frame { head: Head { group, what, stamp_ms, len, payload_crc, payload_at: 0 }, payload }
    }

    /// Bytes of the frame in a segment: head and payload.
    pub(super) fn bytes(&self) -> usize {
        HEAD_BYTES + self.payload.len()
    }

    /// The entry that the frame holds, of which it is one.
    pub(super) fn into_entry(self) -> Option<Entry> {
        let (id, kind) = self.head.entry()?;
        Some(Entry { id, kind, stamp_ms: self.head.stamp_ms, payload: self.payload })
    }
}

impl Head {
    /// Id and kind of an entry or of the repair of one.
    pub(super) fn entry(&self) -> Option<(EntryId, EntryKind)> {
        match self.what {
            What::Entry { id, kind } | What::Repair { id, kind } => Some((id, kind)),
            _ => None,
        }
    }

    /// Bytes of head and payload.
    pub(super) fn bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.len)
    }

    /// Whether this is the payload.
    pub(super) fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.len as usize
            && (planted!(NoCrc) || crc32c::crc32c(payload) == self.payload_crc)
    }

    /// The head as it is written into a segment of this salt.
    pub(super) fn encode(&self, salt: u32) -> [u8; HEAD_BYTES] {
        let (tag, detail, id) = self.what.fields();
        let mut bytes = [0; HEAD_BYTES];
        let mut to = &mut bytes[..];
        to.put_u8(tag);
        to.put_u8(detail);
        to.put_u16_le(0);
        to.put_u32_le(self.len);
        to.put_u64_le(self.group.0);
        to.put_u64_le(id.index);
        to.put_u64_le(id.term);
        to.put_u64_le(id.node.0);
        to.put_u64_le(self.stamp_ms);
        to.put_u32_le(self.payload_at);
        to.put_u32_le(self.payload_crc);
        to.put_u32_le(0);
        let crc = crc32c::crc32c_append(salt, &bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The head at the beginning of `bytes`.
    pub(super) fn decode(bytes: &[u8], salt: u32) -> Result<Head, Bad> {
        let Some(bytes) = bytes.get(..HEAD_BYTES) else { return Err(Bad::Checksum) };
        let mut from = bytes;
        let (tag, detail, zero) = (from.get_u8(), from.get_u8(), from.get_u16_le());
        let len = from.get_u32_le();
        let group = GroupId(from.get_u64_le());
        let (index, term, node) = (from.get_u64_le(), from.get_u64_le(), from.get_u64_le());
        let stamp_ms = from.get_u64_le();
        let (payload_at, payload_crc) = (from.get_u32_le(), from.get_u32_le());
        let (zeros, crc) = (from.get_u32_le(), from.get_u32_le());
        if crc != crc32c::crc32c_append(salt, &bytes[..60]) && !planted!(NoCrc) {
            return Err(Bad::Checksum);
        }
        if zero != 0 || zeros != 0 {
            return Err(Bad::Unknown(tag));
        }
        let id = EntryId { term, node: NodeId(node), index };
        let what = What::from_fields(tag, detail, id)?;
        Ok(Head { group, what, stamp_ms, len, payload_crc, payload_at })
    }
}

impl What {
    fn fields(self) -> (u8, u8, EntryId) {
        let none = EntryId::default();
        match self {
            What::Entry { id, kind } => (1, kind as u8, id),
            What::Truncate { from } => (2, 0, EntryId { index: from, ..none }),
            What::Purge { upto } => (3, 0, upto),
            What::Vote => (4, 0, none),
            What::Committed { committed } => {
                (5, u8::from(committed.is_some()), committed.unwrap_or_default())
            }
            What::Checkpoint { applied } => (6, 0, applied),
            What::Remove => (7, 0, none),
            What::Repair { id, kind } => (8, kind as u8, id),
            What::Retired => (9, 0, none),
        }
    }

    fn from_fields(tag: u8, detail: u8, id: EntryId) -> Result<What, Bad> {
        let kind = match detail {
            1 => Some(EntryKind::Blank),
            2 => Some(EntryKind::Command),
            3 => Some(EntryKind::Membership),
            _ => None,
        };
        Ok(match (tag, detail, kind) {
            (1, _, Some(kind)) => What::Entry { id, kind },
            (2, 0, _) => What::Truncate { from: id.index },
            (3, 0, _) => What::Purge { upto: id },
            (4, 0, _) => What::Vote,
            (5, 0, _) => What::Committed { committed: None },
            (5, 1, _) => What::Committed { committed: Some(id) },
            (6, 0, _) => What::Checkpoint { applied: id },
            (7, 0, _) => What::Remove,
            (8, _, Some(kind)) => What::Repair { id, kind },
            (9, 0, _) => What::Retired,
            _ => return Err(Bad::Unknown(tag)),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> impl Strategy<Value = EntryId> {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(term, node, index)| EntryId {
            term,
            node: NodeId(node),
            index,
        })
    }

    fn what() -> impl Strategy<Value = What> {
        let kind =
            prop::sample::select(vec![EntryKind::Blank, EntryKind::Command, EntryKind::Membership]);
        prop_oneof![
            (id(), kind.clone()).prop_map(|(id, kind)| What::Entry { id, kind }),
            (id(), kind).prop_map(|(id, kind)| What::Repair { id, kind }),
            any::<u64>().prop_map(|from| What::Truncate { from }),
            id().prop_map(|upto| What::Purge { upto }),
            Just(What::Vote),
            prop::option::of(id()).prop_map(|committed| What::Committed { committed }),
            id().prop_map(|applied| What::Checkpoint { applied }),
            Just(What::Remove),
            Just(What::Retired),
        ]
    }

    prop_compose! {
        /// Any frame, as it comes from the callers.
        pub(in crate::log) fn frame()(
            group: u64,
            what in what(),
            stamp_ms: u64,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) -> Frame {
            Frame::stamped(GroupId(group), what, payload.into(), stamp_ms)
        }
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(mut frame in frame(), payload_at: u32, salt: u32) {
            frame.head.payload_at = payload_at;
            let bytes = frame.head.encode(salt);
            prop_assert_eq!(Head::decode(&bytes, salt), Ok(frame.head));
            prop_assert!(frame.head.fits(&frame.payload));
        }

        #[test]
        fn refuses_any_flipped_bit_and_any_other_salt(frame in frame(), salt: u32, other: u32) {
            prop_assume!(salt != other);
            let bytes = frame.head.encode(salt);
            prop_assert_eq!(Head::decode(&bytes, other), Err(Bad::Checksum));
            for at in 0..HEAD_BYTES * 8 {
                let mut bytes = bytes;
                bytes[at / 8] ^= 1 << (at % 8);
                prop_assert_eq!(Head::decode(&bytes, salt), Err(Bad::Checksum));
            }
            for at in 0..frame.payload.len() * 8 {
                let mut payload = frame.payload.to_vec();
                payload[at / 8] ^= 1 << (at % 8);
                prop_assert!(!frame.head.fits(&payload));
            }
        }
    }

    #[test]
    fn a_frame_of_tomorrow_is_told_from_damage() {
        let mut bytes = Frame::bare(GroupId(1), What::Remove).head.encode(9);
        bytes[0] = 200;
        let crc = crc32c::crc32c_append(9, &bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Head::decode(&bytes, 9), Err(Bad::Unknown(200)));
    }
}
