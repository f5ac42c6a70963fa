//! Newtypes for everything that has an identity.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::limits::STREAM_NAME_CHARS_MAX;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id!(
    /// A node of the cluster. Given out by the metadata group, never used again.
    NodeId,
    u64
);
number_id!(
    /// A Raft group. Group 0 is the metadata group; shard groups count from 1 and are never used again.
    GroupId,
    u64
);
number_id!(
    /// Version of one stream's shard map. Rises with every change, across delete and re-create too.
    MapVersion,
    u64
);
number_id!(
    /// Tells a stream from an earlier one of the same name.
    Incarnation,
    u64
);
number_id!(
    /// Index of a shard within its stream: the number in `shardId-000000000007`.
    ShardIndex,
    u32
);

impl GroupId {
    /// The metadata group.
    pub const META: GroupId = GroupId(0);

    /// Whether this is the metadata group.
    pub fn is_meta(self) -> bool {
        self == GroupId::META
    }
}

/// A shard as AWS names it: `shardId-` and twelve digits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ShardId(pub ShardIndex);

impl ShardId {
    /// The shard's index within its stream.
    pub fn index(self) -> u32 {
        self.0.0
    }

    /// Reads an id as leniently as AWS does: the text after the first `-`, or all of it, must be
    /// digits in 0..=2147483647 (kinesis-contract 7.5). `None` when it is not.
    pub fn parse_lenient(text: &str) -> Option<ShardId> {
        let digits = text.split_once('-').map_or(text, |(_, rest)| rest);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let significant = digits.trim_start_matches('0');
        if significant.len() > 10 {
            return None;
        }
        let index = if significant.is_empty() { 0 } else { significant.parse::<u64>().ok()? };
        (index <= i32::MAX as u64).then_some(ShardId(ShardIndex(index as u32)))
    }
}

impl From<u32> for ShardId {
    fn from(index: u32) -> Self {
        ShardId(ShardIndex(index))
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shardId-{:012}", self.0.0)
    }
}

/// A valid stream name: 1 to 128 characters of `[a-zA-Z0-9_.-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(String);

/// The text is no stream name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream name has 1 to 128 characters of a-z A-Z 0-9 _ . -, not {0:?}")]
pub struct InvalidName(pub String);

impl StreamName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for StreamName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() || text.len() > STREAM_NAME_CHARS_MAX || !text.bytes().all(legal) {
            return Err(InvalidName(text));
        }
        Ok(StreamName(text))
    }
}

impl FromStr for StreamName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        StreamName::try_from(text.to_owned())
    }
}

impl From<StreamName> for String {
    fn from(name: StreamName) -> String {
        name.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_ids_parse_as_leniently_as_aws() {
        for (text, index) in [
            ("shardId-000000000000", 0),
            ("shardId-0", 0),
            ("shard-0", 0),
            ("0", 0),
            ("-0", 0),
            ("anything-000", 0),
            ("a-00002147483647", 2147483647),
        ] {
            assert_eq!(ShardId::parse_lenient(text), Some(ShardId::from(index)), "{text}");
        }
        for text in ["ABKLFD8", "2.14E4", "2147483648", "shardId-002147483648", "", "-", "a-1b"] {
            assert_eq!(ShardId::parse_lenient(text), None, "{text}");
        }
        assert_eq!(ShardId::from(7).to_string(), "shardId-000000000007");
    }

    #[test]
    fn stream_names_are_checked() {
        assert!("a.b_C-9".parse::<StreamName>().is_ok());
        for bad in ["", "a b", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<StreamName>().is_err(), "{bad}");
        }
    }
}
