//! What goes through a shard group's log: one tag byte, then the command's own format.
//!
//! An on-disk format, little endian: tags are only ever added, and what a tag means never changes.
//!
//! ```text
//! 1 Append   a batch (proto/src/domain/record.rs)
//! 2 Seal     stamp of the leader u64, in milliseconds
//! 3 Inherit  parts u8, per part: parent u32 | after u64 | upto u64 | bytes u32 | rows (window.rs);
//!            opens u8; if 1: creation second u64 | last arrival u64 |
//!                            parents u8, per parent: shard u32 | end u64
//! 4 Trim     upto u64: the last entry that no reader is shown any more
//! ```
//!
//! Invariant: bytes with a tag that this build does not know are an error, never skipped. Must not
//! know Raft or state.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tristream_proto::domain::limits::{
    BATCH_OVERHEAD_BYTES_MAX, BATCH_RECORDS_MAX, ENTRY_BYTES_MAX,
};
use tristream_proto::domain::{Batch, CallRun, ShardId, Timestamp};

use super::{Opening, WindowPart};

const TAG_APPEND: u8 = 1;
const TAG_SEAL: u8 = 2;
const TAG_INHERIT: u8 = 3;
const TAG_TRIM: u8 = 4;
/// The tag and a batch's header, and the length of its calls.
const OVERHEAD_BYTES: usize = 1 + 13 + 4;
const _: () = assert!(OVERHEAD_BYTES <= BATCH_OVERHEAD_BYTES_MAX);
/// Parents of a child: a merge has two.
const PARENTS_MAX: usize = 2;

/// Bytes that are no command of this build: damage, or a newer version's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no shard command: {0}")]
pub(super) struct CommandError(pub(super) String);

/// What a command does, without its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outline {
    /// Records follow.
    Append {
        /// The leader's stamp.
        arrival: Timestamp,
        /// How many records: 1 to `BATCH_RECORDS_MAX`.
        count: u32,
    },
    /// The shard takes no records any more.
    Seal {
        /// The leader's stamp.
        stamp: Timestamp,
    },
    /// A child is given what its parents remember, or is opened.
    Inherit,
    /// Records have expired.
    Trim {
        /// Those up to this entry.
        upto: u64,
    },
}

/// The command that stores `batch`.
pub(super) fn append(batch: &Batch) -> Bytes {
    let batch = batch.encode();
    let mut command = BytesMut::with_capacity(1 + batch.len());
    command.put_u8(TAG_APPEND);
    command.put_slice(&batch);
    assert!(command.len() <= ENTRY_BYTES_MAX, "the appender bounds what it gathers");
    command.freeze()
}

/// The command that seals the shard.
pub(super) fn seal(stamp: Timestamp) -> Bytes {
    let mut command = BytesMut::with_capacity(1 + 8);
    command.put_u8(TAG_SEAL);
    command.put_u64_le(stamp.0);
    command.freeze()
}

/// The command that lets the records up to entry `upto` go.
pub(super) fn trim(upto: u64) -> Bytes {
    let mut command = BytesMut::with_capacity(1 + 8);
    command.put_u8(TAG_TRIM);
    command.put_u64_le(upto);
    command.freeze()
}

/// The command that gives a child `parts` and perhaps opens it; an error when no entry can hold
/// them.
pub(super) fn inherit(
    parts: &[WindowPart],
    opening: Option<&Opening>,
) -> Result<Bytes, CommandError> {
    let parents = opening.map_or(0, |opening| opening.parents.len());
    if parts.len() > usize::from(u8::MAX) || parents > PARENTS_MAX {
        return Err(CommandError(format!("{} parts, {parents} parents", parts.len())));
    }
    let rows: usize = parts.iter().map(|part| part.rows.len()).sum();
    let mut command = BytesMut::with_capacity(rows + 64);
    command.put_u8(TAG_INHERIT);
    command.put_u8(parts.len() as u8);
    for part in parts {
        command.put_u32_le(part.parent.index());
        command.put_u64_le(part.after);
        command.put_u64_le(part.upto);
        command.put_u32_le(part.rows.len() as u32);
        command.put_slice(&part.rows);
    }
    command.put_u8(opening.is_some().into());
    if let Some(opening) = opening {
        command.put_u64_le(opening.creation_second);
        command.put_u64_le(opening.last_arrival.0);
        command.put_u8(parents as u8);
        for (parent, end) in &opening.parents {
            command.put_u32_le(parent.index());
            command.put_u64_le(*end);
        }
    }
    if command.len() > ENTRY_BYTES_MAX {
        return Err(CommandError(format!("{} bytes", command.len())));
    }
    Ok(command.freeze())
}

