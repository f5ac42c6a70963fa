//! ListShards with its filters and pages (kinesis-contract 10.18, 9.11).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tristream_proto::domain::{Incarnation, Shard, StreamName, Timestamp};

use super::address::Address;
use super::validate::{Checks, NAME, NEXT_TOKEN};
use super::{Api, Error, Members, Reply, Value, page_token, shapes};
use crate::metadata::{Stream, StreamStatus};

const OPERATION: &str = "ListShards";
/// Shards in one answer, also when more are asked for.
const SHARDS_MAX: usize = 1_000;
const FILTERS: [&str; 6] = [
    "AFTER_SHARD_ID",
    "AT_TRIM_HORIZON",
    "FROM_TRIM_HORIZON",
    "AT_LATEST",
    "AT_TIMESTAMP",
    "FROM_TIMESTAMP",
];

/// Which shards are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Filter {
    /// Ids after this text.
    After(String),
    AtTrimHorizon,
    FromTrimHorizon,
    AtLatest,
    AtTime(Timestamp),
    FromTime(Timestamp),
}

/// What a NextToken holds: it names the stream and goes on as the first page began.
#[derive(Serialize, Deserialize)]
struct Place {
    stream: StreamName,
    incarnation: Incarnation,
    filter: Filter,
    after: Option<String>,
}

struct Input {
    address: Address,
    token: Option<String>,
    after: Option<String>,
    limit: Option<i64>,
    created: Option<Timestamp>,
    filter: Option<FilterInput>,
}

struct FilterInput {
    kind: Option<String>,
    shard: Option<String>,
    time: Option<Timestamp>,
}

