//! The bytes of one simulated file: what reads see, what is certain, and what lies between.
//!
//! Pure. Must not know names or processes.

use std::io;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;

use super::faults::{BadRange, Flip};
use super::pages::Pages;

/// Unsynced bytes are kept or lost in pieces of this size.
const SECTOR_BYTES: usize = 512;

#[derive(Clone)]
pub(super) enum Change {
    Write { offset: usize, bytes: Bytes },
    Cut { len: usize },
}

#[derive(Clone, Default)]
pub(super) struct Content {
    /// What reads see.
    pub(super) now: Pages,
    /// What is certain to survive.
    pub(super) durable: Pages,
    /// Changes since the last sync, numbered by their order.
    pub(super) unsynced: Vec<(u64, Change)>,
    pub(super) next_change: u64,
    /// What cannot be read.
    pub(super) bad: Vec<BadRange>,
}

/// What power losses did to the writes that were not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Gone whole.
    pub lost: u32,
    /// There whole, although nobody promised.
    pub kept: u32,
    /// There in part: a beginning, or some of the sectors.
    pub torn: u32,
}

impl Content {
    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.unsynced.push((self.next_change, change));
        self.next_change += 1;
    }

    /// What a sync covers that began when `end` was the next change.
    pub(super) fn take_unsynced(&mut self, end: u64) -> Vec<(u64, Change)> {
        let covered = self.unsynced.partition_point(|(number, _)| *number < end);
        self.unsynced.drain(..covered).collect()
    }

    pub(super) fn sync(&mut self, end: u64) {
        for (_, change) in self.take_unsynced(end) {
            apply(&mut self.durable, &change);
        }
    }

    /// Flips a bit wherever the byte is: in what reads see, in what is certain, and in the write
    /// that would bring it back.
    pub(super) fn flip(&mut self, Flip { offset, bit }: Flip) -> io::Result<()> {
        let at = offset as usize;
        let seen =
            [&mut self.now, &mut self.durable].into_iter().filter_map(|all| all.byte_mut(at));
        if seen.map(|byte| *byte ^= 1 << bit).count() == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (_, change) in self.unsynced.iter_mut().rev() {
            if let Change::Write { offset, bytes } = change
                && (*offset..*offset + bytes.len()).contains(&at)
            {
                let mut copy = bytes.to_vec();
                copy[at - *offset] ^= 1 << bit;
                *bytes = copy.into();
                break;
            }
        }
        Ok(())
    }

    pub(super) fn lose_power(&mut self, random: &mut SmallRng, damage: &mut Damage) {
        for (_, change) in std::mem::take(&mut self.unsynced) {
            let fate = random.random_range(0..4);
            let (offset, bytes) = match change {
                Change::Write { offset, bytes } => (offset, bytes),
                cut @ Change::Cut { .. } => {
                    if fate > 0 {
                        apply(&mut self.durable, &cut);
                    }
                    continue;
                }
            };
            let kept = match fate {
                0 => 0,
                1 => keep_beginning(&mut self.durable, offset, &bytes, bytes.len()),
                2 => {
                    let kept = random.random_range(0..=bytes.len());
                    keep_beginning(&mut self.durable, offset, &bytes, kept)
                }
                _ => keep_sectors(&mut self.durable, offset, &bytes, random),
            };
            damage.count(kept, bytes.len());
        }
        self.now = self.durable.clone();
    }
}

impl Damage {
    fn count(&mut self, kept: usize, all: usize) {
        match kept {
            0 => self.lost += 1,
            kept if kept == all => self.kept += 1,
            _ => self.torn += 1,
        }
    }
}

fn keep_beginning(durable: &mut Pages, offset: usize, bytes: &Bytes, kept: usize) -> usize {
    apply(durable, &Change::Write { offset, bytes: bytes.slice(..kept) });
    kept
}

/// Gives back how many bytes it kept.
fn keep_sectors(durable: &mut Pages, offset: usize, bytes: &Bytes, random: &mut SmallRng) -> usize {
    let (mut at, mut kept) = (0, 0);
    while at < bytes.len() {
        let sector_end = (offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset;
        let end = sector_end.min(bytes.len());
        if random.random() {
            let change = Change::Write { offset: offset + at, bytes: bytes.slice(at..end) };
            apply(durable, &change);
            kept += end - at;
        }
        at = end;
    }
    kept
}

fn apply(content: &mut Pages, change: &Change) {
    match change {
        Change::Write { offset, bytes } => content.write(*offset, bytes),
        Change::Cut { len } => content.resize(*len),
    }
}
