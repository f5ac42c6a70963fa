//! Many producers and a reader through the AWS SDK, whatever happens to the nodes, all written into one history.
//!
//! Invariant: each call is one attempt, in the history before it sets out. A producer has one call under way at a
//! time and keys of its own. The history's lock is never held across an await.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use crate::aws_cli;
use crate::generations;
use crate::history::{Event, History, RecordId};
use crate::sdk;

/// Most records in one PutRecords.
const BATCH_MAX: usize = 20;
/// Keys of a producer.
const KEYS: u32 = 3;
/// After a failed call.
const PAUSE: Duration = Duration::from_millis(50);

/// A history that many write to.
pub type Shared = Arc<Mutex<History>>;

/// Looks at a shared history or writes to it.
pub fn with<T>(history: &Shared, act: impl FnOnce(&mut History) -> T) -> T {
    act(&mut history.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Producers and readers at work.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicUsize>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Workload {
    /// Starts `producers` and a live reader of these shards and all that come from them, against the nodes at `addresses`.
    pub fn start(
        addresses: &[String],
        stream: &str,
        shards: &[String],
        producers: usize,
        seed: u64,
        history: &Shared,
    ) -> Workload {
        let clients: Vec<Client> = addresses.iter().map(|at| sdk::client(at, 1)).collect();
        let mut workload =
            Workload { stop: Arc::default(), acks: Arc::default(), tasks: JoinSet::new() };
        for number in 0..producers {
            let mut producer = Producer {
                number,
                clients: clients.clone(),
                stream: stream.to_owned(),
                rng: SmallRng::seed_from_u64(seed.wrapping_add(number as u64)),
                history: history.clone(),
                acks: workload.acks.clone(),
                made: 0,
            };
            let stop = workload.stop.clone();
            workload.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    producer.one_call().await?;
                }
                Ok(())
            });
        }
        workload.tasks.spawn(generations::follow(
            clients,
            stream.to_owned(),
            shards.to_vec(),
            history.clone(),
            workload.stop.clone(),
        ));
        workload
    }

    /// How many records have been acked so far.
    pub fn acks(&self) -> usize {
        self.acks.load(Ordering::Relaxed)
    }

    /// Lets every call under way end, then no more begin.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

struct Producer {
    number: usize,
    clients: Vec<Client>,
    stream: String,
    rng: SmallRng,
    history: Shared,
    acks: Arc<AtomicUsize>,
    made: usize,
}

impl Producer {
    /// New records in one call; what fails of unknown outcome is sent once more now and then.
    async fn one_call(&mut self) -> anyhow::Result<()> {
        let count =
            if self.rng.random_bool(0.3) { 1 } else { self.rng.random_range(2..=BATCH_MAX) };
        let mut batch: Vec<RecordId> = (0..count).map(|_| self.intend()).collect();
        for _ in 0..2 {
            let client = self.clients[self.rng.random_range(0..self.clients.len())].clone();
            batch = if batch.len() == 1 {
                self.put_record(&client, batch[0]).await?
            } else {
                self.put_records(&client, batch).await?
            };
            if batch.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
            if self.rng.random_bool(0.5) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn intend(&mut self) -> RecordId {
        self.made += 1;
        let key = format!("p{}-k{}", self.number, self.rng.random_range(0..KEYS));
        let padding = self.rng.random_range(0..200);
        let data = format!("p{}-{} {}", self.number, self.made, "x".repeat(padding));
        with(&self.history, |history| history.intend(Some(key), data))
    }

    /// Gives back what failed.
    async fn put_record(&mut self, client: &Client, id: RecordId) -> anyhow::Result<Vec<RecordId>> {
        let (key, data) = self.send(id);
        let put = client.put_record().stream_name(&self.stream).partition_key(key).data(data);
        match put.send().await {
            Ok(answer) => {
                self.acked(id, answer.shard_id(), answer.sequence_number())?;
                Ok(Vec::new())
            }
            Err(error) => {
                self.failed(&[id], stored_nothing(&error));
                Ok(vec![id])
            }
        }
    }

    /// Gives back what failed.
    async fn put_records(
        &mut self,
        client: &Client,
        batch: Vec<RecordId>,
    ) -> anyhow::Result<Vec<RecordId>> {
        let mut put = client.put_records().stream_name(&self.stream);
        for id in &batch {
            let (key, data) = self.send(*id);
            let entry = PutRecordsRequestEntry::builder().partition_key(key).data(data).build();
            put = put.records(entry.unwrap_or_else(|_| unreachable!("key and data are set")));
        }
        let answer = match put.send().await {
            Ok(answer) => answer,
            Err(error) => {
                self.failed(&batch, stored_nothing(&error));
                return Ok(batch);
            }
        };
        let mut failed = Vec::new();
        for (id, entry) in batch.iter().zip(answer.records()) {
            match (entry.shard_id(), entry.sequence_number()) {
                (Some(shard), Some(number)) => self.acked(*id, shard, number)?,
                _ => {
                    let throttled = "ProvisionedThroughputExceededException";
                    self.failed(&[*id], entry.error_code() == Some(throttled));
                    failed.push(*id);
                }
            }
        }
        Ok(failed)
    }

    fn send(&self, id: RecordId) -> (String, Blob) {
        with(&self.history, |history| {
            history.push(Event::Sent(id));
            let intent = history.intent(id);
            (intent.key.clone().unwrap_or_default(), Blob::new(intent.data.to_vec()))
        })
    }

    fn acked(&self, id: RecordId, shard: &str, number: &str) -> anyhow::Result<()> {
        let position = aws_cli::position(shard, number)?;
        with(&self.history, |history| history.push(Event::Acked(id, position)));
        self.acks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn failed(&self, batch: &[RecordId], nothing_stored: bool) {
        with(&self.history, |history| {
            for id in batch {
                let event = if nothing_stored { Event::Refused(*id) } else { Event::Unknown(*id) };
                history.push(event);
            }
        });
    }
}

/// Whether a failed call certainly stored nothing: it never connected, or it was throttled or refused as a whole.
fn stored_nothing<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    match error {
        SdkError::ConstructionFailure(_) => true,
        SdkError::ServiceError(_) => matches!(
            sdk::code(error),
            Some("ProvisionedThroughputExceededException" | "ServiceUnavailableException")
        ),
        _ => false,
    }
}
