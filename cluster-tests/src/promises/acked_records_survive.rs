//! An acked record is there: every reader that read the whole shard got it, at the acked place, as it was sent.

use std::collections::HashMap;

use super::{About, Verdict, expired, short};
use crate::history::{Event, History, Position, Reading, SequenceNumber, Stored};

/// What one reader has of a shard, by place.
struct Shelf<'a> {
    reader: &'static str,
    records: HashMap<&'a Position, &'a Stored>,
    first: Option<&'a SequenceNumber>,
    last: Option<&'a SequenceNumber>,
    complete: bool,
    begun: Option<usize>,
}

impl<'a> Shelf<'a> {
    fn of(reading: &Reading<'a>) -> Shelf<'a> {
        let number = |stored: &&'a Stored| &stored.position.number;
        let (low, high) = reading.passed.unzip();
        Shelf {
            reader: reading.reader,
            records: reading.records.iter().map(|stored| (&stored.position, *stored)).collect(),
            first: reading.records.first().map(number).into_iter().chain(low).min(),
            last: reading.records.last().map(number).into_iter().chain(high).max(),
            complete: reading.complete,
            begun: reading.begun,
        }
    }

    /// Whether it must have what was acked there as the event of this place. A recorded reading goes to where it went,
    /// and if it is whole, it goes at least to what was acked before it began.
    fn covers(&self, place: usize, number: &SequenceNumber) -> bool {
        let Some(begun) = self.begun else { return self.complete };
        let reaches =
            self.last.is_some_and(|last| number <= last) || self.complete && place < begun;
        reaches && (self.complete || self.first.is_some_and(|first| first <= number))
    }
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("acked_records_survive");
    if history.expires() {
        expired::survive(&mut verdict, history);
        return verdict;
    }
    let mut shelves: HashMap<&str, Vec<Shelf<'_>>> = HashMap::new();
    let readings = history.readings();
    for reading in readings.iter().filter(|reading| reading.complete || history.is_recorded()) {
        shelves.entry(reading.shard).or_default().push(Shelf::of(reading));
    }
    for (place, event) in history.events().enumerate() {
        let Event::Acked(id, position) = event else { continue };
        let intent = history.intent(*id);
        let all = shelves.get(position.shard.as_str()).into_iter().flatten();
        let gone = |shelf: &Shelf<'_>| {
            shelf.first.is_none_or(|first| position.number < *first)
                && history.may_be_gone(place, shelf.reader)
        };
        let readers: Vec<&Shelf<'_>> =
            all.filter(|shelf| shelf.covers(place, &position.number) && !gone(shelf)).collect();
        if history.is_recorded() {
            verdict.unjudged += u64::from(readers.is_empty());
        } else {
            verdict.check_about(!readers.is_empty(), || {
                let shard = &position.shard;
                let words = format!("{position} was acked, and nobody read {shard} to its end");
                (About::record(*id).at(position), words)
            });
        }
        for Shelf { reader, records, .. } in readers {
            let stored = records.get(position);
            let same = stored.is_some_and(|stored| {
                stored.data == intent.data
                    && intent.key.as_ref().is_none_or(|key| *key == stored.key)
            });
            verdict.check_about(same, || {
                let words = match stored {
                    None => {
                        format!("{reader} has no {position}, acked for {}", short(&intent.data))
                    }
                    Some(stored) => format!(
                        "{reader} has {} (key {:?}) at {position}, acked for {} (key {:?})",
                        short(&stored.data),
                        stored.key,
                        short(&intent.data),
                        intent.key
                    ),
                };
                (About::record(*id).at(position).by(reader), words)
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
