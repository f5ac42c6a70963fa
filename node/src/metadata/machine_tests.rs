//! The machine across restarts, resets, checkpoints and failing tables.

use std::collections::BTreeMap;

use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{Incarnation, StreamName, Timestamp};

use proptest::prelude::*;

use super::*;
use crate::metadata::trial::{Trial, activate, rescale, resharding, roll, step};
use crate::metadata::view::{StreamMode, StreamStatus};
use crate::metadata::{plan, trial};
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
        Command::DeleteStream { name: name("nobody"), incarnation: None },
        Command::DeleteStream { name: name("a"), incarnation: None },
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
fn check_restarts(commands: &[Command]) {
    let mut whole = open(&memory());
    for (i, command) in commands.iter().enumerate() {
        apply(&mut whole, i as u64 + 1, command);
    }
    for stop in 0..=commands.len() {
        let tables = memory();
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
    check_restarts(&life());
    check_restarts(&resharding());
}

#[test]
fn a_machine_on_sled_takes_up_where_it_stopped() {
    let mut midway = resharding();
    // Before the stream is deleted: with a goal and a reshard.
    midway.truncate(midway.len() - 2);
    for commands in [life(), midway] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        let sled = || -> Arc<dyn Tables> { Arc::new(SledTables::open_or_rebuild(&dir).unwrap()) };
        let tables = sled();
        let mut machine = open(&tables);
        for (i, command) in commands.iter().enumerate() {
            apply(&mut machine, i as u64 + 1, command);
        }
        let before = view(&machine);
        tables.flush().unwrap();
        drop((machine, tables));
        let machine = open(&sled());
        assert_eq!(view(&machine), before);
        assert_eq!(machine.applied(), Some(at(commands.len() as u64)));
    }
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
    let spoils: [(&str, Vec<Change>); 7] = [
        ("a shard is missing", vec![Change::Delete("shard/0000000000000001/00000001".into())]),
        ("a head is missing", vec![Change::Delete("stream/a".into())]),
        ("a reshard is missing", vec![Change::Delete("reshard/0000000000000001/00000003".into())]),
        ("a goal lacks keys", vec![Change::Delete("goal/0000000000000001/keep/0000".into())]),
        ("a goal lacks splits", vec![Change::Delete("goal/0000000000000001/split/0000".into())]),
        ("a row is no JSON", vec![Change::Put("stream/a".into(), "x".into())]),
        ("a key is unknown", vec![Change::Put("shard/x".into(), "{}".into())]),
    ];
    for (what, changes) in spoils {
        let tables = memory();
        let mut machine = open(&tables);
        for (i, command) in rescaling(3, 4).iter().enumerate() {
            apply(&mut machine, i as u64 + 1, command);
        }
        let keys = rows_of(&tables).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let deletes = changes.iter().filter(|change| matches!(change, Change::Delete(_)));
        assert!(deletes.clone().all(|change| keys.contains(change.key())), "{what}: {keys:?}");
        tables.apply(&changes, tables.applied().unwrap().unwrap()).unwrap();
        let machine = open(&tables);
        assert_eq!(machine.applied(), None, "{what}");
        assert_eq!(rows_of(&tables), [], "{what}");
    }
}

/// Creates stream `a` with `open` shards, and begins its way to `target` with one step.
fn rescaling(open: u32, target: u32) -> Vec<Command> {
    let create = trial::create("a", open, StreamMode::Provisioned);
    let mut trial = Trial::default();
    trial.done(&create);
    let activate = activate(&trial.a());
    trial.done(&activate);
    let rescale = rescale(&trial.a(), target, trial::START, true);
    trial.done(&rescale);
    let step = step(&trial.a(), plan::next(&trial.a())[0]);
    vec![create, activate, rescale, step]
}

#[test]
fn rows_stay_small() {
    let large = ACCOUNT_SHARDS_MAX as u32;
    for commands in [vec![create("a", large)], rescaling(large / 2, large)] {
        let tables = memory();
        let mut machine = open(&tables);
        for (i, command) in commands.iter().enumerate() {
            apply(&mut machine, i as u64 + 1, command);
        }
        let largest = rows_of(&tables).iter().map(|(key, value)| key.len() + value.len()).max();
        assert!(largest.unwrap() < 4096, "{largest:?}");
    }
}

#[test]
fn what_was_written_before_there_were_reshards_still_loads() {
    let shard = r#"{"id":0,"group":1,"range":{"first":"0","last":"340282366920938463463374607431768211455"},"creation_second":7,"replicas":[1,2,3]}"#;
    let stream = r#""name":"a","incarnation":1,"status":"ACTIVE","mode":"PROVISIONED","created":10000,"retention_hours":24,"record_bytes_max":1048576"#;
    let counters = r#""next_group":2,"next_incarnation":2,"map_version":1"#;
    let put = |key: &str, value: String| Change::Put(key.to_owned().into(), value.into());
    let tables = memory();
    let rows = [
        put("counters", format!("{{{counters}}}")),
        put("stream/a", format!("{{{stream},\"map_version\":1,\"shards\":1,\"tags\":0}}")),
        put("shard/0000000000000001/00000000", shard.to_owned()),
    ];
    tables.apply(&rows, rows::marker(at(4))).unwrap();
    let from_rows = open(&tables);
    assert_eq!(from_rows.applied(), Some(at(4)));

    let map = format!("{{\"version\":1,\"shards\":[{shard}]}}");
    let last = r#""last":{"term":1,"node":2,"index":4}"#;
    let checkpoint = format!(
        "{{\"format\":1,{last},{counters},\"streams\":[{{{stream},\"tags\":{{}},\"map\":{map}}}]}}"
    );
    let mut from_checkpoint = open(&memory());
    from_checkpoint.restore(checkpoint.into()).unwrap();
    assert_eq!(view(&from_rows), view(&from_checkpoint));

    let stream = view(&from_rows).streams[&name("a")].clone();
    assert_eq!((stream.status, stream.next_shard), (StreamStatus::Active, 0));
    for mut machine in [from_rows, from_checkpoint] {
        let split = trial::split(&stream, 0, tristream_proto::domain::HashKey(9), false);
        assert_eq!(apply(&mut machine, 5, &split), Outcome::Done);
        let reshards = &view(&machine).streams[&name("a")].reshards;
        assert_eq!(reshards[0].id().index(), 1, "behind the last shard there was");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_view_comes_back_from_its_rows_and_from_its_checkpoint(
        dice in proptest::collection::vec(any::<(u8, u32, u32)>(), 1..150),
    ) {
        let (tables, others) = (memory(), memory());
        let mut machine = open(&tables);
        let mut other = open(&others);
        for (i, dice) in dice.into_iter().enumerate() {
            let command = roll(&view(&machine), dice);
            apply(&mut machine, i as u64 + 1, &command);
            let reopened = open(&tables);
            let kept = reopened.applied().map_or(0, |id| id.index);
            prop_assert_eq!(view(&reopened), View { applied: kept, ..view(&machine) });
            if i % 8 == 0 && kept > 0 {
                other.restore(machine.checkpoint()).unwrap();
                prop_assert_eq!(view(&other), view(&machine));
                prop_assert_eq!(rows_of(&others), rows_of(&tables));
            }
        }
    }
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
    let harmless =
        serde_json::to_vec(&Command::DeleteStream { name: name("b"), incarnation: None }).unwrap();
    assert!(machine.apply(at(1), &create).is_err());
    assert!(machine.apply(at(2), &harmless.into()).is_err());
    assert_eq!(view(&machine), View::default());
}
