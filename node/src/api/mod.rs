//! The Kinesis operations, one file each, on values without an encoding.
//!
//! Owns the meaning of requests: conversion of members, then constraints, then rules, in AWS's
//! order (kinesis-contract 2, steps 9 to 11). Invariant: nothing is looked up, let alone changed,
//! before the whole request is known to be well formed. Must not know HTTP, JSON, exception names,
//! or where a shard lives.
//!
//! A new operation is one file here and one line in `OPERATIONS` (or in `PUTS`).

mod address;
mod call;
mod control;
mod error;
mod foreign_number;
mod java_date;
mod page_token;
mod put;
mod shapes;
mod streams;
mod validate;
mod value;

mod create_stream;
mod delete_stream;
mod describe_stream;
mod describe_stream_summary;
mod get_records;
mod get_shard_iterator;
mod list_shards;
mod list_streams;
mod merge_shards;
mod put_record;
mod put_records;
mod split_shard;
mod update_shard_count;
mod update_stream_mode;

#[cfg(test)]
pub(crate) mod fake;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tristream_proto::domain::{Incarnation, ShardId, StreamName, TokenKey};

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::metadata::{Stream, StreamStatus};

pub use call::Call;
pub use error::Error;
pub use streams::Streams;
pub use value::{Members, TextMap, Value};

/// How long a change of the metadata may take. The SDKs wait for 60 s.
const CONTROL_DEADLINE: Duration = Duration::from_secs(10);

/// Everything an operation works with.
pub struct Api {
    /// Streams and their records.
    pub streams: Arc<dyn Streams>,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The account that answers and ARNs carry: 12 digits.
    pub account: String,
    /// The region that ARNs carry.
    pub region: String,
    /// Seals iterators and pagination tokens; the same on all nodes of the cluster.
    pub token_key: TokenKey,
    /// How long a shard iterator is good for.
    pub iterator_life: Duration,
    /// How long records are kept, when the settings and not the streams say it.
    pub retention_override: Option<Duration>,
    /// How long a put may look for a leader and a quorum.
    pub put_deadline: Duration,
    /// Whether a put that a client sends again is recognised.
    pub deduplicate: bool,
}

/// What an operation answers.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The output; operations without an output shape answer with an empty body.
    pub output: Option<Members>,
    /// The records were read without a quorum: there may be newer ones.
    pub stale: bool,
}

impl From<Members> for Reply {
    fn from(output: Members) -> Reply {
        Reply { output: Some(output), stale: false }
    }
}

type Run = for<'a> fn(&'a Api, Members) -> BoxFuture<'a, Result<Reply, Error>>;
type RunCall = for<'a> fn(&'a Api, Members, Call) -> BoxFuture<'a, Result<Reply, Error>>;

/// An operation of the Kinesis model.
#[derive(Clone, Copy)]
pub struct Operation {
    name: &'static str,
    work: Work,
}

/// How an operation is carried out.
#[derive(Clone, Copy)]
enum Work {
    Plain(Run),
    /// It needs to know which call it is an attempt of.
    OfCall(RunCall),
    /// Not by this version.
    NotYet,
}

/// What this version can do.
const OPERATIONS: &[(&str, Run)] = &[
    ("CreateStream", |api, input| Box::pin(create_stream::run(api, input))),
    ("DeleteStream", |api, input| Box::pin(delete_stream::run(api, input))),
    ("DescribeStream", |api, input| Box::pin(describe_stream::run(api, input))),
    ("DescribeStreamSummary", |api, input| Box::pin(describe_stream_summary::run(api, input))),
    ("GetRecords", |api, input| Box::pin(get_records::run(api, input))),
    ("GetShardIterator", |api, input| Box::pin(get_shard_iterator::run(api, input))),
    ("ListShards", |api, input| Box::pin(list_shards::run(api, input))),
    ("ListStreams", |api, input| Box::pin(list_streams::run(api, input))),
    ("MergeShards", |api, input| Box::pin(merge_shards::run(api, input))),
    ("SplitShard", |api, input| Box::pin(split_shard::run(api, input))),
    ("UpdateShardCount", |api, input| Box::pin(update_shard_count::run(api, input))),
    ("UpdateStreamMode", |api, input| Box::pin(update_stream_mode::run(api, input))),
];

/// What it can do that must not be done twice when a client sends it twice.
const PUTS: &[(&str, RunCall)] = &[
    ("PutRecord", |api, input, call| Box::pin(put_record::run(api, input, call))),
    ("PutRecords", |api, input, call| Box::pin(put_records::run(api, input, call))),
];

