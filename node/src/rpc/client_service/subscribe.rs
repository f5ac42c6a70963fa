//! Pushes a shard's committed records to one subscriber.
//!
//! Invariant: records leave in order and without a gap from the position asked for; nothing is read ahead
//! of a slow subscriber beyond a few chunks; a subscriber that is gone is noticed by the next heartbeat. A
//! subscription ends of itself only when every record of a closed shard was sent, and then names the
//! shards that came from it: a shard that is sealed, but whose children nobody may write to yet, is
//! followed as one at its tip.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tristream_proto::domain::{
    ReadFrom, RecordPosition, SequenceNumber, Shard, ShardId, Timestamp,
};
use tristream_proto::wire::{self, refusal::Kind, subscribe_request::From as WireFrom};

use super::{ClientService, SUBSCRIBE_EVENTS_MAX, open_here};
use crate::clock::Clock;
use crate::metadata::{Stream, StreamStatus, View};
use crate::router::Router;
use crate::rpc::status;
use crate::shard;
use crate::tasks::Kind as TaskKind;

/// A subscriber hears something at least this often.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// A chunk ends at about this size. One record may be larger.
const CHUNK_BYTES: usize = 1 << 20;
/// And at this many records: small ones cost more in overhead than in bytes.
const CHUNK_RECORDS: usize = 10_000;
/// How long a subscriber waits for this node to learn of the shard that it names.
const SHARD_TIME: Duration = Duration::from_secs(1);

type Events = mpsc::Sender<Result<wire::SubscribeEvent, Status>>;

