//! The cluster of `docker-compose.yml`, with `docker kill` and `docker start`.
//!
//! Works with `docker compose` (version 2) and with docker-compose 1.29. Invariant: containers, volumes and the
//! network are removed when a `Containers` is dropped; it has a project name of its own and touches no other.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::{admin, binary, command};

/// A `docker` command that does not build.
const DOCKER_LIMIT: Duration = Duration::from_secs(120);
/// Building the image from nothing compiles every dependency.
const BUILD_LIMIT: Duration = Duration::from_secs(45 * 60);
/// The published port of each zone.
const PORTS: [(&str, u16); 3] = [("az-a", 4567), ("az-b", 4568), ("az-c", 4569)];

/// Three containers.
#[derive(Debug)]
pub struct Containers {
    compose: Vec<String>,
    project: String,
}

impl Containers {
    /// Builds the image (a second time, that is quick) and starts three nodes on empty volumes; waits until their
    /// health checks pass.
    pub async fn start() -> anyhow::Result<Containers> {
        let compose = compose().await?;
        build().await?;
        let containers =
            Containers { compose, project: format!("tristream-walk-{}", std::process::id()) };
        let mut up = containers.compose(&["up", "-d", "--no-build"]);
        command::stdout(&mut up, DOCKER_LIMIT).await?;
        for (zone, _) in PORTS {
            containers.wait_healthy(zone).await?;
        }
        Ok(containers)
    }

    /// host:port of a zone's published Kinesis and admin door.
    pub fn kinesis(&self, zone: &str) -> anyhow::Result<String> {
        let port = PORTS.iter().find(|(known, _)| *known == zone).context("no such zone")?.1;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// `docker exec` of a program inside the zone's container, its stdin open.
    pub async fn exec(&self, zone: &str, program: &str) -> anyhow::Result<Command> {
        let mut command = Command::new("docker");
        command.args(["exec", "-i", &self.container(zone).await?, program]);
        Ok(command)
    }

    /// `docker kill`: SIGKILL. The restart policy leaves a container alone that was killed so.
    pub async fn kill(&self, zone: &str) -> anyhow::Result<()> {
        let container = self.container(zone).await?;
        command::stdout(Command::new("docker").args(["kill", &container]), DOCKER_LIMIT).await?;
        Ok(())
    }

    /// `docker start` of a dead container.
    pub async fn restart(&self, zone: &str) -> anyhow::Result<()> {
        let container = self.container(zone).await?;
        command::stdout(Command::new("docker").args(["start", &container]), DOCKER_LIMIT).await?;
        Ok(())
    }

    /// Waits until the container's health check passes.
    pub async fn wait_healthy(&self, zone: &str) -> anyhow::Result<()> {
        let container = self.container(zone).await?;
        let what = format!("{zone} to be healthy");
        let healthy = admin::wait(&what, DOCKER_LIMIT, async || {
            let mut inspect = Command::new("docker");
            inspect.args(["inspect", "-f", "{{.State.Health.Status}}", &container]);
            let status = command::stdout(&mut inspect, DOCKER_LIMIT).await?;
            if status.trim() != "healthy" {
                bail!("its health is {}", status.trim());
            }
            Ok(Some(()))
        });
        if let Err(error) = healthy.await {
            let mut logs = Command::new("docker");
            logs.args(["logs", "--tail", "30", &container]);
            let output = command::output(&mut logs, DOCKER_LIMIT).await?;
            let words = [output.stdout, output.stderr].concat();
            bail!("{error:#}; its last words:\n{}", String::from_utf8_lossy(&words));
        }
        Ok(())
    }

    async fn container(&self, zone: &str) -> anyhow::Result<String> {
        // `-a`: version 2 names only living ones otherwise; 1.29 has `-a` as well.
        let ids =
            command::stdout(&mut self.compose(&["ps", "-a", "-q", zone]), DOCKER_LIMIT).await?;
        let id = ids.lines().next().with_context(|| format!("no container of {zone}"))?;
        Ok(id.trim().to_owned())
    }

    fn words<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let mut words: Vec<&str> = self.compose.iter().map(String::as_str).collect();
        words.extend(["-p", &self.project]);
        words.extend(arguments);
        words
    }

    fn compose(&self, arguments: &[&str]) -> Command {
        let words = self.words(arguments);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(binary::workspace_root());
        command
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let words = self.words(&["down", "--volumes", "--timeout", "10"]);
        let mut command = std::process::Command::new(words[0]);
        command.args(&words[1..]).current_dir(binary::workspace_root());
        // There is nobody to tell any more.
        let _ = command.output();
    }
}

/// Why no container can be started here; none if they can.
pub async fn missing() -> Option<String> {
    let mut info = Command::new("docker");
    info.args(["info", "--format", "{{.ServerVersion}}"]);
    if let Err(error) = command::stdout(&mut info, DOCKER_LIMIT).await {
        return Some(format!("no Docker engine: {error:#}"));
    }
    compose().await.err().map(|error| format!("{error:#}"))
}

/// `docker compose` where it is there, else docker-compose.
async fn compose() -> anyhow::Result<Vec<String>> {
    let mut version = Command::new("docker");
    version.args(["compose", "version"]);
    if command::stdout(&mut version, DOCKER_LIMIT).await.is_ok() {
        return Ok(vec!["docker".to_owned(), "compose".to_owned()]);
    }
    if command::is_installed("docker-compose") {
        return Ok(vec!["docker-compose".to_owned()]);
    }
    bail!("neither `docker compose` nor `docker-compose` is installed")
}

async fn build() -> anyhow::Result<()> {
    let mut build = Command::new("docker");
    build.args(["build", "--quiet", "--tag", "tristream:latest", "."]);
    build.current_dir(binary::workspace_root());
    if !has_buildx().await {
        // Since version 23 the client wants a plug-in for the new builder; the old one does as well.
        build.env("DOCKER_BUILDKIT", "0");
    }
    command::stdout(&mut build, BUILD_LIMIT).await?;
    Ok(())
}

async fn has_buildx() -> bool {
    let mut version = Command::new("docker");
    command::stdout(version.args(["buildx", "version"]), DOCKER_LIMIT).await.is_ok()
}
