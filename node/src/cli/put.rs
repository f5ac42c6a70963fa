//! `tristream put`: one record, or a record per line.

mod ledger;
mod lines;
mod tally;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncRead;
use tokio::time::Instant;
use tristream_client::{Client, Producer, StreamDescription};
use tristream_proto::domain::{PartitionKey, Record, StreamName, limits};

use super::endpoints::{Endpoints, explain};
use super::recording::Recording;
use super::screen;
use ledger::{Ledger, Outcome};
use lines::Lines;
use tally::Tally;

/// What `--help` adds to the flags.
const HELP: &str = "\
Of a file, each line is a record, without its line end; an empty line is a record too. Lines of
one key are stored in order. The exit code is 0 only if every record was acked; each line that
was not is named on standard error, as not stored or as perhaps stored.";

/// Arguments of `tristream put`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    endpoints: Endpoints,
    /// The stream.
    stream: StreamName,
    /// One record's data, or `-` for a record per line of standard input.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    data: Option<String>,
    /// A record per line of this file; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Partition key of every record. Without it and without --key-field the key is a hash of the data: equal
    /// lines go to the same shard, others spread.
    #[arg(long, conflicts_with = "key_field")]
    key: Option<String>,
    /// Take the partition key from this field of each line, counted from 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    key_field: Option<u16>,
    /// What separates fields; white space by default.
    #[arg(long, requires = "key_field")]
    delimiter: Option<String>,
    /// The outcome as JSON: of a file, an object per line as soon as its outcome is known, and a tally at the end.
    #[arg(long)]
    json: bool,
    /// Add what is sent and what becomes of it to this file, for `tristream-lab verify`.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.endpoints.client()?;
    let from_lines = match (&args.file, args.data.as_deref()) {
        (Some(path), _) => Some(path.clone()),
        (None, Some("-")) => Some(PathBuf::from("-")),
        _ => None,
    };
    match from_lines {
        Some(path) => put_lines(&client, &args, &path).await,
        None => put_one(&client, &args).await,
    }
}

