//! Reads a stream through all generations of its shards, as a consumer of AWS's does: a shard from its oldest record to
//! its end, and then the children that its last answer names, each once all of its parents are read.
//!
//! Invariant: whatever a reader gets is in the history in the order in which it came. Must not judge what it got, but
//! fails when an answer names other children than the list of shards does, or no end where the list says closed.

mod live;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::types::Shard;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;
use tristream_client::domain::HashKeyRange;

use crate::history::{Event, ShardSeen, Stored};
use crate::workload::{Shared, with};
use crate::{raw_http, sdk};

pub use live::Live;

/// Between two looks of a reader that is at the end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a node may give nothing in a row, and say that there is more, or that it may not know everything.
const EMPTY_ANSWERS_MAX: u32 = 500;
/// After such an answer.
const EMPTY_PAUSE: Duration = Duration::from_millis(20);
/// For one answer.
const CERTAIN_LIMIT: Duration = Duration::from_secs(20);
/// The reader that reads while everything happens.
pub const LIVE: &str = "live";

/// All shards that the node lists, by rising id: parents before children.
pub async fn shards(client: &Client, stream: &str) -> anyhow::Result<Vec<ShardSeen>> {
    let listed = client.list_shards().stream_name(stream).send().await?;
    ensure!(listed.next_token().is_none(), "more shards than one answer holds");
    let mut seen = listed.shards().iter().map(seen).collect::<anyhow::Result<Vec<_>>>()?;
    seen.sort_by(|one, other| one.shard.cmp(&other.shard));
    Ok(seen)
}

fn seen(shard: &Shard) -> anyhow::Result<ShardSeen> {
    let range = shard.hash_key_range().context("a shard without a range")?;
    let numbers = shard.sequence_number_range().context("a shard without numbers")?;
    let parents = shard.parent_shard_id().into_iter().chain(shard.adjacent_parent_shard_id());
    Ok(ShardSeen {
        shard: shard.shard_id().to_owned(),
        range: HashKeyRange {
            first: range.starting_hash_key().parse()?,
            last: range.ending_hash_key().parse()?,
        },
        parents: parents.map(str::to_owned).collect(),
        open: numbers.ending_sequence_number().is_none(),
    })
}

/// Reads everything there is from one node, as the reader of this name, with all puts over. What it got is in the history
/// once it got all.
pub async fn read_all(
    address: &str,
    stream: &str,
    reader: &'static str,
    history: &Shared,
) -> anyhow::Result<()> {
    let client = sdk::client(address, 3);
    let map = shards(&client, stream).await?;
    let mut events = vec![Event::Map(map.clone())];
    for shard in &map {
        let children: BTreeSet<&str> = map
            .iter()
            .filter(|other| other.parents.contains(&shard.shard))
            .map(|child| child.shard.as_str())
            .collect();
        let records = read_shard(&client, address, stream, shard, &children).await;
        let records = records.with_context(|| format!("{reader} reads {}", shard.shard))?;
        events.extend(records.into_iter().map(|record| Event::Read(reader, record)));
        events.push(Event::ReadAll(reader, shard.shard.clone()));
    }
    with(history, |history| events.into_iter().for_each(|event| history.push(event)));
    Ok(())
}

async fn read_shard(
    client: &Client,
    address: &str,
    stream: &str,
    shard: &ShardSeen,
    children: &BTreeSet<&str>,
) -> anyhow::Result<Vec<Stored>> {
    let mut iterator = sdk::oldest(client, stream, &shard.shard).await?;
    let mut records = Vec::new();
    let mut empty = 0;
    loop {
        let answer = client.get_records().shard_iterator(&iterator).send().await?;
        for record in answer.records() {
            records.push(sdk::stored(&shard.shard, record)?);
        }
        let Some(next) = answer.next_shard_iterator() else {
            ensure!(!shard.open, "an open shard ends");
            let named: BTreeSet<&str> =
                answer.child_shards().iter().map(|child| child.shard_id()).collect();
            ensure!(named == *children, "its end names {named:?}, the list {children:?}");
            return Ok(records);
        };
        let nothing = answer.records().is_empty();
        let at_tip = shard.open && nothing && answer.millis_behind_latest() == Some(0);
        if at_tip && is_certain(address, next).await? {
            return Ok(records);
        }
        next.clone_into(&mut iterator);
        empty = if nothing { empty + 1 } else { 0 };
        if nothing {
            tokio::time::sleep(EMPTY_PAUSE).await;
        }
        if empty > EMPTY_ANSWERS_MAX {
            bail!("{empty} empty answers, {:?} ms behind", answer.millis_behind_latest());
        }
    }
}

