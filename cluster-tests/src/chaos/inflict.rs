//! Faults inflicted on a real cluster, and whether they met anything.
//!
//! Invariant: when a step is over, its faults are. What counts as a hit is seen, not assumed: the process was gone or
//! stood still, or the node says that messages met the fault.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::diary::Diary;
use super::schedule::{Fault, Kind, Step};
use crate::processes::{Cluster, ZONES};
use crate::raw_http::{self, Answer};

const PATH: &str = "/admin/v1/faults";
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The node heals by itself if we cannot: not long after we would have.
const GRACE: Duration = Duration::from_secs(20);

/// Does what the step says. Which kinds were inflicted, and whether each hit.
pub(super) async fn step(
    cluster: &mut Cluster,
    step: &Step,
    diary: &mut Diary,
) -> anyhow::Result<Vec<(Kind, bool)>> {
    let mut hits = Vec::new();
    let around = match &step.around {
        Some(fault) => Some((fault, impose(cluster, fault, step.last, diary).await?)),
        None => None,
    };
    hits.push((step.fault.kind, one(cluster, &step.fault, step.last, diary).await?));
    if let Some((fault, id)) = around {
        hits.push((fault.kind, lift(cluster, fault, id, diary).await?));
    }
    Ok(hits)
}

async fn one(
    cluster: &mut Cluster,
    fault: &Fault,
    last: Duration,
    diary: &mut Diary,
) -> anyhow::Result<bool> {
    let zone = fault.zone;
    match fault.kind {
        Kind::Kill => {
            let ran = cluster.is_running(zone);
            diary.begins(fault);
            cluster.kill(zone).await?;
            let gone = !cluster.is_running(zone);
            tokio::time::sleep(last).await;
            cluster.restart(zone)?;
            // A process that serves: signals to one that still starts would test the start.
            cluster.wait_serving(zone).await?;
            diary.over(fault);
            Ok(ran && gone)
        }
        Kind::Pause => {
            diary.begins(fault);
            cluster.pause(zone)?;
            tokio::time::sleep(last).await;
            let stood_still = cluster.is_paused(zone);
            cluster.resume(zone)?;
            diary.over(fault);
            Ok(stood_still)
        }
        Kind::Isolate | Kind::OneWay | Kind::Bridge | Kind::Delay | Kind::Loss => {
            let id = impose(cluster, fault, last, diary).await?;
            tokio::time::sleep(last).await;
            lift(cluster, fault, id, diary).await
        }
    }
}

/// Asks the fault's node to impose it. Gives its number.
async fn impose(
    cluster: &Cluster,
    fault: &Fault,
    last: Duration,
    diary: &mut Diary,
) -> anyhow::Result<u64> {
    let others: Vec<&str> = ZONES.into_iter().filter(|zone| *zone != fault.zone).collect();
    let for_ms = u64::try_from((last + GRACE).as_millis())?;
    let order = match fault.kind {
        Kind::OneWay => {
            json!({"fault": "partition", "az": others, "direction": fault.direction, "for_ms": for_ms})
        }
        Kind::Bridge => json!({"fault": "partition", "az": [fault.other], "for_ms": for_ms}),
        Kind::Delay => json!({
            "fault": "delay", "az": others, "for_ms": for_ms,
            "delay_ms": fault.delay_ms, "random_ms": fault.delay_ms,
        }),
        Kind::Loss => {
            json!({"fault": "loss", "az": others, "for_ms": for_ms, "share": fault.share})
        }
        Kind::Isolate | Kind::Kill | Kind::Pause => {
            json!({"fault": "partition", "az": others, "for_ms": for_ms})
        }
    };
    diary.begins(fault);
    let answer = ask(cluster, fault.zone, "POST", PATH, &order.to_string()).await?;
    ensure!(answer.status == 201, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    answer.json()?["id"].as_u64().context("a fault without a number")
}

/// Heals one fault. Whether it had met anything.
async fn lift(
    cluster: &Cluster,
    fault: &Fault,
    id: u64,
    diary: &mut Diary,
) -> anyhow::Result<bool> {
    let answer = ask(cluster, fault.zone, "DELETE", &format!("{PATH}/{id}"), "").await?;
    diary.over(fault);
    match answer.status {
        200 => Ok(answer.json()?["healed"][0]["hits"].as_u64().unwrap_or_default() > 0),
        // The node has healed it by itself: it was asked late. What it met nobody knows.
        404 => Ok(false),
        status => anyhow::bail!("{status}: {}", String::from_utf8_lossy(&answer.body)),
    }
}

/// Nothing is left at a node that could be on.
pub(super) async fn heal(cluster: &Cluster, zone: &str) -> anyhow::Result<()> {
    let answer = ask(cluster, zone, "DELETE", PATH, "").await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    let left: Value = answer.json()?;
    ensure!(left["healed"].is_array(), "{left}");
    Ok(())
}

async fn ask(
    cluster: &Cluster,
    zone: &str,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<Answer> {
    let address = cluster.kinesis(zone)?;
    let headers = [("content-type", "application/json")];
    raw_http::send(&address, method, path, &headers, body.as_bytes(), ASK_LIMIT).await
}
