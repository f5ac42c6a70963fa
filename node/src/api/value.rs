//! What an operation takes in and gives out, whatever the encoding: a tree of values.
//!
//! Owns the conversion of what was sent to what an operation wants, with AWS's error texts
//! (kinesis-contract 4). Invariant: a member that is absent and one that is null are the same. Must
//! not know JSON or CBOR: the codecs turn bytes into this tree and back.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tristream_proto::domain::Timestamp;

use super::Error;
use super::error::echo;

/// A value of the wire.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing: as if the member were absent.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text; in JSON a blob arrives as text too.
    Text(String),
    /// Bytes.
    Blob(Bytes),
    /// A point in time.
    Time(Timestamp),
    /// Values in order.
    List(Vec<Value>),
    /// A structure or map.
    Members(Members),
    /// What became of one element that failed. The door writes it as that element's members
    /// `ErrorCode` and `ErrorMessage`.
    Failure(Box<Error>),
}

/// Named values, in the order in which they are written.
#[derive(Clone, Debug, Default)]
pub struct Members(Vec<(Cow<'static, str>, Value)>);

/// Texts by text, in the order sent.
pub type TextMap = Vec<(String, Option<String>)>;

const NUMBER: &str = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber";
const LIST_FOUND: &str = "Start of list found where not expected";
const MAP_FOUND: &str = "Start of structure or map found where not expected.";

impl Members {
    /// None yet.
    pub fn new() -> Members {
        Members::default()
    }

    /// With one more, for output.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Members {
        self.0.push((Cow::Borrowed(name), value.into()));
        self
    }

    /// With one more if there is a value, for output: absent is not null.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl Into<Value>>) -> Members {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// One more, as it was read.
    pub fn push(&mut self, name: String, value: Value) {
        self.0.push((Cow::Owned(name), value));
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// Takes a member out; of several with one name the last counts.
    fn take(&mut self, name: &str) -> Value {
        match self.0.iter_mut().rev().find(|(other, _)| other == name) {
            Some((_, value)) => std::mem::replace(value, Value::Null),
            None => Value::Null,
        }
    }

    /// A string member.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        self.take(name).into_text()
    }

    /// An integer member: fractions are floored, larger numbers cut to 32 bits as AWS does.
    pub fn integer(&mut self, name: &str) -> Result<Option<i64>, Error> {
        self.take(name).into_integer()
    }

    /// A boolean member.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, Error> {
        self.take(name).into_boolean()
    }

    /// A blob member.
    pub fn blob(&mut self, name: &str) -> Result<Option<Bytes>, Error> {
        self.take(name).into_blob()
    }

    /// A timestamp member.
    pub fn time(&mut self, name: &str) -> Result<Option<Timestamp>, Error> {
        self.take(name).into_time()
    }

    /// A list member.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, Error> {
        match self.take(name) {
            Value::Null => Ok(None),
            Value::List(items) => Ok(Some(items)),
            Value::Members(_) => Err(Error::serialization(MAP_FOUND)),
            _ => Err(Error::serialization("Expected list or null")),
        }
    }

    /// A member that maps texts to texts, in the order sent.
    pub fn map(&mut self, name: &str) -> Result<Option<TextMap>, Error> {
        let members = match self.take(name) {
            Value::Null => return Ok(None),
            Value::Members(members) => members,
            Value::List(_) => return Err(Error::serialization(LIST_FOUND)),
            _ => return Err(Error::serialization("Expected map or null")),
        };
        let pairs = members.0.into_iter();
        pairs
            .map(|(key, value)| Ok((key.into_owned(), value.into_text()?)))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A structure member.
    pub fn structure(&mut self, name: &str) -> Result<Option<Members>, Error> {
        self.take(name).into_structure()
    }
}

