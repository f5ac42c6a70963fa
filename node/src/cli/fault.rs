//! `tristream fault`: what can go wrong between nodes and with their processes, by hand.
//!
//! Messages are stopped, slowed and lost by the nodes themselves, which must have been started to allow it; processes
//! are paused, killed and revived where `tristream up` runs. Invariant: what is said to have happened has happened.

mod door;
mod process;
mod transport;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::endpoints::Endpoints;
use super::{screen, when};
use crate::faults::Direction;
use door::Door;
pub(super) use door::{Node, words};
use process::Folder;

/// What `--help` adds to the flags.
const HELP: &str = "\
partition, delay and loss act on messages between nodes: the nodes must run with --enable-faults
(`tristream up --enable-faults`). Clients reach every node all the while. Each heals by itself:
after a minute if --for says nothing, after ten at most. pause, resume and kill act on the nodes of
a `tristream up` on this machine. heal ends everything, and has `up` start what was killed.

  tristream fault partition --az az-b --for 30s       az-b hears nobody, nobody hears az-b
  tristream fault partition --az az-b --from az-a     one link of three
  tristream fault partition --az az-b --direction to  az-b hears the others, they do not hear it
  tristream fault delay --az az-b --by 100ms --jitter 50ms
  tristream fault heal";

/// Arguments of `tristream fault`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    endpoints: Endpoints,
    /// The fault_token of the nodes; not needed on their own machine.
    #[arg(
        long,
        env = "TRISTREAM_FAULT_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        global = true
    )]
    token: Option<String>,
    /// What happened, as a JSON object per node.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Stop messages between these zones and others.
    Partition(Between),
    /// Make messages between these zones and others slow.
    Delay {
        #[command(flatten)]
        between: Between,
        /// What each message takes longer, such as 100ms or 2s.
        #[arg(long, value_name = "TIME", value_parser = millis)]
        by: u64,
        /// Up to this much more, at random.
        #[arg(long, value_name = "TIME", value_parser = millis, default_value = "0ms")]
        jitter: u64,
    },
    /// Lose messages between these zones and others, with the connections that carry them.
    Loss {
        #[command(flatten)]
        between: Between,
        /// How many of them, such as 5%.
        #[arg(long, value_name = "SHARE", value_parser = share)]
        share: f64,
    },
    /// Stop the processes of these zones' nodes (SIGSTOP): they are there and do nothing.
    Pause(Nodes),
    /// Let paused processes go on (SIGCONT).
    Resume(Nodes),
    /// Kill the processes of these zones' nodes (SIGKILL).
    Kill(Nodes),
    /// End all faults: of messages, pauses and deaths.
    Heal {
        /// Only of these zones' nodes.
        #[arg(long, value_name = "ZONE", value_delimiter = ',')]
        az: Vec<String>,
        /// Folder of the cluster.
        #[arg(
            long,
            env = "TRISTREAM_UP_DIR",
            value_name = "DIR",
            default_value = "tristream-data"
        )]
        data_dir: PathBuf,
    },
    /// Show what is on.
    List,
}

/// Zones that have a fault, and whose messages it is about.
#[derive(Debug, clap::Args)]
struct Between {
    /// The zones whose nodes get the fault.
    #[arg(long, value_name = "ZONE", value_delimiter = ',', required = true)]
    az: Vec<String>,
    /// Only between them and these zones; by default all others.
    #[arg(long, value_name = "ZONE", value_delimiter = ',')]
    from: Vec<String>,
    /// Only messages that --az's nodes send (to), or that they are sent (from).
    #[arg(long, value_enum, default_value_t = Way::Both)]
    direction: Way,
    /// Heal by itself after this time, such as 30s or 2m: 10m at most.
    #[arg(long = "for", value_name = "TIME", value_parser = millis, default_value = "60s")]
    last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    Both,
    To,
    From,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Direction {
        match way {
            Way::Both => Direction::Both,
            Way::To => Direction::To,
            Way::From => Direction::From,
        }
    }
}

