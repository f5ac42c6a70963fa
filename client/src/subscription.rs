//! One shard, read to its end or for as long as the caller likes, across reconnects.
//!
//! Invariant: every record from the start on is given once and in order, whichever nodes it comes from: a
//! new connection asks for exactly what follows the last event given, and what is seen again is dropped.
//! Must not know what is read after the shard's end.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::Streaming;
use tristream_proto::domain::{
    MapVersion, NodeId, SequenceNumber, Shard, ShardId, StoredRecord, StreamName, Timestamp,
};
use tristream_proto::wire::{self, subscribe_request::From as WireFrom};

use crate::client::{Client, answer};
use crate::error::{Error, accepted};
use crate::retry::{Policy, Retries, Step};

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record still kept.
    TrimHorizon,
    /// After the newest record, as of now.
    Latest,
    /// The first record that arrived at or after this time.
    Timestamp(Timestamp),
    /// The record of this number.
    At(SequenceNumber),
    /// The record after the one of this number.
    After(SequenceNumber),
}

/// What a subscription gives: records, or a sign that there are none at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The shard.
    pub shard: ShardId,
    /// In order; empty in a heartbeat.
    pub records: Vec<StoredRecord>,
    /// Milliseconds by which the newest record sent is behind; 0 at the tip.
    pub millis_behind: u64,
    /// The node knows no quorum: a correct prefix, perhaps not all.
    pub stale: bool,
    /// The position after this event, which perhaps no record has yet.
    pub next: Option<SequenceNumber>,
    /// Only in the shard's last event: it was split or merged, and all of its records were given.
    pub end: Option<End>,
}

/// Where a shard's keys go on after its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The shards that came from it; at least one.
    pub children: Vec<Shard>,
    /// A map version that has them.
    pub map_version: MapVersion,
}

/// A subscription to one shard.
pub struct Subscription {
    client: Client,
    stream: StreamName,
    shard: Shard,
    place: Place,
    open: Option<(Option<NodeId>, Streaming<wire::SubscribeEvent>)>,
    retries: Retries,
    attempt: usize,
    failing_since: Option<Instant>,
    ended: bool,
}

impl Subscription {
    pub(crate) fn new(client: Client, stream: StreamName, shard: &Shard, start: Start) -> Self {
        let retries = Retries::new(Policy::Always, client.options());
        Subscription {
            client,
            stream,
            shard: shard.clone(),
            place: Place { start, last: None, next: None },
            open: None,
            retries,
            attempt: 0,
            failing_since: None,
            ended: false,
        }
    }

    /// The shard that is read.
    pub fn shard(&self) -> ShardId {
        self.shard.id
    }

    /// How many subscriptions a consumer may have open.
    pub(crate) fn open_max(&self) -> usize {
        self.client.options().subscriptions_max.max(1)
    }

    /// The next event; `None` after the last one, which has an `end`. Reconnects by itself; gives an error
    /// when that failed for the whole deadline, or when trying again is of no use. After an error that says
    /// "retry" the next call goes on where this left off. A call that is dropped before it returns loses
    /// nothing.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let error = match self.attempt().await {
                Ok(event) => match self.place.take(self.shard.id, event) {
                    Ok(event) => {
                        self.succeeded();
                        self.ended = event.end.is_some();
                        if self.ended {
                            self.park();
                        }
                        return Ok(Some(event));
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.failed(&error).await?;
        }
    }

    /// Gives up the connection, not the place: the next call opens another.
    pub(crate) fn park(&mut self) {
        self.open = None;
    }

    /// One event from the open stream, which is opened first where there is none.
    async fn attempt(&mut self) -> Result<wire::SubscribeEvent, Error> {
        if self.open.is_none() {
            self.open = Some(self.connect().await?);
        }
        let Some((_, stream)) = &mut self.open else { unreachable!("just opened") };
        let silence = self.client.options().silence_max;
        match timeout(silence, stream.message()).await {
            Ok(Ok(Some(event))) => {
                accepted(event.refusal.clone())?;
                Ok(event)
            }
            Ok(Ok(None)) => Err(Error::Unavailable("the node ended the subscription".to_owned())),
            Ok(Err(status)) => Err(Error::from_status(&status)),
            Err(_) => Err(Error::from_silence(silence)),
        }
    }

    async fn connect(&self) -> Result<(Option<NodeId>, Streaming<wire::SubscribeEvent>), Error> {
        let (node, mut stub) = self.client.target(&self.shard, self.attempt)?;
        let request = wire::SubscribeRequest {
            stream: self.stream.to_string(),
            shard_index: self.shard.id.index(),
            from: Some(self.place.ask_from()),
        };
        let patience = self.client.options().attempt_timeout;
        let opened = match timeout(patience, stub.subscribe(request)).await {
            Ok(response) => answer(response),
            Err(_) => Err(Error::from_silence(patience)),
        };
        match opened {
            Ok(stream) => Ok((node, stream)),
            Err(error) => {
                self.client.heed(&self.shard, node, &error);
                Err(error)
            }
        }
    }

