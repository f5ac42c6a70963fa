//! boto3, in a Python process of its own that puts one call after the other as it is told.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Door, Failure, Outcome, Put, is_retryable};
use crate::{aws_cli, command};

const PROGRAM: &str = include_str!("boto3_door.py");
/// The interpreter; `TRISTREAM_PYTHON` names another one, of a virtual environment with boto3 for example.
const PYTHON: &str = "python3";
/// To import boto3 on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);
/// All attempts of one call.
const CALL_LIMIT: Duration = Duration::from_secs(120);

fn python() -> String {
    std::env::var("TRISTREAM_PYTHON").unwrap_or_else(|_| PYTHON.to_owned())
}

/// Why there is no boto3 here; none if there is.
pub async fn missing() -> Option<String> {
    let mut import = Command::new(python());
    let import = import.args(["-c", "import boto3"]);
    let error = command::stdout(import, START_LIMIT).await.err()?;
    Some(format!("no boto3 to test with (pip install boto3): {error:#}"))
}

/// boto3. After a call that failed the next goes to the next node.
pub struct Boto3 {
    _process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    nodes: usize,
    turn: usize,
}

impl Boto3 {
    /// One that begins at the node `first` of those at `addresses` (host:port), and sends a call up to `attempts` times.
    pub async fn start(addresses: &[String], first: usize, attempts: u32) -> anyhow::Result<Boto3> {
        let mut command = Command::new(python());
        // boto3 counts the retries.
        command.args(["-c", PROGRAM, &attempts.saturating_sub(1).to_string()]);
        command.args(addresses.iter().map(|address| format!("http://{address}")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        let mut process = command.spawn().context("cannot run Python")?;
        let orders = process.stdin.take().context("no standard input")?;
        let answers = BufReader::new(process.stdout.take().context("no standard output")?).lines();
        let mut door =
            Boto3 { _process: process, orders, answers, nodes: addresses.len(), turn: first };
        let ready = door.answer(START_LIMIT).await.context("boto3 does not start")?;
        anyhow::ensure!(ready.get("ready").is_some(), "{ready}");
        Ok(door)
    }

    async fn answer(&mut self, limit: Duration) -> anyhow::Result<Value> {
        let line = tokio::time::timeout(limit, self.answers.next_line()).await;
        match line.context("boto3 does not answer")?? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => bail!("the boto3 process ended"),
        }
    }

    async fn call(&mut self, stream: &str, records: &[Put]) -> anyhow::Result<Vec<Outcome>> {
        let entry =
            |put: &Put| Ok(json!({ "key": put.key, "data": std::str::from_utf8(&put.data)? }));
        let entries = records.iter().map(entry).collect::<anyhow::Result<Vec<_>>>()?;
        let order = json!({ "at": self.turn % self.nodes, "stream": stream, "records": entries });
        self.orders.write_all(format!("{order}\n").as_bytes()).await?;
        self.orders.flush().await?;
        let answer = self.answer(CALL_LIMIT).await?;
        let Some(results) = answer["results"].as_array() else {
            self.turn += 1;
            return Ok(super::all(records.len(), &failure(&answer)?));
        };
        anyhow::ensure!(results.len() == records.len(), "{} results", results.len());
        results.iter().map(outcome).collect()
    }
}

impl Door for Boto3 {
    fn put<'a>(
        &'a mut self,
        stream: &'a str,
        records: &'a [Put],
    ) -> BoxFuture<'a, anyhow::Result<Vec<Outcome>>> {
        Box::pin(self.call(stream, records))
    }
}

fn outcome(result: &Value) -> anyhow::Result<Outcome> {
    let text = |name: &str| result[name].as_str().unwrap_or_default();
    Ok(match result["number"].as_str() {
        Some(number) => Ok(aws_cli::position(text("shard"), number)?),
        None => Err(super::raw::of_entry(text("code"), text("message"))),
    })
}

/// An attempt before the last may have stored it, whatever the last one says.
fn failure(answer: &Value) -> anyhow::Result<Failure> {
    let why = answer["error"].as_str().with_context(|| format!("boto3 says {answer}"))?;
    let status = answer["status"].as_u64();
    let retryable = status.is_none_or(|status| {
        let throttled = why.contains("ProvisionedThroughputExceededException");
        throttled || is_retryable(u16::try_from(status).unwrap_or_default(), "")
    });
    Ok(Failure { nothing_stored: false, retryable, why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_good_is_not_retryable() {
        let failure = |error: &str, status: Option<u16>| {
            failure(&json!({ "error": error, "status": status })).unwrap()
        };
        assert!(failure("EndpointConnectionError", None).retryable);
        assert!(failure("InternalFailure", Some(500)).retryable);
        assert!(!failure("ResourceNotFoundException", Some(400)).retryable);
        assert!(!failure("InternalFailure", Some(500)).nothing_stored);
    }
}
