//! Recordings of runs (`tristream_client::recording`): read from files, put together to a history, and written from one.
//!
//! Invariant: only what one file says to be before something else counts as before it; across files a reader's beginning
//! is compared with acks by their clocks, and nothing else is. Must not judge.
//!
//! | part | file |
//! |---|---|
//! | lines of files, in one order | `recording.rs` |
//! | the history that they make, records of equal data told apart | `recording/assembly.rs` |
//! | promises judged, with the lines that each breach is about | `recording/judgement.rs` |
//! | a breach of a history that was not recorded, told in the same words | `recording/story.rs` |

mod assembly;
mod judgement;
mod story;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tristream_client::recording::{Data, Event, FORMAT, Line, Shard};

use crate::history::{self, History};

pub use judgement::{Case, Judgement, Ruling, Settings, Story, judge};
pub use story::story;

/// Lines of several files.
#[derive(Debug)]
pub struct Recording {
    paths: Vec<PathBuf>,
    /// In an order that each file's own agrees with.
    lines: Vec<Place>,
    /// Half lines that killed recorders left.
    pub torn: usize,
    /// The stream that all is about.
    pub stream: String,
}

/// A line and where it stands.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    number: usize,
    line: Line,
}

impl Recording {
    /// Reads files. An error is one of form, and names its line.
    pub fn read(paths: &[PathBuf]) -> anyhow::Result<Recording> {
        let (mut files, mut torn) = (Vec::new(), 0);
        for (number, path) in paths.iter().enumerate() {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            let (lines, halves) = parse(number, path, &text)?;
            torn += halves;
            files.push(lines);
        }
        let stream = check(&files, paths)?;
        Ok(Recording { paths: paths.to_vec(), lines: merge(files), torn, stream })
    }

    /// `file:line` of a place.
    fn at(&self, place: &Place) -> String {
        format!("{}:{}", self.paths[place.file].display(), place.number)
    }
}

fn parse(file: usize, path: &Path, text: &str) -> anyhow::Result<(Vec<Place>, usize)> {
    let (mut lines, mut half, mut torn) = (Vec::new(), None, 0);
    for (number, text) in (1..).zip(text.lines()) {
        if text.is_empty() {
            continue;
        }
        let line = match serde_json::from_str::<Line>(text) {
            Ok(line) => line,
            Err(error) if half.is_none() => {
                half = Some((number, error));
                continue;
            }
            Err(error) => bail!("{}:{number}: {error}", path.display()),
        };
        if let Some((number, error)) = half.take() {
            // What a killed recorder was writing: nothing came of it. The next one closed the line and began.
            ensure!(
                matches!(line.event, Event::Begin { .. }),
                "{}:{number}: {error}",
                path.display()
            );
            torn += 1;
        }
        lines.push(Place { file, number, line });
    }
    Ok((lines, torn + usize::from(half.is_some())))
}

/// Every recorder begins once, in one file, and all are of one stream, which this gives.
fn check(files: &[Vec<Place>], paths: &[PathBuf]) -> anyhow::Result<String> {
    let mut streams: HashSet<&str> = HashSet::new();
    let mut home: HashMap<&str, usize> = HashMap::new();
    for place in files.iter().flatten() {
        let at = || format!("{}:{}", paths[place.file].display(), place.number);
        let by = place.line.by.as_str();
        match &place.line.event {
            Event::Begin { format, stream } => {
                ensure!(*format <= FORMAT, "{}: format {format} is not known here", at());
                ensure!(
                    home.insert(by, place.file).is_none(),
                    "{}: {by} begins again: is a file named twice?",
                    at()
                );
                streams.insert(stream);
            }
            _ => ensure!(
                home.get(by) == Some(&place.file),
                "{}: {by} never began: no line `begin` of it stands before this one",
                at()
            ),
        }
    }
    let mut streams: Vec<&str> = streams.into_iter().collect();
    streams.sort_unstable();
    match streams[..] {
        [] => bail!("nothing is recorded in {}", list(paths)),
        [one] => Ok(one.to_owned()),
        [one, other, ..] => {
            bail!("these are of several streams ({one}, {other}): judge each by itself")
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// By the clocks, as far as each file's own order allows.
fn merge(files: Vec<Vec<Place>>) -> Vec<Place> {
    let mut files: Vec<_> = files.into_iter().map(|lines| lines.into_iter().peekable()).collect();
    let mut merged = Vec::new();
    loop {
        let heads = files.iter_mut().enumerate();
        let heads = heads.filter_map(|(file, lines)| Some((lines.peek()?.line.at_ms, file)));
        let Some((_, file)) = heads.min() else { return merged };
        merged.extend(files[file].next());
    }
}

/// A line in few words, for people.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Data that are shown.
        const SHOWN_MAX: usize = 60;
        let short = |data: &Data| {
            let (Data::Text(text) | Data::Base64(text)) = data;
            let cut: String = text.chars().take(SHOWN_MAX).collect();
            format!("{cut:?}{}", if cut.len() < text.len() { "..." } else { "" })
        };
        write!(f, "{} ", self.line.by)?;
        match &self.line.event {
            Event::Begin { stream, .. } => write!(f, "begins, stream {stream}"),
            Event::Invoke { record, key, data, .. } => {
                let key = key.as_ref().map(|key| format!(" key {key:?}"));
                write!(f, "sends record {record}:{} {}", key.unwrap_or_default(), short(data))
            }
            Event::Again { record } => write!(f, "sends record {record} again"),
            Event::Ok { record, shard, sequence_number } => {
                write!(f, "record {record} is acked at {shard}/{sequence_number}")
            }
            Event::Refused { record, why } => write!(f, "record {record} is refused: {why}"),
            Event::Unknown { record, why } => {
                write!(f, "what became of record {record} is unknown: {why}")
            }
            Event::Reading { from_oldest: true } => write!(f, "begins to read, from the oldest"),
            Event::Reading { from_oldest: false } => write!(f, "begins to read"),
            Event::Observed { shard, sequence_number, key, data } => {
                write!(f, "reads {shard}/{sequence_number}: key {key:?} {}", short(data))
            }
            Event::ObservedAll { shard } => write!(f, "has read all of {shard}"),
            Event::Shards { shards } => write!(f, "is told of {} shards", shards.len()),
            Event::Fault { what } => write!(f, "fault: {what}"),
        }
    }
}

/// Something that was done to the cluster, beside a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// How many events of the history had happened.
    pub after: usize,
    /// When, since the history began.
    pub at: Duration,
    /// In words.
    pub what: String,
}

