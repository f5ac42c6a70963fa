//! Pushes a shard's committed records to one subscriber.
//!
//! Invariant: records leave in order and without a gap from the position asked for; nothing is read ahead
//! of a slow subscriber beyond a few chunks; a subscriber that is gone is noticed by the next heartbeat.

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
use crate::metadata::{Stream, StreamStatus};
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
        if stream.status == StreamStatus::Deleting {
            return Err(status::stream_not_found(&stream.name));
        }
        let id = ShardId::from(request.shard_index);
        let shard = stream.map.get(id).ok_or_else(|| {
            status::refusal(Kind::Invalid, format!("stream {} has no {id}", stream.name))
        })?;
        let from = read_from(shard, request.from)?;
        let handle = open_here(&router, shard)?;
        let position = handle.seek(from).await.map_err(|e| status::of_read(&e))?;
        // A position past this replica's tip stands: the subscriber has seen what lies before it.
        let position = match from {
            ReadFrom::At(asked) => position.max(asked),
            _ => position,
        };
        let applied = handle.watch_applied();
        let clock = self.clock.clone();
        let mut feed = Feed { router, stream, handle, applied, clock, position };
        feed.run(events).await
    }
}

/// One subscription.
struct Feed {
    router: Router,
    stream: Arc<Stream>,
    handle: shard::Handle,
    applied: watch::Receiver<Option<u64>>,
    clock: Arc<dyn Clock>,
    position: RecordPosition,
}

impl Feed {
    async fn run(&mut self, events: &Events) -> Result<(), wire::Refusal> {
        let mut first = true;
        loop {
            self.check_stream()?;
            // Marked as seen before the read: what is committed during the read wakes us again.
            self.applied.borrow_and_update();
            let read = self.handle.read(self.position, CHUNK_RECORDS, CHUNK_BYTES).await;
            let page = read.map_err(|e| status::of_read(&e))?;
            let (at_tip, moved) = (page.at_tip, page.next > self.position);
            self.position = self.position.max(page.next);
            let silent = page.records.is_empty() && !first;
            if !silent && !self.send(page, events).await {
                return Ok(());
            }
            first = false;
            if (at_tip || (silent && !moved)) && !self.wait(events).await? {
                return Ok(());
            }
        }
    }

    /// Waits until something was committed, with a heartbeat now and then; `false` when the subscriber is
    /// gone.
    async fn wait(&mut self, events: &Events) -> Result<bool, wire::Refusal> {
        loop {
            let news = tokio::select! {
                () = events.closed() => return Ok(false),
                news = timeout(HEARTBEAT, self.applied.changed()) => news,
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
    async fn send(&self, page: shard::Page, events: &Events) -> bool {
        let sent = page.records.last().map(|record| record.arrival);
        let behind = millis_behind(page.at_tip, sent, self.clock.now());
        let records = page.records.iter().map(wire::StoredRecord::from).collect();
        let event = self.event(records, behind);
        // Waits for a slow subscriber, but hears when it leaves.
        events.send(Ok(event)).await.is_ok()
    }

    fn event(&self, records: Vec<wire::StoredRecord>, millis_behind: u64) -> wire::SubscribeEvent {
        wire::SubscribeEvent {
            records,
            millis_behind,
            stale: self.handle.leadership().leader.is_none(),
            refusal: None,
            children: vec![],
            next_sequence_number: name_position(self.handle.shard(), self.position).to_string(),
        }
    }

    /// Whether the stream is still the one that was subscribed to.
    fn check_stream(&self) -> Result<(), wire::Refusal> {
        let view = self.router.view();
        match view.streams.get(&self.stream.name) {
            Some(now)
                if now.incarnation == self.stream.incarnation
                    && now.status != StreamStatus::Deleting =>
            {
                Ok(())
            }
            _ => Err(status::stream_not_found(&self.stream.name)),
        }
    }
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
    use tristream_proto::domain::{GroupId, HashKeyRange};

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
