//! What clients saw, in the order in which they saw it.
//!
//! Invariant: append-only; the order of the list is the order of events, times only serve to tell gaps. An attempt
//! is `Sent` (or `SentAgain`, when it repeats a call under the call's own id) before it is answered, and is answered
//! at most once: `Acked`, `Refused` (this attempt certainly stored nothing) or `Unknown` (may be stored or not). Must
//! not judge: that is what `promises/` is for.
//!
//! A history put together from recordings (`recording.rs`) has several sources: only what one source saw has an order
//! that can be relied on.

mod copies;
mod hopes;
mod kept;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tristream_client::domain::{HashKey, HashKeyRange, Shard};

pub use copies::Copy;
pub use hopes::Hope;

/// A record that somebody means to put: its place in [`History::intents`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub usize);

/// A sequence number as text, ordered as the number it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SequenceNumber(String);

impl SequenceNumber {
    /// From its decimal form; none if `text` is not one.
    pub fn parse(text: &str) -> Option<SequenceNumber> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let plain = text == "0" || !text.starts_with('0');
        (digits && plain).then(|| SequenceNumber(text.to_owned()))
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0.len(), &self.0).cmp(&(other.0.len(), &other.0))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// `shardId-…`.
    pub shard: String,
    /// Its number there.
    pub number: SequenceNumber,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shard, self.number)
    }
}

/// A record before it is sent. Its data are unlike those of every other in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The partition key; none where the client under test chooses it.
    pub key: Option<String>,
    /// Where in the key space it shall go, if not where its key says.
    pub hash: Option<HashKey>,
    /// The data.
    pub data: Bytes,
}

/// A record as a reader got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it is.
    pub position: Position,
    /// Its partition key.
    pub key: String,
    /// Its data.
    pub data: Bytes,
}

/// A shard as a list of shards shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSeen {
    /// `shardId-…`.
    pub shard: String,
    /// The hash keys it owns, or owned.
    pub range: HashKeyRange,
    /// The shards it came from.
    pub parents: Vec<String>,
    /// Whether it takes records.
    pub open: bool,
}

impl From<&Shard> for ShardSeen {
    fn from(shard: &Shard) -> ShardSeen {
        ShardSeen {
            shard: shard.id.to_string(),
            range: shard.range,
            parents: shard.parents.iter().map(ToString::to_string).collect(),
            open: shard.is_open(),
        }
    }
}

/// One thing that a client did or saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call that puts the record sets out.
    Sent(RecordId),
    /// The same call sets out again, marked as the same: it must not store the record a second time.
    SentAgain(RecordId),
    /// An attempt succeeded.
    Acked(RecordId, Position),
    /// An attempt failed, and the answer says that nothing was stored.
    Refused(RecordId),
    /// An attempt failed, and nobody knows.
    Unknown(RecordId),
    /// A reader of this name got a record.
    Read(&'static str, Stored),
    /// A reader of this name read the shard from its oldest record to its end, after the last put.
    ReadAll(&'static str, String),
    /// Somebody was told of all the stream's shards.
    Map(Vec<ShardSeen>),
}

/// A reader that read from the oldest record was told that nothing follows. Not part of recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The reader.
    pub reader: &'static str,
    /// The shard.
    pub shard: String,
    /// How many events had happened when it asked.
    pub asked: usize,
    /// The last record that it has; none when it has none.
    pub upto: Option<SequenceNumber>,
}

/// A reader asked for a place in a shard and read on from it. Not part of recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The reader.
    pub reader: &'static str,
    /// The shard.
    pub shard: String,
    /// Where it asked to begin.
    pub asked: Asked,
    /// The first record that it got; none when it was told that nothing follows.
    pub first: Option<SequenceNumber>,
}

/// Where a reader asked to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// At a record that it had read before: by its number, after the number before it, or at the time of it or of those
    /// behind the one before it.
    Record {
        /// Which.
        id: RecordId,
        /// Where it is.
        number: SequenceNumber,
        /// How many events had happened when it was read.
        known: usize,
    },
    /// Behind the newest record.
    Latest {
        /// How many events had happened when the reader was told its place, and whoever came later comes behind it.
        told: usize,
    },
}

