//! A disk that makes trouble at any one call: whoever was told `Ok` finds it again, and what was
//! refused or left open happened whole or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use super::segment::ALIGN_BYTES;
use super::*;
use crate::disk::Call;

/// One write of a day.
#[derive(Clone, Debug)]
enum Deed {
    Append(u64, Vec<Entry>),
    Vote(u64, Bytes),
    Checkpoint(u64, EntryId),
    Purge(u64, EntryId),
    Truncate(u64, u64),
    Remove(u64),
}

/// What the log must say of one group.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    purged: Option<EntryId>,
    entries: Vec<Entry>,
    vote: Option<Bytes>,
    /// Those whose state may be told; which of them is, depends on the crash.
    checkpoints: Vec<EntryId>,
}

type World = BTreeMap<u64, Known>;

fn state_of(applied: EntryId) -> Bytes {
    format!("state at {applied:?}").into_bytes().into()
}

impl Deed {
    async fn act(self, log: &Log) -> io::Result<()> {
        let group = |id: u64| log.group(GroupId(id));
        match self {
            Deed::Append(id, entries) => append(&group(id), entries).await,
            Deed::Vote(id, vote) => within(group(id).save_vote(vote)).await,
            Deed::Checkpoint(id, at) => within(group(id).checkpoint(at, state_of(at))).await,
            Deed::Purge(id, upto) => within(group(id).purge(upto)).await,
            Deed::Truncate(id, last) => within(group(id).truncate_after(Some(last))).await,
            Deed::Remove(id) => within(log.remove(GroupId(id))).await,
        }
    }

    fn note(&self, world: &mut World) {
        let (Deed::Append(id, _)
        | Deed::Vote(id, _)
        | Deed::Checkpoint(id, _)
        | Deed::Purge(id, _)
        | Deed::Truncate(id, _)
        | Deed::Remove(id)) = self;
        let known = world.entry(*id).or_default();
        match self {
            Deed::Append(_, entries) => known.entries.extend(entries.clone()),
            Deed::Vote(_, vote) => known.vote = Some(vote.clone()),
            Deed::Checkpoint(_, at) => known.checkpoints.push(*at),
            Deed::Purge(_, upto) => {
                known.purged = Some(*upto);
                known.entries.retain(|entry| entry.id.index > upto.index);
                known.checkpoints.retain(|kept| kept.index >= upto.index);
            }
            Deed::Truncate(_, last) => {
                known.entries.retain(|entry| entry.id.index <= *last);
                known.checkpoints.retain(|kept| kept.index <= *last);
            }
            Deed::Remove(id) => {
                world.remove(id);
            }
        }
    }
}

fn large(term: u64, index: u64) -> Entry {
    Entry { payload: vec![(term + index) as u8; 1000].into(), ..entry(term, index) }
}

/// Several segments' worth of everything that a log is asked for. Group 1 stays, 2 is purged, 3 goes,
/// 4 is idle after its first entries.
fn day() -> Vec<Deed> {
    let mut day = vec![
        Deed::Append(4, entries(1, 0..3)),
        Deed::Vote(4, Bytes::from_static(b"idle")),
        Deed::Checkpoint(4, id(1, 1)),
        Deed::Append(3, vec![large(1, 0)]),
    ];
    for round in 0..10 {
        day.push(Deed::Append(1, vec![entry(1, 2 * round), large(1, 2 * round + 1)]));
        day.push(Deed::Append(2, (3 * round..3 * round + 3).map(|at| large(1, at)).collect()));
        if round % 3 == 1 {
            day.push(Deed::Vote(1, format!("vote {round}").into_bytes().into()));
            day.push(Deed::Checkpoint(1, id(1, 2 * round)));
        }
        if round % 4 == 3 {
            day.push(Deed::Checkpoint(2, id(1, 3 * round)));
            day.push(Deed::Purge(2, id(1, 3 * round)));
        }
        if round == 6 {
            day.push(Deed::Remove(3));
        }
    }
    day.push(Deed::Truncate(1, 15));
    day.push(Deed::Append(1, vec![large(2, 16), entry(2, 17)]));
    day.push(Deed::Vote(2, Bytes::from_static(b"the last")));
    day
}

