//! A cluster of three real processes on loopback, as `tristream up` makes it, and real signals to them.
//!
//! Owns the processes and the folder. Invariant: when a `Cluster` is dropped, none of its processes is left. Must
//! not know what is stored.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{admin, binary, command, ports, raw_http};

/// The three availability zones, in the order of their ports.
pub const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];
/// For a start or an end of processes on a busy machine.
pub const PROCESS_LIMIT: Duration = Duration::from_secs(60);

/// How to start. The default is an empty folder of its own, removed at the end.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The binary; by default the one beside the running test.
    pub binary: Option<PathBuf>,
    /// First Kinesis and first peer port; by default free ones.
    pub ports: Option<(u16, u16)>,
    /// Further arguments of `tristream up`.
    pub up_arguments: Vec<String>,
}

/// Three nodes.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    up_arguments: Vec<String>,
    folder: tempfile::TempDir,
    kinesis_port: u16,
    peer_port: u16,
    up: Option<Child>,
    /// Nodes started again by hand, by zone.
    by_hand: [Option<Child>; 3],
}

impl Cluster {
    /// Starts three nodes on free ports in an empty folder and waits until they are ready.
    pub async fn start(options: Options) -> anyhow::Result<Cluster> {
        let binary = match options.binary {
            Some(path) => std::path::absolute(path)?,
            None => tokio::task::spawn_blocking(binary::tristream).await??,
        };
        let folder = tempfile::Builder::new().prefix("tristream-").tempdir()?;
        let (kinesis_port, peer_port) = match options.ports {
            Some(ports) => ports,
            None => {
                let first = ports::free(3, None)?;
                (first, ports::free(3, Some(first))?)
            }
        };
        let mut cluster = Cluster {
            binary,
            up_arguments: options.up_arguments,
            folder,
            kinesis_port,
            peer_port,
            up: None,
            by_hand: [None, None, None],
        };
        cluster.up().await?;
        Ok(cluster)
    }

