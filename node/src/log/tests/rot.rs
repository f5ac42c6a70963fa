//! One flipped bit, in whatever frame, header or footer: it is refused, told as one faulty entry, or
//! made good, and nothing else is ever read.

use std::collections::{BTreeMap, BTreeSet};

use super::frame::{HEAD_BYTES, Head, What};
use super::scan::{Next, Scanner};
use super::segment::footer::Trailer;
use super::segment::{ALIGN_BYTES, Header};
use super::*;
use crate::disk::Lasting;

const STAYS: GroupId = GroupId(1);
const PURGED: GroupId = GroupId(2);
const REMOVED: GroupId = GroupId(3);
/// It has a vote, and nothing after that.
const IDLE: GroupId = GroupId(5);

/// A frame on the disk.
struct Lies {
    name: String,
    offset: u64,
    head: Head,
    /// In the segment that has no footer.
    newest: bool,
    /// Nothing proves that it was durable.
    unproven: bool,
}

/// The files of a log that holds every kind of frame, in sealed segments and in the newest.
struct Museum {
    files: BTreeMap<String, Vec<u8>>,
    frames: Vec<Lies>,
    /// What `STAYS` must say.
    state: GroupState,
    entries: Vec<Entry>,
    purged: GroupState,
    checkpoints: Vec<EntryId>,
}

fn large(term: u64, index: u64) -> Entry {
    Entry { payload: vec![(term + index) as u8; 1000].into(), ..entry(term, index) }
}

fn small_segments() -> Bench {
    let mut bench = Bench::simulated();
    bench.config.segment_bytes = 24 * ALIGN_BYTES;
    bench.config.tail_bytes = 0;
    bench.config.rewrite_bytes_per_second = 0;
    bench
}

/// One of each kind of frame; `round` tells them apart.
async fn one_of_each(log: &Log, round: u64, removed: GroupId) {
    let (stays, goes) = (log.group(STAYS), log.group(removed));
    let next = stays.state().last.map_or(0, |last| last.index + 1);
    append(&stays, entries(round, next..next + 4)).await.unwrap();
    stays.save_vote(format!("vote {round}").into_bytes().into()).await.unwrap();
    stays.checkpoint(id(round, next), Bytes::from(format!("state {round}"))).await.unwrap();
    stays.save_committed(Some(id(round, next + 1)));
    append(&goes, vec![large(1, 0)]).await.unwrap();
    stays.truncate_after(Some(next + 2)).await.unwrap();
    log.remove(removed).await.unwrap();
}

/// Has the entry's payload rot where it lies, and puts it right.
async fn repair(bench: &Bench, log: &Log, entry: Entry) {
    let (index, group) = (entry.id.index, log.group(STAYS));
    let place = faults::place_of(log, STAYS, index).await;
    let path = bench.path(&segment::name(place.segment));
    let at = place.offset + payload_at(bench, place).await;
    bench.simulated.as_ref().unwrap().flip_bit(&path, at, 2).unwrap();
    assert!(group.read(index..index + 1, 1).await.is_err());
    group.repair(entry).await.unwrap();
}

/// Where a frame's payload begins, from its head on.
pub(super) async fn payload_at(bench: &Bench, place: group::Place) -> u64 {
    let file = bench.disk.open(&bench.path(&segment::name(place.segment)), Open::Existing).unwrap();
    let bytes = file.read_at(place.offset + 48, 4).await.unwrap();
    u32::from_le_bytes(bytes[..].try_into().unwrap()).into()
}

/// Gives whole segments up, so that the log says which may be missing.
async fn give_up_some(log: &Log) {
    let group = log.group(PURGED);
    for index in 0..60 {
        append(&group, vec![large(1, index)]).await.unwrap();
    }
    sealed(log).await;
    let before = log.shared.state.lock().retired.clone().map(|kept| kept.value);
    group.purge(id(1, 59)).await.unwrap();
    until(|| {
        let state = log.shared.state.lock();
        state
            .retired
            .as_ref()
            .is_some_and(|kept| Some(&kept.value) != before.as_ref() && kept.place.is_some())
    })
    .await;
}

