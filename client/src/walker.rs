//! In which order the shards of a stream are read: the pure core of the consumer.
//!
//! Invariant: every shard of the walk is given out once, and not before all of its parents that are still
//! kept were read to their ends. So each key's records come out in the order in which they were stored,
//! across any number of splits and merges. Must not know how a shard is read.
//!
//! Of two shards whose ranges overlap, the one with the lower id is the older: what its keys stored comes
//! first. So a shard waits for every older one of the walk that overlaps it, and the parents need not be
//! known: one that was not heard of yet has an ancestor that is still to be read, and what that ancestor's
//! end tells of comes before the shard too. The rule also holds where shards in between are no longer kept.
//!
//! A shard is heard of as the child of one that ended, or in a listing: the stream's shards as of one map.
//! Listings may come from nodes that lag in dropping shards.
//!
//! Memory: each shard of the walk that is not read yet, and some forty bytes for each that was.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use tristream_proto::domain::{HashKeyRange, Shard, ShardId};

use crate::subscription::Start;

#[derive(Debug)]
pub(crate) struct Walker {
    start: Start,
    shards: BTreeMap<ShardId, Known>,
    /// What was read to its end, or lies before the start.
    done: BTreeMap<ShardId, HashKeyRange>,
}

#[derive(Debug)]
struct Known {
    shard: Shard,
    state: State,
    /// The walk starts at it.
    first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Something older that overlaps it has not been read to its end.
    Waiting,
    /// To be given out.
    Ready,
    /// Given out.
    Open,
    /// Cannot be read to its end, so that its children never come.
    Lost,
}

impl Walker {
    /// A walk over the shards of a listing that hold records from `start` on, and over all that come from
    /// them. `start` is a point in time.
    pub(crate) fn new<'a>(listing: impl IntoIterator<Item = &'a Shard>, start: Start) -> Walker {
        let mut walker = Walker { start, shards: BTreeMap::new(), done: BTreeMap::new() };
        for shard in listing {
            let belongs = match start {
                Start::Latest => shard.is_open(),
                // No record of a closed shard is stamped after its second.
                Start::Timestamp(time) => {
                    shard.closed_second.is_none_or(|closed| closed >= time.seconds())
                }
                _ => true,
            };
            if belongs {
                walker.add(shard, true);
            } else {
                walker.done.insert(shard.id, shard.range);
            }
        }
        walker.promote(None);
        walker
    }

    /// Takes in a listing, whichever map it is of.
    pub(crate) fn learn<'a>(&mut self, listing: impl IntoIterator<Item = &'a Shard>) {
        let mut listing: Vec<&Shard> = listing.into_iter().collect();
        // Children first, so that a shard whose child is past is past itself.
        listing.sort_by_key(|shard| std::cmp::Reverse(shard.id));
        listing.into_iter().for_each(|shard| self.hear(shard));
        self.promote(None);
    }

    /// The shard was read to its end, and these came from it. (None are named where it is no longer kept;
    /// then a listing has told of them.)
    pub(crate) fn ended(&mut self, shard: ShardId, children: &[Shard]) {
        let range = self.shards.remove(&shard).map(|known| known.shard.range);
        if let Some(range) = range {
            self.done.insert(shard, range);
        }
        children.iter().for_each(|child| self.hear(child));
        self.promote(range);
    }

    /// The shard cannot be read to its end: what comes from it is left out of the walk.
    pub(crate) fn lost(&mut self, shard: ShardId) {
        if let Some(known) = self.shards.get_mut(&shard) {
            known.state = State::Lost;
        }
    }

    /// The next shard to read, and from where.
    pub(crate) fn next(&mut self) -> Option<(Shard, Start)> {
        let known = self.shards.values_mut().find(|known| known.state == State::Ready)?;
        known.state = State::Open;
        let start = match self.start {
            Start::Latest if !known.first => Start::TrimHorizon,
            // A child's first records may be older than a time that its parent covered too.
            start => start,
        };
        Some((known.shard.clone(), start))
    }

    fn add(&mut self, shard: &Shard, first: bool) {
        let known = Known { shard: shard.clone(), state: State::Waiting, first };
        self.shards.insert(shard.id, known);
    }

    /// Adds a shard that may be new.
    fn hear(&mut self, shard: &Shard) {
        if self.shards.contains_key(&shard.id) || self.done.contains_key(&shard.id) {
            return;
        }
        if self.is_past(shard) {
            // It was dropped before the walk came to it, and whoever told of it lags.
            self.done.insert(shard.id, shard.range);
        } else {
            self.add(shard, false);
        }
    }

    /// Whether something that came from the shard was given out already.
    fn is_past(&self, shard: &Shard) -> bool {
        let after = (Excluded(shard.id), Unbounded);
        let given = |known: &Known| known.state != State::Waiting;
        let read = self.done.range(after).map(|(_, range)| range);
        let reading = self.shards.range(after).map(|(_, known)| known).filter(|known| given(known));
        read.chain(reading.map(|known| &known.shard.range)).any(|r| overlap(r, &shard.range))
    }

    /// Makes ready what nothing older holds back any more; only what overlaps `within` can have become so.
    fn promote(&mut self, within: Option<HashKeyRange>) {
        let is_free = |known: &Known| {
            let mut older = self.shards.range(..known.shard.id).map(|(_, older)| older);
            known.state == State::Waiting
                && within.is_none_or(|within| overlap(&within, &known.shard.range))
                && !older.any(|older| overlap(&older.shard.range, &known.shard.range))
        };
        let free: Vec<ShardId> = self
            .shards
            .values()
            .filter(|known| is_free(known))
            .map(|known| known.shard.id)
            .collect();
        for shard in free {
            if let Some(known) = self.shards.get_mut(&shard) {
                known.state = State::Ready;
            }
        }
    }
}

fn overlap(a: &HashKeyRange, b: &HashKeyRange) -> bool {
    a.first <= b.last && b.first <= a.last
}

#[cfg(test)]
mod tests;
