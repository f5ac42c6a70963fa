//! `tristream stream`: create, list, describe, delete, and what changes shards or shows how they
//! changed.

mod change;
mod lineage;
mod picture;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tristream_client::{Client, Error, StreamDescription, StreamStatus};
use tristream_proto::domain::{HashKey, ShardId, StreamName};

use super::endpoints::{Endpoints, explain};
use super::screen::{self, Colours};
use super::table::{Align, Table, WIDTH};
use super::when;
use crate::clock::{Clock, SystemClock};
use change::{Mode, Patience};
use lineage::Lineage;

/// How long `--wait` waits.
const WAIT_MAX: Duration = Duration::from_secs(60);
const WAIT_STEP: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    endpoints: Endpoints,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a stream.
    Create {
        /// Its name.
        name: StreamName,
        /// Number of shards; the cluster's default when not given.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        shards: Option<u32>,
        /// Wait until it takes records.
        #[arg(long)]
        wait: bool,
    },
    /// List all streams.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a stream's shards and who leads them.
    Describe {
        /// Its name.
        name: StreamName,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show which shard came from which, and who covers which keys.
    Shards {
        /// The stream.
        name: StreamName,
        /// As JSON, with ranges and sequence numbers in full.
        #[arg(long)]
        json: bool,
        /// Draw who covered which keys when, as an SVG picture into this file.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Split a shard in two.
    Split {
        /// The stream.
        name: StreamName,
        /// The shard: 3, or shardId-000000000003.
        #[arg(value_parser = change::shard_id)]
        shard: ShardId,
        /// First hash key of the second child, decimal or as 0x and hex digits; without it the
        /// middle.
        #[arg(long, value_name = "HASH", value_parser = change::hash_key)]
        at: Option<HashKey>,
        #[command(flatten)]
        patience: Patience,
    },
    /// Merge two shards with neighbouring ranges.
    Merge {
        /// The stream.
        name: StreamName,
        /// One shard.
        #[arg(value_parser = change::shard_id)]
        shard: ShardId,
        /// Its neighbour.
        #[arg(value_parser = change::shard_id)]
        adjacent: ShardId,
        #[command(flatten)]
        patience: Patience,
    },
    /// Change the number of shards, by splits and merges.
    Scale {
        /// The stream.
        name: StreamName,
        /// How many.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        shards: u32,
        #[command(flatten)]
        patience: Patience,
    },
    /// Change who decides on the number of shards: the load, or you.
    Mode {
        /// The stream.
        name: StreamName,
        /// Who decides.
        mode: Mode,
        #[command(flatten)]
        patience: Patience,
    },
    /// Delete a stream with all its records.
    Delete {
        /// Its name.
        name: StreamName,
    },
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.endpoints.client()?;
    let done = match args.command {
        Command::Create { name, shards, wait } => create(&client, &name, shards, wait).await,
        Command::List { json } => list(&client, json).await,
        Command::Describe { name, json } => describe(&client, &name, json).await,
        Command::Shards { name, json, svg } => shards(&client, &name, json, svg.as_deref()).await,
        Command::Split { name, shard, at, patience } => {
            change::split(&client, &name, shard, at, patience).await
        }
        Command::Merge { name, shard, adjacent, patience } => {
            change::merge(&client, &name, shard, adjacent, patience).await
        }
        Command::Scale { name, shards, patience } => {
            change::scale(&client, &name, shards, patience).await
        }
        Command::Mode { name, mode, patience } => {
            change::mode(&client, &name, mode, patience).await
        }
        Command::Delete { name } => delete(&client, &name).await,
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => match error.downcast::<Error>() {
            Ok(error) => Err(explain(error, &args.endpoints)),
            Err(error) => Err(error),
        },
    }
}

async fn create(
    client: &Client,
    name: &StreamName,
    shards: Option<u32>,
    wait: bool,
) -> anyhow::Result<()> {
    client.create_stream(name, shards).await?;
    if wait {
        await_active(client, name).await?;
        screen::say(format!("stream {name} is active"));
    } else {
        screen::say(format!("stream {name} is being created"));
    }
    Ok(())
}

async fn await_active(client: &Client, name: &StreamName) -> anyhow::Result<()> {
    let until = Instant::now() + WAIT_MAX;
    while client.describe_stream(name).await?.status != StreamStatus::Active {
        if Instant::now() >= until {
            bail!(
                "stream {name} is created but not active after {} s: see `tristream status`",
                WAIT_MAX.as_secs()
            );
        }
        sleep(WAIT_STEP).await;
    }
    Ok(())
}

async fn delete(client: &Client, name: &StreamName) -> anyhow::Result<()> {
    client.delete_stream(name).await?;
    screen::say(format!("stream {name} is being deleted"));
    Ok(())
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let streams = client.list_streams().await?;
    if json {
        let stream = |stream: &tristream_client::StreamSummary| {
            json!({
                "name": stream.name.as_str(),
                "status": word(stream.status),
                "shards": stream.shard_count,
                "created": when::show(stream.created),
            })
        };
        let streams: Vec<_> = streams.iter().map(stream).collect();
        screen::line(json!({ "streams": streams }).to_string())?;
        return Ok(());
    }
    if streams.is_empty() {
        screen::say("no streams yet: create one with `tristream stream create NAME`");
        return Ok(());
    }
    let heads = [
        ("STREAM", Align::Left),
        ("STATUS", Align::Left),
        ("SHARDS", Align::Right),
        ("CREATED", Align::Left),
    ];
    let mut table = Table::new(&heads, 0);
    for stream in streams {
        table.row(vec![
            stream.name.to_string(),
            word(stream.status).to_owned(),
            stream.shard_count.to_string(),
            when::show(stream.created),
        ]);
    }
    print(&table, Colours::of_stdout())
}

async fn describe(client: &Client, name: &StreamName, json: bool) -> anyhow::Result<()> {
    let stream = client.describe_stream(name).await?;
    if json {
        screen::line(as_json(&stream).to_string())?;
        return Ok(());
    }
    screen::line(format!(
        "{name}: {}, created {}, map version {}",
        word(stream.status),
        when::show(stream.created),
        stream.map.version()
    ))?;
    print(&shard_table(&stream), Colours::of_stdout())
}

async fn shards(
    client: &Client,
    name: &StreamName,
    json: bool,
    svg: Option<&Path>,
) -> anyhow::Result<()> {
    let stream = client.describe_stream(name).await?;
    let lineage = Lineage::new(&stream, &client.cluster_status().await?);
    if let Some(path) = svg {
        let picture = picture::draw(&lineage, SystemClock.now());
        std::fs::write(path, picture)
            .with_context(|| format!("cannot write {}", path.display()))?;
        screen::say(format!("drawn into {}", path.display()));
    }
    if json {
        screen::line(lineage.as_json().to_string())?;
    } else if svg.is_none() {
        tree::draw(&lineage, Colours::of_stdout()).iter().try_for_each(screen::line)?;
    }
    Ok(())
}

fn shard_table(stream: &StreamDescription) -> Table {
    let heads = [
        ("SHARD", Align::Left),
        ("GROUP", Align::Right),
        ("LEADER", Align::Right),
        ("NODES", Align::Left),
        ("FIRST HASH KEY", Align::Left),
    ];
    let mut table = Table::new(&heads, 4);
    for (shard, leader) in stream.map.shards().iter().zip(&stream.leaders) {
        let nodes: Vec<String> = shard.replicas.iter().map(|node| node.to_string()).collect();
        let closed = if shard.is_open() { "" } else { " closed" };
        table.row(vec![
            format!("{}{closed}", shard.id),
            shard.group.to_string(),
            leader.map_or("none".to_owned(), |leader| leader.to_string()),
            nodes.join(","),
            format!("{:032x}", shard.range.first.0),
        ]);
    }
    table
}

fn as_json(stream: &StreamDescription) -> serde_json::Value {
    let shard = |(shard, leader): (&tristream_proto::domain::Shard, &Option<_>)| {
        json!({
            "shard": shard.id.to_string(),
            "group": shard.group.0,
            "leader": leader.map(|leader: tristream_proto::domain::NodeId| leader.0),
            "replicas": shard.replicas.iter().map(|node| node.0).collect::<Vec<_>>(),
            "first_hash_key": shard.range.first.to_string(),
            "last_hash_key": shard.range.last.to_string(),
            "open": shard.is_open(),
        })
    };
    let shards: Vec<_> = stream.map.shards().iter().zip(&stream.leaders).map(shard).collect();
    json!({
        "name": stream.name.as_str(),
        "status": word(stream.status),
        "created": when::show(stream.created),
        "incarnation": stream.incarnation.0,
        "map_version": stream.map.version().0,
        "shards": shards,
    })
}

fn word(status: StreamStatus) -> &'static str {
    match status {
        StreamStatus::Creating => "CREATING",
        StreamStatus::Active => "ACTIVE",
        StreamStatus::Updating => "UPDATING",
        StreamStatus::Deleting => "DELETING",
    }
}

