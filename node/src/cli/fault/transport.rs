//! Faults of messages: asked of the nodes themselves.

use std::time::Duration;

use serde_json::{Value, json};

use super::door::{Door, Node};
use super::{Between, Done};
use crate::faults::{Direction, Kind, Order};

pub(super) async fn partition(door: &Door<'_>, between: Between) -> anyhow::Result<Vec<Done>> {
    impose(door, between, Kind::Partition, |order| order).await
}

pub(super) async fn delay(
    door: &Door<'_>,
    between: Between,
    delay_ms: u64,
    random_ms: u64,
) -> anyhow::Result<Vec<Done>> {
    let with = |order| Order { delay_ms: Some(delay_ms), random_ms: Some(random_ms), ..order };
    impose(door, between, Kind::Delay, with).await
}

pub(super) async fn loss(
    door: &Door<'_>,
    between: Between,
    share: f64,
) -> anyhow::Result<Vec<Done>> {
    impose(door, between, Kind::Loss, |order| Order { share: Some(share), ..order }).await
}

/// Imposes the fault at each node, one after the other. If one refuses, the others keep theirs: they heal by
/// themselves.
async fn impose(
    door: &Door<'_>,
    between: Between,
    fault: Kind,
    with: impl Fn(Order) -> Order,
) -> anyhow::Result<Vec<Done>> {
    let Between { az, from, direction, last } = between;
    let all = door.nodes_in(&[]).await?;
    let mut done = Vec::new();
    for node in door.nodes_in(&az).await? {
        let others = all.iter().map(|node| node.az.clone()).filter(|zone| *zone != node.az);
        let others = if from.is_empty() { others.collect() } else { from.clone() };
        let (direction, for_ms) = (Direction::from(direction), Some(last));
        let (delay_ms, random_ms, share) = (None, None, None);
        let order = Order { fault, az: others, direction, for_ms, delay_ms, random_ms, share };
        let imposed = door.impose(&node, &json!(with(order))).await?;
        let last = Duration::from_millis(last);
        let words = imposed["words"].as_str().unwrap_or_default();
        let words = format!("{}: {words}, for {last:?} (or until `tristream fault heal`)", node.az);
        done.push(Done { words, json: with_zone(&node, "imposed", imposed) });
    }
    Ok(done)
}

pub(super) async fn list(door: &Door<'_>) -> anyhow::Result<Vec<Done>> {
    let mut done = Vec::new();
    for node in door.nodes().await? {
        let said = door.list(&node).await?;
        for fault in said["faults"].as_array().into_iter().flatten() {
            let words = fault["words"].as_str().unwrap_or_default();
            let heals_s = fault["heals_in_ms"].as_u64().unwrap_or_default().div_ceil(1_000);
            let hits = &fault["hits"];
            let words = format!("{}: {words}; heals in {heals_s} s; met {hits} so far", node.az);
            done.push(Done { words, json: with_zone(&node, "on", fault.clone()) });
        }
    }
    Ok(done)
}

/// Heals the nodes of some zones, or all. Gives what was healed, and which nodes could not be asked.
pub(super) async fn heal(
    door: &Door<'_>,
    zones: &[String],
) -> anyhow::Result<(Vec<Done>, Vec<String>)> {
    let (mut done, mut unreached) = (Vec::new(), Vec::new());
    for node in door.nodes_in(zones).await? {
        let said = match door.heal(&node).await {
            Ok(said) => said,
            Err(error) => {
                unreached.push(format!("{error:#}"));
                continue;
            }
        };
        for fault in said["healed"].as_array().into_iter().flatten() {
            let words = fault["words"].as_str().unwrap_or_default();
            let words = format!("{}: healed: {words}; it met {}", node.az, fault["hits"]);
            done.push(Done { words, json: with_zone(&node, "healed", fault.clone()) });
        }
    }
    Ok((done, unreached))
}

/// `fault`, which names the zones that it is about as `az`, with the node that has it.
fn with_zone(node: &Node, what: &str, mut fault: Value) -> Value {
    let about = fault["az"].take();
    fault["about"] = about;
    fault["az"] = json!(node.az);
    fault["done"] = json!(what);
    fault
}
