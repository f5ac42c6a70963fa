//! Faults of processes: signals to the nodes that a `tristream up` on this machine runs.
//!
//! Invariant: a process is signalled only if the file that names it is of the cluster's folder, and it is a `tristream`
//! that runs a node (or `up`): process ids are used again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::{Instant, sleep};

use super::{Done, Nodes};
use crate::cli::{pid_file, screen};

/// For a killed process to be gone, or a new one to be there.
const CHANGE_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A cluster's folder.
pub(super) struct Folder {
    dir: PathBuf,
    zones: Vec<String>,
}

impl Folder {
    /// The folder of `tristream up`. Fails if it is none.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Folder> {
        let mut zones = Vec::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().join("node.toml").is_file() {
                zones.extend(entry.file_name().into_string());
            }
        }
        zones.sort_unstable();
        if zones.is_empty() {
            bail!(
                "{} holds no cluster of `tristream up`: name its folder with --data-dir",
                dir.display()
            );
        }
        Ok(Folder { dir: dir.to_owned(), zones })
    }

    fn check(&self, zones: &[String]) -> anyhow::Result<()> {
        match zones.iter().find(|zone| !self.zones.contains(zone)) {
            Some(strange) => {
                bail!("no node is in {strange:?}: the zones are {}", self.zones.join(", "))
            }
            None => Ok(()),
        }
    }

    /// The process that runs the node of a zone.
    fn node(&self, zone: &str) -> Option<Pid> {
        running(pid_file::read(&self.dir.join(zone))?, "node")
    }

    /// The `up` that watches over the nodes.
    fn up(&self) -> Option<Pid> {
        running(pid_file::read_up(&self.dir)?, "up")
    }

    fn must_run(&self, zone: &str) -> anyhow::Result<Pid> {
        let how = || format!("node {zone} does not run: start it with {}", self.by_hand(zone));
        self.node(zone).with_context(how)
    }

    fn by_hand(&self, zone: &str) -> String {
        let config = self.dir.join(zone).join("node.toml");
        format!("`tristream node --config {}`", config.display())
    }
}

/// The process of this number, if it is alive and was started as `tristream COMMAND`.
fn running(number: u32, command: &str) -> Option<Pid> {
    let pid = Pid::from_raw(i32::try_from(number).ok()?)?;
    test_kill_process(pid).ok()?;
    // Where the system does not tell, the file must do.
    let Ok(arguments) = std::fs::read(format!("/proc/{number}/cmdline")) else {
        return (!Path::new("/proc/self").exists()).then_some(pid);
    };
    let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
    arguments.any(|argument| argument == command.as_bytes()).then_some(pid)
}

/// Whether a process is stopped; where the system does not tell, it may be.
fn may_be_stopped(pid: Pid) -> bool {
    is_in_state(pid, ['T', 't']).unwrap_or(true)
}

/// Whether a killed process is gone. While it dies its command line is gone first, and what it has
/// open much later.
fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err() || is_in_state(pid, ['Z', 'X']).unwrap_or(false)
}

/// Whether a process is in one of these states; `None` where the system does not tell.
fn is_in_state(pid: Pid, states: [char; 2]) -> Option<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Some(stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(states)))
}

fn signal(zone: &str, pid: Pid, signal: Signal) -> anyhow::Result<()> {
    kill_process(pid, signal)
        .with_context(|| format!("cannot signal node {zone} (process {pid:?})"))
}

