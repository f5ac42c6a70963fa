//! The way of a put: grouped by owner, at each shard's leader, and on through a reshard.
//!
//! ```text
//!  records --group by owner--> shares --at the leader--> numbers, or an error
//!             ^                               | the shard is sealed, or the map is old
//!             `---- newer map of the view ----' held: no effect so far
//! ```
//!
//! Invariants: the caller never sees an error because of a reshard that ends in time; a share goes
//! out a second time only when nothing of it was stored, or when every record says which call it
//! came in with, so that the shard recognises it; an outcome is "no effect" only when no attempt was
//! in doubt. Must not know what opens or seals a shard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tristream_proto::domain::limits::{BATCH_RECORDS_MAX, PUT_RECORDS_BYTES_MAX};
use tristream_proto::domain::{
    GroupId, MapVersion, NodeId, Record, SequenceNumber, Shard, ShardId,
};
use tristream_proto::wire;

use super::attempt::{Miss, at_leader};
use super::route::{Route, Search};
use super::{Error, Router};
use crate::entropy::Entropy;
use crate::metadata::{Stream, StreamStatus, View};
use crate::shard::AppendError;

/// What can be repeated does not wait for a silent node longer than this part of the time left: a
/// new leader is elected meanwhile.
const PATIENCE_PART: u32 = 2;
/// But for this long in any case.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// What became of a put at the leader of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Landed {
    /// A number per record.
    Stored(Vec<SequenceNumber>),
    /// Nothing was stored: the shard takes no records any more. A map of this version or a newer one
    /// says who does.
    Moved(MapVersion),
}

type Outcome = Result<SequenceNumber, Error>;

impl Router {
    /// Stores records of one call, each on the shard of its key. One outcome per record, in the
    /// order of `records`.
    ///
    /// The records of a shard are a share: they are stored in this order, all or none. A share that
    /// meets a split is stored in parts, one per child, each of them all or none and in order; after
    /// a merge the shares of both parents stay two, in no order between them. (Records of one key
    /// are always of one share.)
    ///
    /// An attempt with an unknown outcome is repeated when every record of the share has an origin.
    pub async fn put(
        &self,
        stream: &Stream,
        records: Vec<Record>,
        deadline: Duration,
    ) -> Vec<Result<SequenceNumber, Error>> {
        let until = Instant::now() + deadline;
        let mut outcomes = put(self, stream, records, until).await;
        let is_gone = |outcome: &Outcome| matches!(outcome, Err(Error::StreamNotFound(_)));
        if outcomes.iter().any(is_gone) {
            let gone = self.gone(stream, until.saturating_duration_since(Instant::now())).await;
            outcomes
                .iter_mut()
                .filter(|outcome| is_gone(outcome))
                .for_each(|outcome| *outcome = Err(gone.clone()));
        }
        outcomes
    }

    async fn put_here(
        &self,
        stream: &Stream,
        group: GroupId,
        records: Vec<Record>,
        left: Duration,
    ) -> Result<Landed, Miss> {
        let Some(shard) = self.local_shard(group) else {
            return Err(Miss::elsewhere(format!("group {group} is not open here")));
        };
        match shard.append(records, left).await {
            Ok(numbers) => Ok(Landed::Stored(numbers)),
            Err(AppendError::Sealed) => Ok(Landed::Moved(next(stream.map_version()))),
            Err(error) => Err(error.into()),
        }
    }
}

/// The node, as a put needs it: a router, or a fake in tests.
trait Ground: Sync {
    fn me(&self) -> NodeId;
    fn views(&self) -> watch::Receiver<Arc<View>>;
    fn leader_of(&self, group: GroupId) -> Option<NodeId>;
    fn entropy(&self) -> &dyn Entropy;
    /// One attempt to put `records`, which `stream`'s map gives to `shard`.
    fn attempt<'a>(
        &'a self,
        route: Route,
        stream: &'a Stream,
        shard: &'a Shard,
        records: &'a [Record],
        left: Duration,
    ) -> BoxFuture<'a, Result<Landed, Miss>>;
}

impl Ground for Router {
    fn me(&self) -> NodeId {
        self.inner.roster.me
    }

    fn views(&self) -> watch::Receiver<Arc<View>> {
        self.inner.metadata.watch()
    }

    fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        Router::leader_of(self, group)
    }

    fn entropy(&self) -> &dyn Entropy {
        &*self.inner.entropy
    }

    fn attempt<'a>(
        &'a self,
        route: Route,
        stream: &'a Stream,
        shard: &'a Shard,
        records: &'a [Record],
        left: Duration,
    ) -> BoxFuture<'a, Result<Landed, Miss>> {
        Box::pin(async move {
            match route {
                Route::Here => self.put_here(stream, shard.group, records.to_vec(), left).await,
                Route::There(node) => {
                    let request = put_request(stream, shard, records);
                    self.inner.forward.put(node, request, left).await
                }
                Route::NoLeader => Err(Miss::elsewhere("nobody leads")),
            }
        })
    }
}

/// Records of one call for one shard, on their way.
#[derive(Debug)]
struct Share {
    /// Their places in the call.
    places: Vec<usize>,
    records: Vec<Record>,
    /// What is known of an attempt that may have stored them.
    doubt: Option<String>,
}

/// How far a share came by one map.
enum Leg {
    Done(Vec<usize>, Result<Vec<SequenceNumber>, Error>),
    /// Nothing of it was stored by this map; on by this one.
    On(Share, Arc<Stream>),
}

async fn put(
    ground: &dyn Ground,
    stream: &Stream,
    records: Vec<Record>,
    until: Instant,
) -> Vec<Outcome> {
    let mut outcomes = vec![];
    outcomes.resize_with(records.len(), || Err(no_outcome()));
    let stream = newest(&ground.views().borrow(), stream);
    let call = Share { places: (0..records.len()).collect(), records, doubt: None };
    let mut legs = FuturesUnordered::new();
    legs.extend(shares(&stream, call).map(|(shard, share)| {
        let stream = stream.clone();
        leg(ground, stream, shard, share, until)
    }));
    while let Some(end) = legs.next().await {
        match end {
            Leg::Done(places, put) => settle(&mut outcomes, places, put),
            Leg::On(share, stream) => legs.extend(
                shares(&stream, share)
                    .map(|(shard, share)| leg(ground, stream.clone(), shard, share, until)),
            ),
        }
    }
    outcomes
}

/// The newest map that is known of this incarnation.
fn newest(view: &View, stream: &Stream) -> Arc<Stream> {
    match view.streams.get(&stream.name) {
        Some(known)
            if known.incarnation == stream.incarnation
                && known.map_version() >= stream.map_version() =>
        {
            known.clone()
        }
        _ => Arc::new(stream.clone()),
    }
}

/// The records by their owners; in the same order within each.
fn shares(stream: &Stream, all: Share) -> impl Iterator<Item = (ShardId, Share)> + use<> {
    let mut shares: BTreeMap<ShardId, Share> = BTreeMap::new();
    for (place, record) in all.places.into_iter().zip(all.records) {
        let owner = stream.map.owner(record.hash_key()).id;
        let empty = || Share { places: vec![], records: vec![], doubt: all.doubt.clone() };
        let share = shares.entry(owner).or_insert_with(empty);
        share.places.push(place);
        share.records.push(record);
    }
    shares.into_iter()
}

/// Takes a share to its end, or to the next map.
async fn leg(
    ground: &dyn Ground,
    stream: Arc<Stream>,
    shard: ShardId,
    mut share: Share,
    until: Instant,
) -> Leg {
    let error = match at_shard(ground, &stream, shard, &mut share, until).await {
        Ok(Landed::Stored(numbers)) => return Leg::Done(share.places, Ok(numbers)),
        Ok(Landed::Moved(version)) => {
            tracing::debug!(stream = %stream.name, %shard, %version, "a put waits for a newer map");
            match next_map(ground, &stream, version, until).await {
                Ok(newer) => return Leg::On(share, newer),
                Err(error) => error,
            }
        }
        Err(error) => error,
    };
    let error = match share.doubt {
        Some(why) => Error::Unknown(why),
        None => error,
    };
    Leg::Done(share.places, Err(error))
}

