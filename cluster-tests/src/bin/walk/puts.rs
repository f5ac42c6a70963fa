//! Both halves of the puts: `aws kinesis put-records` and `tristream put --file`.
//!
//! Invariant: an attempt is in the history before it sets out. A key belongs to one worker, which has one call under
//! way at a time, so that "acked before the next was sent" holds between the batches of a key. The native half is
//! fed in step with the other one, so that the kill meets both half-way.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::Instant;
use tristream_cluster_tests::aws_cli::{self, AwsCli, Outcome};
use tristream_cluster_tests::command;
use tristream_cluster_tests::history::{Event, RecordId};

use crate::progress::Progress;

/// Kinesis's bound of one PutRecords.
const BATCH_RECORDS_MAX: usize = 500;
/// Below Kinesis's bound of one PutRecords.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Calls under way at once: starting the CLI costs about a second, mostly of CPU.
pub(crate) const WORKERS: usize = 3;
/// Lines that the native half gets in one go.
const FEED_LINES: usize = 100;
/// All puts of the walk, with the failover in between.
pub(crate) const PUT_LIMIT: Duration = Duration::from_secs(15 * 60);
/// After a batch of which nothing was stored.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the native half may be started for lines of which it knows no good end.
const NATIVE_ROUNDS: usize = 5;

/// Deals records to workers by key.
pub(crate) fn deal(progress: &Progress, records: &[RecordId]) -> Vec<VecDeque<RecordId>> {
    let mut hands = vec![VecDeque::new(); WORKERS];
    progress.with(|history| {
        for id in records {
            let mut place = DefaultHasher::new();
            history.intent(*id).key.hash(&mut place);
            hands[(place.finish() % WORKERS as u64) as usize].push_back(*id);
        }
    });
    hands
}

/// One worker: puts its records in their order, failed ones again and first, until all are acked.
pub(crate) async fn by_cli(
    cli: &AwsCli,
    addresses: &[String],
    stream: &str,
    mut waiting: VecDeque<RecordId>,
    progress: &Progress,
    file: &Path,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut turn = 0;
    while !waiting.is_empty() {
        if started.elapsed() > PUT_LIMIT {
            bail!("{} lines are still not acked after {PUT_LIMIT:?}", waiting.len());
        }
        let batch = take_batch(progress, &mut waiting);
        let records: Vec<(String, String)> = progress.with(|history| {
            batch.iter().for_each(|id| history.push(Event::Sent(*id)));
            let intents = batch.iter().map(|id| history.intent(*id));
            intents
                .map(|intent| {
                    let text = String::from_utf8_lossy(&intent.data).into_owned();
                    (intent.key.clone().unwrap_or_default(), text)
                })
                .collect()
        });
        let records: Vec<(&str, &str)> =
            records.iter().map(|(key, data)| (key.as_str(), data.as_str())).collect();
        let address = &addresses[turn % addresses.len()];
        let outcomes = cli.put_records(address, stream, &records, file).await;
        let outcomes = outcomes
            .unwrap_or_else(|error| vec![Outcome::Unknown(format!("{error:#}")); batch.len()]);
        let failed = record(progress, &batch, outcomes);
        if failed.len() == batch.len() {
            turn += 1;
            tokio::time::sleep(PAUSE).await;
        }
        failed.into_iter().rev().for_each(|id| waiting.push_front(id));
    }
    Ok(())
}

fn take_batch(progress: &Progress, waiting: &mut VecDeque<RecordId>) -> Vec<RecordId> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    progress.with(|history| {
        while let Some(id) = waiting.front().copied() {
            bytes += history.intent(id).data.len() + 256;
            if batch.len() == BATCH_RECORDS_MAX || (bytes > BATCH_BYTES_MAX && !batch.is_empty()) {
                break;
            }
            waiting.pop_front();
            batch.push(id);
        }
    });
    batch
}

/// Writes the outcomes down and gives back what has to be sent again.
fn record(progress: &Progress, batch: &[RecordId], outcomes: Vec<Outcome>) -> Vec<RecordId> {
    let mut failed = Vec::new();
    for (id, outcome) in batch.iter().zip(outcomes) {
        match outcome {
            Outcome::Acked(position) => progress.acked(*id, position),
            Outcome::Refused(words) => {
                progress.failed(Event::Refused(*id), &words);
                failed.push(*id);
            }
            Outcome::Unknown(words) => {
                progress.failed(Event::Unknown(*id), &words);
                failed.push(*id);
            }
        }
    }
    failed
}

/// What `tristream put --json` prints for each line.
#[derive(Debug, Deserialize)]
struct Told {
    line: usize,
    outcome: String,
    #[serde(default)]
    shard: Option<String>,
    #[serde(default)]
    sequence_number: Option<String>,
    #[serde(default)]
    attempts: u64,
    #[serde(default)]
    error: Option<String>,
}

