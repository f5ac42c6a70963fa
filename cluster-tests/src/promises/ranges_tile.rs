//! The shards' ranges: in every map seen, those of the open shards tile [0, 2^128), and children own what their
//! parents owned; a shard never changes but for its end; a record lies in a shard whose range holds its hash.

use std::collections::HashMap;

use tristream_client::domain::{HashKey, HashKeyRange};

use super::lineage::Lineage;
use super::{About, Verdict, short};
use crate::history::{Event, History, ShardSeen, Source};

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("ranges_tile");
    let mut known: HashMap<&str, &ShardSeen> = HashMap::new();
    // What one source saw open last: two of them may have been told at times that nobody can compare.
    let mut open_last: HashMap<(Source, &str), bool> = HashMap::new();
    for (source, event) in history.sourced() {
        let Event::Map(map) = event else { continue };
        let open = map.iter().filter(|seen| seen.open).map(|seen| seen.range);
        verdict.check(tile(open), || {
            format!("the open shards do not tile the key space: {}", tell(map))
        });
        for seen in map {
            let before = known.insert(&seen.shard, seen).unwrap_or(seen);
            let same = (before.range, &before.parents) == (seen.range, &seen.parents);
            let was_open = open_last.insert((source, &seen.shard), seen.open);
            verdict.check(same && (was_open != Some(false) || !seen.open), || {
                format!("{} changed: {before:?}, then {seen:?}", seen.shard)
            });
        }
    }
    families(&mut verdict, &known);
    let lineage = Lineage::of(history);
    for event in history.events() {
        let Event::Read(reader, stored) = event else { continue };
        let explicit = history.find(&stored.data).and_then(|id| history.intent(id).hash);
        let hash = explicit.unwrap_or_else(|| HashKey::of(&stored.key));
        let shard = lineage.get(&stored.position.shard);
        verdict.check_about(shard.is_some_and(|seen| seen.range.contains(hash)), || {
            let words = format!(
                "{reader} read {} (key {:?}, hash {hash}) at {}, which owns {:?}",
                short(&stored.data),
                stored.key,
                stored.position,
                shard.map(|seen| seen.range)
            );
            (About::place(&stored.position).by(reader), words)
        });
    }
    verdict
}

const ALL: HashKeyRange = HashKeyRange { first: HashKey(0), last: HashKey(u128::MAX) };

/// The children of the same parents own together what the parents owned together. Parents may be forgotten before
/// their children; and a parent may be known before its children are.
fn families(verdict: &mut Verdict, known: &HashMap<&str, &ShardSeen>) {
    let mut families: HashMap<Vec<&String>, Vec<HashKeyRange>> = HashMap::new();
    for seen in known.values().filter(|seen| !seen.parents.is_empty()) {
        let mut parents: Vec<&String> = seen.parents.iter().collect();
        parents.sort_unstable();
        families.entry(parents).or_default().push(seen.range);
    }
    for (parents, children) in families {
        let known_parents: Option<Vec<HashKeyRange>> =
            parents.iter().map(|parent| Some(known.get(parent.as_str())?.range)).collect();
        let Some(owned) = known_parents else { continue };
        let (before, after) = (joined(owned), joined(children));
        verdict.check(before.is_some() && before == after, || {
            format!("{parents:?} owned {before:?}, their children own {after:?}")
        });
    }
}

/// Whether these make the whole key space, each key once.
pub(crate) fn tile(ranges: impl IntoIterator<Item = HashKeyRange>) -> bool {
    joined(ranges) == Some(ALL)
}

/// The one range that these make, if they follow each other without hole or overlap.
fn joined(ranges: impl IntoIterator<Item = HashKeyRange>) -> Option<HashKeyRange> {
    let mut ranges: Vec<HashKeyRange> = ranges.into_iter().collect();
    ranges.sort_by_key(|range| range.first);
    let mut ranges = ranges.into_iter();
    let first = ranges.next()?;
    ranges.try_fold(first, |before, range| {
        let follows = before.last.0.checked_add(1) == Some(range.first.0);
        (follows && range.first <= range.last)
            .then_some(HashKeyRange { first: before.first, last: range.last })
    })
}