/// Who saw an event: all events of a source are in the order in which they happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub u32);

#[derive(Debug)]
struct Noted {
    at: Duration,
    source: Source,
    event: Event,
    /// Where records expire.
    clocks: Option<kept::Clocks>,
}

/// What is known of a history that was put together from recordings.
#[derive(Clone, Debug, Default)]
struct Recorded {
    /// For how long records are kept at least.
    retention: Duration,
    /// Where in the list each reader began, and when.
    begun: HashMap<&'static str, (usize, Duration)>,
    /// Lowest and highest place where a reader met what nobody recorded, by reader and shard.
    passed: BTreeMap<(&'static str, String), (SequenceNumber, SequenceNumber)>,
}

/// Events, and the records that they are about.
#[derive(Debug)]
pub struct History {
    started: Instant,
    intents: Vec<Intent>,
    /// Compared and not hashed: data differ early, and are long.
    by_data: BTreeMap<Bytes, RecordId>,
    events: Vec<Noted>,
    tips: Vec<(Tip, u64)>,
    begun: Vec<(Begun, u64)>,
    copies: copies::Copies,
    hopes: Vec<Hope>,
    recorded: Option<Recorded>,
    /// Where records expire, and it is known what clocks showed.
    kept: Option<kept::Kept>,
}

impl Default for History {
    fn default() -> Self {
        History::new()
    }
}

impl History {
    /// Nothing has happened.
    pub fn new() -> History {
        History {
            started: Instant::now(),
            intents: Vec::new(),
            by_data: BTreeMap::new(),
            events: Vec::new(),
            tips: Vec::new(),
            begun: Vec::new(),
            copies: copies::Copies::default(),
            hopes: Vec::new(),
            recorded: None,
            kept: None,
        }
    }

    /// The same, to be filled from recordings: what no reading covers is then no breach, and a reading that is whole
    /// is so as of when it began. Records that are older than `retention` may be gone.
    pub fn recorded(retention: Duration) -> History {
        let recorded = Some(Recorded { retention, ..Recorded::default() });
        History { recorded, ..History::new() }
    }

    /// A record that will be sent.
    ///
    /// # Panics
    /// If another one has the same data: reads could not tell them apart.
    pub fn intend(&mut self, key: Option<String>, data: impl Into<Bytes>) -> RecordId {
        self.intend_at(key, None, data)
    }

    /// The same, at a place in the key space (ExplicitHashKey).
    pub fn intend_at(
        &mut self,
        key: Option<String>,
        hash: Option<HashKey>,
        data: impl Into<Bytes>,
    ) -> RecordId {
        let data = data.into();
        let id = RecordId(self.intents.len());
        let other = self.by_data.insert(data.clone(), id);
        assert!(other.is_none(), "two records of the same data: {data:?}");
        self.intents.push(Intent { key, hash, data });
        id
    }

    /// Something happened now.
    pub fn push(&mut self, event: Event) {
        self.push_at(self.started.elapsed(), event);
    }

    fn push_at(&mut self, at: Duration, event: Event) {
        self.push_from(Source::default(), at, event);
    }

    /// A source saw something now.
    pub fn push_seen(&mut self, source: Source, event: Event) {
        self.push_from(source, self.started.elapsed(), event);
    }

    /// A source saw something, so long after some beginning.
    pub fn push_from(&mut self, source: Source, at: Duration, event: Event) {
        let place = self.events.len();
        let clocks = self.kept.as_mut().map(|kept| kept.note(place, &event));
        self.events.push(Noted { at, source, event, clocks });
    }

    /// A reader begins: what was acked before this is there to be read. Of recordings only.
    pub fn reading_begins(&mut self, reader: &'static str, at: Duration) {
        let place = self.events.len();
        if let Some(recorded) = &mut self.recorded {
            recorded.begun.insert(reader, (place, at));
        }
    }

