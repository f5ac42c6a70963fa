//! Somebody who splits and merges the shards under load, or lets the load decide, asking any node as an AWS client does; and who
//! shows, when the faults are over, that a reshard completes and that every open shard takes a put.
//!
//! Must not know faults.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tristream_client::domain::{HashKey, HashKeyRange};

use super::board::{Board, Outcome, Phase};
use super::kinesis::{answered, call, position};
use crate::history::Event;
use crate::raw_http::Answer;

const PAUSE: Duration = Duration::from_millis(70);
const ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/";
/// Most open shards: every one of them is three replicas that heartbeat.
const OPEN_MAX: u32 = 4;
/// Most changes in one run: the shards that they close stay, and are read at the end.
const CHANGES_MAX: u32 = 5;
/// A child gets at least this part of its parent, in 1,000, so that a key of its own is soon found.
const SHARE_MIN_PERMILLE: u32 = 200;

/// How many of the changes that leave room for a shard are left to the load: one in so many.
const RIDE_ONE_IN: u32 = 6;
/// While faults come, the load is given so long to add a shard.
const RIDE_MAX: Duration = Duration::from_secs(8);

/// An open shard as a listing shows it.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) id: String,
    pub(super) range: HashKeyRange,
}

/// Changes the shards until the calm has seen a change complete.
pub(super) async fn resharder(seed: u64, board: Arc<Board>) -> turmoil::Result {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x2e5);
    board.reached(Phase::Storm).await;
    for change in 0.. {
        let in_calm = board.phase() == Phase::Calm;
        if change < CHANGES_MAX || in_calm {
            let open = listed(&mut random, &board).await?;
            let few = (open.len() as u32) < OPEN_MAX;
            if few && random.random_ratio(1, RIDE_ONE_IN) {
                if ride(&mut random, &board, open.len()).await? {
                    board.count("rides_on_demand", 1);
                    if in_calm {
                        break;
                    }
                }
            } else if begin(&mut random, &board, &open).await? {
                active(&mut random, &board).await?;
                board.count("reshards", 1);
                if in_calm {
                    break;
                }
            }
        }
        sleep(Duration::from_millis(random.random_range(0..2_500))).await;
    }
    probe(&mut random, &board).await?;
    board.probed_in_calm();
    Ok(())
}

/// The open shards, in the order of their ranges.
async fn listed(random: &mut SmallRng, board: &Board) -> anyhow::Result<Vec<Open>> {
    board.resharder_waits_for("a listing of shards");
    let body = json!({
        "StreamName": board.stream.as_str(),
        "ShardFilter": { "Type": "AT_LATEST" },
    });
    loop {
        let answer = call(random.random_range(0..3), "ListShards", &body, None).await;
        // A node may not have heard of the stream yet.
        let known = !matches!(&answer, Ok(answer) if answer.status == 400);
        if let Some(listing) =
            answered(if known { answer } else { Err(super::kinesis::Silence::Broken) })?
        {
            let shards = listing["Shards"].as_array().context("a listing without shards")?;
            let mut open = shards.iter().map(open_shard).collect::<anyhow::Result<Vec<_>>>()?;
            open.sort_by_key(|shard| shard.range.first);
            return Ok(open);
        }
        sleep(PAUSE).await;
    }
}

pub(super) fn open_shard(shard: &Value) -> anyhow::Result<Open> {
    let key = |name: &str| -> anyhow::Result<HashKey> {
        let text = shard["HashKeyRange"][name].as_str().context("a shard without a range")?;
        Ok(text.parse()?)
    };
    let range = HashKeyRange { first: key("StartingHashKey")?, last: key("EndingHashKey")? };
    let id = shard["ShardId"].as_str().context("a shard without an id")?.to_owned();
    Ok(Open { id, range })
}

/// Asks for a change; `false` when it was not let in.
async fn begin(random: &mut SmallRng, board: &Board, open: &[Open]) -> anyhow::Result<bool> {
    let (operation, mut body) = draw(random, open);
    body["StreamName"] = json!(board.stream.as_str());
    board.resharder_waits_for(operation);
    match call(random.random_range(0..3), operation, &body, None).await {
        Ok(answer) if answer.status == 200 => Ok(true),
        // It is on demand since an attempt of unknown outcome, which came late.
        Ok(answer) if answer.status == 400 && says(&answer, &["On-Demand mode"]) => {
            set_mode(random, board, "PROVISIONED").await?;
            Ok(false)
        }
        // The listing was old, or an attempt of unknown outcome goes on still.
        Ok(answer) if answer.status == 400 && is_about_state(&answer) => Ok(false),
        Ok(answer) if answer.status >= 500 => Ok(true),
        Ok(answer) => {
            bail!("{operation}: {} {}", answer.status, String::from_utf8_lossy(&answer.body))
        }
        // It may have begun.
        Err(_) => Ok(true),
    }
}

fn is_about_state(answer: &Answer) -> bool {
    says(answer, &["ResourceInUse", "InvalidArgument", "ResourceNotFound", "LimitExceeded"])
}

fn says(answer: &Answer, any_of: &[&str]) -> bool {
    let body = String::from_utf8_lossy(&answer.body);
    any_of.iter().any(|words| body.contains(words))
}

