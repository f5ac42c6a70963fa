//! openraft's values <-> the log's and the wire's. Bytes from the wire or the disk are checked here.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use openraft::entry::{RaftEntry as _, RaftPayload as _};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, VoteRequest, VoteResponse};
use openraft::{EntryPayload, LogId, Membership};
use serde::{Deserialize, Serialize};
use tristream_proto::domain::NodeId;
use tristream_proto::wire;

use super::types::{Command, LeaderId, RaftEntry, RaftLogId, RaftMembership, RaftVote, Types};
use crate::log::{Entry, EntryId, EntryKind};

pub(super) fn bad(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

pub(super) fn log_id(id: EntryId) -> RaftLogId {
    LogId::new(LeaderId { term: id.term, node_id: id.node.0 }, id.index)
}

pub(super) fn entry_id(id: &RaftLogId) -> EntryId {
    let leader = id.committed_leader_id();
    EntryId { term: leader.term, node: NodeId(leader.node_id), index: id.index() }
}

/// A membership as it is kept in the log and sent to peers.
#[derive(Serialize, Deserialize)]
struct StoredConfig {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeSet<u64>,
}

type Config = Membership<u64, ()>;

fn encode_config(config: &Config) -> Bytes {
    let stored = StoredConfig {
        configs: config.get_joint_config().clone(),
        nodes: config.nodes().map(|(id, ())| *id).collect(),
    };
    // Sets of numbers always have a JSON form.
    serde_json::to_vec(&stored).unwrap_or_default().into()
}

fn decode_config(bytes: &[u8]) -> io::Result<Config> {
    let stored: StoredConfig = serde_json::from_slice(bytes).map_err(bad)?;
    let nodes: std::collections::BTreeMap<u64, ()> =
        stored.nodes.into_iter().map(|id| (id, ())).collect();
    Config::new(stored.configs, nodes).map_err(bad)
}

/// Without a stamp, which only the group's state machine can read.
pub(super) fn to_log(entry: RaftEntry) -> Entry {
    let id = entry_id(&entry.log_id());
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(command) => (EntryKind::Command, command.0),
        EntryPayload::Membership(config) => (EntryKind::Membership, encode_config(&config)),
    };
    Entry { id, kind, stamp_ms: 0, payload }
}

pub(super) fn from_log(entry: Entry) -> io::Result<RaftEntry> {
    let payload = match entry.kind {
        EntryKind::Blank => EntryPayload::blank(),
        EntryKind::Command => EntryPayload::Normal(Command(entry.payload)),
        EntryKind::Membership => EntryPayload::Membership(decode_config(&entry.payload)?),
    };
    Ok(RaftEntry { log_id: log_id(entry.id), payload })
}

/// What a checkpoint holds beside the machine's state: the membership as of the checkpoint.
pub(super) fn encode_checkpoint(membership: &RaftMembership, state: &Bytes) -> Bytes {
    let id = membership.log_id().as_ref().map(entry_id);
    let head = (
        id.map(|id| (id.term, id.node.0, id.index)),
        encode_config(membership.membership()).to_vec(),
    );
    let head = serde_json::to_vec(&head).unwrap_or_default();
    let mut out = Vec::with_capacity(4 + head.len() + state.len());
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(state);
    out.into()
}

pub(super) fn decode_checkpoint(mut bytes: Bytes) -> io::Result<(RaftMembership, Bytes)> {
    let short = || bad("checkpoint ends within its head");
    if bytes.len() < 4 {
        return Err(short());
    }
    let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    let _ = bytes.split_to(4);
    if bytes.len() < len {
        return Err(short());
    }
    let head = bytes.split_to(len);
    let (id, config): (Option<(u64, u64, u64)>, Vec<u8>) =
        serde_json::from_slice(&head).map_err(bad)?;
    let id = id.map(|(term, node, index)| log_id(EntryId { term, node: NodeId(node), index }));
    Ok((RaftMembership::new(id, decode_config(&config)?), bytes))
}

pub(super) fn encode_vote(vote: &RaftVote) -> Bytes {
    let vote = to_wire_vote(vote);
    prost::Message::encode_to_vec(&vote).into()
}

