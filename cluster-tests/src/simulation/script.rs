//! Faults written down: a list of events, or such a list with the run that it is for.
//!
//! ```json
//! {
//!   "plant": "ack-before-quorum", "breaks": "acked_records_survive",
//!   "seed": 17, "seeds": 3, "seconds": 6,
//!   "events": [
//!     {"at": 1200, "fault": "isolate", "node": 0, "clients": false, "lasts": 2500}
//!   ]
//! }
//! ```
//!
//! Pure. Must not know how a run goes.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::fault::Event;

/// A script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The planted bug that it finds.
    #[serde(default)]
    pub plant: Option<String>,
    /// Which promise the bug breaks, as [`broken`](super::broken) names it.
    #[serde(default)]
    pub breaks: Option<String>,
    /// The seed that it was written for; with [`Script::seeds`] the first one.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Over how many seeds the bug is looked for: a change of code makes every seed another run.
    #[serde(default)]
    pub seeds: Option<u64>,
    /// How many simulated seconds faults come.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// Whether the metadata tables outlive their process; else the log is all that a node starts from.
    #[serde(default)]
    pub tables_last: bool,
    /// For how many seconds records are kept; none: for longer than a run takes.
    #[serde(default)]
    pub retention_seconds: Option<u64>,
    /// The faults, by rising time.
    pub events: Vec<Event>,
}

impl Script {
    /// Reads one; a plain list of events is one, too.
    ///
    /// # Errors
    /// The text is neither.
    pub fn parse(text: &str) -> Result<Script, serde_json::Error> {
        let mut script = match serde_json::from_str::<Vec<Event>>(text) {
            Ok(events) => Script { events, ..Script::default() },
            // What is wrong with a list is told as of a list.
            Err(error) if text.trim_start().starts_with('[') => return Err(error),
            Err(_) => serde_json::from_str(text)?,
        };
        script.events.sort_by_key(|event| event.at);
        Ok(script)
    }

    /// As [`Script::parse`] reads it, an event a line.
    ///
    /// # Errors
    /// None that a script can have.
    pub fn print(&self) -> Result<String, serde_json::Error> {
        let mut text = "{\n".to_owned();
        let words = [("plant", &self.plant), ("breaks", &self.breaks)];
        for (name, word) in
            words.into_iter().filter_map(|(name, word)| Some((name, word.as_ref()?)))
        {
            let _ = writeln!(text, "  \"{name}\": {},", serde_json::to_string(word)?);
        }
        let numbers = [
            ("seed", self.seed),
            ("seeds", self.seeds),
            ("seconds", self.seconds),
            ("retention_seconds", self.retention_seconds),
        ];
        for (name, number) in numbers.into_iter().filter_map(|(name, n)| Some((name, n?))) {
            let _ = writeln!(text, "  \"{name}\": {number},");
        }
        if self.tables_last {
            text.push_str("  \"tables_last\": true,\n");
        }
        let events = self.events.iter().map(serde_json::to_string);
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let _ = match events.is_empty() {
            true => write!(text, "  \"events\": []\n}}\n"),
            false => write!(text, "  \"events\": [\n    {}\n  ]\n}}\n", events.join(",\n    ")),
        };
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::{Fault, Storm, schedule};
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let script = Script {
            plant: Some("no-dedupe".to_owned()),
            breaks: Some("nothing_stored_twice".to_owned()),
            seed: Some(7),
            seeds: Some(2),
            seconds: Some(5),
            tables_last: true,
            retention_seconds: Some(6),
            events: schedule(3, 10_000, Storm::Mixed),
        };
        let text = script.print().unwrap();
        assert_eq!(Script::parse(&text).unwrap(), script);
        assert_eq!(text.lines().count(), script.events.len() + 11, "{text}");
        let empty = Script::default();
        assert_eq!(Script::parse(&empty.print().unwrap()).unwrap(), empty);
    }

    #[test]
    fn a_plain_list_is_a_script_by_rising_time() {
        let text = r#"[{"at": 9, "fault": "failed_sync", "node": 1},
            {"at": 4, "fault": "process_crash", "node": 0, "back_after": 1}]"#;
        let script = Script::parse(text).unwrap();
        assert_eq!(script.events.iter().map(|event| event.at).collect::<Vec<_>>(), [4, 9]);
        assert_eq!(script.events[1].fault, Fault::FailedSync { node: 1, folder: false });
    }

    #[test]
    fn what_is_no_script_is_refused() {
        for text in ["", "{}", "[{}]", r#"{"events": [], "sed": 1}"#, r#"{"events": [{"at": 1}]}"#]
        {
            assert!(Script::parse(text).is_err(), "{text}");
        }
        let error = Script::parse(r#"[{"at": 1, "fault": "flood"}]"#).unwrap_err().to_string();
        assert!(error.contains("flood"), "{error}");
    }
}