async fn put_one(client: &Client, args: &Args) -> anyhow::Result<ExitCode> {
    let data = args.data.clone().unwrap_or_default().into_bytes();
    let record = args.record(data).map_err(|reason| anyhow!(reason))?;
    let mut recording = Recording::open_if(args.history.as_ref(), "put", &args.stream)?;
    if let Some(recording) = &mut recording {
        recording.shards(&*describe(client, args).await?)?;
        recording.invoke(1, &record)?;
    }
    let outcome = client.put(&args.stream, record).await;
    if let Some(recording) = &mut recording {
        recording.outcome(1, &outcome)?;
    }
    let number = outcome.map_err(|error| explain(error, &args.endpoints))?;
    if args.json {
        let (shard, number) = (number.shard.to_string(), number.to_string());
        screen::line(json!({ "shard": shard, "sequence_number": number }).to_string())?;
    } else {
        screen::line(format!("{} {number}", number.shard))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn describe(client: &Client, args: &Args) -> anyhow::Result<Arc<StreamDescription>> {
    let described = client.describe_stream(&args.stream).await;
    described.map_err(|error| explain(error, &args.endpoints))
}

async fn put_lines(client: &Client, args: &Args, path: &Path) -> anyhow::Result<ExitCode> {
    let (input, bytes): (Box<dyn AsyncRead + Send + Unpin>, Option<u64>) = if path == "-" {
        (Box::new(tokio::io::stdin()), None)
    } else {
        let open = tokio::fs::File::open(path).await;
        let file = open.with_context(|| format!("cannot read {}", path.display()))?;
        let bytes = file.metadata().await.ok().filter(|m| m.is_file()).map(|m| m.len());
        (Box::new(file), bytes)
    };
    let mut recording = Recording::open_if(args.history.as_ref(), "put", &args.stream)?;
    if let Some(recording) = &mut recording {
        recording.shards(&*describe(client, args).await?)?;
    }
    let producer =
        client.producer(&args.stream).await.map_err(|error| explain(error, &args.endpoints))?;
    let began = Instant::now();
    let mut ledger = Ledger::new(Tally::new(args.json), progress_bar(bytes), recording);
    let read = send_all(args, Lines::new(input), producer, &mut ledger).await;
    let tally = ledger.close(began.elapsed())?;
    read.with_context(|| format!("cannot read {} to its end", path.display()))?;
    Ok(if tally.all_acked() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Waiting = FuturesUnordered<BoxFuture<'static, Outcome>>;

/// Sends every line and books every outcome. An interrupt ends the reading, not the waiting: what was sent
/// is accounted for. Fails when the input does.
async fn send_all(
    args: &Args,
    mut lines: Lines,
    producer: Producer,
    ledger: &mut Ledger,
) -> std::io::Result<()> {
    // As many as the producer holds records at a time, which its bytes bound.
    let mut waiting = Waiting::new();
    let mut number = 0;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let read = loop {
        let line = tokio::select! {
            biased;
            _ = &mut interrupt => {
                ledger.interrupted();
                break Ok(());
            }
            Some(outcome) = waiting.next(), if !waiting.is_empty() => {
                ledger.account(outcome);
                continue;
            }
            line = lines.next() => line,
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        number += 1;
        let bytes = line.len();
        let record = match line.complete() {
            Some(data) => args.record(data),
            None => Err(format!("longer than {} bytes", limits::RECORD_DATA_BYTES_CEILING)),
        };
        match record {
            Err(reason) => ledger.unsent(number, bytes, reason),
            Ok(record) => {
                if !ledger.invoke(number, &record) {
                    break Ok(());
                }
                let receipt = send(&producer, record, &mut waiting, ledger).await;
                waiting.push(Box::pin(async move { (number, bytes, receipt.outcome().await) }));
            }
        }
    };
    while let Some(outcome) = waiting.next().await {
        ledger.account(outcome);
    }
    producer.close().await;
    read
}

/// Sends a record; books outcomes while the producer has no room.
async fn send(
    producer: &Producer,
    record: Record,
    waiting: &mut Waiting,
    ledger: &mut Ledger,
) -> tristream_client::Receipt {
    let mut send = std::pin::pin!(producer.send(record));
    loop {
        tokio::select! {
            biased;
            receipt = &mut send => return receipt,
            Some(outcome) = waiting.next(), if !waiting.is_empty() => ledger.account(outcome),
        }
    }
}

/// Shown on a terminal only.
fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() || super::colours_refused() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => {
            (ProgressBar::new(bytes), "{bar:30} {percent:>3}% {msg} {binary_bytes_per_sec}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {binary_bytes_per_sec}"),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Args {
    fn record(&self, data: Vec<u8>) -> Result<Record, String> {
        let key = match (&self.key, self.key_field) {
            (Some(key), _) => key.clone(),
            (None, Some(at)) => field(&data, usize::from(at), self.delimiter.as_deref())?,
            (None, None) => hash(&data),
        };
        let partition_key =
            PartitionKey::new(&key).ok_or("a partition key has 1 to 256 characters".to_owned())?;
        Ok(Record { partition_key, explicit_hash_key: None, origin: None, data: data.into() })
    }
}

fn field(line: &[u8], at: usize, delimiter: Option<&str>) -> Result<String, String> {
    let text = std::str::from_utf8(line).map_err(|_| "its key is not UTF-8".to_owned())?;
    let field = match delimiter {
        Some(delimiter) if !delimiter.is_empty() => text.split(delimiter).nth(at - 1),
        _ => text.split_whitespace().nth(at - 1),
    };
    field.map(str::to_owned).ok_or_else(|| format!("it has no field {at}"))
}

/// A short name for the data: the same data always has the same.
fn hash(data: &[u8]) -> String {
    Sha256::digest(data).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_where_the_user_says() {
        assert_eq!(field(b"a b  c", 3, None), Ok("c".to_owned()));
        assert_eq!(field(b"a,,c", 2, Some(",")), Ok(String::new()));
        assert!(field(b"a b", 3, None).is_err());
        assert!(field(b"\xff", 1, None).is_err());
        assert_eq!(hash(b"abc"), "ba7816bf8f01cfea");
    }
}
