//! A bug planted in the log, shown on the log alone: a vote that goes with its segment.
//!
//! No script finds this bug, and no random seed came by it: what follows from it for a cluster is not shown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tristream_client::domain::{GroupId, NodeId};
use tristream_node::disk::{Disk, SimulatedDisk};
use tristream_node::entropy::OsEntropy;
use tristream_node::log::{Config, Entry, EntryId, EntryKind, GroupLog, Log};
use tristream_node::metrics::Metrics;
use tristream_node::planted::{self, Plant};
use tristream_node::tasks::Tasks;

const DIR: &str = "/node/log";
const ENTRIES: u64 = 48;
const ENTRY_BYTES: usize = 64 << 10;

async fn open(disk: &SimulatedDisk, tasks: &Tasks) -> io::Result<Log> {
    let config = Config { segment_bytes: 1 << 20, ..Config::new(PathBuf::from(DIR)) };
    let (disk, metrics) = (Arc::new(disk.clone()), Arc::new(Metrics::new()));
    Log::open(config, disk, Arc::new(OsEntropy), tasks.clone(), metrics).await
}

/// Durable when it returns.
async fn append(group: &GroupLog, index: u64) -> io::Result<EntryId> {
    let id = EntryId { term: 1, node: NodeId(1), index };
    let payload = Bytes::from(vec![index as u8; ENTRY_BYTES]);
    let entry = Entry { id, kind: EntryKind::Command, stamp_ms: 0, payload };
    let (told, durable) = oneshot::channel();
    let flushed = Box::new(move |result| drop(told.send(result)));
    group.append(vec![entry], flushed).await?;
    durable.await.map_err(io::Error::other)??;
    Ok(id)
}

/// What a node that votes, fills segments with another group's entries, purges these and starts again finds of its
/// vote.
async fn vote_after_its_segment_went() -> io::Result<Option<Bytes>> {
    let (disk, tasks) = (SimulatedDisk::new(), Tasks::new());
    let log = open(&disk, &tasks).await?;
    log.group(GroupId(1)).save_vote(Bytes::from_static(b"a vote")).await?;
    let other = log.group(GroupId(2));
    let mut last = EntryId::default();
    for index in 0..ENTRIES {
        last = append(&other, index).await?;
    }
    other.checkpoint(last, Bytes::from_static(b"state")).await?;
    other.purge(last).await?;
    let first = "0000000001.seg".to_owned();
    let patience = Duration::from_secs(60);
    let gone = async {
        while disk.list(Path::new(DIR))?.contains(&first) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok::<_, io::Error>(())
    };
    tokio::time::timeout(patience, gone).await.map_err(io::Error::other)??;
    log.close().await?;
    tasks.shutdown().await;
    let tasks = Tasks::new();
    let vote = open(&disk, &tasks).await?.group(GroupId(1)).state().vote;
    tasks.shutdown().await;
    Ok(vote)
}

#[tokio::test]
async fn newest_vote_lost_with_its_segment() {
    let vote = vote_after_its_segment_went().await.unwrap();
    assert_eq!(vote, Some(Bytes::from_static(b"a vote")));
    planted::switch_on(Some(Plant::VoteLostWithSegment));
    let lost = vote_after_its_segment_went().await.unwrap();
    assert!(planted::reached() > 0, "nobody came by the bug");
    planted::switch_on(None);
    assert_eq!(lost, None, "the bug lost no vote: who finds it?");
}
