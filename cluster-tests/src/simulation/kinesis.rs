//! A producer and a reader that speak Kinesis over HTTP, each call to any node: what an AWS client does.
//!
//! Must not know faults.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use super::board::{Board, Outcome, Phase, explicit_hash};
use super::place::{AZS, KINESIS_PORT};
use crate::history::{Event, Position, RecordId, SequenceNumber, Stored, Tip};
use crate::raw_http::{Answer, kinesis_over};

/// Most records of one PutRecords.
const BATCH_MAX: usize = 8;
/// How long one call may take: nodes answer a put within 5 s.
const PATIENCE: Duration = Duration::from_secs(7);
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Longest pause of the producer between two calls.
const PUT_PAUSE_MAX_MS: u64 = 130;
/// Between two rounds of the reader.
const PAUSE: Duration = Duration::from_millis(150);
/// Rounds of the reader between two listings.
const LISTING_ROUNDS: u64 = 10;
/// On an answer that may lack what was acked.
pub(super) const STALE: &str = "x-tristream-stale";
/// The name of the reader.
const READER: &str = "kinesis";

/// Attempts of one call.
const ATTEMPTS: u32 = 3;

/// Why a call has no answer.
pub(super) enum Silence {
    /// Nothing was sent.
    NotConnected,
    /// It may have arrived.
    Broken,
}

pub(super) async fn call(
    node: usize,
    operation: &str,
    body: &Value,
    invocation: Option<&str>,
) -> Result<Answer, Silence> {
    let address = format!("{}:{KINESIS_PORT}", AZS[node]);
    let connected = timeout(CONNECT_PATIENCE, TcpStream::connect(address.as_str())).await;
    let Ok(Ok(connection)) = connected else { return Err(Silence::NotConnected) };
    match timeout(PATIENCE, kinesis_over(connection, &address, operation, body, invocation)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(Silence::Broken),
    }
}

/// Puts records at any node until the audit.
pub(super) async fn producer(seed: u64, board: Arc<Board>) -> turmoil::Result {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x4b69);
    board.reached(Phase::Storm).await;
    let mut made = 0;
    while board.phase() < Phase::Audit {
        let batch = board.send_batch("http", &mut made, &mut random, BATCH_MAX);
        let outcomes = put(&board, &batch, &mut random).await?;
        board.note_put(batch, outcomes);
        sleep(Duration::from_millis(random.random_range(0..PUT_PAUSE_MAX_MS))).await;
    }
    Ok(())
}

/// One call as an SDK makes it: sent again to any node under the same id while its outcome is not known.
async fn put(
    board: &Board,
    batch: &[(RecordId, String, Bytes)],
    random: &mut SmallRng,
) -> anyhow::Result<Vec<Outcome>> {
    let entry = |key: &str, data: &[u8]| {
        let mut entry = json!({ "PartitionKey": key, "Data": STANDARD.encode(data) });
        if let Some(hash) = explicit_hash(key) {
            entry["ExplicitHashKey"] = json!(hash.to_string());
        }
        entry
    };
    let (operation, body) = match batch {
        [(_, key, data)] => {
            let mut body = entry(key, data);
            body["StreamName"] = json!(board.stream.as_str());
            ("PutRecord", body)
        }
        several => {
            let entries: Vec<Value> =
                several.iter().map(|(_, key, data)| entry(key, data)).collect();
            ("PutRecords", json!({ "StreamName": board.stream.as_str(), "Records": entries }))
        }
    };
    let records = |answer: &Value| match operation {
        "PutRecord" => vec![answer.clone()],
        _ => answer["Records"].as_array().cloned().unwrap_or_default(),
    };
    let invocation = format!("{:032x}", random.random::<u128>());
    for attempt in 1.. {
        if attempt > 1 {
            board.send_again(batch);
        }
        let node = random.random_range(0..3);
        let answer = call(node, operation, &body, Some(&invocation)).await;
        let doubtful = match &answer {
            Ok(answer) => answer.status == 500,
            Err(Silence::Broken) => true,
            Err(Silence::NotConnected) => attempt > 1,
        };
        if !doubtful || attempt == ATTEMPTS {
            let mut outcomes = outcomes(answer, batch.len(), records)?;
            // That this attempt stored nothing says nothing of those before it.
            if attempt > 1 {
                let refused = |outcome: &&mut Outcome| matches!(outcome, Outcome::Refused);
                outcomes.iter_mut().filter(refused).for_each(|o| *o = Outcome::Unknown);
            }
            return Ok(outcomes);
        }
        board.count("calls_sent_again", 1);
        sleep(Duration::from_millis(random.random_range(20..200))).await;
    }
    bail!("a call without attempts")
}

