//! Records that expire in groups of one member: for readers, on the disk, and across restarts.

use super::*;
use crate::log::EntryKind;
use crate::raft::Machine;

const GROUP: GroupId = GroupId(103);

impl Bench {
    fn set_clock(&self, millis_later: u64) {
        self.clock.0.store(NOW + millis_later, Ordering::Relaxed);
    }

    /// The first entry that is left in the group's log.
    fn first_entry(&self) -> u64 {
        self.log.group(GROUP).state().purged.map_or(0, |purged| purged.index + 1)
    }

    async fn purged_to(&self, index: u64) {
        let purged = async {
            while self.first_entry() != index + 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, purged).await.expect("the log is purged in time");
    }
}

/// Puts a call's record in the given millisecond; gives its entry.
async fn put_at(bench: &Bench, handle: &Handle, call: u8, millis: u64) -> u64 {
    bench.set_clock(millis);
    put(handle, sent(call, &[0])).await[0].position().index
}

async fn trim(handle: &Handle, millis: u64) -> Option<u64> {
    handle.trim_before(Timestamp(NOW + millis), LONG).await.expect("leads")
}

async fn shown(handle: &Handle) -> Vec<String> {
    keys(handle).await.0
}

fn state(handle: &Handle) -> ShardMachine {
    handle.inner.group.inspect(ShardMachine::clone)
}

#[tokio::test]
async fn what_expired_is_gone_for_readers_and_iterators_go_on_at_the_horizon() {
    let bench = bench(SimulatedDisk::new()).await;
    let handle = bench.open(3, &shard()).await;
    assert_eq!(trim(&handle, 0).await, None, "there are no records");
    let mut entries = vec![];
    for call in 0..6u8 {
        entries.push(put_at(&bench, &handle, call, u64::from(call) * 1_000).await);
    }
    let stamped = handle.inner.group.find_stamp(NOW + 4_000).await.expect("readable");
    assert_eq!(stamped, Some(entries[4]), "the log has the stamps");
    let old = RecordPosition { index: entries[1], position: 0 };
    assert_eq!(trim(&handle, 0).await, None, "nothing is that old");
    assert_eq!(handle.oldest().await, Ok(Some((entries[0], Timestamp(NOW)))));
    assert_eq!(trim(&handle, 3_000).await, Some(entries[3] - 1));
    assert_eq!(trim(&handle, 3_000).await, None, "it is done");
    assert_eq!(trim(&handle, 1_000).await, None, "it never goes back");
    assert_eq!(shown(&handle).await, ["3.0", "4.0", "5.0"]);
    assert_eq!(handle.oldest().await, Ok(Some((entries[3], Timestamp(NOW + 3_000)))));
    let page = handle.read(old, 1, usize::MAX).await.expect("readable");
    assert_eq!(page.records[0].partition_key.as_str(), "3.0");
    for time in [0, 2_999, 3_000] {
        let found = handle.seek(ReadFrom::Time(Timestamp(NOW + time))).await.expect("a place");
        let page = handle.read(found, 1, usize::MAX).await.expect("readable");
        assert_eq!(page.records[0].partition_key.as_str(), "3.0", "{time}");
    }
    // A call whose record expired is remembered all the same.
    assert_eq!(put(&handle, sent(0, &[0])).await[0].position().index, entries[0]);
    assert_eq!(handle.records(), 6);
}

#[tokio::test]
async fn an_idle_shard_is_trimmed_and_purged_to_its_end_and_goes_on() {
    let bench = bench(SimulatedDisk::new()).await;
    let handle = bench.open(3, &shard()).await;
    for call in 0..4u8 {
        put_at(&bench, &handle, call, 0).await;
    }
    handle.checkpoint().await.expect("open");
    let end = handle.retained().checkpointed.expect("just taken");
    assert!(!handle.retained().is_empty());
    assert_eq!(trim(&handle, 1).await, Some(end));
    assert!(handle.retained().is_empty());
    assert_eq!(trim(&handle, u64::MAX >> 20).await, None, "nothing is left to trim");
    assert_eq!(handle.purge_trimmed(LONG).await.expect("open"), Some(end));
    bench.purged_to(end).await;
    assert_eq!(handle.purge_trimmed(LONG).await.expect("open"), None);
    let (found, page) = keys(&handle).await;
    assert!(found.is_empty() && page.at_tip && !page.at_end, "{page:?}");
    let bench = bench.restarted().await;
    let handle = bench.open(3, &shard()).await;
    assert_eq!(handle.records(), 4);
    put_at(&bench, &handle, 9, 5_000).await;
    assert_eq!(shown(&handle).await, ["9.0"]);
}

#[tokio::test]
async fn a_replica_trimmed_without_a_checkpoint_in_time_is_purged_by_the_next_one() {
    let bench = bench(SimulatedDisk::new()).await;
    let handle = bench.open(3, &shard()).await;
    put_at(&bench, &handle, 1, 0).await;
    let trimmed = trim(&handle, 1).await.expect("expired");
    assert_eq!(handle.purge_trimmed(LONG).await.expect("open"), None, "no checkpoint yet");
    handle.checkpoint().await.expect("open");
    let checkpointed = handle.retained().checkpointed.expect("just taken");
    assert!(checkpointed > trimmed, "it covers the trim, too");
    assert_eq!(handle.purge_trimmed(LONG).await.expect("open"), Some(checkpointed));
    bench.purged_to(checkpointed).await;
}

