//! Random operations and crashes, against a model that keeps everything in plain collections.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Append {
        group: u64,
        count: u64,
        bytes: usize,
    },
    Truncate {
        group: u64,
        back: u64,
    },
    Purge {
        group: u64,
        ahead: i64,
    },
    Vote {
        group: u64,
    },
    Committed {
        group: u64,
        back: u64,
    },
    Checkpoint {
        group: u64,
        back: u64,
    },
    Remove {
        group: u64,
    },
    Yield {
        times: u8,
    },
    /// Everything full gets its footer, and the keeper has time.
    Settle,
    Reopen,
    Kill,
    LosePower {
        seed: u64,
    },
    /// The process dies, or the power fails, while an append is being synced and another one waits.
    CrashInSync {
        group: u64,
        count: u64,
        other: u64,
        power: Option<u64>,
    },
    /// The sync of an append fails, and the process restarts.
    FailSync {
        group: u64,
        count: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let group = 0..4u64;
    prop_oneof![
        8 => (group.clone(), 1..5u64, 0..300usize)
            .prop_map(|(group, count, bytes)| Op::Append { group, count, bytes }),
        2 => (group.clone(), 0..6u64).prop_map(|(group, back)| Op::Truncate { group, back }),
        3 => (group.clone(), -8..3i64).prop_map(|(group, ahead)| Op::Purge { group, ahead }),
        2 => group.clone().prop_map(|group| Op::Vote { group }),
        1 => (group.clone(), 0..4u64).prop_map(|(group, back)| Op::Committed { group, back }),
        2 => (group.clone(), 0..4u64).prop_map(|(group, back)| Op::Checkpoint { group, back }),
        1 => group.clone().prop_map(|group| Op::Remove { group }),
        2 => (0..20u8).prop_map(|times| Op::Yield { times }),
        2 => Just(Op::Settle),
        1 => Just(Op::Reopen),
        1 => Just(Op::Kill),
        1 => any::<u64>().prop_map(|seed| Op::LosePower { seed }),
        2 => (group.clone(), 1..5u64, group.clone(), any::<Option<u64>>()).prop_map(
            |(group, count, other, power)| Op::CrashInSync { group, count, other, power }
        ),
        1 => (group, 1..5u64).prop_map(|(group, count)| Op::FailSync { group, count }),
    ]
}

/// What the log must say of one group.
#[derive(Clone, Debug)]
struct Model {
    purged: Option<EntryId>,
    entries: Vec<Entry>,
    vote: Option<Bytes>,
    /// The newest checkpoints: the last one that is durable, and those after it.
    checkpoints: Vec<Option<(EntryId, Bytes)>>,
    /// All committed ids that were noted.
    committed: Vec<EntryId>,
}

impl Default for Model {
    fn default() -> Model {
        let (purged, entries, vote) = (None, Vec::new(), None);
        Model { purged, entries, vote, checkpoints: vec![None], committed: Vec::new() }
    }
}

impl Model {
    /// Index of the newest checkpoint.
    fn checkpoint(&self) -> Option<u64> {
        self.checkpoints.iter().flatten().map(|kept| kept.0.index).max()
    }

    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn next(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    fn last(&self) -> Option<EntryId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    /// The entry `back` before the last.
    fn back(&self, back: u64) -> Option<EntryId> {
        self.entries.iter().rev().nth(back as usize).map(|entry| entry.id)
    }

    fn holds(&self, id: EntryId) -> bool {
        self.purged == Some(id) || self.entries.iter().any(|entry| entry.id == id)
    }

    /// Checks what was found after a crash, and takes over what may be either way.
    fn check(
        &mut self,
        group: u64,
        state: GroupState,
        found: Option<(EntryId, Bytes)>,
        entries: Vec<Entry>,
    ) {
        assert_eq!(state.purged, self.purged, "group {group}");
        assert_eq!(state.last, self.last(), "group {group}");
        assert_eq!(state.vote, self.vote, "group {group}");
        assert_eq!(entries, self.entries, "group {group}");
        let held = |kept: &Option<(EntryId, Bytes)>| {
            kept.clone().filter(|(applied, _)| self.holds(*applied))
        };
        let possible: Vec<_> = self.checkpoints.iter().map(held).collect();
        assert!(possible.contains(&found), "group {group}: {found:?}, not one of {possible:?}");
        self.checkpoints = vec![found];
        if let Some(committed) = state.committed {
            assert!(Some(committed) <= state.last);
            let noted = self.committed.iter().any(|noted| noted.index >= committed.index);
            assert!(noted, "group {group}: nobody noted {committed:?}");
        }
    }
}

struct Run {
    bench: Bench,
    log: Option<Log>,
    models: BTreeMap<u64, Model>,
    /// Removed groups get another id.
    generation: [u64; 4],
    counter: u64,
}

impl Run {
    fn id(&self, group: u64) -> u64 {
        group + 10 * self.generation[group as usize]
    }

