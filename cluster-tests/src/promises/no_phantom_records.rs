//! Nothing invented, nothing duplicated by us: every record read was sent, under its key, is there at most as often
//! as attempts may have stored it, and no place was acked for two records.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use crate::history::{Event, History, Position, RecordId};

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("no_phantom_records");
    let mut may_store = vec![0_u64; history.intents().len()];
    let mut acks: HashMap<&Position, RecordId> = HashMap::new();
    let mut copies: HashMap<(&'static str, RecordId), HashSet<&Position>> = HashMap::new();
    for event in history.events() {
        match event {
            Event::Sent(id) => may_store[id.0] += 1,
            Event::Refused(id) => may_store[id.0] = may_store[id.0].saturating_sub(1),
            Event::Unknown(_) | Event::ReadAll(..) => {}
            Event::Acked(id, position) => {
                let other = *acks.entry(position).or_insert(*id);
                verdict.check(other == *id, || format!("{position} was acked for two records"));
            }
            Event::Read(reader, stored) => {
                let found = history.find(&stored.data);
                let known = found.is_some_and(|id| {
                    history.intent(id).key.as_ref().is_none_or(|key| *key == stored.key)
                });
                verdict.check(known, || {
                    format!(
                        "{reader} read {:?} (key {:?}) at {}: nobody sent it",
                        stored.data, stored.key, stored.position
                    )
                });
                if let Some(id) = found {
                    copies.entry((*reader, id)).or_default().insert(&stored.position);
                }
            }
        }
    }
    for ((reader, id), positions) in copies {
        let allowed = may_store[id.0];
        verdict.check(positions.len() as u64 <= allowed, || {
            format!(
                "{reader} read {:?} {} times; {allowed} attempts may have stored it",
                history.intent(id).data,
                positions.len()
            )
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::liars::Story;
    use super::*;

    #[test]
    fn an_invented_record_is_noticed() {
        let mut story = Story::new();
        story.read_all("one", &[(1, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_record_under_another_key_is_noticed() {
        let mut story = Story::new();
        story.send("k", "a");
        story.read_all("one", &[(1, "j", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_record_more_often_than_sent_is_noticed() {
        let mut story = Story::new();
        story.send("k", "a");
        story.read_all("one", &[(1, "k", "a"), (2, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn a_refused_attempt_stores_nothing() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.tell(Event::Refused(a));
        story.read_all("one", &[(1, "k", "a")]);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn an_attempt_of_unknown_outcome_may_have_stored_it() {
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
    fn a_place_acked_twice_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        let b = story.send("k", "b");
        story.ack(a, 1);
        story.ack(b, 1);
        assert_eq!(check(&story.0).broken, 1);
    }
}
