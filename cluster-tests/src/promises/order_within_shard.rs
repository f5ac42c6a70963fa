//! One order per shard: numbers strictly rise, every reader sees the same sequence without a gap, and what was acked
//! before something else was sent comes before it.

use std::collections::HashMap;

use super::{About, Verdict, expired};
use crate::history::{Event, History, Position, Reading, Source, Stored};

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("order_within_shard");
    let readings = history.readings();
    for reading in &readings {
        for pair in reading.records.windows(2) {
            verdict.check_about(pair[0].position.number < pair[1].position.number, || {
                let (first, then) = (&pair[0].position, &pair[1].position);
                let about = About::place(first).at(then).by(reading.reader);
                (about, format!("{} read {then} after {first}", reading.reader))
            });
        }
    }
    match history.expires() {
        true => expired::agree(&mut verdict, history, &readings),
        false => all_agree(&mut verdict, &readings),
    }
    real_time(&mut verdict, history);
    verdict
}

fn all_agree(verdict: &mut Verdict, readings: &[Reading<'_>]) {
    let mut whole: HashMap<&str, &Reading<'_>> = HashMap::new();
    for reading in readings.iter().filter(|reading| reading.complete || reading.begun.is_some()) {
        let whole = whole.entry(reading.shard).or_insert(reading);
        if reading.begun.is_some() && reading.records.len() > whole.records.len() {
            *whole = reading;
        }
    }
    for reading in readings {
        if let Some(whole) = whole.get(reading.shard)
            && !std::ptr::eq(*whole, reading)
        {
            match reading.begun {
                None => agree(verdict, whole, reading),
                Some(_) => meet(verdict, whole, reading),
            }
        }
    }
}

/// A reader that read all has the same sequence; any other has a piece of it without a gap.
fn agree(verdict: &mut Verdict, whole: &Reading<'_>, part: &Reading<'_>) {
    let start = match part.records.first() {
        Some(first) if !part.complete => {
            whole.records.iter().position(|stored| stored.position == first.position)
        }
        _ => Some(0),
    };
    let same = start.is_some_and(|start| {
        let rest: &[&Stored] = &whole.records[start..];
        if part.complete { rest == part.records } else { rest.starts_with(&part.records) }
    });
    verdict.check(same, || {
        let expected = start.map_or(&[][..], |start| &whole.records[start..]);
        let met = expected.iter().zip(&part.records).position(|(one, other)| one != other);
        let at = met.unwrap_or(expected.len().min(part.records.len()));
        format!(
            "{} and {} differ in {} at record {at} ({} and {} records): {:?} and {:?}",
            whole.reader,
            part.reader,
            part.shard,
            expected.len(),
            part.records.len(),
            expected.get(at).map(|stored| stored.position.to_string()),
            part.records.get(at).map(|stored| stored.position.to_string()),
        )
    });
}

/// Two recorded readings, of which each began and ended somewhere, have the same where both were.
fn meet(verdict: &mut Verdict, one: &Reading<'_>, other: &Reading<'_>) {
    let number = |stored: &&Stored| stored.position.number.clone();
    let span = |reading: &Reading<'_>| {
        Some((number(reading.records.first()?), number(reading.records.last()?)))
    };
    let (Some((one_first, one_last)), Some((other_first, other_last))) = (span(one), span(other))
    else {
        return;
    };
    let both = one_first.max(other_first)..=one_last.min(other_last);
    let within = |reading: &Reading<'_>| -> Vec<Stored> {
        let inside = |stored: &&&Stored| both.contains(&stored.position.number);
        reading.records.iter().filter(inside).map(|stored| (*stored).clone()).collect()
    };
    let (mine, theirs) = (within(one), within(other));
    verdict.check_about(mine == theirs, || {
        let at = mine.iter().zip(&theirs).position(|(one, other)| one != other);
        let at = at.unwrap_or(mine.len().min(theirs.len()));
        let places = [mine.get(at), theirs.get(at)].into_iter().flatten();
        let about = places.fold(About::default(), |about, stored| about.at(&stored.position));
        let told = |stored: Option<&Stored>| {
            stored.map_or("nothing more".to_owned(), |stored| stored.position.to_string())
        };
        let words = format!(
            "{} and {} differ in {}: the one has {}, the other {}",
            one.reader,
            other.reader,
            one.shard,
            told(mine.get(at)),
            told(theirs.get(at))
        );
        (about, words)
    });
}

