//! GetRecords (kinesis-contract 10.14).
//!
//! `MillisBehindLatest` is 0 when the answer ends at the tip. Otherwise it is the age of the last
//! record given, or, where none was given, of the newest record there is: the reader is at least
//! that far back.
//!
//! At the end of a closed shard the answer names its children and no iterator.

use tristream_proto::domain::limits::{GET_RECORDS_BYTES_MAX, GET_RECORDS_COUNT_MAX};
use tristream_proto::domain::{IteratorError, Shard, ShardIterator, StoredRecord, Timestamp};

use super::address::Address;
use super::validate::{Checks, Text};
use super::{Api, Error, Members, Reply, Value, shapes};
use crate::metadata::Stream;
use crate::router;
use crate::shard::Page;

const ITERATOR: Text = Text { min: 1, max: 512, pattern: None };

/// Reads on from an iterator.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    // The iterator names the stream; an ARN beside it only has to be well formed.
    let address = Address::take(&mut input)?;
    let token = input.text("ShardIterator")?;
    let limit = input.integer("Limit")?;
    let dry_run = input.boolean("DryRun")?.unwrap_or(false);
    let mut checks = Checks::new();
    address.check(&mut checks);
    checks.required("shardIterator", &token);
    checks.text("shardIterator", token.as_deref(), ITERATOR);
    checks.integer("limit", limit, 1, GET_RECORDS_COUNT_MAX as i64);
    checks.finish()?;

    let iterator = open(api, &token.unwrap_or_default())?;
    let name = &iterator.stream;
    let gone = || api.no_such_shard(name, iterator.shard);
    let known = (iterator.incarnation, iterator.shard);
    let stream = api.serving_since(name, known.0, known.1).await?.ok_or_else(gone)?;
    if stream.incarnation != iterator.incarnation {
        return Err(gone());
    }
    let shard = stream.map.get(iterator.shard).ok_or_else(gone)?;
    if dry_run {
        return Err(Error::DryRun);
    }
    let count_max = limit.map_or(GET_RECORDS_COUNT_MAX, |limit| limit as usize);
    let read = api.streams.read(shard, iterator.position, count_max, GET_RECORDS_BYTES_MAX);
    let (page, stale) = read.await.map_err(|error| match error {
        router::Error::Throttled(_) => Error::ReadThrottled {
            shard: shard.id,
            stream: name.clone(),
            account: api.account.clone(),
        },
        router::Error::StreamNotFound(_) => gone(),
        other => other.into(),
    })?;
    let behind = millis_behind(&page, api.clock.now());
    let children = match page.at_end {
        true => children(&stream, shard),
        false => vec![],
    };
    // The children say that nothing follows, and an iterator that something does: clients insist on
    // one of them, and on one only.
    let (next, children) = match children.is_empty() {
        // A fresh token also when nothing moved: the old one expires.
        true => (Some(api.shard_iterator(&stream, shard.id, page.next)), None),
        false => (None, Some(children)),
    };
    let records: Vec<Value> = page.records.into_iter().map(record).collect();
    let output = Members::new()
        .with("Records", records)
        .with_some("NextShardIterator", next)
        .with("MillisBehindLatest", behind)
        .with_some("ChildShards", children);
    Ok(Reply { output: Some(output), stale })
}

/// Where the shard's keys go on, once it is closed: a shard that is sealed, but whose children are
/// not published yet, has none to read from.
fn children(stream: &Stream, shard: &Shard) -> Vec<Value> {
    match shard.is_open() {
        true => vec![],
        false => stream.children_of(shard.id).map(|child| shapes::child(child).into()).collect(),
    }
}

fn open(api: &Api, token: &str) -> Result<ShardIterator, Error> {
    let life = api.iterator_life;
    ShardIterator::open(token, &api.token_key, api.clock.now(), life).map_err(|error| match error {
        IteratorError::Invalid => Error::InvalidIterator,
        IteratorError::Expired { issued, now } => Error::IteratorExpired { issued, now, life },
    })
}

fn millis_behind(page: &Page, now: Timestamp) -> u64 {
    if page.at_tip || page.at_end {
        return 0;
    }
    let given = page.records.last().map(|record| record.arrival);
    let reached = given.or(page.newest_arrival).unwrap_or(now);
    // There is more, so 0 would be a lie even within the millisecond, or when clocks differ.
    (now.since(reached).as_millis() as u64).max(1)
}

fn record(record: StoredRecord) -> Value {
    Members::new()
        .with("SequenceNumber", record.sequence_number.to_string())
        .with("ApproximateArrivalTimestamp", record.arrival)
        .with("Data", record.data)
        .with("PartitionKey", record.partition_key.as_str())
        .into()
}
