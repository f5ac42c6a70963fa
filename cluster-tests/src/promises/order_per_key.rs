//! One order per key, through all generations of its shards: if A was acked before B of the same key was first sent, A
//! comes before every copy of B, in the order parents before children and then by number; and a reader gets the records
//! of a key in that order.
//!
//! A's place is the acked one: a copy that an attempt of unknown outcome left behind may come later. The key is the
//! one that is stored, so that keys chosen by the client under test are judged too. So that numbers alone tell the order
//! too, as AWS's clients believe, those of a child must be above those of its parents.

use std::collections::HashMap;

use super::lineage::Lineage;
use super::{About, Verdict, short};
use crate::history::{Event, History, Position, RecordId, SequenceNumber, Source};

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("order_per_key");
    let lineage = Lineage::of(history);
    for (key, mut shards) in shards_of_keys(history) {
        shards.sort_by_key(|shard| lineage.generation(shard));
        let one_line = shards.windows(2).all(|pair| lineage.descends(pair[1], pair[0]));
        verdict.check(one_line, || format!("key {key:?} is in {shards:?}"));
    }
    real_time(&mut verdict, history, &lineage);
    as_read(&mut verdict, history, &lineage);
    numbers_rise(&mut verdict, history, &lineage);
    verdict
}

/// What was acked before something else of the key was sent comes before it.
fn real_time(verdict: &mut Verdict, history: &History, lineage: &Lineage<'_>) {
    let stored = copies(history, lineage);
    // Per source and key: the highest place acked so far.
    let mut acked: HashMap<(Source, &str), &Position> = HashMap::new();
    let mut sent = vec![false; history.intents().len()];
    for (source, event) in history.sourced() {
        match event {
            Event::Sent(id) if !std::mem::replace(&mut sent[id.0], true) => {
                let Some((key, lowest)) = stored.get(id) else { continue };
                let Some(before) = acked.get(&(source, *key)) else { continue };
                verdict.check_about(lineage.place(before) < lineage.place(lowest), || {
                    let data = short(&history.intent(*id).data);
                    let words =
                        format!("{data} is at {lowest}, though {before} of key {key:?} came first");
                    (About::record(*id).at(before).at(lowest), words)
                });
            }
            Event::Acked(id, position) => {
                let Some((key, _)) = stored.get(id) else { continue };
                let highest = acked.entry((source, *key)).or_insert(position);
                if lineage.place(highest) < lineage.place(position) {
                    *highest = position;
                }
            }
            _ => {}
        }
    }
}

/// Each reader gets each key's records in their order: it did not read a child before its parents' ends.
fn as_read(verdict: &mut Verdict, history: &History, lineage: &Lineage<'_>) {
    let mut last: HashMap<(&str, &str), &Position> = HashMap::new();
    for event in history.events() {
        let Event::Read(reader, stored) = event else { continue };
        if let Some(before) = last.insert((reader, &stored.key), &stored.position) {
            verdict.check_about(lineage.place(before) < lineage.place(&stored.position), || {
                let (key, at) = (&stored.key, &stored.position);
                let about = About::place(before).at(at).by(reader);
                (about, format!("{reader} read {at} of key {key:?} after {before}"))
            });
        }
    }
}

/// The numbers of a child are above those of its parents.
fn numbers_rise(verdict: &mut Verdict, history: &History, lineage: &Lineage<'_>) {
    let mut spans: HashMap<&str, (&SequenceNumber, &SequenceNumber)> = HashMap::new();
    for event in history.events() {
        let Event::Read(_, stored) = event else { continue };
        let number = &stored.position.number;
        let (low, high) = spans.entry(&stored.position.shard).or_insert((number, number));
        (*low, *high) = ((*low).min(number), (*high).max(number));
    }
    for (shard, (lowest, _)) in &spans {
        let parents = lineage.get(shard).map_or(&[][..], |seen| &seen.parents);
        for parent in parents {
            let Some((_, highest)) = spans.get(parent.as_str()) else { continue };
            verdict.check(highest < lowest, || {
                format!("{shard} has {lowest}, and its parent {parent} has {highest}")
            });
        }
    }
}

