//! Recordings written by hand: an honest one, one liar per promise, and what cannot be judged.

use serde_json::{Value, json};

use super::*;

/// Files of lines in few words; times rise by 10 ms from line to line, over all files.
struct Files {
    dir: tempfile::TempDir,
    now: u64,
    paths: Vec<PathBuf>,
}

impl Files {
    fn new() -> Files {
        Files { dir: tempfile::tempdir().unwrap(), now: 1_000_000, paths: Vec::new() }
    }

    /// Adds lines to a file.
    fn write(&mut self, file: &str, lines: &[Value]) -> &mut Files {
        let path = self.dir.path().join(file);
        let mut text = std::fs::read_to_string(&path).unwrap_or_default();
        for line in lines {
            let mut line = line.clone();
            self.now += 10;
            line["at_ms"] = line.get("at_ms").cloned().unwrap_or(json!(self.now));
            text += &format!("{line}\n");
        }
        std::fs::write(&path, text).unwrap();
        if !self.paths.contains(&path) {
            self.paths.push(path);
        }
        self
    }

    fn try_judge(&self, all_puts: bool) -> anyhow::Result<Judgement> {
        judge(&self.paths, &Settings { all_puts, ..Settings::default() })
    }

    fn judge(&self) -> Judgement {
        self.try_judge(true).unwrap()
    }

    /// Exactly this promise is broken; gives its first story.
    #[track_caller]
    fn only_broken(&self, promise: &str) -> Story {
        let judged = self.judge();
        let broken: Vec<&Case> =
            judged.promises.iter().filter(|case| case.ruling == Ruling::Broken).collect();
        let names: Vec<&str> = broken.iter().map(|case| case.promise).collect();
        assert_eq!(names, [promise], "{judged:#?}");
        assert!(!judged.is_clean());
        broken[0].stories[0].clone()
    }
}

fn ruling<'a>(judged: &'a Judgement, promise: &str) -> (Ruling, &'a str) {
    let case = judged.promises.iter().find(|case| case.promise == promise).unwrap();
    (case.ruling, case.note.as_deref().unwrap_or_default())
}

fn begin(by: &str) -> Value {
    json!({"by": by, "event": "begin", "format": 1, "stream": "orders"})
}

fn invoke(record: u64, key: &str, data: &str) -> Value {
    json!({"by": "p", "event": "invoke", "record": record, "key": key, "data": data})
}

fn ok_in(record: u64, shard: &str, number: u64) -> Value {
    let number = number.to_string();
    json!({"by": "p", "event": "ok", "record": record, "shard": shard, "sequence_number": number})
}

fn ok(record: u64, number: u64) -> Value {
    ok_in(record, "s0", number)
}

fn unknown(record: u64) -> Value {
    json!({"by": "p", "event": "unknown", "record": record, "why": "cut"})
}

fn refused(record: u64) -> Value {
    json!({"by": "p", "event": "refused", "record": record, "why": "full"})
}

fn reading(by: &str) -> Value {
    json!({"by": by, "event": "reading", "from_oldest": true})
}

fn saw(by: &str, number: u64, key: &str, data: &str) -> Value {
    saw_in(by, "s0", number, key, data)
}

fn saw_in(by: &str, shard: &str, number: u64, key: &str, data: &str) -> Value {
    let number = number.to_string();
    json!({"by": by, "event": "observed", "shard": shard, "sequence_number": number, "key": key, "data": data})
}

fn all(by: &str) -> Value {
    json!({"by": by, "event": "observed_all", "shard": "s0"})
}

fn one_shard(by: &str) -> Value {
    let shard = json!({"shard": "s0", "range": ["0", u128::MAX.to_string()], "open": true});
    json!({"by": by, "event": "shards", "shards": [shard]})
}

/// A put of two records, the second with a doubt, and a whole reading.
fn honest() -> Files {
    let mut files = Files::new();
    files.write(
        "h",
        &[
            begin("p"),
            one_shard("p"),
            invoke(1, "k", "a"),
            ok(1, 1),
            invoke(2, "k", "b"),
            unknown(2),
            begin("t"),
            one_shard("t"),
            reading("t"),
            saw("t", 1, "k", "a"),
            saw("t", 2, "k", "b"),
            all("t"),
        ],
    );
    files
}