fn tell(map: &[ShardSeen]) -> String {
    let open = map.iter().filter(|seen| seen.open);
    let words =
        open.map(|seen| format!("{} {}..={}", seen.shard, seen.range.first, seen.range.last));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::liars::{Story, seen};
    use super::*;

    const MAX: u128 = u128::MAX;

    fn broken(maps: Vec<Vec<ShardSeen>>) -> u64 {
        let mut story = Story::new();
        maps.into_iter().for_each(|map| story.tell(Event::Map(map)));
        check(&story.0).broken
    }

    #[test]
    fn holes_overlaps_and_short_maps_are_noticed() {
        for (map, expected) in [
            (vec![seen("s0", 0..=9, &[], true), seen("s1", 10..=MAX, &[], true)], 0),
            (vec![seen("s0", 0..=8, &[], true), seen("s1", 10..=MAX, &[], true)], 1),
            (vec![seen("s0", 0..=10, &[], true), seen("s1", 10..=MAX, &[], true)], 1),
            (vec![seen("s0", 1..=MAX, &[], true)], 1),
            (vec![seen("s0", 0..=MAX - 1, &[], true)], 1),
            (vec![seen("s0", 0..=MAX, &[], true), seen("s1", 0..=MAX, &[], true)], 1),
            (vec![], 1),
        ] {
            assert_eq!(broken(vec![map.clone()]), expected, "{map:?}");
        }
    }

    #[test]
    fn every_map_counts() {
        let whole = vec![seen("s0", 0..=MAX, &[], true)];
        let gone = vec![seen("s0", 0..=MAX, &[], false)];
        assert_eq!(broken(vec![whole.clone(), gone.clone()]), 1);
        // Neither is a map without open shards one, nor does a closed shard open again.
        assert_eq!(broken(vec![gone, whole]), 2);
    }

    #[test]
    fn children_that_own_something_else_are_noticed() {
        let map = |middle: u128| {
            vec![
                seen("s0", 0..=99, &[], false),
                seen("s1", 100..=MAX, &[], true),
                seen("s2", 0..=9, &["s0"], true),
                seen("s3", 10..=middle, &["s0"], true),
            ]
        };
        assert_eq!(broken(vec![map(99)]), 0);
        // The hole, and the family.
        assert_eq!(broken(vec![map(98)]), 2);
    }

    #[test]
    fn a_shard_that_moves_is_noticed() {
        let first = vec![seen("s0", 0..=9, &[], true), seen("s1", 10..=MAX, &[], true)];
        let then = vec![seen("s0", 0..=8, &[], true), seen("s1", 9..=MAX, &[], true)];
        assert_eq!(broken(vec![first, then]), 2);
    }

    #[test]
    fn parents_that_were_forgotten_are_not_asked() {
        let map = vec![seen("s3", 0..=9, &["s0"], true), seen("s4", 10..=MAX, &["s1", "s2"], true)];
        assert_eq!(broken(vec![map]), 0);
    }

    #[test]
    fn a_record_in_a_shard_that_does_not_own_it_is_noticed() {
        // MD5("a") begins with 0x0c, MD5("k") with 0x8c.
        let half = 1 << 127;
        let mut story = Story::new();
        story.tell(Event::Map(vec![
            seen("s", 0..=half - 1, &[], true),
            seen("t", half..=MAX, &[], true),
        ]));
        for (shard, key, expected) in [("s", "a", 0), ("t", "k", 0), ("t", "a", 1), ("u", "a", 2)] {
            story.read_all_of("one", shard, &[(1, key, "data")]);
            assert_eq!(check(&story.0).broken, expected, "{key} in {shard}");
        }
    }

    #[test]
    fn an_explicit_hash_decides() {
        for (hash, expected) in [(5, 0), (MAX, 1)] {
            let mut story = Story::new();
            story.tell(Event::Map(vec![
                seen("s", 0..=9, &[], true),
                seen("t", 10..=MAX, &[], true),
            ]));
            story.0.intend_at(Some("k".to_owned()), Some(HashKey(hash)), "data");
            story.read_all("one", &[(1, "k", "data")]);
            assert_eq!(check(&story.0).broken, expected, "{hash}");
        }
    }
}
