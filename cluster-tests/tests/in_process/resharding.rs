//! Nodes die at every step of a reshard: it completes all the same, and no promise breaks.
//!
//! A node is held at a named point of the saga, another (or the same) dies there, and everything goes on. Producers
//! never stop. The last victim sleeps instead: it wakes up in the middle of a step that others have long done.

#![allow(clippy::print_stdout)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{ScalingType, StreamStatus};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tristream_client::Options;
use tristream_cluster_tests::doors::Door;
use tristream_cluster_tests::doors::native::Native;
use tristream_cluster_tests::doors::raw::Raw;
use tristream_cluster_tests::history::{History, ShardSeen};
use tristream_cluster_tests::in_process::{Cluster, PATIENCE, Storage, wait_until};
use tristream_cluster_tests::producers::{Pace, Producers};
use tristream_cluster_tests::workload::{self, Shared};
use tristream_cluster_tests::{admin, generations, promises, sdk};

const SEATS: [usize; 3] = [0, 1, 2];
const READERS: [&str; 3] = ["seat 0", "seat 1", "seat 2"];
/// The steps of one reshard, in order.
const STEPS: [&str; 6] = [
    "reshard.begun",
    "reshard.children_open",
    "reshard.window_copied",
    "reshard.sealed",
    "reshard.opened",
    "reshard.published",
];
/// And the last one of a change of the number of shards.
const GOAL: &str = "reshard.goal_reached";
const PACE: Pace = Pace { batch_max: 6, pause: Duration::from_millis(10) };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// One shard into two, not in the middle.
    Split,
    /// Two into one.
    Merge,
    /// Two shards into three.
    Rescale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// It is the one that drives the change, and is held.
    MetadataLeader,
    ParentsLeader,
    ChildsLeader,
    Random,
    /// Cut off and held; woken up when the others are done.
    Sleeper,
}

