//! Where the three nodes of `up` keep their files and which ports they use.
//!
//! Invariant: settings once written are never changed by `up`. A second start reads them; flags that
//! contradict them are refused, since nodes that moved to other ports would not find each other.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::tuning::Tuning;
use crate::cli::{node, pid_file};
use crate::config::NodeAddress;
use crate::disk::{Disk, RealDisk};

const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];
const PORT_DEFAULT: u16 = 4567;
const PEER_PORT_DEFAULT: u16 = 5567;
const CONFIG_NAME: &str = "node.toml";

/// The native addresses that the client commands use when told nothing.
pub(super) const PEERS_DEFAULT: &str = "127.0.0.1:5567,127.0.0.1:5568,127.0.0.1:5569";

/// The folder of a cluster.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    /// One per AZ.
    pub(super) places: Vec<Place>,
    nodes: Vec<NodeAddress>,
    /// What a new settings file says beyond addresses.
    tuning: Tuning,
}

/// Where one node lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) az: String,
    pub(super) dir: PathBuf,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    pub(super) kinesis: String,
    pub(super) peer: String,
}

impl Place {
    /// Whether a process runs the node of this folder.
    pub(super) fn is_taken(&self) -> bool {
        RealDisk.lock(&self.dir).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Layout {
    /// Reads the settings in `dir`, or makes up those of a new folder. Writes nothing.
    pub(super) fn find(
        dir: &Path,
        port: Option<u16>,
        peer_port: Option<u16>,
        tuning: &Tuning,
    ) -> anyhow::Result<Layout> {
        let found = read_nodes(dir)?;
        let (nodes, tuning) = match found {
            Some(nodes) => {
                check_flags(dir, &nodes, port, peer_port)?;
                let known = read_tuning(dir, tuning)?;
                (nodes, known.unwrap_or_else(|| tuning.clone()))
            }
            None => {
                let (port, peer_port) =
                    (port.unwrap_or(PORT_DEFAULT), peer_port.unwrap_or(PEER_PORT_DEFAULT));
                (addresses(port, peer_port)?, tuning.clone())
            }
        };
        let place = |node: &NodeAddress| Place {
            az: node.az.clone(),
            dir: dir.join(&node.az),
            config: dir.join(&node.az).join(CONFIG_NAME),
            log: dir.join(&node.az).join("node.log"),
            kinesis: node.kinesis.clone(),
            peer: node.peer.clone(),
        };
        let places = nodes.iter().map(place).collect();
        Ok(Layout { dir: dir.to_owned(), places, nodes, tuning })
    }

    /// Writes the settings that are missing.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        ZONES.iter().try_for_each(|az| write_missing(&self.dir, az, &self.nodes, &self.tuning))
    }

    /// Fails when a node of this folder runs already, or a port is taken.
    pub(super) fn check_free(&self) -> anyhow::Result<()> {
        for place in self.places.iter().filter(|place| place.dir.is_dir()) {
            if place.is_taken() {
                let process = match pid_file::read(&place.dir) {
                    Some(pid) => format!("process {pid}"),
                    None => "another process".to_owned(),
                };
                bail!(
                    "node {} of {} runs already ({process}): end it first (`kill PID`), \
                     or choose another --data-dir, --port and --peer-port",
                    place.az,
                    self.dir.display()
                );
            }
        }
        for (address, flag) in self
            .places
            .iter()
            .flat_map(|place| [(&place.kinesis, "--port"), (&place.peer, "--peer-port")])
        {
            if let Err(error) = TcpListener::bind(address) {
                bail!(
                    "cannot listen on {address}: {error}; does another cluster run? \
                     End it, or choose another --data-dir with other ports ({flag})"
                );
            }
        }
        Ok(())
    }
}

/// The addresses of three nodes on this machine.
fn addresses(port: u16, peer_port: u16) -> anyhow::Result<Vec<NodeAddress>> {
    for (flag, first) in [("--port", port), ("--peer-port", peer_port)] {
        if first > u16::MAX - 2 {
            bail!("{flag} {first}: three ports from there on do not exist");
        }
    }
    if port.abs_diff(peer_port) < 3 {
        bail!("--port {port} and --peer-port {peer_port} overlap: each stands for three ports");
    }
    let node = |(i, az): (u16, &str)| NodeAddress {
        az: az.to_owned(),
        peer: format!("127.0.0.1:{}", peer_port + i),
        kinesis: format!("127.0.0.1:{}", port + i),
    };
    Ok((0..).zip(ZONES).map(node).collect())
}

/// The nodes that the folder's settings name; they must agree. `None` in a new folder.
fn read_nodes(dir: &Path) -> anyhow::Result<Option<Vec<NodeAddress>>> {
    let mut known: Option<(PathBuf, Vec<NodeAddress>)> = None;
    for az in ZONES {
        let path = dir.join(az).join(CONFIG_NAME);
        if !path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
            continue;
        }
        let config = node::load(&path)?;
        if config.az != az {
            bail!("{} is of {}, not of {az}: restore it, or delete it", path.display(), config.az);
        }
        match &known {
            None => known = Some((path, config.nodes)),
            Some((_, nodes)) if *nodes == config.nodes => {}
            Some((first, _)) => bail!(
                "{} and {} name different nodes: make them agree, or delete the wrong one",
                first.display(),
                path.display()
            ),
        }
    }
    let Some((path, mut nodes)) = known else { return Ok(None) };
    nodes.sort_by(|a, b| a.az.cmp(&b.az));
    if !nodes.iter().map(|node| node.az.as_str()).eq(ZONES) {
        bail!(
            "{} names other AZs than {}: `up` did not write it",
            path.display(),
            ZONES.join(", ")
        );
    }
    Ok(Some(nodes))
}