/// The same beginning, and a reading of these places.
fn read(puts: &[Value], places: &[(u64, &str, &str)]) -> Files {
    let mut files = Files::new();
    files.write("h", &[begin("p"), one_shard("p")]).write("h", puts);
    files.write("h", &[begin("t"), reading("t")]);
    for (number, key, data) in places {
        files.write("h", &[saw("t", *number, key, data)]);
    }
    files.write("h", &[all("t")]);
    files
}

#[test]
fn an_honest_recording_holds_every_promise() {
    let judged = honest().judge();
    for case in &judged.promises {
        assert_eq!(case.ruling, Ruling::Held, "{case:?}");
        assert!(case.checked > 0, "{case:?}");
    }
    assert_eq!((judged.sent, judged.acked, judged.unknown, judged.foreign), (2, 1, 1, 0));
}

#[test]
fn a_lost_record_is_told_by_who_sent_it_and_who_missed_it() {
    let files =
        read(&[invoke(1, "k", "a"), ok(1, 1), invoke(2, "k", "b"), ok(2, 2)], &[(2, "k", "b")]);
    let story = files.only_broken("acked_records_survive");
    assert!(story.what.contains("t has no s0/1"), "{story:?}");
    let told = story.lines.join("\n");
    for part in [
        "h:3  p sends record 1: key \"k\" \"a\"",
        "h:4  p record 1 is acked at s0/1",
        "h:8  t begins to read",
        "t has read all of s0",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("record 2"), "the smallest story: {told}");
}

#[test]
fn a_gap_in_a_reading_that_went_on_is_a_loss_too() {
    let mut files = Files::new();
    files.write("h", &[begin("p"), one_shard("p"), invoke(1, "k", "a"), begin("t"), reading("t")]);
    files.write("h", &[ok(1, 2), invoke(2, "k", "b"), ok(2, 3), saw("t", 1, "j", "x")]);
    files.write("h", &[saw("t", 3, "k", "b")]);
    let judged = files.try_judge(false).unwrap();
    assert_eq!(ruling(&judged, "acked_records_survive").0, Ruling::Broken, "{judged:#?}");
}

#[test]
fn a_changed_record_is_a_loss() {
    for seen in [(1, "k", "x"), (1, "j", "a")] {
        let files = read(&[invoke(1, "k", "a"), ok(1, 1)], &[seen]);
        let judged = files.judge();
        assert_eq!(ruling(&judged, "acked_records_survive").0, Ruling::Broken, "{seen:?}");
        // Nobody needs to say that nobody else put: the place was acked.
        assert!(!files.try_judge(false).unwrap().is_clean(), "{seen:?}");
    }
}

#[test]
fn a_record_that_is_there_twice_is_noticed() {
    let puts = [invoke(1, "k", "a"), ok(1, 2)];
    let files = read(&puts, &[(1, "k", "a"), (2, "k", "a")]);
    let story = files.only_broken("nothing_stored_twice");
    assert!(story.what.contains("1 calls may have stored it"), "{story:?}");
    // Unless somebody else may have put the same.
    let judged = files.try_judge(false).unwrap();
    let (ruled, why) = ruling(&judged, "nothing_stored_twice");
    assert_eq!(ruled, Ruling::NotApplicable);
    assert!(why.contains("--all-puts"), "{why}");
}

#[test]
fn a_refused_record_that_is_there_is_noticed() {
    let files = read(&[invoke(1, "k", "a"), refused(1)], &[(1, "k", "a")]);
    files.only_broken("nothing_stored_twice");
}

#[test]
fn an_invented_record_is_noticed_where_all_puts_are_known() {
    let files = read(&[invoke(1, "k", "a"), ok(1, 1)], &[(1, "k", "a"), (2, "k", "x")]);
    let story = files.only_broken("no_phantom_records");
    assert!(story.lines.iter().any(|line| line.contains("t reads s0/2")), "{story:?}");
    let judged = files.try_judge(false).unwrap();
    assert!(judged.is_clean());
    assert_eq!(
        (ruling(&judged, "no_phantom_records").0, judged.foreign),
        (Ruling::NotApplicable, 1)
    );
}

