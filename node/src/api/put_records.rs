//! PutRecords (kinesis-contract 10.25): one put per shard, all at once; the answer tells of each
//! record.

use std::collections::BTreeMap;

use futures::future::join_all;
use tristream_proto::domain::limits::{PUT_RECORDS_BYTES_MAX, PUT_RECORDS_COUNT_MAX};
use tristream_proto::domain::{Record, SequenceNumber, ShardId};

use super::address::Address;
use super::put::{self, RecordInput};
use super::validate::Checks;
use super::{Api, Error, Members, Reply, Value};
use crate::metadata::Stream;

/// AWS shows Java's name of a record, and its suite checks the hash to the letter.
const SHOWN_RECORD: &str = "com.amazonaws.kinesis.v20131202.PutRecordsRequestEntry@c965e310";

type Outcome = Result<(ShardId, SequenceNumber), Error>;

/// The records of one shard, with their places in the request.
#[derive(Default)]
struct Share {
    places: Vec<usize>,
    records: Vec<Record>,
}

/// Stores up to 500 records.
pub(super) async fn run(api: &Api, mut input: Members) -> Result<Reply, Error> {
    let address = Address::take(&mut input)?;
    let records = input.list("Records")?.map(take_records).transpose()?;
    let dry_run = input.boolean("DryRun")?.unwrap_or(false);
    let mut checks = Checks::new();
    address.check(&mut checks);
    checks.required("records", &records);
    let records = records.unwrap_or_default();
    check_records(&mut checks, &records);
    checks.finish()?;

    let name = address.resolve(api)?;
    let Some(stream) = api.serving(&name).await else {
        return Err(api.no_such_stream(name));
    };
    let records: Vec<Record> =
        records.into_iter().flatten().map(RecordInput::record).collect::<Result<_, _>>()?;
    for (at, record) in records.iter().enumerate() {
        put::check_size(&stream, record, &format!("records.{}.member.", at + 1))?;
    }
    if records.iter().map(Record::bytes).sum::<usize>() > PUT_RECORDS_BYTES_MAX {
        return Err(Error::InvalidArgument("Records size exceeds 10 MB limit".to_owned()));
    }
    if dry_run {
        return Err(Error::DryRun);
    }
    answer(api, &stream, put_all(api, &stream, records).await)
}

fn take_records(items: Vec<Value>) -> Result<Vec<Option<RecordInput>>, Error> {
    let record = |item: Value| match item.into_structure()? {
        Some(mut members) => RecordInput::take(&mut members).map(Some),
        None => Ok(None),
    };
    items.into_iter().map(record).collect()
}

fn check_records(checks: &mut Checks, records: &[Option<RecordInput>]) {
    let count = records.len();
    if count == 0 || count > PUT_RECORDS_COUNT_MAX {
        let shown = format!("[{}]", vec![SHOWN_RECORD; count].join(", "));
        checks.length("records", count, &shown, 1, PUT_RECORDS_COUNT_MAX);
    }
    for (at, record) in records.iter().enumerate() {
        match record {
            Some(record) => record.check(checks, &format!("records.{}.member.", at + 1)),
            None => checks.required(&format!("records.{}.member", at + 1), record),
        }
    }
}

/// Puts every shard's share at the same time. Within a shard the order of the request is kept.
async fn put_all(api: &Api, stream: &Stream, records: Vec<Record>) -> Vec<Outcome> {
    let lost = || Err(Error::Internal("the shard numbered fewer records than it got".to_owned()));
    let mut outcomes: Vec<Outcome> = records.iter().map(|_| lost()).collect();
    let mut shares: BTreeMap<ShardId, Share> = BTreeMap::new();
    for (place, record) in records.into_iter().enumerate() {
        let share = shares.entry(stream.map.owner(record.hash_key()).id).or_default();
        share.places.push(place);
        share.records.push(record);
    }
    let puts = shares.into_iter().filter_map(|(id, share)| {
        let shard = stream.map.get(id)?;
        Some(async move {
            let put = api.streams.put(stream, shard, share.records, api.put_deadline);
            (id, share.places, put.await)
        })
    });
    for (id, places, put) in join_all(puts).await {
        match put {
            Ok(placed) => {
                for (place, number) in places.into_iter().zip(placed.numbers()) {
                    outcomes[place] = Ok((id, number));
                }
            }
            Err(error) => {
                let refusal = put::refusal(api, stream, id, error);
                for place in places {
                    outcomes[place] = Err(refusal.clone());
                }
            }
        }
    }
    outcomes
}

/// AWS answers 200 however many records failed. Only a stream that has gone meanwhile fails the
/// call.
fn answer(api: &Api, stream: &Stream, outcomes: Vec<Outcome>) -> Result<Reply, Error> {
    let gone = |outcome: &Outcome| matches!(outcome, Err(Error::StreamNotFound { .. }));
    if outcomes.iter().all(gone) {
        return Err(api.no_such_stream(stream.name.as_str()));
    }
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let entry = |outcome: Outcome| match outcome {
        Ok((shard, number)) => Members::new()
            .with("SequenceNumber", number.to_string())
            .with("ShardId", shard.to_string())
            .into(),
        Err(error) => Value::Failure(Box::new(error)),
    };
    let entries: Vec<Value> = outcomes.into_iter().map(entry).collect();
    Ok(Members::new().with("FailedRecordCount", failed).with("Records", entries).into())
}
