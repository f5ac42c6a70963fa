//! Bugs planted on purpose are found by the scripts that were written for them, the product passes the same scripts,
//! and the product's binary has none of the bugs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tristream_cluster_tests::simulation::{Plant, Report, Script, broken};
use tristream_cluster_tests::{binary, pinned};

fn lab(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tristream-lab"));
    command.args(arguments).output().expect("tristream-lab starts")
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/planted")
}

fn path(plant: &str) -> String {
    folder().join(format!("{plant}.json")).to_string_lossy().into_owned()
}

fn script(plant: &str) -> Script {
    let text = fs::read_to_string(path(plant)).unwrap_or_else(|error| panic!("{plant}: {error}"));
    Script::parse(&text).unwrap_or_else(|error| panic!("{plant}: {error}"))
}

/// One seed with the plant's script, with or without the bug.
fn run(plant: &str, seed: u64, planted: bool) -> Report {
    let (seed, path) = (seed.to_string(), path(plant));
    let mut arguments = vec!["simulate", "--seed", &seed, "--seeds", "1", "--script", &path];
    arguments.extend(["--json", "--tries", "0"]);
    if planted {
        arguments.extend(["--plant", plant]);
    }
    let output = lab(&arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A change of code makes every seed another run, so a script may say that one of several finds the bug.
fn is_caught_and_clean_without(plant: &str) {
    let script = script(plant);
    let breaks = script.breaks.expect("a pinned script names what its bug breaks");
    assert_eq!(script.plant.as_deref(), Some(plant));
    let first = script.seed.expect("a pinned script has a seed");
    let mut told = Vec::new();
    for seed in first..first + script.seeds.unwrap_or(1) {
        let clean = run(plant, seed, false);
        assert!(clean.violations.is_empty(), "without the bug, seed {seed}: {clean:#?}");
        let report = run(plant, seed, true);
        if broken(&report.violations).contains(&breaks) {
            let reached = report.coverage.get("planted_reached").copied().unwrap_or_default();
            assert!(reached > 0, "seed {seed} broke {breaks}, and nobody came by the bug");
            return;
        }
        told.push((seed, report.violations));
    }
    panic!("{plant} breaks {breaks} no more: {told:#?}");
}

macro_rules! pinned {
    ($($test:ident $plant:literal,)*) => {
        /// The bugs that have a script.
        const PINNED: &[&str] = &[$($plant,)*];

        $(
            #[test]
            fn $test() {
                is_caught_and_clean_without($plant);
            }
        )*
    };
}

pinned! {
    ack_before_quorum "ack-before-quorum",
    ack_before_fsync "ack-before-fsync",
    ignored_fsync_error "ignored-fsync-error",
    resumed_leadership "resumed-leadership",
    stale_leader_read "stale-leader-read",
    skipped_apply "skipped-apply",
    vote_not_fsynced "vote-not-fsynced",
    no_crc "no-crc",
    truncation_at_bit_rot "truncation-at-bit-rot",
    snapshot_past_the_trim_point "snapshot-past-the-trim-point",
    purge_too_far "purge-too-far",
    state_ahead_of_the_log "state-ahead-of-the-log",
    unproven_tail_reported_as_durable "unproven-tail-reported-as-durable",
    one_record_lost_at_a_segments_border "one-record-lost-at-a-segments-border",
    iterator_off_by_one "iterator-off-by-one",
    empty_folder_that_votes "empty-folder-that-votes",
    no_dedupe "no-dedupe",
    window_not_handed_to_children "window-not-handed-to-children",
    split_without_seal "split-without-seal",
}

/// Bugs that another test than their script's catches: its file in `tests`, and its name.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("disks-lie", "simulation.rs", "disks_that_lie_are_found_out"),
    ("newest-vote-lost-with-its-segment", "planted_log.rs", "newest_vote_lost_with_its_segment"),
];

#[test]
fn every_script_is_run_and_every_bug_is_caught() {
    let name = |entry: fs::DirEntry| {
        entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned())
    };
    let there: BTreeSet<String> =
        fs::read_dir(folder()).unwrap().filter_map(|entry| name(entry.unwrap())).collect();
    let run: BTreeSet<String> = PINNED.iter().map(|plant| (*plant).to_owned()).collect();
    assert_eq!(there, run);
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (plant, file, test) in ELSEWHERE {
        let text = fs::read_to_string(tests.join(file)).unwrap();
        assert!(text.contains(&format!("fn {test}(")), "{plant}: {file} has no test {test}");
    }
    let elsewhere = ELSEWHERE.iter().map(|(plant, ..)| (*plant).to_owned());
    let caught: BTreeSet<String> = run.into_iter().chain(elsewhere).collect();
    let all: BTreeSet<String> = Plant::all().map(|plant| plant.to_string()).collect();
    assert_eq!(caught, all);
}

