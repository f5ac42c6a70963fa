//! Puts to a shard's leader, reads from this node's replica.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;
use tristream_proto::domain::limits::{BATCH_RECORDS_MAX, PUT_RECORDS_BYTES_MAX};
use tristream_proto::domain::{
    GroupId, ReadFrom, Record, RecordPosition, SequenceNumber, Shard, ShardId,
};
use tristream_proto::wire;

use super::attempt::{Miss, at_leader};
use super::route::{Route, Search};
use super::{Error, Router};
use crate::metadata::Stream;
use crate::shard::{self, Page, ReadError};

/// How long a read waits for a quorum to confirm the tip, before it is marked stale.
const CONFIRM_TIME: Duration = Duration::from_millis(500);
/// How long a read waits for a replica that is about to open.
const OPEN_TIME: Duration = Duration::from_millis(500);

impl Router {
    /// Stores records of one call, each on the shard of its key; in this order within a shard, where
    /// all are stored or none. One outcome per record, in the order of `records`.
    pub async fn put(
        &self,
        stream: &Stream,
        records: Vec<Record>,
        deadline: Duration,
    ) -> Vec<Result<SequenceNumber, Error>> {
        let lost = || Err(Error::Unknown("a record without an outcome".to_owned()));
        let mut outcomes: Vec<Result<SequenceNumber, Error>> =
            records.iter().map(|_| lost()).collect();
        let mut shares: BTreeMap<ShardId, (Vec<usize>, Vec<Record>)> = BTreeMap::new();
        for (place, record) in records.into_iter().enumerate() {
            let share = shares.entry(stream.map.owner(record.hash_key()).id).or_default();
            share.0.push(place);
            share.1.push(record);
        }
        let puts = shares.into_iter().filter_map(|(id, (places, records))| {
            let shard = stream.map.get(id)?;
            Some(async move { (places, self.put_share(stream, shard, records, deadline).await) })
        });
        for (places, put) in join_all(puts).await {
            for (at, place) in places.into_iter().enumerate() {
                outcomes[place] = match &put {
                    Ok(numbers) => numbers.get(at).copied().ok_or(lost()).or_else(|lost| lost),
                    Err(error) => Err(error.clone()),
                };
            }
        }
        outcomes
    }

    async fn put_share(
        &self,
        stream: &Stream,
        shard: &Shard,
        records: Vec<Record>,
        deadline: Duration,
    ) -> Result<Vec<SequenceNumber>, Error> {
        check_size(&records)?;
        let until = Instant::now() + deadline;
        let search = Search::new(self.inner.roster.me, &shard.replicas);
        let leader = || self.leader_of(shard.group);
        let records = &records;
        let attempt = |route, left| -> BoxFuture<'_, Result<Vec<SequenceNumber>, Miss>> {
            Box::pin(async move {
                self.check_stream(stream)?;
                match route {
                    Route::Here => self.put_here(shard.group, records.clone(), left).await,
                    Route::There(node) => {
                        let request = put_request(stream, shard, records);
                        self.inner.forward.put(node, request, left).await
                    }
                    Route::NoLeader => Err(Miss::elsewhere("nobody leads")),
                }
            })
        };
        at_leader(search, leader, until, &*self.inner.entropy, attempt).await
    }

    /// Committed records from `from` on. An answer that ends at the tip is confirmed by a quorum;
    /// without one it is what this replica knows, and the flag says that it may be stale.
    pub async fn read(
        &self,
        shard: &Shard,
        from: RecordPosition,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<(Page, bool), Error> {
        let replica = self.replica(shard.group).await?;
        let mut page = replica.read(from, count_max, bytes_max).await?;
        if !page.at_tip {
            return Ok((page, false));
        }
        let until = Instant::now() + CONFIRM_TIME;
        let Ok(confirmed) = self.barrier(shard.group, &shard.replicas, until).await else {
            return Ok((page, true));
        };
        match judge(&page, confirmed) {
            Verdict::Whole => return Ok((page, false)),
            Verdict::Prefix => {
                page.at_tip = false;
                return Ok((page, false));
            }
            Verdict::Behind => {}
        }
        let left = until.saturating_duration_since(Instant::now());
        let has_caught_up = replica.wait_applied(confirmed, left).await;
        let page = replica.read(from, count_max, bytes_max).await?;
        Ok((page, !has_caught_up))
    }

    /// The position at which a read of `from` begins. `Latest` is confirmed by a quorum where there
    /// is one.
    pub async fn seek(&self, shard: &Shard, from: ReadFrom) -> Result<RecordPosition, Error> {
        let until = Instant::now() + CONFIRM_TIME;
        match from {
            ReadFrom::TrimHorizon => return Ok(RecordPosition::default()),
            ReadFrom::At(position) => return Ok(position),
            ReadFrom::Latest => {
                // Whether this replica has caught up does not matter: reads wait for the rest.
                if let Ok(confirmed) = self.barrier(shard.group, &shard.replicas, until).await {
                    return Ok(RecordPosition { index: confirmed.saturating_add(1), position: 0 });
                }
            }
            ReadFrom::Time(_) => {}
        }
        let replica = self.replica(shard.group).await?;
        let found = replica.seek(from).await?;
        let is_time = matches!(from, ReadFrom::Time(_));
        let is_at_tip = replica.watch_applied().borrow().is_none_or(|at| found.index > at);
        if !is_time || !is_at_tip {
            return Ok(found);
        }
        // Older records may be committed that this replica has not seen: they must not be shown.
        let Ok(confirmed) = self.barrier(shard.group, &shard.replicas, until).await else {
            return Ok(found);
        };
        replica.wait_applied(confirmed, until.saturating_duration_since(Instant::now())).await;
        Ok(replica.seek(from).await?)
    }

    /// Whether the stream is still the one that the request was routed by.
    fn check_stream(&self, stream: &Stream) -> Result<(), Miss> {
        let view = self.view();
        let known = view.streams.get(&stream.name);
        if known.is_some_and(|known| known.incarnation == stream.incarnation) {
            return Ok(());
        }
        Err(Miss::Final(Error::StreamNotFound(stream.name.clone())))
    }

    async fn put_here(
        &self,
        group: GroupId,
        records: Vec<Record>,
        left: Duration,
    ) -> Result<Vec<SequenceNumber>, Miss> {
        match self.local_shard(group) {
            Some(shard) => Ok(shard.append(records, left).await?),
            None => Err(Miss::elsewhere(format!("group {group} is not open here"))),
        }
    }

    /// This node's replica, which may be about to open.
    async fn replica(&self, group: GroupId) -> Result<shard::Handle, Error> {
        let missing = || Error::Unavailable(format!("group {group} is not open here"));
        self.inner.shards.wait_open(group, OPEN_TIME).await.ok_or_else(missing)
    }
}