/// Who sends, and who does things to the cluster, in a recording that is written from a history.
const CLIENTS: &str = "clients";
const DOER: &str = "chaos";

/// Writes a history as a recording by one recorder per reader and one for all that was sent. `begun_ms` is when the
/// history began.
pub fn write(
    history: &History,
    stream: &str,
    begun_ms: u64,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    write_with_deeds(history, &[], stream, begun_ms, out)
}

/// The same, with what was done to the cluster, by rising place.
pub fn write_with_deeds(
    history: &History,
    deeds: &[Deed],
    stream: &str,
    begun_ms: u64,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    let mut known: HashSet<&str> = HashSet::new();
    let mut tell = |at: Duration, by, event| -> anyhow::Result<()> {
        let at_ms = begun_ms + u64::try_from(at.as_millis())?;
        let mut line = |event| -> anyhow::Result<()> {
            serde_json::to_writer(&mut *out, &Line { at_ms, by: str::to_owned(by), event })?;
            out.write_all(b"\n")?;
            Ok(())
        };
        if known.insert(by) {
            line(Event::Begin { format: FORMAT, stream: stream.to_owned() })?;
            if ![CLIENTS, DOER].contains(&by) {
                line(Event::Reading { from_oldest: true })?;
            }
        }
        line(event)
    };
    let fault = |deed: &Deed| Event::Fault { what: deed.what.clone() };
    let mut deeds = deeds.iter().peekable();
    for (place, (at, event)) in history.timed().enumerate() {
        while let Some(deed) = deeds.next_if(|deed| deed.after <= place) {
            tell(deed.at, DOER, fault(deed))?;
        }
        let by = match event {
            history::Event::Read(reader, _) | history::Event::ReadAll(reader, _) => *reader,
            _ => CLIENTS,
        };
        tell(at, by, written(history, event))?;
    }
    deeds.try_for_each(|deed| tell(deed.at, DOER, fault(deed)))
}

fn written(history: &History, event: &history::Event) -> Event {
    let number = |id: &history::RecordId| id.0 as u64;
    match event {
        history::Event::Sent(id) => {
            let intent = history.intent(*id);
            Event::Invoke {
                record: number(id),
                key: intent.key.clone(),
                hash_key: intent.hash.map(|hash| hash.to_string()),
                data: Data::from(&intent.data[..]),
            }
        }
        history::Event::SentAgain(id) => Event::Again { record: number(id) },
        history::Event::Acked(id, position) => Event::Ok {
            record: number(id),
            shard: position.shard.clone(),
            sequence_number: position.number.to_string(),
        },
        history::Event::Refused(id) => Event::Refused { record: number(id), why: String::new() },
        history::Event::Unknown(id) => Event::Unknown { record: number(id), why: String::new() },
        history::Event::Read(_, stored) => Event::Observed {
            shard: stored.position.shard.clone(),
            sequence_number: stored.position.number.to_string(),
            key: stored.key.clone(),
            data: Data::from(&stored.data[..]),
        },
        history::Event::ReadAll(_, shard) => Event::ObservedAll { shard: shard.clone() },
        history::Event::Map(map) => {
            let shard = |seen: &history::ShardSeen| Shard {
                shard: seen.shard.clone(),
                range: [seen.range.first, seen.range.last].map(|key| key.to_string()),
                parents: seen.parents.clone(),
                open: seen.open,
            };
            Event::Shards { shards: map.iter().map(shard).collect() }
        }
    }
}
