//! Many records: gathered per shard, one request per shard in flight, bounded by bytes.
//!
//! One `Driver` owns the lanes of one stream; it takes one event at a time and applies it. `put_all` runs a
//! driver to its end in the caller's task; a `Producer` runs one in a task of its own.
//! Invariant: records of one key are stored in the order in which they were given, through splits and
//! merges too; each gets its origin before it is first sent, and keeps it. A record that failed leaves a
//! gap, and after an unknown outcome a later record may be stored while the earlier is not.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tristream_proto::domain::{
    CallId, Effect, HashKey, MapVersion, Origin, Record, SequenceNumber, ShardId, StreamName,
    limits,
};

use crate::client::Client;
use crate::error::Error;
use crate::lanes::{Keyed, Lanes};
use crate::map_cache::StreamDescription;
use crate::put::{self, Ended, Put};

/// Records between `Producer::send` and the driver. Bytes are bounded by a semaphore of their own.
const HAND_OVER_MAX: usize = 1024;

type Outcome = Result<SequenceNumber, Error>;

/// Takes records of one stream, one after the other, and stores them in that order per key.
pub struct Producer {
    sender: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    driver: JoinSet<()>,
}

/// What becomes of a record that was sent.
pub struct Receipt(oneshot::Receiver<Outcome>);

impl Receipt {
    /// Waits until the record is durable, refused, or its outcome is known to be unknown.
    pub async fn outcome(self) -> Outcome {
        self.0.await.unwrap_or_else(|_| Err(dropped()))
    }
}

fn dropped() -> Error {
    Error::Unknown("the producer was dropped before the answer came".to_owned())
}

impl Producer {
    pub(crate) fn start(client: Client, stream: Arc<StreamDescription>) -> Producer {
        let room_bytes = client.options().waiting_bytes_max.clamp(1, Semaphore::MAX_PERMITS >> 1);
        let room_bytes = room_bytes.min(u32::MAX as usize);
        let (sender, input) = mpsc::channel(HAND_OVER_MAX);
        let mut driver = JoinSet::new();
        driver.spawn(Driver::new(client, stream).run(Some(input)));
        Producer { sender, room: Arc::new(Semaphore::new(room_bytes)), room_bytes, driver }
    }

    /// Hands a record over. Waits while too many bytes are on their way; the receipt tells what became of
    /// the record. Records sent one after the other from one task keep their order per key.
    pub async fn send(&self, record: Record) -> Receipt {
        let (reply, receipt) = oneshot::channel();
        let bytes = (record.bytes() + limits::RECORD_OVERHEAD_BYTES_MAX).min(self.room_bytes);
        // Neither the semaphore nor the driver is closed while `self` lives; were it so, the dropped
        // reply tells the caller.
        if let Ok(room) = self.room.clone().acquire_many_owned(bytes as u32).await {
            let item = Item::new(record, reply, Some(room));
            let _ = self.sender.send(item).await;
        }
        Receipt(receipt)
    }

    /// Takes no more records and waits until every outcome is known.
    pub async fn close(mut self) {
        drop(self.sender);
        while self.driver.join_next().await.is_some() {}
    }
}

