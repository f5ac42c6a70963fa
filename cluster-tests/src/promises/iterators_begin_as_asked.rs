//! Who asks for a place in a shard begins there: at the record that has the number, the next one after it, or the first
//! that is as young as asked for; and who asks for what is newer than the newest record misses nothing that is sent from
//! then on. Where records expire, what was asked for may be gone, and the reader then begins behind it.

use std::collections::HashMap;

use super::{About, Verdict};
use crate::history::{Asked, Begun, Event, History, Position, RecordId, SequenceNumber};

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("iterators_begin_as_asked");
    let sent = Sent::of(history);
    for (begun, agreed) in history.begun() {
        match &begun.asked {
            Asked::Record { id, number, known } => {
                let is_there = begun.first.as_ref() == Some(number);
                let is_behind = begun.first.as_ref().is_none_or(|first| first > number);
                let may_be_gone = || history.may_have_expired(*id, number, *known, *agreed);
                let holds = is_there || is_behind && may_be_gone();
                verdict.check_about(holds, || tell(begun, *id, number));
            }
            Asked::Latest { told } => {
                let missed = sent.lowest_since(&begun.shard, *told).filter(|lowest| {
                    let is_before = begun.first.as_ref().is_none_or(|first| first > lowest.number);
                    let Acked { id, number, known, .. } = **lowest;
                    is_before && !history.may_have_expired(id, number, known, *agreed)
                });
                verdict.check_about(missed.is_none(), || {
                    missed.map_or_else(Default::default, |Acked { id, number, .. }| {
                        tell(begun, *id, number)
                    })
                });
            }
        }
    }
    verdict
}

fn tell(begun: &Begun, id: RecordId, number: &SequenceNumber) -> (About, String) {
    let Begun { reader, shard, asked, first } = begun;
    let got = first
        .as_ref()
        .map_or("was told that nothing follows".to_owned(), |first| format!("began at {first}"));
    let wanted = match asked {
        Asked::Record { .. } => "asked to begin at",
        Asked::Latest { .. } => "asked for what is new, before anybody sent",
    };
    let at = Position { shard: shard.clone(), number: number.clone() };
    let about = About::record(id).at(&at).by(reader);
    (about, format!("{reader} {wanted} {at}, and {got}"))
}

/// A record whose place is known.
#[derive(Clone, Copy)]
struct Acked<'a> {
    number: &'a SequenceNumber,
    id: RecordId,
    /// As which event it was acked.
    known: usize,
}

/// Of each shard, what was acked, in the order in which it was first sent; each with the lowest number of itself and
/// those sent later.
struct Sent<'a>(HashMap<&'a str, Vec<(usize, Acked<'a>)>>);

impl Sent<'_> {
    fn of(history: &History) -> Sent<'_> {
        let mut sent: Vec<Option<usize>> = vec![None; history.intents().len()];
        let mut shards: HashMap<&str, Vec<_>> = HashMap::new();
        for (place, event) in history.events().enumerate() {
            match event {
                Event::Sent(id) => {
                    sent[id.0].get_or_insert(place);
                }
                Event::Acked(id, Position { shard, number }) => {
                    let Some(sent) = sent[id.0] else { continue };
                    let acked = Acked { number, id: *id, known: place };
                    shards.entry(shard.as_str()).or_default().push((sent, acked));
                }
                _ => {}
            }
        }
        for acked in shards.values_mut() {
            acked.sort_by_key(|(sent, _)| *sent);
            for at in (1..acked.len()).rev() {
                if acked[at].1.number < acked[at - 1].1.number {
                    acked[at - 1].1 = acked[at].1;
                }
            }
        }
        Sent(shards)
    }

    /// The lowest number of those that were first sent as this event or later.
    fn lowest_since(&self, shard: &str, place: usize) -> Option<&Acked<'_>> {
        let acked = self.0.get(shard)?;
        let at = acked.partition_point(|(sent, _)| *sent < place);
        acked.get(at).map(|(_, lowest)| lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::liars::Story;

    fn number(number: u64) -> SequenceNumber {
        SequenceNumber::parse(&number.to_string()).unwrap()
    }

    fn begin(story: &mut Story, asked: Asked, first: Option<u64>) -> Verdict {
        let (reader, shard) = ("one", "s".to_owned());
        story.0.note_begun(Begun { reader, shard, asked, first: first.map(number) });
        check(&story.0)
    }

    /// A record at 5, and another at 7.
    fn two() -> (Story, Asked) {
        let mut story = Story::new();
        let (a, b) = (story.send("k", "a"), story.send("k", "b"));
        story.ack(a, 5);
        story.ack(b, 7);
        let known = story.0.events().count();
        (story, Asked::Record { id: a, number: number(5), known })
    }

    #[test]
    fn who_asks_for_a_record_gets_it_first() {
        for (first, broken) in [(Some(5), 0), (Some(4), 1), (Some(7), 1), (None, 1)] {
            let (mut story, asked) = two();
            let verdict = begin(&mut story, asked, first);
            assert_eq!((verdict.checked, verdict.broken), (1, broken), "{first:?}: {verdict}");
        }
    }

    #[test]
    fn a_breach_names_the_record_and_the_reader() {
        let (mut story, asked) = two();
        let verdict = begin(&mut story, asked, Some(7));
        assert_eq!(verdict.told, ["one asked to begin at s/5, and began at 7"]);
        assert_eq!(verdict.about[0].records, [RecordId(0)]);
        assert_eq!(verdict.about[0].reader, Some("one"));
    }

    #[test]
    fn who_asks_for_the_newest_misses_nothing_that_is_sent_later() {
        for (first, broken) in [(Some(5), 0), (Some(6), 0), (Some(7), 0), (Some(8), 1), (None, 1)] {
            let mut story = Story::new();
            let (a, early) = (story.send("k", "a"), story.send("k", "early"));
            story.ack(a, 5);
            let told = story.0.events().count();
            let (b, c) = (story.send("k", "b"), story.send("k", "c"));
            // Sent before, and acked later: on either side.
            story.ack(early, 6);
            story.ack(c, 9);
            story.ack(b, 7);
            let verdict = begin(&mut story, Asked::Latest { told }, first);
            assert_eq!((verdict.checked, verdict.broken), (1, broken), "{first:?}: {verdict}");
        }
    }

    #[test]
    fn what_was_sent_to_other_shards_is_not_missed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack_in(a, "other", 1);
        assert!(begin(&mut story, Asked::Latest { told: 0 }, None).holds());
    }
}
