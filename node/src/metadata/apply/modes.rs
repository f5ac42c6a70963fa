//! A stream's mode. Its shards stay as they are.

use tristream_proto::domain::Timestamp;

use super::{Applied, noted, recent, with};
use crate::metadata::command::Outcome;
use crate::metadata::view::{Stream, StreamMode, StreamStatus, View};

/// Changes of the mode within 24 hours.
pub(super) const MODE_CHANGES_MAX: usize = 2;

pub(super) fn set(
    view: &View,
    stream: &Stream,
    mode: StreamMode,
    now: Timestamp,
    limited: bool,
) -> Applied {
    let serves = matches!(stream.status, StreamStatus::Active | StreamStatus::Updating);
    // Clients set again what is set, and must not fail by it (kinesis-contract 10.38).
    if serves && stream.mode == mode {
        return Ok(None);
    }
    if stream.status != StreamStatus::Active {
        return Err(Outcome::NotActive);
    }
    let changed = recent(&stream.mode_changed, now);
    if limited && changed.len() >= MODE_CHANGES_MAX {
        let reason = format!(
            "UpdateStreamMode cannot change the mode of a stream more than {MODE_CHANGES_MAX} \
             times in a rolling 24-hour period. Stream: {}",
            stream.name
        );
        return Err(Outcome::ChangeLimit { reason });
    }
    let mode_changed = noted(changed, now, MODE_CHANGES_MAX);
    Ok(Some(with(view.clone(), Stream { mode, mode_changed, ..stream.clone() })))
}