/// Looks for the leader of one shard until it has an answer. A doubt stays in `share`.
async fn at_shard(
    ground: &dyn Ground,
    stream: &Stream,
    shard: ShardId,
    share: &mut Share,
    until: Instant,
) -> Result<Landed, Error> {
    check_size(&share.records)?;
    let shard = stream.map.get(shard).ok_or(Error::NoShard(shard))?;
    let records = &share.records;
    let is_repeatable = records.iter().all(|record| record.origin.is_some());
    let (views, doubt) = (ground.views(), Mutex::new(share.doubt.take()));
    let (views, in_doubt) = (&views, &doubt);
    let attempt = |route, left| -> BoxFuture<'_, Result<Landed, Miss>> {
        Box::pin(async move {
            match standing(&views.borrow(), stream, shard) {
                Standing::Holds => {}
                Standing::Moved(version) => return Ok(Landed::Moved(version)),
                Standing::Gone => return Err(Miss::Final(gone(stream))),
            }
            let patience = match route {
                Route::There(_) if is_repeatable => patience(left),
                _ => left,
            };
            let landed = ground.attempt(route, stream, shard, records, patience).await;
            let mut doubt = in_doubt.lock();
            match landed {
                Err(Miss::Final(Error::Unknown(why))) if is_repeatable => {
                    *doubt = Some(why.clone());
                    Err(Miss::Doubtful(why))
                }
                // Alone it is the caller's to handle. After a doubt the caller would learn nothing.
                Err(Miss::Final(Error::Throttled(why))) if doubt.is_some() => {
                    Err(Miss::elsewhere(why))
                }
                landed => landed,
            }
        })
    };
    let search = Search::new(ground.me(), &shard.replicas);
    let leader = || ground.leader_of(shard.group);
    let landed = at_leader(search, leader, until, ground.entropy(), attempt).await;
    share.doubt = doubt.into_inner();
    landed
}

fn patience(left: Duration) -> Duration {
    (left / PATIENCE_PART).max(PATIENCE_MIN).min(left)
}

/// What a view says of a shard that a put was routed to.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It takes records, as far as the view knows.
    Holds,
    /// It does not by this map.
    Moved(MapVersion),
    /// The stream is being deleted, or was.
    Gone,
}

fn standing(view: &View, stream: &Stream, shard: &Shard) -> Standing {
    let Some(known) = lives(view, stream) else { return Standing::Gone };
    let is_open = known.map.get(shard.id).is_some_and(Shard::is_open);
    match known.map_version() > stream.map_version() && !is_open {
        true => Standing::Moved(known.map_version()),
        false => Standing::Holds,
    }
}

/// The stream, unless it is gone or about to go.
fn lives<'a>(view: &'a View, stream: &Stream) -> Option<&'a Arc<Stream>> {
    view.streams.get(&stream.name).filter(|known| {
        known.incarnation == stream.incarnation && known.status != StreamStatus::Deleting
    })
}

/// Holds a share until the view has a map of at least `version`.
async fn next_map(
    ground: &dyn Ground,
    stream: &Stream,
    version: MapVersion,
    until: Instant,
) -> Result<Arc<Stream>, Error> {
    let mut views = ground.views();
    let decided = views
        .wait_for(|view| lives(view, stream).is_none_or(|known| known.map_version() >= version));
    let unavailable = |why: &str| Error::Unavailable(why.to_owned());
    let view = timeout_at(until, decided).await;
    let view = view.map_err(|_| unavailable("the shard is sealed; no newer map came in time"))?;
    let view = view.map_err(|_| unavailable("the node is stopping"))?;
    lives(&view, stream).cloned().ok_or_else(|| gone(stream))
}

fn gone(stream: &Stream) -> Error {
    Error::StreamNotFound(stream.name.clone())
}

fn next(version: MapVersion) -> MapVersion {
    MapVersion(version.0 + 1)
}

fn no_outcome() -> Error {
    Error::Unknown("a record without an outcome".to_owned())
}

fn settle(outcomes: &mut [Outcome], places: Vec<usize>, put: Result<Vec<SequenceNumber>, Error>) {
    for (at, place) in places.into_iter().enumerate() {
        outcomes[place] = match &put {
            Ok(numbers) => numbers.get(at).copied().ok_or_else(no_outcome),
            Err(error) => Err(error.clone()),
        };
    }
}

fn check_size(records: &[Record]) -> Result<(), Error> {
    let bytes: usize = records.iter().map(Record::bytes).sum();
    if records.is_empty() || records.len() > BATCH_RECORDS_MAX || bytes > PUT_RECORDS_BYTES_MAX {
        let count = records.len();
        return Err(Error::Invalid(format!("a put of {count} records and {bytes} bytes")));
    }
    Ok(())
}

fn put_request(stream: &Stream, shard: &Shard, records: &[Record]) -> wire::PutRequest {
    wire::PutRequest {
        stream: stream.name.to_string(),
        incarnation: stream.incarnation.0,
        map_version: stream.map_version().0,
        shard_index: shard.id.index(),
        group: shard.group.0,
        records: records.iter().map(wire::Record::from).collect(),
        // Set when it is sent.
        deadline_ms: 0,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::stream;
