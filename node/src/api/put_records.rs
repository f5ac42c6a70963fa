//! PutRecords (kinesis-contract 10.25): one put per shard, all at once; the answer tells of each
//! record.

use tristream_proto::domain::limits::{PUT_RECORDS_BYTES_MAX, PUT_RECORDS_COUNT_MAX};
use tristream_proto::domain::{Record, SequenceNumber, ShardId};

use super::address::Address;
use super::put::{self, RecordInput};
use super::validate::Checks;
use super::{Api, Call, Error, Members, Reply, Value};
use crate::metadata::Stream;
use crate::router;

/// AWS shows Java's name of a record, and its suite checks the hash to the letter.
const SHOWN_RECORD: &str = "com.amazonaws.kinesis.v20131202.PutRecordsRequestEntry@c965e310";

type Outcome = Result<(ShardId, SequenceNumber), Error>;

/// Stores up to 500 records.
pub(super) async fn run(api: &Api, mut input: Members, call: Call) -> Result<Reply, Error> {
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
    let Some(stream) = api.serving(&name).await? else {
        return Err(api.no_such_stream(name));
    };
    let mut records: Vec<Record> =
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
    call.mark(api, "PutRecords", stream.incarnation, &mut records).await;
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

/// Puts the records; within a shard their order is kept.
async fn put_all(api: &Api, stream: &Stream, records: Vec<Record>) -> Vec<Outcome> {
    let shards: Vec<ShardId> =
        records.iter().map(|record| stream.map.owner(record.hash_key()).id).collect();
    let outcomes = api.streams.put(stream, records, api.put_deadline).await;
    let told = |(shard, outcome): (ShardId, Result<SequenceNumber, router::Error>)| match outcome {
        Ok(number) => Ok((number.shard, number)),
        Err(error) => Err(put::refusal(api, stream, shard, error)),
    };
    shards.into_iter().zip(outcomes).map(told).collect()
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
