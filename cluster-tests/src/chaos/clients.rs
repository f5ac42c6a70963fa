//! The clients of a run: producers through native and HTTP doors, and a reader through the AWS SDK.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use aws_sdk_kinesis::Client;
use tokio::task::JoinSet;

use super::{HTTP_ATTEMPTS, STREAM};
use crate::doors::Door;
use crate::doors::native::Native;
use crate::doors::raw::Raw;
use crate::processes::{Cluster, ZONES};
use crate::workload::Shared;
use crate::{generations, sdk};

/// So many ways to put: every second one by the native client, the others by HTTP.
pub(super) fn doors(
    cluster: &Cluster,
    addresses: &[String],
    count: usize,
) -> anyhow::Result<Vec<(String, Box<dyn Door>)>> {
    let peers: Vec<String> =
        ZONES.iter().map(|zone| cluster.peer(zone)).collect::<anyhow::Result<_>>()?;
    let mut doors: Vec<(String, Box<dyn Door>)> = Vec::new();
    for number in 0..count {
        doors.push(if number % 2 == 0 {
            let options = tristream_client::Options::default();
            let client = tristream_client::Client::connect(peers.clone(), options)?;
            (format!("native-{number}"), Box::new(Native(client)))
        } else {
            (format!("http-{number}"), Box::new(Raw::new(addresses, number, HTTP_ATTEMPTS)))
        });
    }
    Ok(doors)
}

/// A reader that follows the shards all the time.
pub(super) struct Live {
    stop: Arc<AtomicBool>,
    reader: JoinSet<anyhow::Result<()>>,
}

impl Live {
    pub(super) async fn start(addresses: &[String], history: &Shared) -> anyhow::Result<Live> {
        let clients: Vec<Client> = addresses.iter().map(|at| sdk::client(at, 1)).collect();
        let roots = generations::shards(&clients[0], STREAM).await?;
        let roots = roots.into_iter().map(|shard| shard.shard).collect();
        let stop = Arc::default();
        let mut reader = JoinSet::new();
        let follow = generations::follow;
        reader.spawn(follow(clients, STREAM.into(), roots, history.clone(), Arc::clone(&stop)));
        Ok(Live { stop, reader })
    }

    /// Lets it end what it is about. An error is what it was told that cannot be.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.reader.join_next().await {
            ended?.context("the live reader")?;
        }
        Ok(())
    }
}
