//! Sequence numbers in AWS's 186-bit layout (kinesis-contract 7.9), version 2.
//!
//! Hex digits, most significant first: `2` | creation second of the shard (9) | low nibble of the shard
//! index (1) | counter (16, top bit clear) | `00` | second of the record (9) | shard index (8) | `2`.
//! Our counter is `log index << 20 | position in the entry`, so that a number leads straight to its
//! record: a seek needs no state beyond the number itself.
//!
//! Must not know: logs, clocks. Invariant: a `SequenceNumber` always encodes to 56 decimal digits or so
//! and decodes to itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ShardId, ShardIndex};

/// Bits of the counter that hold a record's position within its log entry.
pub(super) const POSITION_BITS: u32 = 20;
/// Largest counter: its top bit is always clear.
const COUNTER_MAX: u64 = i64::MAX as u64;
/// First digit and last.
const VERSION: u64 = 2;
/// Nine hex digits.
const SECOND_MASK: u64 = 0xf_ffff_ffff;
/// So many bits of the counter lie in the lower 128 of a number.
const COUNTER_LOW_BITS: u32 = 48;
/// Creation and record seconds have 9 hex digits, and AWS refuses creation seconds from here on.
const CREATION_SECOND_END: u64 = 16_025_175_000;

/// Where a record lies in its shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RecordPosition {
    /// Index of the log entry. Records start at 1 or above; 0 stands for the shard's beginning.
    pub index: u64,
    /// Position within the entry, below 2^20.
    pub position: u32,
}

impl RecordPosition {
    /// The position just after this one within the same entry.
    pub fn next(self) -> RecordPosition {
        RecordPosition { index: self.index, position: self.position + 1 }
    }

    /// As one ordered number.
    pub fn counter(self) -> u64 {
        self.index << POSITION_BITS | u64::from(self.position)
    }

    /// Back from [`RecordPosition::counter`].
    pub fn from_counter(counter: u64) -> RecordPosition {
        RecordPosition {
            index: counter >> POSITION_BITS,
            position: (counter & ((1 << POSITION_BITS) - 1)) as u32,
        }
    }
}

/// A record's sequence number. Ordered first by the shard's creation, then by counter.
///
/// Field order is the order of significance, so the derived order is the numeric one among numbers of
/// shards whose index has the same low nibble; [`SequenceNumber::cmp`] compares the encoded number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceNumber {
    /// Second in which the shard was created.
    pub creation_second: u64,
    /// The shard.
    pub shard: ShardId,
    /// Strictly increasing within the shard.
    pub counter: u64,
    /// Second in which the leader stamped the record.
    pub record_second: u64,
}

/// The text is no sequence number of a version we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sequence number")]
pub struct InvalidSequenceNumber(pub String);

/// 192 bits as (high 64, low 128).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct U192(u64, u128);

impl SequenceNumber {
    /// The shard's `StartingSequenceNumber`: counter 0, record time = creation time.
    pub fn start_of(shard: ShardId, creation_second: u64) -> SequenceNumber {
        SequenceNumber { creation_second, shard, counter: 0, record_second: creation_second }
    }

    /// A closed shard's `EndingSequenceNumber`: the largest counter, record time = close time.
    pub fn end_of(shard: ShardId, creation_second: u64, close_second: u64) -> SequenceNumber {
        SequenceNumber { creation_second, shard, counter: COUNTER_MAX, record_second: close_second }
    }

    /// The position in the shard's log that the number names.
    pub fn position(self) -> RecordPosition {
        RecordPosition::from_counter(self.counter)
    }

    fn encode(self) -> U192 {
        let index = u64::from(self.shard.index());
        let counter = self.counter & COUNTER_MAX;
        let high = VERSION << 56
            | (self.creation_second & SECOND_MASK) << 20
            | (index & 0xf) << 16
            | counter >> COUNTER_LOW_BITS;
        // What is shifted out of the counter is what `high` holds.
        let low = u128::from(counter) << 80
            | u128::from(self.record_second & SECOND_MASK) << 36
            | u128::from(index) << 4
            | u128::from(VERSION);
        U192(high, low)
    }

    fn decode(U192(high, low): U192) -> Option<SequenceNumber> {
        if high >> 56 != VERSION || low & 0xf != u128::from(VERSION) {
            return None;
        }
        let creation_second = high >> 20 & SECOND_MASK;
        let counter = (high & 0xffff) << COUNTER_LOW_BITS | (low >> 80) as u64;
        let record_second = (low >> 36) as u64 & SECOND_MASK;
        let index = (low >> 4) as u64 & u64::from(u32::MAX);
        let plausible = creation_second < CREATION_SECOND_END
            && counter <= COUNTER_MAX
            && index <= i32::MAX as u64;
        plausible.then_some(SequenceNumber {
            creation_second,
            shard: ShardId(ShardIndex(index as u32)),
            counter,
            record_second,
        })
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.encode().cmp(&other.encode())
    }
}