pub(super) async fn pause(nodes: Nodes, json: bool) -> anyhow::Result<ExitCode> {
    let Nodes { az, last, data_dir } = nodes;
    let folder = Folder::open(&data_dir)?;
    folder.check(&az)?;
    for zone in &az {
        let pid = folder.must_run(zone)?;
        signal(zone, pid, Signal::STOP)?;
        let until = match last {
            Some(last) => format!("for {:?}", Duration::from_millis(last)),
            None => format!("until `tristream fault resume --az {zone}`"),
        };
        let number = pid.as_raw_nonzero();
        Done::new(zone, format!("{zone}: paused (process {number}), {until}"), "paused")
            .tell(json)?;
    }
    if let Some(last) = last {
        wait(last).await;
        for done in resume(&folder, &az).await? {
            done.tell(json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(folder: &Folder, zones: &[String]) -> anyhow::Result<Vec<Done>> {
    folder.check(zones)?;
    let mut done = Vec::new();
    for zone in zones {
        signal(zone, folder.must_run(zone)?, Signal::CONT)?;
        done.push(Done::new(zone, format!("{zone}: goes on"), "resumed"));
    }
    Ok(done)
}

pub(super) async fn kill(nodes: Nodes, json: bool) -> anyhow::Result<ExitCode> {
    let Nodes { az, last, data_dir } = nodes;
    let folder = Folder::open(&data_dir)?;
    folder.check(&az)?;
    for zone in &az {
        let pid = folder.must_run(zone)?;
        signal(zone, pid, Signal::KILL)?;
        wait_until(&format!("node {zone} to be gone"), || is_gone(pid)).await?;
        let back = match last {
            Some(last) => format!("it is back in {:?}", Duration::from_millis(last)),
            None => format!("`tristream fault heal`, or {}, starts it", folder.by_hand(zone)),
        };
        let number = pid.as_raw_nonzero();
        Done::new(zone, format!("{zone}: killed (process {number}); {back}"), "killed")
            .tell(json)?;
    }
    if let Some(last) = last {
        wait(last).await;
        for done in heal(&folder, &az).await? {
            done.tell(json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for a time, or for an interrupt: either way the fault is undone after that.
async fn wait(millis: u64) {
    tokio::select! {
        () = sleep(Duration::from_millis(millis)) => {}
        _ = tokio::signal::ctrl_c() => screen::say("tristream: interrupted: undoing it now"),
    }
}

/// Lets paused nodes go on and has dead ones started, of some zones or all. Nothing of a cluster that was ended.
pub(super) async fn heal(folder: &Folder, zones: &[String]) -> anyhow::Result<Vec<Done>> {
    let nobody =
        folder.up().is_none() && folder.zones.iter().all(|zone| folder.node(zone).is_none());
    if nobody {
        // A cluster that was ended: the one to heal runs elsewhere.
        return Ok(Vec::new());
    }
    folder.check(zones)?;
    let zones = if zones.is_empty() { &folder.zones } else { zones };
    let mut done = Vec::new();
    for zone in zones {
        match folder.node(zone) {
            Some(pid) if may_be_stopped(pid) => {
                signal(zone, pid, Signal::CONT)?;
                done.push(Done::new(zone, format!("{zone}: goes on"), "resumed"));
            }
            Some(_) => {}
            None => done.push(revive(folder, zone).await?),
        }
    }
    Ok(done)
}

async fn revive(folder: &Folder, zone: &str) -> anyhow::Result<Done> {
    let by_hand = folder.by_hand(zone);
    let Some(up) = folder.up() else {
        bail!(
            "node {zone} is dead, and no `tristream up` watches over it: start it with {by_hand}"
        );
    };
    kill_process(up, Signal::USR1).context("cannot signal `tristream up`")?;
    let back = wait_until(&format!("node {zone} to be back"), || folder.node(zone).is_some()).await;
    back.with_context(|| format!("`tristream up` did not start it; try {by_hand}"))?;
    Ok(Done::new(zone, format!("{zone}: started again"), "revived"))
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + CHANGE_MAX;
    while !is_so() {
        if Instant::now() > until {
            bail!("waited {} s for {what}", CHANGE_MAX.as_secs());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_no_node_is_not_ours() {
        let own = std::process::id();
        assert_eq!(running(own, "node"), None, "this is a test, no node");
        assert_eq!(running(0, "node"), None);
    }

    #[tokio::test]
    async fn a_folder_of_nothing_is_said_to_be_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = Folder::open(dir.path()).err().expect("empty").to_string();
        assert!(text.contains("--data-dir"), "{text}");
        let zone = dir.path().join("az-b");
        std::fs::create_dir_all(&zone).expect("made");
        std::fs::write(zone.join("node.toml"), "").expect("written");
        let folder = Folder::open(dir.path()).expect("a cluster");
        let text = folder.check(&["az-x".to_owned()]).expect_err("strange").to_string();
        assert!(text.contains("az-b"), "{text}");
        let text = folder.must_run("az-b").expect_err("dead").to_string();
        assert!(text.contains("tristream node --config"), "{text}");
        std::fs::write(zone.join(pid_file::NAME), std::process::id().to_string()).expect("written");
        assert!(folder.must_run("az-b").is_err(), "alive, and no node");
        assert!(heal(&folder, &[]).await.expect("an ended cluster").is_empty());
        let text = revive(&folder, "az-b").await.err().expect("no up").to_string();
        assert!(text.contains("no `tristream up`"), "{text}");
    }
}