/// What a page that ends at this replica's tip is worth, once a quorum has confirmed an index.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing was acked after it.
    Whole,
    /// Correct, but more was committed elsewhere: it does not end at the shard's tip.
    Prefix,
    /// Empty, though there may be records: this replica must catch up first.
    Behind,
}

fn judge(page: &Page, confirmed: u64) -> Verdict {
    match (confirmed < page.next.index, page.records.is_empty()) {
        (true, _) => Verdict::Whole,
        (false, false) => Verdict::Prefix,
        (false, true) => Verdict::Behind,
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::NotLeader { .. } | ReadError::Unavailable(_) => Error::Unavailable(text),
            ReadError::Damaged(_) => Error::Damaged(text),
        }
    }
}

fn check_size(records: &[Record]) -> Result<(), Error> {
    let bytes: usize = records.iter().map(Record::bytes).sum();
    if records.is_empty() || records.len() > BATCH_RECORDS_MAX || bytes > PUT_RECORDS_BYTES_MAX {
        let count = records.len();
        return Err(Error::Invalid(format!("a put of {count} records and {bytes} bytes")));
    }
    Ok(())
}

fn put_request(stream: &Stream, shard: &Shard, records: &[Record]) -> wire::PutRequest {
    wire::PutRequest {
        stream: stream.name.to_string(),
        incarnation: stream.incarnation.0,
        map_version: stream.map_version().0,
        shard_index: shard.id.index(),
        group: shard.group.0,
        records: records.iter().map(wire::Record::from).collect(),
        // Set when it is sent.
        deadline_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tristream_proto::domain::{PartitionKey, StoredRecord, Timestamp};

    use super::*;

    fn record(data_bytes: usize) -> Record {
        Record {
            partition_key: PartitionKey::new("k").expect("a legal key"),
            explicit_hash_key: None,
            origin: None,
            data: Bytes::from(vec![0; data_bytes]),
        }
    }

    #[test]
    fn a_page_at_the_tip_is_whole_only_when_the_confirmed_index_is_in_it() {
        let page = |records: usize, next: u64| Page {
            records: vec![
                StoredRecord {
                    sequence_number: "49674026002850188218576229259473476449429298564223254594"
                        .parse()
                        .expect("an AWS sequence number"),
                    arrival: Timestamp(1),
                    partition_key: record(0).partition_key,
                    data: Bytes::new(),
                };
                records
            ],
            next: RecordPosition { index: next, position: 0 },
            at_tip: true,
            newest_arrival: None,
            at_end: false,
        };
        assert_eq!(judge(&page(0, 8), 7), Verdict::Whole);
        assert_eq!(judge(&page(2, 8), 7), Verdict::Whole);
        assert_eq!(judge(&page(0, 8), 8), Verdict::Behind);
        assert_eq!(judge(&page(2, 8), 8), Verdict::Prefix);
        assert_eq!(judge(&page(0, 0), 0), Verdict::Behind);
    }

    #[test]
    fn a_put_that_no_shard_would_take_is_not_sent_anywhere() {
        assert_eq!(check_size(&[record(10)]), Ok(()));
        for bad in [vec![], vec![record(PUT_RECORDS_BYTES_MAX)], vec![record(0); 10_001]] {
            assert!(matches!(check_size(&bad), Err(Error::Invalid(_))));
        }
    }
}