    fn group(&self, group: u64) -> GroupLog {
        self.log.as_ref().unwrap().group(GroupId(self.id(group)))
    }

    fn model(&mut self, group: u64) -> &mut Model {
        let id = self.id(group);
        self.models.entry(id).or_default()
    }

    /// An awaited write was acked: everything queued before it is durable too.
    fn synced(&mut self) {
        for model in self.models.values_mut() {
            model.checkpoints = model.checkpoints.pop().into_iter().collect();
        }
    }

    fn make_entries(&mut self, group: u64, count: u64, bytes: usize) -> Vec<Entry> {
        self.counter += 1;
        let (term, next) = (self.counter, self.model(group).next());
        let payload = |index: u64| Bytes::from(vec![(term + index) as u8; bytes]);
        let entry = |index| Entry { payload: payload(index), ..entry(term, index) };
        (next..next + count).map(entry).collect()
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Append { group, count, bytes } => {
                let entries = self.make_entries(group, count, bytes);
                append(&self.group(group), entries.clone()).await.unwrap();
                self.model(group).entries.extend(entries);
                self.synced();
            }
            Op::Truncate { group, back } => self.truncate(group, back).await,
            Op::Purge { group, ahead } => self.purge(group, ahead).await,
            Op::Vote { group } => {
                self.counter += 1;
                let vote = Bytes::from(format!("vote {}", self.counter));
                self.group(group).save_vote(vote.clone()).await.unwrap();
                self.model(group).vote = Some(vote);
                self.synced();
            }
            Op::Committed { group, back } => {
                if let Some(id) = self.model(group).back(back) {
                    self.group(group).save_committed(Some(id));
                    self.model(group).committed.push(id);
                }
            }
            Op::Checkpoint { group, back } => self.checkpoint(group, back).await,
            Op::Remove { group } => {
                let id = self.id(group);
                self.log.as_ref().unwrap().remove(GroupId(id)).await.unwrap();
                self.models.remove(&id);
                self.generation[group as usize] += 1;
                // Nothing is synced when there was nothing to remove.
            }
            Op::Yield { times } => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Op::Settle => {
                let log = self.log.clone().unwrap();
                sealed(&log).await;
                log.shared.keep.notify_one();
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
                self.check().await;
            }
            Op::Reopen => {
                self.log = Some(self.bench.reopen().await);
                self.synced();
                self.check().await;
            }
            Op::Kill => {
                self.bench.kill().await;
                self.open_and_check().await;
            }
            Op::LosePower { seed } => {
                self.bench.lose_power(seed).await;
                self.open_and_check().await;
            }
            Op::CrashInSync { group, count, other, power } => {
                self.crash_in_sync(group, count, other, power).await;
            }
            Op::FailSync { group, count } => self.fail_sync(group, count).await,
        }
    }

    async fn truncate(&mut self, group: u64, back: u64) {
        let model = self.model(group);
        // Raft never truncates what was applied.
        let floor = model.checkpoint().map_or(0, |index| index + 1);
        let next = model.next().saturating_sub(back).max(model.first()).max(floor);
        if next > model.next() {
            return;
        }
        model.entries.truncate((next - model.first()) as usize);
        self.group(group).truncate_after(next.checked_sub(1)).await.unwrap();
        self.synced();
    }

    async fn purge(&mut self, group: u64, ahead: i64) {
        let model = self.model(group);
        let index = model.next() as i64 - 1 + ahead;
        if index < model.first() as i64 {
            return;
        }
        let known = model.entries.iter().find(|entry| entry.id.index == index as u64);
        let upto = known.map_or(id(1 << 40, index as u64), |entry| entry.id);
        model.entries.retain(|entry| entry.id.index > upto.index);
        model.purged = Some(upto);
        self.group(group).purge(upto).await.unwrap();
        self.synced();
    }

    async fn checkpoint(&mut self, group: u64, back: u64) {
        let Some(applied) = self.model(group).back(back) else { return };
        let newest = self.model(group).checkpoint();
        if newest >= Some(applied.index) {
            return;
        }
        self.counter += 1;
        let state = Bytes::from(format!("state {}", self.counter));
        self.group(group).checkpoint(applied, state.clone()).await.unwrap();
        self.model(group).checkpoints.push(Some((applied, state)));
    }