fn draw(random: &mut SmallRng, open: &[Open]) -> (&'static str, Value) {
    let at = random.random_range(0..open.len());
    let grow = (open.len() as u32) < OPEN_MAX && random.random_bool(0.6);
    if open.len() > 1 && !grow && random.random_bool(0.7) {
        let at = at.min(open.len() - 2);
        let body = json!({ "ShardToMerge": open[at].id, "AdjacentShardToMerge": open[at + 1].id });
        return ("MergeShards", body);
    }
    if grow && random.random_bool(0.7) {
        let HashKeyRange { first, last } = open[at].range;
        let share = random.random_range(SHARE_MIN_PERMILLE..1000 - SHARE_MIN_PERMILLE);
        let middle = first.0 + (last.0 - first.0) / 1000 * u128::from(share);
        let body = json!({
            "ShardToSplit": open[at].id,
            "NewStartingHashKey": HashKey(middle).to_string(),
        });
        return ("SplitShard", body);
    }
    let target = random.random_range(1..=OPEN_MAX);
    let body = json!({ "TargetShardCount": target, "ScalingType": "UNIFORM_SCALING" });
    ("UpdateShardCount", body)
}

/// Lets the stream have as many shards as its load asks for, which is 4 at least, until it has one more than `before`; in
/// the calm it must. Then it is as it was. `false` when it was not let in.
async fn ride(random: &mut SmallRng, board: &Board, before: usize) -> anyhow::Result<bool> {
    board.resharder_waits_for("a stream on demand");
    if !set_mode(random, board, "ON_DEMAND").await? {
        return Ok(false);
    }
    let begun = Instant::now();
    let patient = |board: &Board| board.phase() >= Phase::Calm || begun.elapsed() < RIDE_MAX;
    while patient(board) && listed(random, board).await?.len() <= before {
        board.resharder_waits_for("the load to add a shard");
        sleep(PAUSE).await;
    }
    board.resharder_waits_for("a stream that is provisioned again");
    while !set_mode(random, board, "PROVISIONED").await? {
        sleep(PAUSE).await;
    }
    active(random, board).await?;
    Ok(true)
}

/// Whether the node says that it is so.
async fn set_mode(random: &mut SmallRng, board: &Board, mode: &str) -> anyhow::Result<bool> {
    let body = json!({
        "StreamARN": format!("{ARN}{}", board.stream),
        "StreamModeDetails": { "StreamMode": mode },
    });
    match call(random.random_range(0..3), "UpdateStreamMode", &body, None).await {
        Ok(answer) if answer.status == 200 => Ok(true),
        Ok(answer) if answer.status >= 500 || is_about_state(&answer) => Ok(false),
        Ok(answer) => bail!("{mode}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)),
        Err(_) => Ok(false),
    }
}

/// Waits until the stream is ACTIVE: the change is done.
async fn active(random: &mut SmallRng, board: &Board) -> anyhow::Result<()> {
    board.resharder_waits_for("the change to be done");
    let body = json!({ "StreamName": board.stream.as_str() });
    loop {
        let node = random.random_range(0..3);
        if let Ok(answer) = call(node, "DescribeStreamSummary", &body, None).await
            && answer.status == 200
        {
            let summary = &answer.json()?["StreamDescriptionSummary"];
            if summary["StreamStatus"] == "ACTIVE" {
                return Ok(());
            }
        }
        sleep(PAUSE).await;
    }
}

/// Puts a record into every open shard. A change of unknown outcome may come late and move the ranges
/// meanwhile: then all begins anew.
async fn probe(random: &mut SmallRng, board: &Board) -> anyhow::Result<()> {
    'anew: loop {
        for shard in listed(random, board).await? {
            board.resharder_waits_for("a put to each open shard");
            if put_in(random, board, &key_in(&shard)).await? != shard.id {
                board.count("late_reshards", 1);
                continue 'anew;
            }
        }
        return Ok(());
    }
}

/// Puts a record again and again until it is acked; gives its shard.
async fn put_in(random: &mut SmallRng, board: &Board, key: &str) -> anyhow::Result<String> {
    loop {
        let (id, data) = board.send_probe(key);
        let body = json!({
            "StreamName": board.stream.as_str(),
            "PartitionKey": key,
            "Data": STANDARD.encode(&data),
        });
        match call(random.random_range(0..3), "PutRecord", &body, None).await {
            Ok(answer) if answer.status == 200 => {
                let answer = answer.json()?;
                let at = position(answer["ShardId"].as_str(), &answer)?;
                let shard = at.shard.clone();
                board.note(id, Outcome::Acked(at));
                return Ok(shard);
            }
            _ => board.push(Event::Unknown(id)),
        }
        sleep(PAUSE).await;
    }
}

/// A key of the shard that nobody else uses.
fn key_in(shard: &Open) -> String {
    let mut keys = (0u64..).map(|number| format!("probe-{}-{number}", shard.id));
    let found = keys.find(|key| shard.range.contains(HashKey::of(key)));
    found.unwrap_or_else(|| unreachable!("numbers do not end"))
}
