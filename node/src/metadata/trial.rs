//! What the tests of this floor share: commands in short, and random walks of them.

use std::collections::{BTreeMap, BTreeSet};

use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{
    HashKey, Incarnation, MapVersion, NodeId, Shard, ShardId, ShardMap, StreamName, Timestamp,
};

use super::apply::apply;
use super::plan::{self, Step};
use super::{Command, Goal, Outcome, Stream, StreamMode, StreamStatus, View};

/// When streams are created.
pub(super) const START: Timestamp = Timestamp(1_790_000_000_999);
/// Creation second of their shards.
pub(super) const CREATED: u64 = 1_789_999_997;

pub(super) fn name(text: &str) -> StreamName {
    text.parse().unwrap()
}

pub(super) fn create(text: &str, shard_count: u32, mode: StreamMode) -> Command {
    Command::CreateStream {
        name: name(text),
        shard_count,
        mode,
        now: START,
        record_bytes_max: 1 << 20,
        tags: BTreeMap::new(),
        nodes: [1, 2, 3].map(NodeId).to_vec(),
    }
}

pub(super) fn activate(stream: &Stream) -> Command {
    let Stream { name, incarnation, .. } = stream.clone();
    Command::ActivateStream { name, incarnation }
}

pub(super) fn split(stream: &Stream, shard: u32, at: HashKey, while_updating: bool) -> Command {
    let Stream { name, incarnation, .. } = stream.clone();
    let shard = ShardId::from(shard);
    Command::SplitShard { name, incarnation, shard, at, now: START, while_updating }
}

pub(super) fn merge(stream: &Stream, shard: u32, adjacent: u32, while_updating: bool) -> Command {
    let Stream { name, incarnation, .. } = stream.clone();
    let (shard, adjacent) = (ShardId::from(shard), ShardId::from(adjacent));
    Command::MergeShards { name, incarnation, shard, adjacent, now: START, while_updating }
}

/// Begins a step of the stream's goal.
pub(super) fn step(stream: &Stream, step: Step) -> Command {
    match step {
        Step::Split { shard, at } => split(stream, shard.index(), at, true),
        Step::Merge { shard, adjacent } => merge(stream, shard.index(), adjacent.index(), true),
    }
}

pub(super) fn finish(stream: &Stream, reshard: u32, creation_second: u64) -> Command {
    let Stream { name, incarnation, .. } = stream.clone();
    let reshard = ShardId::from(reshard);
    Command::FinishReshard { name, incarnation, reshard, creation_second }
}

/// Publishes a reshard in the first second that is possible.
pub(super) fn finish_early(stream: &Stream, reshard: u32) -> Command {
    let of = stream.reshards.iter().find(|of| of.id() == ShardId::from(reshard));
    let parents = of.into_iter().flat_map(|of| &of.parents).filter_map(|&id| stream.map.get(id));
    let after = parents.map(|parent| parent.creation_second + 1).max();
    finish(stream, reshard, after.unwrap_or(CREATED + 1))
}

pub(super) fn rescale(stream: &Stream, target: u32, now: Timestamp, limited: bool) -> Command {
    let Stream { name, incarnation, .. } = stream.clone();
    let goal = plan::goal(&stream.map, target);
    let map_version = stream.map_version();
    Command::Rescale { name, incarnation, map_version, goal, now, limited }
}

pub(super) fn reach(stream: &Stream) -> Command {
    let Stream { name, incarnation, .. } = stream.clone();
    Command::ReachGoal { name, incarnation }
}

pub(super) fn expire(stream: &Stream, shards: &[u32]) -> Command {
    let Stream { name, incarnation, .. } = stream.clone();
    let shards = shards.iter().map(|&shard| ShardId::from(shard)).collect();
    Command::ExpireShards { name, incarnation, shards }
}

pub(super) fn set_mode(
    stream: &Stream,
    mode: StreamMode,
    now: Timestamp,
    limited: bool,
) -> Command {
    let Stream { name, incarnation, .. } = stream.clone();
    Command::SetMode { name, incarnation, mode, now, limited }
}

/// A view, and the commands that went into it.
#[derive(Clone, Debug, Default)]
pub(super) struct Trial {
    pub(super) view: View,
}

impl Trial {
    /// With an active stream `a`.
    pub(super) fn with(shard_count: u32, mode: StreamMode) -> Trial {
        let mut trial = Trial::default();
        trial.done(&create("a", shard_count, mode));
        trial.done(&activate(&trial.a()));
        trial
    }

    /// The stream `a`.
    pub(super) fn a(&self) -> Stream {
        Stream::clone(&self.view.streams[&name("a")])
    }

