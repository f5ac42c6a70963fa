//! What a shard remembers of the calls it stored, so that a call that is sent again is not stored
//! again.
//!
//! Owns the rows: one per run of records that came in with one call and lie next to each other in
//! one entry. Invariant: the state is a set of rows, bounded by count, bytes and age, and the
//! oldest go first; it is a function of what was inserted. Pure. Must not know the log, or who
//! asks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tristream_proto::domain::{
    CallId, CallRun, Origin, RecordPosition, SequenceNumber, ShardId, ShardIndex, Timestamp,
};

/// Rows that a shard remembers at most.
pub(super) const ROWS_MAX: usize = 65_536;
/// The bounds of every shard. They are part of the replicated state: another figure is another
/// state, so a change needs a new format of the checkpoint.
const BOUNDS: Bounds = Bounds { rows: ROWS_MAX, bytes: 8 << 20, age: Duration::from_secs(10 * 60) };
/// A part for a child ends at the first entry that brings it to this size.
const PART_BYTES_TARGET: usize = 1 << 20;

const FORMAT: u8 = 1;
const ENTRY_HEADER_BYTES: usize = 4 + 8 + 8 + 8 + 8 + 4;
const ROW_HEADER_BYTES: usize = 16 + 4 + 2 + 1;
const CONSECUTIVE: u8 = 0;
const LISTED: u8 = 1;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    rows: usize,
    /// Of the rows as they are written, each with a header of its own.
    bytes: usize,
    /// Between a row's stamp and the shard's newest.
    age: Duration,
}

/// Bytes that are no rows: damage, or a newer format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not rows of a window: {0}")]
pub(super) struct RowsError(&'static str);

/// Where the records of a row were stored. Ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    arrival: Timestamp,
    shard: ShardId,
    index: u64,
    /// Position of the first in the entry; the others follow.
    start: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    call: CallId,
    /// Of the shard that stored the records.
    creation_second: u64,
    /// Index of the entry, in the log of the shard that remembers, which brought the row.
    learned: u64,
    ordinals: Ordinals,
}

/// Places in a call, in the order of the records' numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ordinals {
    Consecutive { first: u16, count: u16 },
    Listed(Box<[u16]>),
}

/// Rows that were read back, to be absorbed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows(Vec<(Place, Row)>);

/// The rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    rows: BTreeMap<Place, Row>,
    by_call: BTreeSet<(CallId, Place)>,
    bytes: usize,
}

impl Window {
    /// The number of the record that came from `origin`, while it is remembered.
    pub(super) fn find(&self, origin: Origin) -> Option<SequenceNumber> {
        let of_call = (origin.call, Place::FIRST)..=(origin.call, Place::LAST);
        self.by_call.range(of_call).find_map(|(_, place)| {
            let row = self.rows.get(place)?;
            let rank = row.ordinals.rank(origin.ordinal)?;
            let position = place.start.saturating_add(rank);
            let position = RecordPosition { index: place.index, position };
            Some(SequenceNumber {
                creation_second: row.creation_second,
                shard: place.shard,
                counter: position.counter(),
                record_second: place.arrival.seconds(),
            })
        })
    }

    /// Remembers the calls of entry `index` of this shard, whose records begin as `first`.
    pub(super) fn store(&mut self, first: SequenceNumber, arrival: Timestamp, runs: Vec<CallRun>) {
        let index = first.position().index;
        for CallRun { call, start, ordinals } in runs {
            let place = Place { arrival, shard: first.shard, index, start };
            let creation_second = first.creation_second;
            let ordinals = Ordinals::new(&ordinals);
            self.insert(place, Row { call, creation_second, learned: index, ordinals });
        }
    }

    /// Remembers what another shard did, since entry `learned` of this one.
    pub(super) fn absorb(&mut self, rows: Rows, learned: u64) {
        for (place, row) in rows.0 {
            self.insert(place, Row { learned, ..row });
        }
    }

