//! Half-way: kills the leader of a busy shard, sees another lead, and starts the killed node again.
//!
//! `tristream status` has to tell the same leaders as `/admin/v1/cluster`, before and after.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tristream_cluster_tests::{admin, command};

use crate::ground::Ground;
use crate::progress::Progress;
use crate::puts::PUT_LIMIT;

/// For leaders to settle; the product promises 2 s, the walk judges by its own numbers in the report.
const LEADER_LIMIT: Duration = Duration::from_secs(30);
/// One `tristream status`.
const STATUS_LIMIT: Duration = Duration::from_secs(20);

/// What happened.
#[derive(Debug)]
pub(crate) struct Failover {
    /// The shard whose leader was killed.
    pub(crate) shard: String,
    /// Where it was.
    pub(crate) from: String,
    /// Who leads since.
    pub(crate) to: String,
    /// From the end of the kill until a survivor names the new leader.
    pub(crate) took: Duration,
}

/// Waits until half of `total` is acked, kills, and starts the node again at three quarters.
pub(crate) async fn half_way(
    ground: &Mutex<Ground>,
    stream: &str,
    total: usize,
    progress: &Progress,
) -> anyhow::Result<Failover> {
    reach(progress, total / 2).await?;
    let (shard, from, survivor) = {
        let ground = ground.lock().await;
        let (shard, from) = victim(&ground, stream, progress).await?;
        let zones = tristream_cluster_tests::processes::ZONES;
        let survivor = zones.into_iter().find(|zone| *zone != from).context("no survivor")?;
        agree(&ground, survivor, stream).await.context("before the kill")?;
        (shard, from, survivor)
    };
    ground.lock().await.kill(&from).await?;
    // `docker kill` itself takes its time, of which the cluster knows nothing.
    let killed = Instant::now();
    let address = ground.lock().await.kinesis(survivor)?;
    let to = admin::wait_leader(&address, stream, &shard, Some(&from), LEADER_LIMIT).await?;
    let took = killed.elapsed();
    agree(&*ground.lock().await, survivor, stream).await.context("after the kill")?;
    reach(progress, total / 4 * 3).await?;
    ground.lock().await.restart(&from).await?;
    ground.lock().await.wait_ready(&from).await?;
    Ok(Failover { shard, from, to, took })
}

/// Waits until so many records are acked.
async fn reach(progress: &Progress, acks: usize) -> anyhow::Result<()> {
    let what = format!("{acks} acks");
    let reached = async || Ok((progress.acks() >= acks).then_some(()));
    admin::wait(&what, PUT_LIMIT, reached).await
}

/// The busiest shard whose leader may be killed, and where that is.
async fn victim(
    ground: &Ground,
    stream: &str,
    progress: &Progress,
) -> anyhow::Result<(String, String)> {
    let view = admin::view(&ground.kinesis("az-a")?).await?;
    for shard in progress.busiest() {
        let Some(leader) = view.leader(stream, &shard) else { continue };
        if Some(leader) != ground.zone_of_client() {
            return Ok((shard.clone(), leader.to_owned()));
        }
    }
    bail!("no shard has a leader that may be killed: {:?}", view.leaders(stream))
}

/// Waits until `tristream status --json` and `/admin/v1/cluster` name the same leader for every shard.
async fn agree(ground: &Ground, zone: &str, stream: &str) -> anyhow::Result<()> {
    let address = ground.kinesis(zone)?;
    admin::wait("`tristream status` to agree with /admin/v1/cluster", LEADER_LIMIT, async || {
        let admin = admin::view(&address).await?.leaders(stream);
        let mut status = ground.tristream(&["status", "--json"]).await?;
        let printed = command::stdout(&mut status, STATUS_LIMIT).await?;
        let told: admin::View = serde_json::from_str(&printed)
            .with_context(|| format!("`tristream status --json` printed {printed:?}"))?;
        let told = told.leaders(stream);
        if told != admin || admin.iter().any(|(_, leader)| leader.is_none()) {
            bail!("status says {told:?}, admin says {admin:?}");
        }
        Ok(Some(()))
    })
    .await
}
