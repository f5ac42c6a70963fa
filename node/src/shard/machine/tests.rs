//! The state against commands in every order.

use proptest::prelude::*;
use tristream_proto::domain::{Batch, NodeId, Record};

use super::*;
use crate::shard::testing::{child, origin, records, sent, shard};

const PARENT: u32 = 3;

fn at(index: u64) -> EntryId {
    EntryId { term: 1, node: NodeId(1), index }
}

fn append(arrival: u64, keys: &[&str]) -> Bytes {
    append_of(arrival, records(keys))
}

fn append_of(arrival: u64, records: Vec<Record>) -> Bytes {
    command::append(&Batch { arrival: Timestamp(arrival), records })
}

fn start() -> SequenceNumber {
    shard().starting_sequence_number()
}

/// Index and position at which a record is remembered, and the shard that stored it.
fn found(machine: &ShardMachine, call: u8, ordinal: u16) -> Option<(u32, u64, u32)> {
    let number = machine.find(origin(call, ordinal))?;
    let RecordPosition { index, position } = number.position();
    Some((number.shard.index(), index, position))
}

fn outcome(machine: &mut ShardMachine, index: u64, command: &Bytes) -> Outcome {
    machine.apply(at(index), command).expect("applies").outcome
}

/// A parent that stored call 7 at 4 and was sealed at 6.
fn parent(id: u32, call: u8) -> ShardMachine {
    let mut parent = ShardMachine::new(&Shard { id: ShardId::from(id), ..shard() });
    parent.apply(at(4), &append_of(1_790_000_005_500, sent(call, &[0, 1]))).expect("applies");
    parent.apply(at(6), &command::seal(Timestamp(1_790_000_004_000))).expect("applies");
    parent
}

fn opening(parents: &[(u32, u64)]) -> Opening {
    let parents = parents.iter().map(|&(id, end)| (ShardId::from(id), end)).collect();
    let last_arrival = Timestamp(1_790_000_005_500);
    Opening { creation_second: 1_790_000_006, last_arrival, parents }
}

fn inherit(parts: &[WindowPart], opening: Option<Opening>) -> Bytes {
    command::inherit(parts, opening.as_ref()).expect("it fits")
}

#[test]
fn replies_name_the_place() {
    let mut machine = ShardMachine::new(&shard());
    machine.advance(at(0));
    assert_eq!(machine.newest_arrival(), None);
    let reply = machine.apply(at(3), &append(50, &["a", "b"])).expect("applies");
    let position = RecordPosition { index: 3, position: 0 };
    let first = SequenceNumber { counter: position.counter(), record_second: 0, ..start() };
    let appended = Appended { first, arrival: Timestamp(50), count: 2 };
    assert_eq!(reply, Reply { outcome: Outcome::Appended(appended), forgotten: 0 });
    let last = machine.last_sequence_number().map(SequenceNumber::position);
    assert_eq!(last, Some(RecordPosition { index: 3, position: 1 }));
    machine.apply(at(4), &append(50, &["c"])).expect("the same millisecond is fine");
    assert_eq!(machine.newest_arrival(), Some(Timestamp(50)));
    assert_eq!(machine.records(), 3);
}

#[test]
fn an_unknown_command_stops_and_changes_nothing() {
    let mut machine = ShardMachine::new(&shard());
    machine.apply(at(1), &append(50, &["a"])).expect("applies");
    let before = machine.clone();
    assert!(machine.apply(at(2), &Bytes::from_static(&[9, 9])).is_err());
    assert_eq!(machine, before);
}

#[test]
#[should_panic(expected = "arrival went back")]
fn arrivals_never_fall() {
    let mut machine = ShardMachine::new(&shard());
    let _ = machine.apply(at(1), &append(50, &["a"]));
    let _ = machine.apply(at(2), &append(49, &["a"]));
}

#[test]
#[should_panic(expected = "applied after")]
fn indexes_rise() {
    let mut machine = ShardMachine::new(&shard());
    machine.advance(at(2));
    let _ = machine.apply(at(2), &append(50, &["a"]));
}

