//! Nodes that stop and start: what was acked is there, the metadata too.

use anyhow::{Context, ensure};
use tristream_client::Options;
use tristream_cluster_tests::in_process::load::Load;
use tristream_cluster_tests::in_process::reading::{judge, read_all, read_whole};
use tristream_cluster_tests::in_process::{Cluster, Storage};

const STREAM: &str = "orders";

#[tokio::test(flavor = "multi_thread")]
async fn restarts_and_crashes_under_load_lose_nothing() -> anyhow::Result<()> {
    // Small segments, so that several are sealed, dropped and read back.
    let mut cluster =
        Cluster::start_with(Storage::Real, |config| config.log.segment_bytes = 1 << 20).await?;
    cluster.create_stream(STREAM, 2).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let load = Load::start(&client, STREAM, "w", 8);
    load.wait_acked(100).await?;
    // One after the other, stopped or crashed, with the load going on.
    for seat in 0..3 {
        cluster.stop(seat).await?;
        load.wait_acked(30).await.context("without one node")?;
        cluster.run(seat).await?;
        cluster.wait_ready(&[seat]).await?;
        cluster.crash(seat).await?;
        load.wait_acked(30).await.context("without one node")?;
        cluster.run(seat).await?;
        cluster.wait_ready(&[seat]).await?;
    }
    // All at once, and a stream that is made just before.
    cluster.create_stream("late", 1).await?;
    for seat in 0..3 {
        cluster.crash(seat).await?;
    }
    for seat in 0..3 {
        cluster.run(seat).await?;
    }
    cluster.wait_ready(&[0, 1, 2]).await?;
    load.wait_acked(50).await.context("after all were gone")?;
    let attempts = load.finish().await?;
    for seat in 0..3 {
        judge(&attempts, &read_whole(cluster.kinesis(seat), STREAM).await?)
            .with_context(|| format!("as node {seat} reads"))?;
        ensure!(read_all(cluster.kinesis(seat), "late").await?.records.is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_metadata_tables_are_rebuilt() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Storage::Real).await?;
    cluster.create_stream(STREAM, 2).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    let load = Load::start(&client, STREAM, "w", 2);
    load.wait_acked(20).await?;
    let attempts = load.finish().await?;
    let tables = |cluster: &Cluster, seat: usize| cluster.data_dir(seat).join("state");
    for seat in 0..3 {
        cluster.stop(seat).await?;
    }
    // Bytes turned over in every file of one node; nothing left of another's.
    let mut turned = 0;
    for file in files(&tables(&cluster, 0))? {
        let mut bytes = std::fs::read(&file)?;
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        turned += bytes.len();
        std::fs::write(&file, bytes)?;
    }
    ensure!(turned > 0, "the tables are somewhere else");
    std::fs::remove_dir_all(tables(&cluster, 1))?;
    for seat in 0..3 {
        cluster.run(seat).await?;
    }
    cluster.wait_ready(&[0, 1, 2]).await?;
    for seat in 0..3 {
        let read = read_whole(cluster.kinesis(seat), STREAM).await?;
        judge(&attempts, &read).with_context(|| format!("as node {seat} reads"))?;
    }
    Ok(())
}

fn files(dir: &std::path::Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => all.extend(files(&path)?),
            false => all.push(path),
        }
    }
    Ok(all)
}
