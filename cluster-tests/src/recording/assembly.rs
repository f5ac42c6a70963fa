//! The history that recordings make.
//!
//! A history tells records apart by their data; users send the same data twice. So records of equal key and data get
//! names of their own, and each place that was read is given to the record that was acked there, or else to one of
//! unknown outcome: the lowest places to those that set out first, which accuses nobody who has an excuse. A place
//! that is left over was written by somebody who did not record, unless all are said to have: then by nobody.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tristream_client::recording::{Data, Event, Shard};

use super::{Place, Recording, Settings};
use crate::history::{
    self, History, Position, RecordId, SequenceNumber, ShardSeen, Source, Stored,
};

/// A history, what was left out of it, and where its facts stand.
pub(super) struct Assembly {
    pub(super) history: History,
    /// Places read that hold what nobody recorded.
    pub(super) foreign: usize,
    /// Places read that hold the data of a record whose place is another: put twice by somebody, or stored twice.
    pub(super) doubtful: usize,
    /// Shards that no list of shards has.
    pub(super) unlisted: Vec<String>,
    by_record: HashMap<RecordId, Vec<usize>>,
    by_place: HashMap<Position, Vec<usize>>,
    /// Where each reader begins, and where it has got all of which shard.
    by_reader: HashMap<&'static str, Vec<(usize, Option<String>)>>,
    /// Readers by their names in the files: a name that lasts, and whether they began at the oldest record.
    readers: HashMap<String, (&'static str, bool)>,
    all_puts: bool,
}

/// Which record is at a place: what was read there decides, for readers may differ.
type Seen = (Position, String, Bytes);

#[derive(Default)]
struct Sent {
    key: Option<String>,
    hash: Option<String>,
    data: Bytes,
    /// Calls that it set out in, and those of them that were refused.
    calls: usize,
    refused: usize,
    acked: bool,
}

impl Sent {
    /// At how many places that nobody was told of it may be.
    fn untold(&self) -> usize {
        self.calls.saturating_sub(self.refused + usize::from(self.acked))
    }
}

/// What all lines together say.
#[derive(Default)]
struct Survey<'a> {
    ids: HashMap<(&'a str, u64), RecordId>,
    sent: Vec<Sent>,
    acks: HashMap<Position, RecordId>,
    seen: BTreeMap<Seen, Option<RecordId>>,
}

pub(super) fn assemble(recording: &Recording, settings: &Settings) -> anyhow::Result<Assembly> {
    let mut survey = Survey::default();
    for place in &recording.lines {
        survey.take(place).with_context(|| recording.at(place))?;
    }
    let (foreign, doubtful) = survey.name_places(settings.all_puts);
    let mut assembly = Assembly {
        history: History::recorded(settings.retention),
        foreign,
        doubtful,
        unlisted: Vec::new(),
        by_record: HashMap::new(),
        by_place: HashMap::new(),
        by_reader: HashMap::new(),
        readers: HashMap::new(),
        all_puts: settings.all_puts,
    };
    let names: Vec<Bytes> = survey.sent.iter().map(|sent| assembly.intend(sent)).collect();
    let begun = recording.lines.first().map_or(0, |place| place.line.at_ms);
    for (number, place) in recording.lines.iter().enumerate() {
        let at = Duration::from_millis(place.line.at_ms.saturating_sub(begun));
        let told = assembly.tell(number, at, place, &survey, &names);
        told.with_context(|| recording.at(place))?;
    }
    assembly.unlisted = unlisted(&assembly.history);
    Ok(assembly)
}

fn position(shard: &str, number: &str) -> anyhow::Result<Position> {
    let number = SequenceNumber::parse(number)
        .with_context(|| format!("{number:?} is no sequence number"))?;
    Ok(Position { shard: shard.to_owned(), number })
}

fn bytes(data: &Data) -> anyhow::Result<Bytes> {
    Ok(data.bytes().context("its data are no base64")?.into())
}

impl<'a> Survey<'a> {
    fn id(&self, place: &Place, record: u64) -> anyhow::Result<RecordId> {
        let by = place.line.by.as_str();
        let id = self.ids.get(&(by, record)).copied();
        id.with_context(|| format!("record {record} of {by} was never sent"))
    }

