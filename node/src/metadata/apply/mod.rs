//! What each command does to the view. Pure: no clock, no randomness, no I/O.
//!
//! Invariant: ids, incarnations and map versions only rise, also across delete and re-create. A
//! command that is refused, or was carried out before, changes nothing. A stream that serves is
//! UPDATING exactly while it has a reshard or a goal.

mod modes;
mod rescale;
mod reshards;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use tristream_proto::domain::{Incarnation, StreamName, Timestamp};

use super::command::{Command, Outcome};
use super::view::{Stream, StreamStatus, View};

/// The period for which AWS counts changes of a stream.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The view after a command; `None` when there is nothing left to do; or why it is refused.
type Applied = Result<Option<View>, Outcome>;

/// The view after `command`, or `None` when it changes nothing, and what became of the command.
/// `applied` is left as it was.
pub(super) fn apply(view: &View, command: &Command) -> (Option<View>, Outcome) {
    match carry_out(view, command) {
        Ok(after) => (after, Outcome::Done),
        Err(refused) => (None, refused),
    }
}

fn carry_out(view: &View, command: &Command) -> Applied {
    match command {
        Command::CreateStream { name, shard_count, mode, now, record_bytes_max, tags, nodes } => {
            let new = streams::NewStream {
                name,
                shard_count: *shard_count,
                mode: *mode,
                now: *now,
                record_bytes_max: *record_bytes_max,
                tags,
                nodes,
            };
            streams::create(view, new)
        }
        Command::ActivateStream { name, incarnation } => {
            streams::activate(view, known(view, name, *incarnation)?)
        }
        Command::DeleteStream { name, incarnation } => streams::delete(view, name, *incarnation),
        Command::ForgetStream { name, incarnation } => {
            streams::forget(view, known(view, name, *incarnation)?)
        }
        Command::SplitShard { name, incarnation, shard, at, now, while_updating } => {
            let stream = known(view, name, *incarnation)?;
            reshards::split(view, stream, *shard, *at, *now, *while_updating)
        }
        Command::MergeShards { name, incarnation, shard, adjacent, now, while_updating } => {
            let stream = known(view, name, *incarnation)?;
            reshards::merge(view, stream, *shard, *adjacent, *now, *while_updating)
        }
        Command::FinishReshard { name, incarnation, reshard, creation_second } => {
            let stream = known(view, name, *incarnation)?;
            reshards::finish(view, stream, *reshard, *creation_second)
        }
        Command::ExpireShards { name, incarnation, shards } => {
            reshards::expire(view, known(view, name, *incarnation)?, shards)
        }
        Command::Rescale { name, incarnation, map_version, goal, now, limited } => {
            let stream = known(view, name, *incarnation)?;
            rescale::begin(view, stream, *map_version, goal, *now, *limited)
        }
        Command::ReachGoal { name, incarnation } => {
            rescale::reach(view, known(view, name, *incarnation)?)
        }
        Command::SetMode { name, incarnation, mode, now, limited } => {
            modes::set(view, known(view, name, *incarnation)?, *mode, *now, *limited)
        }
    }
}

fn known<'a>(
    view: &'a View,
    name: &StreamName,
    incarnation: Incarnation,
) -> Result<&'a Stream, Outcome> {
    let stream = view.streams.get(name).filter(|stream| stream.incarnation == incarnation);
    stream.map(|stream| &**stream).ok_or(Outcome::NotFound)
}

/// The view with this stream in the place of its former self.
fn with(mut view: View, stream: Stream) -> View {
    view.streams.insert(stream.name.clone(), Arc::new(stream));
    view
}

/// The status of a stream that serves, by what is under way.
fn serving(stream: &Stream) -> StreamStatus {
    match stream.reshards.is_empty() && stream.goal.is_none() {
        true => StreamStatus::Active,
        false => StreamStatus::Updating,
    }
}

/// Those of the last 24 hours. One that a faster clock stamped counts too.
fn recent(times: &[Timestamp], now: Timestamp) -> Vec<Timestamp> {
    times.iter().copied().filter(|&time| now.since(time) < DAY).collect()
}

/// Adds a time, and keeps no more than are ever counted.
fn noted(mut times: Vec<Timestamp>, now: Timestamp, count_max: usize) -> Vec<Timestamp> {
    times.push(now);
    let past = times.len().saturating_sub(count_max);
    times.split_off(past)
}

fn invalid(reason: impl ToString) -> Outcome {
    Outcome::Invalid { reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