#[test]
fn checkpoints_of_another_format_are_refused() {
    let mut machine = ShardMachine::new(&shard());
    let mut newer = ShardMachine::new(&shard()).checkpoint().to_vec();
    newer[0] += 1;
    for bad in
        [Bytes::new(), Bytes::from(newer), Bytes::from_static(&[2]), Bytes::from_static(&[1])]
    {
        assert!(machine.restore(bad).is_err());
    }
}

#[test]
fn a_seal_ends_the_shard_and_the_second_one_does_nothing() {
    let mut machine = parent(PARENT, 7);
    let sealed = Sealed {
        // The newest record's second, above that of the seal's own stamp.
        closed_second: 1_790_000_005,
        last_arrival: Timestamp(1_790_000_005_500),
        end: 6,
    };
    assert_eq!(machine.sealed(), Some(sealed));
    let (records, newest) = (machine.records(), machine.last_sequence_number());
    // An append that meets it has no effect, whatever its stamp.
    let refused = outcome(&mut machine, 7, &append_of(1, sent(8, &[0])));
    assert_eq!(refused, Outcome::NoEffect(Closed::Sealed));
    assert_eq!((machine.records(), machine.last_sequence_number()), (records, newest));
    assert_eq!(found(&machine, 8, 0), None);
    let again = outcome(&mut machine, 8, &command::seal(Timestamp(1_790_000_099_000)));
    assert_eq!(again, Outcome::Sealed(sealed));
    assert_eq!(found(&machine, 7, 1), Some((PARENT, 4, 1)), "what it stored it still knows");
}

#[test]
fn a_shard_is_closed_no_earlier_than_it_was_created() {
    let mut machine = ShardMachine::new(&shard());
    let sealed = outcome(&mut machine, 1, &command::seal(Timestamp(5)));
    let closed_second = shard().creation_second;
    let expected = Sealed { closed_second, last_arrival: Timestamp(0), end: 1 };
    assert_eq!(sealed, Outcome::Sealed(expected));
}

#[test]
fn a_child_opens_when_it_has_all_its_parents_knew() {
    let (left, right) = (parent(3, 7), parent(4, 8));
    let mut machine = ShardMachine::new(&child(&[3, 4]));
    let both = Some(opening(&[(3, 6), (4, 6)]));
    let progress = |opened, left, right| {
        let upto = vec![(ShardId::from(3), left), (ShardId::from(4), right)];
        Outcome::Inherited(Inherited { opened, upto })
    };
    let refused = outcome(&mut machine, 1, &append(1_790_000_009_000, &["k"]));
    assert_eq!(refused, Outcome::NoEffect(Closed::Waiting));
    let refused = outcome(&mut machine, 2, &command::seal(Timestamp(1)));
    assert_eq!(refused, Outcome::NoEffect(Closed::Waiting));
    let early = outcome(&mut machine, 3, &inherit(&[left.window(0)], both.clone()));
    assert_eq!(early, progress(false, 6, 0), "one parent is missing");
    assert_eq!(machine.closed(), Some(Closed::Waiting));
    // A part that begins behind what is here would leave a gap.
    let gap = WindowPart { after: 1, ..right.window(0) };
    assert_eq!(outcome(&mut machine, 4, &inherit(&[gap], both.clone())), progress(false, 6, 0));
    let opened = outcome(&mut machine, 5, &inherit(&[right.window(0)], both.clone()));
    assert_eq!(opened, progress(true, 6, 6));
    assert_eq!(machine.opened(), Some(Opened { creation_second: 1_790_000_006, index: 5 }));
    assert_eq!(machine.last_arrival(), Timestamp(1_790_000_005_500));
    assert_eq!(machine.newest_arrival(), None, "it has no record of its own");
    assert_eq!(found(&machine, 7, 1), Some((3, 4, 1)));
    assert_eq!(found(&machine, 8, 0), Some((4, 4, 0)));
    // Everything again, with another opening: nothing happens.
    let later = Opening { creation_second: 1_790_000_999, ..opening(&[(3, 6), (4, 6)]) };
    let again = inherit(&[left.window(0), right.window(0)], Some(later));
    assert_eq!(outcome(&mut machine, 6, &again), progress(true, 6, 6));
    assert_eq!(machine.opened().map(|o| o.creation_second), Some(1_790_000_006));
    machine.apply(at(7), &append_of(1_790_000_005_500, sent(9, &[0]))).expect("applies");
    let number = machine.last_sequence_number().expect("a record");
    assert_eq!((number.creation_second, number.shard), (1_790_000_006, ShardId::from(5)));
    // Its children inherit what it inherited, too.
    let mut grandchild = ShardMachine::new(&child(&[5]));
    outcome(&mut grandchild, 1, &inherit(&[machine.window(0)], None));
    assert_eq!(found(&grandchild, 7, 0), Some((3, 4, 0)));
    assert_eq!(found(&grandchild, 9, 0), Some((5, 7, 0)));
}