#[test]
fn a_place_acked_for_two_records_is_noticed_always() {
    let mut files = read(&[invoke(1, "k", "a"), ok(1, 1), invoke(2, "k", "b"), ok(2, 1)], &[]);
    files.paths.truncate(1);
    let judged = files.try_judge(false).unwrap();
    assert_eq!(ruling(&judged, "no_phantom_records").0, Ruling::Broken, "{judged:#?}");
}

#[test]
fn an_overtaken_record_is_noticed() {
    let puts = [invoke(1, "k", "a"), ok(1, 2), invoke(2, "j", "b"), ok(2, 1)];
    let files = read(&puts, &[(1, "j", "b"), (2, "k", "a")]);
    let story = files.only_broken("order_within_shard");
    assert!(story.lines.iter().any(|line| line.contains("record 1 is acked at s0/2")), "{story:?}");
    let puts = [invoke(1, "k", "a"), ok(1, 2), invoke(2, "k", "b"), unknown(2)];
    let files = read(&puts, &[(1, "k", "b"), (2, "k", "a")]);
    files.only_broken("order_per_key");
}

#[test]
fn readers_that_differ_are_noticed() {
    let mut files = honest();
    files.write("h", &[begin("u"), reading("u"), saw("u", 1, "k", "a"), saw("u", 3, "k", "b")]);
    let judged = files.judge();
    assert_eq!(ruling(&judged, "order_within_shard").0, Ruling::Broken, "{judged:#?}");
}

#[test]
fn readers_that_went_to_different_places_agree() {
    let mut files = honest();
    files.write("h", &[begin("u"), reading("u"), saw("u", 1, "k", "a")]);
    files.write("h", &[invoke(3, "k", "c"), ok(3, 3)]);
    files.write("h", &[begin("v"), reading("v"), saw("v", 1, "k", "a"), saw("v", 2, "k", "b")]);
    files.write("h", &[saw("v", 3, "k", "c"), all("v")]);
    assert!(files.judge().is_clean(), "{:#?}", files.judge());
}

#[test]
fn ranges_with_a_hole_and_records_elsewhere_are_noticed() {
    let hole = json!({"by": "p", "event": "shards", "shards": [
        {"shard": "s0", "range": ["0", (u128::MAX - 1).to_string()], "open": true}]});
    let mut files = Files::new();
    files.write("h", &[begin("p"), hole, invoke(1, "k", "a"), ok(1, 1)]);
    files.only_broken("ranges_tile");
    let half: u128 = 1 << 127;
    // MD5("k") begins with 0x8c: it belongs to the upper half.
    let halves = json!({"by": "p", "event": "shards", "shards": [
        {"shard": "s0", "range": ["0", (half - 1).to_string()], "open": true},
        {"shard": "s1", "range": [half.to_string(), u128::MAX.to_string()], "open": true}]});
    let mut files = Files::new();
    files
        .write("h", &[begin("p"), halves, invoke(1, "k", "a"), ok(1, 1), begin("t"), reading("t")]);
    files.write("h", &[saw("t", 1, "k", "a"), all("t")]);
    files.only_broken("ranges_tile");
}

#[test]
fn equal_records_are_told_apart_by_their_places() {
    // Three times the same line: acked, of unknown outcome, and acked again.
    let puts = [
        invoke(1, "k", "a"),
        ok(1, 1),
        invoke(2, "k", "a"),
        unknown(2),
        invoke(3, "k", "a"),
        ok(3, 3),
    ];
    for places in
        [vec![(1, "k", "a"), (3, "k", "a")], vec![(1, "k", "a"), (2, "k", "a"), (3, "k", "a")]]
    {
        let files = read(&puts, &places);
        assert!(files.judge().is_clean(), "{places:?}: {:#?}", files.judge());
    }
    let lost = read(&puts, &[(1, "k", "a"), (2, "k", "a")]);
    lost.only_broken("acked_records_survive");
    let twice = read(&puts, &[(1, "k", "a"), (2, "k", "a"), (3, "k", "a"), (4, "k", "a")]);
    twice.only_broken("nothing_stored_twice");
}

#[test]
fn what_was_acked_after_the_reading_began_is_not_asked_of_it() {
    let mut files = honest();
    files.write("h", &[invoke(3, "k", "c"), ok(3, 9)]);
    let judged = files.judge();
    let (ruled, note) = ruling(&judged, "acked_records_survive");
    assert_eq!(ruled, Ruling::Held, "{judged:#?}");
    assert!(note.starts_with("1 acks came after"), "{note}");
}

