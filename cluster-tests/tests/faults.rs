//! `tristream fault` on a real cluster: what a person cuts off, pauses and kills, and that it heals.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;
use tristream_cluster_tests::processes::{Cluster, Options, ZONES};
use tristream_cluster_tests::recording::{self, Ruling, Settings};
use tristream_cluster_tests::{admin, command, raw_http};

/// For a command, and for the cluster to be as it shall.
const LIMIT: Duration = Duration::from_secs(60);
const STREAM: &str = "faulty";

async fn start(up_arguments: &[&str]) -> anyhow::Result<Cluster> {
    let up_arguments = up_arguments.iter().map(|word| (*word).to_owned()).collect();
    Cluster::start(Options { up_arguments, ..Options::default() }).await
}

fn tristream(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Command> {
    let peers: Vec<String> =
        ZONES.iter().map(|zone| cluster.peer(zone)).collect::<anyhow::Result<_>>()?;
    let mut command = Command::new(cluster.binary());
    command.args(arguments).env("TRISTREAM_ENDPOINTS", peers.join(","));
    command.env("TRISTREAM_UP_DIR", cluster.data_dir());
    Ok(command)
}

/// Runs a command line that must succeed. Gives its output.
async fn run(cluster: &Cluster, line: &str) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    command::stdout(&mut tristream(cluster, &words)?, LIMIT).await
}

/// Which nodes the node in `zone` hears from.
async fn hears(cluster: &Cluster, zone: &str) -> anyhow::Result<Vec<String>> {
    let view = admin::view(&cluster.kinesis(zone)?).await?;
    Ok(view.nodes.into_iter().filter(|node| node.alive).map(|node| node.az).collect())
}

async fn wait_hears(cluster: &Cluster, zone: &str, whom: &[&str]) -> anyhow::Result<()> {
    admin::wait(&format!("{zone} to hear only {whom:?}"), LIMIT, async || {
        Ok((hears(cluster, zone).await? == whom).then_some(()))
    })
    .await
}

