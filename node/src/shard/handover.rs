//! What passes from a parent to its children when a stream is resharded.
//!
//! The order that keeps every promise: the parent is sealed by an entry in its own log, so that its
//! end is exact; a child takes no record before an entry in its own log has opened it, which comes
//! after the parents' ends and brings everything they remembered. Each step does nothing the second
//! time. Must not know who drives the steps.

use bytes::Bytes;
use tristream_proto::domain::{ShardId, Timestamp};

use super::window::Rows;
use super::{AppendError, command};

/// A part of what a shard remembers of stored calls: entries behind `after`, up to `upto`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowPart {
    /// Whose memory.
    pub parent: ShardId,
    /// The part begins behind this log index of the parent.
    pub after: u64,
    /// And covers everything up to this one.
    pub upto: u64,
    /// The rows: the shard floor's own format.
    pub rows: Bytes,
    /// The parent remembers more, behind `upto`.
    pub more: bool,
}

/// How a shard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Second of the seal. No record has a later stamp.
    pub closed_second: u64,
    /// Stamp of the newest record; zero when there is none.
    pub last_arrival: Timestamp,
    /// Index of the seal: no record lies behind it.
    pub end: u64,
}

/// What opens a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Leading field of its sequence numbers; above that of every parent.
    pub creation_second: u64,
    /// Its arrivals do not fall below this.
    pub last_arrival: Timestamp,
    /// Where each parent ends.
    pub parents: Vec<(ShardId, u64)>,
}

/// What a child is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inheritance {
    /// Parts of its parents' windows, of each parent in order.
    pub parts: Vec<WindowPart>,
    /// Opens the child once it has everything up to its parents' ends.
    pub opening: Option<Opening>,
}

/// How far a child is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Whether it takes records.
    pub opened: bool,
    /// Up to which log index of each parent it has the window.
    pub upto: Vec<(ShardId, u64)>,
}

/// A part of an inheritance that makes one entry of the child's log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    part: Option<WindowPart>,
    opening: Option<Opening>,
}

/// One step per part, so that each fits into an entry; the opening goes with the last. Nothing that
/// a replica could not read is let into the log.
pub(super) fn steps(inheritance: Inheritance) -> Result<Vec<Step>, AppendError> {
    for part in &inheritance.parts {
        Rows::decode(&part.rows).map_err(|error| AppendError::Invalid(error.to_string()))?;
    }
    let parts = inheritance.parts.into_iter();
    let mut steps: Vec<Step> = parts.map(|part| Step { part: Some(part), opening: None }).collect();
    match steps.last_mut() {
        Some(last) => last.opening = inheritance.opening,
        None if inheritance.opening.is_some() => {
            steps.push(Step { part: None, opening: inheritance.opening });
        }
        None => {}
    }
    Ok(steps)
}

impl Step {
    /// Whether a child that has `inherited` lacks any of it.
    pub(super) fn brings_news(&self, inherited: &Inherited) -> bool {
        let has = |part: &WindowPart| {
            inherited.upto.iter().any(|(id, upto)| *id == part.parent && *upto >= part.upto)
        };
        self.opening.is_some() || self.part.as_ref().is_some_and(|part| !has(part))
    }

    /// The command; `Invalid` when no entry can hold it.
    pub(super) fn command(&self) -> Result<Bytes, AppendError> {
        command::inherit(self.part.as_slice(), self.opening.as_ref())
            .map_err(|error| AppendError::Invalid(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::window::Window;

    fn part(parent: u32, upto: u64) -> WindowPart {
        let rows = Window::default().encode();
        WindowPart { parent: ShardId::from(parent), after: 0, upto, rows, more: false }
    }

    fn opening() -> Option<Opening> {
        Some(Opening { creation_second: 9, last_arrival: Timestamp(8), parents: vec![] })
    }

    #[test]
    fn the_opening_goes_with_the_last_part_or_alone() {
        let whole = Inheritance { parts: vec![part(3, 5), part(4, 6)], opening: opening() };
        let expected = vec![
            Step { part: Some(part(3, 5)), opening: None },
            Step { part: Some(part(4, 6)), opening: opening() },
        ];
        assert_eq!(steps(whole), Ok(expected));
        let alone = Inheritance { parts: vec![], opening: opening() };
        assert_eq!(steps(alone), Ok(vec![Step { part: None, opening: opening() }]));
        assert_eq!(steps(Inheritance::default()), Ok(vec![]));
    }

    #[test]
    fn what_a_child_has_is_no_news_but_an_opening_always_is() {
        let has = Inherited { opened: false, upto: vec![(ShardId::from(3), 5)] };
        let news = |part| Step { part: Some(part), opening: None }.brings_news(&has);
        assert!(!news(part(3, 5)));
        assert!(news(part(3, 6)));
        assert!(news(part(4, 1)));
        assert!(Step { part: Some(part(3, 5)), opening: opening() }.brings_news(&has));
    }

    #[test]
    fn rows_that_nobody_can_read_never_get_into_the_log() {
        let bad = WindowPart { rows: Bytes::from_static(&[9]), ..part(3, 5) };
        let refused = steps(Inheritance { parts: vec![part(3, 4), bad], opening: None });
        assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
    }
}
