//! Where a machine begins when checkpoints in its log are damaged.

use std::path::Path;

use tristream_proto::domain::{GroupId, NodeId};

use super::*;
use crate::disk::{Disk, Open, SimulatedDisk};
use crate::entropy::OsEntropy;
use crate::log::{self, Entry, Log};
use crate::metrics::Metrics;
use crate::tasks::Tasks;

/// Remembers what it was restored from.
#[derive(Default)]
struct Text(String);

impl Machine for Text {
    type Reply = ();

    fn apply(&mut self, _: EntryId, _: &Bytes) -> Result<(), MachineError> {
        Ok(())
    }

    fn checkpoint(&self) -> Bytes {
        self.0.clone().into()
    }

    fn restore(&mut self, from: Bytes) -> Result<(), MachineError> {
        self.0 = String::from_utf8_lossy(&from).into_owned();
        Ok(())
    }
}

fn id(index: u64) -> EntryId {
    EntryId { term: 1, node: NodeId(1), index }
}

async fn open(disk: &SimulatedDisk) -> (Log, GroupLog) {
    let config = log::Config { segment_bytes: 1 << 20, ..log::Config::new("log".into()) };
    let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
    let disk = Arc::new(disk.clone());
    let log = Log::open(config, disk, Arc::new(OsEntropy), tasks, metrics).await.expect("opens");
    let group = log.group(GroupId(7));
    (log, group)
}

/// A log of ten entries with checkpoints at 4 and 8, purged up to `purged`, closed.
async fn disk(purged: Option<u64>) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let (log, group) = open(&disk).await;
    let entry = |index| {
        let (kind, payload) = (EntryKind::Command, Bytes::from_static(b"x"));
        Entry { id: id(index), kind, stamp_ms: 0, payload }
    };
    group.append((0..10).map(entry).collect(), Box::new(|_| {})).await.expect("taken");
    for (index, state) in [(4, "the older"), (8, "the newer")] {
        let state = Bytes::from_static(state.as_bytes());
        let state = convert::encode_checkpoint(&RaftMembership::default(), &state);
        group.checkpoint(id(index), state).await.expect("taken");
    }
    if let Some(index) = purged {
        group.purge(id(index)).await.expect("purged");
    }
    log.close().await.expect("closes");
    disk
}

/// Flips a bit in the state that a checkpoint holds.
async fn damage(disk: &SimulatedDisk, state: &str) {
    let path = Path::new("log/0000000001.seg");
    let file = disk.open(path, Open::Existing).expect("a segment");
    let bytes = file.read_at(0, file.len().expect("a length") as usize).await.expect("readable");
    let at = bytes.windows(state.len()).position(|window| window == state.as_bytes());
    disk.flip_bit(path, at.expect("it is there") as u64, 1).expect("flipped");
}

/// Restores a machine from a log in which `rots` has rotted since it was opened. (What is damaged when
/// the log opens it may not even tell of.)
async fn restored(disk: &SimulatedDisk, rots: &str) -> io::Result<(String, Option<u64>)> {
    let (log, _) = open(disk).await;
    if !rots.is_empty() {
        damage(disk, rots).await;
    }
    let mended = Mended::without_peers(log, GroupId(7));
    let (_, shared) = StateMachine::restore(Text::default(), &mended).await?;
    let text = shared.machine.lock().0.clone();
    Ok((text, *shared.applied.borrow()))
}

#[tokio::test]
async fn a_damaged_checkpoint_is_stepped_over_to_the_one_before() {
    let disk = disk(None).await;
    let newer = restored(&disk, "").await.expect("restored");
    assert_eq!(newer, ("the newer".to_owned(), Some(8)));
    let older = restored(&disk, "the newer").await.expect("restored");
    assert_eq!(older, ("the older".to_owned(), Some(4)));
    let none = restored(&disk, "the older").await.expect("restored");
    assert_eq!(none, (String::new(), None));
}

#[tokio::test]
async fn a_purged_log_without_a_checkpoint_is_refused_and_not_begun_from_nothing() {
    let disk = disk(Some(4)).await;
    let older = restored(&disk, "the newer").await.expect("restored");
    assert_eq!(older, ("the older".to_owned(), Some(4)));
    for rots in ["the older", ""] {
        let refused = restored(&disk, rots).await.expect_err("entries 0 to 4 are nowhere");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert!(refused.to_string().contains("no checkpoint"), "{refused}");
    }
}
