//! The replicated state of a shard: counters only, for the records stay in the log.
//!
//! Invariant: indexes rise and arrivals never fall; the state is a function of the applied entries.
//! Pure: no clock, no randomness, no I/O. Must not know who proposed, or who reads.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tristream_proto::domain::{NodeId, Timestamp};

use super::command::{self, Outline};
use crate::log::EntryId;
use crate::raft::{Machine, MachineError};

const CHECKPOINT_FORMAT: u8 = 1;
const CHECKPOINT_BYTES: usize = 1 + 3 * 8 + 1 + 3 * 8;

/// An append was applied: what its proposer tells the producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Appended {
    /// Index of the entry.
    pub(super) index: u64,
    /// The stamp of all its records.
    pub(super) arrival: Timestamp,
    /// How many records it holds.
    pub(super) count: u32,
}

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ShardMachine {
    /// Records stored since the shard's beginning.
    records: u64,
    /// Bytes of append commands since the shard's beginning.
    bytes: u64,
    /// Stamp of the newest record; zero before the first.
    last_arrival: Timestamp,
    /// The newest applied entry.
    applied: Option<EntryId>,
}

impl ShardMachine {
    /// Stamp of the newest applied record.
    pub(super) fn newest_arrival(&self) -> Option<Timestamp> {
        (self.records > 0).then_some(self.last_arrival)
    }

    fn step(&mut self, at: EntryId) {
        let rises = self.applied.is_none_or(|last| last.index < at.index);
        assert!(rises, "entry {at:?} applied after {:?}", self.applied);
        self.applied = Some(at);
    }
}

impl Machine for ShardMachine {
    type Reply = Appended;

    fn apply(&mut self, at: EntryId, command: &Bytes) -> Result<Appended, MachineError> {
        let outline = command::outline(command).map_err(|e| MachineError(e.to_string()))?;
        let Outline::Append { arrival, count } = outline;
        let last = self.last_arrival;
        assert!(arrival >= last, "arrival went back from {last} to {arrival} at {at:?}");
        self.step(at);
        self.records += u64::from(count);
        self.bytes += command.len() as u64;
        self.last_arrival = arrival;
        Ok(Appended { index: at.index, arrival, count })
    }

    fn advance(&mut self, at: EntryId) {
        self.step(at);
    }

    /// `format u8 | records u64 | bytes u64 | last arrival u64 | has applied u8 | term, node, index
    /// u64`, little endian.
    fn checkpoint(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(CHECKPOINT_BYTES);
        out.put_u8(CHECKPOINT_FORMAT);
        out.put_u64_le(self.records);
        out.put_u64_le(self.bytes);
        out.put_u64_le(self.last_arrival.0);
        let applied = self.applied.unwrap_or_default();
        out.put_u8(self.applied.is_some().into());
        out.put_u64_le(applied.term);
        out.put_u64_le(applied.node.0);
        out.put_u64_le(applied.index);
        out.freeze()
    }

    fn restore(&mut self, mut from: Bytes) -> Result<(), MachineError> {
        if from.first() != Some(&CHECKPOINT_FORMAT) || from.len() != CHECKPOINT_BYTES {
            return Err(MachineError(format!(
                "no shard checkpoint of format {CHECKPOINT_FORMAT}: {} bytes, format {:?}",
                from.len(),
                from.first()
            )));
        }
        from.advance(1);
        let (records, bytes) = (from.get_u64_le(), from.get_u64_le());
        let last_arrival = Timestamp(from.get_u64_le());
        let has_applied = from.get_u8() == 1;
        let (term, node) = (from.get_u64_le(), NodeId(from.get_u64_le()));
        let id = EntryId { term, node, index: from.get_u64_le() };
        *self = ShardMachine { records, bytes, last_arrival, applied: has_applied.then_some(id) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tristream_proto::domain::Batch;

    use super::*;
    use crate::shard::testing::records;

    fn at(index: u64) -> EntryId {
        EntryId { term: 1, node: NodeId(1), index }
    }

    fn append(arrival: u64, keys: &[&str]) -> Bytes {
        command::append(&Batch { arrival: Timestamp(arrival), records: records(keys) })
    }

    #[test]
    fn replies_name_the_place() {
        let mut machine = ShardMachine::default();
        machine.advance(at(0));
        assert_eq!(machine.newest_arrival(), None);
        let reply = machine.apply(at(3), &append(50, &["a", "b"])).expect("applies");
        assert_eq!(reply, Appended { index: 3, arrival: Timestamp(50), count: 2 });
        machine.apply(at(4), &append(50, &["c"])).expect("the same millisecond is fine");
        assert_eq!(machine.newest_arrival(), Some(Timestamp(50)));
        assert_eq!(machine.records, 3);
    }

    #[test]
    fn an_unknown_command_stops_and_changes_nothing() {
        let mut machine = ShardMachine::default();
        machine.apply(at(1), &append(50, &["a"])).expect("applies");
        let before = machine.clone();
        assert!(machine.apply(at(2), &Bytes::from_static(&[9, 9])).is_err());
        assert_eq!(machine, before);
    }

    #[test]
    #[should_panic(expected = "arrival went back")]
    fn arrivals_never_fall() {
        let mut machine = ShardMachine::default();
        let _ = machine.apply(at(1), &append(50, &["a"]));
        let _ = machine.apply(at(2), &append(49, &["a"]));
    }

    #[test]
    #[should_panic(expected = "applied after")]
    fn indexes_rise() {
        let mut machine = ShardMachine::default();
        machine.advance(at(2));
        let _ = machine.apply(at(2), &append(50, &["a"]));
    }

    #[test]
    fn checkpoints_of_another_format_are_refused() {
        let mut machine = ShardMachine::default();
        let mut newer = ShardMachine::default().checkpoint().to_vec();
        newer[0] += 1;
        for bad in [Bytes::new(), Bytes::from(newer), Bytes::from_static(&[CHECKPOINT_FORMAT])] {
            assert!(machine.restore(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_restored_machine_goes_on_as_if_nothing_happened(
            steps in proptest::collection::vec((any::<bool>(), 0u64..100), 0..20),
            cut in 0usize..20,
        ) {
            let (mut straight, mut restored) = <(ShardMachine, ShardMachine)>::default();
            let mut now = 0;
            for (i, (is_append, later)) in steps.into_iter().enumerate() {
                if i == cut {
                    let from = restored.checkpoint();
                    restored = ShardMachine::default();
                    restored.restore(from).expect("its own checkpoint");
                }
                now += later;
                for machine in [&mut straight, &mut restored] {
                    if is_append {
                        machine.apply(at(i as u64), &append(now, &["k"])).expect("applies");
                    } else {
                        machine.advance(at(i as u64));
                    }
                }
            }
            prop_assert_eq!(straight, restored);
        }
    }
}
