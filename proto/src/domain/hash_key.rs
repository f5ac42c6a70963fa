//! Hash keys: where a partition key falls in [0, 2^128).

use std::fmt;
use std::str::FromStr;

use md5::{Digest, Md5};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A 128-bit hash key. In text, a decimal number without leading zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashKey(pub u128);

/// The text is no number in 0..2^128.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash key is a decimal number in [0, 2^128-1], not {0:?}")]
pub struct InvalidHashKey(pub String);

impl HashKey {
    /// MD5 of the key's UTF-8 bytes, read as a big-endian number (AWS PutRecord).
    pub fn of(partition_key: &str) -> HashKey {
        HashKey(u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into()))
    }
}

impl FromStr for HashKey {
    type Err = InvalidHashKey;

    fn from_str(text: &str) -> Result<Self, InvalidHashKey> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Ok(HashKey(number)),
            _ => Err(InvalidHashKey(text.to_owned())),
        }
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for HashKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HashKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A closed range of hash keys, `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKeyRange {
    /// Lowest key of the range.
    pub first: HashKey,
    /// Highest key of the range, included.
    pub last: HashKey,
}

impl HashKeyRange {
    /// Whether `key` lies in the range.
    pub fn contains(self, key: HashKey) -> bool {
        self.first <= key && key <= self.last
    }

    /// Whether a shard of this range may be split so that the second child begins at `at`: above
    /// one plus the first key and below the last (kinesis-contract 10.29).
    pub fn can_split_at(self, at: HashKey) -> bool {
        self.contains(at) && at.0 - self.first.0 > 1 && at < self.last
    }

    /// Whether `next` begins right behind this range.
    pub fn meets(self, next: HashKeyRange) -> bool {
        self.last.0.checked_add(1) == Some(next.first.0)
    }

    /// The whole key space cut into `count` ranges as AWS does: width floor(2^128 / count), the
    /// last one takes the rest (kinesis-contract 7.7). `count` 0 gives none.
    pub fn uniform(count: u32) -> Vec<HashKeyRange> {
        let count = u128::from(count);
        // floor(2^128 / count) without a 129-bit number.
        let width = |n: u128| u128::MAX / n + u128::from(u128::MAX % n == n - 1);
        (0..count)
            .map(|i| {
                let last_range = i == count - 1;
                let first = if i == 0 { 0 } else { i * width(count) };
                let last = if last_range { u128::MAX } else { (i + 1) * width(count) - 1 };
                HashKeyRange { first: HashKey(first), last: HashKey(last) }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_shards_have_the_ranges_recorded_from_aws() {
        let text: Vec<String> =
            HashKeyRange::uniform(3).iter().map(|r| format!("{}..{}", r.first, r.last)).collect();
        assert_eq!(
            text,
            [
                "0..113427455640312821154458202477256070484",
                "113427455640312821154458202477256070485..226854911280625642308916404954512140969",
                "226854911280625642308916404954512140970..340282366920938463463374607431768211455",
            ]
        );
    }

    #[test]
    fn uniform_ranges_tile_the_key_space() {
        for count in [1, 2, 3, 4, 5, 7, 16, 1000] {
            let ranges = HashKeyRange::uniform(count);
            assert_eq!(ranges.len(), count as usize);
            assert_eq!(ranges[0].first, HashKey(0));
            assert_eq!(ranges[ranges.len() - 1].last, HashKey(u128::MAX));
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].last.0 + 1, pair[1].first.0);
            }
        }
    }

    #[test]
    fn a_range_is_split_where_aws_allows_it() {
        let range = HashKeyRange { first: HashKey(10), last: HashKey(14) };
        let allowed: Vec<u128> = (8..17).filter(|&at| range.can_split_at(HashKey(at))).collect();
        assert_eq!(allowed, [12, 13]);
        let end = HashKeyRange { first: HashKey(u128::MAX), last: HashKey(u128::MAX) };
        assert!(!end.can_split_at(HashKey(u128::MAX)));
    }

    #[test]
    fn ranges_meet_in_one_order_only() {
        let range = |first, last| HashKeyRange { first: HashKey(first), last: HashKey(last) };
        assert!(range(0, 9).meets(range(10, u128::MAX)));
        assert!(!range(10, u128::MAX).meets(range(0, 9)), "the key space is no ring");
        assert!(!range(0, 9).meets(range(11, 20)));
    }

    #[test]
    fn keys_fall_where_aws_puts_them() {
        let ranges = HashKeyRange::uniform(3);
        let shard_of =
            |key: &str| ranges.iter().position(|r| r.contains(HashKey::of(key))).unwrap_or(99);
        assert_eq!(["a", "b", "f", "e"].map(shard_of), [0, 1, 1, 2]);
    }

    #[test]
    fn hash_keys_are_decimal() {
        assert_eq!("0".parse(), Ok(HashKey(0)));
        assert_eq!("340282366920938463463374607431768211455".parse(), Ok(HashKey(u128::MAX)));
        for bad in ["", "-1", "+1", "340282366920938463463374607431768211456", "1.0"] {
            assert!(bad.parse::<HashKey>().is_err(), "{bad}");
        }
    }
}
