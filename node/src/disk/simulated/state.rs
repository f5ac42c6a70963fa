//! What a simulated disk holds: files, names, and what is wrong with it.
//!
//! Pure but for the lock around it. Invariant: a name is in `names` at once and in `durable_names`
//! only after its folder was synced. Must not know time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::content::{Change, Content, Damage};
use super::faults::Faults;

/// Numbers a file for as long as the disk is there.
pub(super) type FileId = u64;

#[derive(Clone)]
pub(super) enum NameChange {
    Set { path: PathBuf, file: FileId },
    Remove { path: PathBuf },
}

impl NameChange {
    pub(super) fn path(&self) -> &Path {
        match self {
            NameChange::Set { path, .. } | NameChange::Remove { path } => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            NameChange::Set { path, file } => names.insert(path.clone(), *file),
            NameChange::Remove { path } => names.remove(path),
        };
    }
}

#[derive(Default)]
pub(super) struct State {
    files: BTreeMap<FileId, Content>,
    next_file: FileId,
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) names: BTreeMap<PathBuf, FileId>,
    durable_names: BTreeMap<PathBuf, FileId>,
    /// Numbered by their order.
    unsynced_names: Vec<(u64, NameChange)>,
    pub(super) next_name_change: u64,
    /// How often each file is open in this life.
    opened: BTreeMap<FileId, u32>,
    pub(super) locks: BTreeMap<PathBuf, u64>,
    /// Counts crashes: handles of an earlier life are dead.
    pub(super) life: u64,
    pub(super) capacity_bytes: u64,
    pub(super) syncs: u64,
    pub(super) waiting_syncs: usize,
    pub(super) damage: Damage,
    pub(super) faults: Faults,
}

impl State {
    pub(super) fn new(capacity_bytes: u64) -> State {
        State { capacity_bytes, ..State::default() }
    }

    /// The process is gone, and what it held open with it.
    pub(super) fn crash(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.opened.clear();
        self.waiting_syncs = 0;
        self.faults.forget_syncs();
        self.forget_unnamed();
    }

    /// Decides by `seed` what becomes of everything that was not synced.
    pub(super) fn lose_power(&mut self, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let kept = random.random_range(0..=self.unsynced_names.len());
        let changes = std::mem::take(&mut self.unsynced_names);
        for (_, change) in &changes[..kept] {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        for content in self.files.values_mut() {
            content.lose_power(&mut random, &mut self.damage);
        }
        self.forget_unnamed();
    }

    /// Files without a name, now or after a power loss, go with the last handle.
    fn forget_unnamed(&mut self) {
        let mut kept: BTreeSet<FileId> = self.names.values().copied().collect();
        kept.extend(self.durable_names.values());
        kept.extend(self.opened.keys());
        kept.extend(self.unsynced_names.iter().filter_map(|(_, change)| match change {
            NameChange::Set { file, .. } => Some(*file),
            NameChange::Remove { .. } => None,
        }));
        self.files.retain(|file, _| kept.contains(file));
    }

    pub(super) fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push((self.next_name_change, change));
        self.next_name_change += 1;
    }

    /// Makes names of `dir` durable that were changed before `end`; `lost` of them never will be,
    /// although they count as synced from now on.
    pub(super) fn sync_names(&mut self, dir: &Path, end: u64, lost: bool) {
        for (number, change) in std::mem::take(&mut self.unsynced_names) {
            if number >= end || change.path().parent() != Some(dir) {
                self.unsynced_names.push((number, change));
            } else if !lost {
                change.apply(&mut self.durable_names);
            }
        }
        self.forget_unnamed();
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<FileId> {
        if path.parent().is_none_or(|dir| !self.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.take_space_for_a_name()?;
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, Content::default());
        self.rename(NameChange::Set { path: path.to_owned(), file });
        Ok(file)
    }

    pub(super) fn opened(&mut self, file: FileId) {
        *self.opened.entry(file).or_default() += 1;
    }

    /// A handle of this life is gone.
    pub(super) fn closed(&mut self, file: FileId) {
        if let Some(count) = self.opened.get_mut(&file) {
            *count -= 1;
            if *count == 0 {
                self.opened.remove(&file);
                self.forget_unnamed();
            }
        }
    }

    pub(super) fn content(&mut self, file: FileId) -> io::Result<&mut Content> {
        Ok(self.files.get_mut(&file).ok_or(io::ErrorKind::NotFound)?)
    }

    pub(super) fn content_at(&mut self, path: &Path) -> io::Result<&mut Content> {
        let file = *self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        self.content(file)
    }

    pub(super) fn unsynced_bytes(&self) -> u64 {
        let bytes = |(_, change): &(u64, Change)| match change {
            Change::Write { bytes, .. } => bytes.len() as u64,
            Change::Cut { .. } => 0,
        };
        self.files.values().flat_map(|content| &content.unsynced).map(bytes).sum()
    }

    /// A file takes room while it has a name or is open.
    fn used_bytes(&self) -> u64 {
        let size = |file: &FileId| self.files.get(file).map_or(0, |file| file.now.len() as u64);
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        let unlinked = self.opened.keys().filter(|file| !named.contains(file));
        named.iter().map(size).sum::<u64>() + unlinked.map(size).sum::<u64>()
    }

    pub(super) fn free_bytes(&self) -> u64 {
        match self.faults.is_filled() {
            true => 0,
            false => self.capacity_bytes.saturating_sub(self.used_bytes()),
        }
    }

    /// A new name takes a little room in its folder: not counted, but none is left on a full disk.
    pub(super) fn take_space_for_a_name(&mut self) -> io::Result<()> {
        match self.take_space(1) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// How many of the `wanted` bytes there is room for, in a call that takes room.
    pub(super) fn take_space(&mut self, wanted: u64) -> u64 {
        if wanted == 0 {
            return 0;
        }
        self.faults.count_space_call();
        wanted.min(self.free_bytes())
    }
}