/// If A was acked before B was first sent, and both are acked in one shard, then A's number is the lower one.
fn real_time(verdict: &mut Verdict, history: &History) {
    // Per source and shard: the highest place acked so far.
    let mut highest: HashMap<(Source, &str), &Position> = HashMap::new();
    // What was acked at the time of the first attempt, by shard; shared as long as nothing is acked.
    let mut acks = 0_usize;
    let mut log: HashMap<(Source, &str), Vec<(usize, &Position)>> = HashMap::new();
    let mut sent_at = vec![None; history.intents().len()];
    for (source, event) in history.sourced() {
        match event {
            Event::Sent(id) => {
                sent_at[id.0].get_or_insert(acks);
            }
            Event::Acked(id, position) => {
                let seen = (source, position.shard.as_str());
                let before = log.get(&seen).map_or(&[][..], Vec::as_slice);
                let known = before.partition_point(|(at, _)| Some(*at) <= sent_at[id.0]);
                if let Some((_, floor)) = known.checked_sub(1).and_then(|last| before.get(last)) {
                    verdict.check_about(floor.number < position.number, || {
                        let words = format!("{position} was sent when {floor} was already acked");
                        (About::record(*id).at(position).at(floor), words)
                    });
                }
                acks += 1;
                let top = highest.entry(seen).or_insert(position);
                if top.number < position.number {
                    *top = position;
                }
                log.entry(seen).or_default().push((acks, *top));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::liars::Story;
    use super::*;

    #[test]
    fn a_number_that_falls_or_stays_is_noticed() {
        let mut story = Story::new();
        story.read_all("one", &[(2, "k", "a"), (1, "k", "b"), (1, "k", "b")]);
        assert_eq!(check(&story.0).broken, 2);
    }

    #[test]
    fn readers_that_differ_are_noticed() {
        for other in [
            vec![(1, "k", "a")],
            vec![(1, "k", "a"), (3, "k", "b")],
            vec![(1, "k", "a"), (2, "k", "c")],
            vec![(1, "k", "a"), (2, "k", "b"), (3, "k", "c")],
        ] {
            let mut story = Story::new();
            story.read_all("one", &[(1, "k", "a"), (2, "k", "b")]);
            story.read_all("two", &other);
            assert_eq!(check(&story.0).broken, 1, "{other:?}");
        }
    }

    #[test]
    fn a_piece_may_start_late_and_end_early_but_has_no_gap() {
        let all = [(1, "k", "a"), (2, "k", "b"), (3, "k", "c"), (4, "k", "d")];
        for (piece, broken) in [
            (vec![all[1], all[2]], 0),
            (vec![], 0),
            (vec![all[0], all[2]], 1),
            (vec![(9, "k", "z")], 1),
        ] {
            let mut story = Story::new();
            story.read_all("one", &all);
            story.read("late", &piece);
            assert_eq!(check(&story.0).broken, broken, "{piece:?}");
        }
    }

    #[test]
    fn a_later_record_below_an_acked_one_is_noticed() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        story.ack(a, 5);
        let b = story.send("j", "b");
        story.ack(b, 4);
        assert_eq!(check(&story.0).broken, 1);
    }

    #[test]
    fn records_in_flight_together_may_come_in_any_order() {
        let mut story = Story::new();
        let a = story.send("k", "a");
        let b = story.send("j", "b");
        story.ack(a, 5);
        story.ack(b, 4);
        assert_eq!(check(&story.0).broken, 0);
    }
}
