//! The window against one that is nothing but a list.

use proptest::prelude::*;

use super::*;

/// Small enough to be reached.
const SMALL: Bounds = Bounds { rows: 12, bytes: 1_000, age: Duration::from_millis(50) };
const CALLS: u8 = 4;
const ORDINALS: u16 = 6;

/// An entry of a shard: how much later it comes, and its calls.
type Step = (u64, Vec<(u8, Vec<u16>)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let run = (0..CALLS, proptest::collection::vec(0..ORDINALS, 1..5));
    let runs = proptest::collection::vec(run, 0..4);
    proptest::collection::vec((0u64..30, runs), 0..20)
}

fn call(id: u8) -> CallId {
    CallId([id; 16])
}

fn origins() -> impl Iterator<Item = Origin> {
    (0..CALLS).flat_map(|id| (0..ORDINALS).map(move |ordinal| Origin { call: call(id), ordinal }))
}

fn first_of(shard: u32, index: u64, arrival: Timestamp) -> SequenceNumber {
    SequenceNumber {
        creation_second: 1_000 + u64::from(shard),
        shard: ShardId::from(shard),
        counter: RecordPosition { index, position: 0 }.counter(),
        record_second: arrival.seconds(),
    }
}

/// One record that is remembered, in a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remembered {
    arrival: Timestamp,
    origin: Origin,
    number: SequenceNumber,
    row: (u64, u32),
}

/// Rows as the list has them: with their cost.
#[derive(Clone, Debug, Default)]
struct Naive {
    rows: Vec<(usize, Vec<Remembered>)>,
}

impl Naive {
    fn store(&mut self, first: SequenceNumber, arrival: Timestamp, runs: &[CallRun]) {
        for run in runs {
            let remembered = |(rank, &ordinal): (u64, &u16)| Remembered {
                arrival,
                origin: Origin { call: run.call, ordinal },
                number: SequenceNumber {
                    counter: first.counter + u64::from(run.start) + rank,
                    ..first
                },
                row: (first.position().index, run.start),
            };
            let consecutive = run.ordinals.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            let listed = if consecutive { 1 } else { run.ordinals.len() };
            let row = (0..).zip(&run.ordinals).map(remembered).collect();
            self.rows.push((40 + 23 + 2 * listed, row));
        }
    }

    fn evict(&mut self, now: Timestamp, bounds: Bounds) -> u32 {
        let mut early = 0;
        loop {
            let bytes: usize = self.rows.iter().map(|row| row.0).sum();
            let oldest = self
                .rows
                .iter()
                .enumerate()
                .min_by_key(|(_, (_, row))| (row[0].arrival, row[0].number.shard, row[0].row));
            let Some((at, (_, row))) = oldest else { return early };
            let is_late = now.0 - row[0].arrival.0 > bounds.age.as_millis() as u64;
            if !is_late && self.rows.len() <= bounds.rows && bytes <= bounds.bytes {
                return early;
            }
            early += u32::from(!is_late);
            self.rows.remove(at);
        }
    }

    /// All numbers that this origin ever got and that are remembered, oldest first.
    fn find(&self, origin: Origin) -> Option<SequenceNumber> {
        let mut rows: Vec<_> = self.rows.iter().map(|(_, row)| row).collect();
        rows.sort_by_key(|row| (row[0].arrival, row[0].number.shard, row[0].row));
        rows.into_iter().flatten().find(|one| one.origin == origin).map(|one| one.number)
    }
}

fn runs_of(calls: &[(u8, Vec<u16>)]) -> Vec<CallRun> {
    let mut start = 0;
    calls
        .iter()
        .map(|(id, ordinals)| {
            // A record without a call between the runs.
            let run = CallRun { call: call(*id), start, ordinals: ordinals.clone() };
            start += ordinals.len() as u32 + 1;
            run
        })
        .collect()
}

/// The window of a shard that stored these entries, without bounds, and its list.
fn remember(shard: u32, steps: &[Step]) -> (Window, Naive) {
    let (mut window, mut naive) = <(Window, Naive)>::default();
    let mut now = 1_000;
    for (index, (later, calls)) in (1..).zip(steps) {
        now += later;
        let (arrival, runs) = (Timestamp(now), runs_of(calls));
        let first = first_of(shard, index, arrival);
        naive.store(first, arrival, &runs);
        window.store(first, arrival, runs);
    }
    (window, naive)
}