    /// Forgets what is too old by the stamp `now` of the shard's newest record, and the oldest
    /// beyond the bounds. Tells how many calls were forgotten before their time.
    pub(super) fn evict(&mut self, now: Timestamp) -> u32 {
        self.evict_to(now, BOUNDS)
    }

    fn evict_to(&mut self, now: Timestamp, bounds: Bounds) -> u32 {
        let newest = self.rows.last_key_value().map_or(now, |(place, _)| place.arrival.max(now));
        let mut early = 0;
        while let Some(oldest) = self.rows.first_entry() {
            let is_late = newest.since(oldest.key().arrival) > bounds.age;
            if !is_late && self.by_call.len() <= bounds.rows && self.bytes <= bounds.bytes {
                break;
            }
            let (place, row) = oldest.remove_entry();
            self.by_call.remove(&(row.call, place));
            self.bytes -= row.cost_bytes();
            early += u32::from(!is_late);
        }
        early
    }

    /// Bytes of all rows, at least as many as they take when written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All rows, in their order:
    ///
    /// ```text
    /// format u8, then per entry:
    ///   shard u32 | creation second u64 | index u64 | learned u64 | arrival u64 | rows u32
    ///   then per row:
    ///     call 16 | start u32 | count u16 | kind u8
    ///     ordinals: first u16 (kind 0: consecutive), or count of u16 (kind 1)
    /// ```
    ///
    /// Little endian.
    pub(super) fn encode(&self) -> Bytes {
        encode(self.rows.iter())
    }

    /// What was learned behind entry `after`, in whole entries, up to about a megabyte; and the
    /// entry with which it ends when there is more.
    pub(super) fn part(&self, after: u64) -> (Bytes, Option<u64>) {
        self.part_to(after, PART_BYTES_TARGET)
    }

    fn part_to(&self, after: u64, bytes_target: usize) -> (Bytes, Option<u64>) {
        let mut rows: Vec<(&Place, &Row)> =
            self.rows.iter().filter(|(_, row)| row.learned > after).collect();
        // Stable: rows of one entry stay in their order, and so next to each other when written.
        rows.sort_by_key(|(_, row)| row.learned);
        let mut bytes = 0;
        let cut = rows.iter().zip(rows.iter().skip(1)).position(|((_, row), (_, next))| {
            bytes += row.cost_bytes();
            bytes >= bytes_target && next.learned > row.learned
        });
        let upto = cut.map(|last| rows[last].1.learned);
        rows.truncate(cut.map_or(rows.len(), |last| last + 1));
        (encode(rows.into_iter()), upto)
    }

    fn insert(&mut self, place: Place, row: Row) {
        self.by_call.insert((row.call, place));
        self.bytes += row.cost_bytes();
        // The same row again, from a part that overlaps another: the old one goes.
        if let Some(old) = self.rows.insert(place, row) {
            self.bytes -= old.cost_bytes();
            if self.rows.get(&place).is_some_and(|row| row.call != old.call) {
                self.by_call.remove(&(old.call, place));
            }
        }
    }
}

impl Rows {
    /// Reads [`Window::encode`] back.
    pub(super) fn decode(mut from: &[u8]) -> Result<Rows, RowsError> {
        let from = &mut from;
        if take(from, 1)?.get_u8() != FORMAT {
            return Err(RowsError("unknown format"));
        }
        let mut rows = vec![];
        while from.has_remaining() {
            let mut header = take(from, ENTRY_HEADER_BYTES)?;
            let shard = ShardId::from(header.get_u32_le());
            let (creation_second, index) = (header.get_u64_le(), header.get_u64_le());
            let (learned, arrival) = (header.get_u64_le(), Timestamp(header.get_u64_le()));
            for _ in 0..header.get_u32_le() {
                let mut row = take(from, ROW_HEADER_BYTES)?;
                let mut call = CallId([0; 16]);
                row.copy_to_slice(&mut call.0);
                let (start, count, kind) = (row.get_u32_le(), row.get_u16_le(), row.get_u8());
                let place = Place { arrival, shard, index, start };
                let ordinals = Ordinals::decode(from, count, kind)?;
                rows.push((place, Row { call, creation_second, learned, ordinals }));
            }
        }
        Ok(Rows(rows))
    }

