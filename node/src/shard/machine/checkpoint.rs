//! The state of a shard as bytes: an on-disk format, little endian.
//!
//! ```text
//! 1: format u8 | records u64 | bytes u64 | last arrival u64
//!    has applied u8 | term, node, index u64
//! 2: as 1, then
//!    has newest u8 | index, arrival u64 | count u32
//!    is open u8 | creation second, index u64
//!    is sealed u8 | closed second, last arrival, end u64
//!    parents u8, per parent: shard u32 | upto u64
//!    rows (window.rs), to the end
//! 3: as 2, with behind the parents: is trimmed u8 | trimmed u64
//! ```
//!
//! What does not apply is written as zeros. Format 1 is still read: of a shard without parents,
//! which is open and remembers nothing; and format 2: of one that is not trimmed.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use tristream_proto::domain::{NodeId, RecordPosition, SequenceNumber, ShardId, Timestamp};

use super::{Appended, Opened, Sealed, ShardMachine};
use crate::log::EntryId;
use crate::shard::window::{Rows, Window};

const FORMAT_PLAIN: u8 = 1;
const FORMAT_WHOLE: u8 = 2;
const FORMAT: u8 = 3;

pub(super) fn encode(machine: &ShardMachine) -> Bytes {
    let rows = machine.window.encode();
    let mut out = BytesMut::with_capacity(256 + rows.len());
    out.put_u8(FORMAT);
    out.put_u64_le(machine.records);
    out.put_u64_le(machine.bytes);
    out.put_u64_le(machine.last_arrival.0);
    let applied = machine.applied.unwrap_or_default();
    out.put_u8(machine.applied.is_some().into());
    out.put_u64_le(applied.term);
    out.put_u64_le(applied.node.0);
    out.put_u64_le(applied.index);
    out.put_u8(machine.newest.is_some().into());
    out.put_u64_le(machine.newest.map_or(0, |newest| newest.first.position().index));
    out.put_u64_le(machine.newest.map_or(0, |newest| newest.arrival.0));
    out.put_u32_le(machine.newest.map_or(0, |newest| newest.count));
    out.put_u8(machine.opened.is_some().into());
    out.put_u64_le(machine.opened.map_or(0, |opened| opened.creation_second));
    out.put_u64_le(machine.opened.map_or(0, |opened| opened.index));
    out.put_u8(machine.sealed.is_some().into());
    out.put_u64_le(machine.sealed.map_or(0, |sealed| sealed.closed_second));
    out.put_u64_le(machine.sealed.map_or(0, |sealed| sealed.last_arrival.0));
    out.put_u64_le(machine.sealed.map_or(0, |sealed| sealed.end));
    // Two at most.
    out.put_u8(machine.parents.len() as u8);
    for (parent, upto) in &machine.parents {
        out.put_u32_le(parent.index());
        out.put_u64_le(*upto);
    }
    out.put_u8(machine.trimmed.is_some().into());
    out.put_u64_le(machine.trimmed.unwrap_or_default());
    out.put_slice(&rows);
    out.freeze()
}

/// The state that `from` tells, of the shard that `machine` is.
pub(super) fn decode(machine: &ShardMachine, from: Bytes) -> Result<ShardMachine, String> {
    let (length, format) = (from.len(), from.first().copied());
    let bad = |why: &dyn std::fmt::Display| {
        format!(
            "no shard checkpoint of formats 1 to {FORMAT}: {length} bytes, format {format:?}: {why}"
        )
    };
    let mut rest = from;
    let restored = match format {
        Some(FORMAT_PLAIN) => counters(machine, &mut rest).map(|state| (state, None)),
        Some(FORMAT_WHOLE) => {
            whole(machine, &mut rest).map(|state| (state, Some(rest.split_off(0))))
        }
        Some(FORMAT) => trimmed(machine, &mut rest).map(|state| (state, Some(rest.split_off(0)))),
        _ => return Err(bad(&"unknown format")),
    };
    let (mut state, rows) = restored.map_err(|error| bad(&error))?;
    if rest.has_remaining() {
        return Err(bad(&"bytes at its end"));
    }
    if let Some(rows) = rows {
        state.window = Rows::decode(&rows).map_err(|error| bad(&error))?.into_window();
    }
    Ok(state)
}

fn counters(machine: &ShardMachine, from: &mut Bytes) -> Result<ShardMachine, TryGetError> {
    from.try_get_u8()?;
    let (records, bytes) = (from.try_get_u64_le()?, from.try_get_u64_le()?);
    let last_arrival = Timestamp(from.try_get_u64_le()?);
    let has_applied = from.try_get_u8()? == 1;
    let (term, node) = (from.try_get_u64_le()?, NodeId(from.try_get_u64_le()?));
    let id = EntryId { term, node, index: from.try_get_u64_le()? };
    let applied = has_applied.then_some(id);
    Ok(ShardMachine {
        records,
        bytes,
        last_arrival,
        applied,
        newest: None,
        sealed: None,
        trimmed: None,
        window: Window::default(),
        ..machine.clone()
    })
}

fn whole(machine: &ShardMachine, from: &mut Bytes) -> Result<ShardMachine, TryGetError> {
    let mut state = counters(machine, from)?;
    let has_newest = from.try_get_u8()? == 1;
    let (index, arrival) = (from.try_get_u64_le()?, Timestamp(from.try_get_u64_le()?));
    let count = from.try_get_u32_le()?;
    let is_open = from.try_get_u8()? == 1;
    let (creation_second, opened_index) = (from.try_get_u64_le()?, from.try_get_u64_le()?);
    state.opened = is_open.then_some(Opened { creation_second, index: opened_index });
    let first = SequenceNumber {
        creation_second,
        shard: machine.shard,
        counter: RecordPosition { index, position: 0 }.counter(),
        record_second: arrival.seconds(),
    };
    state.newest = has_newest.then_some(Appended { first, arrival, count });
    let is_sealed = from.try_get_u8()? == 1;
    let sealed = Sealed {
        closed_second: from.try_get_u64_le()?,
        last_arrival: Timestamp(from.try_get_u64_le()?),
        end: from.try_get_u64_le()?,
    };
    state.sealed = is_sealed.then_some(sealed);
    let mut parents = vec![];
    for _ in 0..from.try_get_u8()? {
        let parent = ShardId::from(from.try_get_u32_le()?);
        parents.push((parent, from.try_get_u64_le()?));
    }
    state.parents = parents;
    Ok(state)
}

fn trimmed(machine: &ShardMachine, from: &mut Bytes) -> Result<ShardMachine, TryGetError> {
    let state = whole(machine, from)?;
    let is_trimmed = from.try_get_u8()? == 1;
    let upto = from.try_get_u64_le()?;
    Ok(ShardMachine { trimmed: is_trimmed.then_some(upto), ..state })
}