/// Whether nothing is behind `iterator`, by a node that does not say that it may not know everything.
async fn is_certain(address: &str, iterator: &str) -> anyhow::Result<bool> {
    let ask = json!({ "ShardIterator": iterator });
    let answer = raw_http::kinesis(address, "GetRecords", &ask, CERTAIN_LIMIT).await?;
    let nothing = answer.json()?["Records"].as_array().is_some_and(Vec::is_empty);
    Ok(answer.status == 200 && nothing && answer.header("x-tristream-stale") != Some("true"))
}

fn note(
    reader: &'static str,
    shard: &str,
    answer: &GetRecordsOutput,
    history: &Shared,
) -> anyhow::Result<()> {
    for record in answer.records() {
        let stored = sdk::stored(shard, record)?;
        with(history, |history| history.push(Event::Read(reader, stored)));
    }
    Ok(())
}

/// Reads the stream while it grows and is resharded, until `stop`, as the reader [`LIVE`].
pub async fn follow(
    clients: Vec<Client>,
    stream: String,
    roots: Vec<String>,
    history: Shared,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut family = Family::default();
    let mut readers = FuturesUnordered::new();
    let follow_one = |shard: String, number: usize| {
        let live = LiveShard { clients: clients.clone(), stream: stream.clone(), shard };
        live.follow(number, history.clone(), stop.clone())
    };
    for root in roots {
        let number = family.begun.len();
        if family.begun.insert(root.clone()) {
            readers.push(follow_one(root, number));
        }
    }
    while let Some(ended) = readers.next().await {
        let Some(end) = ended? else { continue };
        for child in family.end(end) {
            let number = family.begun.len();
            readers.push(follow_one(child, number));
        }
    }
    Ok(())
}

/// How a shard ended: the children that its last answer named, with their parents.
struct End {
    shard: String,
    children: Vec<(String, Vec<String>)>,
}

/// What a consumer knows of the shards.
#[derive(Default)]
struct Family {
    begun: BTreeSet<String>,
    ended: BTreeSet<String>,
    waiting: BTreeMap<String, Vec<String>>,
}

impl Family {
    /// The children that can be read now.
    fn end(&mut self, end: End) -> Vec<String> {
        self.ended.insert(end.shard);
        self.waiting.extend(end.children);
        let (begun, ended) = (&mut self.begun, &self.ended);
        let ready = |parents: &Vec<String>| parents.iter().all(|parent| ended.contains(parent));
        let now: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, parents)| ready(parents))
            .map(|(child, _)| child.clone())
            .collect();
        for child in &now {
            self.waiting.remove(child);
        }
        now.into_iter().filter(|child| begun.insert(child.clone())).collect()
    }
}

/// One shard, read while it grows.
struct LiveShard {
    clients: Vec<Client>,
    stream: String,
    shard: String,
}

impl LiveShard {
    /// From its oldest record, at a different node after every failure, with the same iterator: it is good at every
    /// node. Gives the shard's end, or nothing when told to stop before.
    async fn follow(
        self,
        first: usize,
        history: Shared,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Option<End>> {
        let mut turn = first;
        let mut iterator = None;
        while !stop.load(Ordering::Relaxed) {
            let client = &self.clients[turn % self.clients.len()];
            let Some(at) = &iterator else {
                match sdk::oldest(client, &self.stream, &self.shard).await {
                    Ok(oldest) => iterator = Some(oldest),
                    Err(_) => {
                        turn += 1;
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                }
                continue;
            };
            match client.get_records().shard_iterator(at).send().await {
                Ok(answer) => {
                    note(LIVE, &self.shard, &answer, &history)?;
                    match answer.next_shard_iterator() {
                        Some(next) => iterator = Some(next.to_owned()),
                        None => return Ok(Some(self.end(&answer))),
                    }
                    turn += usize::from(answer.records().is_empty());
                }
                Err(_) => turn += 1,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }

    fn end(&self, answer: &GetRecordsOutput) -> End {
        let children = answer.child_shards().iter();
        let children =
            children.map(|child| (child.shard_id().to_owned(), child.parent_shards().to_vec()));
        End { shard: self.shard.clone(), children: children.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(shard: &str, children: &[(&str, &[&str])]) -> End {
        let children = children.iter().map(|(child, parents)| {
            ((*child).to_owned(), parents.iter().map(|parent| (*parent).to_owned()).collect())
        });
        End { shard: shard.to_owned(), children: children.collect() }
    }

    #[test]
    fn a_merged_shard_is_read_after_both_parents_and_once() {
        let mut family = Family::default();
        assert_eq!(family.end(end("0", &[("1", &["0"]), ("2", &["0"])])), ["1", "2"]);
        let merged: &[(&str, &[&str])] = &[("3", &["1", "2"])];
        assert!(family.end(end("1", merged)).is_empty());
        assert_eq!(family.end(end("2", merged)), ["3"]);
        assert!(family.end(end("2", merged)).is_empty());
    }
}
