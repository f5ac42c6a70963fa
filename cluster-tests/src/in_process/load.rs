//! Writers that put numbered records and note what became of each.
//!
//! Invariant: a record's data are unlike those of every other; a writer sends a record only after it knows the
//! fate of the one before, and never sends one again. Must not judge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tristream_client::domain::{Effect, PartitionKey, Record, SequenceNumber, StreamName};
use tristream_client::{Client, Error};

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
    #[allow(clippy::disallowed_methods)]
    pub fn start(client: &Client, stream: &str, name: &str, writers: usize) -> Load {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number: usize| {
            let (stop, acked, client) = (stop.clone(), acked.clone(), client.clone());
            let (stream, key) = (stream.to_owned(), format!("{name}-{number}"));
            tokio::spawn(async move { write(client, stream, key, stop, acked).await })
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

async fn write(
    client: Client,
    stream: String,
    key: String,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = attempts.len() as u64;
        let data = Bytes::from(format!("{key}/{number}"));
        let fate = match put(&client, &stream, &key, data).await {
            Ok(number) => {
                acked.fetch_add(1, Ordering::Relaxed);
                Fate::Acked(number)
            }
            Err(error) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                match error.effect() {
                    Effect::None => Fate::Refused(error.to_string()),
                    _ => Fate::Unknown(error.to_string()),
                }
            }
        };
        attempts.push(Attempt { key: key.clone(), number, fate });
    }
    attempts
}