    fn take(&mut self, place: &'a Place) -> anyhow::Result<()> {
        match &place.line.event {
            Event::Invoke { record, key, hash_key, data } => {
                let data = bytes(data)?;
                let next = RecordId(self.sent.len());
                let id = *self.ids.entry((place.line.by.as_str(), *record)).or_insert(next);
                if id == next {
                    let (key, hash) = (key.clone(), hash_key.clone());
                    self.sent.push(Sent { key, hash, data, ..Sent::default() });
                } else {
                    let known = &self.sent[id.0];
                    ensure!(
                        known.key == *key && known.data == data,
                        "record {record} is sent again with other contents"
                    );
                }
                self.sent[id.0].calls += 1;
            }
            Event::Again { record } | Event::Unknown { record, .. } => {
                self.id(place, *record)?;
            }
            Event::Refused { record, .. } => {
                let id = self.id(place, *record)?;
                self.sent[id.0].refused += 1;
            }
            Event::Ok { record, shard, sequence_number } => {
                let id = self.id(place, *record)?;
                self.sent[id.0].acked = true;
                self.acks.entry(position(shard, sequence_number)?).or_insert(id);
            }
            Event::Observed { shard, sequence_number, key, data } => {
                let position = position(shard, sequence_number)?;
                self.seen.insert((position, key.clone(), bytes(data)?), None);
            }
            Event::Begin { .. }
            | Event::Reading { .. }
            | Event::ObservedAll { .. }
            | Event::Shards { .. }
            | Event::Fault { .. } => {}
        }
        Ok(())
    }

    /// Gives each place that was read its record. How many places nobody recorded, and how many of those hold a
    /// recorded record's data.
    fn name_places(&mut self, all_puts: bool) -> (usize, usize) {
        // Per contents: records that may be at a place nobody was told of, those that set out first first.
        let mut open: HashMap<(Option<&str>, &Bytes), Vec<RecordId>> = HashMap::new();
        let mut any: HashMap<(Option<&str>, &Bytes), RecordId> = HashMap::new();
        for (number, sent) in self.sent.iter().enumerate().rev() {
            let (contents, id) = ((sent.key.as_deref(), &sent.data), RecordId(number));
            open.entry(contents).or_default().extend(std::iter::repeat_n(id, sent.untold()));
            any.insert(contents, id);
        }
        let (mut foreign, mut doubtful) = (0, 0);
        for ((position, key, data), id) in &mut self.seen {
            if let Some(acked) = self.acks.get(position) {
                let sent = &self.sent[acked.0];
                if sent.data == *data && sent.key.as_ref().is_none_or(|known| known == key) {
                    *id = Some(*acked);
                }
                // Else it stands as it was read: acked as something else.
                continue;
            }
            let contents = [(Some(key.as_str()), data), (None, data)];
            *id = contents.iter().find_map(|contents| open.get_mut(contents)?.pop());
            if id.is_none() {
                let copy = contents.iter().find_map(|contents| any.get(contents).copied());
                foreign += 1;
                doubtful += usize::from(copy.is_some());
                *id = copy.filter(|_| all_puts);
            }
        }
        (foreign, doubtful)
    }
}

impl Assembly {
    /// Adds a record under a name that no other has.
    fn intend(&mut self, sent: &Sent) -> Bytes {
        let mut name = sent.data.clone();
        let mut copies = 1;
        while self.history.find(&name).is_some() {
            copies += 1;
            let mut next = sent.data.to_vec();
            next.extend_from_slice(format!(" [copy {copies}]").as_bytes());
            name = next.into();
        }
        let hash = sent.hash.as_ref().and_then(|hash| hash.parse().ok());
        self.history.intend_at(sent.key.clone(), hash, name.clone());
        name
    }