/// Each stored record with its key and the first place of its copies.
fn copies<'a>(
    history: &'a History,
    lineage: &Lineage<'_>,
) -> HashMap<RecordId, (&'a str, &'a Position)> {
    let mut copies: HashMap<RecordId, (&str, &Position)> = HashMap::new();
    for event in history.events() {
        if let Event::Read(_, stored) = event
            && let Some(id) = history.find(&stored.data)
        {
            let first = copies.entry(id).or_insert((&stored.key, &stored.position));
            if lineage.place(&stored.position) < lineage.place(first.1) {
                first.1 = &stored.position;
            }
        }
    }
    copies
}

fn shards_of_keys(history: &History) -> HashMap<&str, Vec<&str>> {
    let mut shards: HashMap<&str, Vec<&str>> = HashMap::new();
    for event in history.events() {
        if let Event::Read(_, stored) = event {
            let known = shards.entry(&stored.key).or_default();
            if !known.contains(&stored.position.shard.as_str()) {
                known.push(&stored.position.shard);
            }
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::super::liars::{Story, seen};
    use super::*;

    #[test]
    fn an_overtaken_record_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 2);
        let b = story.send("k", "b");
        story.ack(b, 1);
        story.read_all("one", &[(1, "k", "b"), (2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_copy_of_the_later_record_before_the_earlier_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 2);
        let b = story.send("k", "b");
        story.tell(Event::Unknown(b));
        story.tell(Event::Sent(b));
        story.ack(b, 3);
        story.read_all("one", &[(1, "k", "b"), (2, "k", "a"), (3, "k", "b")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_late_copy_of_the_earlier_record_is_allowed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.tell(Event::Unknown(a));
        story.tell(Event::Sent(a));
        story.ack(a, 1);
        let b = story.send("k", "b");
        story.ack(b, 2);
        story.read_all("one", &[(1, "k", "a"), (2, "k", "b"), (3, "k", "a")]);
        assert_eq!(check(&story.0).broken, 0);
    }

    #[test]
    fn what_was_sent_together_may_be_stored_either_way() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        let b = story.send("k", "b");
        story.ack(a, 2);
        story.ack(b, 1);
        story.read_all("one", &[(1, "k", "b"), (2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 0);
    }

    #[test]
    fn a_key_in_two_shards_is_noticed() {
        let mut story = Story::new();
        story.send("k", "a");
        story.read_all("one", &[(1, "k", "a")]);
        story.read_all_of("one", "t", &[(2, "k", "b")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    /// `p` was split into `s` and `t`.
    fn split() -> Story {
        let mut story = Story::new();
        story.tell(Event::Map(vec![
            seen("p", 0..=9, &[], false),
            seen("s", 0..=4, &["p"], true),
            seen("t", 5..=9, &["p"], true),
        ]));
        story
    }

    #[test]
    fn a_key_goes_on_in_a_child() {
        let mut story = split();
        let a = story.send("k", "a");
        story.ack_in(a, "p", 1);
        let b = story.send("k", "b");
        story.ack(b, 2);
        story.read_all_of("one", "p", &[(1, "k", "a")]);
        story.read_all("one", &[(2, "k", "b")]);
        assert_eq!(check(&story.0).broken, 0);
    }

    #[test]
    fn a_key_in_both_children_is_noticed() {
        let mut story = split();
        story.read_all("one", &[(1, "k", "a")]);
        story.read_all_of("two", "t", &[(2, "k", "b")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_record_put_into_the_parent_after_one_in_the_child_is_noticed() {
        let mut story = split();
        let a = story.send("k", "a");
        story.ack(a, 2);
        let b = story.send("k", "b");
        story.ack_in(b, "p", 1);
        story.read_all_of("one", "p", &[(1, "k", "b")]);
        story.read_all("one", &[(2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_child_read_before_its_parent_is_noticed() {
        let mut story = split();
        story.send("k", "a");
        story.send("k", "b");
        story.read_all("one", &[(2, "k", "b")]);
        story.read_all_of("one", "p", &[(1, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_child_whose_numbers_fall_below_its_parents_is_noticed() {
        let mut story = split();
        story.send("k", "a");
        story.send("j", "b");
        story.read_all_of("one", "p", &[(5, "k", "a")]);
        story.read_all("one", &[(4, "j", "b")]);
        assert_eq!(check(&story.0).broken, 1);
    }
}
