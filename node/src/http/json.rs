//! The JSON encoding of operations' inputs and outputs.
//!
//! Invariant: a body of whatever shape becomes at most `VALUES_MAX` values, so that memory stays in
//! proportion to the body. Must not know what members mean.

use std::cell::Cell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::aws_error;
use crate::api::{Members, Value};

/// Values in one body. The largest request of the model, PutRecords, has about 2,000.
const VALUES_MAX: usize = 65_536;

/// Reads an object; `None` when the body is anything else.
pub(super) fn decode(body: &[u8]) -> Option<Members> {
    let left = Cell::new(VALUES_MAX);
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Node { left: &left }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match value {
        Value::Members(members) => Some(members),
        _ => None,
    }
}

/// Writes an object.
pub(super) fn encode(members: &Members) -> Vec<u8> {
    let mut out = Vec::new();
    write_members(&mut out, members);
    out
}

fn write_members(out: &mut Vec<u8>, members: &Members) {
    out.push(b'{');
    for (at, (name, value)) in members.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write(out, value);
    }
    out.push(b'}');
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(yes) => out.extend_from_slice(if *yes { b"true" } else { b"false" }),
        Value::Integer(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::Float(n) => match serde_json::Number::from_f64(*n) {
            Some(number) => out.extend_from_slice(number.to_string().as_bytes()),
            None => out.extend_from_slice(b"null"),
        },
        Value::Text(text) => write_text(out, text),
        Value::Blob(bytes) => {
            out.push(b'"');
            let (from, length) = (out.len(), bytes.len().div_ceil(3) * 4);
            out.resize(from + length, 0);
            // The room is exact, so this cannot fail.
            let _ = STANDARD.encode_slice(bytes, &mut out[from..]);
            out.push(b'"');
        }
        Value::Time(time) => {
            let text = format!("{}.{:03}", time.seconds(), time.0 % 1000);
            out.extend_from_slice(text.as_bytes());
        }
        Value::List(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Value::Members(members) => write_members(out, members),
        Value::Failure(error) => write_members(out, &aws_error::entry(error)),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Writing to memory cannot fail, and neither can text.
    let _ = serde_json::to_writer(out, text);
}

/// Reads one value, and counts it.
#[derive(Clone, Copy)]
struct Node<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return Err(D::Error::custom("too many values")),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Members::new();
        while let Some(name) = map.next_key::<String>()? {
            members.push(name, map.next_value_seed(self)?);
        }
        Ok(Value::Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Error;
    use bytes::Bytes;
    use proptest::prelude::*;
    use tristream_proto::domain::Timestamp;

    #[test]
    fn only_objects_are_read() {
        for bad in ["", " ", "true", "null", "[]", "\"x\"", "1", "{", "{}x", "{\"a\":1,}", "\u{1}"]
        {
            assert!(decode(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(decode(b"{\"a\":\"\xff\"}").is_none(), "not UTF-8");
        assert!(decode(b" {\"a\": [1, 2.5, null, {\"b\": true}]} ").is_some());
    }

    #[test]
    fn what_is_read_is_what_is_written() {
        let text = r#"{"a":[1,-2.5,null,{"b":true}],"ü\n":"\"\\"}"#;
        let members = decode(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(encode(&members)).unwrap(), text);
    }

    #[test]
    fn blobs_times_and_failures_have_their_forms() {
        let throttled = Error::Unavailable("no quorum".to_owned());
        let members = Members::new()
            .with("blob", Bytes::from_static(b"hello"))
            .with("empty", Bytes::new())
            .with("time", Timestamp(1_506_440_188_049))
            .with("records", vec![Value::Failure(Box::new(throttled))]);
        assert_eq!(
            String::from_utf8(encode(&members)).unwrap(),
            r#"{"blob":"aGVsbG8=","empty":"","time":1506440188.049,"records":[{"ErrorCode":"InternalFailure","ErrorMessage":"Internal service failure. no quorum"}]}"#
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body: Vec<u8>) {
            decode(&body);
        }

        #[test]
        fn any_text_comes_back(name: String, text: String) {
            let mut members = Members::new();
            members.push(name.clone(), text.clone().into());
            let mut members = decode(&encode(&members)).expect("what we write we read");
            prop_assert_eq!(members.text(&name).expect("a text"), Some(text));
        }
    }

    #[test]
    fn a_body_of_very_many_values_or_great_depth_is_refused() {
        let many = |n: usize| format!("{{\"a\":[{}]}}", vec!["0"; n].join(","));
        assert!(decode(many(VALUES_MAX - 2).as_bytes()).is_some());
        assert!(decode(many(VALUES_MAX - 1).as_bytes()).is_none());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(decode(deep.as_bytes()).is_none());
    }
}