const VICTIMS: [Victim; 5] = [
    Victim::MetadataLeader,
    Victim::ParentsLeader,
    Victim::ChildsLeader,
    Victim::Random,
    Victim::Sleeper,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_split_survives_a_death_at_any_step() -> anyhow::Result<()> {
    at_every_step(Change::Split, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_survives_a_death_at_any_step() -> anyhow::Result<()> {
    at_every_step(Change::Merge, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescale_survives_a_death_at_any_step() -> anyhow::Result<()> {
    at_every_step(Change::Rescale, 3).await
}

async fn at_every_step(change: Change, seed: u64) -> anyhow::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    // Quick elections: most of a case is waiting for them.
    let mut cluster = Cluster::start_with(Storage::Simulated, |config| {
        config.raft.heartbeat_ms = 100;
        config.raft.election_timeout_ms_min = 400;
        config.raft.election_timeout_ms_max = 700;
        config.quotas = false;
    })
    .await?;
    let goal = (change == Change::Rescale).then_some(GOAL);
    for point in STEPS.into_iter().chain(goal) {
        // A rescale is made of splits and merges, whose drivers sleep in their own tests.
        let victims = if goal.is_some() && point != GOAL { &VICTIMS[..4] } else { &VICTIMS };
        for &victim in victims {
            let begun = Instant::now();
            let case = Case::begin(&cluster, change, point, victim, rng.random()).await?;
            let told = format!("{change:?} at {point}, victim {victim:?}");
            case.run(&mut cluster).await.with_context(|| told.clone())?;
            println!("{told}: {} ms", begun.elapsed().as_millis());
        }
    }
    Ok(())
}

/// One change of one stream, with one death.
struct Case {
    stream: String,
    change: Change,
    point: &'static str,
    victim: Victim,
    before: Vec<ShardSeen>,
    history: Shared,
    producers: Producers,
    rng: SmallRng,
}

impl Case {
    async fn begin(
        cluster: &Cluster,
        change: Change,
        point: &'static str,
        victim: Victim,
        seed: u64,
    ) -> anyhow::Result<Case> {
        let name = format!("{change:?}-{point}-{victim:?}");
        cluster.create_stream(&name, if change == Change::Split { 1 } else { 2 }).await?;
        let history: Shared = Arc::new(Mutex::new(History::new()));
        let mut doors: Vec<(String, Box<dyn Door>)> = Vec::new();
        let addresses = SEATS.map(|seat| cluster.kinesis(seat).to_owned());
        for number in 0..2 {
            let client = cluster.client(&SEATS, Options::default())?;
            doors.push((format!("native{number}"), Box::new(Native(client))));
        }
        for number in SEATS {
            // It does not give up: the fate of each of its calls becomes known.
            doors.push((format!("raw{number}"), Box::new(Raw::new(&addresses, number, 400))));
        }
        let producers = Producers::start(doors, &name, seed, PACE, &history);
        let before = generations::shards(&sdk::client(&addresses[0], 3), &name).await?;
        cluster.stops().take_reached();
        let rng = SmallRng::seed_from_u64(seed);
        Ok(Case { stream: name, change, point, victim, before, history, producers, rng })
    }

    async fn run(mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.producers.wait_acks(30, PATIENCE).await.context("before the change")?;
        cluster.stops().arm(self.point);
        self.ask(cluster).await.context("the change is refused")?;
        let held = cluster.stops().held().await?;
        // What the death hits shall be under load. Between the seals and the new map puts wait for that map.
        if ![STEPS[3], STEPS[4]].contains(&self.point) {
            self.producers
                .wait_acks(5, PATIENCE)
                .await
                .with_context(|| format!("{held} is held"))?;
        }
        match self.victim {
            Victim::Sleeper => self.sleep(cluster, held).await.context("asleep")?,
            _ => self.die(cluster, held).await?,
        }
        self.wait_changed(cluster, &SEATS).await?;
        self.producers.wait_acks(30, PATIENCE).await.context("after the change")?;
        self.judge(cluster).await
    }

    async fn ask(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let client = self.client(cluster, 0);
        let stream = self.stream.as_str();
        match self.change {
            Change::Split => {
                let at = (u128::MAX / 3).to_string();
                let split = client.split_shard().stream_name(stream).new_starting_hash_key(at);
                split.shard_to_split(&self.before[0].shard).send().await?;
            }
            Change::Merge => {
                let merge = client.merge_shards().stream_name(stream);
                let merge = merge.shard_to_merge(&self.before[0].shard);
                merge.adjacent_shard_to_merge(&self.before[1].shard).send().await?;
            }
            Change::Rescale => {
                let count = client.update_shard_count().stream_name(stream).target_shard_count(3);
                count.scaling_type(ScalingType::UniformScaling).send().await?;
            }
        }
        Ok(())
    }

    async fn die(&mut self, cluster: &mut Cluster, held: usize) -> anyhow::Result<()> {
        let victim = self.find(cluster, held).await?;
        cluster.crash(victim).await?;
        cluster.stops().release();
        self.producers
            .wait_acks(20, PATIENCE)
            .await
            .with_context(|| format!("{victim} is dead"))?;
        if self.rng.random() {
            let rest: Vec<usize> = SEATS.into_iter().filter(|seat| *seat != victim).collect();
            self.wait_changed(cluster, &rest).await.context("two of three do it")?;
        }
        cluster.run(victim).await?;
        cluster.wait_ready(&[victim]).await
    }

    /// The driver is cut off while it is held, the others do everything; then it wakes up and goes on where it was.
    async fn sleep(&mut self, cluster: &Cluster, held: usize) -> anyhow::Result<()> {
        cluster.wires().isolate(held);
        let rest: Vec<usize> = SEATS.into_iter().filter(|seat| *seat != held).collect();
        self.wait_changed(cluster, &rest).await.context("without the driver")?;
        self.producers.wait_acks(10, PATIENCE).await?;
        cluster.wires().rejoin(held);
        cluster.stops().release();
        Ok(())
    }

    async fn find(&mut self, cluster: &Cluster, held: usize) -> anyhow::Result<usize> {
        let parent = self.before.choose(&mut self.rng).context("no parent")?.shard.clone();
        let known: Vec<String> = self.before.iter().map(|shard| shard.shard.clone()).collect();
        let random = *SEATS.choose(&mut self.rng).context("no seat")?;
        let groups_not_open = self.point == STEPS[0];
        match self.victim {
            Victim::MetadataLeader => Ok(held),
            Victim::ParentsLeader => self.leader(cluster, |shard| shard == parent).await,
            Victim::ChildsLeader if !groups_not_open => {
                self.leader(cluster, |shard| !known.iter().any(|known| known == shard)).await
            }
            _ => Ok(random),
        }
    }

    /// The seat that leads one of the shards for which `is` holds.
    async fn leader(&self, cluster: &Cluster, is: impl Fn(&str) -> bool) -> anyhow::Result<usize> {
        admin::wait("a leader to kill", PATIENCE, async || {
            let view = admin::view(cluster.kinesis(0)).await?;
            let groups = view.groups.iter().filter(|group| {
                group.stream.as_deref() == Some(&*self.stream)
                    && group.shard.as_deref().is_some_and(&is)
            });
            // Nodes are numbered from 1 by AZ, and the seats are in that order.
            let leaders = groups.filter_map(|group| group.leader.filter(|node| *node > 0));
            Ok(leaders.map(|node| node as usize - 1).next())
        })
        .await
    }

    fn client(&self, cluster: &Cluster, seat: usize) -> Client {
        sdk::client(cluster.kinesis(seat), 3)
    }

    /// Waits until these nodes say that the stream is ACTIVE, with the shards that it shall have, all led.
    async fn wait_changed(&self, cluster: &Cluster, seats: &[usize]) -> anyhow::Result<()> {
        let expected = match self.change {
            Change::Split => 2,
            Change::Merge => 1,
            Change::Rescale => 3,
        };
        for &seat in seats {
            let client = self.client(cluster, seat);
            let mut seen = String::new();
            let what = format!("seat {seat} sees the change");
            let changed = wait_until(&what, async || {
                let summary = client.describe_stream_summary().stream_name(&self.stream).send();
                let (summary, view) = (summary.await, admin::view(cluster.kinesis(seat)).await);
                seen = format!("{seat} says: {summary:?}, {view:?}");
                let (Ok(summary), Ok(view)) = (summary, view) else { return false };
                let summary = summary.stream_description_summary();
                let there = summary.is_some_and(|summary| {
                    summary.open_shard_count() == expected
                        && *summary.stream_status() == StreamStatus::Active
                });
                let leaders = view.leaders(&self.stream);
                there && !leaders.is_empty() && leaders.iter().all(|(_, az)| az.is_some())
            })
            .await;
            changed.with_context(|| seen)?;
        }
        Ok(())
    }

    async fn judge(self, cluster: &Cluster) -> anyhow::Result<()> {
        let complaints = self.producers.stop().await?;
        for complaint in &complaints {
            ensure!(complaint.failure.retryable, "{complaint:?}");
        }
        for (seat, reader) in READERS.into_iter().enumerate() {
            generations::read_all(cluster.kinesis(seat), &self.stream, reader, &self.history)
                .await?;
        }
        let published = cluster.stops().take_reached();
        ensure!(published.iter().any(|(_, point)| *point == STEPS[5]), "{published:?}");
        workload::with(&self.history, |history| {
            ensure!(history.acked() > 80, "only {} acks", history.acked());
            promises::demand(history)
        })?;
        forget(cluster, &self.stream).await
    }
}

/// Fewer groups for the cases to come.
async fn forget(cluster: &Cluster, stream: &str) -> anyhow::Result<()> {
    sdk::client(cluster.kinesis(0), 3).delete_stream().stream_name(stream).send().await?;
    Ok(())
}
