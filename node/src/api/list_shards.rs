//! ListShards with its filters and pages (kinesis-contract 10.18, 9.11).
//!
//! Invariant: the shards of an `AT_` filter tile the key space, over all pages together, whatever
//! is split, merged or expires between two pages. KCL does not start on a hole.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tristream_proto::domain::{Incarnation, Shard, ShardId, StreamName, Timestamp};

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
    /// These, by rising id: what is left of an answer that must tile the key space as a whole.
    These(Vec<ShardId>),
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
            Filter::These(ids) => ids.contains(&shard.id),
        }
    }

    /// How the next page goes on after `last`, when it shall have `rest`. What a point in time had
    /// is settled by the first page; what came since it began may grow.
    fn onward(self, last: ShardId, rest: &[&Shard]) -> (Filter, Option<String>) {
        let is_point =
            !matches!(self, Filter::After(_) | Filter::FromTrimHorizon | Filter::FromTime(_));
        match is_point {
            true => (Filter::These(rest.iter().map(|shard| shard.id).collect()), None),
            false => (self, Some(last.to_string())),
        }
    }
}

/// The time before which records are gone, or the shards that are left do not tile the key space:
/// the stream was not there yet, or parents have expired (by another node's clock, which may be
/// ahead).
fn horizon(stream: &Stream, kept: Option<Duration>, now: Timestamp) -> Timestamp {
    let hours = u64::from(stream.retention_hours);
    let kept = kept.unwrap_or(Duration::from_secs(hours * 3600));
    let map = &stream.map;
    let begins = |shard: &&Shard| {
        let orphan = shard.parents.iter().any(|parent| map.get(*parent).is_none());
        orphan || shard.parents.is_empty()
    };
    let first = map.shards().iter().filter(begins);
    let begin = first.map(|shard| shard.creation_second).max().unwrap_or(0);
    now.before(kept).max(Timestamp(begin * 1000))
}