    /// A reader came by a place that holds what nobody recorded. Of recordings only.
    pub fn passes(&mut self, reader: &'static str, position: Position) {
        let Some(recorded) = &mut self.recorded else { return };
        let Position { shard, number } = position;
        let span = recorded.passed.entry((reader, shard));
        let (low, high) = span.or_insert_with(|| (number.clone(), number.clone()));
        if number < *low {
            *low = number;
        } else if number > *high {
            *high = number;
        }
    }

    /// Whether it was put together from recordings.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Whether a record that was acked as the event of this place may be gone by the time a reader began.
    pub fn may_be_gone(&self, place: usize, reader: &'static str) -> bool {
        self.recorded.as_ref().is_some_and(|recorded| {
            let begun = recorded.begun.get(reader);
            begun.is_some_and(|(_, begun)| self.events[place].at + recorded.retention < *begun)
        })
    }

    /// Puts go on: what was read whole so far is only a piece from now on.
    pub fn reopen(&mut self) {
        self.events.retain(|noted| !matches!(noted.event, Event::ReadAll(..)));
    }

    /// Somebody was told of a shard's tip.
    pub fn note_tip(&mut self, tip: Tip) {
        let agreed = self.agreed_now();
        self.tips.push((tip, agreed));
    }

    /// What was told of tips, each with what [`History::agreed_at`] was then.
    pub fn tips(&self) -> &[(Tip, u64)] {
        &self.tips
    }

    /// Somebody began to read somewhere.
    pub fn note_begun(&mut self, begun: Begun) {
        let agreed = self.agreed_now();
        self.begun.push((begun, agreed));
    }

    /// Where readers began that had asked for a place, each with what [`History::agreed_at`] was when they had it.
    pub fn begun(&self) -> &[(Begun, u64)] {
        &self.begun
    }

    /// All records, by id.
    pub fn intents(&self) -> &[Intent] {
        &self.intents
    }

    /// The record of this id.
    pub fn intent(&self, id: RecordId) -> &Intent {
        &self.intents[id.0]
    }

    /// Which record has these data; none if nobody meant to put such a one.
    pub fn find(&self, data: &Bytes) -> Option<RecordId> {
        self.by_data.get(data).copied()
    }

    /// What happened, in order.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &Event> {
        self.events.iter().map(|noted| &noted.event)
    }

    /// The same, with who saw it.
    pub fn sourced(&self) -> impl Iterator<Item = (Source, &Event)> {
        self.events.iter().map(|noted| (noted.source, &noted.event))
    }

    /// The same, with when it was.
    pub fn timed(&self) -> impl Iterator<Item = (Duration, &Event)> {
        self.events.iter().map(|noted| (noted.at, &noted.event))
    }

    /// How many records have been acked, each counted once.
    pub fn acked(&self) -> usize {
        let mut acked = vec![false; self.intents.len()];
        for event in self.events() {
            if let Event::Acked(id, _) = event {
                acked[id.0] = true;
            }
        }
        acked.into_iter().filter(|acked| *acked).count()
    }

    /// How many attempts had an outcome that nobody knows.
    pub fn unknown(&self) -> usize {
        self.events().filter(|event| matches!(event, Event::Unknown(_))).count()
    }

    /// Between the first and the last ack: the longest time without any, over all shards (none) or of one.
    pub fn longest_silence(&self, shard: Option<&str>) -> Duration {
        let mut last = None;
        let mut longest = Duration::ZERO;
        for Noted { at, event, .. } in &self.events {
            if let Event::Acked(_, position) = event
                && shard.is_none_or(|shard| shard == position.shard)
            {
                longest = longest.max(*at - last.unwrap_or(*at));
                last = Some(*at);
            }
        }
        longest
    }