/// One outcome per record of the call; `entries` finds them in an answer of success.
fn outcomes(
    answer: Result<Answer, Silence>,
    count: usize,
    entries: impl Fn(&Value) -> Vec<Value>,
) -> anyhow::Result<Vec<Outcome>> {
    let all = |outcome: fn() -> Outcome| (0..count).map(|_| outcome()).collect();
    let answer = match answer {
        Ok(answer) => answer,
        Err(Silence::NotConnected) => return Ok(all(|| Outcome::Refused)),
        Err(Silence::Broken) => return Ok(all(|| Outcome::Unknown)),
    };
    match answer.status {
        200 => {}
        500 => return Ok(all(|| Outcome::Unknown)),
        400 | 503 => return Ok(all(|| Outcome::Refused)),
        status => bail!("{status} is no status of a put"),
    }
    let entries = entries(&answer.json()?);
    if entries.len() != count {
        bail!("{} outcomes for {count} records", entries.len());
    }
    entries.iter().map(outcome).collect()
}

fn outcome(entry: &Value) -> anyhow::Result<Outcome> {
    match entry["ErrorCode"].as_str() {
        None => Ok(Outcome::Acked(position(entry["ShardId"].as_str(), entry)?)),
        Some("ProvisionedThroughputExceededException") => Ok(Outcome::Refused),
        Some(_) => Ok(Outcome::Unknown),
    }
}

pub(super) fn position(shard: Option<&str>, entry: &Value) -> anyhow::Result<Position> {
    let shard = shard.context("an answer without a shard")?.to_owned();
    let number = entry["SequenceNumber"].as_str().and_then(SequenceNumber::parse);
    Ok(Position { shard, number: number.context("an answer without a sequence number")? })
}

