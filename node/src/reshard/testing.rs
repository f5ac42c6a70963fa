//! A cluster of three sentences: parents that remember, children that inherit, a view that is
//! published. It fails where a test tells it to, and judges the order of what it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tristream_proto::domain::{
    GroupId, HashKey, HashKeyRange, Incarnation, MapVersion, NodeId, Shard, ShardId, ShardMap,
    Timestamp,
};

use super::calls::Calls;
use super::due::AT_ONCE;
use crate::metadata::{Command, Outcome, Reshard, Stream, StreamMode, StreamStatus, View};
use crate::raft::ProposeError;
use crate::router;
use crate::shard::{Inheritance, Inherited, Opening, Sealed, WindowPart};

/// Entries in one part of a window.
const PART: u64 = 3;
/// Entries that a parent remembers when the test begins.
const REMEMBERED: u64 = 7;
/// Entries that come in while the seal is on its way: more than one part.
const LATE: u64 = 5;
/// Second at which the test begins.
const BEGIN: u64 = 1_000;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails, and nothing happened.
    Lost,
    /// It happens, and its answer is lost.
    Unheard,
    /// It happens, and the node that called is gone.
    Crash,
}

#[derive(Default)]
struct State {
    calls: usize,
    sealed: BTreeMap<ShardId, Sealed>,
    tips: BTreeMap<ShardId, u64>,
    upto: BTreeMap<(ShardId, ShardId), u64>,
    openings: BTreeMap<ShardId, Opening>,
    published: Vec<(ShardId, u64)>,
    /// Parents sealed and not published yet, at the most.
    handing_over_max: usize,
    shut: BTreeSet<GroupId>,
    points: Vec<&'static str>,
}

/// The cluster.
pub(super) struct Fake {
    views: watch::Sender<Arc<View>>,
    state: Mutex<State>,
    fault: Option<(usize, Fault)>,
    /// Told when the calling node is gone.
    pub(super) crashed: Notify,
    begun: Instant,
}

impl Fake {
    /// A cluster with this stream; the call of this number meets the fault.
    pub(super) fn new(stream: Stream, fault: Option<(usize, Fault)>) -> Fake {
        let mut view = View::default();
        view.streams.insert(stream.name.clone(), Arc::new(stream));
        Fake {
            views: watch::channel(Arc::new(view)).0,
            state: Mutex::default(),
            fault,
            crashed: Notify::new(),
            begun: Instant::now(),
        }
    }

    pub(super) fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.subscribe()
    }

    pub(super) fn calls(&self) -> usize {
        self.state.lock().calls
    }

    /// Reshards and the creation second of their children, in the order in which they were published.
    pub(super) fn published(&self) -> Vec<(ShardId, u64)> {
        self.state.lock().published.clone()
    }

    pub(super) fn handing_over_max(&self) -> usize {
        self.state.lock().handing_over_max
    }

    pub(super) fn points(&self) -> Vec<&'static str> {
        self.state.lock().points.clone()
    }

    /// Groups that never get a leader, from now on.
    pub(super) fn shut(&self, groups: impl Iterator<Item = GroupId>) {
        self.state.lock().shut = groups.collect();
    }

    pub(super) fn change(&self, change: impl Fn(&mut Stream)) {
        self.views.send_modify(|view| {
            let view = Arc::make_mut(view);
            for stream in view.streams.values_mut() {
                change(Arc::make_mut(stream));
            }
        });
    }

    /// Makes a call happen, or not.
    async fn call<T>(&self, happen: impl FnOnce(&mut State) -> T) -> Result<T, String> {
        tokio::task::yield_now().await;
        let (done, fault) = {
            let mut state = self.state.lock();
            let number = state.calls;
            state.calls += 1;
            let fault = self.fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
            let lost = fault == Some(Fault::Lost);
            ((!lost).then(|| happen(&mut state)), fault)
        };
        if fault == Some(Fault::Crash) {
            self.crashed.notify_one();
            std::future::pending::<()>().await;
        }
        done.filter(|_| fault.is_none()).ok_or_else(|| "a fault".to_owned())
    }

    fn finish(&self, state: &mut State, reshard: ShardId, creation_second: u64) -> Outcome {
        let under_way = self
            .views
            .borrow()
            .streams
            .values()
            .find_map(|stream| stream.reshards.iter().find(|one| one.id() == reshard).cloned());
        let Some(under_way) = under_way else { return Outcome::NotFound };
        for child in &under_way.children {
            let opening = state.openings.get(&child.id);
            let opening = opening.unwrap_or_else(|| panic!("{} is published shut", child.id));
            assert_eq!(opening.creation_second, creation_second);
        }
        state.published.push((reshard, creation_second));
        self.change(|stream| {
            stream.reshards.retain(|one| one.id() != reshard);
            let Reshard { parents, mut children, .. } = under_way.clone();
            children.iter_mut().for_each(|child| child.creation_second = creation_second);
            let version = MapVersion(stream.map_version().0 + 1);
            stream.map = stream.map.succeeded(version, &parents, children).expect("a map");
        });
        Outcome::Done
    }

    fn begin(&self, parents: &[ShardId], at: Option<HashKey>) -> Outcome {
        self.change(|stream| {
            let is_free = |id: &ShardId| {
                stream.reshard_of(*id).is_none() && stream.map.get(*id).is_some_and(Shard::is_open)
            };
            assert!(parents.iter().all(is_free), "{parents:?} are not free");
            begin_at(stream, parents, at);
            if let Some(goal) = &mut stream.goal {
                goal.splits.retain(|point| Some(*point) != at);
            }
            let under_way = stream.reshards.len();
            assert!(under_way <= AT_ONCE, "{under_way} reshards of a goal are under way");
        });
        Outcome::Done
    }

    fn reached(&self) -> Outcome {
        self.change(|stream| {
            let goal = stream.goal.take().expect("a goal");
            assert_eq!(stream.map.open().count(), goal.target as usize, "not the goal");
            assert!(stream.reshards.is_empty());
        });
        Outcome::Done
    }
}

