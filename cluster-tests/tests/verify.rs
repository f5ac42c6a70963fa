//! `tristream-lab verify` as a user runs it: its exit status, and what it prints.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A recording of one put and one reading, which sees it or not.
fn recording(folder: &Path, seen: bool) -> String {
    let at = json!({"shard": "s0", "sequence_number": "7"});
    let with = |event: &str, by: &str, more: Value| {
        let mut line = json!({"at_ms": 1, "by": by, "event": event});
        for (name, value) in more.as_object().unwrap() {
            line[name] = value.clone();
        }
        line
    };
    let shard = json!({"shard": "s0", "range": ["0", u128::MAX.to_string()], "open": true});
    let mut lines = vec![
        with("begin", "put-1", json!({"format": 1, "stream": "orders"})),
        with("shards", "put-1", json!({"shards": [shard]})),
        with("invoke", "put-1", json!({"record": 1, "key": "k", "data": "a"})),
        with("ok", "put-1", {
            let mut ok = at.clone();
            ok["record"] = json!(1);
            ok
        }),
        with("begin", "tail-1", json!({"format": 1, "stream": "orders"})),
        with("reading", "tail-1", json!({"from_oldest": true})),
    ];
    if seen {
        let mut record = at;
        record["key"] = json!("k");
        record["data"] = json!("a");
        lines.push(with("observed", "tail-1", record));
    }
    lines.push(with("observed_all", "tail-1", json!({"shard": "s0"})));
    let path = folder.join(format!("{seen}.jsonl"));
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&path, text.join("\n")).unwrap();
    path.to_string_lossy().into_owned()
}

fn verify(arguments: &[&str]) -> (Option<i32>, String, String) {
    let lab = env!("CARGO_BIN_EXE_tristream-lab");
    let Output { status, stdout, stderr } =
        Command::new(lab).arg("verify").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn the_exit_status_tells_clean_from_broken_from_misuse() {
    let folder = tempfile::tempdir().unwrap();
    let (honest, lossy) = (recording(folder.path(), true), recording(folder.path(), false));
    let (status, out, err) = verify(&["--all-puts", &honest]);
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.contains("acked_records_survive   held            1 checked"), "{out}");

    let (status, out, err) = verify(&[&lossy]);
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(out.contains("acked_records_survive   BROKEN          1 of 1 checked"), "{out}");
    assert!(out.contains("tail-1 has no s0/7"), "{out}");
    assert!(out.contains(":3  put-1 sends record 1: key \"k\" \"a\""), "{out}");

    let (status, _, err) = verify(&["/nonexistent"]);
    assert_eq!(status, Some(2));
    assert!(err.contains("/nonexistent"), "{err}");
    let (status, _, err) = verify(&[&honest, &honest]);
    assert_eq!(status, Some(2));
    assert!(err.contains("named twice"), "{err}");
    assert_eq!(verify(&[]).0, Some(2), "no files");
}

#[test]
fn programs_get_json() {
    let folder = tempfile::tempdir().unwrap();
    let (honest, lossy) = (recording(folder.path(), true), recording(folder.path(), false));
    for (file, clean) in [(&honest, true), (&lossy, false)] {
        let (_, out, err) = verify(&["--json", file]);
        let judged: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        assert_eq!(judged["clean"], clean);
        let case = &judged["promises"][0];
        assert_eq!(case["promise"], "acked_records_survive");
        assert_eq!(case["ruling"], if clean { "held" } else { "broken" });
        assert_eq!(case["stories"].is_array(), !clean);
    }
}

/// A clean seed is clean from its recording, too, and a broken one broken.
#[test]
fn a_simulated_run_is_judged_from_its_recording() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl").to_string_lossy().into_owned();
    let simulate = |path: &str, how: &[&str]| {
        let mut lab = Command::new(env!("CARGO_BIN_EXE_tristream-lab"));
        lab.args(["simulate", "--seeds", "1", "--tries", "0", "--history", path]);
        lab.args(how).output().unwrap().status.code()
    };
    assert_eq!(simulate(&path, &["--seed", "2", "--seconds", "4"]), Some(0));
    let (status, out, err) = verify(&["--all-puts", &path]);
    assert_eq!(status, Some(0), "{out}{err}");

    assert_eq!(simulate(&path, &["--plant", "iterator-off-by-one", "--pinned"]), Some(1));
    let (status, out, err) = verify(&["--all-puts", &path]);
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(out.contains("order_within_shard      BROKEN"), "{out}");

    assert_eq!(simulate("/nowhere/at/all", &[]), Some(2));
    let script = folder.path().join("script.json").to_string_lossy().into_owned();
    std::fs::write(&script, "[]").unwrap();
    assert_eq!(simulate(&script, &["--script", &script]), Some(2));
    assert_eq!(std::fs::read_to_string(&script).unwrap(), "[]", "it is there as it was");
    assert_eq!(simulate(&path, &["--log", &path]), Some(2));
}
