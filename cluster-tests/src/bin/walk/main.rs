//! The first walk of a newcomer, checked: start three nodes, stream real logs in through the AWS CLI and through
//! `tristream put`, kill the leader of a busy shard half-way, read every line back both ways, judge.
//!
//! Prints lines in, lines out and the longest time without acks; ends with a non-zero status on any breach.

#![allow(clippy::print_stdout)]

mod failover;
mod ground;
mod log_lines;
mod progress;
mod puts;
mod readback;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tristream_cluster_tests::aws_cli::AwsCli;
use tristream_cluster_tests::history::{Event, History, RecordId};
use tristream_cluster_tests::processes::ZONES;
use tristream_cluster_tests::{admin, command, generations, promises, sdk};

use failover::Failover;
use ground::Ground;
use log_lines::Lines;
use progress::Progress;

/// The walk's stream.
const STREAM: &str = "walk";
/// Its shards.
const SHARDS: usize = 4;
/// For a new stream to be led everywhere.
const STREAM_LIMIT: Duration = Duration::from_secs(60);

/// Walks through a cluster as a newcomer would, and checks every promise on the way.
#[derive(Debug, Parser)]
struct Arguments {
    /// The log to stream in; by default every readable text log of the machine.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Against the containers of docker-compose.yml instead of three processes.
    #[arg(long)]
    compose: bool,
    /// The `tristream` binary; by default the one of this build, built anew when it is older than its sources.
    #[arg(long, conflicts_with = "compose")]
    bin: Option<PathBuf>,
    /// Lines to put at least.
    #[arg(long, default_value_t = 20_000)]
    lines: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            println!("walk: FAILED: no signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let walked = tokio::select! {
        walked = walk(&arguments) => walked,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("ended by Ctrl-C")),
        _ = terminate.recv() => Err(anyhow::anyhow!("ended by SIGTERM")),
    };
    match walked {
        Ok(()) => {
            println!("walk: passed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("walk: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn walk(arguments: &Arguments) -> anyhow::Result<()> {
    let lines = log_lines::collect(arguments.log.as_deref(), arguments.lines)?;
    println!("walk: {}", lines.told);
    println!("walk: {} source lines, {} of them distinct", lines.source, lines.distinct);
    let cli = AwsCli::find().await?;
    println!("walk: {}", cli.version);
    let ground = Ground::start(arguments.compose, arguments.bin.clone()).await?;
    let what = if arguments.compose { "containers" } else { "processes" };
    println!("walk: three {what} are ready");
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| ground.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    let count = SHARDS.to_string();
    cli.kinesis(
        &addresses[0],
        &["create-stream", "--stream-name", STREAM, "--shard-count", &count],
    )
    .await?;
    let view = admin::wait_all_led(&addresses[1], STREAM, SHARDS, STREAM_LIMIT).await?;
    println!("walk: {STREAM} has {SHARDS} shards, led by {}", leaders(&view));
    list_by_http2(&addresses[0]).await?;

    let (progress, by_cli, by_client) = intend(&lines);
    let ground = Mutex::new(ground);
    let failover = put(&cli, &addresses, &ground, &progress, &by_cli, &by_client).await;
    for (words, count) in progress.notes() {
        println!("walk: {count} times: {words}");
    }
    let failover = failover?;
    let ground = ground.into_inner();
    println!(
        "walk: killed {}, leader of {}; {} led after {} ms; {} was started again and is ready",
        failover.from,
        failover.shard,
        failover.to,
        failover.took.as_millis(),
        failover.from,
    );

    let map = generations::shards(&sdk::client(&addresses[0], 3), STREAM).await?;
    progress.with(|history| history.push(Event::Map(map)));
    let shards = readback::shards(&cli, &addresses[0], STREAM).await?;
    readback::by_cli(&cli, &addresses, STREAM, &shards, &progress).await?;
    let tail = ["tail", STREAM, "--from", "trim-horizon", "--json", "--no-follow"];
    readback::by_client(ground.tristream(&tail).await?, &shards, &progress).await?;
    report(&lines, &progress, &failover)
}

/// Every second line belongs to the native half, whose client chooses the keys.
fn intend(lines: &Lines) -> (Progress, Vec<RecordId>, Vec<RecordId>) {
    let mut history = History::new();
    let half = lines.lines.iter().step_by(2);
    let by_cli: Vec<RecordId> =
        half.map(|line| history.intend(Some(line.key.clone()), line.text.clone())).collect();
    let half = lines.lines.iter().skip(1).step_by(2);
    let by_client: Vec<RecordId> =
        half.map(|line| history.intend(None, line.text.clone())).collect();
    let client_half = by_cli.len()..lines.lines.len();
    (Progress::new(history, client_half), by_cli, by_client)
}

/// Both halves at once, and the kill in between.
async fn put(
    cli: &AwsCli,
    addresses: &[String],
    ground: &Mutex<Ground>,
    progress: &Progress,
    by_cli: &[RecordId],
    by_client: &[RecordId],
) -> anyhow::Result<Failover> {
    let folder = tempfile::tempdir()?;
    let cli_half = async {
        let hands = puts::deal(progress, by_cli).into_iter().enumerate();
        let workers = hands.map(|(number, hand)| {
            let file = folder.path().join(format!("records-{number}.json"));
            async move { puts::by_cli(cli, addresses, STREAM, hand, progress, &file).await }
        });
        let done = futures::future::try_join_all(workers).await;
        progress.others_ended();
        done.context("the AWS CLI's half")
    };
    // Keys of the client's own choice, and keys of ours: the number of the pass, so that a key has many lines.
    let client_half = async {
        let (own, ours) = by_client.split_at(by_client.len() / 2);
        let key_of_pass: &[&str] = &["--key-field", "1", "--delimiter", ":"];
        for (records, keys, before) in [(own, &[][..], 0), (ours, key_of_pass, own.len())] {
            let command = async || {
                let arguments = [&["put", STREAM, "--file", "-", "--json"], keys].concat();
                ground.lock().await.tristream(&arguments).await
            };
            let pace = puts::Pace { others: by_cli.len(), before, total: by_client.len() };
            puts::by_client(command, records, progress, pace).await.context("the client's half")?;
        }
        Ok(())
    };
    let total = by_cli.len() + by_client.len();
    let fault = async {
        failover::half_way(ground, STREAM, total, progress).await.context("the kill half-way")
    };
    let (_, (), failover) = tokio::try_join!(cli_half, client_half, fault)?;
    Ok(failover)
}

/// ListStreams over HTTP/2 with prior knowledge, on the plain port.
async fn list_by_http2(address: &str) -> anyhow::Result<()> {
    if !command::is_installed("curl") {
        println!("walk: SKIPPED curl --http2-prior-knowledge: curl is not installed");
        return Ok(());
    }
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "20"])
        .args(["--header", "X-Amz-Target: Kinesis_20131202.ListStreams"])
        .args(["--header", "Content-Type: application/x-amz-json-1.1"])
        .args(["--data", "{}", "--write-out", "\n%{http_version} %{http_code}"])
        .arg(format!("http://{address}/"));
    let printed = command::stdout(&mut curl, STREAM_LIMIT).await?;
    let (body, tail) = printed.rsplit_once('\n').context("curl printed nothing")?;
    if tail != "2 200" || !body.contains(&format!("\"{STREAM}\"")) {
        bail!("curl --http2-prior-knowledge got {tail}: {body}");
    }
    println!("walk: curl --http2-prior-knowledge lists the stream");
    Ok(())
}

fn leaders(view: &admin::View) -> String {
    let leaders = view.leaders(STREAM).into_iter();
    let words = leaders.map(|(shard, az)| format!("{shard}={}", az.as_deref().unwrap_or("nobody")));
    words.collect::<Vec<_>>().join(" ")
}

fn report(lines: &Lines, progress: &Progress, failover: &Failover) -> anyhow::Result<()> {
    progress.with(|history| {
        let outs: Vec<(&str, usize)> = [readback::GET_RECORDS, readback::TAIL]
            .into_iter()
            .map(|reader| {
                let of_reader = history.readings().into_iter().filter(|r| r.reader == reader);
                (reader, of_reader.map(|reading| reading.records.len()).sum())
            })
            .collect();
        println!(
            "walk: lines in {}, acked {} ({} by put-records, {} by tristream put)",
            lines.lines.len(),
            history.acked(),
            progress.acks() - progress.acks_by_client(),
            progress.acks_by_client(),
        );
        for (reader, count) in outs {
            println!("walk: lines out {count} by {reader}");
        }
        println!(
            "walk: longest time without acks {} ms over all shards, {} ms of {}",
            history.longest_silence(None).as_millis(),
            history.longest_silence(Some(&failover.shard)).as_millis(),
            failover.shard,
        );
        let verdicts = promises::judge(history);
        verdicts.iter().for_each(|verdict| println!("walk: {verdict}"));
        if history.acked() != lines.lines.len() {
            bail!("{} lines were never acked", lines.lines.len() - history.acked());
        }
        if !verdicts.iter().all(promises::Verdict::holds) {
            bail!("a promise is broken");
        }
        Ok(())
    })
}
