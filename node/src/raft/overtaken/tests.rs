//! A peer's checkpoint meets logs of all sorts, and what is left of them outlives the power.

use std::sync::Arc;

use tristream_proto::domain::{GroupId, NodeId};

use super::super::types::RaftMembership;
use super::*;
use crate::disk::SimulatedDisk;
use crate::entropy::OsEntropy;
use crate::log::{self, Entry, EntryKind, GroupState, Log};
use crate::metrics::Metrics;
use crate::tasks::Tasks;

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, node: NodeId(term), index }
}

fn state() -> Bytes {
    convert::encode_checkpoint(&RaftMembership::default(), &Bytes::from_static(b"theirs"))
}

async fn open(disk: &SimulatedDisk) -> (Log, GroupLog) {
    let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
    let config = log::Config { segment_bytes: 1 << 20, ..log::Config::new("log".into()) };
    let disk = Arc::new(disk.clone());
    let log = Log::open(config, disk, Arc::new(OsEntropy), tasks, metrics).await.expect("opens");
    let group = log.group(GroupId(7));
    (log, group)
}

/// A log with entries 0 to 5 of term 1 and 6 to 9 of term 3, and what becomes of it with the checkpoint: at
/// once, and after the power went.
async fn begun(
    committed: Option<u64>,
    purged: Option<u64>,
    at: EntryId,
) -> (io::Result<()>, GroupState) {
    let disk = SimulatedDisk::new();
    let (_log, group) = open(&disk).await;
    let entry = |index| {
        let id = id(if index < 6 { 1 } else { 3 }, index);
        Entry { id, kind: EntryKind::Blank, stamp_ms: 0, payload: Bytes::new() }
    };
    group.append((0..10).map(entry).collect(), Box::new(|_| {})).await.expect("taken");
    group.save_vote(convert::encode_vote(&RaftVote::new(3, 3))).await.expect("saved");
    group.save_committed(committed.map(|index| entry(index).id));
    if let Some(purged) = purged {
        group.purge(entry(purged).id).await.expect("purged");
    }
    let done = begin_at(&group, at, state()).await;
    let now = group.state();
    if done.is_ok() {
        assert_eq!(group.read_checkpoint(at).await.expect("readable"), Some(state()));
        if purged < Some(at.index) {
            let (_again, again) = open(&disk.restarted()).await;
            let found = GroupState { committed: now.committed, ..again.state() };
            assert_eq!(found, now, "after the power went");
            assert_eq!(again.read_checkpoint(at).await.expect("readable"), Some(state()));
        }
    }
    (done, now)
}

fn vote(state: &GroupState) -> RaftVote {
    convert::decode_vote(state.vote.as_ref().expect("a vote")).expect("valid")
}

#[tokio::test]
async fn what_follows_the_checkpoint_stays() {
    let (done, state) = begun(Some(2), None, id(1, 4)).await;
    done.expect("begun");
    assert_eq!((state.purged, state.last), (Some(id(1, 4)), Some(id(3, 9))));
    assert_eq!(vote(&state), RaftVote::new(3, 3), "it was promised");
}

#[tokio::test]
async fn a_log_that_ends_before_it_is_empty_and_knows_its_leader() {
    let (done, state) = begun(Some(2), None, id(5, 20)).await;
    done.expect("begun");
    assert_eq!((state.purged, state.last), (Some(id(5, 20)), Some(id(5, 20))));
    assert_eq!(vote(&state), RaftVote::new_committed(5, 5));
}

#[tokio::test]
async fn what_contradicts_it_was_never_committed_and_goes() {
    let (done, state) = begun(Some(5), Some(3), id(5, 7)).await;
    done.expect("begun");
    assert_eq!((state.purged, state.last), (Some(id(5, 7)), Some(id(5, 7))));
}

#[tokio::test]
async fn nothing_that_is_committed_here_is_given_up() {
    for (committed, purged, at) in [
        (Some(7), None, id(5, 7)),
        (Some(9), Some(2), id(5, 7)),
        (None, Some(4), id(2, 4)),
        (None, Some(4), id(1, 3)),
    ] {
        let (done, state) = begun(committed, purged, at).await;
        let refused = done.expect_err("it contradicts what is here");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert_eq!((state.last, vote(&state)), (Some(id(3, 9)), RaftVote::new(3, 3)));
        assert_eq!((state.purged.map(|id| id.index), state.checkpoint), (purged, None));
    }
}

#[tokio::test]
async fn a_lost_checkpoint_of_the_purge_point_is_put_back() {
    let (done, state) = begun(Some(5), Some(4), id(1, 4)).await;
    done.expect("begun");
    assert_eq!((state.purged, state.last), (Some(id(1, 4)), Some(id(3, 9))));
    assert_eq!(state.checkpoint, Some(id(1, 4)));
}
