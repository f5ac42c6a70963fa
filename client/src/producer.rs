//! Many records: gathered per shard, one request per shard in flight, bounded by bytes.
//!
//! One `Driver` owns the lanes of one stream; it takes one event at a time and applies it. `put_all` runs a
//! driver to its end in the caller's task; a `Producer` runs one in a task of its own.
//! Invariant: records of one shard are stored in the order in which they were given. A record that failed
//! leaves a gap, and after an unknown outcome a later record may be stored while the earlier is not.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tristream_proto::domain::{Record, SequenceNumber, ShardId, StreamName, limits};

use crate::client::Client;
use crate::error::Error;
use crate::lanes::{self, Lanes};
use crate::map_cache::StreamDescription;
use crate::retry::{Policy, Retries};

/// Records between `Producer::send` and the driver. Bytes are bounded by a semaphore of their own.
const HAND_OVER_MAX: usize = 1024;

type Outcome = Result<SequenceNumber, Error>;

/// Takes records of one stream, one after the other, and stores them in that order per shard.
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
    /// the record. Records sent one after the other from one task keep their order per shard.
    pub async fn send(&self, record: Record) -> Receipt {
        let (reply, receipt) = oneshot::channel();
        let bytes = (record.bytes() + limits::RECORD_OVERHEAD_BYTES_MAX).min(self.room_bytes);
        // Neither the semaphore nor the driver is closed while `self` lives; were it so, the dropped
        // reply tells the caller.
        if let Ok(room) = self.room.clone().acquire_many_owned(bytes as u32).await {
            let item = Item { record, until: None, reply, _room: Some(room) };
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
        driver.push(Item { record, until: None, reply, _room: None });
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
    reply: oneshot::Sender<Outcome>,
    _room: Option<OwnedSemaphorePermit>,
}

impl lanes::Sized for Item {
    fn bytes(&self) -> usize {
        self.record.bytes() + limits::RECORD_OVERHEAD_BYTES_MAX
    }
}

/// A request that was answered.
struct Answered {
    shard: ShardId,
    replies: Vec<Item>,
    outcome: Outcome,
}

enum Event {
    Given(Option<Item>),
    Answered(Answered),
    Refreshed(Result<Arc<StreamDescription>, Error>),
}

struct Driver {
    client: Client,
    stream: Arc<StreamDescription>,
    lanes: Lanes<Item>,
    running: FuturesUnordered<BoxFuture<'static, Answered>>,
    refreshing: Option<BoxFuture<'static, Result<Arc<StreamDescription>, Error>>>,
    /// Waits between refreshes that bring no newer map.
    refreshes: Retries,
}

impl Driver {
    fn new(client: Client, stream: Arc<StreamDescription>) -> Driver {
        let options = client.options();
        Driver {
            lanes: Lanes::new(options.request_records_max, options.request_bytes_max),
            refreshes: Retries::new(Policy::OnlyWithoutEffect, options),
            running: FuturesUnordered::new(),
            refreshing: None,
            client,
            stream,
        }
    }

    fn push(&mut self, item: Item) {
        self.lanes.push(self.stream.map.owner(item.record.hash_key()).id, item);
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
            item = given(input) => Event::Given(item),
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Given(None) => {}
            Event::Given(Some(item)) => self.push(item),
            Event::Answered(Answered { shard, replies, outcome: Ok(first) }) => {
                self.lanes.done(shard);
                self.refreshes = Retries::new(Policy::OnlyWithoutEffect, self.client.options());
                for (counter, item) in (first.counter..).zip(replies) {
                    let _ = item.reply.send(Ok(SequenceNumber { counter, ..first }));
                }
            }
            Event::Answered(Answered {
                shard,
                replies,
                outcome: Err(Error::StaleMap(version)),
            }) => {
                let (rest, late): (Vec<Item>, Vec<Item>) =
                    replies.into_iter().partition(|item| !item.is_late());
                let error = Error::StaleMap(version).at_deadline(self.client.options().deadline);
                fail(late, &error);
                self.lanes.put_back(shard, rest);
            }
            Event::Answered(Answered { shard, replies, outcome: Err(error) }) => {
                self.lanes.done(shard);
                fail(replies, &error);
            }
            Event::Refreshed(Ok(stream)) => {
                self.refreshing = None;
                self.stream = stream;
                let map = &self.stream.map;
                self.lanes.reroute(|item: &Item| map.owner(item.record.hash_key()).id);
            }
            Event::Refreshed(Err(error)) => {
                self.refreshing = None;
                fail(self.lanes.drain(), &error);
            }
        }
    }

    fn start_requests(&mut self) {
        if self.lanes.awaits_map() && self.refreshing.is_none() {
            let (client, refused) = (self.client.clone(), self.stream.clone());
            let wait = self.refreshes.wait(client.draw());
            self.refreshing = Some(Box::pin(async move {
                let fresh = client.refresh(&refused).await?;
                if fresh.version() == refused.version() {
                    // The node that refused knows more than the one that described: let that one catch up.
                    tokio::time::sleep(wait).await;
                }
                Ok(fresh)
            }));
        }
        while let Some((shard, mut items)) = self.lanes.take() {
            let deadline = Instant::now() + self.client.options().deadline;
            for item in &mut items {
                item.until.get_or_insert(deadline);
            }
            self.running.push(Box::pin(store(
                self.client.clone(),
                self.stream.clone(),
                shard,
                items,
            )));
        }
    }
}

impl Item {
    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }
}

async fn store(
    client: Client,
    stream: Arc<StreamDescription>,
    shard: ShardId,
    items: Vec<Item>,
) -> Answered {
    let records: Vec<Record> = items.iter().map(|item| item.record.clone()).collect();
    let until = items.iter().filter_map(|item| item.until).min();
    let outcome = match (stream.map.get(shard), until) {
        (Some(shard), Some(until)) => client.store(&stream, shard, &records, until).await,
        _ => unreachable!("lanes are of this map, and a request has a record"),
    };
    Answered { shard, replies: items, outcome }
}

fn fail(items: Vec<Item>, error: &Error) {
    for item in items {
        let _ = item.reply.send(Err(error.clone()));
    }
}

/// The future's result, or never when there is none.
async fn ready<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn given(input: &mut Option<mpsc::Receiver<Item>>) -> Option<Item> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}
