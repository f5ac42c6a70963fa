//! Whether there is room for more records: on this node's disk, and on the peers', as they say.
//!
//! Owns the answer to "may a put be taken". Invariants: it is asked before a record is proposed and
//! never for what must go on (votes, seals, trims, deletes, metadata); a peer that falls silent is
//! forgotten. Must not know groups, or how peers talk.

mod reserve;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, interval};
use tristream_proto::domain::NodeId;

use super::Disk;
use crate::metrics::Metrics;
use crate::tasks::{Kind, Tasks};

pub use reserve::Reserve;

/// How often the disk is looked at. The reserve is far larger than what can be written meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A peer repeats what it says with every answer, several times a second.
const WORD_LASTS: Duration = Duration::from_secs(3);

/// The room of this node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Size of the disk.
    pub total_bytes: u64,
    /// Bytes that are kept free.
    pub reserve_bytes: u64,
    /// Puts are refused.
    pub is_low: bool,
}

/// What is known of the room. Clones are the same.
#[derive(Clone, Default)]
pub struct Room {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    is_low: AtomicBool,
    /// The newest look; `None` before the first.
    storage: Mutex<Option<Storage>>,
    /// Whose disk is low, and when they last said so.
    low_peers: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Room {
    /// Room without end, until a disk is watched or a peer complains.
    pub fn new() -> Room {
        Room::default()
    }

    /// Looks at the disk that holds `dir` now, and from now on several times a second.
    pub fn watch(
        &self,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        reserve: Reserve,
        tasks: &Tasks,
        metrics: Arc<Metrics>,
    ) {
        let room = self.clone();
        let look = move || match disk.space(&dir) {
            Ok(space) => {
                let is_low = reserve.is_low(room.is_low(), space);
                let storage = Storage {
                    free_bytes: space.free_bytes,
                    total_bytes: space.total_bytes,
                    reserve_bytes: reserve.bytes(space),
                    is_low,
                };
                metrics.set_disk(storage.free_bytes, storage.reserve_bytes, is_low);
                room.seen(storage);
            }
            // What was seen last holds.
            Err(error) => tracing::warn!(%error, "cannot tell how much room the disk has"),
        };
        look();
        tasks.spawn(Kind::Room, async move {
            let mut every = interval(LOOK_EVERY);
            loop {
                every.tick().await;
                look();
            }
        });
    }

    fn seen(&self, storage: Storage) {
        let was_low = self.inner.is_low.swap(storage.is_low, Ordering::Relaxed);
        *self.inner.storage.lock() = Some(storage);
        let Storage { free_bytes, reserve_bytes, .. } = storage;
        match (was_low, storage.is_low) {
            (false, true) => {
                tracing::warn!(free_bytes, reserve_bytes, "the disk is nearly full: no more puts");
            }
            (true, false) => tracing::info!(free_bytes, "the disk has room again for puts"),
            _ => {}
        }
    }

    /// Whether this node's disk is low, which peers are told.
    pub fn is_low(&self) -> bool {
        self.inner.is_low.load(Ordering::Relaxed)
    }

    /// The newest look at this node's disk.
    pub fn storage(&self) -> Option<Storage> {
        *self.inner.storage.lock()
    }

    /// A peer says whether its disk is low.
    pub fn heard(&self, peer: NodeId, is_low: bool) {
        let mut low = self.inner.low_peers.lock();
        if !is_low {
            low.remove(&peer);
        } else if low.insert(peer, Instant::now()).is_none() {
            tracing::warn!(%peer, "a peer's disk is nearly full: no more puts");
        }
    }

    /// Why no more records may be taken; `None` where they may. Every shard has a replica on every
    /// node, so one that is low is enough.
    pub fn refusal(&self) -> Option<String> {
        if self.is_low() {
            let of = self.storage().map(|storage| {
                let Storage { free_bytes, total_bytes, reserve_bytes, .. } = storage;
                format!(": {free_bytes} of {total_bytes} bytes are free, {reserve_bytes} are kept")
            });
            let of = of.unwrap_or_default();
            return Some(format!("the disk of the shard's leader is nearly full{of}"));
        }
        let low = self.inner.low_peers.lock();
        let (peer, _) = low.iter().find(|(_, said)| said.elapsed() < WORD_LASTS)?;
        Some(format!("the disk of node {peer}, which has a replica, is nearly full"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Open, SimulatedDisk};
    use bytes::Bytes;
    use std::path::Path;

    const PEER: NodeId = NodeId(2);

    #[tokio::test(start_paused = true)]
    async fn puts_are_refused_below_the_reserve_and_taken_again_above_it() {
        let (disk, room, tasks) = (SimulatedDisk::new(), Room::new(), Tasks::new());
        disk.set_capacity(1000);
        disk.create_dir_all(Path::new("/d")).unwrap();
        let reserve = Reserve { configured: Some(400), segment_bytes: 1 };
        let (watched, metrics) = (Arc::new(disk.clone()), Arc::new(Metrics::new()));
        room.watch(watched, "/d".into(), reserve, &tasks, metrics.clone());
        assert_eq!(room.refusal(), None);
        let told = room.storage().unwrap();
        assert_eq!((told.free_bytes, told.total_bytes, told.reserve_bytes), (1000, 1000, 400));

        let file = disk.open(Path::new("/d/f"), Open::New).unwrap();
        file.write_at(0, vec![Bytes::from(vec![1; 601])]).await.unwrap();
        tokio::time::sleep(2 * LOOK_EVERY).await;
        let refusal = room.refusal().unwrap();
        assert!(refusal.contains("399 of 1000 bytes are free"), "{refusal}");
        assert!(metrics.encode().contains("tristream_disk_low 1"), "{}", metrics.encode());

        file.set_len(560).await.unwrap();
        tokio::time::sleep(2 * LOOK_EVERY).await;
        assert!(room.is_low(), "hardly more than the reserve is not enough");
        file.set_len(500).await.unwrap();
        tokio::time::sleep(2 * LOOK_EVERY).await;
        assert_eq!(room.refusal(), None);
        tasks.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_full_at_the_start_is_seen_at_once() {
        let (disk, room, tasks) = (SimulatedDisk::new(), Room::new(), Tasks::new());
        disk.set_capacity(0);
        let reserve = Reserve { configured: Some(1), segment_bytes: 1 };
        room.watch(Arc::new(disk), "/d".into(), reserve, &tasks, Arc::new(Metrics::new()));
        assert!(room.is_low());
        tasks.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_peers_word_counts_until_it_is_taken_back_or_old() {
        let room = Room::new();
        room.heard(PEER, true);
        assert!(room.refusal().unwrap().contains("node 2"));
        assert!(!room.is_low(), "peers are told of the own disk only");
        room.heard(PEER, false);
        assert_eq!(room.refusal(), None);
        room.heard(PEER, true);
        tokio::time::sleep(WORD_LASTS).await;
        assert_eq!(room.refusal(), None, "a dead node stops nobody");
    }
}