    /// Applies a command, and checks what holds for every command.
    pub(super) fn apply(&mut self, command: &Command) -> (Outcome, bool) {
        let (after, outcome) = apply(&self.view, command);
        let changed = after.is_some();
        if let Some(after) = after {
            assert_eq!(outcome, Outcome::Done, "{command:?} is refused and changes something");
            assert_ne!(after, self.view, "{command:?} says that it changed something");
            check_step(&self.view, &after, command);
            check_view(&after);
            self.view = after;
        }
        (outcome, changed)
    }

    /// Applies a command that must change something.
    pub(super) fn done(&mut self, command: &Command) {
        assert_eq!(self.apply(command), (Outcome::Done, true), "{command:?}");
    }

    /// Applies a command that must be done without a change.
    pub(super) fn nothing(&mut self, command: &Command) {
        assert_eq!(self.apply(command), (Outcome::Done, false), "{command:?}");
    }

    /// Applies a command that must be refused.
    pub(super) fn refused(&mut self, command: &Command) -> Outcome {
        let (outcome, changed) = self.apply(command);
        assert!(outcome != Outcome::Done && !changed, "{command:?}: {outcome:?}");
        outcome
    }
}

/// What no command may do to a view.
fn check_step(before: &View, after: &View, command: &Command) {
    assert_eq!(before.applied, after.applied);
    assert!(before.next_group <= after.next_group, "{command:?}");
    assert!(before.next_incarnation <= after.next_incarnation, "{command:?}");
    assert!(before.map_version <= after.map_version, "{command:?}");
    for (name, new) in &after.streams {
        let Some(old) = before.streams.get(name).filter(|s| s.incarnation == new.incarnation)
        else {
            continue;
        };
        assert!(old.free_index() <= new.free_index(), "{command:?}");
        let known: BTreeSet<ShardId> = old.all_shards().map(|shard| shard.id).collect();
        for shard in new.all_shards().filter(|shard| !known.contains(&shard.id)) {
            assert!(shard.id.index() >= old.free_index(), "{command:?} gives an id out again");
            assert!(shard.group.0 >= before.next_group, "{command:?} gives a group out again");
        }
        let owners = |stream: &Stream| -> Vec<ShardId> {
            stream.map.by_range().iter().map(|shard| shard.id).collect()
        };
        let moved = owners(old) != owners(new);
        assert_eq!(moved, old.map_version() < new.map_version(), "{command:?}");
    }
}

/// What holds for every view.
pub(super) fn check_view(view: &View) {
    let mut groups = BTreeSet::new();
    for stream in view.streams.values() {
        check_stream(stream);
        for shard in stream.all_shards() {
            assert!(groups.insert(shard.group) && shard.group.0 < view.next_group, "{shard:?}");
        }
    }
    assert!(view.open_shards() <= view.shards_held());
    assert!(view.shards_held() <= ACCOUNT_SHARDS_MAX);
}

fn check_stream(stream: &Stream) {
    ShardMap::new(stream.map_version(), stream.map.shards().to_vec()).expect("a map");
    let idle = stream.reshards.is_empty() && stream.goal.is_none();
    match stream.status {
        StreamStatus::Creating | StreamStatus::Active => assert!(idle, "{stream:?}"),
        StreamStatus::Updating => assert!(!idle, "{stream:?}"),
        StreamStatus::Deleting => assert!(stream.goal.is_none(), "{stream:?}"),
    }
    let mut busy = BTreeSet::new();
    for reshard in &stream.reshards {
        let parents = reshard.parents.iter().map(|&parent| stream.map.get(parent).unwrap());
        let parents: Vec<&Shard> = parents.collect();
        assert!(parents.iter().all(|parent| parent.is_open() && busy.insert(parent.id)));
        let edges =
            |shards: &[&Shard]| (shards[0].range.first, shards[shards.len() - 1].range.last);
        let children: Vec<&Shard> = reshard.children.iter().collect();
        assert_eq!(edges(&parents), edges(&children), "{reshard:?}");
        for child in children {
            assert_eq!(child.parents, reshard.parents);
            assert!(child.creation_second == 0 && child.id.index() < stream.next_shard);
        }
    }
    assert!(stream.reshards.windows(2).all(|pair| pair[0].id() < pair[1].id()));
    for child in stream.map.shards() {
        for parent in child.parents.iter().filter_map(|&parent| stream.map.get(parent)) {
            assert_eq!(parent.closed_second.map(|second| second + 1), Some(child.creation_second));
            assert!(parent.creation_second < child.creation_second);
        }
    }
}