    /// What each reader read of each shard, in its order, and whether to the end.
    pub fn readings(&self) -> Vec<Reading<'_>> {
        let mut readings: Vec<Reading<'_>> = Vec::new();
        let mut places = HashMap::new();
        let recorded = self.recorded.as_ref();
        for ((reader, shard), (low, high)) in recorded.iter().flat_map(|all| &all.passed) {
            places.insert((*reader, shard), readings.len());
            readings.push(Reading { passed: Some((low, high)), ..self.reading(reader, shard) });
        }
        for (at, event) in self.events().enumerate() {
            let (reader, shard) = match event {
                Event::Read(reader, stored) => (*reader, &stored.position.shard),
                Event::ReadAll(reader, shard) => (*reader, shard),
                _ => continue,
            };
            let place = *places.entry((reader, shard)).or_insert_with(|| {
                readings.push(self.reading(reader, shard));
                readings.len() - 1
            });
            match event {
                Event::Read(_, stored) => {
                    readings[place].records.push(stored);
                    readings[place].places.push(at);
                }
                _ => (readings[place].complete, readings[place].ended) = (true, at),
            }
        }
        readings
    }

    fn reading<'a>(&self, reader: &'static str, shard: &'a str) -> Reading<'a> {
        let begun = self.recorded.as_ref().and_then(|recorded| recorded.begun.get(reader));
        let begun = begun.map(|(place, _)| *place);
        let (records, places) = (Vec::new(), Vec::new());
        Reading { reader, shard, records, places, complete: false, ended: 0, begun, passed: None }
    }
}

/// What one reader read of one shard.
#[derive(Debug)]
pub struct Reading<'a> {
    /// Its name.
    pub reader: &'static str,
    /// The shard.
    pub shard: &'a str,
    /// In the order in which they came.
    pub records: Vec<&'a Stored>,
    /// Where in the list of events each of them is.
    pub places: Vec<usize>,
    /// Whether it read from the oldest record to the end, after the last put; of a recording: to what was the end when
    /// it began.
    pub complete: bool,
    /// Where in the list of events it was complete, if it was.
    pub ended: usize,
    /// Where in the list of events it began, of a recording.
    pub begun: Option<usize>,
    /// Lowest and highest place where it met what nobody recorded, of a recording.
    pub passed: Option<(&'a SequenceNumber, &'a SequenceNumber)>,
}

impl Reading<'_> {
    /// The event that shows that the reader, which began at the oldest record, has passed this number; none if none does.
    pub fn passed_at(&self, number: &SequenceNumber) -> Option<usize> {
        let next = self.records.partition_point(|stored| stored.position.number <= *number);
        self.places.get(next).copied().or(self.complete.then_some(self.ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_as_numbers() {
        let number = |text| SequenceNumber::parse(text).unwrap();
        assert!(number("9") < number("10"));
        assert!(number("100") < number("101"));
        assert_eq!(SequenceNumber::parse("12a"), None);
        assert_eq!(SequenceNumber::parse("012"), None);
        assert_eq!(SequenceNumber::parse(""), None);
    }

    #[test]
    fn a_record_acked_twice_counts_once() {
        let mut history = History::new();
        let id = history.intend(None, "a");
        let position = Position { shard: "s".into(), number: SequenceNumber::parse("1").unwrap() };
        history.push(Event::Acked(id, position.clone()));
        history.push(Event::Acked(id, position));
        assert_eq!(history.acked(), 1);
    }

    #[test]
    fn silence_is_between_acks_of_the_shard() {
        let mut history = History::new();
        for (at, shard) in [(1, "s0"), (3, "s1"), (6, "s0")] {
            let id = history.intend(None, format!("{at}"));
            let number = SequenceNumber::parse(&at.to_string()).unwrap();
            let position = Position { shard: shard.into(), number };
            history.push_at(Duration::from_secs(at), Event::Acked(id, position));
        }
        assert_eq!(history.longest_silence(None), Duration::from_secs(3));
        assert_eq!(history.longest_silence(Some("s0")), Duration::from_secs(5));
        assert_eq!(history.longest_silence(Some("s1")), Duration::ZERO);
    }
}