pub(super) fn decode_vote(bytes: &[u8]) -> io::Result<RaftVote> {
    let vote = <wire::RaftVote as prost::Message>::decode(bytes).map_err(bad)?;
    Ok(from_wire_vote(&vote))
}

pub(super) fn to_wire_vote(vote: &RaftVote) -> wire::RaftVote {
    let leader = vote.leader_id();
    wire::RaftVote { term: leader.term, node: leader.node_id, committed: vote.is_committed() }
}

pub(super) fn from_wire_vote(vote: &wire::RaftVote) -> RaftVote {
    match vote.committed {
        true => RaftVote::new_committed(vote.term, vote.node),
        false => RaftVote::new(vote.term, vote.node),
    }
}

pub(super) fn required_vote(vote: Option<&wire::RaftVote>) -> io::Result<RaftVote> {
    vote.map(from_wire_vote).ok_or_else(|| bad("a message without a vote"))
}

pub(super) fn to_wire_id(id: &RaftLogId) -> wire::LogId {
    let id = entry_id(id);
    wire::LogId { term: id.term, node: id.node.0, index: id.index }
}

pub(super) fn from_wire_id(id: &wire::LogId) -> RaftLogId {
    log_id(EntryId { term: id.term, node: NodeId(id.node), index: id.index })
}

pub(super) fn to_wire_append(request: AppendEntriesRequest<Types>) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(to_wire_vote(&request.vote)),
        prev: request.prev_log_id.as_ref().map(to_wire_id),
        committed: request.leader_commit.as_ref().map(to_wire_id),
        entries: request.entries.into_iter().map(to_wire_entry).collect(),
    }
}

fn to_wire_entry(entry: RaftEntry) -> wire::LogEntry {
    to_wire_log_entry(to_log(entry))
}

pub(super) fn to_wire_log_entry(entry: Entry) -> wire::LogEntry {
    let kind = match entry.kind {
        EntryKind::Blank => wire::EntryKind::Blank,
        EntryKind::Command => wire::EntryKind::Command,
        EntryKind::Membership => wire::EntryKind::Membership,
    };
    wire::LogEntry {
        id: Some(wire::LogId { term: entry.id.term, node: entry.id.node.0, index: entry.id.index }),
        kind: kind.into(),
        payload: entry.payload,
        stamp_ms: entry.stamp_ms,
    }
}

pub(super) fn from_wire_append(
    request: wire::AppendRequest,
) -> io::Result<AppendEntriesRequest<Types>> {
    Ok(AppendEntriesRequest {
        vote: required_vote(request.vote.as_ref())?,
        prev_log_id: request.prev.as_ref().map(from_wire_id),
        leader_commit: request.committed.as_ref().map(from_wire_id),
        entries: request.entries.into_iter().map(from_wire_entry).collect::<io::Result<_>>()?,
    })
}

fn from_wire_entry(entry: wire::LogEntry) -> io::Result<RaftEntry> {
    from_log(from_wire_log_entry(entry)?)
}

pub(super) fn from_wire_log_entry(entry: wire::LogEntry) -> io::Result<Entry> {
    let kind = match entry.kind() {
        wire::EntryKind::Blank => EntryKind::Blank,
        wire::EntryKind::Command => EntryKind::Command,
        wire::EntryKind::Membership => EntryKind::Membership,
        wire::EntryKind::Unspecified => return Err(bad("an entry of unknown kind")),
    };
    let id = entry.id.as_ref().ok_or_else(|| bad("an entry without an id"))?;
    let id = EntryId { term: id.term, node: NodeId(id.node), index: id.index };
    Ok(Entry { id, kind, stamp_ms: entry.stamp_ms, payload: entry.payload })
}

/// Outcome of one request of an append stream.
pub(super) type Appended = Result<Option<RaftLogId>, StreamAppendError<Types>>;

pub(super) fn to_wire_appended(appended: &Appended) -> wire::AppendAnswer {
    let (result, id, vote) = match appended {
        Ok(id) => (wire::append_answer::Result::Success, id.as_ref(), None),
        Err(StreamAppendError::Conflict(id)) => {
            (wire::append_answer::Result::Conflict, Some(id), None)
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            (wire::append_answer::Result::HigherVote, None, Some(to_wire_vote(vote)))
        }
    };
    wire::AppendAnswer {
        result: result.into(),
        id: id.map(to_wire_id),
        vote,
        message: String::new(),
    }
}

