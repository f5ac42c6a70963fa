//! The native client.

use bytes::Bytes;
use futures::future::BoxFuture;
use tristream_client::domain::{Effect, PartitionKey, Record, Retry, SequenceNumber, StreamName};
use tristream_client::{Client, Error};

use super::{Door, Failure, Outcome, Put};
use crate::aws_cli;
use crate::history::Position;

/// The native client.
pub struct Native(pub Client);

impl Door for Native {
    fn put<'a>(
        &'a mut self,
        stream: &'a str,
        records: &'a [Put],
    ) -> BoxFuture<'a, anyhow::Result<Vec<Outcome>>> {
        Box::pin(async move {
            let stream: StreamName = stream.parse()?;
            let records = records.iter().map(record).collect();
            let outcomes = self.0.put_batch(&stream, records).await;
            outcomes
                .into_iter()
                .map(|outcome| match outcome {
                    Ok(number) => Ok(Ok(position(number)?)),
                    Err(error) => Ok(Err(failure(&error))),
                })
                .collect()
        })
    }
}

fn record(put: &Put) -> Record {
    Record {
        partition_key: PartitionKey::new(&put.key).expect("a legal key"),
        explicit_hash_key: None,
        origin: None,
        data: Bytes::clone(&put.data),
    }
}

/// A number of the native client as the checks want it.
pub fn position(number: SequenceNumber) -> anyhow::Result<Position> {
    aws_cli::position(&number.shard.to_string(), &number.to_string())
}

fn failure(error: &Error) -> Failure {
    Failure {
        nothing_stored: error.effect() == Effect::None,
        retryable: error.retry() != Retry::Never,
        why: error.to_string(),
    }
}