/// A life of stream `a`, from 3 shards over a split, a merge and a rescale, to its end in the midst
/// of another one.
pub(super) fn resharding() -> Vec<Command> {
    let mut trial = Trial::default();
    let mut commands = vec![];
    let mut go = |trial: &mut Trial, command: Command| {
        trial.done(&command);
        commands.push(command);
    };
    go(&mut trial, create("a", 3, StreamMode::OnDemand));
    let activated = activate(&trial.a());
    go(&mut trial, activated);
    let begun = split(&trial.a(), 0, HashKey(1 << 100), true);
    go(&mut trial, begun);
    let begun = merge(&trial.a(), 1, 2, true);
    go(&mut trial, begun);
    for reshard in [5, 3] {
        let finished = finish_early(&trial.a(), reshard);
        go(&mut trial, finished);
    }
    let changed = set_mode(&trial.a(), StreamMode::Provisioned, START, true);
    go(&mut trial, changed);
    let expired = expire(&trial.a(), &[0, 2]);
    go(&mut trial, expired);
    let rescaled = rescale(&trial.a(), 4, START, true);
    go(&mut trial, rescaled);
    while trial.a().goal.is_some() {
        let stream = trial.a();
        let finished = stream.reshards.last().map(|of| finish_early(&stream, of.id().index()));
        let begun = plan::next(&stream).first().map(|&begun| step(&stream, begun));
        go(&mut trial, begun.or(finished).unwrap_or(reach(&stream)));
    }
    let rescaled = rescale(&trial.a(), 2, START, true);
    go(&mut trial, rescaled);
    let begun = step(&trial.a(), plan::next(&trial.a())[0]);
    go(&mut trial, begun);
    go(&mut trial, Command::DeleteStream { name: name("a"), incarnation: None });
    let Stream { name, incarnation, .. } = trial.a();
    go(&mut trial, Command::ForgetStream { name, incarnation });
    commands
}

/// A command chosen by `dice` from what makes some sense for the view, and from what makes none.
pub(super) fn roll(view: &View, dice: (u8, u32, u32)) -> Command {
    let (kind, a, b) = dice;
    let names = ["a", "b"];
    let text = names[a as usize % names.len()];
    let mode = if b.is_multiple_of(3) { StreamMode::OnDemand } else { StreamMode::Provisioned };
    let Some(stream) = view.streams.get(&name(text)) else {
        return match kind % 16 {
            0 => Command::DeleteStream { name: name(text), incarnation: None },
            _ => create(text, b % 6, mode),
        };
    };
    let mut stream = Stream::clone(stream);
    if b % 64 == 63 {
        stream.incarnation = Incarnation(stream.incarnation.0 + 1);
    }
    let now = START.after(std::time::Duration::from_secs(3600 * u64::from(b % 200)));
    let open = stream.map.by_range();
    let place = (a / 2) as usize % open.len();
    let shard = open[place];
    let beside = open.get(place + 1).map_or(b % 9, |shard| shard.id.index());
    let id = shard.id.index();
    let any_id = b % stream.free_index().saturating_add(2);
    let (goal_step, reshard) = (plan::next(&stream), stream.reshards.first());
    match kind % 16 {
        0 => create(text, b % 6, mode),
        1 if b % 4 == 0 => Command::DeleteStream { name: stream.name.clone(), incarnation: None },
        2 => Command::ForgetStream { name: stream.name.clone(), incarnation: stream.incarnation },
        3 | 4 => activate(&stream),
        5 => {
            let keys = shard.range.last.0 - shard.range.first.0;
            let at = HashKey(shard.range.first.0 + keys / u128::from(b % 7 + 1));
            split(&stream, id, at, a % 3 != 0)
        }
        6 => split(&stream, any_id, HashKey(u128::from(b)), a % 3 != 0),
        7 => merge(&stream, id, beside, a % 3 != 0),
        8 => merge(&stream, any_id, id, true),
        9 => rescale(&stream, b % 13, now, a % 4 != 0),
        10 => reach(&stream),
        11 => set_mode(&stream, mode, now, a % 4 != 0),
        12 => expire(&stream, &[any_id, id, any_id / 2]),
        13 => finish(&stream, any_id, CREATED + u64::from(b % 50)),
        _ => match (goal_step.get(a as usize / 2 % goal_step.len().max(1)), reshard) {
            (Some(&next), _) if b % 2 == 0 => step(&stream, next),
            (_, Some(reshard)) => finish_early(&stream, reshard.id().index()),
            (Some(&next), None) => step(&stream, next),
            (None, None) => reach(&stream),
        },
    }
}

/// A goal without any step.
pub(super) fn no_goal(target: u32) -> Goal {
    Goal { target, splits: vec![], keep: vec![] }
}

/// The version of a map that is not there.
pub(super) fn other_version(stream: &Stream) -> MapVersion {
    MapVersion(stream.map_version().0 + 1)
}