/// What the model has and this version has not (kinesis-contract 10 and 17).
const NOT_YET: &[&str] = &[
    "AcknowledgeDeadLetterQueueRecords",
    "AcknowledgeQueueRecords",
    "AddTagsToStream",
    "CreateChannel",
    "CreateQueue",
    "DecreaseStreamRetentionPeriod",
    "DeleteChannel",
    "DeleteQueue",
    "DeleteResourcePolicy",
    "DeregisterStreamConsumer",
    "DescribeAccountSettings",
    "DescribeChannel",
    "DescribeLimits",
    "DescribeQueue",
    "DescribeStreamConsumer",
    "DisableEnhancedMonitoring",
    "EnableEnhancedMonitoring",
    "GetResourcePolicy",
    "IncreaseStreamRetentionPeriod",
    "ListChannels",
    "ListQueues",
    "ListStreamConsumers",
    "ListTagsForResource",
    "ListTagsForStream",
    "PutResourcePolicy",
    "ReceiveDeadLetterQueueRecords",
    "ReceiveQueueRecords",
    "RegisterStreamConsumer",
    "RemoveTagsFromStream",
    "RestoreDeadLetterQueueRecords",
    "StartStreamEncryption",
    "StopStreamEncryption",
    "SubscribeToShard",
    "TagResource",
    "UntagResource",
    "UpdateAccountSettings",
    "UpdateChannel",
    "UpdateDeadLetterQueueRecordsVisibility",
    "UpdateMaxRecordSize",
    "UpdateQueue",
    "UpdateQueueRecordsVisibility",
    "UpdateStreamRecordDistributionStrategy",
    "UpdateStreamWarmThroughput",
];

impl Operation {
    /// The operation of this name, if the model has one.
    pub fn named(name: &str) -> Option<Operation> {
        let plain = OPERATIONS.iter().map(|&(name, run)| (name, Work::Plain(run)));
        let puts = PUTS.iter().map(|&(name, run)| (name, Work::OfCall(run)));
        let later = NOT_YET.iter().map(|&name| (name, Work::NotYet));
        let (name, work) = plain.chain(puts).chain(later).find(|(known, _)| *known == name)?;
        Some(Operation { name, work })
    }

    /// Its name in the model.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Carries it out for a request that is an attempt of `call`.
    pub async fn run(self, api: &Api, input: Members, call: Call) -> Result<Reply, Error> {
        match self.work {
            Work::Plain(run) => {
                // The body's text lives on in the input: no need to hold it twice.
                drop(call);
                run(api, input).await
            }
            Work::OfCall(run) => run(api, input, call).await,
            Work::NotYet => Err(Error::NotYet(self.name)),
        }
    }
}

impl Api {
    /// The ARN of a stream.
    fn arn(&self, name: &StreamName) -> String {
        format!("arn:aws:kinesis:{}:{}:stream/{name}", self.region, self.account)
    }

    fn no_such_stream(&self, stream: impl Into<String>) -> Error {
        Error::StreamNotFound { stream: stream.into(), account: self.account.clone() }
    }

    fn no_such_shard(&self, stream: &StreamName, shard: ShardId) -> Error {
        Error::ShardNotFound { shard, stream: stream.clone(), account: self.account.clone() }
    }

    /// The stream by a view that has everything that was answered before: for describing.
    async fn described(&self, name: &StreamName) -> Result<Arc<Stream>, Error> {
        let found = self.streams.fresh_view().await.find(name)?;
        found.ok_or_else(|| self.no_such_stream(name.as_str()))
    }

    /// The stream if it takes and serves records: for the data path. The view at hand decides, but
    /// it never decides to refuse: another node may have told the caller of a newer one. Where no
    /// quorum can tell, that is the answer, for a wrong "no such stream" would not be tried again.
    async fn serving(&self, name: &StreamName) -> Result<Option<Arc<Stream>>, Error> {
        self.serving_if(name, |_| true).await
    }

    /// The same, when the caller knows of an incarnation and a shard of it already.
    async fn serving_since(
        &self,
        name: &StreamName,
        known: Incarnation,
        shard: ShardId,
    ) -> Result<Option<Arc<Stream>>, Error> {
        let is_new_enough =
            |stream: &Stream| stream.incarnation >= known && stream.map.get(shard).is_some();
        self.serving_if(name, is_new_enough).await
    }

    async fn serving_if(
        &self,
        name: &StreamName,
        is_new_enough: impl Fn(&Stream) -> bool,
    ) -> Result<Option<Arc<Stream>>, Error> {
        let serves = |stream: &Stream| {
            let lives = matches!(stream.status, StreamStatus::Active | StreamStatus::Updating);
            lives && is_new_enough(stream)
        };
        match self.streams.stream(name).await? {
            Some(stream) if serves(&stream) => Ok(Some(stream)),
            _ => Ok(self.streams.fresh_view().await.find_if(name, serves)?),
        }
    }
}
