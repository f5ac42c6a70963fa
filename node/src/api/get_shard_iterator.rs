//! GetShardIterator (kinesis-contract 10.16).

use tristream_proto::domain::{
    Incarnation, ReadFrom, RecordPosition, SequenceNumber, Shard, ShardId, ShardIterator,
    StreamName, Timestamp,
};

use super::address::Address;
use super::foreign_number::ForeignNumber;
use super::validate::{Checks, NAME, SEQUENCE_NUMBER};
use super::{Api, Error, Members, Reply};
use crate::metadata::Stream;

/// In AWS's order.
const TYPES: [&str; 5] =
    ["AFTER_SEQUENCE_NUMBER", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON"];

/// Where to begin, as it was sent.
struct Start {
    kind: String,
    number: Option<String>,
    time: Option<Timestamp>,
}

/// Makes an iterator. `LATEST` and `AT_TIMESTAMP` are pinned to a position here, not at the first
/// read.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    let shard = input.text("ShardId")?;
    let kind = input.text("ShardIteratorType")?;
    let number = input.text("StartingSequenceNumber")?;
    let time = input.time("Timestamp")?;
    let dry_run = input.boolean("DryRun")?.unwrap_or(false);
    let mut checks = Checks::new();
    address.check(&mut checks);
    checks.required("shardId", &shard);
    checks.text("shardId", shard.as_deref(), NAME);
    checks.required("shardIteratorType", &kind);
    checks.one_of("shardIteratorType", kind.as_deref(), &TYPES);
    checks.text("startingSequenceNumber", number.as_deref(), SEQUENCE_NUMBER);
    checks.finish()?;

    let name = address.resolve(api)?;
    let (stream, shard) = find(api, &name, &shard.unwrap_or_default()).await?;
    let Some(shard) = stream.map.get(shard) else { return Err(api.no_such_shard(&name, shard)) };
    let start = Start { kind: kind.unwrap_or_default(), number, time };
    let from = start.resolve(api, &name, shard)?;
    if dry_run {
        return Err(Error::DryRun);
    }
    let position = match from {
        // Known without asking the shard: so these work while it has no leader, too.
        ReadFrom::TrimHorizon => RecordPosition::default(),
        ReadFrom::At(position) => position,
        // Only the shard knows these.
        ReadFrom::Latest | ReadFrom::Time(_) => api.streams.seek(shard, from).await?,
    };
    let token = api.shard_iterator(&stream, shard.id, position);
    Ok(Members::new().with("ShardIterator", token).into())
}

/// The stream, and the shard's id. What cannot be an id is refused before the stream is looked for.
async fn find(
    api: &Api,
    name: &StreamName,
    shard: &str,
) -> Result<(std::sync::Arc<Stream>, ShardId), Error> {
    let id = ShardId::parse_lenient(shard).ok_or_else(|| Error::NoShardId {
        shard: shard.to_owned(),
        stream: name.clone(),
        account: api.account.clone(),
    })?;
    let stream = api.serving_since(name, Incarnation::default(), id).await?;
    let stream = stream.ok_or_else(|| api.no_such_shard(name, id))?;
    Ok((stream, id))
}

impl Api {
    /// A fresh token for a reader at `position`.
    pub(super) fn shard_iterator(
        &self,
        stream: &Stream,
        shard: ShardId,
        position: RecordPosition,
    ) -> String {
        let mut nonce = [0; 12];
        self.entropy.fill(&mut nonce);
        let iterator = ShardIterator {
            stream: stream.name.clone(),
            incarnation: stream.incarnation,
            shard,
            position,
            issued: self.clock.now(),
        };
        iterator.seal(&self.token_key, nonce)
    }
}

impl Start {
    fn resolve(&self, api: &Api, stream: &StreamName, shard: &Shard) -> Result<ReadFrom, Error> {
        let kind = self.kind.as_str();
        let by_number = matches!(kind, "AT_SEQUENCE_NUMBER" | "AFTER_SEQUENCE_NUMBER");
        match (&self.number, kind) {
            (Some(number), _) if by_number => {
                let number = own_number(api, stream, shard, number)?;
                let at = number.position();
                Ok(ReadFrom::At(if kind == "AT_SEQUENCE_NUMBER" { at } else { after(at) }))
            }
            (None, _) if by_number => Err(mismatch(kind, "no StartingSequenceNumber")),
            (Some(_), "TRIM_HORIZON" | "LATEST") => {
                Err(mismatch(kind, "also a StartingSequenceNumber"))
            }
            (_, "TRIM_HORIZON") => Ok(ReadFrom::TrimHorizon),
            (_, "LATEST") => Ok(ReadFrom::Latest),
            _ => self.at_time(api),
        }
    }

    fn at_time(&self, api: &Api) -> Result<ReadFrom, Error> {
        let Some(time) = self.time else {
            return Err(Error::InvalidArgument(
                "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. \
                 Current request has no timestamp parameter."
                    .to_owned(),
            ));
        };
        let now = api.clock.now();
        if time > now {
            return Err(Error::InvalidArgument(format!(
                "The timestampInMillis parameter cannot be greater than the \
                 currentTimestampInMillis. timestampInMillis: {}, currentTimestampInMillis: {}",
                time.0, now.0
            )));
        }
        Ok(ReadFrom::Time(time))
    }
}

fn mismatch(kind: &str, what: &str) -> Error {
    Error::InvalidArgument(format!(
        "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and \
         StartingSequenceNumber or (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. \
         Request specified {kind} and {what}."
    ))
}

/// The position after `at`, in the next entry if the entry can have no more.
fn after(at: RecordPosition) -> RecordPosition {
    if planted!(IteratorOffByOne) {
        return RecordPosition { index: at.index + 1, position: 1 };
    }
    RecordPosition::from_counter(at.counter() + 1)
}

/// A number of this very shard, or AWS's reason why it is not.
fn own_number(
    api: &Api,
    stream: &StreamName,
    shard: &Shard,
    text: &str,
) -> Result<SequenceNumber, Error> {
    let id = shard.id;
    let invalid = |why: &str| {
        Error::InvalidArgument(format!(
            "StartingSequenceNumber {text} used in GetShardIterator on shard {id} in stream \
             {stream} under account {} is invalid{why}.",
            api.account
        ))
    };
    let number = ForeignNumber::parse(text).ok_or_else(|| invalid(""))?;
    if number.shard != i64::from(id.index()) {
        return Err(Error::InvalidArgument(format!(
            "Invalid StartingSequenceNumber. It encodes {}, while it was used in a call to a shard \
             with {id}",
            number.shard_text()
        )));
    }
    if number.version == 0 {
        return Err(Error::Internal(format!("sequence number {text} of the oldest layout")));
    }
    let ours = text.parse::<SequenceNumber>().ok();
    let ours = ours.filter(|ours| ours.creation_second == shard.creation_second);
    ours.ok_or_else(|| invalid(" because it did not come from this stream"))
}
