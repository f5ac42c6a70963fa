//! Reads, from this node's replica.
//!
//! Invariant: an answer without the mark "stale" has everything that was acked before the question.
//! Must not know what a reader does with it.

use std::time::Duration;

use tokio::time::Instant;
use tristream_proto::domain::{GroupId, ReadFrom, RecordPosition, Shard};

use super::{Error, Router};
use crate::shard::{self, Page, ReadError};

/// How long a read waits for a quorum to confirm the tip, before it is marked stale.
const CONFIRM_TIME: Duration = Duration::from_millis(500);
/// How long a read waits for a replica that is about to open.
const OPEN_TIME: Duration = Duration::from_millis(500);

impl Router {
    /// Committed records from `from` on. An answer that ends at the tip is confirmed by a quorum;
    /// without one it is what this replica knows, and the flag says that it may be stale. The end of
    /// a sealed shard needs nobody's word: nothing ever follows. Until the metadata say that the
    /// shard is closed, it is a tip like any other.
    pub async fn read(
        &self,
        shard: &Shard,
        from: RecordPosition,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<(Page, bool), Error> {
        let replica = self.replica(shard.group).await?;
        let mut page = replica.read(from, count_max, bytes_max).await?;
        if is_certain(&mut page) {
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
        let mut page = replica.read(from, count_max, bytes_max).await?;
        let is_certain = is_certain(&mut page);
        Ok((page, !has_caught_up && !is_certain))
    }

    /// The position at which a read of `from` begins. `Latest` is confirmed by a quorum where there
    /// is one.
    ///
    /// # Errors
    /// `Unavailable` for a time that no record here has reached yet, where this replica cannot learn what it lacks: older
    /// records may be among that, and must not be shown. Asking again, or elsewhere, is safe. (A time that is still to come is the
    /// tip: records stamped before it follow.)
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
        // Before the search: what is applied meanwhile may be older, and the search may not have seen it.
        let known = *replica.watch_applied().borrow();
        let found = replica.seek(from).await?;
        let is_time = matches!(from, ReadFrom::Time(_));
        let is_at_tip = known.is_none_or(|at| found.index > at);
        if !is_time || !is_at_tip {
            return Ok(found);
        }
        let confirmed = self.barrier(shard.group, &shard.replicas, until).await?;
        let left = until.saturating_duration_since(Instant::now());
        if !replica.wait_applied(confirmed, left).await {
            let why = "this replica lags: what it lacks may be older than the time asked for";
            return Err(Error::Unavailable(why.to_owned()));
        }
        Ok(replica.seek(from).await?)
    }

    /// This node's replica, which may be about to open.
    async fn replica(&self, group: GroupId) -> Result<shard::Handle, Error> {
        let missing = || Error::Unavailable(format!("group {group} is not open here"));
        self.inner.shards.wait_open(group, OPEN_TIME).await.ok_or_else(missing)
    }
}

/// Whether a page is right without a quorum's word: it ends before this replica's tip, or at the end
/// of a sealed shard, which is a tip too.
fn is_certain(page: &mut Page) -> bool {
    page.at_tip |= page.at_end;
    page.at_end || !page.at_tip
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tristream_proto::domain::{PartitionKey, StoredRecord, Timestamp};

    use super::*;

    #[test]
    fn a_page_at_the_tip_is_whole_only_when_the_confirmed_index_is_in_it() {
        let page = |records: usize, next: u64| Page {
            records: vec![
                StoredRecord {
                    sequence_number: "49674026002850188218576229259473476449429298564223254594"
                        .parse()
                        .expect("an AWS sequence number"),
                    arrival: Timestamp(1),
                    partition_key: PartitionKey::new("k").expect("a legal key"),
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
    fn the_end_of_a_sealed_shard_needs_no_quorum_and_is_a_tip() {
        let certain = |at_tip, at_end| {
            let mut page = Page { at_tip, at_end, ..Page::default() };
            (is_certain(&mut page), page.at_tip)
        };
        assert_eq!(certain(true, false), (false, true), "others may know more");
        assert_eq!(certain(false, false), (true, false));
        assert_eq!(certain(true, true), (true, true));
        assert_eq!(certain(false, true), (true, true));
    }
}