fn bench() -> Bench {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 8 * ALIGN_BYTES;
    bench.config.tail_bytes = 0;
    bench
}

/// What a day left: as far as it was acked, and with the write that was left open.
struct Left {
    acked: World,
    open: World,
    /// Nothing was refused.
    whole: bool,
}

/// Does the deeds until one fails.
async fn work(log: &Log, deeds: Vec<Deed>) -> Left {
    let mut acked = World::new();
    for deed in deeds {
        let mut open = acked.clone();
        deed.note(&mut open);
        if deed.act(log).await.is_err() {
            return Left { acked, open, whole: false };
        }
        acked = open;
        // The sealer and the keeper have a turn.
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }
    Left { open: acked.clone(), acked, whole: true }
}

/// After a write that failed nothing is taken in, however well the disk is by now: what would follow
/// it could not be told from what followed nothing.
async fn refuses(log: &Log, what: &str) {
    for id in [1, 2, 9] {
        let group = log.group(GroupId(id));
        let next = group.state().last.map_or(0, |last| last.index + 1);
        let went_on = append(&group, entries(5, next..next + 1)).await;
        assert!(went_on.is_err(), "{what}: group {id} goes on at {next}");
    }
}

/// All that the log says, read from the disk.
async fn found(log: &Log) -> io::Result<World> {
    let mut world = World::new();
    for id in log.groups() {
        let group = log.group(id);
        let state = group.state();
        let first = state.purged.map_or(0, |purged| purged.index + 1);
        let mut entries = Vec::new();
        let mut next = first;
        while state.last.is_some_and(|last| next <= last.index) {
            let more = group.read(next..u64::MAX, 8 << 10).await?;
            assert!(!more.is_empty(), "group {id}: nothing at {next}");
            next += more.len() as u64;
            entries.extend(more);
        }
        let checkpoints = group.checkpoints();
        for at in &checkpoints {
            assert_eq!(group.read_checkpoint(*at).await?, Some(state_of(*at)), "group {id}");
        }
        let (purged, vote) = (state.purged, state.vote);
        world.insert(id.0, Known { purged, entries, vote, checkpoints });
    }
    Ok(world)
}

/// A checkpoint is awaited by nobody: of those that were kept, some are told, and after a purge up to
/// one this one.
fn agrees(found: &World, expected: &World) -> bool {
    let same = |(found, expected): (&Known, &Known)| {
        let told = found.checkpoints.iter().all(|at| expected.checkpoints.contains(at));
        let at_purge = |known: &Known| known.checkpoints.iter().any(|at| Some(*at) == known.purged);
        told && at_purge(found) == at_purge(expected)
            && (&found.purged, &found.entries, &found.vote)
                == (&expected.purged, &expected.entries, &expected.vote)
    };
    found.keys().eq(expected.keys()) && found.values().zip(expected.values()).all(same)
}

/// The process dies, or the power fails too; then all is there, and goes on being there.
async fn judge(mut bench: Bench, left: &Left, seed: u64, what: &str) {
    match seed % 2 {
        0 => bench.kill().await,
        _ => bench.lose_power(seed).await,
    }
    let log = bench.try_open().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let there = found(&log).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let matches = agrees(&there, &left.acked) || agrees(&there, &left.open);
    assert!(matches, "{what}: {there:?}\nacked {:?}\nopen {:?}", left.acked, left.open);
    append(&log.group(GroupId(9)), entries(1, 0..2)).await.unwrap();
    let there = found(&log).await.unwrap();
    drop(log);
    bench.lose_power(seed + 1).await;
    let log = bench.try_open().await.unwrap_or_else(|error| panic!("{what}, later: {error}"));
    let again = found(&log).await.unwrap();
    assert!(agrees(&again, &there), "{what}, later: {again:?}\nnot {there:?}");
    bench.stop().await;
}

