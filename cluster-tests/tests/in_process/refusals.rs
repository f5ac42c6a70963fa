//! Starts that must not happen: each is refused in one sentence, and nothing is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytes::Bytes;
use tristream_client::Options;
use tristream_cluster_tests::in_process::load::put;
use tristream_cluster_tests::in_process::{Cluster, Storage};

const STREAM: &str = "orders";

/// Every file below `dir`, with its bytes.
fn snapshot(dir: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => all.extend(snapshot(&path)?),
            false => drop(all.insert(path.clone(), std::fs::read(&path)?)),
        }
    }
    Ok(all)
}

/// Starts the node, which must refuse at once or soon after, and gives its words. Nothing below its folder may
/// have changed.
async fn refused(cluster: &mut Cluster, seat: usize) -> anyhow::Result<String> {
    let dir = cluster.data_dir(seat);
    let before = snapshot(&dir)?;
    let reason = match cluster.run(seat).await {
        Err(error) => format!("{error:#}"),
        Ok(()) => {
            let reason = cluster.failure(seat).await?;
            cluster.stop(seat).await?;
            reason
        }
    };
    ensure!(!reason.contains('\n'), "one line: {reason}");
    ensure!(snapshot(&dir)? == before, "files were touched: {reason}");
    Ok(reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_folders_and_ports_are_refused_untouched() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(Storage::Real).await?;
    cluster.create_stream(STREAM, 1).await?;
    let client = cluster.client(&[0, 1, 2], Options::default())?;
    put(&client, STREAM, "k", Bytes::from_static(b"k/0")).await?;
    let seat = 2;
    cluster.stop(seat).await?;
    let dir = cluster.data_dir(seat);
    let aside = cluster.folder().join("aside");

    // A port in use.
    let door = std::net::TcpListener::bind(cluster.kinesis(seat))?;
    let reason = refused(&mut cluster, seat).await?;
    ensure!(reason.contains("cannot listen on"), "{reason}");
    drop(door);

    // The folder of another node.
    std::fs::rename(&dir, &aside)?;
    copy(&cluster.data_dir(1), &dir)?;
    let reason = refused(&mut cluster, seat).await?;
    ensure!(reason.contains("belongs to the node of az-b, not of az-c"), "{reason}");
    std::fs::remove_dir_all(&dir)?;
    std::fs::rename(&aside, &dir)?;

    // A newer format of the folder, and of the log.
    let identity = dir.join("identity.toml");
    let text = std::fs::read_to_string(&identity)?;
    std::fs::write(&identity, text.replace("format = 1", "format = 2"))?;
    let reason = refused(&mut cluster, seat).await?;
    ensure!(reason.contains("has format 2"), "{reason}");
    std::fs::write(&identity, &text)?;
    let segment = dir.join("log").join("0000000001.seg");
    let bytes = std::fs::read(&segment)?;
    let mut newer = bytes.clone();
    newer[8] = 99;
    let checksum = crc32c(&newer[..60]).to_le_bytes();
    newer[60..64].copy_from_slice(&checksum);
    std::fs::write(&segment, newer)?;
    let reason = refused(&mut cluster, seat).await?;
    ensure!(reason.contains("has format 99") && reason.contains("start the version"), "{reason}");
    std::fs::write(&segment, bytes)?;

    // The log is gone, the identity is not.
    std::fs::rename(dir.join("log"), &aside)?;
    let reason = refused(&mut cluster, seat).await?;
    ensure!(reason.contains("must not vote without it"), "{reason}");
    std::fs::rename(&aside, dir.join("log"))?;

    // A file where the folder should be. (Root is stopped by nothing else.)
    std::fs::rename(&dir, &aside)?;
    std::fs::write(&dir, "no folder")?;
    let error = cluster.run(seat).await.err().context("a file is no folder")?;
    ensure!(error.to_string().contains("cannot create data folder"), "{error:#}");
    ensure!(std::fs::read_to_string(&dir)? == "no folder");
    std::fs::remove_file(&dir)?;
    std::fs::rename(&aside, &dir)?;

    // After all that it serves.
    cluster.run(seat).await?;
    cluster.wait_ready(&[seat]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_in_place_of_a_lost_one_never_votes() -> anyhow::Result<()> {
    for lost in 0..3 {
        let mut cluster = Cluster::start(Storage::Real).await?;
        cluster.create_stream(STREAM, 1).await?;
        cluster.stop(lost).await?;
        std::fs::remove_dir_all(cluster.data_dir(lost))?;
        cluster.run(lost).await?;
        let reason = cluster.failure(lost).await?;
        ensure!(reason.contains("this data folder is empty, but"), "{reason}");
        cluster.stop(lost).await?;
        // Again, with what the first try left behind.
        cluster.run(lost).await?;
        let reason = cluster.failure(lost).await?;
        ensure!(reason.contains("this data folder is empty, but"), "{reason}");
        ensure!(!cluster.data_dir(lost).join("log").exists(), "it has a log");
        cluster.stop(lost).await?;
        // The others do without it.
        let rest: Vec<usize> = (0..3).filter(|seat| *seat != lost).collect();
        let client = cluster.client(&rest, Options::default())?;
        put(&client, STREAM, "k", Bytes::from_static(b"k/0")).await?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// CRC-32C, bit by bit: what ends a segment's header.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
