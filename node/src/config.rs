//! The settings of a node, as `node.toml` holds them: read, checked once, and passed down.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// Settings of one node. Every field but `az`, `data_dir` and `nodes` has a default that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's availability zone: one of `nodes`.
    pub az: String,
    /// Folder of everything this node keeps.
    pub data_dir: PathBuf,
    /// Address to listen on for Kinesis and admin; by default the one `nodes` names for this AZ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinesis_listen: Option<String>,
    /// Address to listen on for peers and native clients; by default the one `nodes` names for this AZ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_listen: Option<String>,
    /// AWS account id that answers and ARNs carry: 12 digits.
    #[serde(default = "account_default")]
    pub account: String,
    /// AWS region that ARNs carry.
    #[serde(default = "region_default")]
    pub region: String,
    /// Times of Raft.
    #[serde(default)]
    pub raft: Raft,
    /// The shared log.
    #[serde(default)]
    pub log: Log,
    /// Life of a shard iterator, in seconds (AWS: 300).
    #[serde(default = "iterator_seconds_default")]
    pub iterator_seconds: u64,
    /// How long a put waits for a leader and a quorum, in milliseconds.
    #[serde(default = "put_deadline_ms_default")]
    pub put_deadline_ms: u64,
    /// Whether AWS's limits on control calls hold (half or double, changes per day). Default: yes.
    #[serde(default = "yes")]
    pub quotas: bool,
    /// Whether a put that is sent again is stored once (docs/deduplication.md). Default: yes.
    #[serde(default = "yes")]
    pub deduplicate: bool,
    /// Seconds for which records are kept, whatever their streams say: for tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_override_seconds: Option<u64>,
    /// Seconds over which a stream on demand looks for its peak (AWS: 30 days, and it never scales down;
    /// default: 600).
    #[serde(default = "on_demand_window_seconds_default")]
    pub on_demand_window_seconds: u64,
    /// Whether faults may be imposed on messages between nodes (docs/testing.md). For tests. Default: no.
    #[serde(default, skip_serializing_if = "is_no")]
    pub enable_faults: bool,
    /// What must be shown to impose faults from another machine; without it only this one may. At least 16
    /// characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_token: Option<String>,
    /// All three nodes, this one too, as the others reach them.
    pub nodes: Vec<NodeAddress>,
}

/// A node as others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeAddress {
    /// Its availability zone.
    pub az: String,
    /// host:port of gRPC.
    pub peer: String,
    /// host:port of Kinesis and admin.
    pub kinesis: String,
}

/// Times of Raft, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// Between two heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing for a random time between the two campaigns.
    pub election_timeout_ms_min: u64,
    /// See `election_timeout_ms_min`.
    pub election_timeout_ms_max: u64,
    /// How long the preferred leader of a shard must be back and caught up before leadership returns to it.
    pub rebalance_after_ms: u64,
}

impl Default for Raft {
    fn default() -> Self {
        Raft {
            heartbeat_ms: 200,
            election_timeout_ms_min: 600,
            election_timeout_ms_max: 1_000,
            rebalance_after_ms: 5_000,
        }
    }
}

/// Settings of the shared log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Size of a segment's file.
    pub segment_bytes: u64,
    /// Recent payloads kept in memory.
    pub tail_bytes: usize,
    /// Bytes that may wait for the disk.
    pub queue_bytes: usize,
    /// How fast segments are rewritten, to give space back and to bring a shard's records together.
    /// 0: not at all.
    pub rewrite_bytes_per_second: u64,
    /// How fast what is stored is read again, to look for damage. 0: not at all.
    pub scrub_bytes_per_second: u64,
    /// Bytes of the disk that are kept free of records, for votes, metadata, trims and deletes: with
    /// less free, puts are refused. 0 keeps nothing. Default: 5 % of the disk, but
    /// at least 1 GiB and at most 2 GiB; of a small disk at most a quarter, and at least two segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_bytes: Option<u64>,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            segment_bytes: 256 << 20,
            tail_bytes: 128 << 20,
            queue_bytes: 64 << 20,
            rewrite_bytes_per_second: 64 << 20,
            scrub_bytes_per_second: 8 << 20,
            reserve_bytes: None,
        }
    }
}

fn account_default() -> String {
    "000000000000".to_owned()
}

fn region_default() -> String {
    "us-east-1".to_owned()
}

fn iterator_seconds_default() -> u64 {
    300
}

fn yes() -> bool {
    true
}

fn is_no(what: &bool) -> bool {
    !what
}

fn on_demand_window_seconds_default() -> u64 {
    600
}

fn put_deadline_ms_default() -> u64 {
    5_000
}

impl Config {
    /// Reads and checks `node.toml`.
    pub fn load(path: &Path) -> anyhow::Result<Config> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read settings from {}", path.display()))?;
        let config: Config =
            toml::from_str(&text).with_context(|| format!("bad settings in {}", path.display()))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types cannot.
    pub fn validate(&self) -> anyhow::Result<()> {
        if self.nodes.len() != 3 {
            bail!("settings name {} nodes: a cluster has three, one per AZ", self.nodes.len());
        }
        let mut zones: Vec<&str> = self.nodes.iter().map(|node| node.az.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        if zones.len() != 3 {
            bail!("settings name an AZ twice: the three replicas must sit in three AZs");
        }
        if !zones.contains(&self.az.as_str()) {
            bail!("az {:?} is none of {}", self.az, zones.join(", "));
        }
        if self.account.len() != 12 || !self.account.bytes().all(|b| b.is_ascii_digit()) {
            bail!("account {:?} is not 12 digits", self.account);
        }
        let raft = &self.raft;
        if raft.heartbeat_ms == 0
            || raft.election_timeout_ms_min < 2 * raft.heartbeat_ms
            || raft.election_timeout_ms_max <= raft.election_timeout_ms_min
        {
            bail!(
                "raft: need heartbeat_ms > 0, election_timeout_ms_min >= 2 * heartbeat_ms, and max > min"
            );
        }
        if self.log.segment_bytes < 1 << 20 {
            bail!("log.segment_bytes must be at least 1 MiB");
        }
        if self.log.segment_bytes > 16 << 30 {
            bail!("log.segment_bytes must be at most 16 GiB");
        }
        if self.fault_token.as_ref().is_some_and(|token| token.len() < 16) {
            bail!("fault_token must have at least 16 characters");
        }
        Ok(())
    }

    /// This node's own entry in `nodes`.
    pub fn own(&self) -> &NodeAddress {
        match self.nodes.iter().find(|node| node.az == self.az) {
            Some(node) => node,
            None => unreachable!("checked by validate"),
        }
    }
}