impl State {
    fn part(&self, parent: ShardId, after: u64) -> WindowPart {
        let tip = self.tips.get(&parent).copied().unwrap_or(REMEMBERED);
        let upto = tip.min(after + PART).max(after);
        WindowPart { parent, after, upto, rows: Default::default(), more: upto < tip }
    }

    /// Seals a parent once; its end is behind what came in meanwhile.
    fn seal(&mut self, parent: &Shard, now: u64) -> Sealed {
        let (created, parent) = (parent.creation_second, parent.id);
        *self.sealed.entry(parent).or_insert_with(|| {
            let end = self.tips.get(&parent).copied().unwrap_or(REMEMBERED) + LATE;
            self.tips.insert(parent, end);
            Sealed { closed_second: now.max(created), last_arrival: Timestamp(now * 1000), end }
        })
    }

    fn inherit(&mut self, child: &Shard, inheritance: Inheritance) -> Inherited {
        for part in inheritance.parts {
            let upto = self.upto.entry((child.id, part.parent)).or_default();
            // A part that would leave a hole is refused.
            if part.after <= *upto {
                *upto = part.upto.max(*upto);
            }
        }
        let has = |parent| self.upto.get(&(child.id, parent)).copied().unwrap_or_default();
        if let Some(opening) = inheritance.opening {
            let ends: Vec<_> =
                child.parents.iter().map(|id| (*id, self.sealed.get(id).map(|s| s.end))).collect();
            let told = opening.parents.iter().map(|&(id, end)| (id, Some(end)));
            assert_eq!(ends, told.collect::<Vec<_>>(), "{} opens by other ends", child.id);
            if opening.parents.iter().all(|&(parent, end)| has(parent) >= end) {
                let first = self.openings.entry(child.id).or_insert(opening.clone());
                assert_eq!(*first, opening, "{} opens twice, differently", child.id);
            }
        }
        let upto = child.parents.iter().map(|&parent| (parent, has(parent))).collect();
        Inherited { opened: self.openings.contains_key(&child.id), upto }
    }
}

impl Calls for Fake {
    fn takes_entries(&self, group: GroupId) -> bool {
        !self.state.lock().shut.contains(&group)
    }

    fn now(&self) -> Timestamp {
        Timestamp(BEGIN * 1000).after(self.begun.elapsed())
    }

    async fn copy_window(&self, parent: &Shard, after: u64) -> Result<WindowPart, router::Error> {
        let part = self.call(|state| state.part(parent.id, after)).await;
        part.map_err(router::Error::Unknown)
    }

    async fn seal(
        &self,
        parent: &Shard,
        after: u64,
    ) -> Result<(Sealed, WindowPart), router::Error> {
        let now = self.now().seconds();
        let sealed = self.call(|state| {
            let sealed = state.seal(parent, now);
            let view = self.views.borrow().clone();
            let under_way = view.streams.values().flat_map(|stream| &stream.reshards);
            let parents = under_way.flat_map(|reshard| &reshard.parents);
            let handing_over = parents.filter(|id| state.sealed.contains_key(id)).count();
            state.handing_over_max = state.handing_over_max.max(handing_over);
            (sealed, state.part(parent.id, after))
        });
        sealed.await.map_err(router::Error::Unknown)
    }

