//! Which splits and merges make a stream on demand fit its load.
//!
//! Pure. What a shard needs is told in shards: twice its highest rate within the window, by what a
//! shard bears (1 MiB/s or 1,000 records/s), so that there is room for twice the peak.
//!
//! ```text
//!  need of a shard > 1                       split it at the median of the hash keys that came in
//!  fewer shards than 4                       split the neediest
//!  need of two neighbours together <= 0.6    merge them, once both were observed for a whole window
//!  > 1, and nearly all of it on one key      tell it: no split helps
//! ```
//!
//! While a stream needs more shards than it has, one of its shards needs more than 1: nothing else must
//! be asked. Never flaps: what a split makes needs more than 1 together, and must fall to 0.6 to be
//! merged again, for a whole window; what a merge makes must rise by two thirds to be split. Splits end: each moves at least 1/4 of a shard's worth of
//! load away from what it leaves. Must not know how loads are gathered or steps carried out.

mod median;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tristream_proto::domain::limits::{
    SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND, SHARDS_DEFAULT,
};
use tristream_proto::domain::{GroupId, HashKey, Shard, ShardId};

use crate::metadata::plan::Step;
use crate::metadata::{Stream, StreamMode, StreamStatus};
use crate::shard::Observed;

use median::{Median, median, most_frequent};

/// Streams on demand begin with so many shards and never have fewer for long.
pub const SHARDS_MIN: usize = SHARDS_DEFAULT as usize;

/// Room for so many times the peak.
const HEADROOM: f64 = 2.0;
/// A shard that needs more than this is split.
const SPLIT_ABOVE: f64 = 1.0;
/// Neighbours that need no more than this together are merged.
const MERGE_BELOW: f64 = 0.6;
/// A split that leaves less than this on either side helps nobody.
const PART_MIN: f64 = 0.25;
/// The median of so many sampled keys is off by 2 % in rank (standard error).
const SAMPLE_GOOD: usize = 512;
/// Of few large records it is taken from so many, after this time.
const SAMPLE_MIN: usize = 16;
const SAMPLE_PATIENCE: Duration = Duration::from_secs(10);
/// Reshards of one stream at a time.
const RESHARDS_MAX: usize = 8;

/// Nearly all that comes in at an overloaded shard has one hash key.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct HotKey {
    /// The key.
    #[serde(rename = "hash_key")]
    pub key: HashKey,
    /// Its share of the shard's load, from 0 to 1.
    pub share: f64,
}

/// What is to be done about a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// How many shards the stream needs, by its peak and within the limit.
    pub wanted: usize,
    /// Steps that can all begin now.
    pub steps: Vec<Step>,
    /// Overloaded shards that no split can help.
    pub hot_keys: Vec<(ShardId, HotKey)>,
}

/// The key that makes the shard overloaded, if no split can help.
pub fn hot_key(load: &Observed) -> Option<HotKey> {
    match cut(load) {
        Cut::HotKey(hot) => Some(hot),
        _ => None,
    }
}

/// What a person is told of a shard's load.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Picture {
    /// Highest bytes (data and keys) per second within the window.
    pub peak_bytes: u64,
    /// Highest records per second.
    pub peak_records: u64,
    /// Milliseconds for which the leader has observed, at most the window.
    pub observed_ms: u64,
    /// The one key that brings more than the shard bears.
    pub hot_key: Option<HotKey>,
}

impl From<Observed> for Picture {
    fn from(load: Observed) -> Picture {
        Picture {
            peak_bytes: load.peak_bytes,
            peak_records: load.peak_records,
            observed_ms: load.observed.as_millis() as u64,
            hot_key: hot_key(&load),
        }
    }
}