/// The zones that lead something of the stream, as the node in `zone` sees it; none while something is not led.
async fn leaders(cluster: &Cluster, zone: &str) -> anyhow::Result<Option<Vec<String>>> {
    let leaders = admin::view(&cluster.kinesis(zone)?).await?.leaders(STREAM);
    Ok(leaders.into_iter().map(|(_, zone)| zone).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_is_cut_off_leads_nothing_and_comes_back() -> anyhow::Result<()> {
    let cluster = start(&["--enable-faults"]).await?;
    cut_off(&cluster).await.with_context(|| cluster.last_words())
}

async fn cut_off(cluster: &Cluster) -> anyhow::Result<()> {
    run(cluster, &format!("stream create {STREAM} --shards 4 --wait")).await?;
    let led = leaders(cluster, "az-a").await?.context("not all are led")?;
    ensure!(led.iter().any(|zone| zone == "az-b"), "az-b leads nothing: {led:?}");
    let history = cluster.data_dir().join("history.jsonl");
    let put = format!("put {STREAM} --key k --history {}", history.display());
    run(cluster, &format!("{put} before")).await?;

    let told = run(cluster, "fault partition --az az-b --for 5m").await?;
    ensure!(told.starts_with("az-b: no message to and from az-a, az-c, for 300s"), "{told}");
    // Its node alone was told, and it holds what others send it too.
    wait_hears(cluster, "az-a", &["az-a", "az-c"]).await?;
    wait_hears(cluster, "az-c", &["az-a", "az-c"]).await?;
    wait_hears(cluster, "az-b", &["az-b"]).await?;
    admin::wait("leaders elsewhere", LIMIT, async || {
        let leaders = leaders(cluster, "az-a").await?;
        Ok(leaders.filter(|zones| zones.iter().all(|zone| zone != "az-b")).map(|_| ()))
    })
    .await?;
    run(cluster, &format!("{put} during")).await?;
    let status = run(cluster, "status").await?;
    ensure!(
        status.contains("\nfault at az-b: no message to and from az-a, az-c; heals in "),
        "{status}"
    );
    let listed: Value = serde_json::from_str(&run(cluster, "fault list --json").await?)?;
    ensure!(listed["az"] == "az-b" && listed["hits"].as_u64() > Some(0), "{listed}");

    let told = run(cluster, "fault heal").await?;
    ensure!(told.starts_with("az-b: healed: no message"), "{told}");
    for zone in ZONES {
        wait_hears(cluster, zone, &ZONES).await?;
    }
    ensure!(run(cluster, "fault heal").await? == "no fault was on\n");
    let tail = format!("tail {STREAM} --from trim-horizon --no-follow --history");
    run(cluster, &format!("{tail} {}", history.display())).await?;
    let settings = Settings { all_puts: true, ..Settings::default() };
    let judged = recording::judge(&[history], &settings)?;
    ensure!(judged.acked == 2, "{judged:#?}");
    for case in &judged.promises {
        ensure!(case.ruling == Ruling::Held, "{judged:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_link_and_one_direction_can_be_cut() -> anyhow::Result<()> {
    let cluster = start(&["--enable-faults"]).await?;
    let tested = links(&cluster).await;
    tested.with_context(|| cluster.last_words())
}

async fn links(cluster: &Cluster) -> anyhow::Result<()> {
    run(cluster, "fault partition --az az-b --from az-a --for 5m").await?;
    wait_hears(cluster, "az-a", &["az-a", "az-c"]).await?;
    wait_hears(cluster, "az-b", &["az-b", "az-c"]).await?;
    wait_hears(cluster, "az-c", &ZONES).await?;
    run(cluster, "fault heal --az az-b").await?;
    wait_hears(cluster, "az-a", &ZONES).await?;
    // A question and its answer need both directions: what shows one direction is who leads. Nobody hears az-b, so
    // its followers elect others.
    run(cluster, &format!("stream create {STREAM} --shards 4 --wait")).await?;
    let led = leaders(cluster, "az-a").await?.context("not all are led")?;
    ensure!(led.iter().any(|zone| zone == "az-b"), "az-b leads nothing: {led:?}");
    run(cluster, "fault partition --az az-b --direction to --for 5m").await?;
    for zone in ["az-a", "az-c"] {
        admin::wait(&format!("{zone} to see leaders elsewhere"), LIMIT, async || {
            let leaders = leaders(cluster, zone).await?;
            Ok(leaders.filter(|zones| zones.iter().all(|zone| zone != "az-b")).map(|_| ()))
        })
        .await?;
    }
    run(cluster, "fault heal").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_paused_killed_and_revived() -> anyhow::Result<()> {
    let mut cluster = start(&["--enable-faults"]).await?;
    processes(&mut cluster).await.with_context(|| cluster.last_words())?;
    cluster.stop().await
}

async fn processes(cluster: &mut Cluster) -> anyhow::Result<()> {
    run(cluster, "fault pause --az az-c").await?;
    ensure!(cluster.is_paused("az-c"));
    run(cluster, "fault resume --az az-c").await?;
    ensure!(!cluster.is_paused("az-c"));
    run(cluster, "fault pause --az az-c --for 200ms").await?;
    ensure!(!cluster.is_paused("az-c"), "it went on by itself");
    run(cluster, "fault pause --az az-a").await?;
    let told = run(cluster, "fault kill --az az-b").await?;
    ensure!(told.contains("tristream fault heal"), "{told}");
    ensure!(!cluster.is_running("az-b"));
    let told = run(cluster, "fault heal").await?;
    ensure!(told.contains("az-a: goes on") && told.contains("az-b: started again"), "{told}");
    for zone in ZONES {
        ensure!(cluster.is_running(zone) && !cluster.is_paused(zone), "{zone}");
        cluster.wait_ready(zone).await?;
    }
    let refused = run(cluster, "fault kill --az az-x").await.expect_err("no such zone").to_string();
    ensure!(refused.contains("the zones are az-a, az-b, az-c"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_allow_faults_says_how_to() -> anyhow::Result<()> {
    let mut cluster = start(&[]).await?;
    let refused =
        run(&cluster, "fault partition --az az-b").await.expect_err("faults are off").to_string();
    ensure!(refused.contains("--enable-faults"), "{refused}");
    let asked = raw_http::get(&cluster.kinesis("az-b")?, "/admin/v1/faults", LIMIT).await?;
    ensure!(asked.status == 403, "{asked:?}");
    wait_hears(&cluster, "az-b", &ZONES).await?;
    cluster.stop().await
}