impl U192 {
    /// Divides in place by ten to the nineteenth and gives the remainder.
    fn div_rem_1e19(self) -> (U192, u64) {
        const BASE: u128 = 10_000_000_000_000_000_000;
        let limbs = [u128::from(self.0), self.1 >> 64, self.1 & u128::from(u64::MAX)];
        let mut out = [0u128; 3];
        let mut rest = 0u128;
        for (limb, digit) in limbs.iter().zip(&mut out) {
            let value = rest << 64 | limb;
            *digit = value / BASE;
            rest = value % BASE;
        }
        (U192(out[0] as u64, out[1] << 64 | out[2]), rest as u64)
    }

    fn parse(text: &str) -> Option<U192> {
        if text.is_empty() || text.len() > 58 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let mut limbs = [0u64; 3];
        for digit in text.bytes() {
            let mut carry = u128::from(digit - b'0');
            for limb in limbs.iter_mut().rev() {
                let value = u128::from(*limb) * 10 + carry;
                *limb = value as u64;
                carry = value >> 64;
            }
            if carry != 0 {
                return None;
            }
        }
        Some(U192(limbs[0], u128::from(limbs[1]) << 64 | u128::from(limbs[2])))
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rest, low) = self.encode().div_rem_1e19();
        let (rest, middle) = rest.div_rem_1e19();
        write!(f, "{}{middle:019}{low:019}", rest.1)
    }
}

impl FromStr for SequenceNumber {
    type Err = InvalidSequenceNumber;

    fn from_str(text: &str) -> Result<Self, InvalidSequenceNumber> {
        U192::parse(text)
            .and_then(SequenceNumber::decode)
            .ok_or_else(|| InvalidSequenceNumber(text.to_owned()))
    }
}

impl Serialize for SequenceNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SequenceNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_seen_on_aws_decodes_and_encodes_to_itself() {
        let text = "49674026002850188218576229259473476449429298564223254594";
        let number: SequenceNumber = text.parse().expect("an AWS sequence number");
        assert_eq!(number.to_string(), text);
        assert_eq!(number.shard.index() & 0xf, 4, "its low nibble stands after the creation time");
    }

    #[test]
    fn neighbouring_shards_differ_by_the_step_recorded_from_aws() {
        let start = |i: u32| SequenceNumber::start_of(ShardId::from(i), 1_790_000_000);
        let (a, b) = (start(0).encode(), start(1).encode());
        let (low, borrow) = b.1.overflowing_sub(a.1);
        let step = U192(b.0 - a.0 - u64::from(borrow), low);
        let expected = U192::parse("22300745198530623141535718272648361505980432");
        assert!(expected == Some(step));
    }

    #[test]
    fn garbage_is_refused() {
        for bad in
            ["", "0", "5", "x", "-1", "99999999999999999999999999999999999999999999999999999999999"]
        {
            assert!(bad.parse::<SequenceNumber>().is_err(), "{bad}");
        }
    }

    fn number() -> impl Strategy<Value = SequenceNumber> {
        (0..CREATION_SECOND_END, 0..=i32::MAX as u32, 0..=COUNTER_MAX, 0..1u64 << 36).prop_map(
            |(creation_second, shard, counter, record_second)| SequenceNumber {
                creation_second,
                shard: ShardId::from(shard),
                counter,
                record_second,
            },
        )
    }

    /// The 47 digits of the layout.
    fn hex(number: SequenceNumber) -> String {
        format!(
            "2{:09x}{:x}{:016x}00{:09x}{:08x}2",
            number.creation_second,
            number.shard.index() & 0xf,
            number.counter,
            number.record_second,
            number.shard.index(),
        )
    }

    proptest! {
        #[test]
        fn the_bits_are_those_of_the_layout(number in number()) {
            let U192(high, low) = number.encode();
            prop_assert_eq!(format!("{high:015x}{low:032x}"), hex(number));
        }

        #[test]
        fn what_does_not_begin_and_end_with_the_version_is_refused(
            number in number(), first in 0u64..256, last in 0u128..16,
        ) {
            let U192(high, low) = number.encode();
            let other = U192((high & ((1 << 56) - 1)) | (first << 56), (low & !0xf) | last);
            let expected = (first == VERSION && last == 2).then_some(number);
            prop_assert_eq!(SequenceNumber::decode(other), expected);
        }

        #[test]
        fn text_round_trips(number in number()) {
            prop_assert_eq!(number.to_string().parse::<SequenceNumber>(), Ok(number));
        }

        #[test]
        fn order_is_that_of_the_counter_within_a_shard(number in number(), step in 1u64..1000) {
            prop_assume!(number.counter <= COUNTER_MAX - step);
            let later = SequenceNumber { counter: number.counter + step, ..number };
            prop_assert!(number < later);
            let (a, b) = (number.to_string(), later.to_string());
            prop_assert!((a.len(), a) < (b.len(), b));
        }

        #[test]
        fn positions_round_trip(index in 0u64..1 << 42, position in 0u32..1 << POSITION_BITS) {
            let place = RecordPosition { index, position };
            prop_assert_eq!(RecordPosition::from_counter(place.counter()), place);
        }
    }
}