async fn museum() -> Museum {
    let mut bench = small_segments();
    let log = bench.open().await;
    log.group(IDLE).save_vote(Bytes::from_static(b"idle")).await.unwrap();
    one_of_each(&log, 1, REMOVED).await;
    repair(&bench, &log, entry(1, 1)).await;
    give_up_some(&log).await;
    for index in 60..70 {
        append(&log.group(PURGED), vec![large(1, index)]).await.unwrap();
    }
    let newest = bench.segments().pop();
    log.shared.state.lock().seal = true;
    log.shared.work.notify_one();
    until(|| bench.segments().pop() > newest).await;
    sealed(&log).await;
    one_of_each(&log, 2, GroupId(4)).await;
    repair(&bench, &log, entry(2, 4)).await;
    // Proves all of it durable.
    append(&log.group(STAYS), entries(3, 6..8)).await.unwrap();
    append(&log.group(STAYS), entries(3, 8..9)).await.unwrap();
    let stays = log.group(STAYS);
    let (state, checkpoints) = (stays.state(), stays.checkpoints());
    let (entries, purged) = (read_all(&stays).await, log.group(PURGED).state());
    assert_eq!(entries.len(), 9);
    drop((log, stays));
    bench.kill().await;
    let mut files = BTreeMap::new();
    for name in bench.segments() {
        files.insert(name.clone(), bench.content(&name).await);
    }
    let frames = frames(&bench).await;
    Museum { files, frames, state, entries, purged, checkpoints }
}

/// All frames of all segments.
async fn frames(bench: &Bench) -> Vec<Lies> {
    let mut frames = Vec::new();
    let newest = bench.segments().pop().unwrap();
    for name in bench.segments() {
        let file = bench.disk.open(&bench.path(&name), Open::Existing).unwrap();
        let header = Header::read(&*file, segment::sequence_of(&name).unwrap()).await.unwrap();
        let mut scanner = Scanner::new(Arc::clone(&file), header, file.len().unwrap());
        let mut block_of = Vec::new();
        let mut last = 0;
        while let Next::Block(block) = scanner.next().await.unwrap() {
            block_of.extend(block.frames.iter().map(|found| (block.batch, found.clone())));
            last = block.batch;
        }
        frames.extend(block_of.into_iter().map(|(batch, found)| Lies {
            name: name.clone(),
            offset: found.offset,
            head: found.head,
            newest: name == newest,
            unproven: name == newest && batch == last,
        }));
    }
    frames
}

impl Museum {
    /// The log with one bit flipped.
    async fn with_flipped(&self, name: &str, at: u64, bit: u8) -> Bench {
        let bench = small_segments();
        bench.disk.create_dir_all(&bench.config.dir).unwrap();
        for (file, content) in &self.files {
            bench.disk.open(&bench.path(file), Open::New).unwrap();
            bench.set_content(file, content.clone()).await;
        }
        bench.simulated.as_ref().unwrap().flip_bit(&bench.path(name), at, bit).unwrap();
        bench
    }

    async fn is_untouched(&self, bench: &Bench, name: &str, at: u64, bit: u8) -> bool {
        let mut same = bench.segments().iter().eq(self.files.keys());
        for (file, content) in &self.files {
            let mut expected = content.clone();
            if file == name {
                expected[at as usize] ^= 1 << bit;
            }
            same &= bench.content(file).await == expected;
        }
        same
    }

