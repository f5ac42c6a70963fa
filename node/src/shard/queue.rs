//! Puts that wait for their entry: which are let in, which go into the next entry, which have no
//! effect.
//!
//! Pure: time is passed in. Invariant: a put leaves the queue whole, and in the order in which it
//! came: into an entry, or with an answer that says it had no effect. It comes back only when it
//! was not proposed after all. Must not know Raft or replies.

use std::collections::VecDeque;

use tokio::time::Instant;
use tristream_proto::domain::Record;
use tristream_proto::domain::limits::{
    BATCH_BYTES_TARGET, BATCH_RECORDS_MAX, PUT_RECORDS_BYTES_MAX, RECORD_OVERHEAD_BYTES_MAX,
    SHARD_WAITING_BYTES_MAX,
};

use super::AppendError;

/// Puts that may wait at one shard, however small they are.
pub(super) const WAITING_PUTS_MAX: usize = 16_384;
/// Puts that may wait, be on their way, or wait for what is on its way.
pub(super) const HELD_PUTS_MAX: usize = 4 * WAITING_PUTS_MAX;

/// A put, waiting or on its way.
#[derive(Debug)]
pub(super) struct Put<R> {
    /// Rises with every put of the queue.
    pub(super) id: u64,
    /// What to store.
    pub(super) records: Vec<Record>,
    /// Once past, the put must not be proposed any more.
    pub(super) deadline: Instant,
    /// To whom the answer goes.
    pub(super) reply: R,
    payload_bytes: usize,
    cost_bytes: usize,
}

/// What the next entry is made of.
#[derive(Debug)]
pub(super) struct Gathered<R> {
    /// The entry's puts, in order; empty when nothing waits.
    pub(super) puts: Vec<Put<R>>,
    /// Puts whose deadline passed while they waited.
    pub(super) expired: Vec<Put<R>>,
}

/// The waiting puts of one shard.
#[derive(Debug)]
pub(super) struct Queue<R> {
    waiting: VecDeque<Put<R>>,
    next_id: u64,
    /// Cost of everything let in and not settled: waiting, or on its way.
    held_bytes: usize,
    /// How many puts that is.
    held_puts: usize,
    closed: bool,
}

impl<R> Queue<R> {
    pub(super) fn new() -> Queue<R> {
        Queue { waiting: VecDeque::new(), next_id: 0, held_bytes: 0, held_puts: 0, closed: false }
    }

    /// Lets a put in and gives its id, or says at once why not.
    pub(super) fn admit(
        &mut self,
        records: Vec<Record>,
        deadline: Instant,
        reply: R,
    ) -> Result<u64, AppendError> {
        if self.closed {
            return Err(AppendError::Unavailable("the shard is closing".to_owned()));
        }
        let payload_bytes = check(&records)?;
        let cost_bytes = payload_bytes + records.len() * RECORD_OVERHEAD_BYTES_MAX;
        let has_room = self.held_bytes + cost_bytes <= SHARD_WAITING_BYTES_MAX
            && self.waiting.len() < WAITING_PUTS_MAX
            && self.held_puts < HELD_PUTS_MAX;
        if !has_room {
            return Err(AppendError::Throttled { waiting_bytes: self.held_bytes });
        }
        let id = self.next_id;
        self.next_id += 1;
        self.held_bytes += cost_bytes;
        self.held_puts += 1;
        self.waiting.push_back(Put { id, records, deadline, reply, payload_bytes, cost_bytes });
        Ok(id)
    }

    /// Takes a put back. `None` when it is no longer waiting: it was answered, or is on its way.
    pub(super) fn withdraw(&mut self, id: u64) -> Option<Put<R>> {
        let at = self.waiting.binary_search_by_key(&id, |put| put.id).ok()?;
        let put = self.waiting.remove(at)?;
        self.settle(1, put.cost_bytes);
        Some(put)
    }

    /// Takes the puts of the next entry: whole puts, until their bytes reach the target or the next
    /// put would exceed the record count. What is past its deadline is given back instead.
    pub(super) fn gather(&mut self, now: Instant) -> Gathered<R> {
        let mut gathered = Gathered { puts: vec![], expired: vec![] };
        let (mut bytes, mut count) = (0, 0);
        while let Some(first) = self.waiting.front() {
            let is_late = first.deadline <= now;
            let fits =
                bytes < BATCH_BYTES_TARGET && count + first.records.len() <= BATCH_RECORDS_MAX;
            if !is_late && !fits {
                break;
            }
            let Some(put) = self.waiting.pop_front() else { break };
            if is_late {
                self.settle(1, put.cost_bytes);
                gathered.expired.push(put);
                continue;
            }
            bytes += put.payload_bytes;
            count += put.records.len();
            gathered.puts.push(put);
        }
        gathered
    }

    /// Puts a gathered put back in its place: nothing came of it. Its room is still held.
    pub(super) fn put_back(&mut self, put: Put<R>) {
        let at = self.waiting.partition_point(|waiting| waiting.id < put.id);
        self.waiting.insert(at, put);
    }

