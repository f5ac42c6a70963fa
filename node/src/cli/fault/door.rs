//! The nodes of a cluster and their admin doors: one small HTTP request at a time.
//!
//! Must not know what a fault is.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::endpoints::{Endpoints, explain};

const PATH: &str = "/admin/v1/faults";
/// How long one node may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// An answer is shorter: some ten thousands of bytes with as many faults as there may be.
const ANSWER_BYTES_MAX: u64 = 256 << 10;

/// A node and where it is asked.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Node {
    pub(in crate::cli) az: String,
    pub(in crate::cli) kinesis: String,
}

/// The way to the nodes.
pub(super) struct Door<'a> {
    endpoints: &'a Endpoints,
    token: Option<String>,
}

/// What a node said: a status and JSON.
#[derive(Debug)]
struct Said {
    status: u16,
    body: Value,
}

impl Door<'_> {
    pub(super) fn new(endpoints: &Endpoints, token: Option<String>) -> Door<'_> {
        Door { endpoints, token }
    }

    /// All nodes of the cluster.
    pub(super) async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        let client = self.endpoints.quick_client()?;
        let status = client.cluster_status().await;
        let status = status.map_err(|error| explain(error, self.endpoints))?;
        let node =
            |node: tristream_proto::wire::NodeStatus| Node { az: node.az, kinesis: node.kinesis };
        Ok(status.nodes.into_iter().map(node).collect())
    }

    /// Those of some zones, or all if none is named.
    pub(super) async fn nodes_in(&self, zones: &[String]) -> anyhow::Result<Vec<Node>> {
        let nodes = self.nodes().await?;
        let known: Vec<&str> = nodes.iter().map(|node| node.az.as_str()).collect();
        if let Some(strange) = zones.iter().find(|zone| !known.contains(&zone.as_str())) {
            bail!("no node is in {strange:?}: the zones are {}", known.join(", "));
        }
        let named = |node: &Node| zones.is_empty() || zones.contains(&node.az);
        Ok(nodes.into_iter().filter(named).collect())
    }

    pub(super) async fn impose(&self, node: &Node, order: &Value) -> anyhow::Result<Value> {
        self.ask(node, "POST", order.to_string()).await
    }

    pub(super) async fn heal(&self, node: &Node) -> anyhow::Result<Value> {
        self.ask(node, "DELETE", String::new()).await
    }

    pub(super) async fn list(&self, node: &Node) -> anyhow::Result<Value> {
        self.ask(node, "GET", String::new()).await
    }

    async fn ask(&self, node: &Node, method: &str, body: String) -> anyhow::Result<Value> {
        let Node { az, kinesis } = node;
        let said = ask(kinesis, method, self.token.as_deref(), &body).await;
        let said = said.with_context(|| {
            format!("node {az} ({kinesis}) does not answer (is it paused, or dead?)")
        })?;
        if said.status < 300 {
            return Ok(said.body);
        }
        let why = said.body["error"].as_str().unwrap_or("no reason given");
        Err(anyhow!("node {az} refuses ({}): {why}", said.status))
    }
}

/// What is on at a node, in words; nothing where it cannot be had, or may not be.
pub(in crate::cli) async fn words(node: &Node) -> Vec<String> {
    let Ok(said) = ask(&node.kinesis, "GET", None, "").await else { return Vec::new() };
    let faults = said.body["faults"].as_array().cloned().unwrap_or_default();
    let words = |fault: &Value| {
        let heals_s = fault["heals_in_ms"].as_u64()?.div_ceil(1_000);
        Some(format!("{}; heals in {heals_s} s", fault["words"].as_str()?))
    };
    faults.iter().filter_map(words).collect()
}

async fn ask(address: &str, method: &str, token: Option<&str>, body: &str) -> anyhow::Result<Said> {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let request = format!(
        "{method} {PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n{}\r\n{body}",
        body.len(),
        token.unwrap_or_default()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.context("no answer in time")??;
    read(&answer).context("the answer is none of a Tristream node")
}

fn read(answer: &[u8]) -> Option<Said> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let body = serde_json::from_slice(&answer[end + 4..]).ok()?;
    Some(Said { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_what_is_none_is_not() {
        let said = read(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 13\r\n\r\n{\"error\":\"x\"}");
        let said = said.expect("an answer");
        assert_eq!((said.status, said.body["error"].as_str()), (403, Some("x")));
        for bad in
            [&b""[..], b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nok", b"SSH-2.0\r\n\r\n{}"]
        {
            assert!(read(bad).is_none());
        }
    }
}
