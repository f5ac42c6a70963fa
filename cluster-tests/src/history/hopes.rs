//! What a cluster in health does, once faults are over. Not part of recordings.
//!
//! Must not judge.

use std::time::Duration;

use super::History;

/// Something that is to come about by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hope {
    /// In words.
    pub what: &'static str,
    /// Within this time of the moment from which on it could.
    pub within: Duration,
    /// How long it took; if it did not come about, what it waited for.
    pub took: Result<Duration, String>,
}

impl History {
    /// Something came about, or did not.
    pub fn note_hope(&mut self, hope: Hope) {
        self.hopes.push(hope);
    }

    /// All that was hoped for.
    pub fn hopes(&self) -> &[Hope] {
        &self.hopes
    }
}
