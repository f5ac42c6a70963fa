//! Streams in memory, for tests of the operations and the door: no cluster, a clock set by hand,
//! and failures on demand.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tristream_proto::domain::limits::ACCOUNT_SHARDS_MAX;
use tristream_proto::domain::{
    GroupId, HashKey, HashKeyRange, Incarnation, MapVersion, NodeId, Origin, ReadFrom, Record,
    RecordPosition, SequenceNumber, Shard, ShardId, ShardMap, StoredRecord, StreamName, Timestamp,
    TokenKey,
};
use tristream_proto::wire;

use super::{Api, Streams};
use crate::clock::Clock;
use crate::entropy::OsEntropy;
use crate::metadata::{Reshard, Stream, StreamMode, StreamStatus, View};
use crate::router::{Error, Fresh, NewStream};
use crate::shard::Page;

/// A clock that stands still until it is moved.
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// The streams, and what shall go wrong with them.
pub(crate) struct Fake {
    pub(crate) clock: Arc<HandClock>,
    state: Mutex<State>,
    waiting: AtomicU64,
    /// Puts wait for a permit once this is set up.
    gate: Mutex<Option<Arc<tokio::sync::Semaphore>>>,
}

#[derive(Default)]
struct State {
    view: View,
    /// What the node at hand knows, if it lags behind.
    lagging: Option<View>,
    /// It reaches no quorum.
    cut_off: bool,
    records: HashMap<GroupId, Vec<StoredRecord>>,
    entries: u64,
    /// Of all records that were put, stored or not.
    origins: Vec<Option<Origin>>,
    put_faults: HashMap<ShardId, Error>,
    read_fault: Option<Error>,
    /// Groups that take no more records.
    sealed: HashSet<GroupId>,
    /// Changes of shards and modes that were asked for, and what shall become of them.
    changes: Vec<String>,
    change_fault: Option<Error>,
    retention: Option<Duration>,
    stale: bool,
    panics: bool,
}

impl Fake {
    pub(crate) fn new() -> Arc<Fake> {
        let clock = Arc::new(HandClock(AtomicU64::new(1_790_000_000_250)));
        Arc::new(Fake {
            clock,
            state: Mutex::default(),
            waiting: AtomicU64::new(0),
            gate: Mutex::default(),
        })
    }

    /// Operations on the fake.
    pub(crate) fn api(self: &Arc<Fake>) -> Arc<Api> {
        Arc::new(Api {
            streams: self.clone(),
            clock: self.clock.clone(),
            entropy: Arc::new(OsEntropy),
            account: "000000000000".to_owned(),
            region: "us-east-1".to_owned(),
            token_key: TokenKey::derived_from("otter"),
            iterator_life: Duration::from_secs(300),
            retention_override: self.state.lock().retention,
            put_deadline: Duration::from_secs(5),
            deduplicate: true,
        })
    }

    pub(crate) fn set_status(&self, name: &str, status: StreamStatus) {
        self.state.lock().change(name, |stream| stream.status = status);
    }

    pub(crate) fn set_mode(&self, name: &str, mode: StreamMode) {
        self.state.lock().change(name, |stream| stream.mode = mode);
    }

    /// Records are kept for this long, in the `Api` made after this.
    pub(crate) fn keep_records_for(&self, time: Duration) {
        self.state.lock().retention = Some(time);
    }

    /// From now on changes of shards and modes are refused.
    pub(crate) fn fail_changes(&self, error: Error) {
        self.state.lock().change_fault = Some(error);
    }