/// Nodes of a `tristream up`.
#[derive(Debug, clap::Args)]
struct Nodes {
    /// The zones of the nodes.
    #[arg(long, value_name = "ZONE", value_delimiter = ',', required = true)]
    az: Vec<String>,
    /// Undo it after this time, such as 30s; the command runs that long. By default not at all.
    #[arg(long = "for", value_name = "TIME", value_parser = millis)]
    last: Option<u64>,
    /// Folder of the cluster.
    #[arg(long, env = "TRISTREAM_UP_DIR", value_name = "DIR", default_value = "tristream-data")]
    data_dir: PathBuf,
}

/// What was done at one node, in words and for programs.
struct Done {
    words: String,
    json: Value,
}

impl Done {
    fn new(az: &str, words: impl Into<String>, what: &str) -> Done {
        Done { words: words.into(), json: json!({ "az": az, "done": what }) }
    }

    fn tell(&self, json: bool) -> std::io::Result<()> {
        screen::line(if json { self.json.to_string() } else { self.words.clone() })
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { endpoints, token, json, what } = args;
    let door = Door::new(&endpoints, token);
    let done = match what {
        What::Partition(between) => transport::partition(&door, between).await?,
        What::Delay { between, by, jitter } => transport::delay(&door, between, by, jitter).await?,
        What::Loss { between, share } => transport::loss(&door, between, share).await?,
        What::Pause(nodes) => return process::pause(nodes, json).await,
        What::Resume(nodes) => process::resume(&Folder::open(&nodes.data_dir)?, &nodes.az).await?,
        What::Kill(nodes) => return process::kill(nodes, json).await,
        What::Heal { az, data_dir } => return heal(&door, &az, &data_dir, json).await,
        What::List => transport::list(&door).await?,
    };
    done.iter().try_for_each(|done| done.tell(json))?;
    Ok(ExitCode::SUCCESS)
}

/// Processes first: a paused node cannot be told to heal.
async fn heal(
    door: &Door<'_>,
    az: &[String],
    data_dir: &std::path::Path,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut done = Vec::new();
    // Without such a folder the cluster was not started by an `up` here, and there are no processes to heal.
    if let Ok(folder) = Folder::open(data_dir) {
        done = process::heal(&folder, az).await?;
    }
    let (healed, unreached) = transport::heal(door, az).await?;
    done.extend(healed);
    if done.is_empty() && unreached.is_empty() && !json {
        screen::line("no fault was on")?;
    }
    done.iter().try_for_each(|done| done.tell(json))?;
    unreached.iter().for_each(|why| screen::say(format!("tristream: {why}")));
    Ok(if unreached.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads a time such as `100ms`, `30s` or `2m`, in milliseconds.
fn millis(text: &str) -> Result<u64, String> {
    let digits = text.strip_suffix("ms");
    let time = match digits {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().map(Duration::from_millis)
        }
        Some(_) => None,
        None => when::duration(text),
    };
    let time = time.and_then(|time| u64::try_from(time.as_millis()).ok());
    time.ok_or_else(|| "a number with ms, s or m, such as 100ms".to_owned())
}

/// Reads `5%`, or a number up to 1.
fn share(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.parse::<f64>().ok();
    let share = match text.strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    share
        .filter(|share| *share > 0.0 && *share <= 1.0)
        .ok_or_else(|| "a share such as 5%: more than 0%, at most 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_read() {
        assert_eq!(millis("100ms"), Ok(100));
        assert_eq!(millis("2s"), Ok(2_000));
        assert_eq!(millis("0ms"), Ok(0));
        for bad in ["ms", "1.5ms", "100", "-1ms", ""] {
            assert!(millis(bad).is_err(), "{bad}");
        }
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("1"), Ok(1.0));
        for bad in ["0%", "101%", "2", "", "%", "NaN", "-1%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
