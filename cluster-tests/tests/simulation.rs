//! The simulation is what it says: the same run for the same seed, clean on the product, and able to bark.

use std::process::{Command, Output};

use tristream_cluster_tests::simulation::{Report, Sum};

/// Seeds of the sweep, and simulated seconds of faults in each.
const SEEDS: &str = "30";
const SECONDS: &str = "8";
/// Seeds that a commit runs besides.
const SEEDS_OF_COMMIT: &str = "70";

fn lab(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tristream-lab"));
    command.args(arguments).output().expect("tristream-lab starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn report(arguments: &[&str]) -> Report {
    let output = lab(arguments);
    let text = stdout(&output);
    let line = text.lines().next().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn script(name: &str) -> String {
    format!("{}/scripts/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_seed_is_one_run_in_every_process() {
    let run = |seed| report(&["simulate", "--from", seed, "--seconds", "5", "--full", "--json"]);
    let (first, second) = (run("1"), run("2"));
    assert!(first.log_lines > 50_000, "everything is in the hash: {}", first.log_lines);
    assert_eq!(first, run("1"));
    assert_eq!(second, run("2"));
    assert_ne!(first.hash, second.hash);
}

#[test]
fn seeds_keep_every_promise_and_meet_every_fault() {
    let sweep = ["simulate", "--from", "1000", "--seeds", SEEDS, "--seconds", SECONDS];
    let output = lab(&[&sweep[..], &["--json", "--cover"]].concat());
    let text = stdout(&output);
    let missing = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{missing}\n{}", broken(&text));
}

/// Each commit runs seeds that none ran before: what breaks here is a finding, and the message has its seed.
#[test]
fn seeds_of_this_commit_keep_every_promise() {
    let from = seed_of_this_commit();
    let sweep = ["simulate", "--from", &from, "--seeds", SEEDS_OF_COMMIT, "--seconds", SECONDS];
    let output = lab(&[&sweep[..], &["--json", "--tries", "0"]].concat());
    assert_eq!(output.status.code(), Some(0), "{sweep:?}\n{}", broken(&stdout(&output)));
}

/// From the commit's name, where there is git and a checkout.
fn seed_of_this_commit() -> String {
    let mut git = Command::new("git");
    let asked = git.args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let name = asked.map(|output| stdout(&output)).unwrap_or_default();
    let number = name.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.unwrap_or(4_000_000).to_string()
}

fn broken(lines: &str) -> String {
    let reports = lines.lines().filter_map(|line| serde_json::from_str::<Report>(line).ok());
    let told = reports.filter(|report| !report.violations.is_empty());
    told.map(|report| format!("seed {}: {}\n", report.seed, report.violations.join("\n"))).collect()
}

#[test]
fn disks_that_lie_are_found_out() {
    let script = script("power_loss_everywhere.json");
    let run = ["simulate", "--from", "1", "--seconds", "4", "--script", &script];
    let honest = lab(&run);
    assert_eq!(honest.status.code(), Some(0), "{}", stdout(&honest));
    let lying = lab(&[&run[..], &["--plant", "disks-lie", "--tries", "0"]].concat());
    assert_eq!(lying.status.code(), Some(1), "{}", stdout(&lying));
}

/// Without `--cover` of the other faults: these are few seeds.
#[test]
fn power_fails_everywhere_in_every_seed_that_is_to_have_it() {
    let run = ["simulate", "--from", "2000", "--seconds", "8", "--faults", "power_loss_all"];
    let output = lab(&[&run[..], &["--seeds", "6", "--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", broken(&stdout(&output)));
    let text = stdout(&output);
    let reports: Vec<Report> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(reports.len(), 6);
    for report in reports {
        let times = report.coverage.get("fault_power_loss_everywhere").copied();
        assert!(times.is_some_and(|times| times >= 1), "{report:?}");
    }
    let lying = lab(&[&run[..], &["--plant", "disks-lie", "--tries", "0"]].concat());
    assert_eq!(lying.status.code(), Some(1), "{}", stdout(&lying));
}

/// Each of them is noticed, and none breaks a promise.
#[test]
fn disks_fail_in_every_way_that_a_node_is_to_survive() {
    let script = script("disks.json");
    let report = report(&["simulate", "--seconds", "13", "--script", &script, "--json"]);
    assert_eq!(report.violations, [""; 0]);
    for fault in [
        "stalled_disk",
        "full_disk",
        "nearly_full_disk",
        "failed_reads",
        "empty_disk",
        "failed_sync",
        "slow_zone",
    ] {
        let times = report.coverage.get(&format!("fault_{fault}")).copied();
        assert!(times.is_some_and(|times| times >= 1), "{fault}: {report:?}");
    }
    assert!(report.coverage["refused_records"] > 0, "no room, no puts: {report:?}");
}

/// Replication to a node that is gone was once tried again at once, for ever: time stands still in such a loop.
#[test]
fn a_node_that_is_gone_is_not_asked_without_pause() {
    let script = script("one_node_gone.json");
    let run = ["simulate", "--from", "1", "--seconds", "10", "--script", &script];
    let output = lab(&[&run[..], &["--patience", "240"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
}

/// The replica with the longest log was elected, and its last entry, which nobody else had, rotted: its heartbeats kept
/// the others from electing one of theirs, for ever.
#[test]
fn rot_under_the_longest_log_stops_nothing() {
    let script = script("rot_under_the_longest_log.json");
    let report = report(&["simulate", "--script", &script, "--json"]);
    assert_eq!(report.violations, [""; 0]);
    assert!(report.coverage["entries_faulty"] > 0, "{report:?}");
}

#[test]
fn misuse_is_told_from_violation() {
    for arguments in [
        &["simulate", "--script", "/nowhere/at/all.json"][..],
        &["simulate", "--seeds", "2", "--log", "/tmp/never-written.log"],
        &["simulate", "--seeds", "many"],
        &["simulate", "--faults", "none"],
        &["simulate", "--plant", "none-such"],
        &["simulate", "--only", "a"],
        &["simulate", "--seconds", "3", "--only", "1000"],
        &["simulated"],
    ] {
        assert_eq!(lab(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_sweep_that_met_nothing_says_so() {
    let missing = Sum::default().missing();
    for what in ["fault_power_loss", "fault_clock_drift", "writes_torn", "restarts"] {
        assert!(missing.iter().any(|missed| missed == what), "{what} of {missing:?}");
    }
}
