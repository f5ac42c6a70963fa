//! A call stores a record once, however often it is sent: an acked put, retried or not, is there exactly once, one of
//! unknown outcome at most once, over all shards and generations; all acks of a call name one place.
//!
//! A record that is sent by several calls may be there once for each of them. That an acked record is there at all is
//! `acked_records_survive`'s to say.

use std::collections::{HashMap, HashSet};

use super::{About, Verdict, short};
use crate::history::{Event, History, Position, RecordId};

/// What the calls that carried one record may have done.
#[derive(Clone, Default)]
struct Calls<'a> {
    /// How many may have stored it.
    may_store: u64,
    /// An attempt of the newest call has an unknown outcome.
    unsure: bool,
    /// Where the newest call was acked.
    acked: Option<&'a Position>,
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("nothing_stored_twice");
    let mut calls = vec![Calls::default(); history.intents().len()];
    let mut copies: HashMap<(&'static str, RecordId), HashSet<&Position>> = HashMap::new();
    for event in history.events() {
        match event {
            Event::Sent(id) => {
                let may_store = calls[id.0].may_store + 1;
                calls[id.0] = Calls { may_store, ..Calls::default() };
            }
            Event::Unknown(id) => calls[id.0].unsure = true,
            // A refusal speaks for its own attempt; an earlier one of the call may have stored the record.
            Event::Refused(id) if !calls[id.0].unsure => {
                calls[id.0].may_store = calls[id.0].may_store.saturating_sub(1);
            }
            Event::Acked(id, position) => {
                let first = *calls[id.0].acked.get_or_insert(position);
                verdict.check_about(first == position, || {
                    let data = short(&history.intent(*id).data);
                    let words = format!(
                        "{data} was acked at {first} and then, to the same call, at {position}"
                    );
                    (About::record(*id).at(first).at(position), words)
                });
            }
            Event::Read(reader, stored) => {
                if let Some(id) = history.find(&stored.data) {
                    copies.entry((*reader, id)).or_default().insert(&stored.position);
                }
            }
            Event::Refused(_) | Event::SentAgain(_) | Event::ReadAll(..) | Event::Map(_) => {}
        }
    }
    for ((reader, id), positions) in copies {
        let allowed = calls[id.0].may_store;
        verdict.check_about(positions.len() as u64 <= allowed, || {
            let places: Vec<String> = positions.iter().map(ToString::to_string).collect();
            let words = format!(
                "{reader} read {} at {}; {allowed} calls may have stored it",
                short(&history.intent(id).data),
                places.join(" and ")
            );
            let about = About::record(id).by(reader);
            (positions.iter().fold(about, |about, place| about.at(place)), words)
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::liars::Story;
    use super::*;

    #[test]
    fn a_retried_put_that_is_there_twice_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.tell(Event::Unknown(a));
        story.tell(Event::SentAgain(a));
        story.ack(a, 2);
        story.read_all("one", &[(1, "k", "a"), (2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_copy_in_another_shard_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 1);
        story.read_all("one", &[(1, "k", "a")]);
        story.read_all_of("one", "t", &[(2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn an_unknown_put_may_be_there_once_and_not_twice() {
        for (records, broken) in
            [(vec![], 0), (vec![(1, "k", "a")], 0), (vec![(1, "k", "a"), (2, "k", "a")], 1)]
        {
            let mut story = Story::new();
            let a = story.send("k", "a");
            story.tell(Event::Unknown(a));
            story.tell(Event::SentAgain(a));
            story.tell(Event::Unknown(a));
            story.read_all("one", &records);
            assert_eq!(check(&story.0).broken, broken, "{records:?}");
        }
    }

    #[test]
    fn a_retry_that_is_acked_elsewhere_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 1);
        story.tell(Event::SentAgain(a));
        story.ack(a, 2);
        story.read_all("one", &[(1, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_call_of_its_own_may_store_a_copy_of_its_own() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.tell(Event::Unknown(a));
        story.tell(Event::Sent(a));
        story.ack(a, 2);
        story.read_all("one", &[(1, "k", "a"), (2, "k", "a")]);
        story.read_all("two", &[(1, "k", "a"), (2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 0);
    }

    #[test]
    fn a_record_more_often_than_sent_is_noticed() {
        let mut story = Story::new();
        story.send("k", "a");
        story.read_all("one", &[(1, "k", "a"), (2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_refused_call_stores_nothing() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.tell(Event::Refused(a));
        story.read_all("one", &[(1, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_refused_retry_says_nothing_of_the_attempt_before() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.tell(Event::Unknown(a));
        story.tell(Event::SentAgain(a));
        story.tell(Event::Refused(a));
        story.read_all("one", &[(1, "k", "a")]);
        assert_eq!(check(&story.0).broken, 0);
    }
}
