//! What a person or a monitor asks a node: is it alive, is it ready, how is it, how is the cluster.

use http::{Method, StatusCode};
use serde::Serialize;
use tristream_proto::domain::{GroupId, ShardId};
use tristream_proto::wire::{ClusterStatusResponse, GroupStatus, NodeStatus};

use super::reply::{Answer, answer};
use super::server::Door;
use crate::reshard::demand::Picture;
use crate::router::observed;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers a path of the node's own; `None` when it is none.
pub(super) async fn get(door: &Door, method: &Method, path: &str) -> Option<Answer> {
    if path.starts_with("/admin/") && path != "/admin/v1/cluster" {
        return Some(answer(StatusCode::NOT_FOUND, Some(TEXT), "no such page\n"));
    }
    if !matches!(path, "/healthz" | "/readyz" | "/metrics" | "/admin/v1/cluster") {
        return None;
    }
    if method != Method::GET && method != Method::HEAD {
        // Kinesis takes a POST on any path, but not on the node's own pages.
        return path.starts_with("/admin/").then(|| {
            answer(StatusCode::METHOD_NOT_ALLOWED, Some(TEXT), "this page can only be read\n")
        });
    }
    Some(match path {
        "/healthz" => answer(StatusCode::OK, Some(TEXT), "ok\n"),
        "/readyz" => ready(door),
        "/metrics" => answer(StatusCode::OK, Some(OPEN_METRICS), door.metrics.encode()),
        _ => cluster(door).await,
    })
}

fn ready(door: &Door) -> Answer {
    let reason = door.ready.borrow().clone().err();
    match reason {
        None => answer(StatusCode::OK, Some(TEXT), "ready\n"),
        Some(why) => answer(StatusCode::SERVICE_UNAVAILABLE, Some(TEXT), format!("{why}\n")),
    }
}

async fn cluster(door: &Door) -> Answer {
    let Some(api) = door.api.borrow().clone() else {
        let why = r#"{"error":"the node has not yet joined its cluster"}"#;
        return answer(StatusCode::SERVICE_UNAVAILABLE, Some(JSON), why);
    };
    let status = Cluster::from(api.streams.cluster_status().await);
    match serde_json::to_vec(&status) {
        Ok(body) => answer(StatusCode::OK, Some(JSON), body),
        Err(error) => {
            tracing::error!(%error, "cannot write the cluster view");
            answer(StatusCode::INTERNAL_SERVER_ERROR, None, "")
        }
    }
}

/// The cluster view. Fields are only ever added, and keep their order.
#[derive(Serialize)]
struct Cluster {
    cluster: String,
    nodes: Vec<Node>,
    groups: Vec<Group>,
}

#[derive(Serialize)]
struct Node {
    id: u64,
    az: String,
    kinesis: String,
    peer: String,
    alive: bool,
    version: String,
    /// Of the disk with the log; `null` when the node did not answer.
    storage: Option<Storage>,
}

#[derive(Serialize)]
struct Storage {
    free_bytes: u64,
    total_bytes: u64,
    reserve_bytes: u64,
    low: bool,
}

/// `group` is a number, or `meta` for the metadata group, which has no stream and no shard.
#[derive(Serialize)]
struct Group {
    group: GroupName,
    stream: Option<String>,
    shard: Option<String>,
    leader: Option<u64>,
    term: u64,
    members: Vec<u64>,
    committed: u64,
    replicas: Vec<Replica>,
    /// Of streams on demand only, while a leader observes.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<Picture>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum GroupName {
    Meta(&'static str),
    Shard(u64),
}

#[derive(Serialize)]
struct Replica {
    node: u64,
    matched: u64,
    lag: u64,
}

impl From<ClusterStatusResponse> for Cluster {
    fn from(status: ClusterStatusResponse) -> Cluster {
        Cluster {
            cluster: status.cluster,
            nodes: status.nodes.into_iter().map(Node::from).collect(),
            groups: status.groups.into_iter().map(Group::from).collect(),
        }
    }
}

impl From<NodeStatus> for Node {
    fn from(node: NodeStatus) -> Node {
        let NodeStatus { id, az, kinesis, peer, alive, version, storage } = node;
        let storage = storage.map(|storage| Storage {
            free_bytes: storage.free_bytes,
            total_bytes: storage.total_bytes,
            reserve_bytes: storage.reserve_bytes,
            low: storage.low,
        });
        Node { id, az, kinesis, peer, alive, version, storage }
    }
}

impl From<GroupStatus> for Group {
    fn from(group: GroupStatus) -> Group {
        let meta = GroupId(group.group).is_meta();
        let replicas = group.replicas.into_iter();
        Group {
            group: if meta { GroupName::Meta("meta") } else { GroupName::Shard(group.group) },
            stream: (!meta).then_some(group.stream),
            shard: (!meta).then(|| ShardId::from(group.shard_index).to_string()),
            leader: (group.leader != 0).then_some(group.leader),
            term: group.term,
            members: group.members,
            committed: group.committed,
            replicas: replicas
                .map(|one| Replica { node: one.node, matched: one.matched, lag: one.lag })
                .collect(),
            load: group.load.map(|load| Picture::from(observed(load))),
        }
    }
}
