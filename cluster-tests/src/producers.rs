//! Producers that never pause for long, each through a door of its own, all written into one history.
//!
//! Invariant: a producer has keys of its own and one call under way at a time; a call is in the history before it sets
//! out. The history's lock is never held across an await. Must not judge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::doors::{Door, Failure, Outcome, Put};
use crate::history::{Event, RecordId};
use crate::workload::{Shared, with};

/// Keys of a producer: enough that each has some in every one of a few shards.
const KEYS: u32 = 8;
/// After a call of which nothing came.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// How producers go about it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Most records in a call.
    pub batch_max: usize,
    /// Between two calls.
    pub pause: Duration,
}

/// A call of which a client saw an error.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// Which producer.
    pub producer: String,
    /// When the call set out.
    pub begun: Instant,
    /// When the client gave up.
    pub ended: Instant,
    /// Why: of the first of its records that failed.
    pub failure: Failure,
}

/// Producers at work.
pub struct Producers {
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicUsize>,
    complaints: Arc<Mutex<Vec<Complaint>>>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Producers {
    /// Starts one producer per door; `doors` are named.
    pub fn start(
        doors: Vec<(String, Box<dyn Door>)>,
        stream: &str,
        seed: u64,
        pace: Pace,
        history: &Shared,
    ) -> Producers {
        let mut producers = Producers {
            stop: Arc::default(),
            acks: Arc::default(),
            complaints: Arc::default(),
            tasks: JoinSet::new(),
        };
        for (number, (name, door)) in (0_u64..).zip(doors) {
            let producer = Producer {
                name,
                door,
                stream: stream.to_owned(),
                rng: SmallRng::seed_from_u64(seed.wrapping_add(number)),
                pace,
                history: history.clone(),
                acks: producers.acks.clone(),
                complaints: producers.complaints.clone(),
                made: 0,
            };
            producers.tasks.spawn(producer.run(producers.stop.clone()));
        }
        producers
    }

    /// How many records have been acked so far.
    pub fn acks(&self) -> usize {
        self.acks.load(Ordering::Relaxed)
    }

    /// Every error that a client saw so far, in the order in which they ended.
    pub fn complaints(&self) -> Vec<Complaint> {
        self.complaints.lock().clone()
    }

    /// Waits until `count` more records were acked.
    pub async fn wait_acks(&mut self, count: usize, limit: Duration) -> anyhow::Result<()> {
        let enough = self.acks() + count;
        let until = Instant::now() + limit;
        while self.acks() < enough {
            if let Some(ended) = self.tasks.try_join_next() {
                ended??;
            }
            let (acks, complaints) = (self.acks(), self.complaints());
            anyhow::ensure!(
                Instant::now() < until,
                "{acks} acks, waited {limit:?} for {enough}; {} complaints, the last: {:?}",
                complaints.len(),
                complaints.last()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Lets every call under way end, then no more begin. Gives all that clients complained of.
    pub async fn stop(mut self) -> anyhow::Result<Vec<Complaint>> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.complaints())
    }
}

struct Producer {
    name: String,
    door: Box<dyn Door>,
    stream: String,
    rng: SmallRng,
    pace: Pace,
    history: Shared,
    acks: Arc<AtomicUsize>,
    complaints: Arc<Mutex<Vec<Complaint>>>,
    made: usize,
}

impl Producer {
    async fn run(mut self, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.one_call().await?;
        }
        Ok(())
    }

    async fn one_call(&mut self) -> anyhow::Result<()> {
        let one = self.rng.random_bool(0.5);
        let count = if one { 1 } else { self.rng.random_range(1..=self.pace.batch_max) };
        let records: Vec<(RecordId, Put)> = (0..count).map(|_| self.make()).collect();
        let (ids, puts): (Vec<RecordId>, Vec<Put>) = records.into_iter().unzip();
        let begun = Instant::now();
        let outcomes = self.door.put(&self.stream, &puts).await?;
        anyhow::ensure!(outcomes.len() == ids.len(), "{} outcomes", outcomes.len());
        let failed = self.note(&ids, &outcomes);
        if let Some(failure) = failed {
            let (producer, ended) = (self.name.clone(), Instant::now());
            self.complaints.lock().push(Complaint { producer, begun, ended, failure });
        }
        let nothing = outcomes.iter().all(Result::is_err);
        tokio::time::sleep(if nothing { FAILURE_PAUSE } else { self.pace.pause }).await;
        Ok(())
    }

    fn make(&mut self) -> (RecordId, Put) {
        self.made += 1;
        let key = format!("{}-k{}", self.name, self.rng.random_range(0..KEYS));
        let padding = self.rng.random_range(0..100);
        let data = format!("{}-{} {}", self.name, self.made, "x".repeat(padding));
        let id = with(&self.history, |history| {
            let id = history.intend(Some(key.clone()), data.clone());
            history.push(Event::Sent(id));
            id
        });
        (id, Put { key, data: data.into() })
    }

    /// Writes the outcomes down, and gives the first failure.
    fn note(&self, ids: &[RecordId], outcomes: &[Outcome]) -> Option<Failure> {
        let mut first = None;
        with(&self.history, |history| {
            for (id, outcome) in ids.iter().zip(outcomes) {
                let event = match outcome {
                    Ok(position) => {
                        self.acks.fetch_add(1, Ordering::Relaxed);
                        Event::Acked(*id, position.clone())
                    }
                    Err(failure) => {
                        first.get_or_insert_with(|| failure.clone());
                        if failure.nothing_stored {
                            Event::Refused(*id)
                        } else {
                            Event::Unknown(*id)
                        }
                    }
                };
                history.push(event);
            }
        });
        first
    }
}
