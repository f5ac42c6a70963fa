//! Nothing invented: every record read was sent, under its key, and no place was acked for two records.

use std::collections::HashMap;

use super::{About, Verdict, short};
use crate::history::{Event, History, Position, RecordId};

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("no_phantom_records");
    let mut acks: HashMap<&Position, RecordId> = HashMap::new();
    for event in history.events() {
        match event {
            Event::Acked(id, position) => {
                let other = *acks.entry(position).or_insert(*id);
                verdict.check_about(other == *id, || {
                    let about = About { records: vec![other, *id], ..About::place(position) };
                    (about, format!("{position} was acked for two records"))
                });
            }
            Event::Read(reader, stored) => {
                let known = history.find(&stored.data).is_some_and(|id| {
                    history.intent(id).key.as_ref().is_none_or(|key| *key == stored.key)
                });
                verdict.check_about(known, || {
                    let words = format!(
                        "{reader} read {} (key {:?}) at {}: nobody sent it",
                        short(&stored.data),
                        stored.key,
                        stored.position
                    );
                    (About::place(&stored.position).by(reader), words)
                });
            }
            _ => {}
        }
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
    fn a_place_acked_twice_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        let b = story.send("k", "b");
        story.ack(a, 1);
        story.ack(b, 1);
        assert_eq!(check(&story.0).broken, 1);
    }
}