/// Reads all shards with iterators, parents before children, each call at any node: an iterator is good at all of them. Learns of new
/// shards from listings.
pub(super) async fn reader(seed: u64, board: Arc<Board>) -> turmoil::Result {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x5244);
    board.reached(Phase::Storm).await;
    let mut places: Vec<Place> = Vec::new();
    // Parents that had expired before they were heard of: read after their children, they would be out of order.
    let mut passed: BTreeSet<String> = BTreeSet::new();
    let mut round = 0u64;
    while board.phase() < Phase::Done {
        if round.is_multiple_of(LISTING_ROUNDS) {
            let node = random.random_range(0..3);
            let body = json!({ "StreamName": board.stream.as_str() });
            let answer = call(node, "ListShards", &body, None).await;
            if let Ok(Some(listing)) = answered(answer) {
                let shards = listing["Shards"].as_array().context("a listing without shards")?;
                learn(&mut places, shards, &passed)?;
                if board.expires() {
                    let listed: BTreeSet<&str> =
                        shards.iter().filter_map(|shard| shard["ShardId"].as_str()).collect();
                    give_up(&mut places, &listed, &mut passed, &board);
                }
            }
        }
        round += 1;
        let ended = places.iter().filter(|place| place.ended).map(|place| place.shard.clone());
        let ended: BTreeSet<String> = ended.chain(passed.iter().cloned()).collect();
        let is_due = |place: &&mut Place| {
            !place.ended && place.parents.iter().all(|parent| ended.contains(parent))
        };
        for place in places.iter_mut().filter(is_due) {
            let node = random.random_range(0..3);
            match place.iterator.take() {
                None => place.look_up(node, &board).await?,
                // Now and then a new iterator, from the last record on.
                Some(_) if random.random_bool(0.05) => {}
                Some(iterator) => place.read(node, iterator, &board).await?,
            }
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Takes in the shards of a listing.
fn learn(
    places: &mut Vec<Place>,
    shards: &[Value],
    passed: &BTreeSet<String>,
) -> anyhow::Result<()> {
    for shard in shards {
        let id = shard["ShardId"].as_str().context("a shard without an id")?;
        if !places.iter().any(|place| place.shard == id) && !passed.contains(id) {
            let parents = ["ParentShardId", "AdjacentParentShardId"];
            let parents = parents.iter().filter_map(|name| shard[*name].as_str());
            places.push(Place::new(id, parents.map(str::to_owned).collect()));
        }
    }
    Ok(())
}

/// Shards that a node did not find, and that are no longer listed, are over; so are parents that were not heard of
/// before they were.
fn give_up(
    places: &mut [Place],
    listed: &BTreeSet<&str>,
    passed: &mut BTreeSet<String>,
    board: &Board,
) {
    for place in places.iter_mut().filter(|place| place.not_found && !place.ended) {
        if listed.contains(place.shard.as_str()) {
            place.not_found = false;
        } else {
            place.ended = true;
            board.count("shards_expired_half_read", 1);
        }
    }
    let known: BTreeSet<&str> = places.iter().map(|place| place.shard.as_str()).collect();
    let parents = places.iter().flat_map(|place| &place.parents);
    let unheard = parents.filter(|parent| !known.contains(parent.as_str()));
    passed.extend(unheard.cloned());
}

/// How far one shard is read.
struct Place {
    shard: String,
    last: Option<SequenceNumber>,
    iterator: Option<String>,
    /// Read to their end before this one is begun.
    parents: Vec<String>,
    /// A node said that there is no such shard.
    not_found: bool,
    ended: bool,
}

impl Place {
    fn new(id: &str, parents: Vec<String>) -> Place {
        let (last, iterator) = (None, None);
        Place { shard: id.to_owned(), last, iterator, parents, not_found: false, ended: false }
    }

    async fn look_up(&mut self, node: usize, board: &Board) -> anyhow::Result<()> {
        let mut body = json!({ "StreamName": board.stream.as_str(), "ShardId": self.shard });
        match &self.last {
            None => body["ShardIteratorType"] = json!("TRIM_HORIZON"),
            Some(last) => {
                body["ShardIteratorType"] = json!("AFTER_SEQUENCE_NUMBER");
                body["StartingSequenceNumber"] = json!(last.to_string());
            }
        }
        let answer = call(node, "GetShardIterator", &body, None).await;
        if let Some(answer) = self.answered(answer, board)? {
            self.iterator = answer["ShardIterator"].as_str().map(str::to_owned);
        }
        Ok(())
    }

    /// As [`answered`]; where closed shards expire, one may also be gone.
    fn answered(
        &mut self,
        answer: Result<Answer, Silence>,
        board: &Board,
    ) -> anyhow::Result<Option<Value>> {
        let is_unknown = |answer: &Answer| {
            let body = String::from_utf8_lossy(&answer.body);
            answer.status == 400 && body.contains("ResourceNotFoundException")
        };
        if board.expires() && matches!(&answer, Ok(answer) if is_unknown(answer)) {
            self.not_found = true;
            return Ok(None);
        }
        answered(answer)
    }

    async fn read(&mut self, node: usize, from: String, board: &Board) -> anyhow::Result<()> {
        let body = json!({ "ShardIterator": from, "Limit": 1000 });
        let asked = board.with_history(|history| history.events().len());
        let answer = call(node, "GetRecords", &body, None).await;
        let stale = matches!(&answer, Ok(answer) if answer.header(STALE).is_some());
        let Some(answer) = self.answered(answer, board)? else {
            self.iterator = Some(from);
            return Ok(());
        };
        let records = answer["Records"].as_array().context("an answer without records")?;
        for record in records {
            let position = position(Some(&self.shard), record)?;
            self.last = Some(position.number.clone());
            let key = record["PartitionKey"].as_str().context("a record without a key")?.to_owned();
            let data =
                STANDARD.decode(record["Data"].as_str().context("a record without data")?)?;
            board.push(Event::Read(READER, Stored { position, key, data: data.into() }));
        }
        board.count("records_read_by_iterator", records.len() as u64);
        self.iterator = answer["NextShardIterator"].as_str().map(str::to_owned);
        let children = answer["ChildShards"].as_array().map_or(0, Vec::len);
        if self.iterator.is_some() == (children > 0) {
            bail!("{children} children, and the next iterator {:?}", self.iterator);
        }
        if answer["MillisBehindLatest"] == 0 && !stale {
            let (shard, upto) = (self.shard.clone(), self.last.clone());
            board.note_tip(Tip { reader: READER, shard, asked, upto });
            board.count("tips_told", 1);
        }
        if children > 0 {
            self.ended = true;
            board.count("shards_read_to_their_end", 1);
        }
        Ok(())
    }
}

/// The answer, none where the node could not be asked or could not serve. Anything else is wrong.
pub(super) fn answered(answer: Result<Answer, Silence>) -> anyhow::Result<Option<Value>> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(Some(answer.json()?)),
        Ok(answer) if answer.status >= 500 => Ok(None),
        Ok(answer) => bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)),
        Err(_) => Ok(None),
    }
}