#[test]
fn the_lab_has_the_scripts_as_they_stand_in_the_folder() {
    let embedded: BTreeSet<&str> = pinned::PLANTED.iter().map(|(plant, _)| *plant).collect();
    assert_eq!(embedded, PINNED.iter().copied().collect());
    for (plant, text) in pinned::PLANTED {
        assert_eq!(text, fs::read_to_string(path(plant)).unwrap(), "{plant}");
    }
    let has_none = |plant: &Plant| pinned::script(&plant.to_string()).unwrap().is_none();
    let without: Vec<String> =
        Plant::all().filter(has_none).map(|plant| plant.to_string()).collect();
    assert_eq!(without, ["newest-vote-lost-with-its-segment"]);
}

/// What a reader of the documentation tries first.
#[test]
fn a_bug_that_is_named_and_nothing_else_is_found() {
    for plant in ["ack-before-fsync", "disks-lie"] {
        let output = lab(&["simulate", "--plant", plant]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{plant}: {text}");
        for words in ["its pinned script", "acked_records_survive", " --pinned", "\nfound"] {
            assert!(text.contains(words), "{plant}: no {words:?} in {text}");
        }
    }
}

/// The names of the bugs, what they do, and parts of their code are in a program that has them.
#[test]
fn the_product_has_none_of_the_bugs() {
    let mut words: BTreeSet<String> = ["planted5table", "early_reply"].map(str::to_owned).into();
    for plant in Plant::all().filter(|plant| *plant != Plant::DisksLie) {
        words.extend([plant.to_string(), plant.about().to_owned()]);
    }
    let lab = found_in(Path::new(env!("CARGO_BIN_EXE_tristream-lab")), &words);
    assert_eq!(lab, words, "the lab lacks some: this test could not fail");
    let product = found_in(&binary::tristream().unwrap(), &words);
    assert!(product.is_empty(), "tristream has {product:?}");
}

/// Which of the words are in a file. By `grep`, for programs are a hundred megabytes, and this one is not optimised.
fn found_in(file: &Path, words: &BTreeSet<String>) -> BTreeSet<String> {
    let patterns = words.iter().flat_map(|word| ["-e", word]);
    let output = Command::new("grep")
        .args(["--text", "--only-matching", "--fixed-strings"])
        .args(patterns)
        .arg(file)
        .output()
        .expect("grep starts");
    assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// What could put them in: a build script, a feature, or a dependency of the product's.
#[test]
fn nothing_that_the_product_is_made_of_can_plant_a_bug() {
    let root = binary::workspace_root();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--package", "tristream-node", "--edges", "normal,build"])
        .args(["--prefix", "none"])
        .current_dir(&root)
        .output()
        .expect("cargo tells what the node is made of");
    let tree = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.contains("tonic"), "{tree}");
    assert!(!tree.contains("tristream-planted"), "{tree}");
    assert!(!root.join("node/build.rs").exists(), "the node's build script could set the cfg");
    let manifest = fs::read_to_string(root.join("node/Cargo.toml")).unwrap();
    assert!(!manifest.contains("planted"));
}