    /// What changes of shards and modes were asked for since the last call.
    pub(crate) fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().changes)
    }

    /// Seals the parents of all reshards under way.
    pub(crate) fn seal_parents(&self, name: &str) {
        let stream = self.stream_now(name);
        let parents = stream.reshards.iter().flat_map(|reshard| &reshard.parents);
        let groups = parents.filter_map(|parent| stream.map.get(*parent)).map(|shard| shard.group);
        self.state.lock().sealed.extend(groups);
    }

    /// Ends all reshards under way: the children take over from now on.
    pub(crate) fn publish(&self, name: &str) {
        self.seal_parents(name);
        let second = self.clock.now().seconds() + 1;
        self.state.lock().change(name, |stream| finish_all(stream, second));
    }

    /// Drops closed shards.
    pub(crate) fn expire(&self, name: &str, shards: &[u32]) {
        let gone = |id: ShardId| shards.contains(&id.index());
        self.state.lock().change(name, |stream| {
            let left = stream.map.shards().iter().filter(|shard| !gone(shard.id)).cloned();
            stream.map = ShardMap::new(stream.map.version(), left.collect()).unwrap();
        });
    }

    pub(crate) fn forget(&self, name: &str) {
        self.state.lock().view.streams.remove(&name.parse::<StreamName>().unwrap());
    }

    /// From now on puts to the shard of this index fail.
    pub(crate) fn fail_puts(&self, shard: u32, error: Error) {
        self.state.lock().put_faults.insert(ShardId::from(shard), error);
    }

    pub(crate) fn fail_reads(&self, error: Error) {
        self.state.lock().read_fault = Some(error);
    }

    /// All that is known now.
    pub(crate) fn view(&self) -> View {
        self.state.lock().view.clone()
    }

    /// From now on the node at hand knows no more than this, until it asks.
    /// The node at hand reaches no quorum from now on.
    pub(crate) fn cut_off(&self) {
        self.state.lock().cut_off = true;
    }

    pub(crate) fn lag_at(&self, view: View) {
        self.state.lock().lagging = Some(view);
    }

    /// From now on a put waits until it is given a permit.
    pub(crate) fn hold_puts(&self) -> Arc<tokio::sync::Semaphore> {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        *self.gate.lock() = Some(gate.clone());
        gate
    }

    /// Puts that came to the gate.
    pub(crate) fn waiting_puts(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(crate) fn read_stale(&self) {
        self.state.lock().stale = true;
    }

    /// From now on every view panics.
    pub(crate) fn panic(&self) {
        self.state.lock().panics = true;
    }

    pub(crate) fn stored(&self) -> usize {
        self.state.lock().records.values().map(Vec::len).sum()
    }

    /// What the records that were put since the last question came in with.
    pub(crate) fn take_origins(&self) -> Vec<Option<Origin>> {
        std::mem::take(&mut self.state.lock().origins)
    }

    pub(crate) fn stream_now(&self, name: &str) -> Arc<Stream> {
        self.state.lock().view.streams[&name.parse::<StreamName>().unwrap()].clone()
    }
}

fn shards(first_group: u64, count: u32, second: u64) -> Vec<Shard> {
    let ranges = HashKeyRange::uniform(count).into_iter().enumerate();
    let shard = |(index, range): (usize, HashKeyRange)| Shard {
        id: ShardId::from(index as u32),
        group: GroupId(first_group + index as u64),
        range,
        creation_second: second - 3,
        parents: vec![],
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        closed_second: None,
    };
    ranges.map(shard).collect()
}

/// Publishes every reshard of the stream.
fn finish_all(stream: &mut Stream, second: u64) {
    let mut shards = stream.map.shards().to_vec();
    for reshard in std::mem::take(&mut stream.reshards) {
        for parent in shards.iter_mut().filter(|shard| reshard.parents.contains(&shard.id)) {
            parent.closed_second = Some(second - 1);
        }
        let child = |child: Shard| Shard { creation_second: second, ..child };
        shards.extend(reshard.children.into_iter().map(child));
    }
    shards.sort_by_key(|shard| shard.id);
    let version = MapVersion(stream.map.version().0 + 1);
    stream.map = ShardMap::new(version, shards).unwrap();
    stream.status = StreamStatus::Active;
}

/// Begins a reshard, as the metadata group does.
fn begin(stream: &mut Stream, parents: &[ShardId], ranges: &[HashKeyRange], group: u64) {
    let child = |(at, range): (u32, &HashKeyRange)| Shard {
        id: ShardId::from(stream.next_shard + at),
        group: GroupId(group + u64::from(at)),
        range: *range,
        creation_second: 0,
        parents: parents.to_vec(),
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        closed_second: None,
    };
    let children: Vec<Shard> = (0..).zip(ranges).map(child).collect();
    stream.next_shard += children.len() as u32;
    let begun = stream.created;
    stream.reshards.push(Reshard { parents: parents.to_vec(), children, begun });
    stream.status = StreamStatus::Updating;
}

