//! `tristream tail`: the records of all shards of a stream, as they come, through splits and merges.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tristream_client::{Client, Consumer, End, Error, Event, Start, StreamDescription};
use tristream_proto::domain::{Retry, SequenceNumber, ShardId, StoredRecord, StreamName};
use tristream_proto::recording;

use super::endpoints::{Endpoints, explain};
use super::recording::Recording;
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
    /// Only this shard (`3` or `shardId-000000000003`); repeat it for several. Each ends where it was split
    /// or merged; without --shard the shards that came from it are read next.
    #[arg(long, value_name = "SHARD", value_parser = shard_id)]
    shard: Vec<ShardId>,
    /// A JSON object per record. Data that is not UTF-8 comes as `data_base64`.
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    /// Only the data of each record, unchanged, each followed by a line end.
    #[arg(long)]
    raw: bool,
    /// Add what is read to this file, for `tristream-lab verify`.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
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
    if matches!(args.from, Beginning(Start::At(_) | Start::After(_))) && args.shard.len() != 1 {
        bail!("a sequence number is of one shard: name it with --shard");
    }
    let mut witness = Witness::begin(&client, &args).await?;
    let mut goal = None;
    if args.no_follow {
        goal = Some(Goal::find(&client, &args).await.map_err(explain)?);
    }
    let mut records = open(&client, &args).await.map_err(explain)?;
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
        if goal.as_ref().is_none_or(|goal| goal.wants(&event)) {
            for record in &event.records {
                witness.observed(record)?;
                screen::line(show.record(record))?;
            }
        }
        witness.end(&event, goal.as_ref()).await?;
        if let Some(end) = event.end.as_ref().filter(|_| !args.shard.is_empty()) {
            screen::say(farewell(event.shard, end));
        }
        if goal.as_mut().is_some_and(|goal| goal.reached(&event)) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if args.shard.is_empty() {
        return Err(anyhow!("no shard of {} is left to read", args.stream));
    }
    Ok(ExitCode::SUCCESS)
}

/// Records what is read, where the user wants it.
struct Witness<'a> {
    recording: Option<Recording>,
    client: &'a Client,
    stream: &'a StreamName,
    from_oldest: bool,
}

impl Witness<'_> {
    async fn begin<'a>(client: &'a Client, args: &'a Args) -> anyhow::Result<Witness<'a>> {
        let recording = Recording::open_if(args.history.as_ref(), "tail", &args.stream)?;
        let from_oldest = args.from == Beginning(Start::TrimHorizon);
        let mut witness = Witness { recording, client, stream: &args.stream, from_oldest };
        witness.shards().await;
        if let Some(recording) = &mut witness.recording {
            recording.write(recording::Event::Reading { from_oldest })?;
        }
        Ok(witness)
    }

    /// A list that cannot be had is not recorded; the checks that need it say so.
    async fn shards(&mut self) {
        if let Some(recording) = &mut self.recording
            && let Ok(stream) = self.client.describe_stream(self.stream).await
            && let Err(error) = recording.shards(&stream)
        {
            screen::say(format!("tristream: {error:#}"));
        }
    }

    fn observed(&mut self, record: &StoredRecord) -> anyhow::Result<()> {
        self.recording.as_mut().map_or(Ok(()), |recording| recording.observed(record))
    }

    /// After the records of an event: the shard may have been read whole, as far as is wanted.
    async fn end(&mut self, event: &Event, goal: Option<&Goal>) -> anyhow::Result<()> {
        let Some(recording) = &mut self.recording else { return Ok(()) };
        let whole = event.end.is_some() && goal.is_none_or(|goal| goal.wants(event));
        let whole = whole || goal.is_some_and(|goal| goal.is_reached_by(event));
        if whole && self.from_oldest {
            let shard = event.shard.to_string();
            recording.write(recording::Event::ObservedAll { shard })?;
        }
        if event.end.is_some() {
            self.shards().await;
        }
        Ok(())
    }
}

/// What is said at the end of a shard that was asked for.
fn farewell(shard: ShardId, end: &End) -> String {
    let children: Vec<String> = end.children.iter().map(|child| child.id.to_string()).collect();
    format!("tristream: {shard} ends here; its keys go on in {}", children.join(" and "))
}

/// The records that are asked for.
async fn open(client: &Client, args: &Args) -> Result<Consumer, Error> {
    match args.shard.as_slice() {
        [] => client.consumer(&args.stream, args.from.0).await,
        shards => merged(client, &args.stream, shards, args.from.0).await,
    }
}

