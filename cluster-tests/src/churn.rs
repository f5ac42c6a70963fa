//! Shards that come and go, many times over, and what their nodes keep of them.
//!
//! A cycle doubles the shards of one stream and halves them again; closed shards expire within seconds, and their groups
//! are destroyed. Afterwards a node has what it had before: as many groups, threads and descriptors. Its disk and its
//! memory are told, not judged: the log gives back whole segments, malloc what it likes (live memory is judged by
//! `tests/reshard_churn.rs`). Must not know how nodes are made.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::processes::{Cluster, Options, ZONES};
use crate::{admin, raw_http};

/// The stream.
pub const STREAM: &str = "churn";
/// Its open shards, between cycles.
pub const SHARDS: u32 = 8;
/// Splits and merges of a cycle: as many of each as there are shards.
pub const RESHARDS_PER_CYCLE: u32 = 2 * SHARDS;
/// Groups that a cycle opens on every node, and closes: two for each split, one for each merge.
pub const GROUPS_PER_CYCLE: u32 = 3 * SHARDS;
/// Groups on every node when nothing is under way: those of the open shards and the metadata.
const GROUPS: u32 = SHARDS + 1;
/// Seconds until a closed shard expires: set it as `retention_override_seconds`.
pub const RETENTION_SECONDS: u64 = 1;
/// For one change of the number of shards, or all shards to expire, on a machine that is busy with everything else.
const STEP_LIMIT: Duration = Duration::from_secs(120);
/// One call.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// Records of one put: a few for every shard.
const RECORDS: u32 = 100;
/// Cycles before the first look: what is made once and kept is there then.
const WARM_UP: u32 = 2;
/// Between two lines of progress, in cycles.
const TELL_EVERY: u32 = 10;
/// Threads and descriptors that may be more than before: connections and pools breathe. Less than a cycle has groups.
const SLACK: u64 = 8;

/// Creates the stream, through the node at `address` (host:port).
pub async fn begin(address: &str) -> anyhow::Result<()> {
    call(address, "CreateStream", json!({ "StreamName": STREAM, "ShardCount": SHARDS })).await?;
    wait_active(address, SHARDS).await?;
    put(address).await
}

/// Doubles the shards and halves them again, with a put after each.
pub async fn cycle(address: &str) -> anyhow::Result<()> {
    for shards in [2 * SHARDS, SHARDS] {
        scale(address, shards).await?;
        put(address).await?;
    }
    Ok(())
}

/// Waits until none of these nodes has a group more than there are open shards.
pub async fn wait_expired(addresses: &[String]) -> anyhow::Result<()> {
    for address in addresses {
        admin::wait("the groups of expired shards to be gone", STEP_LIMIT, async || {
            let groups = admin::metric(address, "tristream_groups").await?;
            Ok((groups == f64::from(GROUPS)).then_some(()))
        })
        .await
        .with_context(|| format!("at {address}"))?;
    }
    Ok(())
}

async fn call(address: &str, operation: &str, body: Value) -> anyhow::Result<Value> {
    let answer = raw_http::kinesis(address, operation, &body, CALL_LIMIT).await?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "{operation} answers {}: {text}", answer.status);
    if answer.body.is_empty() { Ok(Value::Null) } else { answer.json() }
}

/// How many shards are open, while the stream is ACTIVE.
async fn open_shards(address: &str) -> anyhow::Result<Option<u64>> {
    let told = call(address, "DescribeStreamSummary", json!({ "StreamName": STREAM })).await?;
    let summary = &told["StreamDescriptionSummary"];
    Ok(summary["OpenShardCount"].as_u64().filter(|_| summary["StreamStatus"] == "ACTIVE"))
}

async fn wait_active(address: &str, shards: u32) -> anyhow::Result<()> {
    admin::wait(&format!("{shards} open shards"), STEP_LIMIT, async || {
        Ok((open_shards(address).await? == Some(u64::from(shards))).then_some(()))
    })
    .await
}

/// Asks whenever the stream is ACTIVE with other shards, so that it matters not whether an earlier call was heard.
async fn scale(address: &str, shards: u32) -> anyhow::Result<()> {
    let ask = || json!({ "StreamName": STREAM, "TargetShardCount": shards, "ScalingType": "UNIFORM_SCALING" });
    admin::wait(&format!("{shards} open shards"), STEP_LIMIT, async || {
        match open_shards(address).await? {
            Some(open) if open == u64::from(shards) => Ok(Some(())),
            Some(_) => call(address, "UpdateShardCount", ask()).await.map(|_| None),
            None => Ok(None),
        }
    })
    .await
}

async fn put(address: &str) -> anyhow::Result<()> {
    let record = |key| json!({ "PartitionKey": format!("k{key}"), "Data": "aGVsbG8=" });
    let records: Vec<Value> = (0..RECORDS).map(record).collect();
    let body = json!({ "StreamName": STREAM, "Records": records });
    admin::wait("a put", STEP_LIMIT, async || {
        let answer = call(address, "PutRecords", body.clone()).await?;
        ensure!(answer["FailedRecordCount"] == 0, "{answer}");
        Ok(Some(()))
    })
    .await
}

/// What a node takes of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Its availability zone.
    pub zone: &'static str,
    /// Raft groups open.
    pub groups: u64,
    /// Threads of its process.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Bytes that its folder takes on disk.
    pub disk_bytes: u64,
    /// Resident memory that is no file's: what malloc has taken and not given back.
    pub anonymous_bytes: u64,
}

/// Before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Splits and merges between the two.
    pub reshards: u64,
    /// How long they took, in milliseconds.
    pub took_ms: u128,
    /// Of each node.
    pub before: Vec<Footprint>,
    /// Of each node, once the groups are gone and threads and descriptors are back, or `STEP_LIMIT` later.
    pub after: Vec<Footprint>,
    /// What did not come back.
    pub leaks: Vec<String>,
}

