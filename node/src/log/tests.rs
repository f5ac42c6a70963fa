//! Tests of the log as a whole, on the simulated and on the real disk.

mod basics;
mod checkpoints;
mod crashes;
mod faults;
mod given_up;
mod model;
mod rot;
mod space;
mod stamps;
mod trouble;

use super::state::Stage;
use super::*;
use crate::disk::{Open, RealDisk, SimulatedDisk};
use crate::entropy::OsEntropy;

/// A log on some disk, which can be closed, crashed and opened again.
pub(super) struct Bench {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) simulated: Option<SimulatedDisk>,
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    tasks: Tasks,
    log: Option<Log>,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    /// On a simulated disk.
    pub(super) fn simulated() -> Bench {
        let disk = SimulatedDisk::new();
        Bench::on(Arc::new(disk.clone()), Some(disk), PathBuf::from("/node/log"), None)
    }

    /// On the real disk.
    pub(super) fn real() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        Bench::on(Arc::new(RealDisk), None, folder.path().join("log"), Some(folder))
    }

    fn on(
        disk: Arc<dyn Disk>,
        simulated: Option<SimulatedDisk>,
        dir: PathBuf,
        folder: Option<tempfile::TempDir>,
    ) -> Bench {
        let config = Config {
            segment_bytes: 1 << 20,
            tail_bytes: 1 << 20,
            queue_bytes: 16 << 20,
            rewrite_bytes_per_second: 1 << 40,
            scrub_bytes_per_second: 1 << 40,
            ..Config::new(dir)
        };
        let (metrics, tasks) = (Arc::new(Metrics::new()), Tasks::new());
        Bench { disk, simulated, config, metrics, tasks, log: None, _folder: folder }
    }

    /// Opens the log, which must not be open.
    pub(super) async fn try_open(&mut self) -> io::Result<Log> {
        assert!(self.log.is_none());
        self.tasks = Tasks::new();
        let (config, disk) = (self.config.clone(), Arc::clone(&self.disk));
        let (tasks, metrics) = (self.tasks.clone(), Arc::clone(&self.metrics));
        let log = Log::open(config, disk, Arc::new(OsEntropy), tasks, metrics).await?;
        self.log = Some(log.clone());
        Ok(log)
    }

    pub(super) async fn open(&mut self) -> Log {
        self.try_open().await.unwrap()
    }

    /// Closes the log and opens it again.
    pub(super) async fn reopen(&mut self) -> Log {
        self.log.take().unwrap().close().await.unwrap();
        self.tasks.shutdown().await;
        self.open().await
    }

    /// Ends the log without closing its files: what was accepted gets written or fails, no more.
    pub(super) async fn stop(&mut self) {
        self.log = None;
        self.tasks.shutdown().await;
    }

    /// The process is killed.
    pub(super) async fn kill(&mut self) {
        self.simulated.as_ref().unwrap().process_crash();
        self.restart().await;
    }

    /// The power fails.
    pub(super) async fn lose_power(&mut self, seed: u64) {
        self.simulated.as_ref().unwrap().power_loss(seed);
        self.restart().await;
    }

    async fn restart(&mut self) {
        self.stop().await;
        let disk = self.simulated.as_ref().unwrap().restarted();
        (self.disk, self.simulated) = (Arc::new(disk.clone()), Some(disk));
    }

    /// The reason for which the node must stop. Waits for it.
    pub(super) async fn failure(&self) -> String {
        within(self.tasks.failure()).await
    }

    /// The segments' names.
    pub(super) fn segments(&self) -> Vec<String> {
        let names = self.disk.list(&self.config.dir).unwrap();
        names.into_iter().filter(|name| name.ends_with(".seg")).collect()
    }

    /// Bytes of all segments of the log.
    pub(super) fn bytes(&self) -> u64 {
        let file = |name: &String| self.disk.open(&self.config.dir.join(name), Open::Existing);
        let names = self.segments();
        names.iter().map(|name| file(name).map_or(0, |file| file.len().unwrap())).sum()
    }

    /// Path of a segment.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.config.dir.join(name)
    }

    /// The content of a file of the log.
    pub(super) async fn content(&self, name: &str) -> Vec<u8> {
        let file = self.disk.open(&self.config.dir.join(name), Open::Existing).unwrap();
        file.read_at(0, file.len().unwrap() as usize).await.unwrap().to_vec()
    }

    /// Replaces the content of a file of the log, durably.
    pub(super) async fn set_content(&self, name: &str, content: Vec<u8>) {
        let file = self.disk.open(&self.config.dir.join(name), Open::Existing).unwrap();
        file.set_len(content.len() as u64).await.unwrap();
        file.write_synced(0, vec![content.into()]).await.unwrap();
    }
}

/// Waits long enough that only a hang exceeds it.
pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_secs(60), work).await.expect("hangs")
}

/// Waits until `holds`.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(super) fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, node: NodeId(3), index }
}

pub(super) fn entry(term: u64, index: u64) -> Entry {
    let payload = format!("payload of {index} in term {term}").into_bytes().into();
    Entry { id: id(term, index), kind: EntryKind::Command, stamp_ms: 1000 + index, payload }
}

pub(super) fn entries(term: u64, range: Range<u64>) -> Vec<Entry> {
    range.map(|index| entry(term, index)).collect()
}

/// Appends without waiting; the answer comes from the future.
pub(super) async fn start_append(
    group: &GroupLog,
    entries: Vec<Entry>,
) -> impl Future<Output = io::Result<()>> + use<> {
    let (told, answer) = tokio::sync::oneshot::channel();
    let flushed = Box::new(move |result| {
        let _ = told.send(result);
    });
    let accepted = group.append(entries, flushed).await;
    async move {
        let answer = answer.await.expect("a callback is never dropped uncalled");
        assert!(accepted.is_ok() || answer.is_err());
        answer
    }
}

/// Appends and waits until it is durable.
pub(super) async fn append(group: &GroupLog, entries: Vec<Entry>) -> io::Result<()> {
    within(start_append(group, entries).await).await
}

/// Waits until every full segment has its footer.
pub(super) async fn sealed(log: &Log) {
    until(|| {
        let state = log.shared.state.lock();
        let mut full = state.segments.iter().filter(|(_, known)| known.stage == Stage::Full);
        !full.any(|(sequence, _)| state.has_successor(*sequence))
    })
    .await;
}

pub(super) async fn read_all(group: &GroupLog) -> Vec<Entry> {
    let first = group.state().purged.map_or(0, |purged| purged.index + 1);
    group.read(first..u64::MAX, usize::MAX).await.unwrap()
}