    fn tell(
        &mut self,
        number: usize,
        at: Duration,
        place: &Place,
        survey: &Survey<'_>,
        names: &[Bytes],
    ) -> anyhow::Result<()> {
        let by = place.line.by.as_str();
        let known = self.readers.get(by).copied();
        let reader = || known.with_context(|| format!("{by} reads without a line `reading`"));
        let event = match &place.line.event {
            Event::Begin { .. } | Event::Fault { .. } => return Ok(()),
            Event::Reading { from_oldest } => {
                ensure!(known.is_none(), "{by} begins to read twice");
                // Histories want names that live as long as the program; a recording has a handful.
                let name: &'static str = by.to_owned().leak();
                self.readers.insert(by.to_owned(), (name, *from_oldest));
                self.by_reader.entry(name).or_default().push((number, None));
                self.history.reading_begins(name, at);
                return Ok(());
            }
            Event::Invoke { record, .. } => {
                self.about_record(number, history::Event::Sent(survey.id(place, *record)?))
            }
            Event::Again { record } => {
                self.about_record(number, history::Event::SentAgain(survey.id(place, *record)?))
            }
            Event::Refused { record, .. } => {
                self.about_record(number, history::Event::Refused(survey.id(place, *record)?))
            }
            Event::Unknown { record, .. } => {
                self.about_record(number, history::Event::Unknown(survey.id(place, *record)?))
            }
            Event::Ok { record, shard, sequence_number } => {
                let (id, position) =
                    (survey.id(place, *record)?, position(shard, sequence_number)?);
                self.by_place.entry(position.clone()).or_default().push(number);
                self.about_record(number, history::Event::Acked(id, position))
            }
            Event::Observed { shard, sequence_number, key, data } => {
                let (reader, _) = reader()?;
                let seen = (position(shard, sequence_number)?, key.clone(), bytes(data)?);
                let id = survey.seen.get(&seen).copied().flatten();
                let (position, key, data) = seen;
                let is_ours = id.is_some() || survey.acks.contains_key(&position);
                if !is_ours && !self.all_puts {
                    self.history.passes(reader, position);
                    return Ok(());
                }
                self.by_place.entry(position.clone()).or_default().push(number);
                if let Some(id) = id {
                    self.by_record.entry(id).or_default().push(number);
                }
                let data = id.map_or(data, |id| names[id.0].clone());
                history::Event::Read(reader, Stored { position, key, data })
            }
            Event::ObservedAll { shard } => {
                let (reader, from_oldest) = reader()?;
                ensure!(from_oldest, "{by} cannot have read all: it did not begin at the oldest");
                let mark = (number, Some(shard.clone()));
                self.by_reader.entry(reader).or_default().push(mark);
                history::Event::ReadAll(reader, shard.clone())
            }
            Event::Shards { shards } => {
                let map = shards.iter().map(seen).collect::<anyhow::Result<Vec<_>>>()?;
                history::Event::Map(map)
            }
        };
        let source = Source(u32::try_from(place.file)?);
        self.history.push_from(source, at, event);
        Ok(())
    }

    fn about_record(&mut self, number: usize, event: history::Event) -> history::Event {
        if let history::Event::Sent(id)
        | history::Event::SentAgain(id)
        | history::Event::Acked(id, _)
        | history::Event::Refused(id)
        | history::Event::Unknown(id) = &event
        {
            self.by_record.entry(*id).or_default().push(number);
        }
        event
    }

    /// The lines, by their place in the recording's order, that a breach is about.
    pub(super) fn lines_about(&self, about: &crate::promises::About) -> Vec<usize> {
        let records = about.records.iter().filter_map(|id| self.by_record.get(id));
        let places = about.places.iter().filter_map(|place| self.by_place.get(place));
        let marks = about.reader.and_then(|reader| self.by_reader.get(reader));
        let is_near = |shard: &Option<String>| {
            shard.as_ref().is_none_or(|shard| about.places.iter().any(|at| at.shard == *shard))
        };
        let marks = marks.into_iter().flatten().filter(|(_, shard)| is_near(shard));
        let facts = records.chain(places).flatten().copied();
        let mut lines: Vec<usize> = facts.chain(marks.map(|(line, _)| *line)).collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }
}

fn seen(shard: &Shard) -> anyhow::Result<ShardSeen> {
    let [first, last] = &shard.range;
    let range = (first.parse(), last.parse());
    let (Ok(first), Ok(last)) = range else {
        bail!("{:?} is no range of hash keys", shard.range);
    };
    Ok(ShardSeen {
        shard: shard.shard.clone(),
        range: tristream_client::domain::HashKeyRange { first, last },
        parents: shard.parents.clone(),
        open: shard.open,
    })
}

/// Shards that hold something and are on no list.
fn unlisted(history: &History) -> Vec<String> {
    let (mut listed, mut used) = (HashSet::new(), HashSet::new());
    for event in history.events() {
        match event {
            history::Event::Map(map) => listed.extend(map.iter().map(|seen| &seen.shard)),
            history::Event::Acked(_, position)
            | history::Event::Read(_, Stored { position, .. }) => {
                used.insert(&position.shard);
            }
            _ => {}
        }
    }
    let mut missing: Vec<String> = used.difference(&listed).map(|shard| (*shard).clone()).collect();
    missing.sort_unstable();
    missing
}
