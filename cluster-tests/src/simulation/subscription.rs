//! One subscription to one replica of a shard, without the native client, which would choose the node.
//!
//! Must not know faults.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tristream_client::wire;
use tristream_client::wire::subscribe_request::From as WireFrom;
use tristream_client::wire::tristream_client::TristreamClient;
use tristream_node::net::{Net, channel};

use super::board::Board;
use super::clients::stored;
use super::place::peer_address;
use super::world::SimulatedNet;
use crate::history;

/// A node that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// What one node pushes of a shard.
pub(super) struct Subscription(tonic::Streaming<wire::SubscribeEvent>);

impl Subscription {
    pub(super) async fn begin(
        board: &Board,
        node: usize,
        shard_index: u32,
        from: WireFrom,
    ) -> anyhow::Result<Subscription> {
        let net: Arc<dyn Net> = Arc::new(SimulatedNet);
        let mut stub = TristreamClient::new(channel(&net, &peer_address(node), 16 << 20)?)
            .max_decoding_message_size(64 << 20);
        let (stream, from) = (board.stream.to_string(), Some(from));
        let request = wire::SubscribeRequest { stream, shard_index, from };
        let events = timeout(SILENCE, stub.subscribe(request)).await??;
        Ok(Subscription(events.into_inner()))
    }

    /// The next event, whose records go to `records`.
    pub(super) async fn next(
        &mut self,
        records: &mut Vec<history::Stored>,
    ) -> anyhow::Result<wire::SubscribeEvent> {
        let event = timeout(SILENCE, self.0.message()).await??;
        let mut event = event.ok_or_else(|| anyhow::anyhow!("the node ended the subscription"))?;
        if let Some(refusal) = event.refusal {
            anyhow::bail!("refused: {refusal:?}");
        }
        for record in event.records.drain(..) {
            records.push(stored(record.try_into()?).map_err(anyhow::Error::msg)?);
        }
        Ok(event)
    }
}
