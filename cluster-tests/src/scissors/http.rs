//! A proxy before the HTTP doors of some nodes.
//!
//! It forwards one request after the other, each whole, to the first node that takes a connection. Must not grow into a
//! proxy for others: no TLS, no HTTP/2, bodies of known length only.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Scissors;

/// More than any request or answer of a test.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The proxy. Dropping it closes everything.
pub struct Proxy {
    address: String,
    cut: Arc<Mutex<Vec<Value>>>,
    _acceptor: JoinSet<()>,
}

impl Proxy {
    /// Listens before the nodes at `nodes` (host:port).
    pub async fn start(nodes: &[String], scissors: &Scissors) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let cut: Arc<Mutex<Vec<Value>>> = Arc::default();
        let mut acceptor = JoinSet::new();
        let (nodes, scissors, answers) = (nodes.to_vec(), scissors.clone(), cut.clone());
        acceptor.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (nodes, scissors, answers) = (nodes.clone(), scissors.clone(), answers.clone());
                // A connection that ends in an error ends: that is what clients are tested with.
                connections.spawn(async move { serve(client, &nodes, &scissors, &answers).await });
            }
        });
        Ok(Proxy { address, cut, _acceptor: acceptor })
    }

    /// Where it listens (host:port).
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The answers that were cut, in order.
    pub fn cut(&self) -> Vec<Value> {
        self.cut.lock().clone()
    }
}

async fn serve(
    mut client: TcpStream,
    nodes: &[String],
    scissors: &Scissors,
    cut: &Mutex<Vec<Value>>,
) -> anyhow::Result<()> {
    while let Some(request) = message(&mut client).await? {
        let mut node = connect(nodes).await?;
        node.write_all(&request.bytes).await?;
        let answer = message(&mut node).await?.context("the node closed the connection")?;
        let target = request.header("x-amz-target").unwrap_or_default();
        if target.contains(".PutRecord")
            && answer.head.starts_with("HTTP/1.1 200")
            && scissors.catch()
        {
            cut.lock().push(serde_json::from_slice(answer.body())?);
            scissors.gone().await;
            return Ok(());
        }
        client.write_all(&answer.bytes).await?;
    }
    Ok(())
}

async fn connect(nodes: &[String]) -> anyhow::Result<TcpStream> {
    for node in nodes {
        if let Ok(stream) = TcpStream::connect(node).await {
            return Ok(stream);
        }
    }
    bail!("no node takes a connection")
}

/// A request or an answer.
struct Message {
    head: String,
    bytes: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }

    fn body(&self) -> &[u8] {
        &self.bytes[self.head.len()..]
    }
}

/// The next whole one; none at the end.
async fn message(from: &mut TcpStream) -> anyhow::Result<Option<Message>> {
    let mut message = Message { head: String::new(), bytes: Vec::new() };
    let mut needed = None;
    while needed.is_none_or(|needed| message.bytes.len() < needed) {
        ensure!(message.bytes.len() < MESSAGE_BYTES_MAX, "too long a message");
        if from.read_buf(&mut message.bytes).await? == 0 {
            ensure!(message.bytes.is_empty(), "broken off");
            return Ok(None);
        }
        let end = message.bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let (None, Some(end)) = (needed, end) {
            message.head = String::from_utf8(message.bytes[..end + 4].to_vec())?;
            ensure!(message.header("transfer-encoding").is_none(), "bodies come whole");
            let length = message.header("content-length").map_or(Ok(0), str::parse::<usize>)?;
            needed = Some(end + 4 + length);
        }
    }
    Ok(Some(message))
}