impl Value {
    /// Java's class of a scalar that cannot be what was wanted.
    fn class(&self) -> &'static str {
        match self {
            Value::Bool(_) => "class java.lang.Boolean",
            Value::Integer(_) | Value::Float(_) => NUMBER,
            Value::Text(_) => "class java.lang.String",
            Value::Blob(_) => "class java.nio.HeapByteBuffer",
            _ => "class java.util.Date",
        }
    }

    fn refuse<T>(self, wanted: &str) -> Result<T, Error> {
        match self {
            Value::List(_) => Err(Error::serialization(LIST_FOUND)),
            Value::Members(_) => Err(Error::serialization(MAP_FOUND)),
            scalar => {
                let class = scalar.class();
                Err(Error::Serialization(format!("{class} can not be converted to {wanted}")))
            }
        }
    }

    fn into_text(self) -> Result<Option<String>, Error> {
        match self {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            other => other.refuse("an String"),
        }
    }

    fn into_integer(self) -> Result<Option<i64>, Error> {
        match self {
            Value::Null => Ok(None),
            Value::Integer(n) => Ok(Some(n.clamp(i32::MIN.into(), i32::MAX.into()))),
            Value::Float(n) => Ok(Some(n.floor().clamp(i32::MIN.into(), i32::MAX.into()) as i64)),
            other => other.refuse("an Integer"),
        }
    }

    fn into_boolean(self) -> Result<Option<bool>, Error> {
        match self {
            Value::Null => Ok(None),
            Value::Bool(yes) => Ok(Some(yes)),
            Value::Float(n) => Ok(Some(n != 0.0)),
            Value::Text(text) => match text.to_ascii_uppercase().as_str() {
                "TRUE" | "1" | "YES" => Ok(Some(true)),
                "FALSE" | "0" | "NO" => Ok(Some(false)),
                upper => {
                    let shown = echo(upper);
                    Err(Error::Serialization(format!(
                        "'{shown}' can not be converted to an Boolean"
                    )))
                }
            },
            other => other.refuse("an Boolean"),
        }
    }

    fn into_blob(self) -> Result<Option<Bytes>, Error> {
        match self {
            Value::Null => Ok(None),
            Value::Blob(bytes) => Ok(Some(bytes)),
            Value::Text(text) => match STANDARD.decode(&text) {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(_) => Err(base64_error(&text)),
            },
            other => other.refuse("a Blob"),
        }
    }

    fn into_time(self) -> Result<Option<Timestamp>, Error> {
        match self {
            Value::Null => Ok(None),
            Value::Time(time) => Ok(Some(time)),
            Value::Integer(seconds) => {
                Ok(Some(Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))))
            }
            // A negative or unthinkable number is cut to the nearest time there is.
            Value::Float(seconds) => Ok(Some(Timestamp((seconds * 1000.0).round() as u64))),
            other => other.refuse("milliseconds since epoch"),
        }
    }

    /// A structure, as an element of a list or the whole input.
    pub fn into_structure(self) -> Result<Option<Members>, Error> {
        match self {
            Value::Null => Ok(None),
            Value::Members(members) => Ok(Some(members)),
            Value::List(_) => Err(Error::serialization(LIST_FOUND)),
            _ => Err(Error::serialization("Expected null")),
        }
    }
}

/// What AWS says of text that is no base64.
fn base64_error(text: &str) -> Error {
    // Java counts UTF-16 units.
    let length = text.encode_utf16().count();
    let why = if !length.is_multiple_of(4) {
        format!("Base64 encoded length is expected a multiple of 4 bytes but found: {length}")
    } else if let Some(bad) = base64_misfit(text) {
        format!("Invalid Base64 character: '{bad}'")
    } else {
        "Invalid last non-pad Base64 character dectected".to_owned()
    };
    let shown = echo(text);
    Error::Serialization(format!("'{shown}' can not be converted to a Blob: {why}"))
}

/// The first character outside the alphabet, or padding before the end.
fn base64_misfit(text: &str) -> Option<char> {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let padding_within = c == '=' && chars.peek().is_some_and(|&next| next != '=');
        let legal = c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
        if padding_within || !legal {
            return Some(c);
        }
    }
    None
}

macro_rules! value_from {
    ($($from:ty => $how:expr),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Value {
                let how: fn($from) -> Value = $how;
                how(value)
            }
        })*
    };
}

