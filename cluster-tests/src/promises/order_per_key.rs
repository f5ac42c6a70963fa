//! One order per key: if A was acked before B of the same key was first sent, A comes before every copy of B.
//!
//! A's place is the acked one: a copy that an attempt of unknown outcome left behind may come later. The key is the
//! one that is stored, so that keys chosen by the client under test are judged too.

use std::collections::HashMap;

use super::Verdict;
use crate::history::{Event, History, Position, RecordId, SequenceNumber};

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("order_per_key");
    let stored = copies(history);
    for (key, shards) in shards_of_keys(history) {
        verdict.check(shards.len() == 1, || format!("key {key:?} is in {shards:?}"));
    }
    // Per key: the highest place acked so far.
    let mut acked: HashMap<&str, &Position> = HashMap::new();
    let mut sent = vec![false; history.intents().len()];
    for event in history.events() {
        match event {
            Event::Sent(id) if !std::mem::replace(&mut sent[id.0], true) => {
                let Some((key, lowest)) = stored.get(id) else { continue };
                let Some(before) = acked.get(key) else { continue };
                verdict.check(before.number < **lowest, || {
                    let data = &history.intent(*id).data;
                    format!("{data:?} is at {lowest}, though {before} of key {key:?} came first")
                });
            }
            Event::Acked(id, position) => {
                let Some((key, _)) = stored.get(id) else { continue };
                let highest = acked.entry(key).or_insert(position);
                if highest.number < position.number {
                    *highest = position;
                }
            }
            _ => {}
        }
    }
    verdict
}

/// Each stored record with its key and the lowest number of its copies.
fn copies(history: &History) -> HashMap<RecordId, (&str, &SequenceNumber)> {
    let mut copies: HashMap<RecordId, (&str, &SequenceNumber)> = HashMap::new();
    for event in history.events() {
        if let Event::Read(_, stored) = event
            && let Some(id) = history.find(&stored.data)
        {
            let lowest = copies.entry(id).or_insert((&stored.key, &stored.position.number));
            if stored.position.number < *lowest.1 {
                lowest.1 = &stored.position.number;
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
    use super::super::liars::Story;
    use super::*;
    use crate::history::Stored;

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
        let number = SequenceNumber::parse("1").unwrap();
        let position = Position { shard: "t".to_owned(), number };
        let stored = Stored { position, key: "k".to_owned(), data: "b".into() };
        story.tell(Event::Read("one", stored));
        assert_eq!(check(&story.0).broken, 1);
    }
}