    fn succeeded(&mut self) {
        self.failing_since = None;
        self.retries = Retries::new(Policy::Always, self.client.options());
    }

    async fn failed(&mut self, error: &Error) -> Result<(), Error> {
        if let Some((node, _)) = self.open.take() {
            self.client.heed(&self.shard, node, error);
        }
        self.attempt += 1;
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let deadline = self.client.options().deadline;
        tracing::debug!(%error, shard = %self.shard.id, "subscription broke off");
        let wait = match self.retries.after(error, self.client.draw()) {
            Step::Again(wait) if since.elapsed() + wait < deadline => wait,
            Step::Again(_) | Step::Late => {
                self.failing_since = None;
                return Err(error.clone().at_deadline(deadline));
            }
            Step::GiveUp => return Err(error.clone()),
        };
        pause(wait).await;
        Ok(())
    }
}

async fn pause(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

/// How far the reader is: the pure core.
#[derive(Clone, Debug)]
struct Place {
    start: Start,
    last: Option<SequenceNumber>,
    next: Option<SequenceNumber>,
}

impl Place {
    /// What to ask the next node for.
    fn ask_from(&self) -> WireFrom {
        match (self.next, self.last, self.start) {
            // It matters before the first record: `Latest` asked for again would be a later place.
            (Some(next), _, _) => WireFrom::AtSequenceNumber(next.to_string()),
            (None, Some(last), _) => WireFrom::AfterSequenceNumber(last.to_string()),
            (None, None, Start::TrimHorizon) => WireFrom::TrimHorizon(true),
            (None, None, Start::Latest) => WireFrom::Latest(true),
            (None, None, Start::Timestamp(at)) => WireFrom::AtTimestampMs(at.0),
            (None, None, Start::At(number)) => WireFrom::AtSequenceNumber(number.to_string()),
            (None, None, Start::After(number)) => WireFrom::AfterSequenceNumber(number.to_string()),
        }
    }

    /// Takes an event in; drops records that were given before.
    fn take(&mut self, shard: ShardId, event: wire::SubscribeEvent) -> Result<Event, Error> {
        let bad = |what: String| Error::Protocol(what);
        let next = match event.next_sequence_number.as_str() {
            "" => None,
            text => Some(text.parse::<SequenceNumber>().map_err(|error| bad(error.to_string()))?),
        };
        let end = end_of(shard, event.children, event.map_version)?;
        let mut last = self.last;
        let mut records = Vec::with_capacity(event.records.len());
        let mut previous: Option<SequenceNumber> = None;
        for record in event.records {
            let record = StoredRecord::try_from(record).map_err(|error| bad(error.to_string()))?;
            let number = record.sequence_number;
            if number.shard != shard || previous.is_some_and(|previous| previous >= number) {
                return Err(bad(format!("{number} is out of order in {shard}")));
            }
            previous = Some(number);
            if last.is_none_or(|last| last < number) {
                last = Some(number);
                records.push(record);
            }
        }
        self.last = last;
        self.next = match (self.next, next) {
            (Some(known), Some(next)) if next.counter < known.counter => Some(known),
            (known, next) => next.or(known.filter(|known| after(*known, last))),
        };
        let (millis_behind, stale) = (event.millis_behind, event.stale);
        Ok(Event { shard, records, millis_behind, stale, next: self.next, end })
    }
}

fn end_of(
    shard: ShardId,
    children: Vec<wire::ChildShard>,
    map_version: u64,
) -> Result<Option<End>, Error> {
    let child = |child: wire::ChildShard| {
        let child = child.shard.as_ref().map(Shard::try_from).transpose();
        let child = child.map_err(|error| Error::Protocol(error.to_string()))?;
        child.filter(|child| child.parents.contains(&shard)).ok_or_else(|| {
            Error::Protocol(format!("{shard} ended in a shard that is no child of it"))
        })
    };
    let children = children.into_iter().map(child).collect::<Result<Vec<_>, _>>()?;
    let end = End { children, map_version: MapVersion(map_version) };
    Ok(Some(end).filter(|end| !end.children.is_empty()))
}

/// Whether `place` is past `last`: an older place must not bring records back.
fn after(place: SequenceNumber, last: Option<SequenceNumber>) -> bool {
    last.is_none_or(|last| last.counter < place.counter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{GroupId, HashKeyRange, PartitionKey};

    fn number(counter: u64) -> SequenceNumber {
        SequenceNumber {
            creation_second: 1_790_000_000,
            shard: ShardId::from(0),
            counter,
            record_second: 1_790_000_001,
        }
    }

    fn event(counters: &[u64], next: Option<u64>) -> wire::SubscribeEvent {
        let record = |&counter: &u64| StoredRecord {
            sequence_number: number(counter),
            arrival: Timestamp(1),
            partition_key: PartitionKey::new("k").expect("a key"),
            data: "d".into(),
        };
        wire::SubscribeEvent {
            records: counters.iter().map(|c| wire::StoredRecord::from(&record(c))).collect(),
            next_sequence_number: next.map(|n| number(n).to_string()).unwrap_or_default(),
            ..Default::default()
        }
    }

    fn take(place: &mut Place, event: wire::SubscribeEvent) -> Result<Vec<u64>, Error> {
        let event = place.take(ShardId::from(0), event)?;
        Ok(event.records.iter().map(|record| record.sequence_number.counter).collect())
    }

    fn place(start: Start) -> Place {
        Place { start, last: None, next: None }
    }

    #[test]
    fn records_seen_before_are_dropped() {
        let mut place = place(Start::TrimHorizon);
        assert_eq!(take(&mut place, event(&[1, 2, 3], None)), Ok(vec![1, 2, 3]));
        assert_eq!(take(&mut place, event(&[2, 3, 4], None)), Ok(vec![4]));
        assert_eq!(place.ask_from(), WireFrom::AfterSequenceNumber(number(4).to_string()));
    }

    #[test]
    fn a_node_that_breaks_the_order_is_not_believed() {
        for bad in [&[2, 1][..], &[1, 1]] {
            let mut place = place(Start::TrimHorizon);
            assert!(matches!(take(&mut place, event(bad, None)), Err(Error::Protocol(_))));
            assert_eq!(place.last, None, "nothing of the event counts");
        }
        let elsewhere = place(Start::TrimHorizon).take(ShardId::from(1), event(&[1], None));
        assert!(matches!(elsewhere, Err(Error::Protocol(_))));
    }

    #[test]
    fn a_reconnect_goes_on_at_the_position_named_even_before_the_first_record() {
        let mut place = place(Start::Latest);
        assert_eq!(place.ask_from(), WireFrom::Latest(true));
        assert_eq!(take(&mut place, event(&[], Some(10))), Ok(vec![]));
        assert_eq!(place.ask_from(), WireFrom::AtSequenceNumber(number(10).to_string()));
        assert_eq!(take(&mut place, event(&[12], Some(13))), Ok(vec![12]));
        assert_eq!(place.ask_from(), WireFrom::AtSequenceNumber(number(13).to_string()));
    }

    #[test]
    fn an_end_names_children_of_the_shard() {
        let child = |parents: &[u32]| Shard {
            id: ShardId::from(4),
            group: GroupId(9),
            range: HashKeyRange::uniform(1)[0],
            creation_second: 1_790_000_100,
            parents: parents.iter().map(|&parent| ShardId::from(parent)).collect(),
            replicas: vec![NodeId(1)],
            closed_second: None,
        };
        let ends = |shard: Shard| wire::SubscribeEvent {
            children: vec![wire::ChildShard { shard: Some(wire::Shard::from(&shard)) }],
            map_version: 7,
            ..event(&[3], None)
        };
        let mut place = place(Start::TrimHorizon);
        let last = place.take(ShardId::from(0), ends(child(&[0, 1]))).expect("an event");
        let end = End { children: vec![child(&[0, 1])], map_version: MapVersion(7) };
        assert_eq!((last.records.len(), last.end), (1, Some(end)));
        let stranger = place.take(ShardId::from(0), ends(child(&[1])));
        assert!(matches!(stranger, Err(Error::Protocol(_))), "{stranger:?}");
        let empty = wire::SubscribeEvent {
            children: vec![wire::ChildShard { shard: None }],
            ..Default::default()
        };
        assert!(matches!(place.take(ShardId::from(0), empty), Err(Error::Protocol(_))));
    }

    #[test]
    fn a_place_never_goes_back() {
        let mut place = place(Start::TrimHorizon);
        assert_eq!(take(&mut place, event(&[1], Some(20))), Ok(vec![1]));
        assert_eq!(take(&mut place, event(&[], Some(5))), Ok(vec![]));
        assert_eq!(place.ask_from(), WireFrom::AtSequenceNumber(number(20).to_string()));
        // A node that names no place: its records are past the place known, which is of no use then.
        assert_eq!(take(&mut place, event(&[25], None)), Ok(vec![25]));
        assert_eq!(place.ask_from(), WireFrom::AfterSequenceNumber(number(25).to_string()));
    }
}
