//! Where the walk takes place: three processes or three containers.
//!
//! Must not know what is put or read.

use std::path::PathBuf;

use tokio::process::Command;
use tristream_cluster_tests::containers::Containers;
use tristream_cluster_tests::processes::{Cluster, Options, ZONES};

/// A running cluster.
pub(crate) enum Ground {
    /// `tristream up`.
    Processes(Box<Cluster>),
    /// docker-compose.yml.
    Containers(Containers),
}

impl Ground {
    /// Starts it, and waits until it serves.
    pub(crate) async fn start(compose: bool, binary: Option<PathBuf>) -> anyhow::Result<Ground> {
        if compose {
            return Ok(Ground::Containers(Containers::start().await?));
        }
        let cluster = Cluster::start(Options { binary, ..Options::default() }).await?;
        Ok(Ground::Processes(Box::new(cluster)))
    }

    /// host:port of a zone's Kinesis and admin door.
    pub(crate) fn kinesis(&self, zone: &str) -> anyhow::Result<String> {
        match self {
            Ground::Processes(cluster) => cluster.kinesis(zone),
            Ground::Containers(containers) => containers.kinesis(zone),
        }
    }

    /// The zone whose container runs the native client: it must not be killed.
    pub(crate) fn zone_of_client(&self) -> Option<&'static str> {
        match self {
            Ground::Processes(_) => None,
            Ground::Containers(_) => Some(ZONES[2]),
        }
    }

    /// The `tristream` command with these arguments, told where the cluster is. Peers' ports are not published by
    /// docker-compose, so there it runs inside the network.
    pub(crate) async fn tristream(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let (mut command, nodes) = match self {
            Ground::Processes(cluster) => {
                let nodes: anyhow::Result<Vec<String>> =
                    ZONES.iter().map(|zone| cluster.peer(zone)).collect();
                (Command::new(cluster.binary()), nodes?)
            }
            Ground::Containers(containers) => {
                let command = containers.exec(ZONES[2], "tristream").await?;
                (command, ZONES.iter().map(|zone| format!("{zone}:5567")).collect())
            }
        };
        command.args(arguments).args(["--endpoint", &nodes.join(",")]);
        Ok(command)
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self, zone: &str) -> anyhow::Result<()> {
        match self {
            Ground::Processes(cluster) => cluster.kill(zone).await,
            Ground::Containers(containers) => containers.kill(zone).await,
        }
    }

    /// Starts a killed node again.
    pub(crate) async fn restart(&mut self, zone: &str) -> anyhow::Result<()> {
        match self {
            Ground::Processes(cluster) => cluster.restart(zone),
            Ground::Containers(containers) => containers.restart(zone).await,
        }
    }

    /// Waits until a node started again serves.
    pub(crate) async fn wait_ready(&self, zone: &str) -> anyhow::Result<()> {
        match self {
            Ground::Processes(cluster) => cluster.wait_ready(zone).await,
            Ground::Containers(containers) => containers.wait_healthy(zone).await,
        }
    }
}