fn print(table: &Table, colours: Colours) -> anyhow::Result<()> {
    for (at, line) in table.lines(WIDTH).iter().enumerate() {
        screen::line(if at == 0 { colours.bold(line) } else { line.clone() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::*;

    #[test]
    fn a_description_fits_eighty_columns() {
        let shard = |(i, range): (usize, HashKeyRange)| Shard {
            id: ShardId::from(i as u32),
            group: GroupId(i as u64 + 1),
            range,
            creation_second: 1,
            parents: vec![],
            replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
            closed_second: None,
        };
        let all = HashKeyRange::uniform(2).into_iter().enumerate().map(shard).collect();
        let stream = StreamDescription {
            name: "orders".parse().expect("a name"),
            incarnation: Incarnation(1),
            status: StreamStatus::Active,
            created: Timestamp(0),
            map: ShardMap::new(MapVersion(1), all).expect("tiles"),
            leaders: vec![Some(NodeId(3)), None],
        };
        assert_eq!(
            shard_table(&stream).lines(WIDTH),
            [
                "SHARD                 GROUP  LEADER  NODES  FIRST HASH KEY",
                "shardId-000000000000      1       3  1,2,3  00000000000000000000000000000000",
                "shardId-000000000001      2    none  1,2,3  80000000000000000000000000000000",
            ]
        );
    }
}
