//! All shards of a stream, merged: in order within each shard, and parents before their children.
//!
//! Invariant: at most `Options::subscriptions_max` shards are subscribed to at a time, of each at most one
//! event is held here; where there are more, those at their tip take turns. Must not know the order of
//! shards: that is the walker's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};
use tristream_proto::domain::{Incarnation, MapVersion, Retry, ShardId, StreamName};

use crate::client::Client;
use crate::error::Error;
use crate::map_cache::StreamDescription;
use crate::subscription::{Event, Start, Subscription};
use crate::walker::Walker;

/// How long a shard is read before another may take its turn.
const TURN: Duration = Duration::from_secs(1);
/// A shard that is refused as unknown although a listing has it: the node that refused lags, or there is
/// no sense in it.
const REFUSALS_MAX: u32 = 5;
const REFUSAL_PAUSE: Duration = Duration::from_millis(200);

/// Reads a stream through its splits and merges, or the shards that were chosen.
pub struct Consumer {
    walk: Option<Walk>,
    open: FuturesUnordered<BoxFuture<'static, Progress>>,
    open_max: usize,
    /// Next in turn.
    parked: VecDeque<Subscription>,
    /// All shards that are subscribed to or parked.
    reading: Vec<ShardId>,
}

/// A walk along a stream's lineage.
struct Walk {
    client: Client,
    stream: StreamName,
    incarnation: Incarnation,
    walker: Walker,
    /// Every shard heard of is in a map of this version, unless it is no longer kept.
    map_version: MapVersion,
    listing: bool,
    /// Shards that a node refused for good: perhaps they are no longer kept.
    refused: Vec<(Subscription, Error)>,
    refusals: BTreeMap<ShardId, u32>,
    /// Not told yet.
    errors: VecDeque<Error>,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are reads")]
enum Progress {
    /// Since when the shard was read, what came, and how to go on.
    Read(Instant, Subscription, Result<Option<Event>, Error>),
    Listed(Result<Arc<StreamDescription>, Error>),
}

impl Consumer {
    /// Merges subscriptions, those of other streams too. Each ends at its shard's end.
    pub fn new(subscriptions: impl IntoIterator<Item = Subscription>) -> Consumer {
        let parked: VecDeque<Subscription> = subscriptions.into_iter().collect();
        let reading = parked.iter().map(Subscription::shard).collect();
        let open_max = parked.front().map_or(1, Subscription::open_max);
        Consumer { walk: None, open: FuturesUnordered::new(), open_max, parked, reading }
    }

    /// Reads all of a stream from `start` on, a point in time.
    pub(crate) fn walk(client: Client, stream: &StreamDescription, start: Start) -> Consumer {
        let open_max = client.options().subscriptions_max.max(1);
        let walk = Walk {
            client,
            stream: stream.name.clone(),
            incarnation: stream.incarnation,
            walker: Walker::new(stream.map.shards(), start),
            map_version: stream.map.version(),
            listing: false,
            refused: vec![],
            refusals: BTreeMap::new(),
            errors: VecDeque::new(),
        };
        let (open, parked) = (FuturesUnordered::new(), VecDeque::new());
        let mut consumer = Consumer { walk: Some(walk), open, open_max, parked, reading: vec![] };
        consumer.advance();
        consumer
    }

    /// The shards that are read at the moment: neither those that ended nor those whose turn comes when
    /// their parents have ended.
    pub fn shards(&self) -> &[ShardId] {
        &self.reading
    }