    /// Opens the log and looks at everything in it.
    async fn outcome(&self, name: &str, at: u64, bit: u8) -> Outcome {
        let what = format!("{name} flipped at {at}");
        let mut bench = self.with_flipped(name, at, bit).await;
        let log = match bench.try_open().await {
            Ok(log) => log,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
                assert!(self.is_untouched(&bench, name, at, bit).await, "{what}: {error}");
                return Outcome::Refused;
            }
        };
        assert_eq!(log.groups(), [STAYS, PURGED, IDLE], "{what}");
        assert_eq!(log.group(IDLE).state().vote, Some(Bytes::from_static(b"idle")), "{what}");
        let stays = log.group(STAYS);
        let state = stays.state();
        let GroupState { purged, last, vote, committed, checkpoint } = self.state.clone();
        assert_eq!((state.purged, state.last, state.vote), (purged, last, vote), "{what}");
        assert!(state.committed == committed, "{what}: {:?}", state.committed);
        assert!(state.checkpoint <= checkpoint, "{what}");
        for entry in &self.entries {
            let index = entry.id.index;
            match stays.read(index..index + 1, 1).await {
                Ok(read) => assert_eq!(read, std::slice::from_ref(entry), "{what}"),
                Err(error) => {
                    assert_eq!(Faulty::of(&error), Some(Faulty { group: STAYS, index }), "{what}");
                }
            }
        }
        let mut lost = 0;
        for at in &self.checkpoints {
            match stays.read_checkpoint(*at).await {
                Ok(Some(state)) => assert_eq!(state, format!("state {}", at.term), "{what}"),
                Ok(None) => lost += 1,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
                    lost += 1;
                }
            }
        }
        let others = log.group(PURGED);
        let there = others.state();
        assert_eq!((there.purged, there.last), (self.purged.purged, self.purged.last), "{what}");
        let more = others.read(60..70, usize::MAX).await;
        let is_noted = log.faulty().iter().any(|(group, _)| *group == PURGED);
        assert_eq!(more.is_ok_and(|more| more.len() == 10), !is_noted, "{what}");
        let faulty = log.faulty().len();
        assert!(faulty + lost <= 1, "{what}: one bit, {faulty} entries and {lost} checkpoints");
        bench.stop().await;
        match (faulty, lost) {
            (0, 0) => Outcome::Unharmed,
            (0, _) => Outcome::Checkpoint,
            _ => Outcome::Faulty,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    Faulty,
    Checkpoint,
    Unharmed,
}

fn kind(head: &Head) -> &'static str {
    match head.what {
        What::Entry { .. } => "entry",
        What::Truncate { .. } => "truncate",
        What::Purge { .. } => "purge",
        What::Vote => "vote",
        What::Committed { .. } => "committed",
        What::Checkpoint { .. } => "checkpoint",
        What::Remove => "remove",
        What::Repair { .. } => "repair",
        What::Retired => "retired",
    }
}

const KINDS: [&str; 9] = [
    "checkpoint",
    "committed",
    "entry",
    "purge",
    "remove",
    "repair",
    "retired",
    "truncate",
    "vote",
];

