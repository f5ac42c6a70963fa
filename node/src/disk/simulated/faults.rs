//! What can be made to go wrong with a simulated disk, and when.
//!
//! Invariant: a fault happens only after a test asked for it, and always to the same call. Must not
//! know what the files hold.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::index;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::SimulatedDisk;

/// How long syncs take.
struct Latency {
    random: SmallRng,
    min: Duration,
    max: Duration,
}

/// Whether there is room by the count of calls, whatever the capacity is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Filling {
    #[default]
    Never,
    /// So many calls that take room still find it.
    After(u64),
    Full,
}

/// How often a read of a bad range fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// So many reads, and then it can be read again.
    Times(u32),
    /// Every read, after restarts and power losses too.
    ForEver,
}

/// A kind of call that can be made to fail once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A read of any file.
    Read,
    /// A sync of any file.
    Sync,
    /// A sync of any folder.
    DirSync,
}

/// Bytes of a file that cannot be read.
#[derive(Clone, Debug)]
pub(super) struct BadRange {
    bytes: Range<u64>,
    lasting: Lasting,
}

/// One flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flip {
    /// Byte from the beginning of the file.
    pub offset: u64,
    /// 0 to 7.
    pub bit: u8,
}

/// Faults of the whole disk.
#[derive(Default)]
pub(super) struct Faults {
    failing_syncs: u32,
    failing_dir_syncs: u32,
    failing_reads: u32,
    /// The one call that is to fail, and how many before it are not.
    ordered: Option<(Call, u64)>,
    lies: bool,
    filling: Filling,
    space_calls: u64,
    latency: Option<Latency>,
    stalled_until: Option<Instant>,
}

/// What a sync does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncFate {
    Done,
    /// `Ok`, and nothing became durable.
    Lie,
    /// An error, and what it covered counts as synced and never will be.
    Fail,
}

fn take_one(count: &mut u32) -> bool {
    let is_left = *count > 0;
    *count -= u32::from(is_left);
    is_left
}

impl Faults {
    /// Failed syncs that were ordered and did not come about are not the next process's.
    pub(super) fn forget_syncs(&mut self) {
        self.failing_syncs = 0;
        self.failing_dir_syncs = 0;
        self.ordered = None;
    }

    /// Whether this call is the one that is to fail.
    fn is_ordered(&mut self, call: Call) -> bool {
        match &mut self.ordered {
            Some((kind, 0)) if *kind == call => {
                self.ordered = None;
                true
            }
            Some((kind, left)) if *kind == call => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }

    pub(super) fn next_sync(&mut self) -> SyncFate {
        let fails = self.is_ordered(Call::Sync) || take_one(&mut self.failing_syncs);
        match (fails, self.lies) {
            (_, true) => SyncFate::Lie,
            (true, false) => SyncFate::Fail,
            (false, false) => SyncFate::Done,
        }
    }

    pub(super) fn next_dir_sync_fails(&mut self) -> bool {
        self.is_ordered(Call::DirSync) || take_one(&mut self.failing_dir_syncs)
    }

    pub(super) fn next_read_fails(&mut self) -> bool {
        self.is_ordered(Call::Read) || take_one(&mut self.failing_reads)
    }

    pub(super) fn count_space_call(&mut self) {
        self.space_calls += 1;
        self.filling = match self.filling {
            Filling::After(0) => Filling::Full,
            Filling::After(calls) => Filling::After(calls - 1),
            other => other,
        };
    }

    pub(super) fn is_filled(&self) -> bool {
        self.filling == Filling::Full
    }

    /// How long the next sync takes.
    pub(super) fn sync_time(&mut self) -> Option<Duration> {
        let Latency { random, min, max } = self.latency.as_mut()?;
        Some(random.random_range(*min..=*max))
    }

    pub(super) fn stalled_until(&self) -> Option<Instant> {
        self.stalled_until
    }
}

/// Whether a read of `bytes` meets a bad range, which may have been the last time.
pub(super) fn meets_bad(bad: &mut Vec<BadRange>, bytes: &Range<u64>) -> bool {
    let is_met = |range: &BadRange| range.bytes.start < bytes.end && bytes.start < range.bytes.end;
    let Some(at) = bad.iter().position(is_met) else { return false };
    if let Lasting::Times(left) = &mut bad[at].lasting {
        *left = left.saturating_sub(1);
        if *left == 0 {
            bad.remove(at);
        }
    }
    true
}

/// EIO.
pub(super) fn io_failure() -> io::Error {
    rustix::io::Errno::IO.into()
}

impl SimulatedDisk {
    /// From now on a sync takes from `min` to `max`, by `seed`, in tokio's time. What is written
    /// while it runs waits for the next one.
    pub fn set_sync_latency(&self, seed: u64, min: Duration, max: Duration) {
        let random = SmallRng::seed_from_u64(seed);
        self.state().faults.latency = Some(Latency { random, min, max });
    }

