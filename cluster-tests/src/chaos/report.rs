//! What came of a run.
//!
//! Must not know how it went.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::schedule::Kind;
use crate::recording::{Case, Ruling, Story};
use crate::soak::Promise;

/// What became of the faults of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many were inflicted.
    pub inflicted: u64,
    /// How many of them met something: a process that died or stood still, a message that was held.
    pub hit: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How long faults came.
    pub storm_ms: u128,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, Count>,
    /// Splits and merges that came to their end.
    pub reshards: usize,
    /// Records acked.
    pub acked: usize,
    /// Attempts of unknown outcome.
    pub unknown: usize,
    /// Calls of which a client saw an error.
    pub errors: usize,
    /// Longest time without any ack.
    pub silence_ms: u128,
    /// Why the cluster did not come to rest after the faults, if so.
    pub not_healed: Option<String>,
    /// What else went wrong once faults came: a node that did not serve again, a reader that was misled, no end in time.
    pub failures: Vec<String>,
    /// The promises.
    pub promises: Vec<Promise>,
    /// The first breaches of each broken promise, with what was recorded about them.
    pub stories: BTreeMap<&'static str, Vec<Story>>,
    /// Where the history is.
    pub history: Option<PathBuf>,
}

impl Report {
    /// Whether no promise is broken, the cluster healed, nothing else failed, and every kind of fault hit.
    pub fn is_clean(&self) -> bool {
        self.promises.iter().all(|promise| promise.holds)
            && self.not_healed.is_none()
            && self.failures.is_empty()
            && self.missing().is_empty()
    }

    /// A promise as a recording of the run shows it.
    pub(super) fn promise(case: &Case) -> Promise {
        let shown = case.ruling != Ruling::NotApplicable;
        let breaches = case.stories.iter().map(|story| story.what.clone());
        Promise {
            promise: case.promise,
            holds: case.ruling == Ruling::Held,
            checked: if shown { case.checked } else { 0 },
            told: breaches.chain(case.note.clone()).collect(),
        }
    }

    /// Kinds of faults that never met anything: they were not tested.
    pub fn missing(&self) -> Vec<Kind> {
        let hit = |kind: &Kind| self.faults.get(kind).is_some_and(|count| count.hit > 0);
        Kind::ALL.into_iter().filter(|kind| !hit(kind)).collect()
    }
}

/// An error in one line: the logs that some carry stand elsewhere.
pub(super) fn brief(error: &anyhow::Error) -> String {
    let causes = error.chain().map(ToString::to_string);
    let short: Vec<String> = causes.filter(|words| !words.contains('\n')).collect();
    if short.is_empty() {
        return error.to_string().lines().next().unwrap_or_default().to_owned();
    }
    short.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(faults: BTreeMap<Kind, Count>) -> Report {
        let holds = Promise { promise: "p", holds: true, checked: 1, told: vec![] };
        Report {
            seed: 1,
            storm_ms: 1,
            faults,
            reshards: 1,
            acked: 1,
            unknown: 0,
            errors: 0,
            silence_ms: 0,
            not_healed: None,
            failures: vec![],
            promises: vec![holds],
            stories: BTreeMap::new(),
            history: None,
        }
    }

    #[test]
    fn a_run_is_clean_only_if_all_holds_and_all_was_tried() {
        let all: BTreeMap<Kind, Count> =
            Kind::ALL.into_iter().map(|kind| (kind, Count { inflicted: 2, hit: 1 })).collect();
        let clean = report(all.clone());
        assert!(clean.is_clean());
        let mut broken = clean.clone();
        broken.promises[0].holds = false;
        assert!(!broken.is_clean());
        let sick = Report { not_healed: Some("no acks".to_owned()), ..clean.clone() };
        assert!(!sick.is_clean());
        let late = Report { failures: vec!["not over".to_owned()], ..clean.clone() };
        assert!(!late.is_clean());
        for kind in Kind::ALL {
            let mut some = all.clone();
            some.insert(kind, Count { inflicted: 5, hit: 0 });
            assert_eq!(report(some.clone()).missing(), [kind]);
            some.remove(&kind);
            assert!(!report(some).is_clean(), "{kind:?} never came");
        }
    }

    #[test]
    fn errors_are_told_without_the_logs_that_they_carry() {
        let error = anyhow::anyhow!("waited 60 s").context("--- up.err\nmany\nlines");
        assert_eq!(brief(&error.context("kill -9 az-b")), "kill -9 az-b: waited 60 s");
        assert_eq!(brief(&anyhow::anyhow!("one\ntwo")), "one");
    }

    #[test]
    fn what_a_recording_does_not_show_neither_holds_nor_is_checked() {
        let case = |ruling| Case {
            promise: "p",
            ruling,
            checked: 7,
            broken: 0,
            note: Some("why".to_owned()),
            stories: vec![],
        };
        for (ruling, holds, checked) in
            [(Ruling::Held, true, 7), (Ruling::Broken, false, 7), (Ruling::NotApplicable, false, 0)]
        {
            let promise = Report::promise(&case(ruling));
            assert_eq!((promise.holds, promise.checked), (holds, checked), "{ruling:?}");
            assert_eq!(promise.told, ["why"]);
        }
    }
}