#[tokio::test]
async fn a_bit_flipped_in_any_kind_of_frame_is_refused_told_or_made_good() {
    let museum = museum().await;
    for newest in [false, true] {
        let here = museum.frames.iter().filter(|lies| lies.newest == newest);
        let kinds: BTreeSet<_> = here.map(|lies| kind(&lies.head)).collect();
        let wanted =
            KINDS.into_iter().filter(|kind| !newest || !["purge", "retired"].contains(kind));
        let missing: Vec<_> = wanted.filter(|kind| !kinds.contains(kind)).collect();
        assert!(missing.is_empty(), "newest {newest}: no {missing:?}");
    }
    let mut seen = BTreeMap::<(bool, &str, &str), BTreeSet<Outcome>>::new();
    for lies in museum.frames.iter().filter(|lies| !lies.unproven) {
        let payload = u64::from(lies.head.payload_at);
        let len = u64::from(lies.head.len);
        let head = (0..HEAD_BYTES as u64).step_by(5).map(|at| ("head", at));
        let payload = [0, len / 2, len.saturating_sub(1)].map(|at| ("payload", payload + at));
        for (part, at) in head.chain(payload.into_iter().filter(|_| len > 0)) {
            let outcome = museum.outcome(&lies.name, lies.offset + at, (at % 8) as u8).await;
            let what = (lies.newest, kind(&lies.head), part);
            seen.entry(what).or_default().insert(outcome);
        }
    }
    for ((newest, kind, part), outcomes) in seen {
        let outcomes: Vec<Outcome> = outcomes.into_iter().collect();
        let expected: &[Outcome] = match (newest, part, kind) {
            // Without a footer nobody knows what a damaged head was.
            (true, "head", _) => &[Outcome::Refused],
            // Superseded ones are no matter.
            (_, "payload", "vote") => &[Outcome::Refused, Outcome::Unharmed],
            (_, "payload", "entry") => &[Outcome::Faulty, Outcome::Unharmed],
            (false, "head", "entry" | "repair") => &[Outcome::Faulty, Outcome::Unharmed],
            (_, "payload", "repair") => &[Outcome::Faulty],
            (_, _, "checkpoint") => &[Outcome::Checkpoint],
            (_, "payload", "retired") => &[Outcome::Refused],
            (false, _, _) => &[Outcome::Unharmed],
            _ => &[],
        };
        let fits = outcomes.iter().all(|outcome| expected.contains(outcome));
        assert!(fits, "newest {newest}, {part} of a {kind}: {outcomes:?}, not {expected:?}");
        assert_eq!(outcomes.first(), expected.first(), "newest {newest}, {part} of a {kind}");
    }
}

#[tokio::test]
async fn a_bit_flipped_in_any_header_refuses_to_open() {
    let museum = museum().await;
    assert!(museum.files.len() > 2);
    for name in museum.files.keys() {
        for at in 0..64 {
            let outcome = museum.outcome(name, at, (at % 8) as u8).await;
            assert_eq!(outcome, Outcome::Refused, "{name} at {at}");
        }
    }
}

#[tokio::test]
async fn a_bit_flipped_in_any_footer_is_made_good() {
    let museum = museum().await;
    let bench = museum.with_flipped(museum.files.keys().next().unwrap(), 70, 0).await;
    let mut footers = 0;
    for name in museum.files.keys() {
        let file = bench.disk.open(&bench.path(name), Open::Existing).unwrap();
        let header = Header::read(&*file, segment::sequence_of(name).unwrap()).await.unwrap();
        let Some(trailer) = Trailer::read(&*file, &header).await.unwrap() else { continue };
        footers += 1;
        let trailer_at = file.len().unwrap() - ALIGN_BYTES;
        let end = trailer.blocks_end + trailer.footer_bytes();
        let footer = (trailer.blocks_end..end).step_by(3);
        for at in footer.chain(trailer_at..trailer_at + 68) {
            let outcome = museum.outcome(name, at, (at % 8) as u8).await;
            assert_eq!(outcome, Outcome::Unharmed, "{name} at {at}");
        }
    }
    assert!(footers > 1);
}

#[tokio::test]
async fn a_footer_that_cannot_be_read_is_not_told_as_damage() {
    let mut bench = small_segments();
    let log = bench.open().await;
    let group = log.group(STAYS);
    append(&group, entries(1, 0..3)).await.unwrap();
    let place = log.shared.state.lock().groups[&STAYS].place(1).unwrap();
    for index in 3..60 {
        append(&group, vec![large(1, index)]).await.unwrap();
    }
    sealed(&log).await;
    let (disk, path) = (bench.simulated.clone().unwrap(), bench.path("0000000001.seg"));
    // Its head: only the footer knows what was there, and the blocks cannot say it any more.
    disk.flip_bit(&path, place.offset, 3).unwrap();
    let end = bench.content("0000000001.seg").await.len() as u64;
    disk.fail_reads_of(&path, end - ALIGN_BYTES..end, Lasting::ForEver).unwrap();
    let error = group.read(1..2, 1).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    bench.stop().await;
}
