//! Synced writes one after the other: how a log's blocks get to the disk.
//!
//! Invariants: a write is begun only when the sync of the one handed over before it returned `Ok`;
//! after a failure nothing handed over later is written. What comes next may be handed over while
//! one is written: then no time passes between a sync and the next write. Must not know what is
//! written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::File;

/// Writes that may wait behind the one that is running.
pub const WAITING_MAX: usize = 1;
/// That one included.
const OPEN_MAX: usize = WAITING_MAX + 1;

/// Takes synced writes, and does them in turn. Dropping it lets what was handed over end.
pub trait Lane: Send + Sync + 'static {
    /// `File::write_synced`, after all that was handed over before. To be awaited in the same order;
    /// a future that is dropped counts as failed unless its write was begun.
    ///
    /// # Errors
    /// `WouldBlock`, from lanes with a thread: `WAITING_MAX` wait already; this one did not happen and
    /// was no failure. Others: nobody knows whether the first that failed happened; all after it did
    /// not.
    fn write_synced(
        &mut self,
        file: Arc<dyn File>,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, io::Result<()>>;
}

/// A lane without a thread: who awaits does the work. For disks that do not block.
#[derive(Default)]
pub(super) struct InTurn {
    /// Tells how the last one that was handed over ended.
    last: Option<oneshot::Receiver<()>>,
}

impl Lane for InTurn {
    fn write_synced(
        &mut self,
        file: Arc<dyn File>,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, io::Result<()>> {
        let (durable, told) = oneshot::channel();
        let before = self.last.replace(told);
        Box::pin(async move {
            if let Some(before) = before {
                before.await.map_err(|_| failed_before())?;
            }
            file.write_synced(offset, parts).await?;
            // Nobody may be waiting for it.
            let _ = durable.send(());
            Ok(())
        })
    }
}

/// A lane with a thread of its own: other files' reads, however many and slow, are not in its way.
pub struct LaneThread {
    jobs: SyncSender<Job>,
    /// Handed over and not done.
    open: Arc<AtomicUsize>,
}

struct Job {
    file: Arc<dyn File>,
    offset: u64,
    parts: Vec<Bytes>,
    done: oneshot::Sender<io::Result<()>>,
}

impl LaneThread {
    /// Starts the thread. The files handed over must have `write_synced_here`.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start() -> io::Result<LaneThread> {
        let (jobs, work) = sync_channel(OPEN_MAX);
        let open = Arc::new(AtomicUsize::new(0));
        let done = Arc::clone(&open);
        std::thread::Builder::new()
            .name("log-commit".to_owned())
            .spawn(move || run(&work, &done))?;
        Ok(LaneThread { jobs, open })
    }
}

impl Lane for LaneThread {
    fn write_synced(
        &mut self,
        file: Arc<dyn File>,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, io::Result<()>> {
        if self.open.fetch_add(1, Ordering::AcqRel) == OPEN_MAX {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return Box::pin(std::future::ready(Err(io::ErrorKind::WouldBlock.into())));
        }
        let (done, answer) = oneshot::channel();
        // There is room for all that are open; an error means that the thread ended, and drops
        // `done`.
        let _ = self.jobs.try_send(Job { file, offset, parts, done });
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(failed_before())) })
    }
}

/// Ends after the first failure: later jobs find nobody.
fn run(work: &Receiver<Job>, open: &AtomicUsize) {
    while let Ok(Job { file, offset, parts, done }) = work.recv() {
        let written = file.write_synced_here(offset, &parts);
        // Its payloads and its file go before the next is begun: nobody else may be holding them.
        drop((file, parts));
        let failed = written.is_err();
        open.fetch_sub(1, Ordering::AcqRel);
        let _ = done.send(written);
        if failed {
            return;
        }
    }
}