#[test]
fn what_may_have_expired_is_not_asked_for() {
    let day = 24 * 3_600_000;
    for (later, expected) in [(day - 60_000, Ruling::Broken), (day + 60_000, Ruling::NotApplicable)]
    {
        let mut files = Files::new();
        files.write("h", &[begin("p"), one_shard("p"), invoke(1, "k", "a"), ok(1, 1)]);
        files.now += later;
        files.write("h", &[begin("t"), reading("t"), all("t")]);
        let judged = files.judge();
        assert_eq!(ruling(&judged, "acked_records_survive").0, expected, "{judged:#?}");
    }
}

#[test]
fn clocks_of_two_files_accuse_nobody_of_disorder() {
    // By their clocks a was acked at 2 before b of the same key set out, and b is at 1.
    let q = |line: Value| {
        let mut line = line;
        line["by"] = json!("q");
        line
    };
    let mut files = Files::new();
    files.write("one", &[begin("p"), one_shard("p"), invoke(1, "k", "a"), ok(1, 2)]);
    files.write("two", &[q(begin("q")), q(invoke(1, "k", "b")), q(ok(1, 1))]);
    files.write(
        "three",
        &[begin("t"), reading("t"), saw("t", 1, "k", "b"), saw("t", 2, "k", "a"), all("t")],
    );
    let judged = files.judge();
    assert!(judged.is_clean(), "{judged:#?}");
    assert_eq!(ruling(&judged, "acked_records_survive").0, Ruling::Held);
}

#[test]
fn what_a_recording_does_not_show_is_said_not_to_apply() {
    let mut files = Files::new();
    files.write("h", &[begin("p"), invoke(1, "k", "a"), ok(1, 1)]);
    let judged = files.judge();
    assert!(judged.is_clean());
    for (promise, why) in [
        ("acked_records_survive", "tail --from trim-horizon"),
        ("order_per_key", "no list of shards that has s0"),
        ("ranges_tile", "no list of shards"),
    ] {
        let (ruled, note) = ruling(&judged, promise);
        assert_eq!(ruled, Ruling::NotApplicable, "{promise}");
        assert!(note.contains(why), "{promise}: {note}");
    }
}

#[test]
fn what_is_no_recording_is_misuse_and_named_by_its_line() {
    let other = json!({"by": "p", "event": "begin", "format": 1, "stream": "bills"});
    let newer = json!({"by": "p", "event": "begin", "format": 2, "stream": "orders"});
    let whole = json!({"by": "t", "event": "reading", "from_oldest": false});
    for (lines, complaint) in [
        (vec![], "nothing is recorded"),
        (vec![invoke(1, "k", "a")], "h:1: p never began"),
        (vec![begin("p"), begin("p")], "h:2: p begins again"),
        (vec![begin("q"), other], "several streams"),
        (vec![newer], "format 2"),
        (vec![begin("p"), ok(1, 1)], "h:2"),
        (vec![begin("p"), invoke(1, "k", "a"), invoke(1, "k", "b")], "h:3"),
        (vec![begin("t"), saw("t", 1, "k", "a")], "h:2"),
        (vec![begin("t"), whole, all("t")], "h:3"),
        (vec![begin("p"), json!({"by": "p", "event": "explode"}), invoke(1, "k", "a")], "h:2"),
    ] {
        let mut files = Files::new();
        files.write("h", &lines);
        let error = format!("{:#}", files.try_judge(true).unwrap_err());
        assert!(error.contains(complaint), "{complaint}: {error}");
    }
}

#[test]
fn half_lines_of_killed_recorders_are_no_misuse() {
    let mut files = honest();
    let path = files.paths[0].clone();
    let torn = |path: &Path| {
        let mut text = std::fs::read_to_string(path).unwrap();
        text += "{\"at_ms\":17,\"by";
        std::fs::write(path, text).unwrap();
    };
    torn(&path);
    assert_eq!(files.judge().torn_lines, 1);
    let mut text = std::fs::read_to_string(&path).unwrap();
    text += "\n";
    std::fs::write(&path, text).unwrap();
    files.write("h", &[begin("u"), reading("u")]);
    assert_eq!(files.judge().torn_lines, 1);
}

