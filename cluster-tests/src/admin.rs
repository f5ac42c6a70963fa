//! What a node says of the cluster at `/admin/v1/cluster`, and bounded waiting for it to say something else.
//!
//! Invariant: every wait has an end and says what it waited for. Must not know how the nodes were started.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::time::Instant;

use crate::raw_http;

/// One question to one node.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// `/admin/v1/cluster`. Fields that a later node adds are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct View {
    /// All nodes.
    pub nodes: Vec<Node>,
    /// The metadata group and one group per shard.
    pub groups: Vec<Group>,
}

/// A node as the one asked sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its availability zone.
    pub az: String,
    /// host:port of Kinesis and admin.
    pub kinesis: String,
    /// host:port of gRPC.
    pub peer: String,
    /// Whether the node asked hears from it.
    pub alive: bool,
}

/// A Raft group as the node asked sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Group {
    /// Its id; the metadata group is named `meta`.
    pub group: serde_json::Value,
    /// Name of its stream; none for the metadata group.
    #[serde(default)]
    pub stream: Option<String>,
    /// `shardId-…`; none for the metadata group.
    #[serde(default)]
    pub shard: Option<String>,
    /// Id of the node that leads; none (or 0) while nobody is known to.
    #[serde(default)]
    pub leader: Option<u64>,
    /// Its term.
    #[serde(default)]
    pub term: u64,
    /// Ids of its replicas' nodes.
    #[serde(default)]
    pub members: Vec<u64>,
    /// Last committed log index that the node asked knows.
    #[serde(default)]
    pub committed: Option<u64>,
}

impl View {
    /// The AZ of the node that leads this shard, if one is known and alive.
    pub fn leader(&self, stream: &str, shard: &str) -> Option<&str> {
        let group = self.groups.iter().find(|group| {
            group.stream.as_deref() == Some(stream) && group.shard.as_deref() == Some(shard)
        })?;
        self.az(group.leader?)
    }

    /// Shards of the stream with the AZ of their leader, by shard id.
    pub fn leaders(&self, stream: &str) -> Vec<(String, Option<String>)> {
        let mut leaders: Vec<(String, Option<String>)> = self
            .groups
            .iter()
            .filter(|group| group.stream.as_deref() == Some(stream))
            .filter_map(|group| {
                let az = group.leader.and_then(|node| self.az(node)).map(str::to_owned);
                Some((group.shard.clone()?, az))
            })
            .collect();
        leaders.sort();
        leaders
    }

    /// The AZ of a node.
    pub fn az(&self, node: u64) -> Option<&str> {
        self.nodes.iter().find(|known| known.id == node).map(|known| known.az.as_str())
    }
}

/// Asks one node (host:port of its Kinesis and admin door).
pub async fn view(kinesis: &str) -> anyhow::Result<View> {
    let answer = raw_http::get(kinesis, "/admin/v1/cluster", ASK_LIMIT).await?;
    if answer.status != 200 {
        bail!("{kinesis}/admin/v1/cluster answers {}", answer.status);
    }
    serde_json::from_slice(&answer.body).with_context(|| {
        format!(
            "{kinesis}/admin/v1/cluster is not as specified: {}",
            String::from_utf8_lossy(&answer.body)
        )
    })
}

/// The value of a metric without labels at a node's `/metrics`.
pub async fn metric(kinesis: &str, name: &str) -> anyhow::Result<f64> {
    let answer = raw_http::get(kinesis, "/metrics", ASK_LIMIT).await?;
    if answer.status != 200 {
        bail!("{kinesis}/metrics answers {}", answer.status);
    }
    let text = String::from_utf8_lossy(&answer.body);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("{kinesis}/metrics has no {name}"))?;
    value.trim().parse().with_context(|| format!("{name} is no number: {value:?}"))
}

/// Whether a node answers 200 at `/readyz`.
pub async fn is_ready(kinesis: &str) -> bool {
    let answer = raw_http::get(kinesis, "/readyz", ASK_LIMIT).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

/// Asks again and again until `look` gives something, or fails after `limit` with what it waited for and what it
/// met last.
pub async fn wait<T, F, L>(what: &str, limit: Duration, mut look: L) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
    L: FnMut() -> F,
{
    let started = Instant::now();
    loop {
        let met = match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if started.elapsed() >= limit {
            bail!("waited {} s for {what}: {met}", limit.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until the node asked names a leader of the shard other than `not`, and gives its AZ.
pub async fn wait_leader(
    kinesis: &str,
    stream: &str,
    shard: &str,
    not: Option<&str>,
    limit: Duration,
) -> anyhow::Result<String> {
    wait(&format!("a leader of {stream}/{shard} that is not {not:?}"), limit, async || {
        let view = view(kinesis).await?;
        Ok(view.leader(stream, shard).filter(|az| Some(*az) != not).map(str::to_owned))
    })
    .await
}

/// Waits until the node asked names a leader for each of the stream's shards.
pub async fn wait_all_led(
    kinesis: &str,
    stream: &str,
    shards: usize,
    limit: Duration,
) -> anyhow::Result<View> {
    wait(&format!("leaders of the {shards} shards of {stream}"), limit, async || {
        let view = view(kinesis).await?;
        let leaders = view.leaders(stream);
        let all = leaders.len() == shards && leaders.iter().all(|(_, az)| az.is_some());
        Ok(all.then_some(view))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_are_named_by_their_zone() {
        let view: View = serde_json::from_value(serde_json::json!({
            "nodes": [
                {"id": 1, "az": "az-a", "kinesis": "h:1", "peer": "h:2", "alive": true},
                {"id": 2, "az": "az-b", "kinesis": "h:3", "peer": "h:4", "alive": false},
            ],
            "groups": [
                {"group": "meta", "leader": 1, "term": 3, "members": [1, 2, 3], "committed": 9},
                {"group": 7, "stream": "s", "shard": "shardId-000000000001", "leader": 2, "term": 1},
                {"group": 6, "stream": "s", "shard": "shardId-000000000000", "leader": null, "term": 1},
            ],
        }))
        .unwrap();
        assert_eq!(view.leader("s", "shardId-000000000001"), Some("az-b"));
        assert_eq!(view.leader("s", "shardId-000000000000"), None);
        assert_eq!(view.leader("other", "shardId-000000000001"), None);
        assert_eq!(view.leaders("s")[1].1.as_deref(), Some("az-b"));
    }

    #[tokio::test]
    async fn waiting_in_vain_ends_and_tells_what_for() {
        let nothing = wait("godot", Duration::ZERO, async || Ok(None::<()>)).await;
        assert!(nothing.unwrap_err().to_string().contains("godot"));
    }
}