impl State {
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Stream)) {
        let name: StreamName = name.parse().unwrap();
        let mut stream = self.view.streams[&name].as_ref().clone();
        change(&mut stream);
        self.view.streams.insert(name, Arc::new(stream));
    }

    /// Notes what was asked for; fails when it shall.
    fn note(&mut self, what: String) -> Result<(), Error> {
        self.changes.push(what);
        self.change_fault.clone().map_or(Ok(()), Err)
    }

    fn reshard(&mut self, name: &str, parents: &[ShardId], ranges: &[HashKeyRange]) {
        let group = self.view.next_group + 1;
        self.view.next_group += ranges.len() as u64;
        self.change(name, |stream| begin(stream, parents, ranges, group));
    }

    fn create(&mut self, new: NewStream, now: Timestamp) -> Result<(), Error> {
        let streams = self.view.streams.values();
        let open: usize = streams.map(|stream| stream.map.open().count()).sum();
        if self.view.streams.contains_key(&new.name) {
            return Err(Error::AlreadyExists(new.name));
        }
        if open + new.shard_count as usize > ACCOUNT_SHARDS_MAX {
            return Err(Error::ShardLimit { open, limit: ACCOUNT_SHARDS_MAX });
        }
        let shards = shards(self.view.next_group + 1, new.shard_count, now.seconds());
        self.view.next_group += u64::from(new.shard_count);
        self.view.next_incarnation += 1;
        let stream = Stream {
            name: new.name.clone(),
            incarnation: Incarnation(self.view.next_incarnation),
            status: StreamStatus::Creating,
            mode: new.mode,
            created: now,
            retention_hours: 24,
            record_bytes_max: new.record_bytes_max,
            tags: new.tags,
            map: ShardMap::new(MapVersion(1), shards).unwrap(),
            reshards: vec![],
            goal: None,
            next_shard: new.shard_count,
            rescaled: vec![],
            mode_changed: vec![],
        };
        self.view.streams.insert(new.name, Arc::new(stream));
        Ok(())
    }

    fn put(&mut self, shard: &Shard, record: Record, now: Timestamp) -> SequenceNumber {
        let log = self.records.entry(shard.group).or_default();
        let first = RecordPosition { index: self.entries, position: 0 };
        // Records of one call are neighbours within their shard.
        let last = log.last().map(|record| record.sequence_number.position());
        let place = last.filter(|last| last.index == first.index).map_or(first, |at| at.next());
        let sequence_number = SequenceNumber {
            creation_second: shard.creation_second,
            shard: shard.id,
            counter: place.counter(),
            record_second: now.seconds(),
        };
        let Record { partition_key, data, .. } = record;
        log.push(StoredRecord { sequence_number, arrival: now, partition_key, data });
        sequence_number
    }

    fn read(&self, shard: &Shard, from: RecordPosition, count_max: usize) -> Page {
        let none = Vec::new();
        let log = self.records.get(&shard.group).unwrap_or(&none);
        let rest = log.iter().filter(|record| record.sequence_number.position() >= from);
        let (all, records): (usize, Vec<_>) =
            (rest.clone().count(), rest.take(count_max).cloned().collect());
        Page {
            next: records.last().map_or(from, |last| last.sequence_number.position().next()),
            at_tip: records.len() == all,
            at_end: records.len() == all && self.sealed.contains(&shard.group),
            newest_arrival: log.last().map(|newest| newest.arrival),
            records,
        }
    }

    fn seek(&self, shard: &Shard, from: ReadFrom) -> RecordPosition {
        let none = Vec::new();
        let log = self.records.get(&shard.group).unwrap_or(&none);
        let tip = log
            .last()
            .map_or(RecordPosition::default(), |newest| newest.sequence_number.position().next());
        match from {
            ReadFrom::TrimHorizon => RecordPosition::default(),
            ReadFrom::At(position) => position,
            ReadFrom::Latest => tip,
            ReadFrom::Time(time) => log
                .iter()
                .find(|record| record.arrival >= time)
                .map_or(tip, |record| record.sequence_number.position()),
        }
    }
}

