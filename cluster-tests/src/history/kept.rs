//! Whether a record may have expired, by what the nodes' clocks showed while the history came about.
//!
//! A record expires by its stamp: of the leader's clock, at some time between the first attempt to put it and
//! the moment at which it was known to be there. It may go once a leader's clock, with which a majority agrees,
//! shows more than that and the retention. Both are taken as far towards expiry as the clocks allow, and no further.
//!
//! Pure. Invariant: clocks of events never meet later ones. Must not know what a node says of expiry.

use std::time::Duration;

use tristream_client::domain;

use super::{Event, History, RecordId, SequenceNumber};

/// What the nodes' clocks showed up to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clocks {
    /// The lowest that any of them showed since the event before, in ms.
    lowest: u64,
    /// The highest that one showed with which a majority agreed, ever, in ms.
    agreed: u64,
}

/// For how long records are kept, and what clocks show.
#[derive(Debug)]
pub(super) struct Kept {
    retention: Duration,
    now: Clocks,
    /// The lowest since the last event.
    lowest: u64,
    /// By record: as which event it was first sent.
    sent: Vec<Option<usize>>,
}

impl Kept {
    pub(super) fn new(retention: Duration) -> Kept {
        let now = Clocks { lowest: 0, agreed: 0 };
        Kept { retention, now, lowest: 0, sent: Vec::new() }
    }

    /// An event happens: what clocks showed until now is its.
    pub(super) fn note(&mut self, place: usize, event: &Event) -> Clocks {
        if let Event::Sent(RecordId(id)) = *event {
            self.sent.resize(self.sent.len().max(id + 1), None);
            self.sent[id].get_or_insert(place);
        }
        let clocks = Clocks { lowest: self.lowest, agreed: self.now.agreed };
        self.lowest = self.now.lowest;
        clocks
    }
}

impl History {
    /// Of a stream whose records are kept for so long only. [`History::clocks_show`] is to be told from the
    /// beginning.
    pub fn expiring(retention: Duration) -> History {
        History { kept: Some(Kept::new(retention)), ..History::new() }
    }

    /// Whether records may have expired.
    pub fn expires(&self) -> bool {
        self.kept.is_some()
    }

    /// From now on the lowest of the nodes' clocks shows `lowest`, and the highest with which a majority agrees
    /// `agreed`, in ms; none if no two agree.
    pub fn clocks_show(&mut self, lowest: u64, agreed: Option<u64>) {
        let Some(kept) = &mut self.kept else { return };
        kept.now.lowest = lowest;
        kept.lowest = kept.lowest.min(lowest);
        kept.now.agreed = kept.now.agreed.max(agreed.unwrap_or_default());
    }

    /// The highest that a clock has shown with which a majority agreed, in ms.
    pub(super) fn agreed_now(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.now.agreed)
    }

    /// The same, as of an event.
    pub fn agreed_at(&self, place: usize) -> u64 {
        self.events[place].clocks.map_or(0, |clocks| clocks.agreed)
    }

    /// Whether a record may be gone when clocks have shown `agreed`. That it is there was known as of the event
    /// `known`, and it has this number.
    pub fn may_have_expired(
        &self,
        id: RecordId,
        number: &SequenceNumber,
        known: usize,
        agreed: u64,
    ) -> bool {
        let Some(kept) = &self.kept else { return false };
        // Nothing expires that nobody sent.
        let Some(sent) = kept.sent.get(id.0).copied().flatten() else { return false };
        let later = self.events.get(sent + 1..=known).unwrap_or_default();
        let lowest = later.iter().filter_map(|noted| noted.clocks).map(|clocks| clocks.lowest);
        // A number tells the second of the stamp.
        let stamp = lowest.min().unwrap_or_default().max(stamp_of(number));
        stamp.saturating_add(kept.retention.as_millis() as u64) < agreed
    }
}

/// The stamp that a number tells of, in ms, to the second below.
fn stamp_of(number: &SequenceNumber) -> u64 {
    let number = number.0.parse::<domain::SequenceNumber>();
    number.map_or(0, |number| number.record_second.saturating_mul(1000))
}
