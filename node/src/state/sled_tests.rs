//! The store on disk: reopening, damage, and a folder in use.

use super::*;
use crate::state::folder::DAMAGED_KEPT_MAX;

fn tables(folder: &tempfile::TempDir) -> SledTables {
    SledTables::open_or_rebuild(&folder.path().join("state")).unwrap()
}

fn put(key: String, value: String) -> Change {
    Change::Put(key.into(), value.into())
}

fn fill(tables: &SledTables, count: usize) {
    for i in 0..count {
        let value = format!("{i:0>500}");
        tables.apply(&[put(format!("row/{i:05}"), value)], Bytes::from(i.to_string())).unwrap();
    }
}

fn asides(folder: &tempfile::TempDir) -> usize {
    let names = fs::read_dir(folder.path()).unwrap();
    names.filter(|n| n.as_ref().unwrap().file_name().to_string_lossy().contains("damaged")).count()
}

#[test]
fn rows_and_marker_are_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let first = tables(&folder);
    fill(&first, 300);
    first.apply(&[Change::Delete("row/00007".into())], Bytes::from_static(b"end")).unwrap();
    let before = first.scan(b"").unwrap();
    first.flush().unwrap();
    drop(first);

    let second = tables(&folder);
    assert_eq!(second.applied().unwrap(), Some(Bytes::from_static(b"end")));
    assert_eq!(second.scan(b"").unwrap(), before);
    assert_eq!(before.len(), 299);
    assert_eq!(asides(&folder), 0);
}

#[test]
fn a_cleared_store_reopens_empty() {
    let folder = tempfile::tempdir().unwrap();
    let first = tables(&folder);
    fill(&first, 10);
    first.clear().unwrap();
    drop(first);
    let second = tables(&folder);
    assert_eq!(second.applied().unwrap(), None);
    assert_eq!(second.scan(b"").unwrap(), []);
    assert_eq!(asides(&folder), 0);
}

#[test]
fn a_folder_in_use_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = tables(&folder);
    fill(&first, 3);
    let error = SledTables::open_or_rebuild(&folder.path().join("state")).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert_eq!(asides(&folder), 0);
    assert_eq!(first.scan(b"").unwrap().len(), 3);
}

#[test]
fn losing_the_race_for_the_lock_is_not_damage() {
    let folder = tempfile::tempdir().unwrap();
    let _first = tables(&folder);
    // What `open` meets when another process takes the lock after it was found free.
    let config = Config::new().path(folder.path().join("state")).flush_every_ms(None);
    let failure = guarded(|| config.open()).err().unwrap();
    let OpenError::Refused(error) = classify(failure) else { panic!("taken for damage") };
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
}

#[test]
fn damage_sets_the_folder_aside_and_starts_empty() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 4] = [
        ("conf is gibberish", |dir| fs::write(dir.join("conf"), [b'x'; 64]).unwrap()),
        ("a snapshot is cut", |dir| {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap().to_string_lossy().starts_with("snap.") {
                    fs::write(path, b"short").unwrap();
                }
            }
        }),
        ("db is gibberish", |dir| {
            let length = fs::metadata(dir.join("db")).unwrap().len();
            let noise: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            fs::write(dir.join("db"), noise).unwrap();
        }),
        ("the middle of db is rotten", |dir| {
            let mut bytes = fs::read(dir.join("db")).unwrap();
            let quarter = bytes.len() / 4;
            bytes[quarter..2 * quarter].iter_mut().for_each(|byte| *byte ^= 0x5a);
            fs::write(dir.join("db"), bytes).unwrap();
        }),
    ];
    for (name, spoil) in spoils {
        let folder = tempfile::tempdir().unwrap();
        let first = tables(&folder);
        fill(&first, 2_000);
        first.flush().unwrap();
        drop(first);
        // A second start, so that there is a snapshot that covers something.
        drop(tables(&folder));
        spoil(&folder.path().join("state"));

        let second = tables(&folder);
        assert_eq!(second.applied().unwrap(), None, "{name}");
        assert_eq!(second.scan(b"").unwrap(), [], "{name}");
        assert_eq!(asides(&folder), 1, "{name}");
        fill(&second, 3);
        drop(second);
        assert_eq!(tables(&folder).scan(b"").unwrap().len(), 3, "{name}");
    }
}

#[test]
fn rows_that_do_not_add_up_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let first = tables(&folder);
    fill(&first, 5);
    // Behind the tables' back, as rot that passes sled's own checks would.
    first.store().unwrap().rows.remove("row/00003").unwrap();
    first.flush().unwrap();
    drop(first);
    let second = tables(&folder);
    assert_eq!(second.applied().unwrap(), None);
    assert_eq!(asides(&folder), 1);
}

#[test]
fn folders_set_aside_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..DAMAGED_KEPT_MAX + 3 {
        let state = folder.path().join("state");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("round"), round.to_string()).unwrap();
        set_aside(&state).unwrap();
    }
    assert_eq!(asides(&folder), DAMAGED_KEPT_MAX as usize);
}

#[test]
fn after_a_failure_the_tables_answer_nothing_and_the_next_open_starts_empty() {
    let folder = tempfile::tempdir().unwrap();
    let first = tables(&folder);
    fill(&first, 5);
    let error = first.distrust(io::Error::other("fsync failed"));
    assert_eq!(error.to_string(), "fsync failed");
    assert!(first.applied().is_err());
    assert!(first.apply(&[], Bytes::new()).is_err());
    assert!(first.flush().is_err());
    drop(first);
    assert_eq!(tables(&folder).applied().unwrap(), None);
    assert_eq!(asides(&folder), 1);
}
