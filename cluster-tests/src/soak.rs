//! Producers that write without pause while the number of shards goes up and down, with or without nodes that die.
//!
//! Judged by what clients saw: without deaths no error at all; with them only such as say "try again", and only of calls
//! that were under way at a death or set out soon after it. Then everything is read back and the promises are checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{ScalingType, StreamStatus};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::doors::Door;
use crate::doors::boto3::{self, Boto3};
use crate::doors::native::Native;
use crate::doors::rust_sdk::RustSdk;
use crate::generations::Live;
use crate::history::History;
use crate::processes::{Cluster, Options, ZONES};
use crate::producers::{Complaint, Pace, Producers};
use crate::promises::{self, Verdict};
use crate::workload::{Shared, with};
use crate::{admin, generations, sdk};

const STREAM: &str = "soak";
const READERS: [&str; 3] = ["az-a", "az-b", "az-c"];
/// For one change of the number of shards, on a machine that is busy with everything else.
const STEP_LIMIT: Duration = Duration::from_secs(180);
/// For the cluster to be whole again.
const CALM_LIMIT: Duration = Duration::from_secs(60);
/// How often boto3 sends a call: what it does by itself in its standard mode.
const BOTO3_ATTEMPTS: u32 = 3;
/// Complaints that are told in words.
const TOLD_MAX: usize = 10;

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many write: every second one boto3, the others the native client.
    pub producers: usize,
    /// Numbers of shards, one after the other; the stream begins with one.
    pub steps: Vec<i32>,
    /// How long to stay at each.
    pub hold: Duration,
    /// Whether nodes die.
    pub kills: bool,
    /// How long after a death a call may set out that fails.
    pub grace: Duration,
    /// Between two calls of a producer.
    pub pause: Duration,
    /// Of the deaths and of what is written.
    pub seed: u64,
}

/// One change of the number of shards.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// How many shards.
    pub shards: i32,
    /// Until the stream was ACTIVE with them.
    pub took_ms: u128,
    /// Records acked by then, from the beginning.
    pub acked: usize,
}

/// What one promise said.
#[derive(Clone, Debug, Serialize)]
pub struct Promise {
    /// Its name.
    pub promise: &'static str,
    /// Whether it holds, and was put to the test.
    pub holds: bool,
    /// Facts compared.
    pub checked: u64,
    /// The first breaches in words.
    pub told: Vec<String>,
}

impl From<Verdict> for Promise {
    fn from(verdict: Verdict) -> Promise {
        let (promise, holds) = (verdict.promise, verdict.holds());
        Promise { promise, holds, checked: verdict.checked, told: verdict.told }
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How many wrote through which door.
    pub doors: BTreeMap<&'static str, usize>,
    /// Why there was no boto3, if there was none.
    pub skipped: Option<String>,
    /// The steps done.
    pub steps: Vec<Step>,
    /// How many nodes died.
    pub kills: usize,
    /// Records acked.
    pub acked: usize,
    /// Longest time without any ack.
    pub silence_ms: u128,
    /// Calls of which a client saw an error.
    pub errors: usize,
    /// Those that no client may see.
    pub errors_unallowed: usize,
    /// The first few of them in words.
    pub told: Vec<String>,
    /// The promises.
    pub promises: Vec<Promise>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.errors_unallowed == 0 && self.promises.iter().all(|promise| promise.holds)
    }
}

/// Runs it all, telling `progress` what happens. An error means that it could not be tried, or that the stream did not
/// get where it should.
pub async fn run(settings: &Settings, progress: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let without_quotas = |settings: &mut toml::Table| {
        settings.insert("quotas".to_owned(), false.into());
    };
    let mut cluster = Cluster::start_with(Options::default(), without_quotas).await?;
    let ran = soak(&mut cluster, settings, progress).await;
    let ran = ran.with_context(|| cluster.last_words());
    cluster.stop().await?;
    ran
}

