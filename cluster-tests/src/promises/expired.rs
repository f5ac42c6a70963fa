//! The promises where records expire: what a reader does not have had to be old enough when it passed the place.
//!
//! | who read | may lack |
//! |---|---|
//! | one replica, whole and at one moment | records before the first that it has, each old enough when it had read all |
//! | anybody, as things went on | any record that was old enough when the next one came |
//! | nobody, to the shard's end | all of a shard that is no longer listed, each old enough by then |
//!
//! Old enough: `history/kept.rs`. What two readers both have is the same, wherever it is.

use std::collections::HashMap;

use super::{About, Verdict, short};
use crate::history::{Event, History, Position, Reading, RecordId, Source, Stored};

/// A record that is known to be, or to have been, in a place.
struct There<'a> {
    id: RecordId,
    position: &'a Position,
    /// The event that says so.
    known: usize,
}

/// What one reader has of a shard, by place.
struct Shelf<'a> {
    reading: &'a Reading<'a>,
    records: HashMap<&'a Position, &'a Stored>,
}

impl<'a> Shelf<'a> {
    fn of(reading: &'a Reading<'a>) -> Shelf<'a> {
        let records = reading.records.iter().map(|stored| (&stored.position, *stored)).collect();
        Shelf { reading, records }
    }

    /// Whether it may lack this record.
    fn may_lack(&self, history: &History, there: &There<'_>) -> bool {
        let number = &there.position.number;
        let Some(passed) = self.reading.passed_at(number) else { return true };
        let first = self.reading.records.first().map(|stored| &stored.position.number);
        let in_the_middle = self.reading.complete && first.is_some_and(|first| number > first);
        let agreed = history.agreed_at(passed);
        !in_the_middle && history.may_have_expired(there.id, number, there.known, agreed)
    }
}

fn found(stored: Option<&&Stored>) -> String {
    let words = |stored: &&Stored| format!("{} (key {:?})", short(&stored.data), stored.key);
    stored.map_or("nothing".to_owned(), words)
}

fn shelves<'a>(readings: &'a [Reading<'a>]) -> HashMap<&'a str, Vec<Shelf<'a>>> {
    let mut shelves: HashMap<&str, Vec<Shelf<'_>>> = HashMap::new();
    for reading in readings {
        shelves.entry(reading.shard).or_default().push(Shelf::of(reading));
    }
    shelves
}

/// What was acked is there, or was old enough.
pub(super) fn survive(verdict: &mut Verdict, history: &History) {
    let readings = history.readings();
    let shelves = shelves(&readings);
    // Others may have been told by a node that lags.
    let of_auditor = history.sourced().enumerate().filter_map(|(place, seen)| match seen {
        (source, Event::Map(map)) if source == Source::default() => Some((place, map)),
        _ => None,
    });
    let last_map = of_auditor.last();
    for (known, event) in history.events().enumerate() {
        let Event::Acked(id, position) = event else { continue };
        let there = There { id: *id, position, known };
        let about = || About::record(*id).at(position);
        let of_shard = shelves.get(position.shard.as_str()).map_or(&[][..], Vec::as_slice);
        if !of_shard.iter().any(|shelf| shelf.reading.complete) {
            let is_gone = last_map.is_some_and(|(place, map)| {
                let agreed = history.agreed_at(place);
                !map.iter().any(|seen| seen.shard == position.shard)
                    && history.may_have_expired(*id, &position.number, known, agreed)
            });
            verdict.check_about(is_gone, || {
                let shard = &position.shard;
                (about(), format!("{position} was acked, and nobody read {shard} to its end"))
            });
        }
        for shelf in of_shard {
            let intent = history.intent(*id);
            let reader = shelf.reading.reader;
            let stored = shelf.records.get(position);
            let is_right = stored.map_or_else(
                || shelf.may_lack(history, &there),
                |stored| {
                    stored.data == intent.data
                        && intent.key.as_ref().is_none_or(|key| *key == stored.key)
                },
            );
            verdict.check_about(is_right, || {
                let (has, sent) = (found(stored), short(&intent.data));
                let words = format!(
                    "{reader} has {has} at {position}, acked for {sent} (key {:?}) and too young to be gone",
                    intent.key
                );
                (about().by(reader), words)
            });
        }
    }
}