/// `Err` with a reason when the group cannot be reached there, or the answer makes no sense.
pub(super) fn from_wire_appended(answer: &wire::AppendAnswer) -> Result<Appended, String> {
    use wire::append_answer::Result as Outcome;
    let id = answer.id.as_ref().map(from_wire_id);
    match answer.result() {
        Outcome::Success | Outcome::PartialSuccess => Ok(Ok(id)),
        Outcome::Conflict => {
            let id = id.ok_or("a conflict without an id")?;
            Ok(Err(StreamAppendError::Conflict(id)))
        }
        Outcome::HigherVote => {
            let vote = answer.vote.as_ref().ok_or("a higher vote without the vote")?;
            Ok(Err(StreamAppendError::HigherVote(from_wire_vote(vote))))
        }
        Outcome::Unreachable | Outcome::Unspecified => Err(answer.message.clone()),
    }
}

pub(super) fn from_wire_vote_request(request: &wire::GroupVote) -> io::Result<VoteRequest<Types>> {
    let vote = required_vote(request.vote.as_ref())?;
    let mut out = VoteRequest::new(vote, request.last.as_ref().map(from_wire_id));
    out.leadership_transfer = request.leadership_transfer;
    Ok(out)
}

pub(super) fn to_wire_vote_answer(answer: &VoteResponse<Types>) -> wire::VoteAnswer {
    wire::VoteAnswer {
        vote: Some(to_wire_vote(&answer.vote)),
        granted: answer.vote_granted,
        last: answer.last_log_id.as_ref().map(to_wire_id),
    }
}

pub(super) fn from_wire_vote_answer(answer: &wire::VoteAnswer) -> io::Result<VoteResponse<Types>> {
    let vote = required_vote(answer.vote.as_ref())?;
    Ok(VoteResponse::new(vote, answer.last.as_ref().map(from_wire_id), answer.granted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn votes_round_trip(term: u64, node: u64, committed: bool) {
            let vote = match committed {
                true => RaftVote::new_committed(term, node),
                false => RaftVote::new(term, node),
            };
            prop_assert_eq!(decode_vote(&encode_vote(&vote)).ok(), Some(vote));
        }

        #[test]
        fn entries_round_trip(term: u64, node: u64, index: u64, kind in 0..3, bytes: Vec<u8>) {
            let kind =
                [EntryKind::Blank, EntryKind::Command, EntryKind::Membership][kind as usize];
            let payload = match kind {
                EntryKind::Blank => Bytes::new(),
                EntryKind::Command => bytes.into(),
                EntryKind::Membership => {
                    Bytes::from_static(br#"{"configs":[[1,2,3]],"nodes":[1,2,3]}"#)
                }
            };
            let id = EntryId { term, node: NodeId(node), index };
            let entry = Entry { id, kind, stamp_ms: 0, payload };
            let there = from_log(entry.clone()).expect("a valid entry");
            let over_the_wire = from_wire_entry(to_wire_entry(there)).expect("a valid entry");
            prop_assert_eq!(to_log(over_the_wire), entry.clone());
            let fetched = Entry { stamp_ms: index, ..entry };
            let over_the_wire = from_wire_log_entry(to_wire_log_entry(fetched.clone()));
            prop_assert_eq!(over_the_wire.ok(), Some(fetched));
        }

        #[test]
        fn garbage_checkpoints_are_refused(bytes: Vec<u8>) {
            prop_assert!(decode_checkpoint(bytes.into()).is_err());
        }
    }

    #[test]
    fn checkpoints_round_trip() {
        let config = decode_config(br#"{"configs":[[1,2,3]],"nodes":[1,2,3]}"#).expect("valid");
        let id = log_id(EntryId { term: 4, node: NodeId(2), index: 9 });
        let membership = RaftMembership::new(Some(id), config);
        let bytes = encode_checkpoint(&membership, &Bytes::from_static(b"state"));
        let (back, state) = decode_checkpoint(bytes).expect("valid");
        assert_eq!(back, membership);
        assert_eq!(&state[..], b"state");
    }
}