async fn merged(
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

/// Where `--no-follow` ends: the tip of every shard as of the start. A shard that was closed then is
/// wanted whole, for those that came from it have their own tips; one that comes later is not wanted.
#[derive(Debug, Default)]
struct Goal {
    closed: BTreeSet<ShardId>,
    open: BTreeMap<ShardId, SequenceNumber>,
    /// Shards whose tips were told by a node that knew no quorum: there may be more.
    stale: BTreeSet<ShardId>,
}

impl Goal {
    /// Asks where `Latest` is: the first event of each shard names it.
    async fn find(client: &Client, args: &Args) -> Result<Goal, Error> {
        let stream = client.describe_stream(&args.stream).await?;
        let (open, closed) = Goal::shards(&stream, &args.shard);
        let mut tips = merged(client, &args.stream, &open, Start::Latest).await?;
        let mut goal = Goal { closed, ..Goal::default() };
        while goal.open.len() < open.len() {
            let Some(event) = tips.next().await else { break };
            let event = event?;
            let tip = event.next.ok_or_else(|| Error::Protocol("an event without place".into()))?;
            if event.stale && !goal.open.contains_key(&event.shard) {
                goal.stale.insert(event.shard);
            }
            goal.open.entry(event.shard).or_insert(tip);
        }
        Ok(goal)
    }

    /// Shards to read up to their tips, and shards to read whole.
    fn shards(stream: &StreamDescription, chosen: &[ShardId]) -> (Vec<ShardId>, BTreeSet<ShardId>) {
        if !chosen.is_empty() {
            let chosen: BTreeSet<ShardId> = chosen.iter().copied().collect();
            return (chosen.into_iter().collect(), BTreeSet::new());
        }
        let shards = stream.map.shards();
        let closed = shards.iter().filter(|shard| !shard.is_open()).map(|shard| shard.id);
        (stream.map.open().map(|shard| shard.id).collect(), closed.collect())
    }

    fn wants(&self, event: &Event) -> bool {
        self.open.contains_key(&event.shard) || self.closed.contains(&event.shard)
    }

    /// Notes how far a shard is; `true` once none is short of its tip.
    fn reached(&mut self, event: &Event) -> bool {
        if self.is_at_tip(event) {
            self.open.remove(&event.shard);
        }
        self.open.is_empty()
    }

    fn is_at_tip(&self, event: &Event) -> bool {
        let tip = self.open.get(&event.shard);
        tip.zip(event.next).is_some_and(|(tip, next)| next.counter >= tip.counter)
    }

    /// Whether the shard is read up to a tip that was surely its tip.
    fn is_reached_by(&self, event: &Event) -> bool {
        self.is_at_tip(event) && !self.stale.contains(&event.shard)
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
    use tristream_client::StreamStatus;
    use tristream_proto::domain::{
        GroupId, HashKeyRange, Incarnation, MapVersion, PartitionKey, Shard, ShardMap, Timestamp,
    };

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
            end: None,
        }
    }

    fn shard(id: u32, closed: bool) -> Shard {
        Shard {
            id: ShardId::from(id),
            group: GroupId(1),
            range: HashKeyRange::uniform(1)[0],
            creation_second: 1_790_000_000,
            parents: vec![],
            replicas: vec![],
            closed_second: closed.then_some(1_790_000_100),
        }
    }

    #[test]
    fn reading_ends_when_every_shard_is_at_the_tip_it_had() {
        let open = [(ShardId::from(0), number(0, 10)), (ShardId::from(1), number(1, 0))];
        let mut goal = Goal { open: open.into(), ..Goal::default() };
        assert!(!goal.reached(&event(0, 9)));
        assert!(!goal.reached(&event(1, 0)), "an empty shard is at its tip, the other is not");
        assert!(!goal.wants(&event(1, 5)), "what came later is not asked for");
        assert!(goal.reached(&event(0, 11)));
    }

    #[test]
    fn a_shard_closed_before_the_start_is_wanted_whole_and_a_later_child_is_not() {
        let stream = StreamDescription {
            name: "orders".parse().expect("a name"),
            incarnation: Incarnation(1),
            status: StreamStatus::Active,
            created: Timestamp(1),
            map: ShardMap::new(MapVersion(1), vec![shard(0, true), shard(1, false)])
                .expect("tiles"),
            leaders: vec![],
        };
        let (open, closed) = Goal::shards(&stream, &[]);
        assert_eq!((open, &closed), (vec![ShardId::from(1)], &[ShardId::from(0)].into()));
        let open = [(ShardId::from(1), number(1, 10))].into();
        let mut goal = Goal { closed, open, ..Goal::default() };
        for (id, wanted) in [(0, true), (1, true), (2, false)] {
            assert_eq!(goal.wants(&event(id, 5)), wanted, "{id}");
        }
        assert!(!goal.reached(&event(0, 50)), "the open one is short of its tip");
        assert!(goal.reached(&event(1, 10)));
        let chosen = Goal::shards(&stream, &[ShardId::from(0), ShardId::from(0)]);
        assert_eq!(chosen, (vec![ShardId::from(0)], BTreeSet::new()));
    }

    #[test]
    fn a_tip_told_without_a_quorum_proves_nothing() {
        let open: BTreeMap<_, _> = [0, 1].map(|id| (ShardId::from(id), number(id, 10))).into();
        let stale = [ShardId::from(1)].into();
        let goal = Goal { open, stale, ..Goal::default() };
        assert!(!goal.is_reached_by(&event(0, 9)));
        assert!(goal.is_reached_by(&event(0, 10)));
        assert!(!goal.is_reached_by(&event(1, 10)));
    }

    #[test]
    fn the_end_of_a_shard_says_where_to_go_on() {
        let end =
            End { children: vec![shard(4, false), shard(5, false)], map_version: MapVersion(2) };
        assert_eq!(
            farewell(ShardId::from(3), &end),
            "tristream: shardId-000000000003 ends here; its keys go on in \
             shardId-000000000004 and shardId-000000000005"
        );
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