/// Whatever one reader has, every other has too that passed the place, or it was old enough.
pub(super) fn agree(verdict: &mut Verdict, history: &History, readings: &[Reading<'_>]) {
    for of_shard in shelves(readings).into_values() {
        for (one, other) in pairs(&of_shard) {
            for (stored, known) in one.reading.records.iter().zip(&one.reading.places) {
                let position = &stored.position;
                let theirs = other.records.get(position);
                let is_right = theirs.map_or_else(
                    || {
                        // What nobody sent is told elsewhere.
                        history.find(&stored.data).is_none_or(|id| {
                            let there = There { id, position, known: *known };
                            other.may_lack(history, &there)
                        })
                    },
                    |theirs| theirs == stored,
                );
                verdict.check_about(is_right, || {
                    let (one, other) = (one.reading.reader, other.reading.reader);
                    let has = found(theirs);
                    let words = format!(
                        "{one} and {other} differ: {one} has {position}, which was too young to be gone, \
                         and {other} has {has} there"
                    );
                    (About::place(position).by(other), words)
                });
            }
        }
    }
}

fn pairs<'a, 'b>(
    of_shard: &'b [Shelf<'a>],
) -> impl Iterator<Item = (&'b Shelf<'a>, &'b Shelf<'a>)> {
    let with_all = move |one: &'b Shelf<'a>| of_shard.iter().map(move |other| (one, other));
    of_shard.iter().flat_map(with_all).filter(|(one, other)| !std::ptr::eq(*one, *other))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::liars::{Story, seen};
    use super::super::{acked_records_survive, order_within_shard, tips_are_fresh};
    use super::*;
    use crate::history::{SequenceNumber, Tip};

    const KEPT_MS: u64 = 5_000;

    /// Clocks that err by nothing.
    fn at(story: &mut Story, ms: u64) {
        clocks(story, ms, ms);
    }

    fn clocks(story: &mut Story, lowest: u64, agreed: u64) {
        story.0.clocks_show(lowest, Some(agreed));
    }

    /// Records a, b and c, acked as 1, 2, 3 at 1, 2 and 3 s.
    fn story() -> Story {
        let mut story = Story(History::expiring(Duration::from_millis(KEPT_MS)));
        at(&mut story, 0);
        story.tell(Event::Map(vec![seen("s", 0..=u128::MAX, &[], true)]));
        for (number, data) in [(1, "a"), (2, "b"), (3, "c")] {
            at(&mut story, number * 1_000);
            let id = story.send("k", data);
            story.ack(id, number);
        }
        story
    }

    const ALL: [(u64, &str, &str); 3] = [(1, "k", "a"), (2, "k", "b"), (3, "k", "c")];

    fn survive(story: &Story) -> u64 {
        acked_records_survive::check(&story.0).broken
    }

    fn order(story: &Story) -> u64 {
        order_within_shard::check(&story.0).broken
    }

    #[test]
    fn what_is_old_enough_may_be_gone_and_nothing_younger() {
        // Up to here the clock that trims shows at most 7,000, so what was stamped at 2,000 is kept.
        for (time, from, expected) in [
            (6_000, 1, 1),
            (6_001, 1, 0),
            (7_000, 2, 1),
            (7_001, 2, 0),
            (8_000, 3, 1),
            (8_001, 3, 0),
        ] {
            let mut story = story();
            at(&mut story, time);
            story.read_all("one", &ALL[from..]);
            assert_eq!(survive(&story), expected, "the first {from} gone at {time}");
        }
    }

    #[test]
    fn a_replica_may_lack_a_beginning_and_no_middle() {
        let mut story = story();
        at(&mut story, 60_000);
        story.read_all("one", &[ALL[0], ALL[2]]);
        assert_eq!(survive(&story), 1);
        story.read_all("two", &ALL);
        assert_eq!(order(&story), 1, "and the other replica tells it, too");
        let mut story = self::story();
        at(&mut story, 60_000);
        story.read_all("one", &ALL[..2]);
        assert_eq!(survive(&story), 1, "nor the end of what it has");
    }

    #[test]
    fn replicas_may_begin_at_different_places() {
        let mut story = story();
        at(&mut story, 7_500);
        story.read_all("one", &ALL[1..]);
        story.read_all("two", &ALL[2..]);
        story.read_all("three", &ALL);
        assert_eq!((survive(&story), order(&story)), (0, 0));
        let mut story = self::story();
        at(&mut story, 6_500);
        story.read_all("one", &ALL[1..]);
        story.read_all("two", &ALL[2..]);
        assert_eq!((survive(&story), order(&story)), (1, 1));
    }

    #[test]
    fn what_two_readers_have_is_the_same() {
        let mut story = story();
        at(&mut story, 60_000);
        story.read_all("one", &ALL);
        story.read_all("two", &[(1, "k", "a"), (2, "k", "a"), (3, "k", "c")]);
        assert_eq!(order(&story), 2, "once as seen by each");
    }

    #[test]
    fn a_reader_may_jump_over_what_expired_before_it_came_by() {
        for (time, expected) in [(7_001, 0), (6_500, 1)] {
            let mut story = story();
            story.read("live", &ALL[..1]);
            at(&mut story, time);
            story.read("live", &ALL[2..]);
            let shards = survive(&story);
            story.read_all("one", &ALL);
            assert_eq!(survive(&story) + 3, shards, "nobody had read the shard");
            assert_eq!((survive(&story), order(&story)), (expected, expected));
        }
    }

    #[test]
    fn a_record_is_as_old_as_the_clocks_that_may_have_stamped_it() {
        let told = |lowest, agreed| {
            let mut story = Story(History::expiring(Duration::from_millis(KEPT_MS)));
            clocks(&mut story, 10_000, 12_000);
            let a = story.send("k", "a");
            clocks(&mut story, lowest, 12_000);
            clocks(&mut story, 10_500, 12_000);
            story.ack(a, 1);
            // Set back after the ack: that stamped nothing.
            clocks(&mut story, 0, agreed);
            clocks(&mut story, 15_000, 15_000);
            story.read_all("one", &[]);
            survive(&story)
        };
        assert_eq!(told(10_000, 15_000), 1);
        assert_eq!(told(9_999, 15_000), 0, "a clock was behind meanwhile");
        assert_eq!(told(10_000, 15_001), 0, "clocks were ahead for a moment");
    }

    #[test]
    fn a_number_tells_that_a_record_is_younger_than_clocks_allow() {
        let numbered = |second| {
            let number = tristream_client::domain::SequenceNumber {
                creation_second: 1,
                shard: tristream_client::domain::ShardId::from(0),
                counter: 7,
                record_second: second,
            };
            let mut story = Story(History::expiring(Duration::from_millis(KEPT_MS)));
            clocks(&mut story, 1_000, 9_000);
            let a = story.send("k", "a");
            let number = SequenceNumber::parse(&number.to_string()).unwrap();
            story.tell(Event::Acked(a, Position { shard: "s".to_owned(), number }));
            story.read_all("one", &[]);
            survive(&story)
        };
        assert_eq!(numbered(3), 0);
        assert_eq!(numbered(4), 1);
    }

    #[test]
    fn a_shard_that_is_no_longer_listed_needs_no_reading() {
        let child = |open| seen("t", 0..=u128::MAX, &["s"], open);
        for (time, expected) in [(8_001, 0), (7_900, 1)] {
            let mut story = story();
            at(&mut story, time);
            story.tell(Event::Map(vec![child(true)]));
            assert_eq!(survive(&story), expected);
        }
        let mut story = story();
        at(&mut story, 60_000);
        story.tell(Event::Map(vec![seen("s", 0..=u128::MAX, &[], false), child(true)]));
        assert_eq!(survive(&story), 3, "it is listed, so it can be read");
    }

    #[test]
    fn a_tip_behind_which_all_expired_is_one() {
        for (time, expected) in [(8_001, 0), (8_000, 1)] {
            let mut story = story();
            let asked = story.0.events().len();
            at(&mut story, time);
            let upto = SequenceNumber::parse("1");
            story.0.note_tip(Tip { reader: "one", shard: "s".to_owned(), asked, upto });
            assert_eq!(tips_are_fresh::check(&story.0).broken, expected);
        }
    }

    #[test]
    fn a_changed_record_is_noticed_however_old_it_is() {
        let mut story = story();
        at(&mut story, 60_000);
        story.read_all("one", &[(3, "k", "a")]);
        assert_eq!(survive(&story), 1);
    }

    #[test]
    fn where_nobody_told_of_clocks_nothing_expires() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 1);
        story.0.clocks_show(0, Some(u64::MAX));
        story.read_all("one", &[]);
        assert_eq!(survive(&story), 1);
    }
}
