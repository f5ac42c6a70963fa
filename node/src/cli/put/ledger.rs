//! What is sent and what becomes of it: counted, shown, told line by line, and recorded where the user wants it.
//!
//! Invariant: when nothing can be told or recorded any more, nothing more is sent; what was sent is still waited for.

use std::time::Duration;

use indicatif::ProgressBar;
use tristream_client::Error;
use tristream_proto::domain::{Record, SequenceNumber};

use super::tally::{self, Tally};
use crate::cli::recording::Recording;
use crate::cli::screen;

/// Number of a line, its bytes, and what became of it.
pub(super) type Outcome = (u64, usize, Result<SequenceNumber, Error>);

pub(super) struct Ledger {
    tally: Tally,
    bar: ProgressBar,
    recording: Option<Recording>,
    /// Why the recording has a hole.
    failed: Option<anyhow::Error>,
}

impl Ledger {
    pub(super) fn new(tally: Tally, bar: ProgressBar, recording: Option<Recording>) -> Ledger {
        Ledger { tally, bar, recording, failed: None }
    }

    /// The user ended the reading.
    pub(super) fn interrupted(&mut self) {
        self.tally.interrupted = true;
    }

    /// A record is about to be sent. `false` if it must not be.
    pub(super) fn invoke(&mut self, line: u64, record: &Record) -> bool {
        let recorded = self.recording.as_mut().map(|recording| recording.invoke(line, record));
        self.keep(recorded);
        self.failed.is_none()
    }

    /// A line that is no record was not sent.
    pub(super) fn unsent(&mut self, line: u64, bytes: usize, reason: String) {
        self.tell((line, bytes, Err(Error::Invalid(reason))));
    }

    /// The outcome of a record that was sent.
    pub(super) fn account(&mut self, outcome: Outcome) {
        let recorded =
            self.recording.as_mut().map(|recording| recording.outcome(outcome.0, &outcome.2));
        self.keep(recorded);
        self.tell(outcome);
    }

    fn keep(&mut self, recorded: Option<anyhow::Result<()>>) {
        if let Some(Err(error)) = recorded {
            self.tally.interrupted = true;
            self.failed.get_or_insert(error);
        }
    }

    fn tell(&mut self, (line, bytes, outcome): Outcome) {
        self.bar.inc(bytes as u64 + 1);
        if self.tally.json {
            let told = screen::line(tally::outcome(line, &outcome).to_string());
            // Nobody reads on: what was sent is still accounted for.
            self.tally.interrupted |= told.is_err();
        }
        match outcome {
            Ok(_) => self.tally.acked(bytes),
            Err(error) => {
                self.tally.failed(&error);
                self.bar.suspend(|| screen::say(tally::failure(line, &error)));
            }
        }
        self.bar.set_message(format!("{} acked", self.tally.acked));
    }

    /// Says the sum. Fails if the recording did.
    pub(super) fn close(self, took: Duration) -> anyhow::Result<Tally> {
        self.bar.finish_and_clear();
        self.tally.print(took)?;
        match self.failed {
            None => Ok(self.tally),
            Some(error) => Err(error),
        }
    }
}
