//! Puts through reshards, doubts and deadlines, over shards that do as they are told.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tokio::task::yield_now;
use tristream_proto::domain::{
    CallId, HashKey, HashKeyRange, Incarnation, Origin, PartitionKey, ShardMap, Timestamp,
};

use super::*;
use crate::entropy::OsEntropy;
use crate::metadata::StreamMode;

const ME: NodeId = NodeId(1);
const LONG: Duration = Duration::from_secs(60);
/// The widths of the ranges below are counted in quarters of the key space.
const QUARTER: u128 = 1 << 126;
const SECOND: u64 = 1_790_000_000;

/// Shards by id, range, and second of closing.
type Shards<'a> = &'a [(u32, HashKeyRange, Option<u64>)];

/// A stream of these shards; the group of shard n is 10 + n.
pub(in crate::router) fn stream(version: u64, shards: Shards<'_>) -> Stream {
    let shard = |&(id, range, closed_second): &(u32, HashKeyRange, Option<u64>)| Shard {
        id: ShardId::from(id),
        group: GroupId(u64::from(id) + 10),
        range,
        creation_second: SECOND,
        parents: vec![],
        replicas: [1, 2, 3].map(NodeId).to_vec(),
        closed_second,
    };
    let shards = shards.iter().map(shard).collect();
    Stream {
        name: "orders".parse().expect("a name"),
        incarnation: Incarnation(5),
        status: StreamStatus::Updating,
        mode: StreamMode::Provisioned,
        created: Timestamp(1),
        retention_hours: 24,
        record_bytes_max: 1 << 20,
        tags: BTreeMap::new(),
        map: ShardMap::new(MapVersion(version), shards).expect("tiles"),
        reshards: vec![],
        goal: None,
        next_shard: 0,
        rescaled: vec![],
        mode_changed: vec![],
    }
}

/// The quarters `first..=last`.
fn quarters(first: u128, last: u128) -> HashKeyRange {
    HashKeyRange { first: HashKey(first * QUARTER), last: HashKey(last * QUARTER + (QUARTER - 1)) }
}

/// Two halves.
fn halves() -> Stream {
    stream(7, &[(0, quarters(0, 1), None), (1, quarters(2, 3), None)])
}

/// The first half split.
fn split() -> Stream {
    let closed = (0, quarters(0, 1), Some(SECOND + 9));
    let (left, right) = ((2, quarters(0, 0), None), (3, quarters(1, 1), None));
    stream(8, &[closed, (1, quarters(2, 3), None), left, right])
}

/// And then its children merged.
fn merged() -> Stream {
    let closed = Some(SECOND + 9);
    let (left, right) = ((2, quarters(0, 0), closed), (3, quarters(1, 1), closed));
    let parent = (0, quarters(0, 1), closed);
    stream(9, &[parent, (1, quarters(2, 3), None), left, right, (4, quarters(0, 1), None)])
}

/// What a leader does with the next attempt, instead of what it should.
enum Quirk {
    Says(Miss),
    /// It stores the records, and its answer is lost.
    Loses,
}

fn unknown() -> Quirk {
    Quirk::Says(Miss::Final(Error::Unknown("the leader went silent".to_owned())))
}

#[derive(Default)]
struct World {
    quirks: BTreeMap<u64, VecDeque<Quirk>>,
    sealed: BTreeSet<u64>,
    /// Texts by group, in order.
    stored: BTreeMap<u64, Vec<String>>,
    known: HashMap<Origin, SequenceNumber>,
    /// Attempts at leaders: group and map version.
    asked: Vec<(u64, u64)>,
}

/// All shards, led by this node.
struct Fake {
    views: watch::Sender<Arc<View>>,
    world: Mutex<World>,
}

impl Fake {
    fn new(stream: Stream) -> Fake {
        let fake = Fake { views: watch::Sender::default(), world: Mutex::default() };
        fake.publish(stream);
        fake
    }

    fn publish(&self, stream: Stream) {
        let mut view = View { map_version: stream.map_version().0, ..View::default() };
        view.streams.insert(stream.name.clone(), Arc::new(stream));
        self.views.send_replace(Arc::new(view));
    }

    fn seal(&self, group: u64) {
        self.world.lock().sealed.insert(group);
    }

