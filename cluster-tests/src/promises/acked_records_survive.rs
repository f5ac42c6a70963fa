//! An acked record is there: every reader that read the whole shard got it, at the acked place, as it was sent.

use std::collections::HashMap;

use super::Verdict;
use crate::history::{Event, History, Position, Stored};

/// What one reader has, by place.
type Shelf<'a> = (&'static str, HashMap<&'a Position, &'a Stored>);

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("acked_records_survive");
    let mut complete: HashMap<&str, Vec<Shelf<'_>>> = HashMap::new();
    for reading in history.readings().into_iter().filter(|reading| reading.complete) {
        let records = reading.records.iter().map(|stored| (&stored.position, *stored)).collect();
        complete.entry(reading.shard).or_default().push((reading.reader, records));
    }
    for event in history.events() {
        let Event::Acked(id, position) = event else { continue };
        let intent = history.intent(*id);
        let readers = complete.get(position.shard.as_str());
        verdict.check(readers.is_some(), || {
            format!("{position} was acked, and nobody read {} to its end", position.shard)
        });
        for (reader, records) in readers.into_iter().flatten() {
            let stored = records.get(position);
            let same = stored.is_some_and(|stored| {
                stored.data == intent.data
                    && intent.key.as_ref().is_none_or(|key| *key == stored.key)
            });
            verdict.check(same, || match stored {
                None => format!("{reader} has no {position}, acked for {:?}", intent.data),
                Some(stored) => format!(
                    "{reader} has {:?} (key {:?}) at {position}, acked for {:?} (key {:?})",
                    stored.data, stored.key, intent.data, intent.key
                ),
            });
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::liars::Story;
    use super::*;

    #[test]
    fn a_lost_record_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 1);
        story.read_all("one", &[]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_record_lost_to_one_reader_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 1);
        story.read_all("one", &[(1, "k", "a")]);
        story.read_all("two", &[(2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_changed_record_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 1);
        story.read_all("data", &[(1, "k", "b")]);
        story.read_all("key", &[(1, "j", "a")]);
        assert_eq!(check(&story.0).broken, 2);
    }

    #[test]
    fn an_ack_that_nobody_looked_after_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 1);
        story.read("one", &[(1, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn what_was_never_acked_may_be_absent() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.tell(Event::Unknown(a));
        story.read_all("one", &[]);
        assert_eq!(check(&story.0).broken, 0);
    }
}