value_from! {
    bool => Value::Bool,
    i64 => Value::Integer,
    u32 => |n| Value::Integer(n.into()),
    usize => |n| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX)),
    u64 => |n| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX)),
    String => Value::Text,
    &str => |text| Value::Text(text.to_owned()),
    Bytes => Value::Blob,
    Timestamp => Value::Time,
    Vec<Value> => Value::List,
    Members => Value::Members,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        match result {
            Err(Error::Serialization(message)) => message,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn list() -> Value {
        Value::List(vec![])
    }

    fn map() -> Value {
        Value::Members(Members::new())
    }

    #[test]
    fn scalars_that_cannot_be_converted_are_refused_in_awss_words() {
        const BOOL: &str = "class java.lang.Boolean can not be converted to ";
        let number = format!("{NUMBER} can not be converted to ");
        assert_eq!(message(Value::Bool(true).into_text()), format!("{BOOL}an String"));
        assert_eq!(message(Value::Float(1.5).into_text()), format!("{number}an String"));
        assert_eq!(
            message(text("23").into_integer()),
            "class java.lang.String can not be converted to an Integer"
        );
        assert_eq!(message(Value::Bool(true).into_integer()), format!("{BOOL}an Integer"));
        assert_eq!(message(text("ab").into_boolean()), "'AB' can not be converted to an Boolean");
        assert_eq!(message(Value::Integer(1).into_boolean()), format!("{number}an Boolean"));
        assert_eq!(message(Value::Bool(true).into_blob()), format!("{BOOL}a Blob"));
        assert_eq!(message(Value::Integer(1).into_blob()), format!("{number}a Blob"));
        assert_eq!(
            message(text("23").into_time()),
            "class java.lang.String can not be converted to milliseconds since epoch"
        );
    }

    #[test]
    fn lists_and_maps_in_the_wrong_place_are_refused_in_awss_words() {
        let wrap = |value| Members::new().with("x", value);
        for scalar_from_list in [
            message(list().into_text()),
            message(list().into_integer()),
            message(list().into_blob()),
            message(wrap(list()).map("x")),
            message(wrap(list()).structure("x")),
        ] {
            assert_eq!(scalar_from_list, "Start of list found where not expected");
        }
        for from_map in
            [message(map().into_text()), message(map().into_time()), message(wrap(map()).list("x"))]
        {
            assert_eq!(from_map, "Start of structure or map found where not expected.");
        }
        assert_eq!(message(wrap(text("a")).list("x")), "Expected list or null");
        assert_eq!(message(wrap(text("a")).map("x")), "Expected map or null");
        assert_eq!(message(wrap(text("a")).structure("x")), "Expected null");
    }

    #[test]
    fn bad_base64_is_refused_in_awss_words() {
        for (sent, why) in [
            ("23456", "Base64 encoded length is expected a multiple of 4 bytes but found: 5"),
            ("=+/=", "Invalid Base64 character: '='"),
            ("a*aa", "Invalid Base64 character: '*'"),
            ("+/+=", "Invalid last non-pad Base64 character dectected"),
            ("====", "Invalid last non-pad Base64 character dectected"),
        ] {
            let expected = format!("'{sent}' can not be converted to a Blob: {why}");
            assert_eq!(message(text(sent).into_blob()), expected);
        }
        assert_eq!(text("AAEC").into_blob().unwrap().unwrap()[..], [0, 1, 2]);
        assert_eq!(text("").into_blob().unwrap().unwrap().len(), 0);
    }

    #[test]
    fn what_can_be_converted_is() {
        assert_eq!(Value::Float(2.9).into_integer().unwrap(), Some(2));
        assert_eq!(Value::Float(-0.1).into_integer().unwrap(), Some(-1));
        assert_eq!(Value::Integer(1 << 40).into_integer().unwrap(), Some(2_147_483_647));
        assert_eq!(text("yes").into_boolean().unwrap(), Some(true));
        assert_eq!(text("0").into_boolean().unwrap(), Some(false));
        assert_eq!(Value::Float(0.5).into_boolean().unwrap(), Some(true));
        let time = Value::Float(1_506_440_188.749).into_time().unwrap();
        assert_eq!(time, Some(Timestamp(1_506_440_188_749)));
        assert_eq!(Value::Float(-4.0).into_time().unwrap(), Some(Timestamp(0)));
    }

    #[test]
    fn null_is_absent_and_the_last_of_a_name_counts() {
        let mut members = Members::new().with("a", Value::Null).with("b", "1").with("b", "2");
        assert_eq!(members.text("a").unwrap(), None);
        assert_eq!(members.integer("none").unwrap(), None);
        assert_eq!(members.text("b").unwrap().as_deref(), Some("2"));
    }
}
