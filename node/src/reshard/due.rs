//! What is to be done for a view, and what of it now. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;
use tristream_proto::domain::{Incarnation, ShardId, Timestamp};

use crate::metadata::plan::{self, Step};
use crate::metadata::{Stream, StreamStatus, View};
use crate::placement::Retries;

/// Pieces of work at a time: most of them wait for the groups of children to be opened and elected.
pub(super) const AT_ONCE: usize = 16;

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A reshard is under way.
    Finish {
        /// Of which stream.
        stream: Arc<Stream>,
        /// Which.
        reshard: ShardId,
    },
    /// Splits and merges of a goal can begin.
    Begin {
        /// Of which stream.
        stream: Arc<Stream>,
        /// Which: at least one.
        steps: Vec<Step>,
    },
    /// Nothing of a goal is left.
    Reach {
        /// Of which stream.
        stream: Arc<Stream>,
    },
}

/// Names a piece of work. There is never more than one of a name at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A goal's next steps.
    Goal(Incarnation),
    /// A reshard.
    Reshard(Incarnation, ShardId),
}

impl Work {
    pub(super) fn key(&self) -> Key {
        match self {
            Work::Finish { stream, reshard } => Key::Reshard(stream.incarnation, *reshard),
            Work::Begin { stream, .. } | Work::Reach { stream } => Key::Goal(stream.incarnation),
        }
    }

    pub(super) fn stream(&self) -> &Arc<Stream> {
        match self {
            Work::Finish { stream, .. } | Work::Begin { stream, .. } | Work::Reach { stream } => {
                stream
            }
        }
    }

    /// Since when it waits; goals, which are quick, go first.
    fn since(&self) -> Timestamp {
        let Work::Finish { stream, reshard } = self else { return Timestamp::default() };
        let reshard = stream.reshards.iter().find(|one| one.id() == *reshard);
        reshard.map(|reshard| reshard.begun).unwrap_or_default()
    }
}

/// Everything that is to be done. Goals begin no more than `AT_ONCE` reshards at a time.
pub(super) fn work(view: &View) -> Vec<Work> {
    let served = || view.streams.values().filter(|stream| is_served(stream));
    let under_way: usize = served().map(|stream| stream.reshards.len()).sum();
    let mut room = AT_ONCE.saturating_sub(under_way);
    let mut work = Vec::new();
    for stream in served() {
        let finish = |reshard: &crate::metadata::Reshard| Work::Finish {
            stream: stream.clone(),
            reshard: reshard.id(),
        };
        work.extend(stream.reshards.iter().map(finish));
        if stream.goal.is_none() {
            continue;
        }
        let mut steps = plan::next(stream);
        if steps.is_empty() && stream.reshards.is_empty() {
            work.push(Work::Reach { stream: stream.clone() });
        }
        steps.truncate(room);
        room -= steps.len();
        if !steps.is_empty() {
            work.push(Work::Begin { stream: stream.clone(), steps });
        }
    }
    work
}

/// Whether a stream's shards take records.
pub(super) fn is_served(stream: &Stream) -> bool {
    matches!(stream.status, StreamStatus::Active | StreamStatus::Updating)
}

/// What to take on now, besides what is `running`: what failed least goes first, then what waits
/// longest, so that work that does not succeed never keeps other work waiting.
pub(super) fn admit(
    mut work: Vec<Work>,
    running: &BTreeSet<Key>,
    retries: &Retries<Key>,
    now: Instant,
) -> Vec<Work> {
    let free = AT_ONCE.saturating_sub(running.len());
    work.retain(|one| !running.contains(&one.key()) && retries.is_due(one.key(), now));
    work.sort_by_key(|one| (retries.times(one.key()), one.since(), one.key()));
    work.truncate(free);
    work
}
