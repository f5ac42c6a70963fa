//! Which shard came from which, as far as the maps of a history tell.
//!
//! Must not judge.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Event, History, Position, SequenceNumber, ShardSeen};

/// Shards and their parents.
pub(super) struct Lineage<'a> {
    shards: BTreeMap<&'a str, &'a ShardSeen>,
    generations: HashMap<&'a str, usize>,
}

impl<'a> Lineage<'a> {
    /// What all maps together tell. A shard is as it was seen first: that it never changes but for its end is
    /// `ranges_tile`'s to say.
    pub(super) fn of(history: &'a History) -> Lineage<'a> {
        let mut shards = BTreeMap::new();
        for event in history.events() {
            let Event::Map(map) = event else { continue };
            for seen in map {
                shards.entry(seen.shard.as_str()).or_insert(seen);
            }
        }
        let mut generations = HashMap::new();
        // Ids rise from parents to children.
        for (shard, seen) in &shards {
            let of = |parent: &String| generations.get(parent.as_str()).map_or(1, |last| last + 1);
            let generation = seen.parents.iter().map(of).max().unwrap_or_default();
            generations.insert(*shard, generation);
        }
        Lineage { shards, generations }
    }

    /// A shard that some map showed.
    pub(super) fn get(&self, shard: &str) -> Option<&'a ShardSeen> {
        self.shards.get(shard).copied()
    }

    /// How many generations came before a shard. Nothing that no map showed came from anything.
    pub(super) fn generation(&self, shard: &str) -> usize {
        self.generations.get(shard).copied().unwrap_or_default()
    }

    /// Whether `shard` is `ancestor`, or came from it.
    pub(super) fn descends(&self, shard: &str, ancestor: &str) -> bool {
        let mut open = vec![shard];
        while let Some(shard) = open.pop() {
            if shard == ancestor {
                return true;
            }
            // Never below the ancestor's generation: that ends, whatever the maps say.
            let own = self.generation(shard);
            if let Some(seen) = self.get(shard).filter(|_| own > self.generation(ancestor)) {
                let elders = seen.parents.iter().map(String::as_str);
                open.extend(elders.filter(|parent| self.generation(parent) < own));
            }
        }
        false
    }

    /// Orders the places of one key, whose shards descend from each other.
    pub(super) fn place<'p>(&self, position: &'p Position) -> (usize, &'p SequenceNumber) {
        (self.generation(&position.shard), &position.number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::liars::{Story, seen};
    use super::*;

    #[test]
    fn descent_goes_through_splits_and_merges() {
        let mut story = Story::new();
        story.tell(Event::Map(vec![
            seen("s0", 0..=9, &[], false),
            seen("s1", 0..=4, &["s0"], false),
            seen("s2", 5..=9, &["s0"], false),
            seen("s3", 0..=9, &["s1", "s2"], true),
        ]));
        let lineage = Lineage::of(&story.0);
        for (shard, ancestor, is) in [
            ("s3", "s0", true),
            ("s3", "s2", true),
            ("s2", "s2", true),
            ("s1", "s2", false),
            ("s0", "s3", false),
            ("s9", "s0", false),
        ] {
            assert_eq!(lineage.descends(shard, ancestor), is, "{shard} from {ancestor}");
        }
        assert_eq!(["s0", "s2", "s3", "s9"].map(|shard| lineage.generation(shard)), [0, 1, 2, 0]);
    }

    #[test]
    fn a_shard_that_is_its_own_parent_ends_no_test() {
        let mut story = Story::new();
        story.tell(Event::Map(vec![
            seen("s0", 0..=9, &["s1"], true),
            seen("s1", 0..=9, &["s0"], true),
        ]));
        let lineage = Lineage::of(&story.0);
        assert!(!lineage.descends("s1", "s9"));
        assert!(lineage.descends("s1", "s0"));
    }
}