    /// Takes everything that waits, to be answered.
    pub(super) fn drain(&mut self) -> Vec<Put<R>> {
        let puts: Vec<Put<R>> = self.waiting.drain(..).collect();
        self.settle(puts.len(), puts.iter().map(|put| put.cost_bytes).sum());
        puts
    }

    /// Lets nothing in any more, and drains.
    pub(super) fn close(&mut self) -> Vec<Put<R>> {
        self.closed = true;
        self.drain()
    }

    /// So many gathered puts of this cost were answered: their room is free.
    pub(super) fn settle(&mut self, puts: usize, cost_bytes: usize) {
        let is_held = puts <= self.held_puts && cost_bytes <= self.held_bytes;
        assert!(is_held, "settled more than was let in");
        self.held_puts -= puts;
        self.held_bytes -= cost_bytes;
    }

    /// Whether a put waits for its entry.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Cost of what waits or is on its way, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}

impl<R> Put<R> {
    /// What the put takes of the queue's room: data, keys and an overhead per record.
    pub(super) fn cost_bytes(&self) -> usize {
        self.cost_bytes
    }
}

/// Bytes of the records' data and keys, when they can be one put.
fn check(records: &[Record]) -> Result<usize, AppendError> {
    let bytes = records.iter().map(Record::bytes).sum();
    if records.is_empty() || records.len() > BATCH_RECORDS_MAX || bytes > PUT_RECORDS_BYTES_MAX {
        let what = format!(
            "a put has 1 to {BATCH_RECORDS_MAX} records and at most {PUT_RECORDS_BYTES_MAX} bytes, \
             not {} and {bytes}",
            records.len()
        );
        return Err(AppendError::Invalid(what));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use tristream_proto::domain::PartitionKey;

    use super::*;

    fn put_of(count: usize, data_bytes: usize) -> Vec<Record> {
        let record = Record {
            partition_key: PartitionKey::new("k").expect("a legal key"),
            explicit_hash_key: None,
            origin: None,
            data: Bytes::from(vec![0; data_bytes]),
        };
        vec![record; count]
    }

    fn ids(puts: &[Put<()>]) -> Vec<u64> {
        puts.iter().map(|put| put.id).collect()
    }

    /// Times in seconds after a beginning.
    fn clock() -> impl Fn(u64) -> Instant {
        let zero = Instant::now();
        move |seconds| zero + Duration::from_secs(seconds)
    }

    #[test]
    fn a_batch_closes_at_the_byte_target_and_never_tears_a_put() {
        let (mut queue, t) = (Queue::new(), clock());
        let half = BATCH_BYTES_TARGET / 2;
        for data_bytes in [half, half - 10, half, 1] {
            queue.admit(put_of(1, data_bytes), t(9), ()).expect("room");
        }
        // Two halves stay a little below the target, so a third still goes in.
        assert_eq!(ids(&queue.gather(t(0)).puts), [0, 1, 2]);
        assert_eq!(ids(&queue.gather(t(0)).puts), [3]);
        assert_eq!(ids(&queue.gather(t(0)).puts), [] as [u64; 0]);
    }

    #[test]
    fn a_batch_closes_before_too_many_records() {
        let (mut queue, t) = (Queue::new(), clock());
        for count in [BATCH_RECORDS_MAX - 1, 2, 1] {
            queue.admit(put_of(count, 0), t(9), ()).expect("room");
        }
        assert_eq!(ids(&queue.gather(t(0)).puts), [0]);
        assert_eq!(ids(&queue.gather(t(0)).puts), [1, 2]);
    }

    #[test]
    fn late_puts_are_never_proposed() {
        let (mut queue, t) = (Queue::new(), clock());
        for deadline in [5, 3, 5, 4] {
            queue.admit(put_of(1, 10), t(deadline), ()).expect("room");
        }
        let gathered = queue.gather(t(4));
        assert_eq!((ids(&gathered.puts), ids(&gathered.expired)), (vec![0, 2], vec![1, 3]));
        let on_their_way: usize = gathered.puts.iter().map(Put::cost_bytes).sum();
        assert_eq!(queue.held_bytes(), on_their_way);
    }

    #[test]
    fn what_is_on_its_way_counts_until_it_is_settled() {
        let (mut queue, t) = (Queue::new(), clock());
        let large = || put_of(1, PUT_RECORDS_BYTES_MAX - 1);
        for _ in 0..3 {
            queue.admit(large(), t(9), ()).expect("room");
        }
        let refused = queue.admit(large(), t(9), ());
        assert!(matches!(refused, Err(AppendError::Throttled { .. })), "{refused:?}");
        let puts = queue.gather(t(0)).puts;
        assert!(queue.admit(large(), t(9), ()).is_err(), "still held");
        queue.settle(puts.len(), puts.iter().map(Put::cost_bytes).sum());
        assert_eq!(queue.admit(large(), t(9), ()).ok(), Some(3));
    }

    #[test]
    fn empty_puts_are_bounded_by_count() {
        let (mut queue, t) = (Queue::new(), clock());
        for _ in 0..WAITING_PUTS_MAX {
            queue.admit(put_of(1, 0), t(9), ()).expect("room");
        }
        assert!(matches!(queue.admit(put_of(1, 0), t(9), ()), Err(AppendError::Throttled { .. })));
    }

    #[test]
    fn puts_that_left_the_queue_and_were_not_answered_are_bounded_too() {
        let (mut queue, t) = (Queue::new(), clock());
        let mut gathered = vec![];
        for _ in 0..HELD_PUTS_MAX {
            if queue.admit(put_of(1, 0), t(9), ()).is_err() {
                break;
            }
            gathered.extend(queue.gather(t(0)).puts);
        }
        assert_eq!(gathered.len(), HELD_PUTS_MAX);
        assert!(matches!(queue.admit(put_of(1, 0), t(9), ()), Err(AppendError::Throttled { .. })));
        queue.settle(1, gathered[0].cost_bytes());
        assert!(queue.admit(put_of(1, 0), t(9), ()).is_ok());
    }

    #[test]
    fn a_put_that_comes_back_has_its_place_again() {
        let (mut queue, t) = (Queue::new(), clock());
        for _ in 0..4 {
            queue.admit(put_of(1, 1), t(9), ()).expect("room");
        }
        let mut gathered = queue.gather(t(0)).puts;
        let last = queue.admit(put_of(1, 1), t(9), ()).expect("room");
        let held = queue.held_bytes();
        for put in [gathered.remove(2), gathered.remove(0)] {
            queue.put_back(put);
        }
        assert_eq!(queue.held_bytes(), held, "its room was never given away");
        assert!(queue.withdraw(2).is_some(), "it waits again");
        assert_eq!(ids(&queue.gather(t(0)).puts), [0, last]);
    }

    #[test]
    fn a_put_that_can_never_be_stored_is_refused_as_such() {
        let (mut queue, t) = (Queue::new(), clock());
        for bad in [vec![], put_of(BATCH_RECORDS_MAX + 1, 0), put_of(1, PUT_RECORDS_BYTES_MAX)] {
            let refused = queue.admit(bad, t(9), ());
            assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
        }
    }

    #[test]
    fn only_a_waiting_put_can_be_withdrawn() {
        let (mut queue, t) = (Queue::new(), clock());
        let ids: Vec<u64> =
            (0..3).filter_map(|_| queue.admit(put_of(1, 1), t(9), ()).ok()).collect();
        assert!(queue.withdraw(ids[1]).is_some());
        assert!(queue.withdraw(ids[1]).is_none());
        assert_eq!(super::tests::ids(&queue.gather(t(0)).puts), [ids[0], ids[2]]);
        assert!(queue.withdraw(ids[0]).is_none(), "it is on its way");
    }

    #[test]
    fn a_closed_queue_lets_nothing_in() {
        let (mut queue, t) = (Queue::new(), clock());
        queue.admit(put_of(1, 1), t(9), ()).expect("room");
        assert_eq!(queue.close().len(), 1);
        assert_eq!(queue.held_bytes(), 0);
        let refused = queue.admit(put_of(1, 1), t(9), ());
        assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
    }

    proptest! {
        #[test]
        fn every_put_leaves_once_in_order_and_no_batch_is_too_large(
            puts in proptest::collection::vec((1usize..4000, 0usize..400, 0u64..4), 0..30),
            now in 0u64..4,
        ) {
            let (mut queue, t) = (Queue::new(), clock());
            let mut let_in = vec![];
            for (count, data_bytes, deadline) in puts {
                if let Ok(id) = queue.admit(put_of(count, data_bytes), t(deadline), ()) {
                    let_in.push((id, deadline <= now));
                }
            }
            let (mut stored, mut expired) = (vec![], vec![]);
            loop {
                let gathered = queue.gather(t(now));
                let last: usize = gathered.puts.last().map_or(0, |put| put.payload_bytes);
                let bytes: usize = gathered.puts.iter().map(|put| put.payload_bytes).sum();
                let count: usize = gathered.puts.iter().map(|put| put.records.len()).sum();
                prop_assert!(bytes - last < BATCH_BYTES_TARGET && count <= BATCH_RECORDS_MAX);
                let done = gathered.puts.is_empty();
                let cost_bytes = gathered.puts.iter().map(Put::cost_bytes).sum();
                queue.settle(gathered.puts.len(), cost_bytes);
                stored.extend(ids(&gathered.puts));
                expired.extend(ids(&gathered.expired));
                if done {
                    break;
                }
            }
            let of = |late| let_in.iter().filter(move |p| p.1 == late).map(|p| p.0);
            prop_assert_eq!(stored, of(false).collect::<Vec<_>>());
            prop_assert_eq!(expired, of(true).collect::<Vec<_>>());
            prop_assert_eq!(queue.held_bytes(), 0);
        }
    }
}
