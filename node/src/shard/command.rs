//! What goes through a shard group's log: one tag byte, then the command's own format.
//!
//! An on-disk format: tags are only ever added (Seal, Inherit and Trim will be). Invariant: bytes
//! with a tag that this build does not know are an error, never skipped. Must not know Raft or
//! state.

use bytes::{BufMut, Bytes, BytesMut};
use tristream_proto::domain::limits::{
    BATCH_OVERHEAD_BYTES_MAX, BATCH_RECORDS_MAX, ENTRY_BYTES_MAX,
};
use tristream_proto::domain::{Batch, Timestamp};

const TAG_APPEND: u8 = 1;
/// The tag and a batch's header.
const OVERHEAD_BYTES: usize = 1 + 13;
const _: () = assert!(OVERHEAD_BYTES <= BATCH_OVERHEAD_BYTES_MAX);

/// Bytes that are no command of this build: damage, or a newer version's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no shard command: {0}")]
pub(super) struct CommandError(pub(super) String);

/// What a command does to the counters, without its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outline {
    /// Records follow.
    Append {
        /// The leader's stamp.
        arrival: Timestamp,
        /// How many records: 1 to `BATCH_RECORDS_MAX`.
        count: u32,
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
        Some((tag, _)) => Err(CommandError(format!("unknown tag {tag}"))),
        None => Err(CommandError("no bytes".to_owned())),
    }
}

/// The batch of an append.
pub(super) fn batch(command: &Bytes) -> Result<Batch, CommandError> {
    outline(command)?;
    Batch::decode(command.slice(1..)).map_err(bad)
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
    fn what_this_build_does_not_know_is_refused() {
        let empty = append(&Batch { arrival: Timestamp(1), records: vec![] });
        for bad in [&[][..], &[0], &[2, 1, 0], &[TAG_APPEND], &[TAG_APPEND, 1, 0], &empty] {
            assert!(outline(bad).is_err(), "{bad:?}");
        }
        let mut cut = append(&Batch { arrival: Timestamp(1), records: records(&["abc"]) });
        cut.truncate(cut.len() - 1);
        assert!(batch(&cut).is_err());
    }
}
