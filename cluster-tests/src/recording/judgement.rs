//! Recordings before the promises: which of them apply, whether they held, and the lines that each breach is about.
//!
//! Invariant: a promise that a recording cannot show is `NotApplicable`, with the reason, and never `Held`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::assembly::{Assembly, assemble};
use super::{Place, Recording};
use crate::promises::{self, Verdict};
use tristream_client::recording::Event;

/// Lines of a story; the rest is counted.
pub(super) const LINES_MAX: usize = 16;
/// Lines of faults that are told with it: as many before it as tell what was under way, and what came next.
pub(super) const FAULTS_BEFORE: usize = 4;
pub(super) const FAULTS_AFTER: usize = 2;

/// What the user knows of the recordings.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// They hold every put to the stream.
    pub all_puts: bool,
    /// Records are kept at least so long.
    pub retention: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        // No stream keeps less, by Kinesis' rules.
        Settings { all_puts: false, retention: Duration::from_secs(24 * 3600) }
    }
}

/// What is said of one promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It held, wherever it could be seen.
    Held,
    /// It did not.
    Broken,
    /// The recordings do not show it.
    NotApplicable,
}

/// One promise.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Its name.
    pub promise: &'static str,
    /// What is said.
    pub ruling: Ruling,
    /// Facts compared.
    pub checked: u64,
    /// Those of them that break it.
    pub broken: u64,
    /// Why it does not apply, or what was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The first breaches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stories: Vec<Story>,
}

/// A breach, as short as it can be told.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    /// What is wrong.
    pub what: String,
    /// The lines about it: who sent it, who was told what, who read it or did not.
    pub lines: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    /// The stream.
    pub stream: String,
    /// Records that were sent.
    pub sent: usize,
    /// Those that were acked.
    pub acked: usize,
    /// Attempts of unknown outcome.
    pub unknown: usize,
    /// Places read that hold what nobody recorded.
    pub foreign: usize,
    /// Half lines that killed recorders left.
    pub torn_lines: usize,
    /// The promises.
    pub promises: Vec<Case>,
}

impl Judgement {
    /// Whether no promise was broken.
    pub fn is_clean(&self) -> bool {
        self.promises.iter().all(|case| case.ruling != Ruling::Broken)
    }
}

/// Judges recordings together. An error says that they are none, or do not belong together.
pub fn judge(paths: &[PathBuf], settings: &Settings) -> anyhow::Result<Judgement> {
    let recording = Recording::read(paths)?;
    let assembly = assemble(&recording, settings)?;
    let history = &assembly.history;
    let verdicts = promises::judge(history);
    let case = |verdict| rule(verdict, &recording, &assembly, settings);
    Ok(Judgement {
        stream: recording.stream.clone(),
        sent: history.intents().len(),
        acked: history.acked(),
        unknown: history.unknown(),
        foreign: assembly.foreign,
        torn_lines: recording.torn,
        promises: verdicts.into_iter().map(case).collect(),
    })
}

fn rule(verdict: Verdict, recording: &Recording, assembly: &Assembly, settings: &Settings) -> Case {
    let why_not = why_not(&verdict, assembly, settings);
    let (ruling, note) = match (verdict.broken, why_not) {
        // What the recording leaves out would excuse it.
        (_, Some((Excuse::All, why))) => (Ruling::NotApplicable, Some(why)),
        (0, Some((Excuse::Silence, why))) => (Ruling::NotApplicable, Some(why)),
        (0, None) => (Ruling::Held, left_out(&verdict)),
        (_, _) => (Ruling::Broken, left_out(&verdict)),
    };
    let mut stories = Vec::new();
    if ruling == Ruling::Broken {
        let told = verdict.told.into_iter().zip(&verdict.about);
        stories.extend(told.map(|(what, about)| Story {
            what,
            lines: tell(recording, &assembly.lines_about(about)),
        }));
    }
    let Verdict { promise, checked, broken, .. } = verdict;
    Case { promise, ruling, checked, broken, note, stories }
}

/// What a reason not to judge excuses.
enum Excuse {
    /// A breach too: it may be none.
    All,
    /// Only that nothing was found.
    Silence,
}

fn why_not(
    verdict: &Verdict,
    assembly: &Assembly,
    settings: &Settings,
) -> Option<(Excuse, String)> {
    let Assembly { foreign, doubtful, unlisted, .. } = assembly;
    let open = !settings.all_puts;
    let needs_lists = matches!(verdict.promise, "order_per_key" | "ranges_tile");
    if needs_lists && let Some(shard) = unlisted.first() {
        return Some((Excuse::All, format!("no list of shards that has {shard} was recorded")));
    }
    let why = match verdict.promise {
        "no_phantom_records" if open && *foreign > 0 => format!(
            "{foreign} places hold what was not recorded; --all-puts says that nobody else put"
        ),
        "nothing_stored_twice" if open && *doubtful > 0 => format!(
            "{doubtful} places hold a copy that somebody else may have put; \
             --all-puts says that nobody did"
        ),
        _ if verdict.checked > 0 => return None,
        "acked_records_survive" => "nothing was both acked and then read: record a \
             `tail --from trim-horizon --no-follow` after the puts"
            .to_owned(),
        "ranges_tile" => "no list of shards was recorded".to_owned(),
        _ => "nothing was recorded that could break it".to_owned(),
    };
    Some((Excuse::Silence, why))
}

fn left_out(verdict: &Verdict) -> Option<String> {
    let unjudged = verdict.unjudged;
    (unjudged > 0).then(|| format!("{unjudged} acks came after what was read"))
}

fn tell(recording: &Recording, lines: &[usize]) -> Vec<String> {
    let mut shown: Vec<usize> = lines.iter().take(LINES_MAX).copied().collect();
    shown.extend(faults_near(recording, lines));
    shown.sort_unstable();
    let line = |place: &Place| format!("{}  {place}", recording.at(place));
    let told = shown.iter().map(|number| line(&recording.lines[*number]));
    let more = lines.len().saturating_sub(LINES_MAX);
    told.chain((more > 0).then(|| format!("and {more} more lines"))).collect()
}

/// What was done to the cluster around the last put that a story is about; around its beginning, if it is about none.
fn faults_near(recording: &Recording, lines: &[usize]) -> Vec<usize> {
    let event = |number: usize| &recording.lines[number].line.event;
    let is_read = |event: &Event| {
        matches!(event, Event::Reading { .. } | Event::Observed { .. } | Event::ObservedAll { .. })
    };
    let put = lines.iter().rfind(|number| !is_read(event(**number)));
    let Some(moment) = put.or(lines.first()).copied() else { return Vec::new() };
    let is_fault = |number: &usize| matches!(event(*number), Event::Fault { .. });
    let before = (0..moment).rev().filter(is_fault).take(FAULTS_BEFORE);
    let after = (moment..recording.lines.len()).filter(is_fault).take(FAULTS_AFTER);
    before.chain(after).collect()
}
