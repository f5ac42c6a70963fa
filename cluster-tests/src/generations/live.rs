//! A reader that follows a stream's shards while all happens, through the AWS SDK at any node.
//!
//! Must not know what happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use aws_sdk_kinesis::Client;
use tokio::task::JoinSet;

use super::{follow, shards};
use crate::sdk;
use crate::workload::Shared;

/// A reader that follows the shards all the time.
pub struct Live {
    stop: Arc<AtomicBool>,
    reader: JoinSet<anyhow::Result<()>>,
}

impl Live {
    /// Begins at the oldest records of the shards that are there.
    pub async fn start(
        addresses: &[String],
        stream: &str,
        history: &Shared,
    ) -> anyhow::Result<Live> {
        let clients: Vec<Client> = addresses.iter().map(|at| sdk::client(at, 1)).collect();
        let roots = shards(clients.first().context("no node to ask")?, stream).await?;
        let roots = roots.into_iter().map(|shard| shard.shard).collect();
        let stop = Arc::default();
        let mut reader = JoinSet::new();
        reader.spawn(follow(clients, stream.into(), roots, history.clone(), Arc::clone(&stop)));
        Ok(Live { stop, reader })
    }

    /// Lets it end what it is about. An error is what it was told that cannot be.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.reader.join_next().await {
            ended?.context("the live reader")?;
        }
        Ok(())
    }
}
