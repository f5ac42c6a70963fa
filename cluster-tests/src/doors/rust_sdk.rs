//! The AWS SDK for Rust, which sends a call up to three times.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use futures::future::BoxFuture;

use super::{Door, Failure, Outcome, Put, is_retryable};
use crate::{aws_cli, sdk};

/// The AWS SDK for Rust. After a call that failed the next goes to the next node.
pub struct RustSdk {
    clients: Vec<Client>,
    turn: usize,
}

impl RustSdk {
    /// One that begins at the node `first` of those at `addresses` (host:port).
    pub fn new(addresses: &[String], first: usize) -> RustSdk {
        let clients = addresses.iter().map(|address| sdk::client(address, 3)).collect();
        RustSdk { clients, turn: first }
    }

    async fn call(&self, stream: &str, records: &[Put]) -> anyhow::Result<Vec<Outcome>> {
        let client = &self.clients[self.turn % self.clients.len()];
        if let [record] = records {
            let put = client.put_record().stream_name(stream).partition_key(&record.key);
            return match put.data(Blob::new(record.data.to_vec())).send().await {
                Ok(put) => Ok(vec![Ok(aws_cli::position(put.shard_id(), put.sequence_number())?)]),
                Err(error) => Ok(vec![Err(failure(error))]),
            };
        }
        let entries = records.iter().map(|record| {
            let entry = PutRecordsRequestEntry::builder().partition_key(&record.key);
            Ok(entry.data(Blob::new(record.data.to_vec())).build()?)
        });
        let entries = entries.collect::<anyhow::Result<Vec<_>>>()?;
        let put = client.put_records().stream_name(stream).set_records(Some(entries));
        let answer = match put.send().await {
            Ok(answer) => answer,
            Err(error) => return Ok(super::all(records.len(), &failure(error))),
        };
        let outcome = |entry: &aws_sdk_kinesis::types::PutRecordsResultEntry| match (
            entry.shard_id(),
            entry.sequence_number(),
        ) {
            (Some(shard), Some(number)) => Ok(Ok(aws_cli::position(shard, number)?)),
            _ => Ok(Err(super::raw::of_entry(
                entry.error_code().unwrap_or_default(),
                entry.error_message().unwrap_or_default(),
            ))),
        };
        answer.records().iter().map(outcome).collect()
    }
}

impl Door for RustSdk {
    fn put<'a>(
        &'a mut self,
        stream: &'a str,
        records: &'a [Put],
    ) -> BoxFuture<'a, anyhow::Result<Vec<Outcome>>> {
        Box::pin(async move {
            let outcomes = self.call(stream, records).await?;
            self.turn += usize::from(outcomes.iter().all(Result::is_err));
            Ok(outcomes)
        })
    }
}

/// An attempt before the last may have stored it, whatever the last one says.
fn failure<E, R>(error: SdkError<E, R>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let retryable = match &error {
        SdkError::ConstructionFailure(_) => false,
        SdkError::ServiceError(_) => sdk::code(&error)
            .is_none_or(|code| is_retryable(0, code) || code.ends_with("UnavailableException")),
        _ => true,
    };
    Failure { nothing_stored: false, retryable, why: DisplayErrorContext(error).to_string() }
}
