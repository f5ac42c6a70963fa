//! The constraints of the service model and AWS's words for breaking them (kinesis-contract 5).
//!
//! Invariant: all violations of a request are gathered before anything is looked up, and at most
//! ten are told. Must not know what the members mean.

use std::fmt::Display;

use super::Error;
use super::error::echo;

/// Violations told in one answer; the rest is silence.
const VIOLATIONS_MAX: usize = 10;

/// Violations found so far.
#[derive(Default)]
pub(super) struct Checks(Vec<String>);

/// What a text must look like.
#[derive(Clone, Copy)]
pub(super) enum Pattern {
    /// Names of streams and ids of shards.
    Name,
    /// Decimal numbers of up to 129 digits.
    SequenceNumber,
    /// Decimal numbers of up to 39 digits.
    HashKey,
    /// ARNs of streams.
    StreamArn,
}

/// The constraints on a text member.
#[derive(Clone, Copy)]
pub(super) struct Text {
    /// Shortest, in characters.
    pub(super) min: usize,
    /// Longest, in characters, if the model bounds it.
    pub(super) max: usize,
    /// What it must match.
    pub(super) pattern: Option<Pattern>,
}

/// Names of streams, and ids of shards.
pub(super) const NAME: Text = Text { min: 1, max: 128, pattern: Some(Pattern::Name) };
/// ARNs of streams.
pub(super) const STREAM_ARN: Text = Text { min: 1, max: 2048, pattern: Some(Pattern::StreamArn) };
/// Sequence numbers: the pattern bounds the length.
pub(super) const SEQUENCE_NUMBER: Text =
    Text { min: 0, max: usize::MAX, pattern: Some(Pattern::SequenceNumber) };
/// Hash keys: the pattern bounds the length.
pub(super) const HASH_KEY: Text = Text { min: 0, max: usize::MAX, pattern: Some(Pattern::HashKey) };
/// Pagination tokens.
pub(super) const NEXT_TOKEN: Text = Text { min: 1, max: 1_048_576, pattern: None };

impl Pattern {
    fn text(self) -> &'static str {
        match self {
            Pattern::Name => "[a-zA-Z0-9_.-]+",
            Pattern::SequenceNumber => r"0|([1-9]\d{0,128})",
            Pattern::HashKey => r"0|([1-9]\d{0,38})",
            Pattern::StreamArn => r"arn:aws.*:kinesis:.*:\d{12}:stream/\S+",
        }
    }

    fn matches(self, text: &str) -> bool {
        let number = |digits_max: usize| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text == "0" || (digits && !text.starts_with('0') && text.len() <= digits_max)
        };
        match self {
            Pattern::Name => {
                let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
                !text.is_empty() && text.bytes().all(legal)
            }
            Pattern::SequenceNumber => number(129),
            Pattern::HashKey => number(39),
            Pattern::StreamArn => is_stream_arn(text),
        }
    }
}

fn is_stream_arn(text: &str) -> bool {
    text.match_indices(":stream/").any(|(at, separator)| {
        let (head, name) = (&text[..at], &text[at + separator.len()..]);
        let named = !name.is_empty() && !name.contains(char::is_whitespace);
        let Some((head, account)) = head.rsplit_once(':') else { return false };
        let account_fits = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        // What is left is `arn:aws.*:kinesis:.*`, where `.` is anything but the end of a line.
        let service = head.strip_prefix("arn:aws").is_some_and(|rest| rest.contains(":kinesis:"));
        named && account_fits && service && !head.contains(['\n', '\r'])
    })
}

impl Checks {
    /// No violation yet.
    pub(super) fn new() -> Checks {
        Checks::default()
    }

    fn violated(&mut self, value: Option<&dyn Display>, path: &str, constraint: &dyn Display) {
        if self.0.len() >= VIOLATIONS_MAX {
            return;
        }
        let value =
            value.map_or("null".to_owned(), |value| format!("'{}'", echo(&value.to_string())));
        self.0
            .push(format!("Value {value} at '{path}' failed to satisfy constraint: {constraint}"));
    }

    /// The member must be there.
    pub(super) fn required<T>(&mut self, path: &str, value: &Option<T>) {
        if value.is_none() {
            self.violated(None, path, &"Member must not be null");
        }
    }

    /// A text, if there is one.
    pub(super) fn text(&mut self, path: &str, value: Option<&str>, rule: Text) {
        let Some(text) = value else { return };
        if let Some(pattern) = rule.pattern
            && !pattern.matches(text)
        {
            let constraint =
                format!("Member must satisfy regular expression pattern: {}", pattern.text());
            self.violated(Some(&text), path, &constraint);
        }
        self.length(path, text.chars().count(), &text, rule.min, rule.max);
    }

    /// A text that must be one of `names`, which are in AWS's order.
    pub(super) fn one_of(&mut self, path: &str, value: Option<&str>, names: &[&str]) {
        if let Some(text) = value
            && !names.contains(&text)
        {
            let set = names.join(", ");
            let constraint = format!("Member must satisfy enum value set: [{set}]");
            self.violated(Some(&text), path, &constraint);
        }
    }

    /// A length in whatever unit; `shown` stands for the value.
    pub(super) fn length(
        &mut self,
        path: &str,
        length: usize,
        shown: &dyn Display,
        min: usize,
        max: usize,
    ) {
        const LENGTH: &str = "Member must have length";
        if length > max {
            self.violated(Some(shown), path, &format!("{LENGTH} less than or equal to {max}"));
        }
        if length < min {
            self.violated(Some(shown), path, &format!("{LENGTH} greater than or equal to {min}"));
        }
    }

