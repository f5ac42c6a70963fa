//! The machine across restarts, resets, checkpoints and failing tables.

use std::collections::BTreeMap;

use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{Incarnation, StreamName, Timestamp};

use super::*;
use crate::metadata::view::StreamMode;
use crate::raft::Machine as _;
use crate::state::{MemoryTables, SledTables};

fn at(index: u64) -> EntryId {
    EntryId { term: 1, node: NodeId(2), index }
}

fn name(text: &str) -> StreamName {
    text.parse().unwrap()
}

fn create(text: &str, shard_count: u32) -> Command {
    Command::CreateStream {
        name: name(text),
        shard_count,
        mode: StreamMode::OnDemand,
        now: Timestamp(1_790_000_000_000),
        record_bytes_max: 1 << 20,
        tags: BTreeMap::from([
            ("owner".to_owned(), "ü/b".to_owned()),
            ("x/y".to_owned(), "".into()),
        ]),
        nodes: [1, 2, 3].map(NodeId).to_vec(),
    }
}

fn life() -> Vec<Command> {
    let incarnation = Incarnation(1);
    vec![
        create("a", 150),
        create("b", 1),
        create("a", 1),
        Command::ActivateStream { name: name("a"), incarnation },
        Command::DeleteStream { name: name("nobody") },
        Command::DeleteStream { name: name("a") },
        Command::ForgetStream { name: name("a"), incarnation },
        create("a", 2),
    ]
}

fn open(tables: &Arc<dyn Tables>) -> Machine {
    Machine::open(tables.clone()).unwrap()
}

fn apply(machine: &mut Machine, index: u64, command: &Command) -> Outcome {
    machine.apply(at(index), &serde_json::to_vec(command).unwrap().into()).unwrap()
}

fn view(machine: &Machine) -> View {
    View::clone(&machine.watch().borrow())
}

fn memory() -> Arc<dyn Tables> {
    Arc::new(MemoryTables::new())
}

fn rows_of(tables: &Arc<dyn Tables>) -> Vec<(Bytes, Bytes)> {
    tables.scan(b"").unwrap()
}

/// Stops after every prefix of a life, opens what the tables hold, replays the rest, and must end
/// alike.
fn check_restarts(new_tables: impl Fn() -> Arc<dyn Tables>) {
    let commands = life();
    let mut whole = open(&memory());
    for (i, command) in commands.iter().enumerate() {
        apply(&mut whole, i as u64 + 1, command);
    }
    for stop in 0..=commands.len() {
        let tables = new_tables();
        let mut first = open(&tables);
        for (i, command) in commands[..stop].iter().enumerate() {
            apply(&mut first, i as u64 + 1, command);
        }
        let mut second = open(&tables);
        let from = second.applied().map_or(0, |id| id.index);
        assert_eq!(view(&second), View { applied: from, ..view(&first) }, "stopped at {stop}");
        for (i, command) in commands.iter().enumerate().skip(from as usize) {
            apply(&mut second, i as u64 + 1, command);
        }
        assert_eq!(view(&second), view(&whole), "stopped at {stop}");
    }
}

#[test]
fn a_restarted_machine_ends_where_one_that_ran_through_does() {
    check_restarts(memory);
}

#[test]
fn a_machine_on_sled_takes_up_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state");
    let sled = || -> Arc<dyn Tables> { Arc::new(SledTables::open_or_rebuild(&dir).unwrap()) };
    let tables = sled();
    let mut machine = open(&tables);
    for (i, command) in life().iter().enumerate() {
        apply(&mut machine, i as u64 + 1, command);
    }
    let before = view(&machine);
    tables.flush().unwrap();
    drop((machine, tables));
    let machine = open(&sled());
    assert_eq!(view(&machine), before);
    assert_eq!(machine.applied(), Some(at(8)));
}

#[test]
fn blanks_move_the_view_but_wake_nobody_and_ride_along_with_the_next_change() {
    let tables = memory();
    let mut machine = open(&tables);
    let mut watch = machine.watch();
    apply(&mut machine, 1, &create("a", 1));
    assert!(watch.has_changed().unwrap());
    watch.mark_unchanged();
    machine.advance(at(2));
    assert_eq!(apply(&mut machine, 3, &create("a", 1)), Outcome::AlreadyExists);
    assert_eq!(view(&machine).applied, 3);
    assert!(!watch.has_changed().unwrap());
    assert_eq!(open(&tables).applied(), Some(at(1)));
    apply(&mut machine, 4, &create("b", 1));
    assert_eq!(open(&tables).applied(), Some(at(4)));
}