fn check_flags(
    dir: &Path,
    nodes: &[NodeAddress],
    port: Option<u16>,
    peer_port: Option<u16>,
) -> anyhow::Result<()> {
    let address = |first: Option<u16>| first.map(|port| format!("127.0.0.1:{port}"));
    for (flag, wanted, stands) in [
        ("--port", address(port), &nodes[0].kinesis),
        ("--peer-port", address(peer_port), &nodes[0].peer),
    ] {
        if wanted.is_some_and(|wanted| wanted != *stands) {
            bail!(
                "the cluster in {} was made with {stands}: leave {flag} out, \
                 or edit az-*/{CONFIG_NAME} in it, or choose another --data-dir",
                dir.display()
            );
        }
    }
    Ok(())
}

/// What the folder's settings say beyond addresses. Fails when flags say other.
fn read_tuning(dir: &Path, flags: &Tuning) -> anyhow::Result<Option<Tuning>> {
    let mut known = None;
    for az in ZONES {
        let path = dir.join(az).join(CONFIG_NAME);
        if !path.exists() {
            continue;
        }
        let config = node::load(&path)?;
        if let Some((setting, stands)) = flags.contradiction(&config) {
            let stands = match stands {
                Some(value) => format!("{} = {value}", setting.key),
                None => format!("no {}", setting.key),
            };
            bail!(
                "the settings in {} say {stands}: leave {} out, or edit az-*/{CONFIG_NAME} in {}, \
                 or choose another --data-dir",
                path.display(),
                setting.flag,
                dir.display()
            );
        }
        known.get_or_insert(Tuning::of(&config));
    }
    Ok(known)
}