    fn quirks(&self, group: u64, quirks: impl IntoIterator<Item = Quirk>) {
        self.world.lock().quirks.entry(group).or_default().extend(quirks);
    }

    /// Group and map version of each attempt, sorted: shares are on their way at the same time.
    fn asked(&self) -> Vec<(u64, u64)> {
        let mut asked = self.world.lock().asked.clone();
        asked.sort_unstable_by_key(|&(group, version)| (version, group));
        asked
    }

    fn stored(&self, group: u64) -> Vec<String> {
        self.world.lock().stored.get(&group).cloned().unwrap_or_default()
    }

    /// Waits until the leader of `group` was asked by the map of `version`.
    async fn was_asked(&self, group: u64, version: u64) {
        let asked = async {
            while !self.asked().contains(&(group, version)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, asked).await.expect("asked in time");
    }

    async fn put(&self, records: Vec<Record>, time: Duration) -> Vec<Outcome> {
        self.put_by(&halves(), records, time).await
    }

    async fn put_by(&self, by: &Stream, records: Vec<Record>, time: Duration) -> Vec<Outcome> {
        put(self, by, records, Instant::now() + time).await
    }
}

impl World {
    fn append(&mut self, stream: &Stream, shard: &Shard, records: &[Record]) -> Landed {
        let group = shard.group.0;
        // What was stored before is known to the children too, sealed or not.
        let is_new = |record: &&Record| record.origin.is_none_or(|o| !self.known.contains_key(&o));
        if self.sealed.contains(&group) {
            return Landed::Moved(next(stream.map_version()));
        }
        let fresh: Vec<&Record> = records.iter().filter(is_new).collect();
        let mut numbers = vec![];
        for record in records {
            let is_fresh = fresh.iter().any(|fresh| std::ptr::eq(*fresh, record));
            numbers.push(match record.origin.filter(|_| !is_fresh) {
                Some(origin) => self.known[&origin],
                None => self.store(shard, record),
            });
        }
        Landed::Stored(numbers)
    }

    fn store(&mut self, shard: &Shard, record: &Record) -> SequenceNumber {
        let texts = self.stored.entry(shard.group.0).or_default();
        texts.push(String::from_utf8(record.data.to_vec()).expect("text"));
        let number = SequenceNumber {
            creation_second: SECOND,
            shard: shard.id,
            counter: texts.len() as u64,
            record_second: SECOND,
        };
        if let Some(origin) = record.origin {
            self.known.insert(origin, number);
        }
        number
    }
}

impl Ground for Fake {
    fn me(&self) -> NodeId {
        ME
    }

    fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.subscribe()
    }

    fn leader_of(&self, _: GroupId) -> Option<NodeId> {
        Some(ME)
    }

    fn entropy(&self) -> &dyn Entropy {
        &OsEntropy
    }

    fn attempt<'a>(
        &'a self,
        route: Route,
        stream: &'a Stream,
        shard: &'a Shard,
        records: &'a [Record],
        _: Duration,
    ) -> BoxFuture<'a, Result<Landed, Miss>> {
        Box::pin(async move {
            yield_now().await;
            if route != Route::Here {
                let leader = Some(ME);
                return Err(Miss::Elsewhere { leader, why: "does not lead".to_owned() });
            }
            let mut world = self.world.lock();
            let group = shard.group.0;
            world.asked.push((group, stream.map_version().0));
            match world.quirks.get_mut(&group).and_then(VecDeque::pop_front) {
                None => Ok(world.append(stream, shard, records)),
                Some(Quirk::Says(miss)) => Err(miss),
                Some(Quirk::Loses) => {
                    world.append(stream, shard, records);
                    Err(Miss::Final(Error::Unknown("the answer was lost".to_owned())))
                }
            }
        })
    }
}

/// A record per quarter named; its data is its place and its quarter.
fn records(of: &[u128]) -> Vec<Record> {
    let record = |(place, quarter): (usize, &u128)| Record {
        partition_key: PartitionKey::new("k").expect("a legal key"),
        explicit_hash_key: Some(HashKey(quarter * QUARTER)),
        origin: Some(Origin { call: CallId([7; 16]), ordinal: place as u16 }),
        data: Bytes::from(format!("{place}/{quarter}")),
    };
    of.iter().enumerate().map(record).collect()
}

