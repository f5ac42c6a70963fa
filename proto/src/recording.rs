//! The recording of a run: what clients did and saw, one JSON object per line.
//!
//! Written by `tristream put --history` and `tail --history` and by the chaos of `tristream-lab`, judged by
//! `tristream-lab verify`. Invariants: lines of one file are in the order in which things happened, whoever wrote them;
//! `invoke` stands before the record is sent, and its outcome after it is known, so that what a recording says to be
//! before something else was so. Clocks of different files are only compared where it says so. Must not judge.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The format that [`Event::Begin`] names.
pub const FORMAT: u32 = 1;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since 1970, by the clock of who wrote it.
    pub at_ms: u64,
    /// Who wrote it: one run of one program, such as `put-1f03b7aa`.
    pub by: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened. `record` numbers are unique for their `by`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first line of each `by`.
    Begin {
        /// [`FORMAT`].
        format: u32,
        /// The stream that all of its lines are about.
        stream: String,
    },
    /// A call that puts the record sets out.
    Invoke {
        /// Its number.
        record: u64,
        /// Its partition key; none where the client chose it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Its explicit hash key, in decimal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash_key: Option<String>,
        /// Its data.
        #[serde(flatten)]
        data: Data,
    },
    /// The same call sets out again, under the same id.
    Again {
        /// Its number.
        record: u64,
    },
    /// It was acked.
    Ok {
        /// Its number.
        record: u64,
        /// Where it is.
        shard: String,
        /// And at which place there.
        sequence_number: String,
    },
    /// It was refused: certainly not stored by this attempt.
    Refused {
        /// Its number.
        record: u64,
        /// The client's words.
        #[serde(default)]
        why: String,
    },
    /// It may be stored or not.
    Unknown {
        /// Its number.
        record: u64,
        /// The client's words.
        #[serde(default)]
        why: String,
    },
    /// This reader begins: what was acked before this line is there to be read.
    Reading {
        /// It reads from the oldest record on.
        from_oldest: bool,
    },
    /// This reader got a record.
    Observed {
        /// Where it is.
        shard: String,
        /// And at which place there.
        sequence_number: String,
        /// Its partition key.
        key: String,
        /// Its data.
        #[serde(flatten)]
        data: Data,
    },
    /// This reader has got all of a shard, from its oldest record to what was its end at `reading`, or later.
    ObservedAll {
        /// The shard.
        shard: String,
    },
    /// All shards of the stream, as somebody was told.
    Shards {
        /// The shards.
        shards: Vec<Shard>,
    },
    /// Something was done to the cluster.
    Fault {
        /// In words.
        what: String,
    },
}

/// Data of a record: text where it is UTF-8, else base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// `"data": "..."`
    #[serde(rename = "data")]
    Text(String),
    /// `"data_base64": "..."`
    #[serde(rename = "data_base64")]
    Base64(String),
}

impl From<&[u8]> for Data {
    fn from(bytes: &[u8]) -> Data {
        match std::str::from_utf8(bytes) {
            Ok(text) => Data::Text(text.to_owned()),
            Err(_) => Data::Base64(STANDARD.encode(bytes)),
        }
    }
}

impl Data {
    /// The bytes; `None` if this is no base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Data::Text(text) => Some(text.clone().into_bytes()),
            Data::Base64(text) => STANDARD.decode(text).ok(),
        }
    }
}

/// A shard as a list of shards shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// `shardId-...`.
    pub shard: String,
    /// First and last hash key that it owns or owned, in decimal.
    pub range: [String; 2],
    /// The shards it came from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// Whether it takes records.
    pub open: bool,
}

impl From<&crate::domain::Shard> for Shard {
    fn from(shard: &crate::domain::Shard) -> Shard {
        Shard {
            shard: shard.id.to_string(),
            range: [shard.range.first, shard.range.last].map(|key| key.to_string()),
            parents: shard.parents.iter().map(ToString::to_string).collect(),
            open: shard.is_open(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: Event) -> Line {
        Line { at_ms: 7, by: "put-1".to_owned(), event }
    }

    /// The format is a promise to recordings that exist.
    #[test]
    fn lines_are_as_they_were() {
        let invoke = |data: &[u8]| Event::Invoke {
            record: 1,
            key: Some("k".to_owned()),
            hash_key: None,
            data: Data::from(data),
        };
        let shard = Shard {
            shard: "shardId-000000000001".to_owned(),
            range: ["0".to_owned(), "9".to_owned()],
            parents: vec![],
            open: true,
        };
        for (event, text) in [
            (
                Event::Begin { format: FORMAT, stream: "orders".to_owned() },
                r#""event":"begin","format":1,"stream":"orders""#,
            ),
            (invoke(b"a"), r#""event":"invoke","record":1,"key":"k","data":"a""#),
            (invoke(b"\xff"), r#""event":"invoke","record":1,"key":"k","data_base64":"/w==""#),
            (
                Event::Ok { record: 1, shard: "s".to_owned(), sequence_number: "12".to_owned() },
                r#""event":"ok","record":1,"shard":"s","sequence_number":"12""#,
            ),
            (
                Event::Unknown { record: 1, why: "cut".to_owned() },
                r#""event":"unknown","record":1,"why":"cut""#,
            ),
            (Event::Reading { from_oldest: true }, r#""event":"reading","from_oldest":true"#),
            (
                Event::Shards { shards: vec![shard] },
                r#""event":"shards","shards":[{"shard":"shardId-000000000001","range":["0","9"],"open":true}]"#,
            ),
        ] {
            let whole = format!(r#"{{"at_ms":7,"by":"put-1",{text}}}"#);
            assert_eq!(serde_json::to_string(&line(event.clone())).expect("written"), whole);
            assert_eq!(serde_json::from_str::<Line>(&whole).expect("read"), line(event));
        }
    }

    #[test]
    fn data_come_back_as_they_were() {
        for bytes in [&b""[..], b"text", b"\xff\x00\x01", "\u{e9}\n".as_bytes()] {
            assert_eq!(Data::from(bytes).bytes().as_deref(), Some(bytes));
        }
        assert_eq!(Data::Base64("?".to_owned()).bytes(), None);
    }
}