#[test]
fn what_is_no_command_stops_the_machine() {
    let create = serde_json::to_value(create("a", 1)).unwrap();
    let mut extra = create.clone();
    extra["newer_field"] = 1.into();
    for bad in ["", "{}", "7", r#"{"command":"merge_clusters"}"#, &extra.to_string()] {
        let mut machine = open(&memory());
        let done = machine.apply(at(1), &Bytes::copy_from_slice(bad.as_bytes()));
        assert!(done.is_err(), "{bad}");
        assert_eq!(view(&machine), View::default(), "{bad}");
    }
    let mut machine = open(&memory());
    assert!(machine.apply(at(1), &create.to_string().into()).is_ok());
}

#[test]
fn an_entry_is_never_applied_twice() {
    let mut machine = open(&memory());
    apply(&mut machine, 5, &create("a", 1));
    let again: Bytes = serde_json::to_vec(&create("b", 1)).unwrap().into();
    assert!(machine.apply(at(5), &again).is_err());
    assert!(machine.apply(at(4), &again).is_err());
}

#[test]
fn a_checkpoint_carries_everything_and_replaces_the_rows() {
    let mut from = open(&memory());
    for (i, command) in life()[..3].iter().enumerate() {
        apply(&mut from, i as u64 + 1, command);
    }
    from.advance(at(9));
    let tables = memory();
    let mut to = open(&tables);
    apply(&mut to, 1, &create("other", 7));
    to.restore(from.checkpoint()).unwrap();
    assert_eq!(view(&to), view(&from));
    let reopened = open(&tables);
    assert_eq!(view(&reopened), view(&from));
    assert_eq!(reopened.applied(), Some(at(9)));
    for bad in ["", "{}", r#"{"format":2,"next_group":1}"#] {
        assert!(to.restore(Bytes::copy_from_slice(bad.as_bytes())).is_err(), "{bad}");
    }
    assert_eq!(view(&to), view(&from), "a bad checkpoint changes nothing");
    to.restore(open(&memory()).checkpoint()).unwrap();
    assert_eq!(view(&to), View::default());
    assert_eq!(rows_of(&tables), []);
}

#[test]
fn a_reset_machine_is_empty_and_can_begin_anew() {
    let tables = memory();
    let mut machine = open(&tables);
    apply(&mut machine, 5, &create("a", 1));
    machine.reset();
    assert_eq!(view(&machine), View::default());
    assert_eq!(machine.applied(), None);
    assert_eq!(tables.applied().unwrap(), None);
    assert_eq!(apply(&mut machine, 1, &create("a", 1)), Outcome::Done);
}

#[test]
fn rows_that_make_no_view_are_thrown_away() {
    let spoils: [(&str, Vec<Change>); 4] = [
        ("a shard is missing", vec![Change::Delete("shard/0000000000000001/00000001".into())]),
        ("a head is missing", vec![Change::Delete("stream/a".into())]),
        ("a row is no JSON", vec![Change::Put("stream/a".into(), "x".into())]),
        ("a key is unknown", vec![Change::Put("shard/x".into(), "{}".into())]),
    ];
    for (what, changes) in spoils {
        let tables = memory();
        apply(&mut open(&tables), 1, &create("a", 3));
        tables.apply(&changes, tables.applied().unwrap().unwrap()).unwrap();
        let machine = open(&tables);
        assert_eq!(machine.applied(), None, "{what}");
        assert_eq!(rows_of(&tables), [], "{what}");
    }
}

#[test]
fn rows_stay_small() {
    let tables = memory();
    apply(&mut open(&tables), 1, &create("a", ACCOUNT_SHARDS_MAX as u32));
    let largest = rows_of(&tables).iter().map(|(key, value)| key.len() + value.len()).max();
    assert!(largest.unwrap() < 4096, "{largest:?}");
}

#[test]
fn failed_tables_stop_the_machine_for_good() {
    struct Failing;
    impl Tables for Failing {
        fn applied(&self) -> std::io::Result<Option<Bytes>> {
            Ok(None)
        }
        fn scan(&self, _prefix: &[u8]) -> std::io::Result<Vec<(Bytes, Bytes)>> {
            Ok(Vec::new())
        }
        fn apply(&self, _changes: &[Change], _applied: Bytes) -> std::io::Result<()> {
            Err(std::io::Error::other("no disk"))
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn clear(&self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut machine = open(&(Arc::new(Failing) as Arc<dyn Tables>));
    let create: Bytes = serde_json::to_vec(&create("a", 1)).unwrap().into();
    let harmless = serde_json::to_vec(&Command::DeleteStream { name: name("b") }).unwrap();
    assert!(machine.apply(at(1), &create).is_err());
    assert!(machine.apply(at(2), &harmless.into()).is_err());
    assert_eq!(view(&machine), View::default());
}