    /// An integer, if there is one.
    pub(super) fn integer(&mut self, path: &str, value: Option<i64>, min: i64, max: i64) {
        const VALUE: &str = "Member must have value";
        let Some(n) = value else { return };
        if n > max {
            self.violated(Some(&n), path, &format!("{VALUE} less than or equal to {max}"));
        }
        if n < min {
            self.violated(Some(&n), path, &format!("{VALUE} greater than or equal to {min}"));
        }
    }

    /// The bytes of a blob.
    pub(super) fn blob(&mut self, path: &str, length: usize, max: usize) {
        let shown = format!("java.nio.HeapByteBuffer[pos=0 lim={length} cap={length}]");
        self.length(path, length, &shown, 0, max);
    }

    /// Any other constraint on a value that is there.
    pub(super) fn broken(&mut self, path: &str, shown: &dyn Display, constraint: &dyn Display) {
        self.violated(Some(shown), path, constraint);
    }

    /// All is well, or the violations in AWS's words.
    pub(super) fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let plural = if self.0.len() == 1 { "error" } else { "errors" };
        let violations = self.0.join("; ");
        Err(Error::Validation(format!(
            "{} validation {plural} detected: {violations}",
            self.0.len()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fill: impl FnOnce(&mut Checks)) -> String {
        let mut checks = Checks::new();
        fill(&mut checks);
        match checks.finish() {
            Err(Error::Validation(message)) => message,
            other => panic!("no violation: {other:?}"),
        }
    }

    #[test]
    fn a_missing_member_is_null_without_quotes() {
        assert_eq!(
            message(|checks| checks.required("streamName", &None::<String>)),
            "1 validation error detected: Value null at 'streamName' failed to satisfy constraint: \
             Member must not be null"
        );
    }

    #[test]
    fn an_empty_name_breaks_two_rules() {
        assert_eq!(
            message(|checks| checks.text("streamName", Some(""), NAME)),
            "2 validation errors detected: Value '' at 'streamName' failed to satisfy constraint: \
             Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value '' at \
             'streamName' failed to satisfy constraint: Member must have length greater than or \
             equal to 1"
        );
    }

    #[test]
    fn numbers_blobs_and_sets_are_told_in_awss_words() {
        let told = message(|checks| {
            checks.integer("limit", Some(0), 1, 10_000);
            checks.integer("limit", Some(10_001), 1, 10_000);
            checks.blob("data", 1_048_577, 1_048_576);
            checks.one_of("shardIteratorType", Some("x"), &["LATEST", "TRIM_HORIZON"]);
        });
        for part in [
            "4 validation errors detected: ",
            "Value '0' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1; ",
            "Value '10001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 10000; ",
            "Value 'java.nio.HeapByteBuffer[pos=0 lim=1048577 cap=1048577]' at 'data' failed to satisfy constraint: Member must have length less than or equal to 1048576; ",
            "Value 'x' at 'shardIteratorType' failed to satisfy constraint: Member must satisfy enum value set: [LATEST, TRIM_HORIZON]",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn at_most_ten_violations_are_told() {
        let told = message(|checks| {
            for _ in 0..12 {
                checks.required("x", &None::<u8>);
            }
        });
        assert!(told.starts_with("10 validation errors detected: "), "{told}");
        assert_eq!(told.matches("Value null").count(), 10);
    }

    #[test]
    fn a_very_long_value_is_not_repeated_in_full() {
        let long = "ü".repeat(1 << 20);
        let told = message(|checks| checks.text("partitionKey", Some(&long), NAME));
        assert!(told.len() < 3 * (64 << 10), "{}", told.len());
        assert!(told.contains("üü' at 'partitionKey'"));
    }

    #[test]
    fn patterns_match_what_their_text_says() {
        let nines = |n: usize| "9".repeat(n);
        for (pattern, good, bad) in [
            (Pattern::Name, vec!["a-Z_0.9".to_owned()], vec!["a b".to_owned(), "ä".to_owned()]),
            (
                Pattern::SequenceNumber,
                vec!["0".into(), "10".into(), nines(129)],
                vec!["".into(), "00".into(), "1x".into(), nines(130)],
            ),
            (Pattern::HashKey, vec!["0".into(), nines(39)], vec!["01".into(), nines(40)]),
            (
                Pattern::StreamArn,
                vec![
                    "arn:aws:kinesis:us-east-1:000000000000:stream/a".into(),
                    "arn:aws-cn:kinesis::000000000000:stream/:stream/b".into(),
                ],
                vec![
                    "arn:aws:kinesis:us-east-1:00000000000:stream/a".into(),
                    "arn:aws:kinesis:us-east-1:000000000000:stream/".into(),
                    "arn:aws:kinesis:us-east-1:000000000000:stream/a b".into(),
                    "arn:aws:kinesis:000000000000:stream/a".into(),
                    "arn:aws:sqs:us-east-1:000000000000:stream/a".into(),
                    "a".into(),
                ],
            ),
        ] {
            assert!(good.iter().all(|text| pattern.matches(text)), "{}", pattern.text());
            for text in &bad {
                assert!(!pattern.matches(text), "{} {text}", pattern.text());
            }
        }
    }
}