async fn soak(
    cluster: &mut Cluster,
    settings: &Settings,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Report> {
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    sdk::create_stream(&sdk::client(&addresses[0], 3), STREAM, 1).await?;
    admin::wait_all_led(&addresses[0], STREAM, 1, CALM_LIMIT).await?;
    let history: Shared = Arc::new(Mutex::new(History::new()));
    let skipped = boto3::missing().await;
    let doors = doors(cluster, &addresses, settings.producers, skipped.is_none()).await?;
    let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
    doors.iter().for_each(|(kind, _)| *kinds.entry(kind).or_default() += 1);
    progress(&format!("{kinds:?}{}", skipped.iter().map(|s| format!("; {s}")).collect::<String>()));
    let named = doors.into_iter().enumerate();
    let named = named.map(|(number, (kind, door))| (format!("{kind}{number}"), door)).collect();
    let pace = Pace { batch_max: 20, pause: settings.pause };
    let mut producers = Producers::start(named, STREAM, settings.seed, pace, &history);
    let live = Live::start(&addresses, STREAM, &history).await?;

    let (done, mut ended) = watch::channel(false);
    let changes = async {
        let steps = steps(&addresses, &mut producers, settings, &history, progress).await;
        done.send_replace(true);
        steps
    };
    let (steps, kills) = if settings.kills {
        let deaths = deaths(cluster, settings.seed, &mut ended, progress);
        let (steps, kills) = tokio::join!(changes, deaths);
        (steps?, kills?)
    } else {
        (changes.await?, Vec::new())
    };
    let shards = usize::try_from(settings.steps.iter().last().copied().unwrap_or(1))?;
    for zone in ZONES {
        cluster.wait_ready(zone).await?;
    }
    producers.wait_acks(20 * settings.producers, CALM_LIMIT).await.context("in the calm")?;
    let complaints = producers.stop().await?;
    for address in &addresses {
        wait_shards(&sdk::client(address, 3), i32::try_from(shards)?).await?;
        wait_led(address).await?;
    }
    live.stop().await?;
    progress("reading everything back from each node");
    for (address, reader) in addresses.iter().zip(READERS) {
        generations::read_all(address, STREAM, reader, &history).await?;
    }
    Ok(report(settings, kinds, skipped, steps, &kills, &complaints, &history))
}

fn report(
    settings: &Settings,
    doors: BTreeMap<&'static str, usize>,
    skipped: Option<String>,
    steps: Vec<Step>,
    kills: &[Instant],
    complaints: &[Complaint],
    history: &Shared,
) -> Report {
    let unallowed: Vec<String> = complaints
        .iter()
        .filter(|complaint| !is_allowed(complaint, kills, settings.grace))
        .map(|complaint| told(complaint, kills))
        .collect();
    with(history, |history| Report {
        doors,
        skipped,
        steps,
        kills: kills.len(),
        acked: history.acked(),
        silence_ms: history.longest_silence(None).as_millis(),
        errors: complaints.len(),
        errors_unallowed: unallowed.len(),
        told: unallowed.into_iter().take(TOLD_MAX).collect(),
        promises: promises::judge(history).into_iter().map(Promise::from).collect(),
    })
}

/// A call may fail that was under way at a death or set out soon after it, if the client is told to try again.
fn is_allowed(complaint: &Complaint, kills: &[Instant], grace: Duration) -> bool {
    let near = |kill: &Instant| *kill <= complaint.ended && complaint.begun <= *kill + grace;
    complaint.failure.retryable && kills.iter().any(near)
}

fn told(complaint: &Complaint, kills: &[Instant]) -> String {
    let last = kills.iter().rfind(|kill| **kill <= complaint.begun);
    let since = last.map(|kill| complaint.begun.duration_since(*kill).as_millis());
    format!(
        "{}: set out {since:?} ms after a death, took {} ms: {:?}",
        complaint.producer,
        complaint.ended.duration_since(complaint.begun).as_millis(),
        complaint.failure
    )
}

async fn doors(
    cluster: &Cluster,
    addresses: &[String],
    count: usize,
    with_boto3: bool,
) -> anyhow::Result<Vec<(&'static str, Box<dyn Door>)>> {
    let peers: Vec<String> =
        ZONES.iter().map(|zone| cluster.peer(zone)).collect::<anyhow::Result<_>>()?;
    let mut doors: Vec<(&'static str, Box<dyn Door>)> = Vec::new();
    for number in 0..count {
        doors.push(match (number % 2, with_boto3) {
            (0, true) => {
                let door = Boto3::start(addresses, number, BOTO3_ATTEMPTS).await?;
                ("boto3-", Box::new(door))
            }
            (0, false) => ("rust-sdk-", Box::new(RustSdk::new(addresses, number))),
            _ => {
                let options = tristream_client::Options::default();
                let client = tristream_client::Client::connect(peers.clone(), options)?;
                ("native-", Box::new(Native(client)))
            }
        });
    }
    Ok(doors)
}

async fn steps(
    addresses: &[String],
    producers: &mut Producers,
    settings: &Settings,
    history: &Shared,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Vec<Step>> {
    producers.wait_acks(10 * settings.producers, STEP_LIMIT).await.context("before any change")?;
    let mut done = Vec::new();
    for (number, &shards) in settings.steps.iter().enumerate() {
        let begun = Instant::now();
        ask(addresses, shards).await.with_context(|| format!("to {shards} shards"))?;
        let client = sdk::client(&addresses[number % addresses.len()], 3);
        wait_shards(&client, shards).await?;
        let took_ms = begun.elapsed().as_millis();
        let acked = with(history, |history| history.acked());
        let complaints = producers.complaints().len();
        progress(&format!(
            "{shards:>2} shards after {took_ms} ms, {acked} records acked, {complaints} errors seen"
        ));
        done.push(Step { shards, took_ms, acked });
        tokio::time::sleep(settings.hold).await;
    }
    Ok(done)
}

/// Asks one node after the other until one says yes. A call whose answer was lost may have been heard.
async fn ask(addresses: &[String], shards: i32) -> anyhow::Result<()> {
    let mut turn = 0;
    admin::wait(&format!("UpdateShardCount to {shards}"), STEP_LIMIT, || {
        let client = sdk::client(&addresses[turn % addresses.len()], 1);
        turn += 1;
        async move {
            let is_there = open_shards(&client).await?.is_some_and(|open| open == shards);
            let update = client.update_shard_count().stream_name(STREAM).target_shard_count(shards);
            let asked = update.scaling_type(ScalingType::UniformScaling).send().await;
            match asked {
                Ok(_) => Ok(Some(())),
                Err(_) if is_there => Ok(Some(())),
                // It is under way: an earlier call of ours was heard.
                Err(error) if sdk::code(&error) == Some("ResourceInUseException") && turn > 1 => {
                    Ok(Some(()))
                }
                Err(error) => Err(error.into()),
            }
        }
    })
    .await
}

/// How many shards are open, while the stream is ACTIVE.
async fn open_shards(client: &Client) -> anyhow::Result<Option<i32>> {
    let summary = client.describe_stream_summary().stream_name(STREAM).send().await?;
    let summary = summary.stream_description_summary().context("no summary")?;
    let active = *summary.stream_status() == StreamStatus::Active;
    Ok(active.then_some(summary.open_shard_count()))
}

async fn wait_shards(client: &Client, shards: i32) -> anyhow::Result<()> {
    admin::wait(&format!("{shards} open shards"), STEP_LIMIT, async || {
        Ok((open_shards(client).await? == Some(shards)).then_some(()))
    })
    .await
}

async fn wait_led(address: &str) -> anyhow::Result<()> {
    admin::wait("leaders of all shards", CALM_LIMIT, async || {
        let leaders = admin::view(address).await?.leaders(STREAM);
        Ok((!leaders.is_empty() && leaders.iter().all(|(_, az)| az.is_some())).then_some(()))
    })
    .await
}

/// Kills and restarts one node after the other until told to end. Gives when they died.
async fn deaths(
    cluster: &mut Cluster,
    seed: u64,
    ended: &mut watch::Receiver<bool>,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Vec<Instant>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut kills = Vec::new();
    loop {
        let calm = Duration::from_millis(rng.random_range(1_000..5_000));
        if tokio::time::timeout(calm, ended.wait_for(|ended| *ended)).await.is_ok() {
            return Ok(kills);
        }
        let zone = *ZONES.choose(&mut rng).context("no zone")?;
        kills.push(Instant::now());
        cluster.kill(zone).await?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..2_000))).await;
        cluster.restart(zone)?;
        cluster.wait_ready(zone).await?;
        progress(&format!("{zone} died and is back"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::Failure;

    #[test]
    fn only_errors_near_a_death_that_say_again_are_allowed() {
        let kill = Instant::now() + Duration::from_secs(100);
        let grace = Duration::from_secs(2);
        let complaint = |begun: i64, ended: i64, retryable| {
            let at = |offset: i64| match u64::try_from(offset) {
                Ok(after) => kill + Duration::from_millis(after),
                Err(_) => kill - Duration::from_millis(offset.unsigned_abs()),
            };
            let failure = Failure { retryable, ..Failure::unknown("") };
            Complaint { producer: String::new(), begun: at(begun), ended: at(ended), failure }
        };
        for (begun, ended, retryable, allowed) in [
            (-100, 100, true, true),
            (1_999, 9_000, true, true),
            (2_001, 2_100, true, false),
            (-200, -100, true, false),
            (100, 200, false, false),
        ] {
            let complaint = complaint(begun, ended, retryable);
            assert_eq!(is_allowed(&complaint, &[kill], grace), allowed, "{complaint:?}");
            assert!(!is_allowed(&complaint, &[], grace));
        }
    }
}