/// Runs so many cycles against three processes, telling `progress` what happens. An error means that it could not be
/// tried, or that groups did not go.
pub async fn run(cycles: u32, progress: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let settings = |settings: &mut toml::Table| {
        settings.insert("quotas".to_owned(), false.into());
        let seconds = RETENTION_SECONDS.cast_signed();
        settings.insert("retention_override_seconds".to_owned(), seconds.into());
    };
    let mut cluster = Cluster::start_with(Options::default(), settings).await?;
    let ran = churn(&cluster, cycles, progress).await.with_context(|| cluster.last_words());
    cluster.stop().await?;
    ran
}

async fn churn(cluster: &Cluster, cycles: u32, progress: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let addresses: Vec<String> =
        ZONES.iter().map(|zone| cluster.kinesis(zone)).collect::<anyhow::Result<_>>()?;
    begin(&addresses[0]).await?;
    for _ in 0..WARM_UP {
        cycle(&addresses[0]).await?;
    }
    wait_expired(&addresses).await?;
    let before = footprints(cluster, &addresses).await?;
    let begun = tokio::time::Instant::now();
    for done in 1..=cycles {
        cycle(&addresses[0]).await?;
        if done % TELL_EVERY == 0 || done == cycles {
            progress(&format!("{} splits and merges", done * RESHARDS_PER_CYCLE));
        }
    }
    let took_ms = begun.elapsed().as_millis();
    wait_expired(&addresses).await?;
    // Threads and connections end a while after their last work.
    let came_back = admin::wait("threads and descriptors to come back", STEP_LIMIT, async || {
        let after = footprints(cluster, &addresses).await?;
        Ok(leaks(&before, &after).is_empty().then_some(after))
    });
    let after = match came_back.await {
        Ok(after) => after,
        Err(_) => footprints(cluster, &addresses).await?,
    };
    let leaks = leaks(&before, &after);
    let reshards = u64::from(cycles) * u64::from(RESHARDS_PER_CYCLE);
    Ok(Report { reshards, took_ms, before, after, leaks })
}

/// What is more than before, in words.
fn leaks(before: &[Footprint], after: &[Footprint]) -> Vec<String> {
    let mut leaks = Vec::new();
    for (old, new) in before.iter().zip(after) {
        let zone = new.zone;
        for (what, old, new, slack) in [
            ("groups", old.groups, new.groups, 0),
            ("threads", old.threads, new.threads, SLACK),
            ("descriptors", old.descriptors, new.descriptors, SLACK),
        ] {
            if new > old + slack {
                leaks.push(format!("{zone}: {new} {what}, and {old} before"));
            }
        }
    }
    leaks
}

async fn footprints(cluster: &Cluster, addresses: &[String]) -> anyhow::Result<Vec<Footprint>> {
    let mut all = Vec::new();
    for (zone, address) in ZONES.into_iter().zip(addresses) {
        let groups = admin::metric(address, "tristream_groups").await?;
        let process = format!("/proc/{}", cluster.pid(zone)?.as_raw_nonzero());
        let status = std::fs::read_to_string(format!("{process}/status"))
            .with_context(|| format!("{zone}: only Linux tells what a process takes"))?;
        all.push(Footprint {
            zone,
            groups: groups as u64,
            threads: field(&status, "Threads")?,
            descriptors: std::fs::read_dir(format!("{process}/fd"))?.count() as u64,
            disk_bytes: disk_bytes(&cluster.data_dir().join(zone))?,
            anonymous_bytes: field(&status, "RssAnon")? << 10,
        });
    }
    Ok(all)
}

/// A number of `/proc/PID/status`; sizes are in KiB.
fn field(status: &str, name: &str) -> anyhow::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {name} in /proc/PID/status"))
}

/// What the files below a folder take. A file that goes while we look takes nothing.
pub(crate) fn disk_bytes(folder: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)?.flatten() {
        match entry.metadata() {
            Ok(file) if file.is_dir() => sum += disk_bytes(&entry.path())?,
            Ok(file) => sum += file.blocks() * 512,
            Err(_) => {}
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(groups: u64, threads: u64, descriptors: u64) -> Footprint {
        let (disk_bytes, anonymous_bytes) = (groups << 20, groups << 30);
        Footprint { zone: "az-a", groups, threads, descriptors, disk_bytes, anonymous_bytes }
    }

    #[test]
    fn a_leak_is_more_groups_or_many_more_threads_or_descriptors() {
        let before = [footprint(9, 10, 40)];
        let leaks = |after| leaks(&before, &[after]);
        assert!(leaks(footprint(9, 10 + SLACK, 40 + SLACK)).is_empty());
        assert!(leaks(footprint(3, 2, 4)).is_empty());
        assert!(leaks(footprint(10, 10, 40))[0].contains("10 groups, and 9 before"));
        assert!(leaks(footprint(9, 11 + SLACK, 40))[0].contains("threads"));
        assert!(leaks(footprint(9, 10, 41 + SLACK))[0].contains("descriptors"));
    }

    #[test]
    fn a_leak_of_one_for_each_group_of_a_cycle_is_seen() {
        assert!(u64::from(GROUPS_PER_CYCLE) > SLACK);
    }

    #[test]
    fn fields_of_proc_are_found_by_their_whole_name() {
        let status = "VmRSS:\t  300 kB\nRssAnon:\t  77 kB\nThreads:\t5\n";
        assert_eq!(field(status, "RssAnon").unwrap(), 77);
        assert_eq!(field(status, "Threads").unwrap(), 5);
        assert!(field(status, "Rss").is_err());
    }
}
