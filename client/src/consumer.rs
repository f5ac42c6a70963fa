//! All shards of a stream, merged: in order within each shard, in no order between them.

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tristream_proto::domain::{Retry, ShardId};

use crate::error::Error;
use crate::subscription::{Event, Subscription};

/// Reads all shards that the stream had when the consumer was made.
pub struct Consumer {
    shards: Vec<ShardId>,
    waiting: FuturesUnordered<BoxFuture<'static, (Subscription, Result<Event, Error>)>>,
}

impl Consumer {
    /// Merges subscriptions, those of other streams too.
    pub fn new(subscriptions: impl IntoIterator<Item = Subscription>) -> Consumer {
        let mut shards = Vec::new();
        let waiting = FuturesUnordered::new();
        for subscription in subscriptions {
            shards.push(subscription.shard());
            waiting.push(next(subscription));
        }
        Consumer { shards, waiting }
    }

    /// The shards that are read.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// The next event of any shard; `None` when no shard is left. A shard whose error says that trying again
    /// is of no use is left out from then on; after any other error it goes on where it was. A call that is
    /// dropped before it returns loses nothing.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        let (subscription, event) = self.waiting.next().await?;
        if !matches!(&event, Err(error) if error.retry() == Retry::Never) {
            self.waiting.push(next(subscription));
        }
        Some(event)
    }
}

fn next(
    mut subscription: Subscription,
) -> BoxFuture<'static, (Subscription, Result<Event, Error>)> {
    async move {
        let event = subscription.next().await;
        (subscription, event)
    }
    .boxed()
}