impl ClientService {
    pub(super) fn start_subscription(
        &self,
        request: wire::SubscribeRequest,
    ) -> ReceiverStream<Result<wire::SubscribeEvent, Status>> {
        let (events, receiver) = mpsc::channel(SUBSCRIBE_EVENTS_MAX);
        let service = self.clone();
        self.tasks.spawn(TaskKind::Connection, async move {
            if let Err(refusal) = service.serve(request, &events).await {
                let event = wire::SubscribeEvent { refusal: Some(refusal), ..Default::default() };
                // The subscriber may be gone: then nobody needs the reason.
                let _ = events.send(Ok(event)).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Ends with `Ok` when the subscriber is gone.
    async fn serve(
        &self,
        request: wire::SubscribeRequest,
        events: &Events,
    ) -> Result<(), wire::Refusal> {
        let router = self.router()?;
        let stream = self.stream(&router, &request.stream).await?;
        let id = ShardId::from(request.shard_index);
        let stream = with_shard(&router, &stream, id).await?;
        let shard = match find_shard(&stream, id) {
            Ok(shard) => shard,
            Err(refusal) => {
                return Err(super::confirmed(&router, &stream, refusal, SHARD_TIME).await);
            }
        };
        let from = read_from(shard, request.from)?;
        let handle = open_here(&router, shard)?;
        let position = router.seek(shard, from).await.map_err(|e| status::of_router(&e))?;
        // A position past this replica's tip stands: the subscriber has seen what lies before it.
        let position = match from {
            ReadFrom::At(asked) => position.max(asked),
            _ => position,
        };
        let (applied, views) = (handle.watch_applied(), router.watch_view());
        let (shard, clock) = (shard.clone(), self.clock.clone());
        let mut feed = Feed { stream, shard, handle, applied, views, clock, position };
        feed.run(events).await
    }
}

/// The stream, once this node has learnt of the shard, or has waited long enough.
async fn with_shard(
    router: &Router,
    stream: &Stream,
    id: ShardId,
) -> Result<Arc<Stream>, wire::Refusal> {
    let is_settled = |view: &View| {
        let now = view.streams.get(&stream.name);
        now.is_none_or(|now| now.incarnation != stream.incarnation || !may_come(now, id))
    };
    let mut views = router.watch_view();
    // Whether it came in time shows below.
    let _ = timeout(SHARD_TIME, views.wait_for(|view| is_settled(view))).await;
    match router.view().streams.get(&stream.name).cloned() {
        Some(now) => Ok(now),
        None => Err(status::of_router(&router.gone(stream, SHARD_TIME).await)),
    }
}

/// Whether the stream may yet get the shard: as far as this node knows, it is being made, or was never heard
/// of. One that is long gone never comes back.
fn may_come(stream: &Stream, id: ShardId) -> bool {
    let mut children = stream.reshards.iter().flat_map(|reshard| &reshard.children);
    let unheard = id.index() >= stream.free_index();
    stream.map.get(id).is_none() && (unheard || children.any(|child| child.id == id))
}

fn find_shard(stream: &Stream, id: ShardId) -> Result<&Shard, wire::Refusal> {
    if stream.status == StreamStatus::Deleting {
        return Err(status::stream_not_found(&stream.name));
    }
    stream.map.get(id).ok_or_else(|| {
        let kind = if may_come(stream, id) { Kind::Unavailable } else { Kind::Invalid };
        status::refusal(kind, format!("stream {} has no {id}", stream.name))
    })
}

/// One subscription.
struct Feed {
    stream: Arc<Stream>,
    /// As the map has it. What the handle was opened with may not name its creation second yet.
    shard: Shard,
    handle: shard::Handle,
    applied: watch::Receiver<Option<u64>>,
    views: watch::Receiver<Arc<View>>,
    clock: Arc<dyn Clock>,
    position: RecordPosition,
}

impl Feed {
    async fn run(&mut self, events: &Events) -> Result<(), wire::Refusal> {
        let mut first = true;
        loop {
            // Marked as seen before the read: what changes during the read wakes us again.
            self.applied.borrow_and_update();
            self.views.borrow_and_update();
            let now = self.check_stream()?;
            let read = self.handle.read(self.position, CHUNK_RECORDS, CHUNK_BYTES).await;
            let page = read.map_err(|e| status::of_read(&e))?;
            let (at_tip, at_end) = (page.at_tip, page.at_end);
            let moved = page.next > self.position;
            self.position = self.position.max(page.next);
            let children = if at_end { children(&now, self.shard.id) } else { vec![] };
            if !children.is_empty() {
                self.send(page, children, now.map_version().0, events).await;
                return Ok(());
            }
            let silent = page.records.is_empty() && !first;
            if !silent && !self.send(page, vec![], 0, events).await {
                return Ok(());
            }
            first = false;
            if (at_tip || (silent && !moved)) && !self.wait(at_end, events).await? {
                return Ok(());
            }
        }
    }

    /// Waits until something was committed or, at the end of a shard, until the streams changed; with a
    /// heartbeat now and then. `false` when the subscriber is gone.
    async fn wait(&mut self, at_end: bool, events: &Events) -> Result<bool, wire::Refusal> {
        loop {
            let news = tokio::select! {
                () = events.closed() => return Ok(false),
                news = timeout(HEARTBEAT, self.applied.changed()) => news,
                changed = self.views.changed(), if at_end => Ok(changed),
            };
            match news {
                Ok(Ok(())) => return Ok(true),
                Ok(Err(_)) => {
                    self.check_stream()?;
                    return Err(status::refusal(
                        Kind::Unavailable,
                        "the shard closed on this node",
                    ));
                }
                Err(_) => {
                    self.check_stream()?;
                    let heartbeat = self.event(vec![], 0);
                    if events.send(Ok(heartbeat)).await.is_err() {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Sends a page; `false` when the subscriber is gone.
    async fn send(
        &self,
        page: shard::Page,
        children: Vec<wire::ChildShard>,
        map_version: u64,
        events: &Events,
    ) -> bool {
        let sent = page.records.last().map(|record| record.arrival);
        let behind = millis_behind(page.at_tip, sent, self.clock.now());
        let records = page.records.iter().map(wire::StoredRecord::from).collect();
        let event = wire::SubscribeEvent { children, map_version, ..self.event(records, behind) };
        // Waits for a slow subscriber, but hears when it leaves.
        events.send(Ok(event)).await.is_ok()
    }

    fn event(&self, records: Vec<wire::StoredRecord>, millis_behind: u64) -> wire::SubscribeEvent {
        wire::SubscribeEvent {
            records,
            millis_behind,
            stale: self.handle.leadership().leader.is_none(),
            next_sequence_number: name_position(&self.shard, self.position).to_string(),
            ..Default::default()
        }
    }

    /// The stream as it is now, while it is still the one that was subscribed to. One of its name that came after
    /// it is another: of this one no view can say too early that it is gone.
    fn check_stream(&self) -> Result<Arc<Stream>, wire::Refusal> {
        let view = self.views.borrow();
        match view.streams.get(&self.stream.name) {
            Some(now)
                if now.incarnation == self.stream.incarnation
                    && now.status != StreamStatus::Deleting =>
            {
                Ok(now.clone())
            }
            _ => Err(status::stream_not_found(&self.stream.name)),
        }
    }
}

/// The shards that came from a sealed one; none while it is open in the map, and its children are not there.
fn children(stream: &Stream, sealed: ShardId) -> Vec<wire::ChildShard> {
    let child = |shard: &Shard| wire::ChildShard { shard: Some(wire::Shard::from(shard)) };
    stream.children_of(sealed).map(child).collect()
}

/// Age of the newest record sent; 0 at the tip, and only there.
fn millis_behind(at_tip: bool, sent: Option<Timestamp>, now: Timestamp) -> u64 {
    let behind = sent.map_or(Duration::ZERO, |sent| now.since(sent));
    if at_tip { 0 } else { (behind.as_millis() as u64).max(1) }
}

/// A position as a sequence number. No record may have it yet.
fn name_position(shard: &Shard, position: RecordPosition) -> SequenceNumber {
    SequenceNumber {
        counter: position.counter(),
        ..SequenceNumber::start_of(shard.id, shard.creation_second)
    }
}

/// Where the subscriber wants to begin.
fn read_from(shard: &Shard, from: Option<WireFrom>) -> Result<ReadFrom, wire::Refusal> {
    match from {
        Some(WireFrom::TrimHorizon(_)) => Ok(ReadFrom::TrimHorizon),
        Some(WireFrom::Latest(_)) => Ok(ReadFrom::Latest),
        Some(WireFrom::AtTimestampMs(millis)) => Ok(ReadFrom::Time(Timestamp(millis))),
        Some(WireFrom::AtSequenceNumber(text)) => Ok(ReadFrom::At(position(shard, &text)?)),
        Some(WireFrom::AfterSequenceNumber(text)) => {
            Ok(ReadFrom::At(position(shard, &text)?.next()))
        }
        None => Err(status::refusal(Kind::Invalid, "a subscription says where it begins")),
    }
}

fn position(shard: &Shard, text: &str) -> Result<RecordPosition, wire::Refusal> {
    let number: SequenceNumber = text.parse().map_err(|e| status::refusal(Kind::Invalid, e))?;
    if number.shard != shard.id || number.creation_second != shard.creation_second {
        let what = format!("{text} belongs to another shard, or to an earlier stream of the name");
        return Err(status::refusal(Kind::Invalid, what));
    }
    Ok(number.position())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Reshard, StreamMode};
    use tristream_proto::domain::{GroupId, HashKeyRange, Incarnation, MapVersion, ShardMap};

    fn shard() -> Shard {
        Shard {
            id: ShardId::from(3),
            group: GroupId(9),
            range: HashKeyRange::uniform(1)[0],
            creation_second: 1_790_000_000,
            parents: vec![],
            replicas: vec![],
            closed_second: None,
        }
    }

    /// Shard 3, being split into 4 and 5; `published` says whether that is done.
    fn split(published: bool) -> Stream {
        let halves = HashKeyRange::uniform(2);
        let child = |id: u32, range| Shard {
            id: ShardId::from(id),
            range,
            parents: vec![ShardId::from(3)],
            ..shard()
        };
        // By their ranges they come in this order.
        let children = vec![child(5, halves[0]), child(4, halves[1])];
        let mut shards = vec![Shard { closed_second: published.then_some(9), ..shard() }];
        let mut reshards = vec![];
        if published {
            shards.extend(children.into_iter().rev());
        } else {
            reshards.push(Reshard { parents: vec![shard().id], children, begun: Timestamp(1) });
        }
        Stream {
            name: "orders".parse().expect("a name"),
            incarnation: Incarnation(5),
            status: StreamStatus::Updating,
            mode: StreamMode::Provisioned,
            created: Timestamp(1),
            retention_hours: 24,
            record_bytes_max: 100,
            tags: Default::default(),
            map: ShardMap::new(MapVersion(7), shards).expect("tiles"),
            reshards,
            goal: None,
            next_shard: 6,
            rescaled: vec![],
            mode_changed: vec![],
        }
    }

    #[test]
    fn a_shard_that_may_come_is_not_refused_for_good() {
        let refused = |stream: &Stream, id: u32| {
            find_shard(stream, ShardId::from(id)).err().map(|refusal| refusal.kind())
        };
        let before = split(false);
        for (id, expected) in [
            (3, None),
            (4, Some(Kind::Unavailable)),
            (6, Some(Kind::Unavailable)),
            // Given out once, and in no map any more.
            (2, Some(Kind::Invalid)),
        ] {
            assert_eq!(refused(&before, id), expected, "{id}");
        }
        let after = split(true);
        assert_eq!([3, 4, 5].map(|id| refused(&after, id)), [None, None, None]);
        let deleting = Stream { status: StreamStatus::Deleting, ..after };
        assert_eq!(refused(&deleting, 3), Some(Kind::StreamNotFound));
    }

    #[test]
    fn a_shard_has_ended_only_when_its_children_are_in_the_map() {
        let sealed = shard().id;
        assert_eq!(children(&split(false), sealed), vec![]);
        let children = children(&split(true), sealed);
        let ids: Vec<_> = children.iter().filter_map(|c| Some(c.shard.as_ref()?.index)).collect();
        assert_eq!(ids, [5, 4], "in the order of their ranges");
    }

    #[test]
    fn a_position_named_is_the_position_asked_for() {
        for position in [
            RecordPosition::default(),
            RecordPosition { index: 17, position: 0 },
            RecordPosition { index: 1 << 40, position: 499 },
        ] {
            let text = name_position(&shard(), position).to_string();
            let from = read_from(&shard(), Some(WireFrom::AtSequenceNumber(text.clone())));
            assert_eq!(from, Ok(ReadFrom::At(position)));
            let after = read_from(&shard(), Some(WireFrom::AfterSequenceNumber(text)));
            assert_eq!(after, Ok(ReadFrom::At(position.next())));
        }
    }

    #[test]
    fn only_a_subscriber_at_the_tip_is_not_behind() {
        let (sent, now) = (Some(Timestamp(1_000)), Timestamp(4_000));
        assert_eq!(millis_behind(false, sent, now), 3_000);
        assert_eq!(millis_behind(false, sent, Timestamp(500)), 1, "the clock went back");
        assert_eq!(millis_behind(false, None, now), 1);
        assert_eq!(millis_behind(true, sent, now), 0);
    }

    #[test]
    fn numbers_of_other_shards_and_earlier_streams_are_refused() {
        let earlier = Shard { creation_second: 1_780_000_000, ..shard() };
        let other = Shard { id: ShardId::from(4), ..shard() };
        for from in [earlier, other] {
            let text = from.starting_sequence_number().to_string();
            let refused = read_from(&shard(), Some(WireFrom::AfterSequenceNumber(text)));
            assert_eq!(refused.map_err(|refusal| refusal.kind()), Err(Kind::Invalid));
        }
        let nothing = read_from(&shard(), None);
        assert_eq!(nothing.map_err(|refusal| refusal.kind()), Err(Kind::Invalid));
    }
}