fn soon<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Streams for Fake {
    fn fresh_view(&self) -> BoxFuture<'_, Fresh> {
        let state = self.state.lock();
        assert!(!state.panics, "asked to panic");
        let lagging = state.lagging.as_ref().filter(|_| state.cut_off);
        let view = Arc::new(lagging.unwrap_or(&state.view).clone());
        soon(Fresh { view, is_confirmed: !state.cut_off })
    }

    fn confirmed_view(&self) -> BoxFuture<'_, Result<Arc<View>, Error>> {
        let state = self.state.lock();
        soon(match state.cut_off {
            true => Err(Error::Unavailable("no quorum".to_owned())),
            false => Ok(Arc::new(state.view.clone())),
        })
    }

    fn stream<'a>(
        &'a self,
        name: &'a StreamName,
    ) -> BoxFuture<'a, Result<Option<Arc<Stream>>, Error>> {
        let state = self.state.lock();
        let view = state.lagging.as_ref().unwrap_or(&state.view);
        soon(Ok(view.streams.get(name).cloned()))
    }

    fn create_stream(&self, stream: NewStream, _: Duration) -> BoxFuture<'_, Result<(), Error>> {
        soon(self.state.lock().create(stream, self.clock.now()))
    }

    fn delete_stream<'a>(
        &'a self,
        stream: &'a Stream,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.set_status(stream.name.as_str(), StreamStatus::Deleting);
        soon(Ok(()))
    }

    fn put<'a>(
        &'a self,
        stream: &'a Stream,
        records: Vec<Record>,
        _: Duration,
    ) -> BoxFuture<'a, Vec<Result<SequenceNumber, Error>>> {
        Box::pin(async move {
            self.state.lock().origins.extend(records.iter().map(|record| record.origin));
            let gate = self.gate.lock().clone();
            if let Some(gate) = gate {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
            }
            let mut state = self.state.lock();
            state.entries += 1;
            let mut put = |record: Record| {
                let shard = stream.map.owner(record.hash_key());
                match state.put_faults.get(&shard.id) {
                    Some(error) => Err(error.clone()),
                    None => Ok(state.put(shard, record, self.clock.now())),
                }
            };
            records.into_iter().map(&mut put).collect()
        })
    }

    fn split_shard<'a>(
        &'a self,
        stream: &'a Stream,
        shard: ShardId,
        at: HashKey,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let mut state = self.state.lock();
        let noted = state.note(format!("split {} at {at}", shard.index()));
        if noted.is_ok() {
            let range = stream.map.get(shard).unwrap().range;
            let ranges = [
                HashKeyRange { first: range.first, last: HashKey(at.0 - 1) },
                HashKeyRange { first: at, last: range.last },
            ];
            state.reshard(stream.name.as_str(), &[shard], &ranges);
        }
        soon(noted)
    }

    fn merge_shards<'a>(
        &'a self,
        stream: &'a Stream,
        shard: ShardId,
        adjacent: ShardId,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let mut state = self.state.lock();
        let noted = state.note(format!("merge {} {}", shard.index(), adjacent.index()));
        if noted.is_ok() {
            let [low, high] = [shard, adjacent].map(|id| stream.map.get(id).unwrap().range);
            let range = HashKeyRange { first: low.first, last: high.last };
            state.reshard(stream.name.as_str(), &[shard, adjacent], &[range]);
        }
        soon(noted)
    }

    fn update_shard_count<'a>(
        &'a self,
        stream: &'a Stream,
        target: u32,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let mut state = self.state.lock();
        let noted = state.note(format!("scale to {target}"));
        if noted.is_ok() {
            state.change(stream.name.as_str(), |stream| stream.status = StreamStatus::Updating);
        }
        soon(noted)
    }

    fn update_mode<'a>(
        &'a self,
        stream: &'a Stream,
        mode: StreamMode,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let mut state = self.state.lock();
        let noted = state.note(format!("mode {mode:?}"));
        if noted.is_ok() {
            state.change(stream.name.as_str(), |stream| stream.mode = mode);
        }
        soon(noted)
    }

    fn read<'a>(
        &'a self,
        shard: &'a Shard,
        from: RecordPosition,
        count_max: usize,
        _: usize,
    ) -> BoxFuture<'a, Result<(Page, bool), Error>> {
        let state = self.state.lock();
        soon(match &state.read_fault {
            Some(error) => Err(error.clone()),
            None => Ok((state.read(shard, from, count_max), state.stale)),
        })
    }

    fn seek<'a>(
        &'a self,
        shard: &'a Shard,
        from: ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPosition, Error>> {
        soon(Ok(self.state.lock().seek(shard, from)))
    }

    fn cluster_status(&self) -> BoxFuture<'_, wire::ClusterStatusResponse> {
        let group = |group, stream: &str, leader| wire::GroupStatus {
            group,
            stream: stream.to_owned(),
            shard_index: 2,
            leader,
            term: 4,
            members: vec![1, 2, 3],
            committed: 17,
            replicas: vec![wire::ReplicaStatus { node: 2, matched: 16, lag: 1 }],
            ..Default::default()
        };
        let node = wire::NodeStatus {
            id: 1,
            az: "az-a".to_owned(),
            kinesis: "127.0.0.1:4567".to_owned(),
            peer: "127.0.0.1:5567".to_owned(),
            alive: true,
            version: "0.1.0".to_owned(),
            storage: Some(wire::StorageStatus {
                free_bytes: 40,
                total_bytes: 100,
                reserve_bytes: 5,
                low: false,
            }),
        };
        soon(wire::ClusterStatusResponse {
            cluster: "otter".to_owned(),
            nodes: vec![node],
            groups: vec![group(0, "", 3), group(9, "orders", 0)],
        })
    }
}