/// What to do for `stream` by the `loads` of its shards, observed over `window`, when `room` more shards
/// are allowed. Nothing, unless it is on demand and nobody else changes it.
pub fn decide(
    stream: &Stream,
    loads: &BTreeMap<GroupId, Observed>,
    window: Duration,
    room: usize,
) -> Decision {
    let serves = matches!(stream.status, StreamStatus::Active | StreamStatus::Updating);
    if stream.mode != StreamMode::OnDemand || !serves || stream.goal.is_some() {
        return Decision::default();
    }
    let mut plan = Plan::new(stream, loads, room);
    plan.split_hot();
    plan.split_to_least();
    if plan.steps.is_empty() && plan.all_known() {
        plan.merge_cold(window);
    }
    let hot_keys = plan.hot_keys().collect();
    Decision { wanted: plan.wanted, steps: plan.steps, hot_keys }
}

/// Shards needed for a rate.
fn need(bytes: u64, records: u64) -> f64 {
    let by_bytes = bytes as f64 / SHARD_BYTES_PER_SECOND as f64;
    HEADROOM * by_bytes.max(records as f64 / SHARD_RECORDS_PER_SECOND as f64)
}

/// How an overloaded shard is helped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// It is not overloaded, or too little is known.
    None,
    /// By a split here.
    At(HashKey),
    /// Not at all. Where no cut leaves `PART_MIN` on both sides of more than one shard's worth, one
    /// key has more than half of it.
    HotKey(HotKey),
}

fn cut(load: &Observed) -> Cut {
    let need = need(load.peak_bytes, load.peak_records);
    if need <= SPLIT_ABOVE || !tells_median(load) {
        return Cut::None;
    }
    match median(&load.sampled) {
        Some(Median { at, smaller }) if smaller * need >= PART_MIN => Cut::At(at),
        _ => {
            let (key, share) = most_frequent(&load.sampled);
            Cut::HotKey(HotKey { key, share })
        }
    }
}

fn tells_median(load: &Observed) -> bool {
    let enough = if load.observed < SAMPLE_PATIENCE { SAMPLE_GOOD } else { SAMPLE_MIN };
    load.sampled.len() >= enough
}

/// An open shard, with what is known of it.
struct Watched<'a> {
    shard: &'a Shard,
    load: Option<&'a Observed>,
    need: f64,
    cut: Cut,
    /// Being resharded, or chosen to be.
    is_busy: bool,
}

/// A decision in the making.
struct Plan<'a> {
    /// The open shards, by their ranges.
    shards: Vec<Watched<'a>>,
    /// Open shards when everything under way and chosen is done.
    planned: usize,
    wanted: usize,
    /// How many more shards are allowed.
    room: usize,
    /// How many more reshards may begin.
    starts: usize,
    steps: Vec<Step>,
}

