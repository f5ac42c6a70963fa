//! Which splits and merges lead from a shard map to a number of shards.
//!
//! Growth splits every open shard once, and all of them again while the target is more than double;
//! then neighbours are merged until the target is left. Shrinking only merges. AWS does the same:
//! its totals are in kinesis-contract 9.8.
//!
//! Pure. Must not know how a split or merge is carried out.

use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{HashKey, HashKeyRange, Shard, ShardId, ShardMap};

use super::view::{Goal, Stream, StreamStatus};

/// Uniform ranges of different counts are rounded differently: a boundary this near to the edge of
/// a shard is that edge, and no place for a split. More than `ACCOUNT_SHARDS_MAX`, and next to
/// nothing of the key space.
const ROUNDING_KEYS: u128 = 1 << 16;

const _: () = assert!((ACCOUNT_SHARDS_MAX as u128) < ROUNDING_KEYS);

/// A split or merge that can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Split `shard` so that the second child begins at `at`.
    Split {
        /// The shard.
        shard: ShardId,
        /// First key of the second child.
        at: HashKey,
    },
    /// Merge two neighbours.
    Merge {
        /// The one with the lower range.
        shard: ShardId,
        /// The one whose range follows.
        adjacent: ShardId,
    },
}

/// The splits and merges that bring `map` to `target` open shards, as uniform as the splits allow.
/// A target above the limit on shards, which no stream will be given, is left without steps.
pub fn goal(map: &ShardMap, target: u32) -> Goal {
    if target as usize > ACCOUNT_SHARDS_MAX {
        return Goal { target, splits: vec![], keep: vec![] };
    }
    let ideal: Vec<HashKey> = HashKeyRange::uniform(target).iter().map(|r| r.first).collect();
    let mut pieces: Vec<HashKeyRange> = map.by_range().iter().map(|shard| shard.range).collect();
    let mut splits = vec![];
    // Ends: among fewer pieces than the limit, one is large enough to be split.
    while pieces.len() < ideal.len() {
        let points: Vec<_> = pieces.iter().map(|piece| split_point(*piece, &ideal)).collect();
        pieces = pieces.iter().zip(&points).flat_map(|(piece, at)| halves(*piece, *at)).collect();
        splits.extend(points.into_iter().flatten());
    }
    let edges: Vec<HashKey> = pieces.iter().map(|piece| piece.first).collect();
    Goal { target, splits, keep: nearest(&edges, &ideal) }
}

/// A piece after its split, if it is split.
fn halves(piece: HashKeyRange, at: Option<HashKey>) -> impl Iterator<Item = HashKeyRange> {
    let HashKeyRange { first, last } = piece;
    let (lower, upper) = match at {
        None => (piece, None),
        Some(at) => {
            let lower = HashKeyRange { first, last: HashKey(at.0 - 1) };
            (lower, Some(HashKeyRange { first: at, last }))
        }
    };
    std::iter::once(lower).chain(upper)
}

/// The ideal boundary in the piece that is nearest to its middle; the middle when it holds none.
fn split_point(piece: HashKeyRange, ideal: &[HashKey]) -> Option<HashKey> {
    let keys = piece.last.0 - piece.first.0;
    if keys < 3 {
        return None;
    }
    let middle = HashKey(piece.first.0 + keys / 2 + 1);
    let inside = |at: &&HashKey| {
        piece.contains(**at)
            && at.0 - piece.first.0 > ROUNDING_KEYS
            && piece.last.0 - at.0 > ROUNDING_KEYS
    };
    let nearest = ideal.iter().filter(inside).min_by_key(|at| at.0.abs_diff(middle.0));
    Some(*nearest.unwrap_or(&middle)).filter(|&at| piece.can_split_at(at))
}