/// The stamp in milliseconds that the log keeps beside the command; 0 for one without.
pub(super) fn stamp_ms(command: &[u8]) -> u64 {
    match outline(command) {
        Ok(Outline::Append { arrival, .. }) => arrival.0,
        Ok(Outline::Seal { stamp }) => stamp.0,
        // What is no command is found out when it is applied.
        Ok(Outline::Inherit | Outline::Trim { .. }) | Err(_) => 0,
    }
}

/// Reads what the command does, not its records.
pub(super) fn outline(command: &[u8]) -> Result<Outline, CommandError> {
    match command.split_first() {
        Some((&TAG_APPEND, batch)) => {
            let (arrival, count) = Batch::peek(batch).map_err(bad)?;
            if count == 0 || count as usize > BATCH_RECORDS_MAX {
                return Err(CommandError(format!("a batch of {count} records")));
            }
            Ok(Outline::Append { arrival, count })
        }
        Some((&TAG_SEAL, mut stamp)) if stamp.len() == 8 => {
            Ok(Outline::Seal { stamp: Timestamp(stamp.get_u64_le()) })
        }
        Some((&TAG_SEAL, rest)) => Err(CommandError(format!("a seal of {} bytes", rest.len()))),
        Some((&TAG_INHERIT, _)) => Ok(Outline::Inherit),
        Some((&TAG_TRIM, mut upto)) if upto.len() == 8 => {
            Ok(Outline::Trim { upto: upto.get_u64_le() })
        }
        Some((&TAG_TRIM, rest)) => Err(CommandError(format!("a trim of {} bytes", rest.len()))),
        Some((tag, _)) => Err(CommandError(format!("unknown tag {tag}"))),
        None => Err(CommandError("no bytes".to_owned())),
    }
}

/// The batch of an append.
pub(super) fn batch(command: &Bytes) -> Result<Batch, CommandError> {
    outline(command)?;
    Batch::decode(command.slice(1..)).map_err(bad)
}

/// The calls of an append, without touching its records.
pub(super) fn calls(command: &[u8]) -> Result<Vec<CallRun>, CommandError> {
    Batch::calls(command.get(1..).unwrap_or_default()).map_err(bad)
}

/// The parts and the opening of an inherit command. The rows are not looked at.
pub(super) fn inheritance(
    command: &Bytes,
) -> Result<(Vec<WindowPart>, Option<Opening>), CommandError> {
    let mut from = command.clone();
    if from.try_get_u8() != Ok(TAG_INHERIT) {
        return Err(CommandError("not an inherit command".to_owned()));
    }
    let parts = (0..from.try_get_u8().map_err(bad)?)
        .map(|_| part(&mut from))
        .collect::<Result<Vec<_>, CommandError>>()?;
    let opening = match from.try_get_u8().map_err(bad)? {
        0 => None,
        1 => Some(opening(&mut from)?),
        other => return Err(CommandError(format!("neither opens nor not: {other}"))),
    };
    if from.has_remaining() {
        return Err(CommandError("bytes after the opening".to_owned()));
    }
    Ok((parts, opening))
}

fn part(from: &mut Bytes) -> Result<WindowPart, CommandError> {
    let parent = ShardId::from(from.try_get_u32_le().map_err(bad)?);
    let after = from.try_get_u64_le().map_err(bad)?;
    let upto = from.try_get_u64_le().map_err(bad)?;
    let bytes = from.try_get_u32_le().map_err(bad)? as usize;
    if bytes > from.len() {
        return Err(CommandError("ends within rows".to_owned()));
    }
    Ok(WindowPart { parent, after, upto, rows: from.split_to(bytes), more: false })
}

