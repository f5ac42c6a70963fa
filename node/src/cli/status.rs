//! `tristream status`: nodes, groups, leaders and lag.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tokio::time::timeout;
use tristream_proto::wire;

use super::endpoints::{Endpoints, explain};
use super::fault::{self, Node};
use super::screen::{self, CLEAR, Colours};
use super::table::{Align, Table, WIDTH};
use crate::reshard::demand::{HotKey, Picture};
use crate::router::observed;

/// Pause between two pictures of `--watch`.
const WATCH_STEP: Duration = Duration::from_secs(1);
/// How long a node may take to tell its faults.
const FAULTS_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    endpoints: Endpoints,
    /// As JSON: one object, or one per line with --watch.
    #[arg(long)]
    json: bool,
    /// Show it again every second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.endpoints.quick_client()?;
    let clear = args.watch && !args.json && std::io::stdout().is_terminal();
    loop {
        let text = match client.cluster_status().await {
            Ok(status) => {
                let faults = faults(&status).await;
                match args.json {
                    true => as_json(&status, &faults).to_string(),
                    false => show(&status, &faults, Colours::of_stdout()).join("\n"),
                }
            }
            // Who watches wants to see the cluster come back.
            Err(error) if args.watch => {
                screen::say(format!("tristream: {error}"));
                tokio::time::sleep(WATCH_STEP).await;
                continue;
            }
            Err(error) => return Err(explain(error, &args.endpoints)),
        };
        screen::line(if clear { format!("{CLEAR}{text}") } else { text })?;
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(WATCH_STEP).await;
    }
}

/// What is on at each node (`tristream fault`), by zone; asked of themselves, for one that is cut off tells nobody else.
type Faults = BTreeMap<String, Vec<String>>;

async fn faults(status: &wire::ClusterStatusResponse) -> Faults {
    let nodes =
        status.nodes.iter().map(|node| Node { az: node.az.clone(), kinesis: node.kinesis.clone() });
    let asked = nodes.map(|node| async move {
        let words = timeout(FAULTS_MAX, fault::words(&node)).await.unwrap_or_default();
        (node.az, words)
    });
    join_all(asked).await.into_iter().filter(|(_, words)| !words.is_empty()).collect()
}

fn show(status: &wire::ClusterStatusResponse, faults: &Faults, colours: Colours) -> Vec<String> {
    let zones: BTreeMap<u64, &str> =
        status.nodes.iter().map(|node| (node.id, node.az.as_str())).collect();
    let mut lines = vec![summary(status, colours), String::new()];
    lines.extend(bold_head(&nodes(status), colours));
    lines.extend(status.nodes.iter().filter_map(nearly_full).map(|line| colours.bad(&line)));
    lines.push(String::new());
    lines.extend(bold_head(&groups(status, &zones), colours));
    let hot = status.groups.iter().filter_map(hot_key);
    lines.extend(hot.map(|line| colours.bad(&line)));
    for (zone, words) in faults {
        lines.extend(words.iter().map(|words| colours.bad(&format!("fault at {zone}: {words}"))));
    }
    lines
}

fn bold_head(table: &Table, colours: Colours) -> Vec<String> {
    let mut lines = table.lines(WIDTH);
    lines[0] = colours.bold(&lines[0]);
    lines
}

fn summary(status: &wire::ClusterStatusResponse, colours: Colours) -> String {
    let alive = status.nodes.iter().filter(|node| node.alive).count();
    let leaderless = status.groups.iter().filter(|group| group.leader == 0).count();
    let nodes = format!("{alive} of {} nodes alive", status.nodes.len());
    let groups = match leaderless {
        0 => format!("all {} groups led", status.groups.len()),
        n => format!("{n} of {} groups without leader", status.groups.len()),
    };
    let good = alive == status.nodes.len() && leaderless == 0;
    let health = format!("{nodes}, {groups}");
    format!("cluster {}: {}", status.cluster, if good { health } else { colours.bad(&health) })
}

fn nodes(status: &wire::ClusterStatusResponse) -> Table {
    let heads = [
        ("AZ", Align::Left),
        ("NODE", Align::Right),
        ("ALIVE", Align::Left),
        ("LEADS", Align::Right),
        ("KINESIS", Align::Left),
        ("PEER", Align::Left),
        ("VERSION", Align::Left),
    ];
    let mut table = Table::new(&heads, 4);
    for node in &status.nodes {
        let leads = status.groups.iter().filter(|group| group.leader == node.id).count();
        table.row(vec![
            node.az.clone(),
            node.id.to_string(),
            if node.alive { "yes" } else { "no" }.to_owned(),
            leads.to_string(),
            node.kinesis.clone(),
            node.peer.clone(),
            node.version.clone(),
        ]);
    }
    table
}

