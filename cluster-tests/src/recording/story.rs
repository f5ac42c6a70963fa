//! A breach told from the history in which it was found: who sent what, who was told what, which disks kept it, who read
//! it, and what was done to the cluster around it.
//!
//! Invariant: lines stand in the order of the history. Must not judge.

use std::time::Duration;

use tristream_client::recording::Line;

use super::judgement::{FAULTS_AFTER, FAULTS_BEFORE, LINES_MAX};
use super::{CLIENTS, Deed, Place, written};
use crate::history::{Event, History, RecordId};
use crate::promises::About;

/// The lines about `about`, each with its seconds since the history began; `deeds` by rising place. Empty where a breach
/// names no record and no place.
pub fn story(history: &History, deeds: &[Deed], about: &About) -> Vec<String> {
    let events = history.timed().enumerate();
    let all: Vec<(usize, Duration, &Event)> = events
        .filter(|(_, (_, event))| is_about(history, event, about))
        .map(|(place, (at, event))| (place, at, event))
        .collect();
    let is_read = |event: &Event| matches!(event, Event::Read(..) | Event::ReadAll(..));
    let put = all.iter().rfind(|(_, _, event)| !is_read(event));
    let Some(&(moment, ..)) = put.or(all.first()) else { return Vec::new() };
    // What happened after so many events stands before the event of this number.
    let told = all.iter().take(LINES_MAX);
    let mut lines: Vec<((usize, bool), String)> =
        told.map(|(place, at, event)| ((*place, true), line(history, *at, event))).collect();
    let beside = about.records.iter().flat_map(|id| kept(history, *id));
    let beside = beside.chain(around(deeds, moment).iter().map(done));
    lines.extend(beside.map(|(after, line)| ((after, false), line)));
    lines.sort_by_key(|(place, _)| *place);
    let more = all.len().saturating_sub(LINES_MAX);
    let more = (more > 0).then(|| format!("and {more} more lines"));
    lines.into_iter().map(|(_, line)| line).chain(more).collect()
}

/// Since when which disk keeps the record, where disks were watched.
fn kept(history: &History, id: RecordId) -> impl Iterator<Item = (usize, String)> {
    history.copies(id).iter().map(move |copy| {
        let (seconds, zone, entry) = (copy.since.as_secs_f64(), copy.zone, copy.at.index);
        (
            copy.after,
            format!("{seconds:>8.3}  the disk of {zone} keeps record {}, in entry {entry}", id.0),
        )
    })
}

fn done(deed: &Deed) -> (usize, String) {
    (deed.after, format!("{:>8.3}  fault: {}", deed.at.as_secs_f64(), deed.what))
}

/// The deeds that tell what was under way at a place, and what came next.
fn around(deeds: &[Deed], place: usize) -> &[Deed] {
    let next = deeds.partition_point(|deed| deed.after <= place);
    let (from, to) = (next.saturating_sub(FAULTS_BEFORE), next + FAULTS_AFTER);
    &deeds[from..to.min(deeds.len())]
}

fn is_about(history: &History, event: &Event, about: &About) -> bool {
    match event {
        Event::Sent(id) | Event::SentAgain(id) | Event::Refused(id) | Event::Unknown(id) => {
            about.records.contains(id)
        }
        Event::Acked(id, position) => about.records.contains(id) || about.places.contains(position),
        Event::Read(_, stored) => {
            let is_copy =
                || history.find(&stored.data).is_some_and(|id| about.records.contains(&id));
            about.places.contains(&stored.position) || is_copy()
        }
        Event::ReadAll(reader, shard) => {
            about.reader == Some(*reader) && about.places.iter().any(|at| at.shard == *shard)
        }
        Event::Map(_) => false,
    }
}

fn line(history: &History, at: Duration, event: &Event) -> String {
    let by = match event {
        Event::Read(reader, _) | Event::ReadAll(reader, _) => *reader,
        _ => CLIENTS,
    };
    let (at_ms, by, event) = (0, by.to_owned(), written(history, event));
    let place = Place { file: 0, number: 0, line: Line { at_ms, by, event } };
    format!("{:>8.3}  {place}", at.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use tristream_client::domain::RecordPosition;

    use super::*;
    use crate::history::{Position, SequenceNumber, Stored};

    fn at(number: &str) -> Position {
        let number = SequenceNumber::parse(number).expect("a number");
        Position { shard: "s".to_owned(), number }
    }

    #[test]
    fn a_story_has_what_it_is_about_and_the_faults_around_it() {
        let mut history = History::new();
        let (lost, other) = (history.intend(None, "lost"), history.intend(None, "other"));
        history.push(Event::Sent(lost));
        history.push(Event::Sent(other));
        history.note_copy("az-a", lost, RecordPosition { index: 7, position: 0 });
        history.push(Event::Acked(lost, at("5")));
        history.push(Event::Acked(other, at("6")));
        let stored = Stored { position: at("6"), key: "k".to_owned(), data: "other".into() };
        history.push(Event::Read("az-b", stored));
        history.push(Event::ReadAll("az-b", "s".to_owned()));
        history.push(Event::ReadAll("az-c", "s".to_owned()));
        let deed = |after: usize| Deed { after, at: Duration::ZERO, what: format!("deed {after}") };
        let deeds: Vec<Deed> = [0, 0, 0, 1, 2, 3, 4, 6].map(deed).into();
        let (records, places, reader) = (vec![lost], vec![at("5")], Some("az-b"));
        let told = story(&history, &deeds, &About { records, places, reader });
        let words: Vec<&str> = told.iter().map(|line| line[10..].trim_start()).collect();
        let expected = [
            "fault: deed 0",
            "fault: deed 0",
            "clients sends record 0: \"lost\"",
            "fault: deed 1",
            "the disk of az-a keeps record 0, in entry 7",
            "fault: deed 2",
            "clients record 0 is acked at s/5",
            "fault: deed 3",
            "fault: deed 4",
            "az-b has read all of s",
        ];
        assert_eq!(words, expected);
        assert!(story(&history, &deeds, &About::default()).is_empty());
    }
}
