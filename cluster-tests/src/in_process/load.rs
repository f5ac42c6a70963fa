//! Writers that put numbered records and note what became of each.
//!
//! Invariant: a record's data are unlike those of every other; a writer sends a record only after it knows the
//! fate of the one before, and never sends one again. Must not judge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinHandle;
use tristream_client::domain::{Effect, PartitionKey, Record, SequenceNumber, StreamName};
use tristream_client::{Client, Error};

use super::reading::kinesis;

/// What became of one put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Stored, under this number.
    Acked(SequenceNumber),
    /// Certainly not stored.
    Refused(String),
    /// Stored or not.
    Unknown(String),
}

/// One put and its fate.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Partition key: the writer's own.
    pub key: String,
    /// The writer's count.
    pub number: u64,
    /// What became of it.
    pub fate: Fate,
}

impl Attempt {
    /// The record's data.
    pub fn data(&self) -> String {
        format!("{}/{}", self.key, self.number)
    }
}

/// Puts one record.
pub async fn put(
    client: &Client,
    stream: &str,
    key: &str,
    data: Bytes,
) -> Result<SequenceNumber, Error> {
    let record = Record {
        partition_key: PartitionKey::new(key).expect("a legal key"),
        explicit_hash_key: None,
        origin: None,
        data,
    };
    let stream: StreamName = stream.parse().expect("a legal name");
    client.put(&stream, record).await
}

/// Writers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Load {
    /// Starts `writers` writers, each with a key of its own that begins with `name`.
    pub fn start(client: &Client, stream: &str, name: &str, writers: usize) -> Load {
        Load::through(&Door::Native(client.clone()), stream, name, writers)
    }

    /// The same through a node's HTTP door (host:port), and so through its router.
    pub fn start_at(address: &str, stream: &str, name: &str, writers: usize) -> Load {
        Load::through(&Door::Http(address.to_owned()), stream, name, writers)
    }

    #[allow(clippy::disallowed_methods)]
    fn through(door: &Door, stream: &str, name: &str, writers: usize) -> Load {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number: usize| {
            let (stop, acked, door) = (stop.clone(), acked.clone(), door.clone());
            let (stream, key) = (stream.to_owned(), format!("{name}-{number}"));
            tokio::spawn(async move { write(door, stream, key, stop, acked).await })
        };
        let writers = (0..writers).map(writer).collect();
        Load { stop, acked, writers }
    }

    /// Puts acked so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until `count` more puts were acked.
    pub async fn wait_acked(&self, count: u64) -> anyhow::Result<()> {
        let target = self.acked() + count;
        super::wait_until("puts are acked", async || self.acked() >= target).await
    }

    /// Ends the writers and gives all they did.
    pub async fn finish(self) -> anyhow::Result<Vec<Attempt>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for writer in self.writers {
            all.extend(tokio::time::timeout(super::PATIENCE, writer).await??);
        }
        Ok(all)
    }
}

/// How a writer reaches the cluster.
#[derive(Clone)]
enum Door {
    Native(Client),
    Http(String),
}

impl Door {
    async fn put(&self, stream: &str, key: &str, data: String) -> Fate {
        let address = match self {
            Door::Native(client) => return put(client, stream, key, data.into()).await.into(),
            Door::Http(address) => address,
        };
        let data = base64::engine::general_purpose::STANDARD.encode(data);
        let body = json!({ "StreamName": stream, "PartitionKey": key, "Data": data });
        let answer = kinesis(address, "PutRecord", &body, super::PATIENCE).await;
        let number =
            answer.as_ref().ok().and_then(|a| a.body["SequenceNumber"].as_str()?.parse().ok());
        // AWS's errors do not tell whether it happened.
        number.map_or_else(|| Fate::Unknown(format!("{answer:?}")), Fate::Acked)
    }
}

impl From<Result<SequenceNumber, Error>> for Fate {
    fn from(outcome: Result<SequenceNumber, Error>) -> Fate {
        match outcome {
            Ok(number) => Fate::Acked(number),
            Err(error) if error.effect() == Effect::None => Fate::Refused(error.to_string()),
            Err(error) => Fate::Unknown(error.to_string()),
        }
    }
}

async fn write(
    door: Door,
    stream: String,
    key: String,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = attempts.len() as u64;
        let fate = door.put(&stream, &key, format!("{key}/{number}")).await;
        match fate {
            Fate::Acked(_) => drop(acked.fetch_add(1, Ordering::Relaxed)),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        attempts.push(Attempt { key: key.clone(), number, fate });
    }
    attempts
}
