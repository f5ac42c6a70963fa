//! `tristream node`: one node, until it is told to stop or must.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::pid_file::{self, PidFile};
use super::tuning::Tuning;
use crate::config::{Config, NodeAddress};
use crate::{Node, World};

/// Arguments of `tristream node`: a settings file, or flags and variables for what has no default.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Settings file (TOML). With it, the other flags and variables are not looked at. A relative `data_dir` in
    /// it is meant from the file's own folder.
    #[arg(long, env = "TRISTREAM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Availability zone of this node: one of --nodes.
    #[arg(long, env = "TRISTREAM_AZ")]
    az: Option<String>,
    /// Folder of everything this node keeps.
    #[arg(long, env = "TRISTREAM_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// All three nodes as the others reach them: `az-a=host:peerport/host:kinesisport,az-b=...,az-c=...`.
    #[arg(long, env = "TRISTREAM_NODES", value_name = "NODES")]
    nodes: Option<String>,
    /// host:port to listen on for Kinesis and admin; by default the one in --nodes.
    #[arg(long, env = "TRISTREAM_KINESIS_LISTEN", value_name = "ADDRESS")]
    kinesis_listen: Option<String>,
    /// host:port to listen on for peers and native clients; by default the one in --nodes.
    #[arg(long, env = "TRISTREAM_PEER_LISTEN", value_name = "ADDRESS")]
    peer_listen: Option<String>,
    #[command(flatten)]
    tuning: Tuning,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.settings()?;
    // Listened for before anything starts, so that an early signal is a clean stop too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let data_dir = config.data_dir.clone();
    let (az, own) = (config.az.clone(), config.own().clone());
    let started = tokio::select! {
        started = Node::start(config, World::real()) => started,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    let node = started.map_err(|error| advise(error, &data_dir))?;
    let _pid_file = PidFile::write(&data_dir)
        .with_context(|| format!("cannot write {}", data_dir.join(pid_file::NAME).display()))?;
    tracing::info!(%az, kinesis = %own.kinesis, peer = %own.peer, "node started");
    let failure = tokio::select! {
        reason = node.failure() => Some(reason),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    tracing::info!(%az, "node stops");
    node.shutdown().await;
    match failure {
        Some(reason) => bail!("node {az} had to stop: {reason}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

impl Args {
    fn settings(&self) -> anyhow::Result<Config> {
        match &self.config {
            Some(path) => load(path),
            None => self.flag_settings(),
        }
    }

    fn flag_settings(&self) -> anyhow::Result<Config> {
        let (Some(az), Some(data_dir), Some(nodes)) = (&self.az, &self.data_dir, &self.nodes)
        else {
            bail!(
                "a node needs --config FILE, or --az, --data-dir and --nodes \
                 (or TRISTREAM_AZ, TRISTREAM_DATA_DIR and TRISTREAM_NODES)"
            );
        };
        let mut table = toml::Table::new();
        table.insert("az".to_owned(), az.clone().into());
        let data_dir = data_dir.to_str().context("--data-dir is not UTF-8")?;
        table.insert("data_dir".to_owned(), data_dir.into());
        table.insert("nodes".to_owned(), toml::Value::try_from(parse_nodes(nodes)?)?);
        // The rest has defaults, which `Config` knows.
        let mut config: Config = table.try_into()?;
        config.kinesis_listen = self.kinesis_listen.clone();
        config.peer_listen = self.peer_listen.clone();
        self.tuning.apply(&mut config);
        config.validate()?;
        Ok(config)
    }
}

/// Reads a settings file; its data folder is meant from where the file is, so that both can be moved.
pub(super) fn load(path: &Path) -> anyhow::Result<Config> {
    let mut config = Config::load(path)?;
    if config.data_dir.is_relative()
        && let Some(folder) = path.parent()
    {
        config.data_dir = match folder.join(&config.data_dir) {
            joined if joined.as_os_str().is_empty() => PathBuf::from("."),
            joined => joined,
        };
    }
    Ok(config)
}

fn parse_nodes(text: &str) -> anyhow::Result<Vec<NodeAddress>> {
    let node = |text: &str| {
        let (az, addresses) = text.trim().split_once('=')?;
        let (peer, kinesis) = addresses.split_once('/')?;
        let address = |text: &str| {
            let (host, port) = text.rsplit_once(':')?;
            let good = !host.is_empty() && port.parse::<u16>().is_ok();
            good.then(|| text.to_owned())
        };
        let good = !az.is_empty();
        let (peer, kinesis) = (address(peer)?, address(kinesis)?);
        good.then(|| NodeAddress { az: az.to_owned(), peer, kinesis })
    };
    text.split(',')
        .map(|part| {
            node(part).with_context(|| {
                format!("{part:?} in --nodes is not az=host:peerport/host:kinesisport")
            })
        })
        .collect()
}

/// Adds what to do to what the operating system said.
fn advise(error: anyhow::Error, data_dir: &Path) -> anyhow::Error {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(|e| e.kind());
    let dir = data_dir.display();
    let advice = match kind {
        Some(io::ErrorKind::AddrInUse) => {
            "another program listens there: stop it, or choose another port in the settings".into()
        }
        Some(io::ErrorKind::AddrNotAvailable) => {
            "this machine does not have that address: set kinesis_listen and peer_listen".into()
        }
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            format!("the node must be able to write to {dir}")
        }
        Some(io::ErrorKind::WouldBlock) => match pid_file::read(data_dir) {
            Some(pid) => format!("{dir} is in use, by process {pid} as it seems: stop it first"),
            None => format!("{dir} is in use by another process: stop it first"),
        },
        Some(io::ErrorKind::StorageFull) => format!("make room on the disk of {dir}"),
        _ => return error,
    };
    anyhow!("{error:#} ({advice})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tuning::Switch;

    const NODES: &str = "az-a=a:1/a:2,az-b=b:1/b:2, az-c=c:1/[::1]:2";

    fn args() -> Args {
        Args {
            config: None,
            az: Some("az-b".to_owned()),
            data_dir: Some("/data".into()),
            nodes: Some(NODES.to_owned()),
            kinesis_listen: None,
            peer_listen: Some("0.0.0.0:5567".to_owned()),
            tuning: Tuning::default(),
        }
    }

    #[test]
    fn settings_come_flag_settings() {
        let config = args().settings().expect("valid");
        assert_eq!(config.own().peer, "b:1");
        assert_eq!(config.nodes[2].kinesis, "[::1]:2");
        assert_eq!(config.data_dir, PathBuf::from("/data"));
        assert_eq!(config.peer_listen.as_deref(), Some("0.0.0.0:5567"));
        assert_eq!(config.raft, crate::config::Raft::default());
    }

    #[test]
    fn tuning_overrides_the_defaults_where_it_says_something() {
        let default = args().settings().expect("valid");
        let tuning =
            Tuning { quotas: Some(Switch::Off), retention_override: Some(90), ..Tuning::default() };
        let config = Args { tuning, ..args() }.settings().expect("valid");
        let expected = Config { quotas: false, retention_override_seconds: Some(90), ..default };
        assert_eq!(config, expected);
    }

    #[test]
    fn flags_that_make_no_node_are_refused() {
        let missing = Args { nodes: None, ..args() };
        let wrong_az = Args { az: Some("az-x".to_owned()), ..args() };
        let two = Args { nodes: Some("az-a=a:1/a:2,az-b=b:1/b:2".to_owned()), ..args() };
        for bad in [missing, wrong_az, two] {
            assert!(bad.settings().is_err(), "{bad:?}");
        }
        for bad in ["az-a", "az-a=a:1", "=a:1/a:2", "az-a=a:1/a", "az-a=:1/a:2", "az-a=a:1/a:99999"]
        {
            assert!(parse_nodes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_in_use_is_said_in_words() {
        let dir = tempfile::tempdir().expect("a folder");
        let _file = PidFile::write(dir.path()).expect("written");
        let refused = io::Error::from(io::ErrorKind::WouldBlock);
        let text = format!("{:#}", advise(anyhow::Error::new(refused), dir.path()));
        assert!(text.contains(&format!("by process {}", std::process::id())), "{text}");
    }
}