fn without_origins(mut records: Vec<Record>) -> Vec<Record> {
    records.iter_mut().for_each(|record| record.origin = None);
    records
}

/// The shards that took the records.
#[track_caller]
fn shards_of(outcomes: &[Outcome]) -> Vec<u32> {
    let shard = |outcome: &Outcome| outcome.as_ref().expect("stored").shard.index();
    outcomes.iter().map(shard).collect()
}

fn unavailable() -> Quirk {
    Quirk::Says(Miss::elsewhere("starting"))
}

#[tokio::test(start_paused = true)]
async fn records_go_to_the_owners_of_their_keys_in_their_order() {
    let fake = Fake::new(halves());
    let outcomes = fake.put(records(&[3, 0, 2, 1, 0, 3]), LONG).await;
    assert_eq!(shards_of(&outcomes), [1, 0, 1, 0, 0, 1]);
    assert_eq!(fake.stored(10), ["1/0", "3/1", "4/0"]);
    assert_eq!(fake.stored(11), ["0/3", "2/2", "5/3"]);
    let counters: Vec<u64> = outcomes.iter().flatten().map(|number| number.counter).collect();
    assert_eq!(counters, [1, 1, 2, 2, 3, 3], "each record got its own number");
    assert_eq!(fake.asked().len(), 2, "one put per shard");
}

#[tokio::test(start_paused = true)]
async fn a_put_that_meets_the_seal_goes_on_by_the_next_map() {
    let fake = Fake::new(halves());
    fake.seal(10);
    let publish = async {
        fake.was_asked(10, 7).await;
        fake.was_asked(11, 7).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.stored(11), ["2/3"], "another shard's records are not held");
        assert_eq!(fake.asked().len(), 2, "a sealed shard is asked once by a map");
        fake.publish(split());
    };
    let put = fake.put(records(&[1, 0, 3, 1, 0]), LONG);
    let (outcomes, ()) = tokio::join!(put, publish);
    assert_eq!(shards_of(&outcomes), [3, 2, 1, 3, 2]);
    assert_eq!(fake.stored(12), ["1/0", "4/0"]);
    assert_eq!(fake.stored(13), ["0/1", "3/1"]);
    assert_eq!(fake.stored(10), Vec::<String>::new());
    assert_eq!(fake.asked()[2..], [(12, 8), (13, 8)]);
}