/// Lists the shards of a stream.
pub(super) async fn run(api: &Api, input: Members) -> Result<Reply, Error> {
    let input = Input::take(input)?;
    input.check()?;
    let count = input.limit.map_or(SHARDS_MAX, |limit| (limit as usize).min(SHARDS_MAX));
    let (place, stream) = input.place(api).await?;
    if !matches!(stream.status, StreamStatus::Active | StreamStatus::Updating) {
        return Err(api.not_active(&place.stream, stream.status));
    }
    let horizon = horizon(&stream, api.retention_override, api.clock.now());
    let wanted = stream.map.shards().iter().filter(|shard| {
        let after = place.after.as_ref().is_none_or(|after| shard.id.to_string() > *after);
        after && place.filter.wants(shard, horizon)
    });
    let wanted: Vec<&Shard> = wanted.collect();
    let (page, rest) = wanted.split_at(count.min(wanted.len()));
    let shards: Vec<Value> = page.iter().map(|shard| shapes::shard(shard).into()).collect();
    let token = match page.last() {
        Some(last) if !rest.is_empty() => {
            let (filter, after) = place.filter.onward(last.id, rest);
            let next = Place { filter, after, ..place };
            Some(page_token::seal(api, OPERATION, &next)?)
        }
        _ => None,
    };
    Ok(Members::new().with("Shards", shards).with_some("NextToken", token).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{GroupId, HashKey, HashKeyRange, MapVersion, ShardMap};

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

    const QUARTER: u128 = 1 << 126;

    fn ranged(shard: Shard, quarters: std::ops::Range<u128>) -> Shard {
        let last = (quarters.end - 1) * QUARTER + (QUARTER - 1);
        let range = HashKeyRange { first: HashKey(quarters.start * QUARTER), last: HashKey(last) };
        Shard { range, ..shard }
    }

    /// Splits of 0 at 19 and of 1 at 30, a merge of the inner two at 41.
    fn lineage() -> Vec<Shard> {
        vec![
            ranged(shard(0, 10, Some(19), &[]), 0..2),
            ranged(shard(1, 10, Some(30), &[]), 2..4),
            ranged(shard(2, 20, None, &[0]), 0..1),
            ranged(shard(3, 20, Some(41), &[0]), 1..2),
            ranged(shard(4, 31, Some(41), &[1]), 2..3),
            ranged(shard(5, 31, None, &[1]), 3..4),
            ranged(shard(6, 42, None, &[3, 4]), 1..3),
        ]
    }

    fn tiles<'a>(shards: impl Iterator<Item = &'a Shard>) -> bool {
        let mut ranges: Vec<HashKeyRange> = shards.map(|shard| shard.range).collect();
        ranges.sort_by_key(|range| range.first);
        let meet = |pair: &[HashKeyRange]| pair[0].last.0.checked_add(1) == Some(pair[1].first.0);
        ranges.first().is_some_and(|first| first.first.0 == 0)
            && ranges.last().is_some_and(|last| last.last.0 == u128::MAX)
            && ranges.windows(2).all(meet)
    }

    fn stream(shards: Vec<Shard>) -> Stream {
        Stream {
            name: "s".parse().expect("a name"),
            incarnation: Incarnation(1),
            status: StreamStatus::Active,
            mode: crate::metadata::StreamMode::Provisioned,
            created: Timestamp(12_000),
            retention_hours: 24,
            record_bytes_max: 1,
            tags: Default::default(),
            map: ShardMap::new(MapVersion(1), shards).expect("tiles"),
            reshards: vec![],
            goal: None,
            next_shard: 7,
            rescaled: vec![],
            mode_changed: vec![],
        }
    }

    #[test]
    fn at_any_time_the_shards_tile_the_key_space() {
        let stream = stream(lineage());
        let horizon = horizon(&stream, None, Timestamp(60_000));
        assert_eq!(horizon, Timestamp(10_000), "the stream was not there before");
        for millis in (0..60_000).step_by(250) {
            let filter = Filter::AtTime(Timestamp(millis));
            let at = || stream.map.shards().iter().filter(|shard| filter.wants(shard, horizon));
            assert!(tiles(at()), "{millis}: {:?}", at().map(|shard| shard.id).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_horizon_moves_on_and_the_shards_at_it_still_tile() {
        let kept = Some(Duration::from_secs(15));
        for now in (20_000..90_000).step_by(500) {
            // By a clock 2 s ahead, parents are dropped that this one would still list.
            for ahead in [0, 2] {
                let expired = |shard: &Shard| {
                    shard.closed_second.is_some_and(|end| end + 15 < now / 1000 + ahead)
                };
                let left = lineage().into_iter().filter(|shard| !expired(shard));
                let stream = stream(left.collect());
                let horizon = horizon(&stream, kept, Timestamp(now));
                assert!(horizon <= Timestamp(now), "{now}");
                for filter in [Filter::AtTrimHorizon, Filter::AtTime(Timestamp(0))] {
                    let at =
                        stream.map.shards().iter().filter(|shard| filter.wants(shard, horizon));
                    assert!(tiles(at), "{now} {ahead} {filter:?}");
                }
            }
        }
    }

    #[test]
    fn points_in_time_are_settled_by_the_first_page() {
        let shards = lineage();
        let rest: Vec<&Shard> = shards[3..5].iter().collect();
        let ids = vec![ShardId::from(3), ShardId::from(4)];
        let last = ShardId::from(2);
        for filter in [Filter::AtLatest, Filter::AtTrimHorizon, Filter::AtTime(Timestamp(1))] {
            assert_eq!(filter.onward(last, &rest), (Filter::These(ids.clone()), None));
        }
        let onward = Filter::FromTrimHorizon.onward(last, &rest);
        assert_eq!(onward, (Filter::FromTrimHorizon, Some(last.to_string())));
    }
}
