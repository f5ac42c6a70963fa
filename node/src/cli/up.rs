//! `tristream up`: a cluster of three nodes on this machine, each a process of its own.
//!
//! Owns the three child processes. Invariant: when it ends by itself, by SIGINT or by SIGTERM, none of them
//! is left; when it is killed by force they go on, and the next `up` says so. A node that was killed stays
//! dead, so that failures can be studied, unless `--respawn` is given.

mod child;
mod layout;
mod probe;

use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::pid_file::PidFile;
use super::screen;
use super::tuning::Tuning;
use child::Child;
use layout::{Layout, Place};

/// How long the three nodes may take until all are ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to end by itself.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Waits before a node is started again; doubles while it does not live long.
const RESPAWN_MIN: Duration = Duration::from_millis(500);
const RESPAWN_MAX: Duration = Duration::from_secs(10);

/// What `--help` adds to the flags.
const HELP: &str = "\
Each node keeps its files in DIR/az-a, DIR/az-b or DIR/az-c: settings in node.toml, log in
node.log, process id in node.pid. A node that is killed stays dead until it is started by hand
(tristream node --config DIR/az-x/node.toml) or with --respawn. What flags say is written to
node.toml when the folder is new; later it stands, and flags that contradict it are refused. If `up` itself is killed by
force, its nodes go on: end them by their process ids. SIGUSR1 (`tristream fault heal`) makes `up` start the dead ones.";

/// Arguments of `tristream up`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Folder of the cluster.
    #[arg(long, env = "TRISTREAM_UP_DIR", value_name = "DIR", default_value = "tristream-data")]
    data_dir: PathBuf,
    /// First of three ports for Kinesis and admin. By default 4567, or what the folder's settings say.
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// First of three ports for peers and native clients. By default 5567, or what the folder's settings say.
    #[arg(long, value_name = "Q", value_parser = clap::value_parser!(u16).range(1..))]
    peer_port: Option<u16>,
    /// Start a node again when it ends.
    #[arg(long)]
    respawn: bool,
    #[command(flatten)]
    tuning: Tuning,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let layout = Layout::find(&args.data_dir, args.port, args.peer_port, &args.tuning)?;
    layout.check_free()?;
    layout.write()?;
    let _pid_file = PidFile::write_up(&layout.dir)
        .with_context(|| format!("cannot write to {}", layout.dir.display()))?;
    let mut revive = signal(SignalKind::user_defined1()).context("cannot listen for SIGUSR1")?;
    let mut up = Up::start(layout)?;
    let outcome = tokio::select! {
        outcome = up.watch(args.respawn, &mut revive) => outcome,
        () = signals.next() => Ok(()),
    };
    if outcome.is_ok() {
        screen::say("tristream: stopping the nodes");
    }
    up.stop(&mut signals).await;
    outcome?;
    Ok(ExitCode::SUCCESS)
}

/// The two ways in which a person ends this command.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The end of a child, or the time to start it again.
enum Event {
    Ended(usize, std::io::Result<ExitStatus>),
    Respawn(usize),
}

struct Up {
    layout: Layout,
    nodes: Vec<Running>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
}

/// A node's place with the process that runs it now.
struct Running {
    /// The process, until it has ended.
    pid: Option<u32>,
    started: Instant,
    /// Where its log of this start begins.
    log_from: u64,
    respawn_wait: Duration,
}

impl Up {
    fn start(layout: Layout) -> anyhow::Result<Up> {
        let mut up = Up { layout, nodes: vec![], events: FuturesUnordered::new() };
        for at in 0..up.layout.places.len() {
            let started = up.spawn(at);
            if let Err(error) = started {
                up.kill(rustix::process::Signal::KILL);
                return Err(error);
            }
        }
        Ok(up)
    }

    fn spawn(&mut self, at: usize) -> anyhow::Result<()> {
        let place = &self.layout.places[at];
        let child = Child::spawn(place)?;
        let running = Running {
            pid: Some(child.pid),
            started: Instant::now(),
            log_from: child.log_from,
            respawn_wait: self.nodes.get(at).map_or(RESPAWN_MIN, |node| node.respawn_wait),
        };
        match self.nodes.get_mut(at) {
            Some(node) => *node = running,
            None => self.nodes.push(running),
        }
        self.events.push(Box::pin(async move { Event::Ended(at, child.wait().await) }));
        Ok(())
    }

    /// Waits until all are ready, says so, and then watches over them. Returns only with an error.
    async fn watch(&mut self, respawn: bool, revive: &mut Signal) -> anyhow::Result<()> {
        self.await_ready().await?;
        self.announce()?;
        loop {
            let event = tokio::select! {
                // While nobody is left to watch, all three are dead, and stay so until somebody acts.
                Some(event) = self.events.next() => event,
                Some(()) = revive.recv() => {
                    self.revive();
                    continue;
                }
                else => std::future::pending().await,
            };
            match event {
                Event::Ended(at, status) => self.ended(at, status, respawn),
                Event::Respawn(at) => self.spawn_or_later(at),
            }
        }
    }