    /// The next `count` syncs of files answer with an I/O error. What they were to make durable is
    /// marked clean, as kernels do: it stays readable, later syncs succeed, and only a power loss
    /// shows that it never reached the disk.
    pub fn fail_syncs(&self, count: u32) {
        self.state().faults.failing_syncs = count;
    }

    /// The same of the next `count` syncs of folders: names that they were to make durable stay
    /// as they are until a power loss.
    pub fn fail_dir_syncs(&self, count: u32) {
        self.state().faults.failing_dir_syncs = count;
    }

    /// After so many calls of this kind one fails, and those after it do not: with `calls` from 0 up
    /// a test has each of them fail in turn. A failed sync is as in `fail_syncs`. A second order
    /// replaces the first; a crash ends it.
    pub fn fail_after(&self, call: Call, calls: u64) {
        self.state().faults.ordered = Some((call, calls));
    }

    /// Whether the call of `fail_after` is still to come.
    pub fn is_failure_due(&self) -> bool {
        self.state().faults.ordered.is_some()
    }

    /// From now on syncs of files answer `Ok` and make nothing durable.
    pub fn lie(&self) {
        self.state().faults.lies = true;
    }

    /// For `time` from now, in tokio's time, reads, writes, syncs and changes of length wait. (Names
    /// are changed at once: those calls cannot wait.) A second stall replaces the first.
    pub fn stall(&self, time: Duration) {
        self.state().faults.stalled_until = Some(Instant::now() + time);
    }

    /// Syncs wait until `release_syncs`.
    pub fn hold_syncs(&self) {
        self.hold_syncs_after(0);
    }

    /// So many further syncs go through; those after them wait until `release_syncs`.
    pub fn hold_syncs_after(&self, count: u64) {
        self.passing().send_replace(Some(count));
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.passing().send_replace(None);
    }

    /// Sets the size of the disk. What needs more fails with `StorageFull`: a new file or folder, a
    /// write behind the end of a file (what still fits is written), a longer file. Overwriting,
    /// renaming and removing need no room. Ends a `fill_after`.
    pub fn set_capacity(&self, bytes: u64) {
        let mut state = self.state();
        state.capacity_bytes = bytes;
        state.faults.filling = Filling::Never;
    }

    /// So many further calls that take room find it; from then on the disk is full, until
    /// `set_capacity`. With `space_calls` a test fills the disk at every such call in turn.
    pub fn fill_after(&self, calls: u64) {
        self.state().faults.filling = Filling::After(calls);
    }

    /// How many calls took room, or tried to.
    pub fn space_calls(&self) -> u64 {
        self.state().faults.space_calls
    }

    /// The next `count` reads, of whatever file, answer with an I/O error (EIO).
    pub fn fail_reads(&self, count: u32) {
        self.state().faults.failing_reads = count;
    }

    /// Reads that touch these bytes of the file answer with an I/O error (EIO). The range stays
    /// with the file when it is renamed.
    ///
    /// # Errors
    /// `NotFound`: no such file.
    pub fn fail_reads_of(
        &self,
        path: &Path,
        bytes: Range<u64>,
        lasting: Lasting,
    ) -> io::Result<()> {
        if lasting != Lasting::Times(0) {
            self.state().content_at(path)?.bad.push(BadRange { bytes, lasting });
        }
        Ok(())
    }

    /// The bytes of a file that are synced.
    ///
    /// # Errors
    /// `NotFound`: no such file.
    pub fn synced(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let durable = &state.content_at(path)?.durable;
        Ok(durable.read(0..durable.len()).unwrap_or_default())
    }

    /// Flips one bit, for good.
    ///
    /// # Errors
    /// `NotFound`: no such file. `UnexpectedEof`: it has no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        self.state().content_at(path)?.flip(Flip { offset, bit })
    }

    /// Lets `bits` different bits rot among the synced bytes of `bytes`, chosen by `seed`, for
    /// good. Tells which, rising.
    ///
    /// # Errors
    /// `NotFound`: no such file. `UnexpectedEof`: so many synced bits are not there.
    pub fn rot(
        &self,
        path: &Path,
        bytes: Range<u64>,
        bits: usize,
        seed: u64,
    ) -> io::Result<Vec<Flip>> {
        let mut state = self.state();
        let content = state.content_at(path)?;
        let end = bytes.end.min(content.durable.len() as u64);
        let there = end.saturating_sub(bytes.start) as usize * 8;
        if bits > there {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let chosen = index::sample(&mut SmallRng::seed_from_u64(seed), there, bits);
        let flip = |at: usize| Flip { offset: bytes.start + at as u64 / 8, bit: (at % 8) as u8 };
        let mut flips: Vec<Flip> = chosen.into_iter().map(flip).collect();
        flips.sort_unstable();
        flips.iter().try_for_each(|flip| content.flip(*flip))?;
        Ok(flips)
    }
}