/// Stores `records` and gives their outcomes in the same order.
pub(crate) async fn put_all(
    client: &Client,
    name: &StreamName,
    records: Vec<Record>,
) -> Vec<Outcome> {
    let stream = match client.stream(name).await {
        Ok(stream) => stream,
        Err(error) => return records.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut driver = Driver::new(client.clone(), stream);
    let mut receipts = Vec::with_capacity(records.len());
    for record in records {
        let (reply, receipt) = oneshot::channel();
        receipts.push(Receipt(receipt));
        driver.lanes.push(Item::new(record, reply, None));
    }
    driver.run(None).await;
    let mut outcomes = Vec::with_capacity(receipts.len());
    for receipt in receipts {
        outcomes.push(receipt.outcome().await);
    }
    outcomes
}

/// A record on its way.
struct Item {
    record: Record,
    /// When its first request began its deadline ends; before that there is none.
    until: Option<Instant>,
    /// An attempt to store it ended without an answer.
    doubtful: bool,
    reply: oneshot::Sender<Outcome>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Item {
    fn new(
        record: Record,
        reply: oneshot::Sender<Outcome>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Item {
        Item { record, until: None, doubtful: false, reply, _room: room }
    }

    fn is_late(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Ends with an error, which says "unknown" if an earlier attempt may have stored the record.
    fn fail(self, error: &Error) {
        let error = match error.effect() {
            Effect::None if self.doubtful => Error::Unknown(format!(
                "an attempt ended without an answer, and the last one so: {error}"
            )),
            _ => error.clone(),
        };
        let _ = self.reply.send(Err(error));
    }
}

impl Keyed for Item {
    fn hash_key(&self) -> HashKey {
        self.record.hash_key()
    }

    fn bytes(&self) -> usize {
        self.record.bytes() + limits::RECORD_OVERHEAD_BYTES_MAX
    }
}

/// A request that was answered.
struct Answered {
    shard: ShardId,
    items: Vec<Item>,
    put: Put,
    /// The map by which it was routed.
    map_version: MapVersion,
    /// When its time was over.
    until: Instant,
}

enum Event {
    Given(Option<Item>),
    Answered(Answered),
    Refreshed(Result<Arc<StreamDescription>, Error>),
    /// Some record has waited for a newer map until its deadline.
    Overdue,
}

struct Driver {
    client: Client,
    stream: Arc<StreamDescription>,
    lanes: Lanes<Item>,
    running: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// The oldest map of use to the lanes that are held.
    wanted: MapVersion,
    refreshing: Option<BoxFuture<'static, Result<Arc<StreamDescription>, Error>>>,
    /// When the first of the records that are held is late.
    held_until: Option<Instant>,
}

impl Driver {
    fn new(client: Client, stream: Arc<StreamDescription>) -> Driver {
        let options = client.options();
        let (records_max, bytes_max) = (options.request_records_max, options.request_bytes_max);
        Driver {
            lanes: Lanes::new(&stream.map, records_max, bytes_max),
            running: FuturesUnordered::new(),
            wanted: stream.map.version(),
            refreshing: None,
            held_until: None,
            client,
            stream,
        }
    }

    /// Runs until the input has ended and every record has its outcome.
    async fn run(mut self, mut input: Option<mpsc::Receiver<Item>>) {
        loop {
            self.start_requests();
            if input.is_none() && self.lanes.is_empty() {
                return;
            }
            let event = self.next_event(&mut input).await;
            if let Event::Given(None) = event {
                input = None;
            }
            self.apply(event);
        }
    }

    async fn next_event(&mut self, input: &mut Option<mpsc::Receiver<Item>>) -> Event {
        tokio::select! {
            Some(answered) = self.running.next(), if !self.running.is_empty() => {
                Event::Answered(answered)
            }
            refreshed = ready(&mut self.refreshing) => Event::Refreshed(refreshed),
            () = passed(self.held_until) => Event::Overdue,
            item = given(input) => Event::Given(item),
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Given(None) => {}
            Event::Given(Some(item)) => self.lanes.push(item),
            Event::Answered(answered) => self.answered(answered),
            Event::Refreshed(Ok(stream)) => {
                self.refreshing = None;
                self.held_until = None;
                self.lanes.reroute(&stream.map);
                self.stream = stream;
            }
            Event::Refreshed(Err(error)) => {
                self.refreshing = None;
                self.held_until = None;
                self.lanes.take_held(|_| true).into_iter().for_each(|item| item.fail(&error));
            }
            Event::Overdue => self.end_what_is_overdue(),
        }
    }

    fn answered(&mut self, answered: Answered) {
        let Answered { shard, mut items, put: Put { ended, doubtful }, map_version, until } =
            answered;
        items.iter_mut().for_each(|item| item.doubtful |= doubtful);
        match ended {
            Ended::Stored(numbers) => {
                self.lanes.done(shard);
                for (number, item) in numbers.into_iter().zip(items) {
                    let _ = item.reply.send(Ok(number));
                }
            }
            Ended::Refused(error) => {
                self.lanes.done(shard);
                items.into_iter().for_each(|item| item.fail(&error));
            }
            Ended::Late(error) => self.put_back(shard, items, until, &error, false),
            Ended::Stale(known) => {
                // A newer one than that by which the request went, whatever the node says.
                let wanted = known.max(MapVersion(map_version.0 + 1));
                let hold = self.stream.map.version() < wanted;
                if hold {
                    self.wanted = self.wanted.max(wanted);
                }
                self.put_back(shard, items, Instant::now(), &Error::StaleMap(known), hold);
            }
        }
    }

    /// Ends the records whose time was over at `now`; the others are sent again.
    fn put_back(
        &mut self,
        shard: ShardId,
        items: Vec<Item>,
        now: Instant,
        error: &Error,
        hold: bool,
    ) {
        let (late, rest): (Vec<Item>, Vec<Item>) =
            items.into_iter().partition(|item| item.is_late(now));
        if hold {
            let first = rest.iter().filter_map(|item| item.until).chain(self.held_until).min();
            self.held_until = first;
        }
        self.lanes.put_back(shard, rest, hold);
        let error = error.clone().at_deadline(self.client.options().deadline);
        late.into_iter().for_each(|item| item.fail(&error));
    }

    /// The clock of what waits behind a held record starts now: there may never be a newer map.
    fn end_what_is_overdue(&mut self) {
        let (now, deadline) = (Instant::now(), self.client.options().deadline);
        let mut first: Option<Instant> = None;
        let late = self.lanes.take_held(|item| {
            let until = *item.until.get_or_insert(now + deadline);
            if until > now {
                first = Some(first.map_or(until, |first| first.min(until)));
            }
            until <= now
        });
        self.held_until = first;
        let error = Error::StaleMap(self.stream.map.version()).at_deadline(deadline);
        late.into_iter().for_each(|item| item.fail(&error));
    }

    fn start_requests(&mut self) {
        if !self.lanes.awaits_map() {
            self.refreshing = None;
        } else if self.refreshing.is_none() {
            let (client, name, wanted) =
                (self.client.clone(), self.stream.name.clone(), self.wanted);
            self.refreshing =
                Some(Box::pin(async move { client.stream_from(&name, wanted).await }));
        }
        while let Some((shard, items)) = self.lanes.take() {
            let request = self.send(shard, items);
            self.running.push(request);
        }
    }

    fn send(&self, shard: ShardId, mut items: Vec<Item>) -> BoxFuture<'static, Answered> {
        let now = Instant::now();
        let mut until = now + self.client.options().deadline;
        for item in &mut items {
            until = until.min(*item.until.get_or_insert(now + self.client.options().deadline));
        }
        name_origins(&mut items, || self.client.mint_call());
        let (client, stream) = (self.client.clone(), self.stream.clone());
        Box::pin(async move {
            let records: Vec<Record> = items.iter().map(|item| item.record.clone()).collect();
            let put = match stream.map.get(shard) {
                Some(shard) => put::store(&client, &stream, shard, &records, until).await,
                None => unreachable!("lanes are of this map"),
            };
            Answered { shard, items, put, map_version: stream.map.version(), until }
        })
    }
}

/// Gives an origin to every record that has none: one call for those of a request, so that the shard
/// remembers them together.
fn name_origins(items: &mut [Item], mut mint: impl FnMut() -> CallId) {
    let nameless = items.iter_mut().filter(|item| item.record.origin.is_none());
    let mut call = None;
    for (place, item) in nameless.enumerate() {
        let ordinal = (place % (usize::from(u16::MAX) + 1)) as u16;
        let call = match call {
            Some(call) if ordinal != 0 => call,
            _ => *call.insert(mint()),
        };
        item.record.origin = Some(Origin { call, ordinal });
    }
}

/// The future's result, or never when there is none.
async fn ready<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn passed(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn given(input: &mut Option<mpsc::Receiver<Item>>) -> Option<Item> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::PartitionKey;

    fn item(origin: Option<Origin>) -> Item {
        let partition_key = PartitionKey::new("k").expect("a key");
        let record =
            Record { partition_key, explicit_hash_key: None, origin, data: Default::default() };
        Item::new(record, oneshot::channel().0, None)
    }

    fn calls() -> impl FnMut() -> CallId {
        let mut last = 0;
        move || {
            last += 1;
            CallId::minted(0, last)
        }
    }

    #[test]
    fn a_record_that_has_an_origin_keeps_it() {
        let kept = Origin { call: CallId::minted(9, 9), ordinal: 7 };
        let mut items = [item(None), item(Some(kept)), item(None)];
        name_origins(&mut items, calls());
        let fresh = |ordinal| Some(Origin { call: CallId::minted(0, 1), ordinal });
        let origins = items.map(|item| item.record.origin);
        assert_eq!(origins, [fresh(0), Some(kept), fresh(1)]);
    }

    #[test]
    fn no_two_records_have_one_origin() {
        let mut items: Vec<Item> = (0..70_000).map(|_| item(None)).collect();
        name_origins(&mut items, calls());
        let origins: std::collections::BTreeSet<_> =
            items.iter().filter_map(|item| item.record.origin).collect();
        assert_eq!(origins.len(), 70_000);
    }
}