impl Input {
    fn take(mut input: Members) -> Result<Input, Error> {
        let filter = |mut members: Members| {
            Ok::<_, Error>(FilterInput {
                kind: members.text("Type")?,
                shard: members.text("ShardId")?,
                time: members.time("Timestamp")?,
            })
        };
        Ok(Input {
            address: Address::take(&mut input)?,
            token: input.text("NextToken")?,
            after: input.text("ExclusiveStartShardId")?,
            limit: input.integer("MaxResults")?,
            created: input.time("StreamCreationTimestamp")?,
            filter: input.structure("ShardFilter")?.map(filter).transpose()?,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let mut checks = Checks::new();
        self.address.check(&mut checks);
        checks.text("nextToken", self.token.as_deref(), NEXT_TOKEN);
        checks.text("exclusiveStartShardId", self.after.as_deref(), NAME);
        checks.integer("maxResults", self.limit, 1, 10_000);
        if let Some(filter) = &self.filter {
            checks.required("shardFilter.type", &filter.kind);
            checks.one_of("shardFilter.type", filter.kind.as_deref(), &FILTERS);
            checks.text("shardFilter.shardId", filter.shard.as_deref(), NAME);
        }
        checks.finish()
    }

    /// Where the page begins, and the stream.
    async fn place(self, api: &Api) -> Result<(Place, std::sync::Arc<Stream>), Error> {
        let invalid = |text: &str| Err(Error::InvalidArgument(text.to_owned()));
        let Some(token) = self.token else {
            if !self.address.is_given() {
                return invalid("Either NextToken or StreamName should be provided.");
            }
            let filter = self.filter.map_or(Ok(Filter::FromTrimHorizon), FilterInput::filter)?;
            let stream = api.described(&self.address.resolve(api)?).await?;
            // Another creation time means another stream of that name. Clients may know whole
            // seconds only.
            if self.created.is_some_and(|at| at.seconds() != stream.created.seconds()) {
                return Err(api.no_such_stream(stream.name.as_str()));
            }
            let (name, incarnation) = (stream.name.clone(), stream.incarnation);
            return Ok((Place { stream: name, incarnation, filter, after: self.after }, stream));
        };
        if self.address.is_given() {
            return invalid("NextToken and StreamName cannot be provided together.");
        }
        for (name, given) in [
            ("ExclusiveStartShardId", self.after.is_some()),
            ("StreamCreationTimestamp", self.created.is_some()),
            ("ShardFilter", self.filter.is_some()),
        ] {
            if given {
                return invalid(&format!("NextToken and {name} cannot be provided together."));
            }
        }
        let place: Place = page_token::open(api, OPERATION, &token)?;
        let stream = api.described(&place.stream).await?;
        if stream.incarnation != place.incarnation {
            return Err(api.no_such_stream(stream.name.as_str()));
        }
        Ok((place, stream))
    }
}

impl FilterInput {
    fn filter(self) -> Result<Filter, Error> {
        let kind = self.kind.unwrap_or_default();
        let lacks = |what: &str| {
            Error::InvalidArgument(format!(
                "{what} must be provided for a ShardFilter of type {kind}."
            ))
        };
        Ok(match kind.as_str() {
            "AFTER_SHARD_ID" => Filter::After(self.shard.ok_or_else(|| lacks("ShardId"))?),
            "AT_TIMESTAMP" => Filter::AtTime(self.time.ok_or_else(|| lacks("Timestamp"))?),
            "FROM_TIMESTAMP" => Filter::FromTime(self.time.ok_or_else(|| lacks("Timestamp"))?),
            "AT_TRIM_HORIZON" => Filter::AtTrimHorizon,
            "AT_LATEST" => Filter::AtLatest,
            // `check` lets nothing else through.
            _ => Filter::FromTrimHorizon,
        })
    }
}

impl Filter {
    /// Whether the shard is wanted; `horizon` is the time before which records are gone.
    fn wants(&self, shard: &Shard, horizon: Timestamp) -> bool {
        let open_at = |time: Timestamp| {
            let closed_before = shard.closed_second.is_some_and(|end| end < time.seconds());
            shard.creation_second <= time.seconds() && !closed_before
        };
        let open_since = |time: Timestamp| {
            shard.closed_second.is_none_or(|end| end >= time.max(horizon).seconds())
        };
        match self {
            Filter::After(id) => shard.id.to_string() > *id,
            Filter::AtTrimHorizon => open_at(horizon),
            Filter::FromTrimHorizon => open_since(horizon),
            Filter::AtLatest => shard.is_open(),
            Filter::AtTime(time) => open_at((*time).max(horizon)),
            Filter::FromTime(time) => open_since(*time),
        }
    }
}

/// The time before which records are gone, or the stream was not there yet.
fn horizon(stream: &Stream, now: Timestamp) -> Timestamp {
    let kept = Duration::from_secs(u64::from(stream.retention_hours) * 3600);
    let first = stream.map.shards().iter().filter(|shard| shard.parents.is_empty());
    let begin = first.map(|shard| shard.creation_second).max().unwrap_or(0);
    now.before(kept).max(Timestamp(begin * 1000))
}

/// Lists the shards of a stream.
pub(super) async fn run(api: &Api, input: Members) -> Result<Reply, Error> {
    let input = Input::take(input)?;
    input.check()?;
    let count = input.limit.map_or(SHARDS_MAX, |limit| (limit as usize).min(SHARDS_MAX));
    let (place, stream) = input.place(api).await?;
    if stream.status != StreamStatus::Active {
        return Err(Error::StreamNotActive {
            stream: place.stream,
            account: api.account.clone(),
            state: shapes::status(stream.status),
        });
    }
    let horizon = horizon(&stream, api.clock.now());
    let mut rest = stream.map.shards().iter().filter(|shard| {
        let after = place.after.as_ref().is_none_or(|after| shard.id.to_string() > *after);
        after && place.filter.wants(shard, horizon)
    });
    let page: Vec<&Shard> = rest.by_ref().take(count).collect();
    let more = rest.next().is_some();
    let shards: Vec<Value> = page.iter().map(|shard| shapes::shard(shard).into()).collect();
    let token = match page.last() {
        Some(last) if more => {
            let next = Place { after: Some(last.id.to_string()), ..place };
            Some(page_token::seal(api, OPERATION, &next)?)
        }
        _ => None,
    };
    Ok(Members::new().with("Shards", shards).with_some("NextToken", token).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{GroupId, HashKey, HashKeyRange, ShardId};

    fn shard(index: u32, from: u64, to: Option<u64>, parents: &[u32]) -> Shard {
        Shard {
            id: ShardId::from(index),
            group: GroupId(u64::from(index) + 1),
            range: HashKeyRange { first: HashKey(0), last: HashKey(1) },
            creation_second: from,
            parents: parents.iter().map(|&parent| ShardId::from(parent)).collect(),
            replicas: vec![],
            closed_second: to,
        }
    }

    /// The contract's worked example: 0 and 1 were merged into 3 at second 50; nothing is trimmed.
    fn wanted(filter: Filter) -> Vec<u32> {
        let shards = [
            shard(0, 10, Some(50), &[]),
            shard(1, 10, Some(50), &[]),
            shard(2, 10, None, &[]),
            shard(3, 51, None, &[0, 1]),
        ];
        let horizon = Timestamp(10_000);
        let wanted = shards.iter().filter(|shard| filter.wants(shard, horizon));
        wanted.map(|shard| shard.id.index()).collect()
    }

    #[test]
    fn filters_choose_as_in_the_contracts_example() {
        let at = |second: u64| Timestamp(second * 1000);
        assert_eq!(wanted(Filter::AtTrimHorizon), [0, 1, 2]);
        assert_eq!(wanted(Filter::AtTime(at(30))), [0, 1, 2]);
        assert_eq!(wanted(Filter::AtTime(at(60))), [2, 3]);
        assert_eq!(wanted(Filter::FromTrimHorizon), [0, 1, 2, 3]);
        assert_eq!(wanted(Filter::AtLatest), [2, 3]);
        assert_eq!(wanted(Filter::FromTime(at(60))), [2, 3]);
        assert_eq!(wanted(Filter::FromTime(at(40))), [0, 1, 2, 3]);
        assert_eq!(wanted(Filter::After("shardId-000000000001".to_owned())), [2, 3]);
    }

    #[test]
    fn closed_shards_before_the_horizon_are_not_listed() {
        let closed = shard(0, 10, Some(50), &[]);
        let horizon = Timestamp(60_000);
        for filter in
            [Filter::AtTrimHorizon, Filter::FromTrimHorizon, Filter::FromTime(Timestamp(20_000))]
        {
            assert!(!filter.wants(&closed, horizon), "{filter:?}");
        }
    }
}
