//! Somebody who begins to read in the middle: by every kind of iterator that asks for a place, and by subscriptions
//! that are pushed from there, each at any node.
//!
//! Reads some of a shard first, so as to know what is to come where. Must not know faults, nor judge.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tristream_client::wire::subscribe_request::From as WireFrom;

use super::board::{Board, Phase};
use super::kinesis::{STALE, Silence, answered, call, position};
use super::resharder::open_shard;
use super::subscription::Subscription;
use crate::history::{Asked, Begun, RecordId, SequenceNumber};
use crate::promises::ranges_tile::tile;
use crate::raw_http::Answer;

/// The name of this reader.
const READER: &str = "seeker";
const PAUSE: Duration = Duration::from_millis(90);
/// Longest pause between two places.
const PAUSE_MAX_MS: u64 = 700;
/// Most pages that are read before a place is chosen, and most records of one.
const PAGES_MAX: u32 = 5;
const PAGE_MAX: u32 = 60;
/// For the first record of a place.
const PATIENCE: Duration = Duration::from_secs(4);

/// A record that was read.
struct Known {
    number: SequenceNumber,
    id: RecordId,
    /// Its stamp, in ms.
    stamp: u64,
}

/// A piece of a shard, without a gap.
struct Page {
    records: Vec<Known>,
    /// Nothing is before it.
    is_first: bool,
    /// How many events had happened when it was read.
    known: usize,
}

/// Where to begin, and what is to be there.
struct Place {
    kind: &'static str,
    /// As GetShardIterator is asked.
    body: Value,
    /// As a subscription is asked.
    from: WireFrom,
    /// None: what is new.
    due: Option<(RecordId, SequenceNumber)>,
    known: usize,
}

/// Asks for places until the audit.
pub(super) async fn seeker(seed: u64, board: Arc<Board>) -> turmoil::Result {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5ee);
    board.reached(Phase::Storm).await;
    while board.phase() < Phase::Audit {
        sleep(Duration::from_millis(random.random_range(0..PAUSE_MAX_MS))).await;
        let Some(shard) = a_shard(&mut random, &board).await? else { continue };
        let place = if random.random_ratio(1, 4) {
            Some(newest())
        } else {
            let page = read_some(&mut random, &board, &shard).await?;
            page.and_then(|page| draw(&mut random, &page))
        };
        let Some(place) = place else { continue };
        if random.random_ratio(1, 3) {
            subscribe(&mut random, &board, &shard, place).await?;
        } else {
            iterate(&mut random, &board, &shard, place).await?;
        }
    }
    Ok(())
}

/// The answer, none where the node could not be asked, could not serve, or may say that it has no such thing: a shard that
/// expired; a time that its clock does not show yet.
fn served(answer: Result<Answer, Silence>, board: &Board) -> anyhow::Result<Option<Value>> {
    if let Ok(answer) = &answer
        && answer.status == 400
    {
        let body = String::from_utf8_lossy(&answer.body);
        let is_gone = board.expires() && body.contains("ResourceNotFoundException");
        if is_gone || body.contains("cannot be greater than the currentTimestampInMillis") {
            return Ok(None);
        }
    }
    answered(answer)
}

/// One of the shards, by chance of all, closed ones too, or of those of one moment. These must tile the key space: a KCL
/// that starts with other ones reads too little (kinesis-contract, ListShards).
async fn a_shard(random: &mut SmallRng, board: &Board) -> anyhow::Result<Option<String>> {
    let mut body = json!({ "StreamName": board.stream.as_str() });
    let moment = [None, Some("AT_LATEST"), Some("AT_TRIM_HORIZON")][random.random_range(0..3)];
    if let Some(moment) = moment {
        body["ShardFilter"] = json!({ "Type": moment });
    }
    let answer = call(random.random_range(0..3), "ListShards", &body, None).await;
    let Some(listing) = served(answer, board)? else { return Ok(None) };
    let shards = listing["Shards"].as_array().context("a listing without shards")?;
    if let Some(moment) = moment {
        let open = shards.iter().map(open_shard).collect::<anyhow::Result<Vec<_>>>()?;
        let is_whole = tile(open.iter().map(|shard| shard.range));
        anyhow::ensure!(is_whole, "the shards {moment} do not tile the key space: {open:?}");
        board.count("moments_listed", 1);
    }
    let shard = shards.get(random.random_range(0..shards.len().max(1)));
    Ok(shard.and_then(|shard| shard["ShardId"].as_str()).map(str::to_owned))
}

async fn iterator(
    random: &mut SmallRng,
    board: &Board,
    shard: &str,
    from: &Value,
) -> anyhow::Result<Option<String>> {
    let mut body = from.clone();
    body["StreamName"] = json!(board.stream.as_str());
    body["ShardId"] = json!(shard);
    let answer = call(random.random_range(0..3), "GetShardIterator", &body, None).await;
    let iterator = served(answer, board)?;
    Ok(iterator.and_then(|answer| answer["ShardIterator"].as_str().map(str::to_owned)))
}

/// Pages from the oldest record on, up to one by chance; none where that one is empty or could not be had.
async fn read_some(
    random: &mut SmallRng,
    board: &Board,
    shard: &str,
) -> anyhow::Result<Option<Page>> {
    let oldest = json!({ "ShardIteratorType": "TRIM_HORIZON" });
    let mut from = iterator(random, board, shard, &oldest).await?;
    let limit = random.random_range(2..PAGE_MAX);
    let mut page = None;
    for number in 0..random.random_range(1..=PAGES_MAX) {
        let Some(iterator) = from.take() else { break };
        let body = json!({ "ShardIterator": iterator, "Limit": limit });
        let answer = call(random.random_range(0..3), "GetRecords", &body, None).await;
        let Some(answer) = served(answer, board)? else { return Ok(None) };
        let known = board.with_history(|history| history.events().len()).saturating_sub(1);
        let records = answer["Records"].as_array().context("an answer without records")?;
        if records.is_empty() {
            break;
        }
        let records = records.iter().map(|record| known_record(record, shard, board));
        let records = records.collect::<anyhow::Result<Vec<_>>>()?;
        page = Some(Page { records, is_first: number == 0, known });
        from = answer["NextShardIterator"].as_str().map(str::to_owned);
    }
    Ok(page)
}