    /// The next event of any shard; `None` when no shard is left. A shard's last event has an `end`; of a
    /// stream its children come next. A shard whose error says that trying again is of no use is left out
    /// from then on, and so are its children; after any other error it goes on where it was. A call that is
    /// dropped before it returns loses nothing.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(error) = self.walk.as_mut().and_then(|walk| walk.errors.pop_front()) {
                return Some(Err(error));
            }
            self.advance();
            let outcome = match self.open.next().await? {
                Progress::Read(since, subscription, outcome) => {
                    self.took(since, subscription, outcome)
                }
                Progress::Listed(outcome) => self.listed(outcome).map(Err),
            };
            if outcome.is_some() {
                return outcome;
            }
        }
    }

    /// Begins what can begin.
    fn advance(&mut self) {
        if let Some(walk) = &mut self.walk {
            while let Some((shard, start)) = walk.walker.next() {
                self.reading.push(shard.id);
                let (client, stream) = (walk.client.clone(), walk.stream.clone());
                self.parked.push_back(Subscription::new(client, stream, &shard, start));
            }
            if !walk.listing && !walk.refused.is_empty() {
                walk.listing = true;
                self.open.push(list(walk));
            }
        }
        while self.open.len() < self.open_max
            && let Some(subscription) = self.parked.pop_front()
        {
            self.open.push(read(Instant::now(), subscription));
        }
    }

    /// What there is to tell of an event or an error, if anything.
    fn took(
        &mut self,
        since: Instant,
        subscription: Subscription,
        outcome: Result<Option<Event>, Error>,
    ) -> Option<Result<Event, Error>> {
        let shard = subscription.shard();
        match outcome {
            Ok(Some(event)) => {
                match &event.end {
                    Some(end) => {
                        self.leave(shard);
                        if let Some(walk) = &mut self.walk {
                            walk.map_version = walk.map_version.max(end.map_version);
                            walk.refusals.remove(&shard);
                            walk.walker.ended(shard, &end.children);
                        }
                    }
                    None => self.go_on(since, subscription, event.millis_behind == 0),
                }
                Some(Ok(event))
            }
            Ok(None) => {
                self.leave(shard);
                None
            }
            Err(error) if error.retry() != Retry::Never => {
                self.go_on(since, subscription, true);
                Some(Err(error))
            }
            Err(error) => match &mut self.walk {
                Some(walk) if matches!(error, Error::Invalid(_)) => {
                    walk.refused.push((subscription, error));
                    None
                }
                _ => {
                    self.give_up(shard);
                    Some(Err(error))
                }
            },
        }
    }

    fn go_on(&mut self, since: Instant, mut subscription: Subscription, may_wait: bool) {
        if may_wait && !self.parked.is_empty() && since.elapsed() >= TURN {
            subscription.park();
            self.parked.push_back(subscription);
        } else {
            self.open.push(read(since, subscription));
        }
    }

    fn leave(&mut self, shard: ShardId) {
        if let Some(at) = self.reading.iter().position(|reading| *reading == shard) {
            self.reading.swap_remove(at);
        }
    }

    fn give_up(&mut self, shard: ShardId) {
        self.leave(shard);
        if let Some(walk) = &mut self.walk {
            walk.walker.lost(shard);
        }
    }

    /// Takes in what the stream's shards are now.
    fn listed(&mut self, outcome: Result<Arc<StreamDescription>, Error>) -> Option<Error> {
        let walk = self.walk.as_mut()?;
        walk.listing = false;
        let refused = std::mem::take(&mut walk.refused);
        let stream = match outcome {
            Ok(stream) if stream.incarnation == walk.incarnation => stream,
            outcome => {
                let gone = format!("{} was deleted and created anew", walk.stream);
                let error = outcome.err().unwrap_or(Error::StreamNotFound(gone));
                if error.retry() == Retry::Never {
                    // Of the stream nothing is left to learn. What is being read may still be.
                    self.walk = None;
                    refused.iter().for_each(|(subscription, _)| self.leave(subscription.shard()));
                } else {
                    walk.refused = refused;
                }
                return Some(error);
            }
        };
        walk.map_version = walk.map_version.max(stream.map.version());
        walk.walker.learn(stream.map.shards());
        for (subscription, error) in refused {
            self.judge(&stream, subscription, error);
        }
        None
    }

    /// A node refused the shard for good. If the shard is no longer kept, its children come next.
    fn judge(&mut self, stream: &StreamDescription, subscription: Subscription, error: Error) {
        let Some(walk) = &mut self.walk else { return };
        let shard = subscription.shard();
        if stream.map.get(shard).is_none() {
            tracing::debug!(%shard, %error, "the shard is no longer kept");
            walk.refusals.remove(&shard);
            walk.walker.ended(shard, &[]);
            return self.leave(shard);
        }
        let refusals = walk.refusals.entry(shard).or_default();
        *refusals += 1;
        if *refusals > REFUSALS_MAX {
            walk.refusals.remove(&shard);
            walk.errors.push_back(error);
            return self.give_up(shard);
        }
        let again = async move {
            sleep(REFUSAL_PAUSE).await;
            read(Instant::now(), subscription).await
        };
        self.open.push(again.boxed());
    }
}

fn read(since: Instant, mut subscription: Subscription) -> BoxFuture<'static, Progress> {
    async move {
        let outcome = subscription.next().await;
        Progress::Read(since, subscription, outcome)
    }
    .boxed()
}

/// The stream's shards, by a map that has all that were heard of.
fn list(walk: &Walk) -> BoxFuture<'static, Progress> {
    let (client, stream, version) = (walk.client.clone(), walk.stream.clone(), walk.map_version);
    async move {
        let deadline = client.options().deadline;
        let listing = timeout(deadline, client.describe_until(&stream, version)).await;
        Progress::Listed(listing.unwrap_or_else(|_| {
            let what = format!("no node told of the stream's shards within {deadline:?}");
            Err(Error::Unavailable(what))
        }))
    }
    .boxed()
}
