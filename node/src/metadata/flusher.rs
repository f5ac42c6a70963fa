//! Flushes the metadata tables soon after they change, and once more when the node stops.
//!
//! Nothing waits for a flush: the log is what is durable. A flush only shortens the next start.
//! Invariant: a flush that fails stops the node, and is never repeated.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::state::Tables;
use crate::tasks::{Kind, Tasks};

/// Changes of this time share a flush.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the flusher until the node stops.
pub(super) fn spawn(tasks: &Tasks, tables: Arc<dyn Tables>, dirty: Arc<Notify>) {
    let (stop, fate) = (tasks.stopping(), tasks.clone());
    tasks.spawn_to_end(Kind::StateFlusher, async move {
        if let Err(error) = run(tables, dirty, stop).await {
            fate.failed(Kind::StateFlusher, format!("cannot flush the metadata tables: {error}"));
        }
    });
}

async fn run(
    tables: Arc<dyn Tables>,
    dirty: Arc<Notify>,
    stop: CancellationToken,
) -> io::Result<()> {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            () = async {
                dirty.notified().await;
                tokio::time::sleep(FLUSH_INTERVAL).await;
            } => {}
        }
        // Changes up to here are in this flush.
        let _ = dirty.notified().now_or_never();
        flush(&tables).await?;
    }
    Ok(())
}

async fn flush(tables: &Arc<dyn Tables>) -> io::Result<()> {
    if !tables.flush_blocks() {
        return tables.flush();
    }
    let tables = tables.clone();
    tokio::task::spawn_blocking(move || tables.flush()).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Change;
    use bytes::Bytes;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts flushes, and fails them on demand.
    struct Counting {
        flushes: AtomicUsize,
        fails: bool,
    }

    impl Tables for Counting {
        fn applied(&self) -> io::Result<Option<Bytes>> {
            Ok(None)
        }
        fn scan(&self, _prefix: &[u8]) -> io::Result<Vec<(Bytes, Bytes)>> {
            Ok(Vec::new())
        }
        fn apply(&self, _changes: &[Change], _applied: Bytes) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            self.flushes.fetch_add(1, Ordering::SeqCst);
            if self.fails { Err(io::Error::other("no disk")) } else { Ok(()) }
        }
        fn clear(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush_blocks(&self) -> bool {
            false
        }
    }

    fn tables(fails: bool) -> Arc<Counting> {
        Arc::new(Counting { flushes: AtomicUsize::new(0), fails })
    }

    #[tokio::test(start_paused = true)]
    async fn changes_close_together_share_a_flush_and_the_end_flushes_too() {
        let (tasks, tables, dirty) = (Tasks::new(), tables(false), Arc::new(Notify::new()));
        spawn(&tasks, tables.clone(), dirty.clone());
        tokio::time::sleep(10 * FLUSH_INTERVAL).await;
        assert_eq!(tables.flushes.load(Ordering::SeqCst), 0, "nothing changed yet");
        dirty.notify_one();
        dirty.notify_one();
        tokio::time::sleep(10 * FLUSH_INTERVAL).await;
        assert_eq!(tables.flushes.load(Ordering::SeqCst), 1);
        tasks.shutdown().await;
        assert_eq!(tables.flushes.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_flush_stops_the_node_and_is_not_repeated() {
        let (tasks, tables, dirty) = (Tasks::new(), tables(true), Arc::new(Notify::new()));
        spawn(&tasks, tables.clone(), dirty.clone());
        dirty.notify_one();
        assert!(tasks.failure().await.contains("no disk"));
        tasks.shutdown().await;
        assert_eq!(tables.flushes.load(Ordering::SeqCst), 1);
    }
}