    async fn crash_in_sync(&mut self, group: u64, count: u64, other: u64, power: Option<u64>) {
        let disk = self.bench.simulated.clone().unwrap();
        let entries = self.make_entries(group, count, 40);
        disk.hold_syncs();
        let first = start_append(&self.group(group), entries.clone()).await;
        until(|| disk.waiting_syncs() > 0).await;
        let second = if other == group {
            None
        } else {
            let others = self.make_entries(other, 1, 40);
            Some(start_append(&self.group(other), others).await)
        };
        match power {
            Some(seed) => disk.power_loss(seed),
            None => disk.process_crash(),
        }
        disk.release_syncs();
        assert!(within(first).await.is_err());
        if let Some(second) = second {
            assert!(within(second).await.is_err());
        }
        self.log = None;
        self.bench.restart().await;
        self.open_with(group, entries).await;
    }

    async fn fail_sync(&mut self, group: u64, count: u64) {
        let disk = self.bench.simulated.clone().unwrap();
        let entries = self.make_entries(group, count, 40);
        disk.fail_syncs(1);
        // The keeper's sync may be the one that fails; then this one may succeed.
        let acked = append(&self.group(group), entries.clone()).await.is_ok();
        self.log = None;
        self.bench.kill().await;
        if acked {
            self.model(group).entries.extend(entries);
            self.open_and_check().await;
        } else {
            self.open_with(group, entries).await;
        }
    }

    /// Opens after a crash which left it open whether `entries` were written.
    async fn open_with(&mut self, group: u64, entries: Vec<Entry>) {
        self.log = Some(self.bench.open().await);
        let last = entries.last().map(|entry| entry.id);
        if self.group(group).state().last == last {
            self.model(group).entries.extend(entries);
        }
        self.check().await;
    }

    async fn open_and_check(&mut self) {
        self.log = Some(self.bench.open().await);
        self.check().await;
    }

    async fn check(&mut self) {
        let log = self.log.as_ref().unwrap();
        for id in log.groups() {
            assert!(self.models.contains_key(&id.0), "group {id} is back");
        }
        for (&id, model) in &mut self.models {
            let group = log.group(GroupId(id));
            let (state, entries) = (group.state(), read_all(&group).await);
            let durable = state.last.map(|last| last.index);
            assert_eq!(group.durable(), durable);
            let newest = match state.checkpoint {
                Some(id) => group.read_checkpoint(id).await.unwrap().map(|state| (id, state)),
                None => None,
            };
            model.check(id, state, newest, entries);
        }
        audit(&log.shared.state.lock());
    }
}

/// The accounts are what counting again gives, and the index is consistent.
fn audit(state: &State) {
    let mut live = BTreeMap::<u64, u64>::new();
    for group in state.groups.values() {
        for run in group.runs() {
            *live.entry(run.segment).or_default() += run.count;
            assert!(state.segments[&run.segment].trailer().is_some(), "a run has a footer");
        }
        for (_, slot) in group.young_slots() {
            slot.place.into_iter().for_each(|place| *live.entry(place.segment).or_default() += 1);
        }
    }
    for (sequence, segment) in &state.segments {
        if segment.dying == 0 {
            let counted = live.get(sequence).copied().unwrap_or_default();
            assert_eq!(segment.live_entries, counted, "segment {sequence}");
        }
    }
    assert!(live.keys().all(|segment| state.segments.contains_key(segment)));
}

proptest! {
    #[test]
    fn any_history_with_crashes_is_found_again(
        ops in prop::collection::vec(op(), 1..80),
        pages in 3..16u64,
        tail_bytes in prop::sample::select(vec![0usize, 1000, 1 << 20]),
    ) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::simulated();
            bench.config.segment_bytes = pages * 4096;
            bench.config.tail_bytes = tail_bytes;
            let log = Some(bench.open().await);
            let (models, generation, counter) = (BTreeMap::new(), [0; 4], 0);
            let mut run = Run { bench, log, models, generation, counter };
            for op in ops {
                run.apply(op).await;
                let log = run.log.as_ref().unwrap();
                let state = log.shared.state.lock();
                audit(&state);
                prop_assert!(!state.segments.values().any(|segment| segment.stuck));
                prop_assert!(state.faulty().is_empty());
            }
            run.bench.lose_power(7).await;
            run.open_and_check().await;
            run.bench.stop().await;
            Ok(())
        })?;
    }
}