fn known_record(record: &Value, shard: &str, board: &Board) -> anyhow::Result<Known> {
    let number = position(Some(shard), record)?.number;
    let data = STANDARD.decode(record["Data"].as_str().context("a record without data")?)?;
    let id = board.with_history(|history| history.find(&Bytes::from(data)));
    let id = id.with_context(|| format!("nobody sent {number} of {shard}"))?;
    let seconds = record["ApproximateArrivalTimestamp"].as_f64();
    let stamp = (seconds.context("a record without a stamp")? * 1000.0).round() as u64;
    Ok(Known { number, id, stamp })
}

fn newest() -> Place {
    let (body, from) = (json!({ "ShardIteratorType": "LATEST" }), WireFrom::Latest(true));
    Place { kind: "latest", body, from, due: None, known: 0 }
}

/// A place within a page; none where chance asks for one that the page does not tell.
fn draw(random: &mut SmallRng, page: &Page) -> Option<Place> {
    let at = random.random_range(0..page.records.len());
    let Known { number, stamp, .. } = &page.records[at];
    let text = number.to_string();
    let (kind, body, from, due) = match random.random_range(0..3) {
        0 => {
            let body = by_number("AT_SEQUENCE_NUMBER", &text);
            ("at_sequence_number", body, WireFrom::AtSequenceNumber(text), at)
        }
        1 => {
            let body = by_number("AFTER_SEQUENCE_NUMBER", &text);
            ("after_sequence_number", body, WireFrom::AfterSequenceNumber(text), at + 1)
        }
        _ => {
            let due = page.records.partition_point(|known| known.stamp < *stamp);
            // Others of the same stamp may be before the page.
            if due == 0 && !page.is_first {
                return None;
            }
            let seconds = *stamp as f64 / 1000.0;
            let body = json!({ "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": seconds });
            ("at_timestamp", body, WireFrom::AtTimestampMs(*stamp), due)
        }
    };
    let due = page.records.get(due)?;
    Some(Place { kind, body, from, due: Some((due.id, due.number.clone())), known: page.known })
}

fn by_number(kind: &str, number: &str) -> Value {
    json!({ "ShardIteratorType": kind, "StartingSequenceNumber": number })
}

impl Place {
    fn asked(&self, told: usize) -> Asked {
        match &self.due {
            None => Asked::Latest { told },
            Some((id, number)) => {
                Asked::Record { id: *id, number: number.clone(), known: self.known }
            }
        }
    }
}

fn events(board: &Board) -> usize {
    board.with_history(|history| history.events().len())
}

fn note(
    board: &Board,
    way: &str,
    shard: &str,
    place: &Place,
    told: usize,
    first: Option<SequenceNumber>,
) {
    board.count(&format!("{way}_{}", place.kind), 1);
    let (reader, shard, asked) = (READER, shard.to_owned(), place.asked(told));
    board.note_begun(Begun { reader, shard, asked, first });
}

/// By an iterator.
async fn iterate(
    random: &mut SmallRng,
    board: &Board,
    shard: &str,
    place: Place,
) -> anyhow::Result<()> {
    let Some(mut from) = iterator(random, board, shard, &place.body).await? else { return Ok(()) };
    let (told, until) = (events(board), Instant::now() + PATIENCE);
    while Instant::now() < until && board.phase() < Phase::Audit {
        let body = json!({ "ShardIterator": from, "Limit": 1 });
        let answer = call(random.random_range(0..3), "GetRecords", &body, None).await;
        let stale = matches!(&answer, Ok(answer) if answer.header(STALE).is_some());
        if let Some(answer) = served(answer, board)? {
            let record = answer["Records"].get(0);
            let first = record.map(|record| position(Some(shard), record)).transpose()?;
            let next = answer["NextShardIterator"].as_str();
            // Behind a tip new records may come, but none that was there before.
            let at_tip = answer["MillisBehindLatest"] == 0 && !stale && place.due.is_some();
            if first.is_some() || next.is_none() || at_tip {
                note(board, "iterators", shard, &place, told, first.map(|first| first.number));
                return Ok(());
            }
            from = next.unwrap_or_default().to_owned();
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// By a subscription.
async fn subscribe(
    random: &mut SmallRng,
    board: &Board,
    shard: &str,
    place: Place,
) -> anyhow::Result<()> {
    let index = shard.rsplit('-').next().and_then(|digits| digits.parse().ok());
    let index: u32 = index.with_context(|| format!("{shard} is no shard"))?;
    let node = random.random_range(0..3);
    let begun = Subscription::begin(board, node, index, place.from.clone()).await;
    let Ok(mut subscription) = begun else { return Ok(()) };
    let (mut told, until) = (None, Instant::now() + PATIENCE);
    while Instant::now() < until && board.phase() < Phase::Audit {
        let mut records = Vec::new();
        // Cut off, or refused: what may be.
        let Ok(event) = subscription.next(&mut records).await else { return Ok(()) };
        let told = *told.get_or_insert_with(|| events(board));
        let first = records.into_iter().next().map(|record| record.position.number);
        // The tip of a replica is not the shard's.
        if first.is_some() || !event.children.is_empty() {
            note(board, "subscriptions", shard, &place, told, first);
            return Ok(());
        }
    }
    Ok(())
}
