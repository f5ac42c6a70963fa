//! Who is told that nothing follows has been given everything that was acked before the question, unless the answer
//! says that it may be stale. Where records expire, what was acked may be gone by then.

use std::collections::HashMap;

use super::{About, Verdict};
use crate::history::{Event, History, Position, RecordId, SequenceNumber, Tip};

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("tips_are_fresh");
    // Of each shard, the newest number acked so far, and as which event.
    let mut acked: HashMap<&str, Vec<(usize, &SequenceNumber, RecordId)>> = HashMap::new();
    for (place, event) in history.events().enumerate() {
        let Event::Acked(id, Position { shard, number }) = event else { continue };
        let newest = acked.entry(shard).or_default();
        if newest.last().is_none_or(|(_, last, _)| *last < number) {
            newest.push((place, number, *id));
        }
    }
    for (Tip { reader, shard, asked, upto }, agreed) in history.tips() {
        let all = acked.get(shard.as_str()).map_or(&[][..], Vec::as_slice);
        let before = all.partition_point(|(place, ..)| place < asked);
        let newest = before.checked_sub(1).map(|at| all[at]);
        // When the newest is gone, so are those before it.
        let is_gone = newest.is_some_and(|(place, number, id)| {
            history.may_have_expired(id, number, place, *agreed)
        });
        let newest = newest.map(|(_, number, _)| number);
        verdict.check_about(newest <= upto.as_ref() || is_gone, || {
            let told = |number: Option<&SequenceNumber>| {
                number.map_or("nothing".to_owned(), ToString::to_string)
            };
            let place = newest.map(|number| Position { shard: shard.clone(), number: number.clone() });
            let about = place.as_ref().map_or_else(About::default, About::place);
            let (shown, newest) = (told(upto.as_ref()), told(newest));
            let words = format!(
                "{reader} was told that nothing follows {shown} in {shard}, when {newest} was already acked"
            );
            (about.by(reader), words)
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::liars::Story;

    fn tip(story: &mut Story, asked: usize, upto: Option<u64>) {
        let upto = upto.map(|number| SequenceNumber::parse(&number.to_string()).unwrap());
        story.0.note_tip(Tip { reader: "one", shard: "s".to_owned(), asked, upto });
    }

    #[test]
    fn a_tip_that_hides_what_was_acked_is_a_breach() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 1);
        let asked = story.0.events().count();
        tip(&mut story, asked, None);
        let verdict = check(&story.0);
        assert_eq!((verdict.checked, verdict.broken), (1, 1));
        assert!(verdict.told[0].contains("nothing follows nothing"), "{verdict}");
    }

    #[test]
    fn what_was_acked_after_the_question_may_be_missing() {
        let mut story = Story::new();
        let (a, b) = (story.send("k", "a"), story.send("k", "b"));
        story.ack(a, 1);
        let asked = story.0.events().count();
        story.ack(b, 2);
        tip(&mut story, asked, Some(1));
        assert!(check(&story.0).holds());
        let asked = story.0.events().count();
        tip(&mut story, asked, Some(1));
        assert_eq!(check(&story.0).broken, 1);
        tip(&mut story, asked, Some(2));
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn other_shards_do_not_count_and_an_empty_shard_has_a_tip() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack_in(a, "other", 9);
        let asked = story.0.events().count();
        tip(&mut story, asked, None);
        assert!(check(&story.0).holds());
    }
}
