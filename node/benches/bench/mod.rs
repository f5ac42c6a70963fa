//! What the benches of the log share: a disk that counts, a log on it, load, and the bare loop.
//!
//! The log is used only through what the node uses: `Log` and `GroupLog`.

pub(crate) mod bare;
pub(crate) mod disk;
pub(crate) mod load;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tristream_node::disk::Disk;
use tristream_node::entropy::OsEntropy;
use tristream_node::log::{Config, Log};
use tristream_node::metrics::Metrics;
use tristream_node::tasks::Tasks;

use disk::BenchDisk;

/// Bytes of recent payloads that the benched logs keep in memory.
pub(crate) const TAIL_BYTES: usize = 64 << 20;

/// Runs `work` on one of the runtime's own threads, as all work of a node is.
#[allow(clippy::disallowed_methods)]
pub(crate) fn on_worker<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime.block_on(async { tokio::spawn(work).await.expect("the work ends well") })
}

/// A folder for data below the target folder; removed when it is dropped.
pub(crate) fn folder() -> tempfile::TempDir {
    let tmp = env!("CARGO_TARGET_TMPDIR");
    std::fs::create_dir_all(tmp).expect("the target folder can be written");
    tempfile::Builder::new().prefix("bench-log-").tempdir_in(tmp).expect("a temporary folder")
}

/// The configuration of the benched logs.
pub(crate) fn config(dir: PathBuf, segment_bytes: u64) -> Config {
    Config { segment_bytes, tail_bytes: TAIL_BYTES, ..Config::new(dir) }
}

/// An open log and what it needs.
pub(crate) struct Bench {
    pub(crate) log: Log,
    pub(crate) disk: BenchDisk,
    tasks: Tasks,
}

impl Bench {
    /// Opens the log.
    pub(crate) async fn open(config: Config, disk: BenchDisk) -> Bench {
        let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let log = Log::open(config, shared, Arc::new(OsEntropy), tasks.clone(), metrics).await;
        Bench { log: log.expect("the log opens"), disk, tasks }
    }

    /// Closes the log in good order.
    pub(crate) async fn close(self) {
        self.log.close().await.expect("the log closes");
        self.tasks.shutdown().await;
    }
}
