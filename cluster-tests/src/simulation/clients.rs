//! Who uses the simulated cluster: producers and a reader through the native client, and the auditor, who at
//! the end reads every replica by itself.
//!
//! Invariant: an attempt is in the history before it sets out. Must not know faults.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};
use tristream_client::domain::{Effect, PartitionKey, Record, SequenceNumber, Shard, StoredRecord};
use tristream_client::wire::subscribe_request::From as WireFrom;
use tristream_client::{
    Client, Connection, Connector, Error, Options, Start, StreamDescription, StreamStatus,
};
use tristream_node::net::Net;

use super::board::{Board, Outcome, Phase, explicit_hash};
use super::place::{AZS, peer_address};
use super::subscription::Subscription;
use super::world::SimulatedNet;
use crate::history::{self, Event, Position, ShardSeen};

/// Most records of one call.
const BATCH_MAX: usize = 8;
/// How long one call of a producer may take.
const DEADLINE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause of a producer between two calls.
const PUT_PAUSE_MAX_MS: u64 = 130;
/// Nothing that was asked for comes later than this.
const SETTLED_AFTER: Duration = Duration::from_secs(8);
/// The reader that reads while everything happens.
const LIVE: &str = "live";

pub(super) fn native_client() -> Result<Client, Error> {
    let connect = |address: String| async move {
        let stream = SimulatedNet.connect(&address).await?;
        Ok::<_, io::Error>(Box::new(stream) as Connection)
    };
    let options = Options {
        deadline: DEADLINE,
        silence_max: Duration::from_secs(5),
        connector: Some(Connector::new(connect)),
        ..Options::default()
    };
    Client::connect((0..3).map(peer_address), options)
}

/// Creates the stream and opens the storm when it is active.
pub(super) async fn founder(board: Arc<Board>) -> turmoil::Result {
    let client = native_client()?;
    loop {
        match client.create_stream(&board.stream, Some(board.shard_count)).await {
            Ok(()) | Err(Error::AlreadyExists(_)) => break,
            Err(error) => tracing::info!(%error, "not created yet"),
        }
        sleep(PAUSE).await;
    }
    loop {
        let stream = client.describe_stream(&board.stream).await;
        if stream.is_ok_and(|stream| stream.status == StreamStatus::Active) {
            break;
        }
        sleep(PAUSE).await;
    }
    board.enter(Phase::Storm);
    Ok(())
}

/// Puts records until the audit.
pub(super) async fn producer(number: u64, seed: u64, board: Arc<Board>) -> turmoil::Result {
    let mut random = SmallRng::seed_from_u64(seed ^ (number + 1) << 32);
    board.reached(Phase::Storm).await;
    let client = native_client()?;
    let (name, mut made) = (format!("native-{number}"), 0);
    while board.phase() < Phase::Audit {
        let batch = board.send_batch(&name, &mut made, &mut random, BATCH_MAX);
        let mut records = Vec::new();
        for (_, key, data) in &batch {
            let partition_key = PartitionKey::new(key).ok_or("not a key")?;
            let data = data.clone();
            let explicit_hash_key = explicit_hash(key);
            records.push(Record { partition_key, explicit_hash_key, origin: None, data });
        }
        let outcomes = client.put_batch(&board.stream, records).await;
        let outcomes = outcomes.into_iter().map(|outcome| match outcome {
            Ok(number) => position(number).map(Outcome::Acked),
            Err(error) if error.effect() == Effect::None => Ok(Outcome::Refused),
            Err(_) => Ok(Outcome::Unknown),
        });
        board.note_put(batch, outcomes.collect::<Result<Vec<_>, _>>()?);
        sleep(Duration::from_millis(random.random_range(0..PUT_PAUSE_MAX_MS))).await;
    }
    Ok(())
}

fn position(number: SequenceNumber) -> Result<Position, String> {
    let text = number.to_string();
    let number_as_text = history::SequenceNumber::parse(&text);
    let parsed = number_as_text.ok_or_else(|| format!("{text} is no sequence number"))?;
    Ok(Position { shard: number.shard.to_string(), number: parsed })
}

pub(super) fn stored(record: StoredRecord) -> Result<history::Stored, String> {
    Ok(history::Stored {
        position: position(record.sequence_number)?,
        key: record.partition_key.as_str().to_owned(),
        data: record.data,
    })
}