/// Puts with checkpoints between them, and a trim that falls between two checkpoints. Gives the entries
/// of the records, and the checkpoints.
async fn history(bench: &Bench, handle: &Handle) -> (Vec<u64>, Vec<u64>) {
    let (mut entries, mut checkpoints) = (vec![], vec![]);
    for call in 0..12u8 {
        entries.push(put_at(bench, handle, call, u64::from(call) * 1_000).await);
        if call % 3 == 1 {
            handle.checkpoint().await.expect("open");
            checkpoints.push(handle.retained().checkpointed.expect("just taken"));
        }
    }
    (entries, checkpoints)
}

#[tokio::test]
async fn a_purge_ends_at_a_checkpoint_and_never_takes_what_is_shown() {
    let bench = bench(SimulatedDisk::new()).await;
    let handle = bench.open(3, &shard()).await;
    let (entries, checkpoints) = history(&bench, &handle).await;
    assert_eq!(handle.purge_trimmed(LONG).await.expect("open"), None, "nothing is trimmed");
    // Records 0 to 5 go; checkpoints lie at the records 1, 4, 7, 10.
    assert_eq!(trim(&handle, 6_000).await, Some(entries[6] - 1));
    assert_eq!(handle.purge_trimmed(LONG).await.expect("open"), Some(checkpoints[1]));
    bench.purged_to(checkpoints[1]).await;
    let kept = ["6.0", "7.0", "8.0", "9.0", "10.0", "11.0"];
    assert_eq!(shown(&handle).await, kept);
    let left: Vec<u64> = bench.log.group(GROUP).checkpoints().iter().map(|id| id.index).collect();
    assert_eq!(left, checkpoints[1..], "a replica that is behind can be given the first of them");
    // Puts and seals go on.
    put_at(&bench, &handle, 20, 20_000).await;
    let (sealed, _) = handle.seal(0, LONG).await.expect("seals");
    assert_eq!(trim(&handle, 30_000).await, handle.retained().trimmed);
    assert!(handle.retained().trimmed >= Some(sealed.end), "the seal is kept as state");
    let (found, page) = keys(&handle).await;
    assert!(found.is_empty() && page.at_end && page.at_tip, "{page:?}");
    let bench = bench.restarted().await;
    let handle = bench.open(3, &shard()).await;
    let (found, page) = keys(&handle).await;
    assert!(found.is_empty() && page.at_end, "{page:?}");
    let refused = handle.append(records(&["late"]), LONG).await;
    assert_eq!(refused, Err(AppendError::Sealed));
}

/// Everything but the newest entry, which is a new leader's own.
fn all_but_applied(machine: &ShardMachine) -> impl PartialEq + std::fmt::Debug + use<> {
    let rows = machine.window(0).rows;
    let counters = (machine.records(), machine.last_arrival(), machine.last_sequence_number());
    (counters, machine.newest(), machine.opened(), machine.sealed(), machine.trimmed(), rows)
}

#[tokio::test]
async fn whichever_checkpoint_a_replica_starts_from_its_state_is_the_same() {
    let bench = bench(SimulatedDisk::new()).await;
    let handle = bench.open(3, &shard()).await;
    let (entries, checkpoints) = history(&bench, &handle).await;
    trim(&handle, 6_000).await.expect("some expired");
    put(&handle, [sent(3, &[0]), sent(30, &[0, 2])].concat()).await;
    let before = state(&handle);

    // From the newest checkpoint, of which the trim is no part.
    let bench = bench.restarted().await;
    let handle = bench.open(3, &shard()).await;
    assert_eq!(all_but_applied(&state(&handle)), all_but_applied(&before));
    assert_eq!(handle.retained().checkpointed, Some(checkpoints[3]));
    // From the purge point, as a replica that is given a snapshot: newer ones are taken away.
    handle.purge_trimmed(LONG).await.expect("open");
    bench.purged_to(checkpoints[1]).await;
    let log = bench.log.group(GROUP);
    let at = log.checkpoints()[0];
    let snapshot = log.read_checkpoint(at).await.expect("readable").expect("kept");
    let tail = log.read(at.index + 1..u64::MAX, usize::MAX).await.expect("readable");
    let mut replica = ShardMachine::new(handle.shard());
    // The head is the group's: its length, then the members.
    let head = u32::from_le_bytes(snapshot[..4].try_into().expect("four bytes")) as usize;
    replica.restore(snapshot.slice(4 + head..)).expect("a checkpoint of a shard");
    assert_eq!(replica.applied_index(), Some(at.index));
    for entry in tail {
        match entry.kind {
            EntryKind::Command => {
                replica.apply(entry.id, &entry.payload).expect("it was applied before");
            }
            _ => replica.advance(entry.id),
        }
    }
    assert_eq!(replica, state(&handle));
    assert_eq!(entries.len(), 12);
}

#[tokio::test]
async fn readers_that_meet_a_purge_go_on_at_the_horizon() {
    let bench = bench(SimulatedDisk::new()).await;
    let handle = bench.open(3, &shard()).await;
    let reading = {
        let handle = handle.clone();
        async move {
            let mut last = 0;
            loop {
                let (found, page) = keys(&handle).await;
                assert!(found.len() <= 100);
                // Records go at the front only.
                let first = page.records.first().map_or(last, |r| r.sequence_number.counter);
                assert!(first >= last, "{first} after {last}");
                last = first;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let trimming = async {
        for round in 0..40u64 {
            for call in 0..3u8 {
                put_at(&bench, &handle, call + 3 * (round % 80) as u8, round * 1_000).await;
            }
            handle.checkpoint().await.expect("open");
            trim(&handle, (round + 1) * 1_000).await;
            handle.purge_trimmed(LONG).await.expect("open");
        }
    };
    tokio::select! {
        _ = reading => {}
        () = trimming => {}
    }
    assert!(bench.first_entry() > 100, "{}", bench.first_entry());
}