/// Opens and works; the call of this kind after `turn` others fails. `false`: it was not met.
async fn trouble_in_a_day(turn: u64, call: Call) -> bool {
    let mut bench = bench();
    let disk = bench.simulated.clone().unwrap();
    disk.fail_after(call, turn);
    let left = match bench.try_open().await {
        Ok(log) => {
            let left = work(&log, day()).await;
            if !left.whole {
                refuses(&log, &format!("{call:?} {turn} failed")).await;
            }
            sealed_or_stopped(&log).await;
            left
        }
        Err(_) => Left { acked: World::new(), open: World::new(), whole: false },
    };
    let met = !disk.is_failure_due();
    assert!(met || left.whole, "{call:?} {turn}: nothing failed, and something was refused");
    judge(bench, &left, turn, &format!("{call:?} {turn} fails")).await;
    met
}

/// The background work comes to rest, also after trouble.
async fn sealed_or_stopped(log: &Log) {
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let state = log.shared.state.lock();
        let mut full = state.segments.iter().filter(|(_, known)| known.stage == Stage::Full);
        if state.stop.is_some() || !full.any(|(sequence, _)| state.has_successor(*sequence)) {
            return;
        }
    }
    panic!("a segment never gets its footer");
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_fails_once_and_then_lies_loses_nothing_whichever_it_is() {
    for call in [Call::Sync, Call::DirSync] {
        let mut turn = 0;
        while trouble_in_a_day(turn, call).await {
            turn += 1;
        }
        assert!(turn > 15, "{turn} calls of {call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_while_the_log_works_loses_nothing_whichever_it_is() {
    let mut turn = 0;
    while trouble_in_a_day(turn, Call::Read).await {
        turn += 1;
    }
    assert!(turn > 15, "{turn} reads");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_from_any_call_on_loses_nothing() {
    let (mut turn, mut refused, mut went_on) = (0, 0, 0);
    loop {
        let mut bench = bench();
        let disk = bench.simulated.clone().unwrap();
        disk.fill_after(turn);
        let left = match bench.try_open().await {
            Ok(log) => {
                let left = work(&log, day()).await;
                disk.set_capacity(1 << 30);
                if !left.whole {
                    refuses(&log, &format!("full from call {turn} on")).await;
                }
                left
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "call {turn}: {error}");
                Left { acked: World::new(), open: World::new(), whole: false }
            }
        };
        let calls = disk.space_calls();
        disk.set_capacity(1 << 30);
        (refused, went_on) = (refused + u32::from(!left.whole), went_on + u32::from(left.whole));
        judge(bench, &left, turn, &format!("full from call {turn} on")).await;
        turn += 1;
        if turn > calls {
            break;
        }
    }
    assert!(refused > 20 && went_on > 0, "{refused} refused, {went_on} went on");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_while_the_log_opens_is_an_error_or_nothing_and_changes_nothing() {
    let mut bench = bench();
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    let left = work(&log, day()).await;
    assert!(left.whole);
    sealed(&log).await;
    drop(log);
    bench.kill().await;
    let (mut turn, mut refused) = (0, 0);
    loop {
        let names = bench.segments();
        let disk = bench.simulated.clone().unwrap();
        disk.fail_after(Call::Read, turn);
        match bench.try_open().await {
            Err(error) => {
                assert_ne!(error.kind(), io::ErrorKind::InvalidData, "read {turn}: {error}");
                assert!(!disk.is_failure_due(), "read {turn}: {error}");
                assert_eq!(bench.segments(), names);
                refused += 1;
            }
            Ok(log) if disk.is_failure_due() => {
                disk.fail_after(Call::Read, u64::MAX);
                assert!(agrees(&found(&log).await.unwrap(), &left.acked));
                break;
            }
            Ok(log) => {
                // What was met by the opening may be known as faulty: told, and not wrong.
                if let Ok(there) = found(&log).await {
                    assert!(agrees(&there, &left.acked), "read {turn}: {there:?}");
                }
            }
        }
        bench.lose_power(turn).await;
        let log = bench.open().await;
        let there = found(&log).await.unwrap();
        assert!(agrees(&there, &left.acked), "after read {turn}: {there:?}");
        drop(log);
        bench.kill().await;
        turn += 1;
    }
    assert!(refused > 5, "{refused} of {turn} reads");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_later_is_an_error_and_never_other_records() {
    let mut bench = bench();
    bench.config.rewrite_bytes_per_second = 0;
    let log = bench.open().await;
    let left = work(&log, day()).await;
    sealed(&log).await;
    let (mut turn, mut failed) = (0, 0);
    loop {
        let disk = bench.simulated.clone().unwrap();
        disk.fail_after(Call::Read, turn);
        let log = bench.log.clone().unwrap();
        match found(&log).await {
            Ok(there) => assert!(agrees(&there, &left.acked), "read {turn}: {there:?}"),
            Err(error) => {
                failed += 1;
                // What could not be read is told, so that it can be had from a peer.
                let faulty = Faulty::of(&error).map(|faulty| (faulty.group, faulty.index));
                assert!(
                    faulty.is_none_or(|faulty| log.faulty() == [faulty]),
                    "read {turn}: {error}"
                );
            }
        }
        if disk.is_failure_due() {
            break;
        }
        let log = bench.reopen().await;
        assert!(agrees(&found(&log).await.unwrap(), &left.acked), "after read {turn}");
        turn += 1;
    }
    assert!(turn > 20 && failed > 0, "{turn} reads, {failed} seen");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_stalls_for_five_seconds_makes_writes_wait_and_nothing_else() {
    const STALL: Duration = Duration::from_secs(5);
    for (turn, is_killed) in (0..40).map(|at| (at * 2, at % 4 == 3)) {
        let mut bench = bench();
        let log = bench.open().await;
        let disk = bench.simulated.clone().unwrap();
        let mut deeds = day();
        let later = deeds.split_off((turn as usize).min(deeds.len() - 2));
        let mut left = work(&log, deeds).await;
        assert!(left.whole);
        disk.stall(STALL);
        let began = tokio::time::Instant::now();
        let mut later = later.into_iter();
        let waits = later.next().unwrap();
        waits.note(&mut left.open);
        let is_awaited = !matches!(waits, Deed::Checkpoint(..));
        if is_killed {
            // Nobody was told while it stood still.
            let act = tokio::time::timeout(STALL / 2, waits.act(&log)).await;
            assert_eq!(act.is_err(), is_awaited, "turn {turn}");
            drop(log);
            judge(bench, &left, turn, &format!("killed while the disk stalls, {turn}")).await;
            continue;
        }
        waits.act(&log).await.unwrap();
        assert!(!is_awaited || began.elapsed() >= STALL, "turn {turn}");
        left.acked = left.open.clone();
        for deed in later {
            deed.note(&mut left.acked);
            deed.act(&log).await.unwrap();
        }
        left.open = left.acked.clone();
        assert!(agrees(&found(&log).await.unwrap(), &left.acked));
        drop(log);
        judge(bench, &left, turn, &format!("stalled at {turn}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn stamps_of_a_clock_that_jumps_cost_no_entry_and_no_order() {
    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
    let mut bench = bench();
    let log = bench.open().await;
    let group = log.group(GroupId(1));
    // Forward by a year and back, to before everything, and to the end of time.
    let stamp = |index: u64| match index % 40 {
        0..10 => YEAR_MS + index,
        10..20 => 2 * YEAR_MS + index,
        20..30 => 5 + index,
        30..35 => u64::MAX - index,
        _ => YEAR_MS,
    };
    let all: Vec<Entry> =
        (0..120).map(|index| Entry { stamp_ms: stamp(index), ..large(1, index) }).collect();
    for entry in &all {
        append(&group, vec![entry.clone()]).await.unwrap();
    }
    sealed(&log).await;
    let mut log = log;
    for round in 0..3 {
        let group = log.group(GroupId(1));
        assert_eq!(read_all(&group).await, all, "round {round}");
        for wanted in [0, 1, 30, YEAR_MS, YEAR_MS + 50, 3 * YEAR_MS, u64::MAX - 1, u64::MAX] {
            let index = group.find_stamp(wanted).await.unwrap();
            assert!(index.is_none_or(|index| index < 120), "{wanted}: {index:?}");
            let newest = all.iter().map(|entry| entry.stamp_ms).max().unwrap();
            assert_eq!(index.is_none(), wanted > newest, "{wanted}: {index:?}");
        }
        drop((log, group));
        bench.lose_power(round).await;
        log = bench.open().await;
    }
    bench.stop().await;
}