/// Reads all shards from their beginning while everything happens.
pub(super) async fn reader(board: Arc<Board>) -> turmoil::Result {
    board.reached(Phase::Storm).await;
    let client = native_client()?;
    let mut consumer = loop {
        match client.consumer(&board.stream, Start::TrimHorizon).await {
            Ok(consumer) => break consumer,
            Err(_) => sleep(PAUSE).await,
        }
    };
    while board.phase() < Phase::Done {
        match timeout(PAUSE, consumer.next()).await {
            Ok(Some(Ok(event))) => {
                board.count("records_read_live", event.records.len() as u64);
                for record in event.records {
                    board.push(Event::Read(LIVE, stored(record)?));
                }
            }
            Ok(Some(Err(error))) => {
                tracing::info!(%error, "the reader was refused");
                board.count("reader_errors", 1);
            }
            Ok(None) => Err("the reader was left without shards")?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// The stream once nothing has changed for so long that nothing will: a change that somebody asked for may
/// come late, and so may a put of which nobody learnt the outcome.
async fn settled(client: &Client, board: &Board) -> Arc<StreamDescription> {
    board.wait_for("the shards to settle".to_owned());
    let (mut known, mut since) = (None, Instant::now());
    loop {
        if let Ok(stream) = client.describe_stream(&board.stream).await
            && stream.status == StreamStatus::Active
        {
            if known.as_ref() != Some(&stream.map) {
                (known, since) = (Some(stream.map.clone()), Instant::now());
            } else if since.elapsed() >= SETTLED_AFTER {
                return stream;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Reads every replica of every shard whole, from the node that keeps it.
pub(super) async fn auditor(board: Arc<Board>) -> turmoil::Result {
    board.reached(Phase::Audit).await;
    let client = native_client()?;
    let description = settled(&client, &board).await;
    board.count("shards", description.map.shards().len() as u64);
    board.push(Event::Map(description.map.shards().iter().map(ShardSeen::from).collect()));
    for shard in description.map.shards() {
        let ends = board.newest_ack(&shard.id.to_string());
        for (node, az) in AZS.into_iter().enumerate() {
            let upto = ends.as_ref().map_or("its end".to_owned(), ToString::to_string);
            board.wait_for(format!("{} of {az}, up to {upto}", shard.id));
            let records = read_replica(&client, &board, node, shard, ends.as_ref()).await;
            let Some(records) = records else { break };
            records.into_iter().for_each(|record| board.push(Event::Read(az, record)));
            board.push(Event::ReadAll(az, shard.id.to_string()));
        }
    }
    if board.expires() {
        board.wait_for("the last list of shards".to_owned());
        let stream = described(&client, &board).await;
        board.push(Event::Map(stream.map.shards().iter().map(ShardSeen::from).collect()));
    }
    board.wait_for("the status of the cluster".to_owned());
    let status = loop {
        match client.cluster_status().await {
            Ok(status) => break status,
            Err(_) => sleep(PAUSE).await,
        }
    };
    board.count("terms", status.groups.iter().map(|group| group.term).sum());
    board.enter(Phase::Done);
    Ok(())
}

async fn described(client: &Client, board: &Board) -> Arc<StreamDescription> {
    loop {
        if let Ok(stream) = client.describe_stream(&board.stream).await {
            return stream;
        }
        sleep(PAUSE).await;
    }
}

/// All that a replica has of a shard; none if the shard expired meanwhile.
async fn read_replica(
    client: &Client,
    board: &Board,
    node: usize,
    shard: &Shard,
    ends: Option<&history::SequenceNumber>,
) -> Option<Vec<history::Stored>> {
    loop {
        match read_replica_once(board, node, shard, ends).await {
            Ok(records) => return Some(records),
            Err(error) => tracing::info!(node, %error, "not read to its end"),
        }
        if board.expires() && described(client, board).await.map.get(shard.id).is_none() {
            return None;
        }
        sleep(PAUSE).await;
    }
}

async fn oldest(board: &Board, node: usize, shard: &Shard) -> anyhow::Result<Subscription> {
    Subscription::begin(board, node, shard.id.index(), WireFrom::TrimHorizon(true)).await
}

async fn read_replica_once(
    board: &Board,
    node: usize,
    shard: &Shard,
    ends: Option<&history::SequenceNumber>,
) -> anyhow::Result<Vec<history::Stored>> {
    let mut replica = oldest(board, node, shard).await?;
    let mut records: Vec<history::Stored> = Vec::new();
    loop {
        let event = replica.next(&mut records).await?;
        // Where the newest record may have expired, it is passed all the same.
        let next = history::SequenceNumber::parse(&event.next_sequence_number);
        let passed = next.filter(|_| board.expires());
        let reached = ends.is_none_or(|ends| {
            let has = records.last().is_some_and(|newest| newest.position.number >= *ends);
            has || passed.is_some_and(|next| next > *ends)
        });
        let at_tip = shard.is_open() && reached && event.millis_behind == 0 && !event.stale;
        if at_tip || !event.children.is_empty() {
            break;
        }
    }
    if let Some(first) = records.first().filter(|_| board.expires()) {
        still_begins_with(first, board, node, shard).await?;
    }
    Ok(records)
}

/// Nothing was trimmed while a replica was read, so that what it showed was there all at one moment.
async fn still_begins_with(
    first: &history::Stored,
    board: &Board,
    node: usize,
    shard: &Shard,
) -> anyhow::Result<()> {
    let mut replica = oldest(board, node, shard).await?;
    let mut records = Vec::new();
    loop {
        let event = replica.next(&mut records).await?;
        if let Some(now) = records.first() {
            anyhow::ensure!(now.position == first.position, "trimmed meanwhile");
            return Ok(());
        }
        let is_end = event.millis_behind == 0 || !event.children.is_empty();
        anyhow::ensure!(!is_end, "all trimmed meanwhile");
    }
}
