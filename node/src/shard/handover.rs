//! What passes from a parent to its children when a stream is resharded.
//!
//! The order that keeps every promise: the parent is sealed by an entry in its own log, so that its end
//! is exact; a child takes no record before an entry in its own log has opened it, which comes after
//! the parents' ends and brings everything they remembered. Each step does nothing the second time.
//! Must not know who drives the steps.

use bytes::Bytes;
use tristream_proto::domain::{ShardId, Timestamp};

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
