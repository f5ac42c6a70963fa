//! Whoever is told that a record is stored is told so when a quorum's disks keep it, at the very place that the ack names:
//! losing power, all nodes at once, takes it no more.
//!
//! Asks the disks and not the readers, so it needs no loss of power to see that one would be too many. Only where disks
//! are watched: in simulation.

use std::collections::BTreeSet;

use super::{About, Verdict};
use crate::history::{Event, History};

/// Of three replicas.
const QUORUM: usize = 2;

/// Judges a history whose disks were watched.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("acks_are_durable");
    for (place, event) in history.events().enumerate() {
        let Event::Acked(id, position) = event else { continue };
        let acked = position.number.place();
        let copies = history.copies(*id).iter();
        let there = copies.filter(|copy| copy.after <= place && Some(copy.at) == acked);
        let zones: BTreeSet<&str> = there.map(|copy| copy.zone).collect();
        verdict.check_about(zones.len() >= QUORUM, || {
            let by = match zones.first() {
                None => "no disk kept it".to_owned(),
                Some(zone) => format!("only the disk of {zone} kept it"),
            };
            (About::record(*id).at(position), format!("{position} was acked when {by}"))
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use tristream_client::domain::{self, RecordPosition, ShardId};

    use super::super::liars::Story;
    use super::*;
    use crate::history::{Position, RecordId, SequenceNumber};

    const HERE: RecordPosition = RecordPosition { index: 9, position: 1 };

    fn ack(story: &mut Story, id: RecordId) {
        let start = domain::SequenceNumber::start_of(ShardId::default(), 1);
        let number = domain::SequenceNumber { counter: HERE.counter(), ..start };
        let number = SequenceNumber::parse(&number.to_string()).unwrap();
        story.tell(Event::Acked(id, Position { shard: "s".to_owned(), number }));
    }

    #[test]
    fn two_disks_that_keep_a_record_before_it_is_acked_are_enough() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.0.note_copy("az-a", a, HERE);
        story.0.note_copy("az-c", a, HERE);
        ack(&mut story, a);
        assert!(check(&story.0).holds());
    }

    #[test]
    fn an_ack_that_one_disk_or_none_stands_for_is_a_breach() {
        let mut story = Story::new();
        let (a, b) = (story.send("k", "a"), story.send("k", "b"));
        ack(&mut story, a);
        story.0.note_copy("az-a", b, HERE);
        story.0.note_copy("az-a", b, HERE);
        ack(&mut story, b);
        let verdict = check(&story.0);
        assert_eq!((verdict.checked, verdict.broken), (2, 2));
        assert!(verdict.told[0].ends_with("no disk kept it"), "{verdict}");
        assert!(verdict.told[1].ends_with("only the disk of az-a kept it"), "{verdict}");
    }

    #[test]
    fn a_disk_that_keeps_it_later_or_elsewhere_does_not_count() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.0.note_copy("az-a", a, HERE);
        story.0.note_copy("az-b", a, RecordPosition { index: 8, position: 1 });
        ack(&mut story, a);
        story.0.note_copy("az-c", a, HERE);
        assert_eq!(check(&story.0).broken, 1);
        ack(&mut story, a);
        assert_eq!(check(&story.0).broken, 1, "the second ack is right");
    }
}
