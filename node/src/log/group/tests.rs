//! A group's index by itself.

use tristream_proto::domain::NodeId;

use super::*;
use crate::log::frame::{Frame, What};
use crate::log::segment::Directory;

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, node: NodeId(1), index }
}

fn slot(index: u64) -> Slot {
    let place = Some(Place { segment: index / 4, offset: index * 64 });
    Slot { ticket: index, stamp_ms: 0, len: 6, place, payload: None }
}

fn filled(entries: u64) -> Group {
    let mut group = Group::default();
    for index in 0..entries {
        group.push(id(1, index), slot(index));
        group.stored_upto(index);
    }
    group
}

fn part(range: std::ops::Range<u64>) -> Part {
    let mut directory = Directory::default();
    let group = tristream_proto::domain::GroupId(1);
    for index in range {
        let what = What::Entry { id: id(1, index), kind: EntryKind::Command };
        directory.note(&Frame::new(group, what, vec![0; 6].into()).head, index * 64);
    }
    directory.parts.remove(&group).unwrap()
}

fn checkpoint(term: u64, index: u64) -> Checkpoint {
    let state = Some(Bytes::from_static(b"state"));
    Checkpoint { id: id(term, index), len: 5, place: None, state }
}

/// Ten entries: two sealed segments of four, and two young ones.
fn sealed() -> Group {
    let mut group = filled(10);
    group.seal(0, &part(0..4));
    group.seal(1, &part(4..8));
    group
}

#[test]
fn sealing_leaves_one_record_for_each_segment() {
    let group = sealed();
    assert_eq!((group.runs.len(), group.slots.len(), group.base), (2, 2, 8));
    assert_eq!((group.first(), group.next(), group.durable()), (0, 10, Some(9)));
    assert_eq!(group.run(5).unwrap().segment, 1);
    assert_eq!(group.run(8), None);
    assert_eq!(group.place(8), Some(Place { segment: 2, offset: 512 }));
    assert_eq!(group.place(5), None);
    assert_eq!(group.id(3), Some(id(1, 3)));
}

#[test]
fn what_is_in_memory_keeps_its_slot_until_the_payload_goes() {
    let mut group = filled(8);
    for index in 2..8 {
        group.slot_mut(index).unwrap().payload = Some((EntryKind::Command, Bytes::new()));
    }
    group.seal(0, &part(0..4));
    assert_eq!((group.base, group.slots.len()), (2, 6));
    group.slot_mut(2).unwrap().payload = None;
    group.slot_mut(3).unwrap().payload = None;
    group.slot_mut(4).unwrap().payload = None;
    group.drop_cold();
    assert_eq!((group.base, group.slots.len()), (4, 4), "no run covers the fifth");
}

#[test]
fn only_what_still_counts_becomes_a_run() {
    let mut group = filled(8);
    group.purge(id(1, 1), &mut Dying::default());
    group.truncate_from(6, &mut Dying::default());
    let mut replaced = slot(6);
    replaced.place = Some(Place { segment: 2, offset: 0 });
    group.push(id(2, 6), replaced);
    group.seal(0, &part(0..4));
    group.seal(1, &part(4..8));
    let runs: Vec<_> = group.runs().map(|run| (run.first, run.count, run.table_at)).collect();
    assert_eq!(runs, [(2, 2, 2), (4, 2, 0)]);
    assert_eq!(group.id(6), Some(id(2, 6)));
}

#[test]
fn truncation_cuts_slots_and_runs_and_counts_each_entry_once() {
    let mut dying = Dying::default();
    let mut group = sealed();
    let gone = group.truncate_from(3, &mut dying);
    assert_eq!(gone.len(), 2, "only these had slots");
    assert_eq!((group.next(), group.durable(), group.last()), (3, Some(2), Some(id(1, 2))));
    let died: Vec<_> = dying.0.values().map(|dead| (dead.entries, dead.bytes)).collect();
    assert_eq!(died, [(1, 70), (4, 280), (2, 140)]);
    group.push(id(2, 3), slot(3));
    assert_eq!((group.next(), group.id(3)), (4, Some(id(2, 3))));
}