#[test]
fn damaged_rows_stop_and_change_nothing() {
    let mut machine = ShardMachine::new(&child(&[3]));
    let rows = Bytes::from_static(&[1, 2, 3]);
    let part = WindowPart { rows, ..parent(3, 7).window(0) };
    let before = machine.clone();
    assert!(machine.apply(at(1), &inherit(&[parent(3, 7).window(0), part], None)).is_err());
    assert_eq!(machine, before);
}

#[test]
fn only_a_sealed_shard_forgets_its_window() {
    let mut machine = ShardMachine::new(&shard());
    machine.apply(at(1), &append_of(50, sent(7, &[0]))).expect("applies");
    machine.retire();
    assert!(found(&machine, 7, 0).is_some());
    machine.apply(at(2), &command::seal(Timestamp(50))).expect("applies");
    machine.retire();
    assert_eq!(found(&machine, 7, 0), None);
    let empty = Window::default().encode();
    assert_eq!(machine.window(0).rows, empty);
}

#[test]
fn a_checkpoint_of_format_1_is_an_open_shard_that_remembers_nothing() {
    let mut old = vec![1];
    for number in [30u64, 4_000, 77_000] {
        old.extend(number.to_le_bytes());
    }
    old.push(1);
    for number in [2u64, 1, 12] {
        old.extend(number.to_le_bytes());
    }
    let mut machine = ShardMachine::new(&shard());
    machine.restore(Bytes::from(old.clone())).expect("a version before this one wrote it");
    assert_eq!((machine.records(), machine.bytes), (30, 4_000));
    assert_eq!(machine.last_arrival(), Timestamp(77_000));
    assert_eq!(machine.applied, Some(EntryId { term: 2, node: NodeId(1), index: 12 }));
    assert_eq!((machine.closed(), machine.last_sequence_number()), (None, None));
    old.push(0);
    assert!(machine.restore(Bytes::from(old)).is_err(), "bytes at its end");
}

#[test]
fn a_checkpoint_of_format_2_is_not_trimmed() {
    let mut machine = parent(PARENT, 7);
    let rows = machine.window.encode().len();
    let mut old = machine.checkpoint().to_vec();
    assert_eq!(old[0], 3);
    old[0] = 2;
    let trimmed = old.len() - rows - 9..old.len() - rows;
    old.drain(trimmed);
    let before = machine.clone();
    machine.trimmed = Some(3);
    machine.restore(Bytes::from(old)).expect("a version before this one wrote it");
    assert_eq!(machine, before);
}

#[test]
fn a_trim_never_goes_back_and_never_reaches_what_comes_after_it() {
    let mut machine = ShardMachine::new(&shard());
    machine.apply(at(2), &append(50, &["a"])).expect("applies");
    machine.apply(at(5), &append(60, &["b"])).expect("applies");
    assert_eq!((machine.trimmed(), machine.purgeable()), (None, None));
    assert_eq!(outcome(&mut machine, 6, &command::trim(3)), Outcome::Trimmed(3));
    assert_eq!(machine.purgeable(), Some(3));
    assert_eq!(outcome(&mut machine, 7, &command::trim(1)), Outcome::Trimmed(3));
    assert_eq!(outcome(&mut machine, 8, &command::trim(u64::MAX)), Outcome::Trimmed(7));
    assert_eq!(machine.purgeable(), Some(8), "no record is left, so nothing is needed");
    machine.apply(at(9), &append(60, &["c"])).expect("applies");
    assert_eq!((machine.trimmed(), machine.purgeable()), (Some(7), Some(7)));
    assert_eq!(machine.records(), 3, "they were stored all the same");
}