fn groups(status: &wire::ClusterStatusResponse, zones: &BTreeMap<u64, &str>) -> Table {
    let heads = [
        ("STREAM", Align::Left),
        ("SHARD", Align::Right),
        ("GROUP", Align::Right),
        ("LEADER", Align::Left),
        ("TERM", Align::Right),
        ("COMMITTED", Align::Right),
        ("LAG", Align::Left),
    ];
    let mut table = Table::new(&heads, 0);
    let zone = |node: u64| zones.get(&node).map_or_else(|| node.to_string(), |az| (*az).to_owned());
    for group in &status.groups {
        let meta = group.stream.is_empty();
        table.row(vec![
            if meta { "(metadata)".to_owned() } else { group.stream.clone() },
            if meta { "-".to_owned() } else { group.shard_index.to_string() },
            group.group.to_string(),
            if group.leader == 0 { "none".to_owned() } else { zone(group.leader) },
            group.term.to_string(),
            group.committed.to_string(),
            lag(group, &zone),
        ]);
    }
    table
}

fn picture(group: &wire::GroupStatus) -> Option<Picture> {
    group.load.clone().map(|load| Picture::from(observed(load)))
}

/// A line about a node whose disk is why puts are refused.
fn nearly_full(node: &wire::NodeStatus) -> Option<String> {
    let storage = node.storage.as_ref().filter(|storage| storage.low)?;
    Some(format!(
        "disk of {} nearly full: {} of {} free, {} kept free\n  \
         puts and new streams are refused until there is room",
        node.az,
        size(storage.free_bytes),
        size(storage.total_bytes),
        size(storage.reserve_bytes),
    ))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// A line about a shard whose load is on one key.
fn hot_key(group: &wire::GroupStatus) -> Option<String> {
    let Picture { peak_bytes, peak_records, hot_key, .. } = picture(group)?;
    let HotKey { key, share } = hot_key?;
    Some(format!(
        "hot key: {} shard {}: {:.0} % of up to {:.1} MiB/s, {peak_records} records/s\n  \
         have hash key {key}: no split can help",
        group.stream,
        group.shard_index,
        share * 100.0,
        peak_bytes as f64 / f64::from(1 << 20),
    ))
}

/// The replicas that are behind, by zone; `-` when none is known to be.
fn lag(group: &wire::GroupStatus, zone: &impl Fn(u64) -> String) -> String {
    let behind = group.replicas.iter().filter(|replica| replica.lag > 0);
    let text: Vec<String> =
        behind.map(|replica| format!("{} {}", zone(replica.node), replica.lag)).collect();
    if text.is_empty() { "-".to_owned() } else { text.join(", ") }
}

fn as_json(status: &wire::ClusterStatusResponse, faults: &Faults) -> serde_json::Value {
    let node = |node: &wire::NodeStatus| {
        let mut json = json!({
            "id": node.id,
            "az": node.az,
            "kinesis": node.kinesis,
            "peer": node.peer,
            "alive": node.alive,
            "version": node.version,
            "storage": node.storage.as_ref().map(|storage| json!({
                "free_bytes": storage.free_bytes,
                "total_bytes": storage.total_bytes,
                "reserve_bytes": storage.reserve_bytes,
                "low": storage.low,
            })),
        });
        if let Some(words) = faults.get(&node.az) {
            json["faults"] = json!(words);
        }
        json
    };
    let replica = |replica: &wire::ReplicaStatus| json!({ "node": replica.node, "matched": replica.matched, "lag": replica.lag });
    let group = |group: &wire::GroupStatus| {
        let meta = group.stream.is_empty();
        let mut json = json!({
            "group": if meta { json!("meta") } else { json!(group.group) },
            "stream": (!meta).then_some(&group.stream),
            "shard": (!meta).then(|| {
                tristream_proto::domain::ShardId::from(group.shard_index).to_string()
            }),
            "leader": (group.leader != 0).then_some(group.leader),
            "term": group.term,
            "members": group.members,
            "committed": group.committed,
            "replicas": group.replicas.iter().map(replica).collect::<Vec<_>>(),
        });
        if let Some(picture) = picture(group) {
            json["load"] = json!(picture);
        }
        json
    };
    json!({
        "cluster": status.cluster,
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        "groups": status.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(stream: &str) -> wire::ClusterStatusResponse {
        let node = |id: u64, az: &str, alive| wire::NodeStatus {
            id,
            az: az.to_owned(),
            kinesis: format!("127.0.0.1:{}", 4566 + id),
            peer: format!("127.0.0.1:{}", 5566 + id),
            alive,
            version: "0.1.0".to_owned(),
            storage: alive.then_some(wire::StorageStatus {
                free_bytes: 90 << 30,
                total_bytes: 100 << 30,
                reserve_bytes: 5 << 30,
                low: false,
            }),
        };
        let replica = |node, lag| wire::ReplicaStatus { node, matched: 1000 - lag, lag };
        let group = |group, stream: &str, leader| wire::GroupStatus {
            group,
            stream: stream.to_owned(),
            shard_index: 3,
            leader,
            term: 4,
            members: vec![1, 2, 3],
            committed: 1000,
            replicas: vec![replica(1, 0), replica(2, 0), replica(3, group * 17)],
            ..Default::default()
        };
        wire::ClusterStatusResponse {
            cluster: "c0ffee".to_owned(),
            nodes: vec![node(1, "az-a", true), node(2, "az-b", true), node(3, "az-c", false)],
            groups: vec![group(0, "", 1), group(7, stream, 2), group(8, stream, 0)],
        }
    }

    #[test]
    fn the_picture_of_a_cluster() {
        assert_eq!(
            show(&status("orders"), &Faults::new(), Colours::off()).join("\n"),
            "\
cluster c0ffee: 2 of 3 nodes alive, 1 of 3 groups without leader

AZ    NODE  ALIVE  LEADS  KINESIS         PEER            VERSION
az-a     1  yes        1  127.0.0.1:4567  127.0.0.1:5567  0.1.0
az-b     2  yes        1  127.0.0.1:4568  127.0.0.1:5568  0.1.0
az-c     3  no         0  127.0.0.1:4569  127.0.0.1:5569  0.1.0

STREAM      SHARD  GROUP  LEADER  TERM  COMMITTED  LAG
(metadata)      -      0  az-a       4       1000  -
orders          3      7  az-b       4       1000  az-c 119
orders          3      8  none       4       1000  az-c 136"
        );
    }

    #[test]
    fn a_disk_that_is_nearly_full_has_a_line() {
        let mut status = status("orders");
        let lines = show(&status, &Faults::new(), Colours::off()).len();
        let storage = status.nodes[1].storage.as_mut().expect("it is alive");
        (storage.free_bytes, storage.low) = (812 << 20, true);
        let shown = show(&status, &Faults::new(), Colours::off());
        assert_eq!(shown.len(), lines + 1);
        assert_eq!(
            shown[6],
            "disk of az-b nearly full: 812 MiB of 100.0 GiB free, 5.0 GiB kept free\n  \
             puts and new streams are refused until there is room"
        );
        let json = as_json(&status, &Faults::new());
        assert_eq!(json["nodes"][1]["storage"]["low"], true);
        assert!(json["nodes"][2]["storage"].is_null(), "it did not answer");
    }

    #[test]
    fn a_hot_key_has_a_line_and_its_load_is_in_the_json() {
        let mut status = status("orders");
        let lines = show(&status, &Faults::new(), Colours::off()).len();
        let key = bytes::Bytes::copy_from_slice(&77u128.to_be_bytes());
        let load = wire::ShardLoad {
            peak_bytes: 2 << 20,
            peak_records: 900,
            sampled_hash_keys: vec![key; 100],
            observed_ms: 60_000,
        };
        status.groups[1].load = Some(wire::ShardLoad { peak_bytes: 9, ..load.clone() });
        status.groups[1].load.as_mut().expect("just set").peak_records = 9;
        status.groups[2].load = Some(load);
        let shown = show(&status, &Faults::new(), Colours::off());
        assert_eq!(shown.len(), lines + 1, "a cold shard with one key has no line");
        assert_eq!(
            shown[lines],
            "hot key: orders shard 3: 100 % of up to 2.0 MiB/s, 900 records/s\n  \
             have hash key 77: no split can help"
        );
        let json = as_json(&status, &Faults::new());
        assert_eq!(json["groups"][2]["load"]["hot_key"]["hash_key"], "77");
        assert_eq!(json["groups"][1]["load"]["peak_bytes"], 9);
        assert!(json["groups"][1]["load"]["hot_key"].is_null());
        assert!(json["groups"][0].get("load").is_none());
    }

    #[test]
    fn a_fault_has_a_line_under_its_zone() {
        let status = status("orders");
        let faults = Faults::from([("az-b".to_owned(), vec!["no message to az-a".to_owned()])]);
        let shown = show(&status, &faults, Colours::off());
        assert_eq!(shown.last().expect("lines"), "fault at az-b: no message to az-a");
        let json = as_json(&status, &faults);
        assert_eq!(json["nodes"][1]["faults"][0], "no message to az-a");
        assert!(json["nodes"][0].get("faults").is_none());
    }

    #[test]
    fn long_names_do_not_widen_it() {
        let long = "x".repeat(128);
        for line in show(&status(&long), &Faults::new(), Colours::off()) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let all = show(&status(&long), &Faults::new(), Colours::off()).join("\n");
        assert!(all.contains("…"));
    }

    #[test]
    fn as_json_it_says_what_the_http_door_says() {
        let json = as_json(&status("orders"), &Faults::new());
        assert_eq!(json["groups"][0]["group"], "meta");
        assert_eq!(json["groups"][1]["shard"], "shardId-000000000003");
        assert_eq!(json["groups"][2]["leader"], serde_json::Value::Null);
        assert_eq!(json["nodes"][2]["alive"], false);
    }
}