#[test]
fn entries_in_runs_and_slots_die_once() {
    let mut group = filled(4);
    for index in 0..4 {
        group.slot_mut(index).unwrap().payload = Some((EntryKind::Command, Bytes::new()));
    }
    group.seal(0, &part(0..4));
    assert_eq!(group.slots.len(), 4);
    let mut dying = Dying::default();
    group.purge(id(1, 1), &mut dying);
    group.truncate_from(3, &mut dying);
    assert_eq!((dying.0[&0].entries, dying.0[&0].bytes), (3, 210));
    group.remove(&mut dying);
    assert_eq!((dying.0[&0].entries, dying.0[&0].bytes), (4, 280));
}

#[test]
fn purging_cuts_from_the_front_and_may_go_beyond_the_end() {
    let mut dying = Dying::default();
    let mut group = sealed();
    group.faulty.insert(2, None);
    group.purge(id(1, 4), &mut dying);
    assert_eq!((group.first(), group.next()), (5, 10));
    assert!(group.faulty.is_empty());
    assert_eq!(group.run(5).map(|run| run.table_at), Some(1));
    assert_eq!(group.id(4), None);
    group.purge(id(4, 19), &mut dying);
    assert_eq!(group.state().last, Some(id(4, 19)));
    assert_eq!((group.durable(), group.next(), group.first()), (Some(19), 20, 20));
    assert_eq!(dying.0.values().map(|dead| dead.entries).sum::<u64>(), 10);
    assert!(!(0..3).any(|segment| group.lives_in(segment)));
}

#[test]
fn rewriting_puts_one_run_in_the_place_of_several() {
    let mut group = sealed();
    let copied = part(0..8);
    group.truncate_from(7, &mut Dying::default());
    group.purge(id(1, 2), &mut Dying::default());
    let bytes = group.rewrite(&[0, 1].into(), 9, &copied);
    let runs: Vec<_> = group.runs().copied().collect();
    assert_eq!((runs.len(), runs[0].segment, runs[0].first, runs[0].count), (1, 9, 3, 4));
    assert_eq!((runs[0].table_at, runs[0].bytes, bytes), (3, 280, 280));
    assert!(group.lives_in(9) && !group.lives_in(0) && !group.lives_in(1));
    assert_eq!(group.rewrite(&[0, 1].into(), 10, &copied), 0);
}

#[test]
fn truncation_takes_the_checkpoints_behind_it() {
    let mut group = filled(8);
    group.add_checkpoint(checkpoint(1, 2));
    group.add_checkpoint(checkpoint(1, 6));
    group.truncate_from(3, &mut Dying::default());
    assert_eq!(group.state().checkpoint, Some(id(1, 2)));
}

#[test]
fn a_checkpoint_of_another_entry_than_the_one_in_the_log_is_not_told() {
    let mut group = filled(5);
    group.add_checkpoint(checkpoint(1, 1));
    group.add_checkpoint(checkpoint(2, 3));
    assert_eq!(group.checkpoints(), [id(1, 1)]);
}

#[test]
fn a_checkpoint_ahead_of_the_log_counts_once_the_purge_reaches_it() {
    let mut group = filled(5);
    group.add_checkpoint(checkpoint(2, 30));
    assert_eq!(group.state().checkpoint, None);
    group.purge(id(2, 30), &mut Dying::default());
    assert_eq!(group.state().checkpoint, Some(id(2, 30)));
}

#[test]
fn purging_lets_go_of_the_checkpoints_below_the_newest_that_it_reached() {
    let mut group = filled(8);
    for index in [1, 3, 5, 7] {
        group.add_checkpoint(checkpoint(1, index));
    }
    group.purge(id(1, 5), &mut Dying::default());
    assert_eq!(group.checkpoints(), [id(1, 5), id(1, 7)]);
    group.add_checkpoint(checkpoint(1, 2));
    assert_eq!(group.checkpoints.len(), 2, "too late");
}

#[test]
fn committed_never_exceeds_the_last_entry() {
    let mut group = filled(5);
    keep(&mut group.committed, Some(id(1, 9)));
    assert_eq!(group.state().committed, Some(id(1, 4)));
}

#[test]
fn a_checkpoint_that_is_made_again_lies_where_it_did_until_it_is_durable() {
    let (mut group, place) = (filled(5), Place { segment: 7, offset: 64 });
    group.add_checkpoint(Checkpoint { place: Some(place), state: None, ..checkpoint(1, 3) });
    group.add_checkpoint(checkpoint(1, 3));
    assert!(group.lives_in(7), "the segment may not go yet");
    group.add_checkpoint(checkpoint(2, 3));
    assert!(!group.lives_in(7), "that is another entry");
}
