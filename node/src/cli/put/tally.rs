//! What became of the lines of a file.

use std::time::Duration;

use serde_json::json;
use tristream_client::Error;
use tristream_proto::domain::{Effect, SequenceNumber};

use crate::cli::endpoints::fate;
use crate::cli::screen;

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Programs read the outcomes.
    pub(super) json: bool,
    pub(super) acked: u64,
    acked_bytes: u64,
    not_stored: u64,
    unknown: u64,
    /// The user ended the reading.
    pub(super) interrupted: bool,
}

impl Tally {
    pub(super) fn new(json: bool) -> Tally {
        Tally { json, ..Tally::default() }
    }

    pub(super) fn acked(&mut self, bytes: usize) {
        self.acked += 1;
        self.acked_bytes += bytes as u64;
    }

    pub(super) fn failed(&mut self, error: &Error) {
        match error.effect() {
            Effect::None => self.not_stored += 1,
            Effect::Unknown => self.unknown += 1,
        }
    }

    /// Every line of the input is known to be stored.
    pub(super) fn all_acked(&self) -> bool {
        self.not_stored + self.unknown == 0 && !self.interrupted
    }

    /// JSON goes to standard output, words to standard error.
    pub(super) fn print(&self, took: Duration) -> std::io::Result<()> {
        if self.json {
            screen::line(self.as_json(took).to_string())
        } else {
            screen::say(self.summary(took));
            Ok(())
        }
    }

    fn as_json(&self, took: Duration) -> serde_json::Value {
        json!({
            "acked": self.acked,
            "acked_bytes": self.acked_bytes,
            "not_stored": self.not_stored,
            "unknown": self.unknown,
            "interrupted": self.interrupted,
            "seconds": took.as_secs_f64(),
        })
    }

    fn summary(&self, took: Duration) -> String {
        let seconds = took.as_secs_f64().max(0.001);
        let mut text = format!(
            "{} records acked in {seconds:.1} s ({:.0} records/s, {:.1} MiB/s)",
            self.acked,
            self.acked as f64 / seconds,
            self.acked_bytes as f64 / seconds / f64::from(1 << 20),
        );
        if self.not_stored > 0 {
            text += &format!(", {} not stored", self.not_stored);
        }
        if self.unknown > 0 {
            text += &format!(", {} of unknown outcome", self.unknown);
        }
        if self.interrupted {
            text += ", interrupted";
        }
        text
    }
}

/// What became of one line, for programs. `refused` means: certainly not stored.
pub(super) fn outcome(line: u64, outcome: &Result<SequenceNumber, Error>) -> serde_json::Value {
    match outcome {
        Ok(number) => json!({
            "line": line,
            "outcome": "acked",
            "shard": number.shard.to_string(),
            "sequence_number": number.to_string(),
        }),
        Err(error) => json!({
            "line": line,
            "outcome": match error.effect() {
                Effect::None => "refused",
                Effect::Unknown => "unknown",
            },
            "error": error.to_string(),
        }),
    }
}

/// The line about a line that was not acked.
pub(super) fn failure(line: u64, error: &Error) -> String {
    format!("line {line} {}: {error}", fate(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::ShardId;

    #[test]
    fn the_summary_says_what_is_not_known_to_be_stored() {
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.acked(1 << 20);
        }
        assert!(tally.all_acked());
        assert_eq!(
            tally.summary(Duration::from_secs(2)),
            "3 records acked in 2.0 s (2 records/s, 1.5 MiB/s)"
        );
        let unknown = Error::Unknown("cut off".to_owned());
        tally.failed(&unknown);
        tally.failed(&Error::Throttled("full".to_owned()));
        assert!(!tally.all_acked());
        let summary = tally.summary(Duration::from_secs(1));
        assert!(summary.ends_with(", 1 not stored, 1 of unknown outcome"), "{summary}");
        assert_eq!(failure(7, &unknown), "line 7 may be stored: outcome unknown: cut off");
    }

    #[test]
    fn an_interrupted_input_is_not_all_acked() {
        assert!(!Tally { interrupted: true, ..Tally::default() }.all_acked());
    }

    #[test]
    fn programs_learn_what_became_of_each_line() {
        let number = SequenceNumber::start_of(ShardId::from(3), 1_790_000_000);
        let acked = outcome(7, &Ok(number));
        assert_eq!((&acked["outcome"], &acked["line"]), (&json!("acked"), &json!(7)));
        assert_eq!(acked["shard"], "shardId-000000000003");
        assert_eq!(acked["sequence_number"], number.to_string());
        assert_eq!(outcome(8, &Err(Error::Unknown("cut off".into())))["outcome"], "unknown");
        assert_eq!(outcome(9, &Err(Error::Invalid("no key".into())))["outcome"], "refused");
    }
}