    /// The same, with each node's settings changed by `change` before it holds any stream.
    pub async fn start_with(
        options: Options,
        change: impl Fn(&mut toml::Table),
    ) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::start(options).await?;
        cluster.stop().await?;
        for zone in ZONES {
            let path = cluster.data_dir().join(zone).join("node.toml");
            let mut settings: toml::Table = toml::from_str(&std::fs::read_to_string(&path)?)?;
            change(&mut settings);
            std::fs::write(&path, toml::to_string(&settings)?)?;
        }
        cluster.up().await?;
        Ok(cluster)
    }

    /// Runs `tristream up` on the folder, which may hold everything of an earlier run, and waits until it is ready.
    pub async fn up(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.wait_up().await
    }

    /// Runs `tristream up` and does not wait for anything.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        if self.up.is_some() {
            bail!("the cluster is up already");
        }
        let out = self.folder.path().join("up.out");
        let err = self.folder.path().join("up.err");
        let mut command = Command::new(&self.binary);
        command
            .arg("up")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--port", &self.kinesis_port.to_string()])
            .args(["--peer-port", &self.peer_port.to_string()])
            .args(&self.up_arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::options().create(true).append(true).open(&err)?);
        self.up = Some(command.spawn().context("cannot run `tristream up`")?);
        Ok(())
    }

    /// Waits until `tristream up` says that all three are ready.
    pub async fn wait_up(&mut self) -> anyhow::Result<()> {
        let out = self.folder.path().join("up.out");
        let up = self.up.as_mut().context("nobody ran `tristream up`")?;
        let ready = admin::wait("the line `ready` of `tristream up`", PROCESS_LIMIT, || {
            let ended = up.try_wait();
            let printed = std::fs::read_to_string(&out);
            async move {
                if let Some(status) = ended? {
                    return Ok(Some(Err(status)));
                }
                Ok(printed?.lines().any(|line| line.starts_with("ready")).then_some(Ok(())))
            }
        });
        match ready.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                self.up = None;
                bail!("`tristream up` ended with {status}:\n{}", self.last_words())
            }
            Err(error) => bail!("{error:#}:\n{}", self.last_words()),
        }
    }

    /// The binary that the nodes run.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The folder given as `--data-dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// host:port of a zone's Kinesis and admin door.
    pub fn kinesis(&self, zone: &str) -> anyhow::Result<String> {
        Ok(format!("127.0.0.1:{}", self.kinesis_port + number(zone)?))
    }

    /// host:port of a zone's gRPC.
    pub fn peer(&self, zone: &str) -> anyhow::Result<String> {
        Ok(format!("127.0.0.1:{}", self.peer_port + number(zone)?))
    }

    /// `kill -9` of a zone's node, and waits until it is gone.
    pub async fn kill(&mut self, zone: &str) -> anyhow::Result<()> {
        self.signal(zone, Signal::KILL)?;
        self.wait_gone(zone).await
    }

    /// Sends a zone's node SIGTERM, and waits until it is gone.
    pub async fn terminate(&mut self, zone: &str) -> anyhow::Result<()> {
        self.signal(zone, Signal::TERM)?;
        self.wait_gone(zone).await
    }

    /// Starts a dead node again, as a person would: `tristream node --config DIR/az-x/node.toml`.
    pub fn restart(&mut self, zone: &str) -> anyhow::Result<()> {
        if self.is_running(zone) {
            bail!("{zone} runs");
        }
        let log = self.folder.path().join(format!("{zone}.by-hand.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.binary);
        command
            .args(["node", "--config"])
            .arg(self.data_dir().join(zone).join("node.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("cannot run `tristream node`")?;
        self.by_hand[usize::from(number(zone)?)] = Some(child);
        Ok(())
    }

    /// Waits until a zone's node answers 200 at `/readyz`.
    pub async fn wait_ready(&self, zone: &str) -> anyhow::Result<()> {
        let kinesis = self.kinesis(zone)?;
        admin::wait(&format!("{zone} to be ready"), PROCESS_LIMIT, async || {
            Ok(admin::is_ready(&kinesis).await.then_some(()))
        })
        .await
        .with_context(|| self.last_words())
    }

    /// Waits until a zone's node answers requests of its own: it may still have to find leaders, which it cannot while
    /// it is cut off.
    pub async fn wait_serving(&self, zone: &str) -> anyhow::Result<()> {
        let kinesis = self.kinesis(zone)?;
        admin::wait(&format!("{zone} to serve"), PROCESS_LIMIT, async || {
            let answer = raw_http::get(&kinesis, "/healthz", Duration::from_secs(5)).await;
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
        .await
        .with_context(|| self.last_words())
    }

    /// Whether a zone's node is stopped by a signal.
    pub fn is_paused(&self, zone: &str) -> bool {
        self.pid(zone).is_ok_and(|pid| state(pid).is_some_and(|state| state.starts_with('T')))
    }

    /// SIGSTOP: the node is there and does nothing.
    pub fn pause(&self, zone: &str) -> anyhow::Result<()> {
        self.signal(zone, Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&self, zone: &str) -> anyhow::Result<()> {
        self.signal(zone, Signal::CONT)
    }

    /// Ctrl-C, and waits until all three have ended. The folder stays: [`Cluster::up`] starts on it again.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        for zone in ZONES {
            if let Some(child) = &self.by_hand[usize::from(number(zone)?)] {
                let _ = kill_process(Pid::from_child(child), Signal::TERM);
            }
        }
        if let Some(up) = &self.up {
            kill_process(Pid::from_child(up), Signal::INT).context("Ctrl-C")?;
        }
        for zone in ZONES {
            self.wait_gone(zone).await?;
        }
        self.wait_up_gone().await
    }

    /// `kill -9` of all three at once, and of the `up` that watches them.
    pub async fn kill_all(&mut self) -> anyhow::Result<()> {
        if let Some(up) = &self.up {
            let _ = kill_process(Pid::from_child(up), Signal::KILL);
        }
        for zone in ZONES {
            let _ = self.signal(zone, Signal::KILL);
        }
        for zone in ZONES {
            self.wait_gone(zone).await?;
        }
        self.wait_up_gone().await
    }

    /// Whether a zone's node is a living process.
    pub fn is_running(&self, zone: &str) -> bool {
        self.pid(zone).is_ok_and(runs)
    }

    /// The end of what the processes wrote to stderr, for a failing test to print.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        let mut files = vec!["up.err".to_owned()];
        for zone in ZONES {
            files.push(format!("data/{zone}/node.log"));
            files.push(format!("{zone}.by-hand.log"));
        }
        for file in files {
            if let Ok(text) = std::fs::read_to_string(self.folder.path().join(&file)) {
                words.push_str(&format!("--- {file}\n{}\n", command::tail(&text, 25)));
            }
        }
        words
    }

    fn kill_by_file(&self) {
        for zone in ZONES {
            let path = self.data_dir().join(zone).join("node.pid");
            let pid = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw)
                && is_ours(pid, &self.data_dir())
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    fn signal(&self, zone: &str, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.pid(zone)?, signal).with_context(|| format!("{signal:?} to {zone}"))
    }

    /// The newest process of the zone: the one started by hand, else the one that `up` started.
    pub fn pid(&self, zone: &str) -> anyhow::Result<Pid> {
        if let Some(child) = &self.by_hand[usize::from(number(zone)?)] {
            return Ok(Pid::from_child(child));
        }
        let path = self.data_dir().join(zone).join("node.pid");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        pid.with_context(|| format!("{} holds no process id: {text:?}", path.display()))
    }

    async fn wait_gone(&mut self, zone: &str) -> anyhow::Result<()> {
        let number = usize::from(number(zone)?);
        let by_hand = &mut self.by_hand[number];
        if let Some(mut child) = by_hand.take() {
            return admin::wait(&format!("{zone} to end"), PROCESS_LIMIT, || {
                let ended = child.try_wait();
                async { Ok(ended?.map(|_| ())) }
            })
            .await;
        }
        let Ok(pid) = self.pid(zone) else { return Ok(()) };
        admin::wait(&format!("{zone} to end"), PROCESS_LIMIT, async || {
            Ok((!runs(pid)).then_some(()))
        })
        .await?;
        self.wait_ports_free(zone).await
    }

    /// A process that we did not start looks dead when its first thread is: its others may still hold the doors.
    async fn wait_ports_free(&self, zone: &str) -> anyhow::Result<()> {
        for door in [self.kinesis(zone)?, self.peer(zone)?] {
            admin::wait(&format!("{door} to be free"), PROCESS_LIMIT, async || {
                Ok(TcpListener::bind(&door).is_ok().then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn wait_up_gone(&mut self) -> anyhow::Result<()> {
        let Some(mut up) = self.up.take() else { return Ok(()) };
        let gone = admin::wait("`tristream up` to end", PROCESS_LIMIT, || {
            let ended = up.try_wait();
            async { Ok(ended?.map(|_| ())) }
        });
        let gone = gone.await;
        if gone.is_err() {
            self.up = Some(up);
        }
        gone
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.by_hand.iter_mut().flatten() {
            end(child);
        }
        self.kill_by_file();
        // `up` knows of nodes that have not yet written their file: it is asked first, so that it ends them.
        if let Some(up) = &mut self.up {
            let _ = kill_process(Pid::from_child(up), Signal::TERM);
            for _ in 0..400 {
                if !matches!(up.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            end(up);
        }
        self.kill_by_file();
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Process ids are used again: only a process that was started on our folder may be killed by its file.
fn is_ours(pid: Pid, folder: &Path) -> bool {
    let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
    arguments.is_ok_and(|arguments| {
        String::from_utf8_lossy(&arguments).contains(&*folder.to_string_lossy())
    })
}

/// Neither gone nor a zombie.
fn runs(pid: Pid) -> bool {
    state(pid).is_some_and(|state| !state.starts_with('Z') && !state.starts_with('X'))
}

/// The letter of its state, and what follows.
fn state(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.ok().and_then(|stat| stat.rsplit_once(')').map(|(_, rest)| rest.trim().to_owned()))
}

fn number(zone: &str) -> anyhow::Result<u16> {
    let found = ZONES.iter().position(|known| *known == zone);
    found.and_then(|at| u16::try_from(at).ok()).with_context(|| format!("no zone {zone:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_does_not_run() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(runs(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!runs(pid));
    }

    #[test]
    fn a_foreign_process_is_not_ours() {
        let own = Pid::from_raw(std::process::id().try_into().unwrap()).unwrap();
        assert!(!is_ours(own, Path::new("/nobody/starts/on/this")));
    }
}
