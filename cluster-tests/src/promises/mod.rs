//! The promises, one file each: pure functions from a history to what is wrong with it.
//!
//! Invariant: linear in the history; no clock, no I/O. Each is fed hand-made lies in its own tests, so that we know
//! it can bark. Must not know how the history came about.

pub mod acked_records_survive;
pub mod acks_are_durable;
mod expired;
pub mod heals_when_calm;
pub mod iterators_begin_as_asked;
mod lineage;
pub mod no_phantom_records;
pub mod nothing_stored_twice;
pub mod order_per_key;
pub mod order_within_shard;
pub mod ranges_tile;
pub mod tips_are_fresh;

use std::fmt;

use bytes::Bytes;

use crate::history::{History, Position, RecordId};

/// Breaches that are told in words; further ones are only counted.
const TOLD_MAX: usize = 10;
/// Bytes of a record's data that a breach shows.
const SHOWN_BYTES: usize = 60;

/// What one promise says of a history.
#[derive(Debug)]
pub struct Verdict {
    /// The promise.
    pub promise: &'static str,
    /// How many facts were compared: 0 means that the history could not have broken it.
    pub checked: u64,
    /// How many of them break it.
    pub broken: u64,
    /// The first few breaches in words.
    pub told: Vec<String>,
    /// What each of these is about.
    pub about: Vec<About>,
    /// Facts that could not be judged: a recording does not tell what it takes.
    pub unjudged: u64,
}

/// What a breach is about: where to look in the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The records.
    pub records: Vec<RecordId>,
    /// The places.
    pub places: Vec<Position>,
    /// The reader.
    pub reader: Option<&'static str>,
}

impl About {
    fn record(id: RecordId) -> About {
        About { records: vec![id], ..About::default() }
    }

    fn place(place: &Position) -> About {
        About::default().at(place)
    }

    fn at(mut self, place: &Position) -> About {
        self.places.push(place.clone());
        self
    }

    fn by(self, reader: &'static str) -> About {
        About { reader: Some(reader), ..self }
    }
}

impl Verdict {
    fn new(promise: &'static str) -> Verdict {
        let (told, about) = (Vec::new(), Vec::new());
        Verdict { promise, checked: 0, broken: 0, told, about, unjudged: 0 }
    }

    fn check(&mut self, holds: bool, tell: impl FnOnce() -> String) {
        self.check_about(holds, || (About::default(), tell()));
    }

    fn check_about(&mut self, holds: bool, tell: impl FnOnce() -> (About, String)) {
        self.checked += 1;
        if !holds {
            self.broken += 1;
            if self.told.len() < TOLD_MAX {
                let (about, words) = tell();
                self.told.push(words);
                self.about.push(about);
            }
        }
    }

    /// Whether nothing breaks the promise and something could have.
    pub fn holds(&self) -> bool {
        self.broken == 0 && self.checked > 0
    }
}

/// Data as far as people look at them.
fn short(data: &Bytes) -> String {
    let shown = data.slice(..data.len().min(SHOWN_BYTES));
    format!("{shown:?}{}", if shown.len() < data.len() { "..." } else { "" })
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match (self.broken, self.checked) {
            (0, 0) => "NOT SHOWN",
            (0, _) => "holds",
            _ => "BROKEN",
        };
        write!(f, "{:<24} {word}: {} checked, {} broken", self.promise, self.checked, self.broken)?;
        for breach in &self.told {
            write!(f, "\n    {breach}")?;
        }
        Ok(())
    }
}

/// All that any history can be held against. Who is told of tips asks [`tips_are_fresh`], too; who asks for places in
/// shards, [`iterators_begin_as_asked`]; who watches the disks, [`acks_are_durable`];
/// who lets faults end, [`heals_when_calm`].
pub fn judge(history: &History) -> Vec<Verdict> {
    vec![
        acked_records_survive::check(history),
        order_within_shard::check(history),
        order_per_key::check(history),
        no_phantom_records::check(history),
        nothing_stored_twice::check(history),
        ranges_tile::check(history),
    ]
}