fn round_trip(window: &Window) -> Window {
    Rows::decode(&window.encode()).expect("its own rows").into_window()
}

/// All parts of a window, one behind the other, and up to where each goes.
fn parts(window: &Window, bytes_target: usize) -> Vec<(Bytes, Option<u64>)> {
    let mut parts = vec![window.part_to(0, bytes_target)];
    while let Some((_, Some(upto))) = parts.last() {
        parts.push(window.part_to(*upto, bytes_target));
    }
    parts
}

fn absorb(window: &mut Window, rows: &Bytes, learned: u64) {
    window.absorb(Rows::decode(rows).expect("rows"), learned);
}

#[test]
fn every_bound_takes_the_oldest_first_and_only_age_is_no_early_end() {
    let runs = |id| vec![CallRun { call: call(id), start: 0, ordinals: vec![0] }];
    let has = |window: &Window, id| window.find(Origin { call: call(id), ordinal: 0 }).is_some();
    let filled = || {
        let mut window = Window::default();
        for id in 0..4 {
            let arrival = Timestamp(1_000 + 10 * u64::from(id));
            window.store(first_of(3, id.into(), arrival), arrival, runs(id));
        }
        window
    };
    let wide = Bounds { rows: 100, bytes: 100_000, age: Duration::from_secs(1) };
    for (now, bounds, left, early) in [
        (1_030, wide, 4, 0),
        (1_030, Bounds { rows: 3, ..wide }, 3, 1),
        (1_030, Bounds { bytes: 2 * 65, ..wide }, 2, 2),
        (1_030, Bounds { bytes: 2 * 65 - 1, ..wide }, 1, 3),
        (2_010, wide, 3, 0),
        (2_011, wide, 2, 0),
        (2_011, Bounds { rows: 1, ..wide }, 1, 1),
        (9_999, wide, 0, 0),
        // Of a child that has no record of its own, the newest row tells the time.
        (0, Bounds { age: Duration::from_millis(15), ..wide }, 2, 0),
    ] {
        let mut window = filled();
        assert_eq!(window.evict_to(Timestamp(now), bounds), early, "{now} {bounds:?}");
        let kept: Vec<u8> = (0..4).filter(|&id| has(&window, id)).collect();
        assert_eq!(kept, (4 - left..4).collect::<Vec<u8>>(), "{now} {bounds:?}");
    }
}

#[test]
fn the_bounds_are_those_of_the_protocol() {
    assert_eq!((BOUNDS.rows, BOUNDS.bytes, BOUNDS.age.as_secs()), (65_536, 8 << 20, 600));
}

#[test]
fn of_two_full_parents_the_newest_calls_of_both_stay() {
    let mut child = Window::default();
    for shard in [3, 4] {
        let mut parent = Window::default();
        for index in 0..8u64 {
            let arrival = Timestamp(1_000 + index);
            let call = CallId([(u64::from(shard) * 10 + index) as u8; 16]);
            let run = CallRun { call, start: 0, ordinals: vec![0] };
            parent.store(first_of(shard, index, arrival), arrival, vec![run]);
        }
        absorb(&mut child, &parent.encode(), u64::from(shard));
        child.evict_to(Timestamp(0), Bounds { rows: 8, ..SMALL });
    }
    let kept = |shard: u8| -> Vec<u8> {
        let found = |id: &u8| child.find(Origin { call: call(shard * 10 + id), ordinal: 0 });
        (0..8).filter(|id| found(id).is_some()).collect()
    };
    assert_eq!((kept(3), kept(4)), (vec![4, 5, 6, 7], vec![4, 5, 6, 7]));
}