impl<'a> Plan<'a> {
    fn new(stream: &'a Stream, loads: &'a BTreeMap<GroupId, Observed>, room: usize) -> Plan<'a> {
        let watched = |shard: &'a Shard| {
            let load = loads.get(&shard.group);
            Watched {
                shard,
                load,
                need: load.map_or(0.0, |load| need(load.peak_bytes, load.peak_records)),
                cut: load.map_or(Cut::None, cut),
                is_busy: stream.reshard_of(shard.id).is_some(),
            }
        };
        let mut shards: Vec<Watched> = stream.map.open().map(watched).collect();
        shards.sort_by_key(|watched| watched.shard.range.first);
        let under_way = stream.reshards.iter().fold(shards.len(), |count, reshard| {
            (count + reshard.children.len()).saturating_sub(reshard.parents.len())
        });
        let starts = RESHARDS_MAX.saturating_sub(stream.reshards.len());
        let wanted = wanted(&shards).min(under_way + room);
        Plan { shards, planned: under_way, wanted, room, starts, steps: vec![] }
    }

    /// Every shard's leader has told its load.
    fn all_known(&self) -> bool {
        self.shards.iter().all(|watched| watched.load.is_some())
    }

    fn hot_keys(&self) -> impl Iterator<Item = (ShardId, HotKey)> {
        self.shards.iter().filter_map(|watched| match watched.cut {
            Cut::HotKey(hot) => Some((watched.shard.id, hot)),
            _ => None,
        })
    }

    /// Places in `shards` of those that can be split, the neediest first, then the widest.
    fn neediest(&self) -> Vec<usize> {
        let mut free: Vec<usize> =
            (0..self.shards.len()).filter(|&at| !self.shards[at].is_busy).collect();
        let width = |at: usize| {
            let range = self.shards[at].shard.range;
            range.last.0 - range.first.0
        };
        free.sort_by(|&a, &b| {
            let needs = self.shards[b].need.total_cmp(&self.shards[a].need);
            needs.then(width(b).cmp(&width(a)))
        });
        free
    }

    fn split_hot(&mut self) {
        for place in self.neediest() {
            if let Cut::At(at) = self.shards[place].cut {
                self.split(place, at);
            }
        }
    }

    /// A stream that was provisioned with few shards gets the least that one on demand has.
    fn split_to_least(&mut self) {
        for place in self.neediest() {
            let Watched { shard, load, need, cut, .. } = &self.shards[place];
            if self.planned >= SHARDS_MIN || matches!(cut, Cut::HotKey(_)) {
                continue;
            }
            let load = load.filter(|load| tells_median(load));
            let at = load.and_then(|load| median(&load.sampled)).map(|median| median.at);
            // An overloaded shard of which too little is known waits until more is.
            let blind = (*need <= SPLIT_ABOVE).then(|| middle(shard)).flatten();
            if let Some(at) = at.or(blind) {
                self.split(place, at);
            }
        }
    }

    fn split(&mut self, place: usize, at: HashKey) {
        let Watched { shard, is_busy, .. } = &mut self.shards[place];
        let is_inside = shard.range.first < at && at <= shard.range.last;
        if self.room == 0 || self.starts == 0 || !is_inside {
            return;
        }
        *is_busy = true;
        self.steps.push(Step::Split { shard: shard.id, at });
        self.room -= 1;
        self.starts -= 1;
        self.planned += 1;
    }

    /// The coldest neighbours first, each shard once, and never below what the stream needs.
    fn merge_cold(&mut self, window: Duration) {
        let mut pairs: Vec<(f64, usize)> = (1..self.shards.len())
            .filter_map(|at| Some((together(&self.shards[at - 1], &self.shards[at], window)?, at)))
            .filter(|(need, _)| *need <= MERGE_BELOW)
            .collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut taken = BTreeSet::new();
        for (_, at) in pairs {
            let is_free = !taken.contains(&(at - 1)) && !taken.contains(&at);
            if self.planned <= self.wanted || self.starts == 0 || !is_free {
                continue;
            }
            taken.extend([at - 1, at]);
            let (shard, adjacent) = (self.shards[at - 1].shard.id, self.shards[at].shard.id);
            self.steps.push(Step::Merge { shard, adjacent });
            self.starts -= 1;
            self.planned -= 1;
        }
    }
}

/// How many shards the whole stream needs: at least the least. A hot key counts as one, for more would not
/// help it.
fn wanted(shards: &[Watched]) -> usize {
    let is_hot_key = |watched: &&Watched| matches!(watched.cut, Cut::HotKey(_));
    let hot_keys = shards.iter().filter(is_hot_key).count();
    let rest = shards.iter().filter(|watched| !is_hot_key(watched)).filter_map(|w| w.load);
    // Peaks of different seconds are added: at worst the stream gets more room than it needs.
    let (bytes, records) = rest.fold((0, 0), |(bytes, records), load| {
        (bytes + load.peak_bytes, records + load.peak_records)
    });
    (need(bytes, records).ceil() as usize + hot_keys).max(SHARDS_MIN)
}

/// What two neighbours need together, when nothing happens to them and both were observed long enough.
fn together(one: &Watched, other: &Watched, window: Duration) -> Option<f64> {
    let (left, right) = (one.load?, other.load?);
    let is_seen = left.observed >= window && right.observed >= window;
    (is_seen && !one.is_busy && !other.is_busy)
        .then(|| need(left.peak_bytes + right.peak_bytes, left.peak_records + right.peak_records))
}

fn middle(shard: &Shard) -> Option<HashKey> {
    let (first, last) = (shard.range.first.0, shard.range.last.0);
    (first < last).then(|| HashKey(first + (last - first) / 2 + 1))
}