    /// These rows and nothing else, as they were learned.
    pub(super) fn into_window(self) -> Window {
        let mut window = Window::default();
        self.0.into_iter().for_each(|(place, row)| window.insert(place, row));
        window
    }
}

impl Place {
    const FIRST: Place =
        Place { arrival: Timestamp(0), shard: ShardId(ShardIndex(0)), index: 0, start: 0 };
    const LAST: Place = Place {
        arrival: Timestamp(u64::MAX),
        shard: ShardId(ShardIndex(u32::MAX)),
        index: u64::MAX,
        start: u32::MAX,
    };
}

impl Row {
    fn cost_bytes(&self) -> usize {
        ENTRY_HEADER_BYTES + ROW_HEADER_BYTES + self.ordinals.bytes()
    }
}

impl Ordinals {
    fn new(listed: &[u16]) -> Ordinals {
        let consecutive = listed.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
        match listed.first() {
            Some(&first) if consecutive => {
                Ordinals::Consecutive { first, count: listed.len() as u16 }
            }
            _ => Ordinals::Listed(listed.into()),
        }
    }

    /// How many come before this one.
    fn rank(&self, ordinal: u16) -> Option<u32> {
        match self {
            Ordinals::Consecutive { first, count } => {
                ordinal.checked_sub(*first).filter(|rank| rank < count).map(u32::from)
            }
            Ordinals::Listed(listed) => {
                listed.iter().position(|&other| other == ordinal).map(|rank| rank as u32)
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Ordinals::Consecutive { .. } => 2,
            Ordinals::Listed(listed) => 2 * listed.len(),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Ordinals::Consecutive { first, count } => {
                out.put_u16_le(*count);
                out.put_u8(CONSECUTIVE);
                out.put_u16_le(*first);
            }
            Ordinals::Listed(listed) => {
                out.put_u16_le(listed.len() as u16);
                out.put_u8(LISTED);
                listed.iter().for_each(|&ordinal| out.put_u16_le(ordinal));
            }
        }
    }

    fn decode(from: &mut &[u8], count: u16, kind: u8) -> Result<Ordinals, RowsError> {
        match kind {
            CONSECUTIVE => {
                let first = take(from, 2)?.get_u16_le();
                let fits = count > 0 && first.checked_add(count - 1).is_some();
                fits.then_some(Ordinals::Consecutive { first, count })
                    .ok_or(RowsError("ordinals run over"))
            }
            LISTED => {
                let mut listed = take(from, 2 * usize::from(count))?;
                Ok(Ordinals::Listed((0..count).map(|_| listed.get_u16_le()).collect()))
            }
            _ => Err(RowsError("unknown kind of ordinals")),
        }
    }
}

fn take<'a>(from: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], RowsError> {
    let (taken, rest) = from.split_at_checked(bytes).ok_or(RowsError("too short"))?;
    *from = rest;
    Ok(taken)
}

fn encode<'a>(rows: impl Iterator<Item = (&'a Place, &'a Row)>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    let mut entry = None;
    let mut count_at = 0;
    for (place, row) in rows {
        let here = (place.arrival, place.shard, place.index, row.creation_second, row.learned);
        if entry != Some(here) {
            entry = Some(here);
            out.put_u32_le(place.shard.index());
            out.put_u64_le(row.creation_second);
            out.put_u64_le(place.index);
            out.put_u64_le(row.learned);
            out.put_u64_le(place.arrival.0);
            count_at = out.len();
            out.put_u32_le(0);
        }
        let count = (&out[count_at..]).get_u32_le() + 1;
        out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
        out.put_slice(&row.call.0);
        out.put_u32_le(place.start);
        row.ordinals.encode(&mut out);
    }
    out.freeze()
}

#[cfg(test)]
mod tests;
