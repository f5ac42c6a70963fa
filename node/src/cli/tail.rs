//! `tristream tail`: the records of all shards of a stream, as they come.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tristream_client::{Client, Consumer, Error, Event, Start};
use tristream_proto::domain::{Retry, SequenceNumber, ShardId, StoredRecord, StreamName};

use super::endpoints::{Endpoints, explain};
use super::screen::{self, Colours, harmless};
use super::when;
use crate::clock::{Clock, SystemClock};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    endpoints: Endpoints,
    /// The stream.
    stream: StreamName,
    /// Where to begin: `latest`, `trim-horizon` (the oldest record kept), `at:NUMBER` or `after:NUMBER` (a
    /// sequence number; needs one --shard), or a time such as `2026-11-21T10:00:00Z`, `1795255200` or `5m` (ago).
    #[arg(long, default_value = "latest")]
    from: Beginning,
    /// End when what was stored at the start has been read.
    #[arg(long)]
    no_follow: bool,
    /// Only this shard (`3` or `shardId-000000000003`); repeat it for several.
    #[arg(long, value_name = "SHARD", value_parser = shard_id)]
    shard: Vec<ShardId>,
    /// A JSON object per record. Data that is not UTF-8 comes as `data_base64`.
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    /// Only the data of each record, unchanged, each followed by a line end.
    #[arg(long)]
    raw: bool,
}

/// The value of --from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beginning(Start);

impl FromStr for Beginning {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<SequenceNumber>().map_err(|e| e.to_string());
        if let Some(at) = text.strip_prefix("at:") {
            return Ok(Beginning(Start::At(number(at)?)));
        }
        if let Some(after) = text.strip_prefix("after:") {
            return Ok(Beginning(Start::After(number(after)?)));
        }
        match text.to_ascii_lowercase().replace('_', "-").as_str() {
            "trim-horizon" => Ok(Beginning(Start::TrimHorizon)),
            "latest" => Ok(Beginning(Start::Latest)),
            _ => match when::parse(text, SystemClock.now()) {
                Some(time) => Ok(Beginning(Start::Timestamp(time))),
                None => {
                    Err("expected latest, trim-horizon, at:NUMBER, after:NUMBER or a time".into())
                }
            },
        }
    }
}