/// When a run of the native half goes on: at the same part of its way as the other half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Acks that the other half has to get in all.
    pub(crate) others: usize,
    /// Lines of the native half before this run's.
    pub(crate) before: usize,
    /// Lines of the native half in all.
    pub(crate) total: usize,
}

/// `tristream put STREAM --file - --json`, again for lines that were refused or of which nothing is known.
/// `command` makes a new one.
pub(crate) async fn by_client(
    mut command: impl AsyncFnMut() -> anyhow::Result<Command>,
    records: &[RecordId],
    progress: &Progress,
    pace: Pace,
) -> anyhow::Result<()> {
    let mut waiting = records.to_vec();
    for _ in 0..NATIVE_ROUNDS {
        waiting = one_run(command().await?, &waiting, progress, pace).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("`tristream put` never got {} lines acked in {NATIVE_ROUNDS} runs", waiting.len())
}

/// One run over `records`; gives back those that were not acked.
async fn one_run(
    mut put: Command,
    records: &[RecordId],
    progress: &Progress,
    pace: Pace,
) -> anyhow::Result<Vec<RecordId>> {
    put.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = put.spawn().context("cannot run `tristream put`")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    let feed = async {
        for (number, chunk) in records.chunks(FEED_LINES).enumerate() {
            let done = (pace.before + number * FEED_LINES) as f64 / pace.total as f64;
            progress.wait_for_the_others(done, pace.others as f64).await;
            let text = progress.with(|history| {
                let mut text = Vec::new();
                for id in chunk {
                    history.push(Event::Sent(*id));
                    text.extend_from_slice(&history.intent(*id).data);
                    text.push(b'\n');
                }
                text
            });
            if stdin.write_all(&text).await.is_err() || stdin.flush().await.is_err() {
                // It ended early: its exit status and stderr tell why.
                return number;
            }
        }
        drop(stdin);
        records.len().div_ceil(FEED_LINES)
    };
    let hear = async {
        let mut open: Vec<bool> = vec![true; records.len()];
        let mut failed = Vec::new();
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            let told: Value = serde_json::from_str(&line)
                .with_context(|| format!("`tristream put --json` printed {line:?}"))?;
            if told.get("line").is_none() {
                // The tally at the end.
                continue;
            }
            let told: Told = serde_json::from_value(told)
                .with_context(|| format!("`tristream put --json` printed {line:?}"))?;
            let at = told.line.checked_sub(1).filter(|at| *at < records.len());
            let at = at.with_context(|| format!("there is no line {}", told.line))?;
            if !std::mem::replace(&mut open[at], false) {
                bail!("`tristream put` tells the end of line {} twice", told.line);
            }
            hear_one(progress, records[at], told, &mut failed)?;
        }
        anyhow::Ok((open, failed))
    };
    let words = async {
        let mut words = String::new();
        let _ = stderr.read_to_string(&mut words).await;
        words
    };
    let all = async { tokio::join!(feed, hear, words) };
    let (fed, heard, words) = tokio::time::timeout(PUT_LIMIT, all)
        .await
        .with_context(|| format!("`tristream put` did not end within {PUT_LIMIT:?}"))?;
    let status = child.wait().await?;
    let (open, mut failed) = heard.with_context(|| words.clone())?;
    // Lines that went in and of which nothing came out, or that never went in.
    for (at, id) in records.iter().enumerate().filter(|(at, _)| open[*at]) {
        if at < fed * FEED_LINES {
            progress.failed(Event::Unknown(*id), "`tristream put` told no outcome");
        }
        failed.push(*id);
    }
    failed.sort();
    if failed.is_empty() && !status.success() {
        bail!("`tristream put` acked every line and ended with {status}: {words}");
    }
    if !failed.is_empty() {
        let fed = (fed * FEED_LINES).min(records.len());
        progress.note(format!(
            "`tristream put` ended with {status}, took {fed} of {} lines and acked all but {}: {}",
            records.len(),
            failed.len(),
            command::tail(&words, 3),
        ));
    }
    Ok(failed)
}

fn hear_one(
    progress: &Progress,
    id: RecordId,
    told: Told,
    failed: &mut Vec<RecordId>,
) -> anyhow::Result<()> {
    // The first attempt is written down already.
    for _ in 1..told.attempts {
        progress.with(|history| history.push(Event::Sent(id)));
    }
    let words = told.error.unwrap_or_default();
    match told.outcome.as_str() {
        "acked" => {
            let shard = told.shard.context("acked without a shard")?;
            let number = told.sequence_number.context("acked without a number")?;
            progress.acked(id, aws_cli::position(&shard, &number)?);
            return Ok(());
        }
        // With several attempts only the last is known to have stored nothing.
        "refused" => progress.failed(Event::Refused(id), &words),
        "unknown" => progress.failed(Event::Unknown(id), &words),
        other => bail!("`tristream put` tells an outcome {other:?}"),
    }
    failed.push(id);
    Ok(())
}