    fn spawn_or_later(&mut self, at: usize) {
        // Somebody may have asked for it in the meantime.
        if self.nodes[at].pid.is_none()
            && let Err(error) = self.spawn(at)
        {
            screen::say(format!("tristream: {error:#}"));
            self.respawn_later(at);
        }
    }

    /// Starts every dead node, but one that runs by somebody else's hand.
    fn revive(&mut self) {
        for at in 0..self.nodes.len() {
            let place = &self.layout.places[at];
            if self.nodes[at].pid.is_some() || place.is_taken() {
                continue;
            }
            screen::say(format!("tristream: node {} is started again", place.az));
            if let Err(error) = self.spawn(at) {
                screen::say(format!("tristream: {error:#}"));
            }
        }
    }

    async fn await_ready(&mut self) -> anyhow::Result<()> {
        let doors: Vec<String> =
            self.layout.places.iter().map(|place| place.kinesis.clone()).collect();
        let until = Instant::now() + READY_MAX;
        let mut ready = std::pin::pin!(probe::all_ready(&doors));
        let problem = tokio::select! {
            () = &mut ready => return Ok(()),
            event = self.events.next() => match event {
                Some(Event::Ended(at, status)) => {
                    self.nodes[at].pid = None;
                    let place = &self.layout.places[at];
                    let tail = child::log_tail(place, self.nodes[at].log_from);
                    format!("node {} ended ({}) before it was ready:\n{tail}", place.az, ending(status))
                }
                _ => "the nodes are gone".to_owned(),
            },
            () = sleep_until(until) => {
                let late = probe::not_ready(&doors).await;
                let mut text =
                    format!("the cluster is not ready after {} s", READY_MAX.as_secs());
                for at in late {
                    let place = &self.layout.places[at];
                    let tail = child::log_tail(place, self.nodes[at].log_from);
                    text += &format!("\nnode {} is not ready:\n{tail}", place.az);
                }
                text
            }
        };
        bail!("{problem}");
    }

    /// The one line that programs wait for, and a hint for people.
    fn announce(&self) -> anyhow::Result<()> {
        let join = |address: fn(&Place) -> &str| {
            self.layout.places.iter().map(address).collect::<Vec<_>>().join(",")
        };
        let (kinesis, peer) = (join(|place| &place.kinesis), join(|place| &place.peer));
        let first = &self.layout.places[0].kinesis;
        screen::line(format!("ready kinesis={kinesis} native={peer}"))?;
        let endpoint = if peer == layout::PEERS_DEFAULT {
            String::new()
        } else {
            format!(" --endpoint {peer}")
        };
        screen::say(format!(
            "Three nodes run, one per AZ; their files and logs are in {}/az-*/ (node.log). Try:\n  \
             tristream stream create demo --shards 3 --wait{endpoint}\n  \
             tristream put demo hello{endpoint}\n  \
             tristream tail demo --from trim-horizon{endpoint}\n  \
             aws kinesis list-streams --endpoint-url http://{first}\n\
             Ctrl-C ends them.",
            self.layout.dir.display()
        ));
        Ok(())
    }

    fn ended(&mut self, at: usize, status: std::io::Result<ExitStatus>, respawn: bool) {
        self.nodes[at].pid = None;
        let place = &self.layout.places[at];
        let what = format!("tristream: node {} ended ({})", place.az, ending(status));
        if respawn {
            screen::say(format!("{what}; it is started again"));
            self.respawn_later(at);
        } else {
            let config = place.config.display();
            screen::say(format!(
                "{what}; start it again with: tristream node --config {config} \
                 (or `tristream fault heal`)"
            ));
        }
    }

    fn respawn_later(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.started.elapsed() > 2 * RESPAWN_MAX {
            node.respawn_wait = RESPAWN_MIN;
        }
        let wait = node.respawn_wait;
        node.respawn_wait = (2 * wait).min(RESPAWN_MAX);
        self.events.push(Box::pin(async move {
            sleep(wait).await;
            Event::Respawn(at)
        }));
    }

    fn kill(&self, signal: rustix::process::Signal) {
        for pid in self.nodes.iter().filter_map(|node| node.pid) {
            child::kill(pid, signal);
        }
    }

    /// Ends all nodes: asks, waits, then forces. A second signal forces at once.
    async fn stop(&mut self, signals: &mut Signals) {
        self.kill(rustix::process::Signal::TERM);
        let until = Instant::now() + STOP_MAX;
        let forced = tokio::select! {
            () = self.all_ended() => false,
            () = sleep_until(until) => true,
            () = signals.next() => true,
        };
        if forced {
            for (node, place) in self.nodes.iter().zip(&self.layout.places) {
                if node.pid.is_some() {
                    screen::say(format!("tristream: node {} does not end: killed", place.az));
                }
            }
            self.kill(rustix::process::Signal::KILL);
            self.all_ended().await;
        }
    }

    async fn all_ended(&mut self) {
        while self.nodes.iter().any(|node| node.pid.is_some()) {
            match self.events.next().await {
                Some(Event::Ended(at, _)) => self.nodes[at].pid = None,
                Some(Event::Respawn(_)) => {}
                None => return,
            }
        }
    }
}

/// `exit status: 1` or `signal: 9 (SIGKILL)`.
fn ending(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its end is not known: {error}"),
    }
}
