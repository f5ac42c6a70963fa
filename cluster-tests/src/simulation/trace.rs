//! Everything the run logs, as one hash: at debug level two runs are the same if and only if these are.
//!
//! Must not know what is logged.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// What a node says when it has handed a shard to the leader that the shard prefers: no metric tells.
const LEADER_MOVED: &str = "leadership handed to the preferred leader";

/// Log of a run. Clones are the same log.
#[derive(Clone)]
pub(super) struct Trace {
    level: Level,
    state: Arc<Mutex<State>>,
}

struct State {
    hash: u64,
    lines: u64,
    leader_moves: u64,
    line: String,
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// A log down to `level`, also written to `file`, where one is given.
    pub(super) fn new(level: Level, file: Option<&Path>) -> io::Result<Trace> {
        let file = file.map(File::create).transpose()?.map(BufWriter::new);
        let hash = 0xcbf2_9ce4_8422_2325;
        let state = State { hash, lines: 0, leader_moves: 0, line: String::new(), file };
        Ok(Trace { level, state: Arc::new(Mutex::new(state)) })
    }

    /// The hash of all lines, and how many there were.
    pub(super) fn sum(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        if let Some(file) = &mut state.file {
            // The run does not depend on its copy on disk.
            let _ = file.flush();
        }
        (state.hash, state.lines)
    }

    /// How often leadership was handed over, on purpose.
    pub(super) fn leader_moves(&self) -> u64 {
        self.state.lock().leader_moves
    }
}

impl State {
    fn end_line(&mut self) {
        self.leader_moves += u64::from(self.line.contains(LEADER_MOVED));
        self.line.push('\n');
        // FNV-1a over words: what matters is that it is the same everywhere, and quick.
        for piece in self.line.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            let mixed = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
            // Multiplying carries upwards only.
            self.hash = mixed ^ (mixed >> 32);
        }
        self.lines += 1;
        if let Some(file) = &mut self.file {
            let _ = file.write_all(self.line.as_bytes());
        }
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Trace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        // Formatted outside the lock: a `Debug` may log.
        let now = turmoil::sim_elapsed().unwrap_or_default();
        let metadata = event.metadata();
        let mut line = String::with_capacity(256);
        let _ =
            write!(line, "{:>9.3} {} {}", now.as_secs_f64(), metadata.level(), metadata.target());
        event.record(&mut Fields(&mut line));
        let mut state = self.state.lock();
        state.line = line;
        state.end_line();
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