proptest! {
    #[test]
    fn it_agrees_with_the_list_whatever_is_stored_and_forgotten(
        steps in steps(),
        cut in 0usize..20,
    ) {
        let (mut window, mut naive) = <(Window, Naive)>::default();
        let mut now = 1_000;
        for (index, (later, calls)) in (1..).zip(&steps) {
            now += later;
            let (arrival, runs) = (Timestamp(now), runs_of(calls));
            let first = first_of(3, index, arrival);
            naive.store(first, arrival, &runs);
            window.store(first, arrival, runs);
            let early = window.evict_to(arrival, SMALL);
            prop_assert_eq!(early, naive.evict(arrival, SMALL));
            if index as usize == cut {
                let restored = round_trip(&window);
                prop_assert_eq!(&restored, &window);
                window = restored;
            }
            for origin in origins() {
                prop_assert_eq!(window.find(origin), naive.find(origin));
            }
            prop_assert_eq!(window.bytes(), naive.rows.iter().map(|row| row.0).sum::<usize>());
            prop_assert!(window.encode().len() <= window.bytes() + 1);
            prop_assert_eq!(window.by_call.len(), window.rows.len());
        }
    }

    #[test]
    fn parts_hand_over_everything_in_any_sizes_and_to_whoever_comes_back(
        steps in steps(),
        bytes_target in 1usize..600,
        again in 0usize..20,
    ) {
        let (window, naive) = remember(3, &steps);
        let parts = parts(&window, bytes_target);
        let mut child = Window::default();
        let mut after = 0;
        for (at, (rows, upto)) in parts.iter().enumerate() {
            let learned = Rows::decode(rows).expect("rows").0;
            prop_assert!(learned.iter().all(|(_, row)| row.learned > after));
            if let Some(upto) = upto {
                // A part ends with a whole entry, and beyond the target there is one at most.
                prop_assert!(learned.iter().all(|(_, row)| row.learned <= *upto));
                let before: usize = learned
                    .iter()
                    .filter(|(_, row)| row.learned < *upto)
                    .map(|(_, row)| row.cost_bytes())
                    .sum();
                prop_assert!(before < bytes_target);
                after = *upto;
            }
            absorb(&mut child, rows, 100 + at as u64);
        }
        // The same part again changes nothing but when it was learned.
        absorb(&mut child, &parts[again % parts.len()].0, 900);
        for origin in origins() {
            prop_assert_eq!(child.find(origin), naive.find(origin));
        }
        prop_assert_eq!(child.bytes(), window.bytes());
        prop_assert_eq!(child.rows.len(), window.rows.len());
    }

    #[test]
    fn a_merge_knows_what_either_parent_knew_in_whatever_order_it_came(
        left in steps(),
        right in steps(),
        bytes_target in 1usize..600,
        rows_max in 1usize..30,
    ) {
        let (left, mut naive) = remember(3, &left);
        let (right, other) = remember(4, &right);
        naive.rows.extend(other.rows);
        let (left, right) = (parts(&left, bytes_target), parts(&right, bytes_target));
        let bounds = Bounds { rows: rows_max, bytes: usize::MAX, age: Duration::from_secs(60) };
        let newest = naive.rows.iter().map(|row| row.1[0].arrival).max().unwrap_or_default();
        naive.evict(newest, bounds);
        let union = |first: &[(Bytes, Option<u64>)], then: &[(Bytes, Option<u64>)]| {
            let mut child = Window::default();
            for (rows, _) in first.iter().chain(then) {
                absorb(&mut child, rows, 1);
                child.evict_to(Timestamp(0), bounds);
            }
            child
        };
        let child = union(&left, &right);
        prop_assert_eq!(&child, &union(&right, &left));
        for origin in origins() {
            prop_assert_eq!(child.find(origin), naive.find(origin));
        }
        prop_assert_eq!(round_trip(&child), child);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut tagged = vec![FORMAT];
        tagged.extend_from_slice(&bytes);
        for rows in [Rows::decode(&tagged), Rows::decode(&bytes)].into_iter().flatten() {
            let mut window = rows.into_window();
            origins().for_each(|origin| { window.find(origin); });
            window.evict(Timestamp(0));
            window.part(0);
        }
    }

    #[test]
    fn rows_that_were_cut_off_are_refused(steps in steps(), cut in 0usize..200) {
        let rows = remember(3, &steps).0.encode();
        prop_assume!(cut < rows.len());
        // A cut between two entries leaves fewer rows; any other is seen.
        let whole = remember(3, &steps).0.rows.len();
        let fewer = Rows::decode(&rows[..cut]).map_or(0, |rows| rows.0.len());
        prop_assert!(whole == 0 || fewer < whole);
    }
}
