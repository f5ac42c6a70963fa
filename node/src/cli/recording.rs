//! A recording of what this command does and sees, for `tristream-lab verify`.
//!
//! Invariant: every line is with the operating system before what comes after it happens; a recording that cannot be
//! written ends the command, for one with holes would accuse the cluster.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tristream_client::{Error, StreamDescription};
use tristream_proto::domain::{Effect, Record, SequenceNumber, StoredRecord, StreamName};
use tristream_proto::recording::{Data, Event, FORMAT, Line, Shard};

use crate::clock::{Clock, SystemClock};
use crate::entropy::{Entropy, OsEntropy};

/// A file that lines are added to.
pub(super) struct Recording {
    file: File,
    path: PathBuf,
    by: String,
}

impl Recording {
    /// Adds to the file, which may hold other recordings of the stream. `what` names the command.
    pub(super) fn open(path: &Path, what: &str, stream: &StreamName) -> anyhow::Result<Recording> {
        let by = format!("{what}-{:08x}", OsEntropy.u64() >> 32);
        let file = append(path).with_context(|| format!("cannot record to {}", path.display()))?;
        let mut recording = Recording { file, path: path.to_owned(), by };
        recording.write(Event::Begin { format: FORMAT, stream: stream.to_string() })?;
        Ok(recording)
    }

    /// The same where the user asked for one.
    pub(super) fn open_if(
        path: Option<&PathBuf>,
        what: &str,
        stream: &StreamName,
    ) -> anyhow::Result<Option<Recording>> {
        path.map(|path| Recording::open(path, what, stream)).transpose()
    }

    pub(super) fn write(&mut self, event: Event) -> anyhow::Result<()> {
        let line = Line { at_ms: SystemClock.now().0, by: self.by.clone(), event };
        let mut write = || -> io::Result<()> {
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            // One call: other commands may write to the same file.
            self.file.write_all(&text)
        };
        write().with_context(|| format!("cannot record to {}", self.path.display()))
    }

    /// The record sets out now.
    pub(super) fn invoke(&mut self, number: u64, record: &Record) -> anyhow::Result<()> {
        self.write(Event::Invoke {
            record: number,
            key: Some(record.partition_key.as_str().to_owned()),
            hash_key: record.explicit_hash_key.map(|key| key.to_string()),
            data: Data::from(&record.data[..]),
        })
    }

    /// What became of it is known now.
    pub(super) fn outcome(
        &mut self,
        record: u64,
        outcome: &Result<SequenceNumber, Error>,
    ) -> anyhow::Result<()> {
        self.write(match outcome {
            Ok(number) => Event::Ok {
                record,
                shard: number.shard.to_string(),
                sequence_number: number.to_string(),
            },
            Err(error) => match error.effect() {
                Effect::None => Event::Refused { record, why: error.to_string() },
                Effect::Unknown => Event::Unknown { record, why: error.to_string() },
            },
        })
    }

    /// A record was read.
    pub(super) fn observed(&mut self, record: &StoredRecord) -> anyhow::Result<()> {
        self.write(Event::Observed {
            shard: record.sequence_number.shard.to_string(),
            sequence_number: record.sequence_number.to_string(),
            key: record.partition_key.as_str().to_owned(),
            data: Data::from(&record.data[..]),
        })
    }

    /// All shards, as a node told.
    pub(super) fn shards(&mut self, stream: &StreamDescription) -> anyhow::Result<()> {
        let shards = stream.map.shards().iter().map(Shard::from).collect();
        self.write(Event::Shards { shards })
    }
}

/// Opens for adding lines. What a killed command left of its last line is closed, and is no line of ours.
fn append(path: &Path) -> io::Result<File> {
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{PartitionKey, ShardId};

    #[test]
    fn recordings_are_added_to_and_a_torn_line_is_closed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("history.jsonl");
        let stream: StreamName = "orders".parse().expect("a name");
        let record = Record {
            partition_key: PartitionKey::new("k").expect("a key"),
            explicit_hash_key: None,
            origin: None,
            data: b"a".as_slice().into(),
        };
        let mut first = Recording::open(&path, "put", &stream).expect("opened");
        first.invoke(1, &record).expect("written");
        let number = SequenceNumber::start_of(ShardId::from(3), 1_790_000_000);
        first.outcome(1, &Ok(number)).expect("written");
        first.file.write_all(br#"{"at_ms":17,"by"#).expect("torn");
        let mut second = Recording::open(&path, "put", &stream).expect("opened");
        second.outcome(1, &Err(Error::Unknown("cut".to_owned()))).expect("written");
        second.outcome(2, &Err(Error::Throttled("full".to_owned()))).expect("written");
        assert_ne!(first.by, second.by);
        let text = std::fs::read_to_string(&path).expect("readable");
        let lines: Vec<Option<Line>> =
            text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        let torn: Vec<bool> = lines.iter().map(Option::is_none).collect();
        assert_eq!(torn, [false, false, false, true, false, false, false]);
        let last: Vec<Event> = lines.into_iter().flatten().map(|line| line.event).collect();
        assert!(matches!(&last[4], Event::Unknown { record: 1, .. }), "{last:?}");
        assert!(matches!(&last[5], Event::Refused { record: 2, .. }), "{last:?}");
        assert!(
            matches!(&last[2], Event::Ok { sequence_number, .. } if *sequence_number == number.to_string())
        );
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let stream: StreamName = "orders".parse().expect("a name");
        let refused = Recording::open(Path::new("/nonexistent/x"), "put", &stream);
        let text = format!("{:#}", refused.err().expect("no such folder"));
        assert!(text.contains("/nonexistent/x"), "{text}");
    }
}