/// As many of `edges` as there are `ideal` ones, so that the distances between the two, pair by
/// pair, make the smallest sum. Both rise and begin with key 0; there are at least as many edges.
fn nearest(edges: &[HashKey], ideal: &[HashKey]) -> Vec<HashKey> {
    let (Some((zero, edges)), Some((_, ideal))) = (edges.split_first(), ideal.split_first()) else {
        return vec![];
    };
    // Shifted so that a sum of as many as there can be shards does not overflow.
    let distance = |edge: HashKey, ideal: HashKey| edge.0.abs_diff(ideal.0) >> 16;
    // least[i][j]: the smallest sum for the first i ideal ones, among the first j edges.
    let mut least = vec![vec![Some(0u128); edges.len() + 1]];
    for (i, &want) in ideal.iter().enumerate() {
        let mut row = vec![None; edges.len() + 1];
        for (j, &edge) in edges.iter().enumerate() {
            let taken = least[i][j].map(|sum| sum + distance(edge, want));
            row[j + 1] = [row[j], taken].into_iter().flatten().min();
        }
        least.push(row);
    }
    let mut keep = vec![];
    let mut j = edges.len();
    for i in (1..=ideal.len()).rev() {
        while j > 0 && least[i][j - 1].is_some() && least[i][j - 1] == least[i][j] {
            j -= 1;
        }
        j = j.saturating_sub(1);
        keep.extend(edges.get(j));
    }
    keep.push(*zero);
    keep.reverse();
    keep
}

/// The steps of the stream's goal that can begin now, side by side. A long run of neighbours is
/// merged in pairs, then in pairs of pairs.
pub fn next(stream: &Stream) -> Vec<Step> {
    let (Some(goal), StreamStatus::Updating) = (&stream.goal, stream.status) else {
        return vec![];
    };
    let mut steps = vec![];
    // The shard before, if it may be merged with the one that follows.
    let mut before: Option<&Shard> = None;
    for shard in stream.map.by_range() {
        if stream.reshard_of(shard.id).is_some() {
            before = None;
        } else if let Some(at) = pending(goal, shard) {
            steps.push(Step::Split { shard: shard.id, at });
            before = None;
        } else if let Some(lower) = before.filter(|_| !goal.keep.contains(&shard.range.first)) {
            steps.push(Step::Merge { shard: lower.id, adjacent: shard.id });
            before = None;
        } else {
            before = Some(shard);
        }
    }
    steps
}

/// Whether nothing is left to do for the stream's goal. Every replica must find the same: commands
/// are refused by it.
pub(super) fn is_reached(stream: &Stream, goal: &Goal) -> bool {
    let stays = |shard: &&Shard| shard.range.first.0 == 0 || goal.keep.contains(&shard.range.first);
    stream.reshards.is_empty()
        && stream.map.open().all(|shard| pending(goal, shard).is_none() && stays(&shard))
}

/// Where the shard is still to be split. In order of the goal, which has the points of a shard
/// before those of its parts. A point that no longer fits is passed over.
fn pending(goal: &Goal, shard: &Shard) -> Option<HashKey> {
    goal.splits.iter().copied().find(|&at| shard.range.can_split_at(at))
}

/// Why a goal, made elsewhere, does not fit the map: carrying it out must leave its target.
pub(super) fn check(map: &ShardMap, goal: &Goal) -> Result<(), &'static str> {
    let mut pieces: Vec<HashKeyRange> = map.by_range().iter().map(|shard| shard.range).collect();
    for &at in &goal.splits {
        let piece = pieces.iter_mut().find(|piece| piece.can_split_at(at));
        let lower = piece.ok_or("a shard cannot be split there")?;
        let upper = HashKeyRange { first: at, last: lower.last };
        lower.last = HashKey(at.0 - 1);
        pieces.push(upper);
    }
    let rises = goal.keep.windows(2).all(|pair| pair[0] < pair[1]);
    if !rises || goal.keep.first() != Some(&HashKey(0)) || goal.keep.len() != goal.target as usize {
        return Err("what is kept does not make the target");
    }
    if goal.keep.iter().any(|&first| pieces.iter().all(|piece| piece.first != first)) {
        return Err("no shard begins where one is kept");
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