#[tokio::test(start_paused = true)]
async fn two_reshards_in_a_row_are_followed() {
    let fake = Fake::new(halves());
    [10, 12, 13].iter().for_each(|&group| fake.seal(group));
    let publish = async {
        fake.was_asked(10, 7).await;
        fake.publish(split());
        fake.was_asked(12, 8).await;
        fake.was_asked(13, 8).await;
        fake.publish(merged());
    };
    let (outcomes, ()) = tokio::join!(fake.put(records(&[0, 1, 0, 1]), LONG), publish);
    assert_eq!(shards_of(&outcomes), [4; 4]);
    // Two shares by now: in order each, and in none between them.
    let texts = fake.stored(14);
    let of = |quarter: &str| texts.iter().filter(|t| t.ends_with(quarter)).cloned().collect();
    let (left, right): (Vec<String>, Vec<String>) = (of("/0"), of("/1"));
    assert_eq!((left, right), (vec!["0/0".into(), "2/0".into()], vec!["1/1".into(), "3/1".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_reshard_elsewhere_wakes_nobody_for_long() {
    let fake = Fake::new(halves());
    fake.seal(11);
    // The first half is split, while the second is sealed and waits for its own map.
    let publish = async {
        fake.was_asked(11, 7).await;
        fake.publish(split());
        fake.was_asked(11, 8).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let children = [(4, quarters(2, 2), None), (5, quarters(3, 3), None)];
        let mut shards: Vec<_> =
            split().map.shards().iter().map(|s| (s.id.index(), s.range, s.closed_second)).collect();
        shards[1].2 = Some(SECOND + 20);
        shards.extend(children);
        fake.publish(stream(9, &shards));
    };
    let (outcomes, ()) = tokio::join!(fake.put(records(&[3, 2]), LONG), publish);
    assert_eq!(shards_of(&outcomes), [5, 4]);
    assert_eq!(fake.asked(), [(11, 7), (11, 8), (14, 9), (15, 9)], "once by each map");
}

#[tokio::test(start_paused = true)]
async fn a_put_begins_by_the_newest_map_of_its_stream() {
    let fake = Fake::new(split());
    let outcomes = fake.put_by(&halves(), records(&[0, 1]), LONG).await;
    assert_eq!(shards_of(&outcomes), [2, 3]);
    assert_eq!(fake.asked(), [(12, 8), (13, 8)], "the closed parent is not asked");
}

#[tokio::test(start_paused = true)]
async fn a_newer_map_ends_the_search_for_a_parents_leader() {
    let fake = Fake::new(halves());
    fake.quirks(10, std::iter::repeat_with(unavailable).take(1_000));
    let publish = async {
        fake.was_asked(10, 7).await;
        fake.publish(split());
    };
    let (outcomes, ()) = tokio::join!(fake.put(records(&[0, 1]), LONG), publish);
    assert_eq!(shards_of(&outcomes), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_held_put_says_no_effect_unless_there_was_a_doubt() {
    let fake = Fake::new(halves());
    fake.seal(10);
    let held = fake.put(records(&[0, 3]), Duration::from_secs(2)).await;
    assert!(matches!(held[0], Err(Error::Unavailable(_))), "{held:?}");
    assert!(held[1].is_ok(), "{held:?}");

    let fake = Fake::new(halves());
    fake.quirks(10, [unknown()]);
    fake.seal(10);
    let held = fake.put(records(&[0, 1]), Duration::from_secs(2)).await;
    assert!(held.iter().all(|end| matches!(end, Err(Error::Unknown(_)))), "{held:?}");
    assert_eq!(fake.asked().len(), 2, "then it was sealed, and waited");
}

#[tokio::test(start_paused = true)]
async fn a_doubt_goes_with_the_records_to_the_children() {
    let fake = Fake::new(halves());
    fake.quirks(10, [unknown()]);
    fake.seal(10);
    // One child takes its part; the other has no leader.
    fake.quirks(13, std::iter::repeat_with(unavailable).take(1_000));
    let publish = async {
        fake.was_asked(10, 7).await;
        fake.publish(split());
    };
    let put = fake.put(records(&[0, 1]), Duration::from_secs(5));
    let (outcomes, ()) = tokio::join!(put, publish);
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(Error::Unknown(_))), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_deleted_meanwhile_is_not_waited_for() {
    let gone = |fake: &Fake| fake.views.send_replace(Arc::default());
    let deleting =
        |fake: &Fake| fake.publish(Stream { status: StreamStatus::Deleting, ..halves() });
    let anew = |fake: &Fake| fake.publish(Stream { incarnation: Incarnation(6), ..split() });
    let ways: [&dyn Fn(&Fake); 3] = [&|fake| drop(gone(fake)), &deleting, &anew];
    for delete in ways {
        for (quirk, is_doubtful) in [(None, false), (Some(unknown()), true)] {
            let fake = Fake::new(halves());
            fake.quirks(10, quirk);
            fake.seal(10);
            let begun = Instant::now();
            let publish = async {
                fake.was_asked(10, 7).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                delete(&fake);
            };
            let (ends, ()) = tokio::join!(fake.put(records(&[0]), LONG), publish);
            match &ends[0] {
                Err(Error::StreamNotFound(_)) => assert!(!is_doubtful),
                Err(Error::Unknown(_)) => assert!(is_doubtful),
                end => panic!("{end:?}"),
            }
            assert!(begun.elapsed() < LONG / 2);
            assert!(fake.asked().iter().all(|&(group, _)| group == 10));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_be_stored_is_put_again_only_when_the_shard_can_tell() {
    let fake = Fake::new(halves());
    fake.quirks(10, [Quirk::Loses]);
    let outcomes = fake.put(records(&[0, 1]), LONG).await;
    assert_eq!(shards_of(&outcomes), [0, 0]);
    assert_eq!(fake.stored(10), ["0/0", "1/1"], "once");
    assert_eq!(fake.asked().len(), 2);

    let mut one_without = records(&[0, 1]);
    one_without[1].origin = None;
    for records in [without_origins(records(&[0, 1])), one_without] {
        let fake = Fake::new(halves());
        fake.quirks(10, [Quirk::Loses]);
        let outcomes = fake.put(records, LONG).await;
        assert!(outcomes.iter().all(|end| matches!(end, Err(Error::Unknown(_)))), "{outcomes:?}");
        assert_eq!(fake.asked().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_parent_stored_before_its_seal_keeps_its_number() {
    let fake = Fake::new(halves());
    fake.quirks(10, [Quirk::Loses]);
    let publish = async {
        fake.was_asked(10, 7).await;
        fake.seal(10);
        fake.publish(split());
    };
    let (outcomes, ()) = tokio::join!(fake.put(records(&[0, 1]), LONG), publish);
    assert_eq!(shards_of(&outcomes), [0, 0], "the parent's numbers, told by the children");
    assert_eq!(fake.stored(12).len() + fake.stored(13).len(), 0);
    assert_eq!(fake.asked(), [(10, 7), (12, 8), (13, 8)]);
}

#[tokio::test(start_paused = true)]
async fn a_doubt_lasts_to_the_deadline_and_the_leader_is_not_hammered() {
    for then in [unknown as fn() -> Quirk, unavailable] {
        let fake = Fake::new(halves());
        fake.quirks(10, [unknown()]);
        fake.quirks(10, std::iter::repeat_with(then).take(10_000));
        let outcomes = fake.put(records(&[0]), Duration::from_secs(4)).await;
        assert!(matches!(outcomes[0], Err(Error::Unknown(_))), "{outcomes:?}");
        let asked = fake.asked().len();
        // Pauses grow to 80 ms and more.
        assert!((5..=60).contains(&asked), "{asked} attempts");
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_is_told_unless_an_earlier_attempt_may_have_stored_it() {
    let throttled = || Quirk::Says(Miss::Final(Error::Throttled("full".to_owned())));
    let fake = Fake::new(halves());
    fake.quirks(10, [throttled()]);
    let outcomes = fake.put(records(&[0]), LONG).await;
    assert!(matches!(outcomes[0], Err(Error::Throttled(_))), "{outcomes:?}");

    let fake = Fake::new(halves());
    fake.quirks(10, [Quirk::Loses, throttled(), throttled()]);
    let outcomes = fake.put(records(&[0]), LONG).await;
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
    assert_eq!(fake.stored(10), ["0/0"]);
}

#[test]
fn a_view_says_whether_a_shard_still_takes_records() {
    let view = |stream: Stream| Fake::new(stream).views.borrow().clone();
    let (routed, after) = (halves(), split());
    let shard = |index: usize| &routed.map.shards()[index];
    assert_eq!(standing(&view(halves()), &routed, shard(0)), Standing::Holds);
    assert_eq!(standing(&view(split()), &routed, shard(0)), Standing::Moved(MapVersion(8)));
    assert_eq!(standing(&view(split()), &routed, shard(1)), Standing::Holds, "it is as it was");
    // This node lags behind whoever chose the shard.
    assert_eq!(standing(&view(halves()), &after, &after.map.shards()[2]), Standing::Holds);
    assert_eq!(standing(&View::default(), &routed, shard(0)), Standing::Gone);
}

#[test]
fn a_silent_node_is_left_in_time_to_ask_another() {
    assert_eq!(patience(Duration::from_secs(5)), Duration::from_millis(2_500));
    assert_eq!(patience(Duration::from_millis(1_500)), Duration::from_secs(1));
    assert_eq!(patience(Duration::from_millis(300)), Duration::from_millis(300));
}

#[test]
fn a_put_that_no_shard_would_take_is_not_sent_anywhere() {
    let record = |data_bytes| {
        let data = Bytes::from(vec![0; data_bytes]);
        Record { data, ..records(&[0]).remove(0) }
    };
    assert_eq!(check_size(&[record(10)]), Ok(()));
    for bad in [vec![], vec![record(PUT_RECORDS_BYTES_MAX)], vec![record(0); 10_001]] {
        assert!(matches!(check_size(&bad), Err(Error::Invalid(_))));
    }
}
