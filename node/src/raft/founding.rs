//! The first entry of a new group's log: it names the members, in term 0, at index 0.
//!
//! Invariant: every replica writes the same entry, under the first founder's name, before Raft
//! starts on its log. So a replica knows the members before it can be asked for its vote, and any
//! majority can elect, whichever replica dies at birth. (openraft gives members only to a replica
//! that has neither entries nor a vote: were one replica to write the entry and the others to get
//! it from there, those that voted for it and then lost it would have no members until it is back.)
//! The entry counts as committed only when a leader of a later term has an entry of its own behind
//! it on a majority. Must not know which groups are new: who opens a group says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::entry::RaftEntry as _;
use openraft::{EntryPayload, Membership};
use tokio::sync::oneshot;
use tristream_proto::domain::NodeId;

use super::convert;
use super::types::RaftEntry;
use crate::log::{EntryId, GroupLog};

/// Writes the first entry, unless the log has one, or had one once. Durable when it returns.
///
/// # Errors
/// Those of the log's append. Trying again is safe.
pub(super) async fn found(log: &GroupLog, founders: &[NodeId]) -> io::Result<()> {
    let state = log.state();
    let is_blank = state.last.is_none() && state.purged.is_none() && state.checkpoint.is_none();
    let (Some(&first), true) = (founders.first(), is_blank) else { return Ok(()) };
    let (flushed, done) = oneshot::channel();
    let entry = convert::to_log(first_entry(first, founders)?);
    let flushed = Box::new(move |result| drop(flushed.send(result)));
    log.append(vec![entry], flushed).await?;
    done.await.map_err(io::Error::other)?
}

fn first_entry(first: NodeId, founders: &[NodeId]) -> io::Result<RaftEntry> {
    let voters: BTreeSet<u64> = founders.iter().map(|node| node.0).collect();
    let nodes: BTreeMap<u64, ()> = voters.iter().map(|&node| (node, ())).collect();
    let members = Membership::new(vec![voters], nodes).map_err(convert::bad)?;
    let id = convert::log_id(EntryId { term: 0, node: first, index: 0 });
    Ok(RaftEntry::new(id, EntryPayload::Membership(members)))
}
