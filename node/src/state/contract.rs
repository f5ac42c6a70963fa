//! What every implementation of `Tables` must do, run against each.

use bytes::Bytes;

use super::{Change, MemoryTables, ROW_BYTES_MAX, SledTables, Tables};

fn put(key: &str, value: &str) -> Change {
    Change::Put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
}

fn delete(key: &str) -> Change {
    Change::Delete(Bytes::copy_from_slice(key.as_bytes()))
}

fn marker(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn rows(tables: &dyn Tables, prefix: &str) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let rows = tables.scan(prefix.as_bytes()).unwrap();
    rows.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect()
}

fn check(tables: &dyn Tables) {
    assert_eq!(tables.applied().unwrap(), None, "empty tables have no marker");
    assert_eq!(rows(tables, ""), [""; 0]);

    tables.apply(&[put("a/2", "x"), put("a/1", "y"), put("b", "z")], marker("1")).unwrap();
    assert_eq!(tables.applied().unwrap(), Some(marker("1")));
    assert_eq!(rows(tables, ""), ["a/1=y", "a/2=x", "b=z"]);
    assert_eq!(rows(tables, "a/"), ["a/1=y", "a/2=x"]);
    assert_eq!(rows(tables, "a0"), [""; 0]);

    tables.apply(&[put("a/1", "new"), delete("b"), delete("never there")], marker("2")).unwrap();
    assert_eq!(rows(tables, ""), ["a/1=new", "a/2=x"]);

    tables.apply(&[put("c", "1"), delete("c"), put("d", "1"), put("d", "2")], marker("3")).unwrap();
    assert_eq!(rows(tables, ""), ["a/1=new", "a/2=x", "d=2"], "changes are made in their order");

    tables.apply(&[], marker("4")).unwrap();
    assert_eq!(tables.applied().unwrap(), Some(marker("4")), "a marker moves without rows");

    let large = Change::Put(Bytes::from_static(b"large"), vec![0; ROW_BYTES_MAX].into());
    assert!(tables.apply(&[put("e", "1"), large], marker("5")).is_err());
    assert_eq!(tables.applied().unwrap(), Some(marker("4")), "a refused batch changes nothing");
    assert_eq!(rows(tables, "e"), [""; 0]);

    tables.flush().unwrap();
    tables.clear().unwrap();
    assert_eq!(tables.applied().unwrap(), None);
    assert_eq!(rows(tables, ""), [""; 0]);
    tables.apply(&[put("a", "1")], marker("1")).unwrap();
    assert_eq!(rows(tables, ""), ["a=1"], "cleared tables can be filled again");
}

#[test]
fn memory_tables_keep_the_contract() {
    check(&MemoryTables::new());
}

#[test]
fn sled_tables_keep_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    check(&SledTables::open_or_rebuild(&folder.path().join("state")).unwrap());
}