#[test]
fn a_child_that_waits_is_not_trimmed_and_a_sealed_shard_is() {
    let mut waiting = ShardMachine::new(&child(&[3]));
    let refused = outcome(&mut waiting, 1, &command::trim(0));
    assert_eq!(refused, Outcome::NoEffect(Closed::Waiting));
    let mut sealed = parent(PARENT, 7);
    assert_eq!(outcome(&mut sealed, 9, &command::trim(8)), Outcome::Trimmed(8));
    assert_eq!(sealed.closed(), Some(Closed::Sealed));
}

#[test]
fn a_large_window_makes_checkpoints_rare() {
    let mut machine = ShardMachine::new(&shard());
    assert_eq!(machine.checkpoint_every_bytes(), 16 << 20);
    // Rows of every other ordinal take most room.
    let odd: Vec<u16> = (0..5_000).map(|i| i * 2).collect();
    for call in 0..=255 {
        machine.apply(at(call.into()), &append_of(50, sent(call, &odd))).expect("applies");
    }
    let checkpoint = machine.checkpoint().len() as u64;
    assert!(checkpoint > 2 << 20, "{checkpoint}");
    assert!(machine.checkpoint_every_bytes() >= 8 * (checkpoint - 256));
}

/// What happens to a shard in the proptest below.
#[derive(Clone, Debug)]
enum Happening {
    Append(u8, Vec<u16>),
    Seal,
    Inherit(u64, u64, bool),
    Trim(u64),
    Blank,
}

fn happening() -> impl Strategy<Value = Happening> {
    let ordinals = proptest::collection::btree_set(0u16..6, 1..5);
    prop_oneof![
        6 => (0u8..4, ordinals)
            .prop_map(|(call, set)| Happening::Append(call, set.into_iter().collect())),
        1 => Just(Happening::Seal),
        3 => (0u64..5, 0u64..8, any::<bool>())
            .prop_map(|(after, more, opens)| Happening::Inherit(after, after + more, opens)),
        2 => (0u64..25).prop_map(Happening::Trim),
        2 => Just(Happening::Blank),
    ]
}

proptest! {
    #[test]
    fn a_restored_machine_goes_on_as_if_nothing_happened(
        happenings in proptest::collection::vec((happening(), 0u64..200_000), 0..20),
        is_child: bool,
        cut in 0usize..20,
    ) {
        let shard = if is_child { child(&[PARENT]) } else { shard() };
        let (mut straight, mut restored) = (ShardMachine::new(&shard), ShardMachine::new(&shard));
        let rows = parent(PARENT, 7).window(0).rows;
        let mut now = 1_790_000_005_500;
        for (i, (happening, later)) in happenings.into_iter().enumerate() {
            if i == cut {
                let from = restored.checkpoint();
                restored = ShardMachine::new(&shard);
                restored.restore(from.clone()).expect("its own checkpoint");
                prop_assert_eq!(&restored.checkpoint(), &from);
            }
            now += later;
            let command = match happening {
                Happening::Append(call, ordinals) => append_of(now, sent(call, &ordinals)),
                Happening::Seal => command::seal(Timestamp(now)),
                Happening::Trim(upto) => command::trim(upto),
                Happening::Inherit(after, upto, opens) => {
                    let (parent, rows) = (ShardId::from(PARENT), rows.clone());
                    let part = WindowPart { parent, after, upto, rows, more: false };
                    inherit(&[part], opens.then(|| opening(&[(PARENT, 4)])))
                }
                Happening::Blank => {
                    straight.advance(at(i as u64));
                    restored.advance(at(i as u64));
                    continue;
                }
            };
            let (one, other) = (
                straight.apply(at(i as u64), &command).expect("applies"),
                restored.apply(at(i as u64), &command).expect("applies"),
            );
            prop_assert_eq!(one, other);
        }
        prop_assert_eq!(straight, restored);
    }
}
