//! Subscriptions to what the fake cluster has stored.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tristream_proto::domain::{SequenceNumber, Shard, ShardId};
use tristream_proto::wire;
use tristream_proto::wire::refusal::Kind;

use super::{Node, POLL, State, number};

impl Node {
    /// One subscription to what is stored: ends with the children of a closed shard.
    #[allow(clippy::disallowed_methods)]
    pub(super) fn serve(&self, request: wire::SubscribeRequest) -> ReceiverStream<Event> {
        use wire::subscribe_request::From;
        let (id, state) = (ShardId::from(request.shard_index), self.state.clone());
        let (sender, receiver) = mpsc::channel(4);
        let place = |text: String| {
            text.parse::<SequenceNumber>().expect("a number").counter.saturating_sub(1)
        };
        let mut at = match request.from.expect("a start") {
            From::AtSequenceNumber(text) => place(text),
            From::AfterSequenceNumber(text) => place(text) + 1,
            From::Latest(_) => state.lock().stored.get(&id).map_or(0, Vec::len) as u64,
            From::TrimHorizon(_) | From::AtTimestampMs(_) => 0,
        };
        tokio::spawn(async move {
            let mut first = true;
            loop {
                let (event, ends) = event(&state.lock(), id, &mut at);
                if (first || ends || !event.records.is_empty())
                    && sender.send(Ok(event)).await.is_err()
                    || ends
                {
                    return;
                }
                first = false;
                tokio::time::sleep(POLL).await;
            }
        });
        ReceiverStream::new(receiver)
    }
}

type Event = Result<wire::SubscribeEvent, Status>;

/// What is stored in the shard from `at` on, a few records at a time, and whether that is its end.
fn event(state: &State, id: ShardId, at: &mut u64) -> (wire::SubscribeEvent, bool) {
    let Some(shard) = state.shards.iter().find(|shard| shard.id == id) else {
        let refusal = wire::Refusal { kind: Kind::Invalid.into(), ..Default::default() };
        return (wire::SubscribeEvent { refusal: Some(refusal), ..Default::default() }, true);
    };
    let stored = state.stored.get(&id).map_or(&[][..], Vec::as_slice);
    let records: Vec<wire::StoredRecord> = (*at + 1..)
        .zip(stored.iter().skip(*at as usize).take(7))
        .map(|(counter, data)| wire::StoredRecord {
            sequence_number: number(id.index(), counter).to_string(),
            arrival_ms: 1,
            partition_key: "k".to_owned(),
            data: data.clone().into(),
        })
        .collect();
    *at += records.len() as u64;
    let ends = !shard.is_open() && *at as usize >= stored.len();
    let children = state.shards.iter().filter(|shard| ends && shard.parents.contains(&id));
    let child = |shard: &Shard| wire::ChildShard { shard: Some(wire::Shard::from(shard)) };
    let event = wire::SubscribeEvent {
        records,
        next_sequence_number: number(id.index(), *at + 1).to_string(),
        children: children.map(child).collect(),
        map_version: state.map_version,
        ..Default::default()
    };
    (event, ends)
}