fn opening(from: &mut Bytes) -> Result<Opening, CommandError> {
    let creation_second = from.try_get_u64_le().map_err(bad)?;
    let last_arrival = Timestamp(from.try_get_u64_le().map_err(bad)?);
    let mut parents = vec![];
    for _ in 0..from.try_get_u8().map_err(bad)? {
        let parent = ShardId::from(from.try_get_u32_le().map_err(bad)?);
        parents.push((parent, from.try_get_u64_le().map_err(bad)?));
    }
    Ok(Opening { creation_second, last_arrival, parents })
}

fn bad(error: impl std::fmt::Display) -> CommandError {
    CommandError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::testing::records;

    #[test]
    fn an_append_round_trips() {
        let stored = Batch { arrival: Timestamp(77), records: records(&["a", "b"]) };
        let bytes = append(&stored);
        let count = 2;
        assert_eq!(outline(&bytes), Ok(Outline::Append { arrival: Timestamp(77), count }));
        assert_eq!(batch(&bytes), Ok(stored));
    }

    #[test]
    fn a_seal_round_trips() {
        assert_eq!(outline(&seal(Timestamp(9))), Ok(Outline::Seal { stamp: Timestamp(9) }));
    }

    #[test]
    fn what_is_stored_and_seals_have_a_stamp() {
        let stored = Batch { arrival: Timestamp(77), records: records(&["a"]) };
        let stamps = [append(&stored), seal(Timestamp(9)), trim(5)].map(|bytes| stamp_ms(&bytes));
        assert_eq!(stamps, [77, 9, 0]);
        assert_eq!((stamp_ms(&[]), stamp_ms(&[TAG_SEAL, 1]), stamp_ms(&[99; 20])), (0, 0, 0));
    }

    #[test]
    fn a_trim_round_trips() {
        let command = trim(1 << 40);
        assert_eq!(outline(&command), Ok(Outline::Trim { upto: 1 << 40 }));
        assert!(outline(&command[..8]).is_err());
        assert!(outline(&[&command[..], &[0]].concat()).is_err());
    }

    #[test]
    fn an_inheritance_round_trips() {
        let part = |parent, rows: &'static [u8]| WindowPart {
            parent: ShardId::from(parent),
            after: 3,
            upto: 70,
            rows: Bytes::from_static(rows),
            more: false,
        };
        let parts = vec![part(4, b"rows"), part(5, b"")];
        let opening = Opening {
            creation_second: 9,
            last_arrival: Timestamp(8_000),
            parents: vec![(ShardId::from(4), 70), (ShardId::from(5), 6)],
        };
        for opening in [None, Some(opening)] {
            let command = inherit(&parts, opening.as_ref()).expect("it fits");
            assert_eq!(outline(&command), Ok(Outline::Inherit));
            assert_eq!(inheritance(&command), Ok((parts.clone(), opening)));
            for cut in 0..command.len() {
                assert!(inheritance(&command.slice(..cut)).is_err(), "{cut}");
            }
            let longer = Bytes::from([&command[..], &[0]].concat());
            assert!(inheritance(&longer).is_err());
        }
    }

    #[test]
    fn what_no_entry_can_hold_is_refused() {
        let rows = Bytes::from(vec![0; ENTRY_BYTES_MAX]);
        let part = WindowPart { rows, ..WindowPart::default() };
        assert!(inherit(&[part], None).is_err());
    }

    #[test]
    fn what_this_build_does_not_know_is_refused() {
        let empty = append(&Batch { arrival: Timestamp(1), records: vec![] });
        for bad in [&[][..], &[0], &[5, 1, 0], &[TAG_APPEND], &[TAG_APPEND, 1, 0], &empty] {
            assert!(outline(bad).is_err(), "{bad:?}");
        }
        assert!(outline(&[TAG_SEAL, 1, 2, 3]).is_err());
        let mut cut = append(&Batch { arrival: Timestamp(1), records: records(&["abc"]) });
        cut.truncate(cut.len() - 1);
        assert!(batch(&cut).is_err());
    }
}