fn failed_before() -> io::Error {
    io::Error::other("a write before this one failed")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use futures::poll;
    use parking_lot::Mutex;

    use super::*;
    use crate::disk::{Disk, Open, RealDisk, SimulatedDisk};

    fn simulated() -> (SimulatedDisk, Arc<dyn File>, Box<dyn Lane>) {
        let disk = SimulatedDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let file = disk.open(Path::new("/d/f"), Open::New).unwrap();
        let lane = disk.lane().unwrap();
        (disk, file, lane)
    }

    fn part(byte: u8) -> Vec<Bytes> {
        vec![vec![byte; 10].into()]
    }

    #[tokio::test]
    async fn the_next_is_begun_when_the_sync_before_returned() {
        let (disk, file, mut lane) = simulated();
        disk.hold_syncs();
        let mut first = lane.write_synced(Arc::clone(&file), 0, part(1));
        let mut second = lane.write_synced(Arc::clone(&file), 10, part(2));
        assert!(poll!(&mut second).is_pending() && poll!(&mut first).is_pending());
        assert_eq!((disk.unsynced_bytes(), file.len().unwrap()), (10, 10));
        disk.release_syncs();
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!((disk.unsynced_bytes(), file.len().unwrap()), (0, 20));
    }

    #[tokio::test]
    async fn after_a_failure_nothing_is_written() {
        let (disk, file, mut lane) = simulated();
        disk.fail_syncs(1);
        let first = lane.write_synced(Arc::clone(&file), 0, part(1));
        let second = lane.write_synced(Arc::clone(&file), 10, part(2));
        assert!(first.await.is_err() && second.await.is_err());
        let third = lane.write_synced(Arc::clone(&file), 10, part(3));
        assert!(third.await.is_err());
        assert_eq!(file.len().unwrap(), 10);
    }

    #[tokio::test]
    async fn a_dropped_write_is_a_failure() {
        let (_disk, file, mut lane) = simulated();
        drop(lane.write_synced(Arc::clone(&file), 0, part(1)));
        assert!(lane.write_synced(Arc::clone(&file), 0, part(2)).await.is_err());
        assert_eq!(file.len().unwrap(), 0);
    }

    #[tokio::test]
    async fn the_thread_writes_in_turn_and_durably() {
        let folder = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&folder.path().join("f"), Open::New).unwrap();
        let mut lane = RealDisk.lane().unwrap();
        let first = lane.write_synced(Arc::clone(&file), 0, part(1));
        first.await.unwrap();
        for byte in 2..50 {
            let at = u64::from(byte - 1) * 10;
            lane.write_synced(Arc::clone(&file), at, part(byte)).await.unwrap();
        }
        let bytes = file.read_at(0, 490).await.unwrap();
        assert!(bytes.chunks(10).zip(1..50).all(|(chunk, byte)| chunk == [byte; 10]));
    }

    /// A file whose writes wait for leave, and may fail.
    struct Slow {
        leave: Mutex<std::sync::mpsc::Receiver<bool>>,
        offsets: Mutex<Vec<u64>>,
    }

    impl File for Slow {
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn read_at(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Bytes>> {
            unreachable!("the lane only writes")
        }
        fn write_at(&self, _: u64, _: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
            unreachable!("the lane writes on its thread")
        }
        fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
            unreachable!("the lane writes on its thread")
        }
        fn set_len(&self, _: u64) -> BoxFuture<'_, io::Result<()>> {
            unreachable!("the lane only writes")
        }
        fn allocate(&self, _: u64) -> BoxFuture<'_, io::Result<()>> {
            unreachable!("the lane only writes")
        }
        fn write_synced_here(&self, offset: u64, _: &[Bytes]) -> io::Result<()> {
            self.offsets.lock().push(offset);
            match self.leave.lock().recv() {
                Ok(true) => Ok(()),
                _ => Err(io::Error::other("injected")),
            }
        }
    }

    fn slow() -> (std::sync::mpsc::SyncSender<bool>, Arc<Slow>) {
        let (leave, waits) = sync_channel(9);
        (leave, Arc::new(Slow { leave: Mutex::new(waits), offsets: Mutex::default() }))
    }

    async fn begun(file: &Slow, writes: usize) {
        let wait = async {
            while file.offsets.lock().len() < writes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("never begun");
    }

    #[tokio::test]
    async fn the_thread_lets_only_so_many_wait() {
        let (leave, file) = slow();
        let mut lane = LaneThread::start().unwrap();
        let first = lane.write_synced(file.clone(), 1, part(1));
        begun(&file, 1).await;
        let second = lane.write_synced(file.clone(), 2, part(2));
        let third = lane.write_synced(file.clone(), 3, part(3)).await.unwrap_err();
        assert_eq!(third.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(*file.offsets.lock(), [1]);
        leave.send(true).unwrap();
        leave.send(true).unwrap();
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(*file.offsets.lock(), [1, 2]);
    }

    #[tokio::test]
    async fn the_thread_writes_nothing_after_a_failure() {
        let (leave, file) = slow();
        let mut lane = LaneThread::start().unwrap();
        let first = lane.write_synced(file.clone(), 1, part(1));
        begun(&file, 1).await;
        let second = lane.write_synced(file.clone(), 2, part(2));
        leave.send(false).unwrap();
        leave.send(true).unwrap();
        assert!(first.await.is_err() && second.await.is_err());
        assert!(lane.write_synced(file.clone(), 3, part(3)).await.is_err());
        assert_eq!(*file.offsets.lock(), [1]);
    }
}
