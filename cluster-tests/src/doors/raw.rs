//! HTTP by hand: like an SDK it sends a call again under the call's id, at the next node, until it has an answer; unlike
//! one, for as long as it is told to.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Door, Failure, Outcome, Put, is_retryable};
use crate::{aws_cli, raw_http};

/// One attempt.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// HTTP by hand.
pub struct Raw {
    addresses: Vec<String>,
    turn: usize,
    attempts: u32,
}

impl Raw {
    /// One that begins at the node `first` of those at `addresses` (host:port), and sends a call up to `attempts` times.
    pub fn new(addresses: &[String], first: usize, attempts: u32) -> Raw {
        Raw { addresses: addresses.to_vec(), turn: first, attempts }
    }

    async fn call(&mut self, stream: &str, records: &[Put]) -> anyhow::Result<Vec<Outcome>> {
        let (operation, body) = request(stream, records);
        let body = serde_json::to_vec(&body)?;
        let invocation = invocation();
        let target = format!("Kinesis_20131202.{operation}");
        let mut nothing_stored = true;
        let mut last = Failure::unknown("no attempt");
        for attempt in 1..=self.attempts {
            let counted = format!("attempt={attempt}; max={}", self.attempts);
            let headers = [
                ("content-type", "application/x-amz-json-1.1"),
                ("x-amz-target", target.as_str()),
                ("amz-sdk-invocation-id", invocation.as_str()),
                ("amz-sdk-request", counted.as_str()),
            ];
            let address = &self.addresses[self.turn % self.addresses.len()];
            let sent = raw_http::send(address, "POST", "/", &headers, &body, ATTEMPT_LIMIT).await;
            last = match sent {
                Ok(answer) if answer.status == 200 => return outcomes(&answer.json()?, records),
                Ok(answer) => {
                    let text = String::from_utf8_lossy(&answer.body).into_owned();
                    let failure = refused(answer.status, &text);
                    if !failure.retryable {
                        let nothing_stored = nothing_stored && failure.nothing_stored;
                        return Ok(super::all(
                            records.len(),
                            &Failure { nothing_stored, ..failure },
                        ));
                    }
                    failure
                }
                Err(error) => Failure::unknown(format!("{error:#}")),
            };
            nothing_stored &= last.nothing_stored;
            self.turn += 1;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(super::all(records.len(), &Failure { nothing_stored, ..last }))
    }
}

impl Door for Raw {
    fn put<'a>(
        &'a mut self,
        stream: &'a str,
        records: &'a [Put],
    ) -> BoxFuture<'a, anyhow::Result<Vec<Outcome>>> {
        Box::pin(self.call(stream, records))
    }
}

/// A random UUID (version 4), as SDKs make them.
pub fn invocation() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    let [a, b, c, d] = [&hex[..8], &hex[8..12], &hex[13..16], &hex[17..20]];
    format!("{a}-{b}-4{c}-8{d}-{}", &hex[20..])
}

fn request(stream: &str, records: &[Put]) -> (&'static str, Value) {
    let entry = |put: &Put| json!({ "PartitionKey": put.key, "Data": STANDARD.encode(&put.data) });
    match records {
        [one] => {
            let mut body = entry(one);
            body["StreamName"] = json!(stream);
            ("PutRecord", body)
        }
        many => {
            let entries: Vec<Value> = many.iter().map(entry).collect();
            ("PutRecords", json!({ "StreamName": stream, "Records": entries }))
        }
    }
}

fn outcomes(answer: &Value, records: &[Put]) -> anyhow::Result<Vec<Outcome>> {
    let one = [answer.clone()];
    let entries = answer["Records"].as_array().map_or(&one[..], Vec::as_slice);
    anyhow::ensure!(entries.len() == records.len(), "{} answers", entries.len());
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| match entry["SequenceNumber"].as_str() {
            Some(number) => Ok(Ok(aws_cli::position(&text(entry, "ShardId"), number)?)),
            None => Ok(Err(of_entry(&text(entry, "ErrorCode"), &text(entry, "ErrorMessage")))),
        })
        .collect()
}

/// A record that failed in a PutRecords that did not.
pub(super) fn of_entry(code: &str, message: &str) -> Failure {
    Failure {
        nothing_stored: code == "ProvisionedThroughputExceededException",
        retryable: is_retryable(0, code),
        why: format!("{code}: {message}"),
    }
}

/// A call that was refused. Only a refusal for good or a throttled one says that nothing was stored.
fn refused(status: u16, text: &str) -> Failure {
    let throttled = text.contains("ProvisionedThroughputExceededException");
    Failure {
        nothing_stored: status < 500,
        retryable: status >= 500 || throttled,
        why: format!("{status} {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invocations_look_like_uuids_and_differ() {
        let (one, other) = (invocation(), invocation());
        assert_ne!(one, other);
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }

    #[test]
    fn only_what_says_so_stored_nothing() {
        assert!(!refused(500, "InternalFailure").nothing_stored);
        assert!(refused(400, "ResourceNotFoundException").nothing_stored);
        assert!(!refused(400, "ResourceNotFoundException").retryable);
        assert!(refused(400, "ProvisionedThroughputExceededException").retryable);
        assert!(!of_entry("InternalFailure", "").nothing_stored);
    }
}
