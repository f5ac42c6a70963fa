//! The scripts that find the planted bugs, as part of the program: whoever has it can watch each being found.
//!
//! Must not know how a run goes.

use crate::simulation::Script;

macro_rules! planted {
    ($($plant:literal,)*) => {
        [$(($plant, include_str!(concat!("../scripts/planted/", $plant, ".json"))),)*]
    };
}

/// The bugs that have a script of their own in `scripts/planted/`, and the scripts.
pub const PLANTED: [(&str, &str); 19] = planted![
    "ack-before-quorum",
    "ack-before-fsync",
    "ignored-fsync-error",
    "vote-not-fsynced",
    "resumed-leadership",
    "stale-leader-read",
    "skipped-apply",
    "no-crc",
    "truncation-at-bit-rot",
    "snapshot-past-the-trim-point",
    "purge-too-far",
    "state-ahead-of-the-log",
    "unproven-tail-reported-as-durable",
    "one-record-lost-at-a-segments-border",
    "iterator-off-by-one",
    "empty-folder-that-votes",
    "no-dedupe",
    "window-not-handed-to-children",
    "split-without-seal",
];

/// Bugs that a script finds which was written for something else.
const BORROWED: [(&str, &str); 1] =
    [("disks-lie", include_str!("../scripts/power_loss_everywhere.json"))];

/// The script that finds this bug; none if there is none.
///
/// # Errors
/// None that a script in this repository has.
pub fn script(plant: &str) -> Result<Option<Script>, serde_json::Error> {
    let mut all = PLANTED.iter().chain(&BORROWED);
    all.find(|(name, _)| *name == plant).map(|(_, text)| Script::parse(text)).transpose()
}