    async fn inherit(
        &self,
        child: &Shard,
        inheritance: Inheritance,
    ) -> Result<Inherited, router::Error> {
        let inherited = self.call(|state| state.inherit(child, inheritance)).await;
        inherited.map_err(router::Error::Unknown)
    }

    async fn propose(&self, command: &Command) -> Result<Outcome, ProposeError> {
        let done = self.call(|state| match command {
            Command::FinishReshard { reshard, creation_second, .. } => {
                self.finish(state, *reshard, *creation_second)
            }
            Command::SplitShard { shard, at, while_updating: true, .. } => {
                self.begin(&[*shard], Some(*at))
            }
            Command::MergeShards { shard, adjacent, while_updating: true, .. } => {
                self.begin(&[*shard, *adjacent], None)
            }
            Command::ReachGoal { .. } => self.reached(),
            other => panic!("not expected: {other:?}"),
        });
        done.await.map_err(ProposeError::Unknown)
    }

    async fn reach(&self, point: &'static str) {
        self.state.lock().points.push(point);
    }
}

impl Calls for Arc<Fake> {
    fn takes_entries(&self, group: GroupId) -> bool {
        (**self).takes_entries(group)
    }

    fn now(&self) -> Timestamp {
        (**self).now()
    }

    async fn copy_window(&self, parent: &Shard, after: u64) -> Result<WindowPart, router::Error> {
        (**self).copy_window(parent, after).await
    }

    async fn seal(
        &self,
        parent: &Shard,
        after: u64,
    ) -> Result<(Sealed, WindowPart), router::Error> {
        (**self).seal(parent, after).await
    }

    async fn inherit(
        &self,
        child: &Shard,
        inheritance: Inheritance,
    ) -> Result<Inherited, router::Error> {
        (**self).inherit(child, inheritance).await
    }

    async fn propose(&self, command: &Command) -> Result<Outcome, ProposeError> {
        (**self).propose(command).await
    }

    async fn reach(&self, point: &'static str) {
        (**self).reach(point).await;
    }
}

fn shard(index: u32, range: HashKeyRange, parents: Vec<ShardId>) -> Shard {
    Shard {
        id: ShardId::from(index),
        group: GroupId(u64::from(index) + 1),
        range,
        creation_second: if parents.is_empty() { BEGIN - 10 } else { 0 },
        parents,
        replicas: [1, 2, 3].map(NodeId).to_vec(),
        closed_second: None,
    }
}

/// An ACTIVE stream of this many shards.
pub(super) fn stream(shards: u32) -> Stream {
    let shards = (0..).zip(HashKeyRange::uniform(shards));
    let shards: Vec<Shard> = shards.map(|(i, range)| shard(i, range, vec![])).collect();
    Stream {
        name: "orders".parse().expect("a legal name"),
        incarnation: Incarnation(7),
        status: StreamStatus::Active,
        mode: StreamMode::Provisioned,
        created: Timestamp(1),
        retention_hours: 24,
        record_bytes_max: 1 << 20,
        tags: BTreeMap::new(),
        next_shard: shards.len() as u32,
        map: ShardMap::new(MapVersion(1), shards).expect("tiles"),
        reshards: vec![],
        goal: None,
        rescaled: vec![],
        mode_changed: vec![],
    }
}

/// Puts a reshard of these parents under way, in the middle when it is a split; gives its id.
pub(super) fn begin(stream: &mut Stream, parents: &[u32]) -> ShardId {
    let parents: Vec<ShardId> = parents.iter().map(|&index| ShardId::from(index)).collect();
    begin_at(stream, &parents, None)
}

fn begin_at(stream: &mut Stream, parents: &[ShardId], at: Option<HashKey>) -> ShardId {
    let range = |id: &ShardId| stream.map.get(*id).expect("a parent").range;
    let (first, last) = (range(&parents[0]).first, range(&parents[parents.len() - 1]).last);
    let ranges = match parents.len() {
        1 => {
            let middle = HashKey(first.0 + (last.0 - first.0) / 2 + 1);
            let at = at.unwrap_or(middle);
            let lower = HashKeyRange { first, last: HashKey(at.0 - 1) };
            vec![lower, HashKeyRange { first: at, last }]
        }
        _ => vec![HashKeyRange { first, last }],
    };
    let next = stream.next_shard;
    let children: Vec<Shard> =
        (next..).zip(ranges).map(|(i, range)| shard(i, range, parents.to_vec())).collect();
    stream.next_shard += children.len() as u32;
    stream.status = StreamStatus::Updating;
    let reshard =
        Reshard { parents: parents.to_vec(), children, begun: Timestamp(u64::from(next)) };
    let id = reshard.id();
    stream.reshards.push(reshard);
    id
}
