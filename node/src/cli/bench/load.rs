//! The load: keys, each of which puts a record at its times, one after the other.
//!
//! Open loop: a put is due at its time whether or not the one before was answered, and its latency counts
//! from then. So a pause is seen in full, by every put that it delayed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tristream_client::Client;
use tristream_proto::domain::{PartitionKey, Record, StreamName};

use super::tally::{Answered, Tally};

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Records per second, of all keys together.
    pub(super) rate: u32,
    pub(super) keys: u32,
    /// Bytes of data in a record.
    pub(super) bytes: usize,
}

/// A running load.
pub(super) struct Load {
    keys: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Load {
    pub(super) fn start(
        client: &Client,
        stream: &StreamName,
        shape: Shape,
        tally: &Arc<Mutex<Tally>>,
    ) -> Load {
        let (stop, stopping) = watch::channel(false);
        let mut keys = JoinSet::new();
        let data = Bytes::from(vec![b'x'; shape.bytes]);
        let every = Duration::from_secs(1) * shape.keys / shape.rate;
        let start = Instant::now();
        for number in 0..shape.keys {
            let key = Key {
                client: client.clone(),
                stream: stream.clone(),
                name: format!("key-{number}"),
                data: data.clone(),
                // The keys' times interleave.
                first: start + every * number / shape.keys,
                every,
                tally: tally.clone(),
            };
            keys.spawn(key.run(stopping.clone()));
        }
        Load { keys, stop }
    }

    /// Lets every put on its way end.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.keys.join_next().await.is_some() {}
    }
}

struct Key {
    client: Client,
    stream: StreamName,
    name: String,
    data: Bytes,
    first: Instant,
    every: Duration,
    tally: Arc<Mutex<Tally>>,
}

impl Key {
    async fn run(self, mut stopping: watch::Receiver<bool>) {
        let Some(partition_key) = PartitionKey::new(&self.name) else { return };
        let record = Record {
            partition_key,
            explicit_hash_key: None,
            data: self.data.clone(),
            origin: None,
        };
        let (mut due, mut last) = (self.first, self.first);
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                () = sleep_until(due) => {}
            }
            let begun = self.tally.lock().place;
            let outcome = self.client.put(&self.stream, record.clone()).await.map(|_| ());
            let now = Instant::now();
            let (took, waited) = (now - due, now - due.max(last));
            self.tally.lock().add(Answered { begun, took, waited, outcome });
            last = now;
            due += self.every;
        }
    }
}