fn shard_id(text: &str) -> Result<ShardId, String> {
    ShardId::parse_lenient(text).ok_or_else(|| "expected a shard such as 3".to_owned())
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.endpoints.client()?;
    let explain = |error| explain(error, &args.endpoints);
    let shards = chosen_shards(&client, &args).await.map_err(explain)?;
    if matches!(args.from, Beginning(Start::At(_) | Start::After(_))) && shards.len() != 1 {
        bail!("a sequence number is of one shard: name it with --shard");
    }
    let mut goal = Goal::default();
    if args.no_follow {
        let mut tips =
            open(&client, &args.stream, &shards, Start::Latest).await.map_err(explain)?;
        goal = Goal::find(&mut tips).await.map_err(explain)?;
    }
    let mut records = open(&client, &args.stream, &shards, args.from.0).await.map_err(explain)?;
    let show = Show::of(&args);
    let mut warned = Warned::default();
    while let Some(event) = records.next().await {
        let event = match event {
            Ok(event) => event,
            // Following outlives a cluster that is away for a while.
            Err(error) if error.retry() != Retry::Never && !args.no_follow => {
                warned.trouble(&error);
                continue;
            }
            Err(error) => return Err(explain(error)),
        };
        warned.event(&event);
        for record in event.records.iter().filter(|_| !args.no_follow || goal.wants(&event)) {
            screen::line(show.record(record))?;
        }
        if args.no_follow && goal.reached(&event) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(anyhow!("no shard of {} is left to read", args.stream))
}

async fn chosen_shards(client: &Client, args: &Args) -> Result<Vec<ShardId>, Error> {
    if !args.shard.is_empty() {
        return Ok(args.shard.clone());
    }
    let stream = client.describe_stream(&args.stream).await?;
    Ok(stream.map.shards().iter().map(|shard| shard.id).collect())
}

async fn open(
    client: &Client,
    stream: &StreamName,
    shards: &[ShardId],
    start: Start,
) -> Result<Consumer, Error> {
    let mut subscriptions = Vec::with_capacity(shards.len());
    for shard in shards {
        subscriptions.push(client.subscribe(stream, *shard, start).await?);
    }
    Ok(Consumer::new(subscriptions))
}

/// The tip of every shard as of the start: where `--no-follow` ends.
#[derive(Debug, Default)]
struct Goal {
    open: BTreeMap<ShardId, SequenceNumber>,
}

impl Goal {
    /// Asks where `Latest` is: the first event of each shard names it.
    async fn find(tips: &mut Consumer) -> Result<Goal, Error> {
        let (mut goal, count) = (Goal::default(), tips.shards().len());
        while goal.open.len() < count {
            let Some(event) = tips.next().await else { break };
            let event = event?;
            let tip = event.next.ok_or_else(|| Error::Protocol("an event without place".into()))?;
            goal.open.entry(event.shard).or_insert(tip);
        }
        Ok(goal)
    }

    fn wants(&self, event: &Event) -> bool {
        self.open.contains_key(&event.shard)
    }

    /// Notes how far a shard is; `true` once none is short of its tip.
    fn reached(&mut self, event: &Event) -> bool {
        let tip = self.open.get(&event.shard);
        if tip.zip(event.next).is_some_and(|(tip, next)| next.counter >= tip.counter) {
            self.open.remove(&event.shard);
        }
        self.open.is_empty()
    }
}

/// What was said on standard error, so that it is said once.
#[derive(Default)]
struct Warned {
    trouble: bool,
    stale: BTreeSet<ShardId>,
}

impl Warned {
    fn trouble(&mut self, error: &Error) {
        if !self.trouble {
            screen::say(format!("tristream: {error}; trying on, end with Ctrl-C"));
        }
        self.trouble = true;
    }

    fn event(&mut self, event: &Event) {
        self.trouble = false;
        if self.is_news(event) {
            screen::say("tristream: a shard has no leader: newer records may be missing");
        }
    }

    /// Whether the event is the first of a time in which some shard is stale.
    fn is_news(&mut self, event: &Event) -> bool {
        let fresh_before = self.stale.is_empty();
        if event.stale {
            self.stale.insert(event.shard);
        } else {
            self.stale.remove(&event.shard);
        }
        fresh_before && !self.stale.is_empty()
    }
}

enum Show {
    Text(Colours),
    Json,
    Raw,
}

impl Show {
    fn of(args: &Args) -> Show {
        match (args.json, args.raw) {
            (true, _) => Show::Json,
            (false, true) => Show::Raw,
            (false, false) => Show::Text(Colours::of_stdout()),
        }
    }

    fn record(&self, record: &StoredRecord) -> Vec<u8> {
        let shard = record.sequence_number.shard;
        let key = record.partition_key.as_str();
        match self {
            Show::Raw => record.data.to_vec(),
            Show::Json => {
                let mut line = json!({
                    "shard": shard.to_string(),
                    "sequence_number": record.sequence_number.to_string(),
                    "arrival": when::show(record.arrival),
                    "arrival_ms": record.arrival.0,
                    "partition_key": key,
                });
                match std::str::from_utf8(&record.data) {
                    Ok(text) => line["data"] = text.into(),
                    Err(_) => line["data_base64"] = BASE64.encode(&record.data).into(),
                }
                line.to_string().into_bytes()
            }
            Show::Text(colours) => {
                let data = match std::str::from_utf8(&record.data) {
                    Ok(text) => harmless(text),
                    Err(_) => record.data.escape_ascii().to_string(),
                };
                let head = format!("{} {:>4}", when::show(record.arrival), shard.index());
                let (head, key) = (colours.dim(&head), colours.bold(&harmless(key)));
                format!("{head} {key} {data}").into_bytes()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{PartitionKey, Timestamp};

    fn number(shard: u32, counter: u64) -> SequenceNumber {
        SequenceNumber { counter, ..SequenceNumber::start_of(ShardId::from(shard), 1_790_000_000) }
    }

    fn event(shard: u32, next: u64) -> Event {
        Event {
            shard: ShardId::from(shard),
            records: vec![],
            millis_behind: 0,
            stale: false,
            next: Some(number(shard, next)),
        }
    }

    #[test]
    fn reading_ends_when_every_shard_is_at_the_tip_it_had() {
        let open = [(ShardId::from(0), number(0, 10)), (ShardId::from(1), number(1, 0))];
        let mut goal = Goal { open: open.into() };
        assert!(!goal.reached(&event(0, 9)));
        assert!(!goal.reached(&event(1, 0)), "an empty shard is at its tip, the other is not");
        assert!(!goal.wants(&event(1, 5)), "what came later is not asked for");
        assert!(goal.reached(&event(0, 11)));
    }

    #[test]
    fn that_shards_are_stale_is_said_once() {
        let mut warned = Warned::default();
        let stale = |shard, stale| Event { stale, ..event(shard, 1) };
        let news: Vec<bool> = [(0, true), (1, true), (0, false), (0, true), (0, false), (1, false)]
            .map(|(shard, is)| warned.is_news(&stale(shard, is)))
            .to_vec();
        assert_eq!(news, [true, false, false, false, false, false]);
        assert!(warned.is_news(&stale(1, true)), "a new time begins");
    }

    #[test]
    fn places_to_begin_are_read() {
        let text = number(0, 7).to_string();
        for (from, start) in [
            ("latest".to_owned(), Start::Latest),
            ("TRIM_HORIZON".to_owned(), Start::TrimHorizon),
            ("1795255200".to_owned(), Start::Timestamp(Timestamp(1_795_255_200_000))),
            (format!("at:{text}"), Start::At(number(0, 7))),
            (format!("after:{text}"), Start::After(number(0, 7))),
        ] {
            assert_eq!(from.parse(), Ok(Beginning(start)), "{from}");
        }
        assert!("yesterday".parse::<Beginning>().is_err());
        assert!("at:7".parse::<Beginning>().is_err());
    }

    #[test]
    fn records_are_shown_three_ways() {
        let record = |data: &'static [u8]| StoredRecord {
            sequence_number: number(2, 7),
            arrival: Timestamp(1_795_255_200_123),
            partition_key: PartitionKey::new("k\u{1b}").expect("a key"),
            data: data.into(),
        };
        let text = Show::Text(Colours::off()).record(&record(b"a\x1b"));
        assert_eq!(
            String::from_utf8_lossy(&text),
            "2026-11-21T10:00:00.123Z    2 k\\u{1b} a\\u{1b}"
        );
        assert!(Show::Text(Colours::on()).record(&record(b"a")).starts_with(b"\x1b[2m"));
        assert_eq!(Show::Raw.record(&record(b"\xff\x1b")), b"\xff\x1b");
        let json = |data| {
            let line = Show::Json.record(&record(data));
            serde_json::from_slice::<serde_json::Value>(&line).expect("JSON")
        };
        assert_eq!(json(b"a")["data"], "a");
        assert_eq!(json(b"\xff")["data_base64"], "/w==");
        assert_eq!(json(b"")["sequence_number"], number(2, 7).to_string());
    }
}