/// Fails with every breach in words, unless all promises hold.
pub fn demand(history: &History) -> anyhow::Result<()> {
    let verdicts = judge(history);
    if verdicts.iter().all(Verdict::holds) {
        return Ok(());
    }
    let words: Vec<String> = verdicts.iter().map(Verdict::to_string).collect();
    anyhow::bail!("a promise is broken:\n{}", words.join("\n"))
}

#[cfg(test)]
mod liars {
    //! Hand-made histories in few words.

    use std::ops::RangeInclusive;

    use tristream_client::domain::{HashKey, HashKeyRange};

    use super::*;
    use crate::history::{Event, Position, RecordId, SequenceNumber, ShardSeen, Stored};

    /// A history that is written line by line.
    pub(super) struct Story(pub(super) History);

    impl Story {
        pub(super) fn new() -> Story {
            Story(History::new())
        }

        /// Means to put `data` under `key` and sends it once.
        pub(super) fn send(&mut self, key: &str, data: &'static str) -> RecordId {
            let id = self.0.intend(Some(key.to_owned()), data);
            self.0.push(Event::Sent(id));
            id
        }

        pub(super) fn ack(&mut self, id: RecordId, number: u64) {
            self.ack_in(id, "s", number);
        }

        pub(super) fn ack_in(&mut self, id: RecordId, shard: &str, number: u64) {
            self.0.push(Event::Acked(id, at(shard, number)));
        }

        pub(super) fn tell(&mut self, event: Event) {
            self.0.push(event);
        }

        /// The reader gets these of shard `s`, in this order, and then its end.
        pub(super) fn read_all(
            &mut self,
            reader: &'static str,
            records: &[(u64, &str, &'static str)],
        ) {
            self.read_all_of(reader, "s", records);
        }

        /// The same of another shard.
        pub(super) fn read_all_of(
            &mut self,
            reader: &'static str,
            shard: &str,
            records: &[(u64, &str, &'static str)],
        ) {
            self.read_of(reader, shard, records);
            self.0.push(Event::ReadAll(reader, shard.to_owned()));
        }

        pub(super) fn read(&mut self, reader: &'static str, records: &[(u64, &str, &'static str)]) {
            self.read_of(reader, "s", records);
        }

        fn read_of(
            &mut self,
            reader: &'static str,
            shard: &str,
            records: &[(u64, &str, &'static str)],
        ) {
            for (number, key, data) in records {
                let (position, key) = (at(shard, *number), (*key).to_owned());
                self.0.push(Event::Read(reader, Stored { position, key, data: (*data).into() }));
            }
        }
    }

    fn at(shard: &str, number: u64) -> Position {
        let number = SequenceNumber::parse(&number.to_string()).unwrap();
        Position { shard: shard.to_owned(), number }
    }

    pub(super) fn seen(
        shard: &str,
        range: RangeInclusive<u128>,
        parents: &[&str],
        open: bool,
    ) -> ShardSeen {
        ShardSeen {
            shard: shard.to_owned(),
            range: HashKeyRange { first: HashKey(*range.start()), last: HashKey(*range.end()) },
            parents: parents.iter().map(|parent| (*parent).to_owned()).collect(),
            open,
        }
    }

    #[test]
    fn an_honest_history_passes_all() {
        let mut story = Story::new();
        story.tell(Event::Map(vec![seen("s", 0..=u128::MAX, &[], true)]));
        let a = story.send("k", "a");
        story.ack(a, 1);
        let b = story.send("k", "b");
        story.tell(Event::Unknown(b));
        story.tell(Event::Sent(b));
        story.ack(b, 3);
        story.read_all("one", &[(1, "k", "a"), (2, "k", "b"), (3, "k", "b")]);
        story.read_all("two", &[(1, "k", "a"), (2, "k", "b"), (3, "k", "b")]);
        demand(&story.0).unwrap();
    }

    #[test]
    fn an_empty_history_shows_nothing() {
        let refused = demand(&History::new()).unwrap_err().to_string();
        assert!(refused.contains("NOT SHOWN"), "{refused}");
    }
}