fn write_missing(
    dir: &Path,
    az: &str,
    nodes: &[NodeAddress],
    tuning: &Tuning,
) -> anyhow::Result<()> {
    let folder = dir.join(az);
    let path = folder.join(CONFIG_NAME);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    if path.exists() {
        return Ok(());
    }
    // By way of a second name, so that a crash leaves no half of a file that counts as settings.
    let draft = folder.join(format!("{CONFIG_NAME}.new"));
    let write = || -> io::Result<()> {
        fs::write(&draft, settings(az, nodes, tuning))?;
        fs::rename(&draft, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// What `node.toml` says: only what has no default. `data_dir` is meant from the file's own folder, so that
/// the whole can be moved.
fn settings(az: &str, nodes: &[NodeAddress], tuning: &Tuning) -> String {
    let mut text = format!(
        "# A node of `tristream up`. Run it alone with `tristream node --config` and this file.\n\
         az = \"{az}\"\ndata_dir = \".\"\n"
    );
    text += &tuning.lines();
    for node in nodes {
        text += &format!(
            "\n[[nodes]]\naz = \"{}\"\npeer = \"{}\"\nkinesis = \"{}\"\n",
            node.az, node.peer, node.kinesis
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tuning::Switch;
    use crate::config::Config;

    fn prepare(dir: &Path, port: Option<u16>, peer: Option<u16>) -> anyhow::Result<Layout> {
        prepare_with(dir, port, peer, &Tuning::default())
    }

    fn prepare_with(
        dir: &Path,
        port: Option<u16>,
        peer: Option<u16>,
        tuning: &Tuning,
    ) -> anyhow::Result<Layout> {
        let layout = Layout::find(dir, port, peer, tuning)?;
        layout.write()?;
        Ok(layout)
    }

    #[test]
    fn looking_touches_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::find(&dir.path().join("new"), Some(7000), None, &Tuning::default())
            .expect("found");
        assert_eq!(layout.places.len(), 3);
        let _ = layout.check_free();
        assert!(!dir.path().join("new").exists());
    }

    fn kinesis(layout: &Layout) -> Vec<&str> {
        layout.places.iter().map(|place| place.kinesis.as_str()).collect()
    }

    #[test]
    fn settings_are_written_so_that_a_node_can_read_them() {
        let nodes = addresses(7000, 8000).expect("valid");
        let config: Config =
            toml::from_str(&settings("az-b", &nodes, &Tuning::default())).expect("a node reads it");
        config.validate().expect("valid");
        assert_eq!(config.az, "az-b");
        assert_eq!(config.nodes, nodes);
        assert_eq!(config.own().kinesis, "127.0.0.1:7001");
        assert_eq!(config.own().peer, "127.0.0.1:8001");
    }

    #[test]
    fn a_node_keeps_its_files_beside_its_settings() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = prepare(dir.path(), None, None).expect("prepared");
        let config = node::load(&layout.places[2].config).expect("a node reads it");
        let (found, expected) =
            (config.data_dir.canonicalize(), layout.places[2].dir.canonicalize());
        assert_eq!(found.expect("there"), expected.expect("there"));
        assert_eq!(kinesis(&layout), ["127.0.0.1:4567", "127.0.0.1:4568", "127.0.0.1:4569"]);
        let peers: Vec<&str> = layout.places.iter().map(|place| place.peer.as_str()).collect();
        assert_eq!(peers.join(","), PEERS_DEFAULT);
    }

    #[test]
    fn a_second_start_keeps_the_ports_of_the_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = prepare(dir.path(), Some(7000), Some(8000)).expect("prepared");
        for (port, peer_port) in [(None, None), (Some(7000), None), (Some(7000), Some(8000))] {
            let second = prepare(dir.path(), port, peer_port).expect("prepared again");
            assert_eq!(second.places, first.places);
        }
        for (port, peer_port) in [(Some(7001), None), (None, Some(5567))] {
            let refused = prepare(dir.path(), port, peer_port).expect_err("contradicts");
            assert!(refused.to_string().contains("was made with"), "{refused}");
        }
    }

    #[test]
    fn what_the_user_changed_in_the_settings_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = prepare(dir.path(), None, None).expect("prepared");
        let path = &layout.places[0].config;
        let text = fs::read_to_string(path)
            .expect("written")
            .replace("data_dir", "put_deadline_ms = 77\ndata_dir");
        fs::write(path, text).expect("edited");
        fs::remove_file(&layout.places[1].config).expect("lost");
        prepare(dir.path(), None, None).expect("prepared again");
        assert_eq!(node::load(path).expect("readable").put_deadline_ms, 77);
        assert_eq!(node::load(&layout.places[1].config).expect("written anew").az, "az-b");
    }

    #[test]
    fn tuning_is_written_once_and_stands() {
        let dir = tempfile::tempdir().expect("a folder");
        let tuning = Tuning {
            quotas: Some(Switch::Off),
            dedupe: Some(Switch::Off),
            retention_override: Some(90),
            on_demand_window: Some(60),
            enable_faults: Some(Switch::On),
            fault_token: Some("quote \" and sixteen".to_owned()),
        };
        let layout = prepare_with(dir.path(), None, None, &tuning).expect("prepared");
        for place in &layout.places {
            let config = node::load(&place.config).expect("a node reads it");
            assert_eq!(Tuning::of(&config), tuning);
        }
        fs::remove_file(&layout.places[1].config).expect("lost");
        prepare(dir.path(), None, None).expect("no flag contradicts");
        let anew = node::load(&layout.places[1].config).expect("written anew");
        assert_eq!(Tuning::of(&anew), tuning, "as the others are");
        let other = Tuning { retention_override: Some(91), ..Tuning::default() };
        let refused = prepare_with(dir.path(), None, None, &other).expect_err("contradicts");
        let text = refused.to_string();
        assert!(text.contains("retention_override_seconds = 90"), "{text}");
        assert!(text.contains("leave --retention-override out"), "{text}");
    }

    #[test]
    fn settings_that_do_not_agree_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = prepare(dir.path(), None, None).expect("prepared");
        let path = &layout.places[1].config;
        let text = fs::read_to_string(path).expect("written");
        fs::write(path, text.replace("4569", "9999")).expect("edited");
        assert!(prepare(dir.path(), None, None).is_err());
        fs::write(path, text.replacen("az-b", "az-c", 1)).expect("edited");
        assert!(prepare(dir.path(), None, None).is_err());
    }

    #[test]
    fn ports_that_cannot_be_are_refused() {
        assert!(addresses(65534, 5567).is_err());
        assert!(addresses(4567, 65534).is_err());
        assert!(addresses(5000, 5002).is_err());
        assert!(addresses(5000, 5003).is_ok());
    }

    #[test]
    fn a_taken_port_and_a_taken_folder_are_said_in_words() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("some port");
        let address = taken.local_addr().expect("bound").to_string();
        let dir = tempfile::tempdir().expect("a folder");
        let mut layout = prepare(dir.path(), None, None).expect("prepared");
        for place in &mut layout.places {
            place.kinesis = "127.0.0.1:0".to_owned();
            place.peer = "127.0.0.1:0".to_owned();
        }
        layout.check_free().expect("nothing is taken");
        layout.places[1].kinesis = address.clone();
        let text = layout.check_free().expect_err("taken").to_string();
        assert!(text.contains(&address) && text.contains("--port"), "{text}");

        let _lock = RealDisk.lock(&layout.places[2].dir).expect("free");
        fs::write(layout.places[2].dir.join(pid_file::NAME), "4711\n").expect("written");
        let text = layout.check_free().expect_err("taken").to_string();
        assert!(text.contains("az-c") && text.contains("4711"), "{text}");
    }
}