#[test]
fn a_history_that_is_written_is_judged_the_same() {
    use crate::history::{Event as Seen, Position, SequenceNumber, ShardSeen, Stored};
    use tristream_client::domain::{HashKey, HashKeyRange};
    let at = |number: u64| Position {
        shard: "s0".to_owned(),
        number: SequenceNumber::parse(&number.to_string()).unwrap(),
    };
    let range = HashKeyRange { first: HashKey(0), last: HashKey(u128::MAX) };
    let shard = ShardSeen { shard: "s0".to_owned(), range, parents: vec![], open: true };
    let story = |lost: bool| {
        let mut history = History::new();
        history.push(Seen::Map(vec![shard.clone()]));
        let (a, b) = (history.intend(Some("k".into()), "a"), history.intend(Some("k".into()), "b"));
        for event in [
            Seen::Sent(a),
            Seen::Acked(a, at(1)),
            Seen::Sent(b),
            Seen::Unknown(b),
            Seen::SentAgain(b),
            Seen::Acked(b, at(2)),
        ] {
            history.push(event);
        }
        let stored = |number, data: &'static str| Stored {
            position: at(number),
            key: "k".into(),
            data: data.into(),
        };
        history.push(Seen::Read("az-a", stored(1, "a")));
        if !lost {
            history.push(Seen::Read("az-a", stored(2, "b")));
        }
        history.push(Seen::ReadAll("az-a", "s0".to_owned()));
        history
    };
    for lost in [false, true] {
        let history = story(lost);
        assert_eq!(crate::promises::demand(&history).is_ok(), !lost);
        let mut text = Vec::new();
        write(&history, "orders", 5_000, &mut text).unwrap();
        let mut files = Files::new();
        files.write("h", &[]);
        std::fs::write(&files.paths[0], text).unwrap();
        assert_eq!(files.judge().is_clean(), !lost, "{:#?}", files.judge());
    }
}

#[test]
fn faults_change_no_verdict_and_stand_in_the_stories() {
    use crate::history::{Event as Seen, Position, SequenceNumber};
    let mut history = History::new();
    let position = |number: u64| Position {
        shard: "s0".to_owned(),
        number: SequenceNumber::parse(&number.to_string()).unwrap(),
    };
    for number in 1..=4 {
        let id = history.intend(Some("k".into()), number.to_string());
        history.push(Seen::Sent(id));
        history.push(Seen::Acked(id, position(number)));
    }
    history.push(Seen::ReadAll("az-a", "s0".to_owned()));
    let deed = |after, what: &str| Deed { after, at: Duration::ZERO, what: what.to_owned() };
    let deeds: Vec<Deed> = (0..7).map(|number| deed(2, &format!("before {number}"))).collect();
    let after = (0..3).map(|number| deed(99, &format!("after {number}")));
    let deeds: Vec<Deed> = deeds.into_iter().chain(after).collect();
    let told = |deeds: &[Deed]| {
        let mut text = Vec::new();
        write_with_deeds(&history, deeds, "orders", 5_000, &mut text).unwrap();
        let mut files = Files::new();
        files.write("h", &[]);
        std::fs::write(&files.paths[0], text).unwrap();
        files.judge()
    };
    let (plain, with_deeds) = (told(&[]), told(&deeds));
    for (one, other) in plain.promises.iter().zip(&with_deeds.promises) {
        let facts = |case: &Case| (case.ruling, case.checked, case.broken, case.note.clone());
        assert_eq!(facts(one), facts(other), "{}", one.promise);
    }
    let case = with_deeds.promises.iter().find(|case| case.promise == "acked_records_survive");
    let lost = &case.unwrap().stories;
    let faults = |story: &Story| {
        let words = story.lines.iter().filter_map(|line| line.split_once("chaos fault: "));
        words.map(|(_, what)| what.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(faults(&lost[0]), ["before 0", "before 1"], "the next ones after the first put");
    let last = ["before 3", "before 4", "before 5", "before 6", "after 0", "after 1"];
    assert_eq!(faults(lost.last().unwrap()), last);
    let lines = &lost.last().unwrap().lines;
    assert!(lines[0].contains("before 3") && lines[4].contains("clients sends"), "{lines:#?}");
}
