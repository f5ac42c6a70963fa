//! A disk in memory that fails like a real one: for tests, and for simulation.
//!
//! Invariant: after `power_loss` only what was synced is certain; after `process_crash` everything
//! written is still readable, and no more durable than before. Handles opened before either are
//! dead. The same calls with the same seeds give the same bytes. Must not know what the files hold.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use super::{Disk, File, Open, Space};
use content::{Change, Content};

pub use content::Damage;

/// A disk in memory. Clones are the same disk in the hands of the same process: after a crash they
/// are dead, and `restarted` gives the next process its handle. Faults are injected through any of
/// them.
#[derive(Clone)]
pub struct SimulatedDisk {
    inner: Arc<Inner>,
    life: u64,
}

struct Inner {
    state: Mutex<State>,
    /// Whether syncs are held.
    held: watch::Sender<bool>,
}

#[derive(Clone)]
enum NameChange {
    Set { path: PathBuf, file: u64 },
    Remove { path: PathBuf },
}

#[derive(Default)]
struct State {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Numbered by their order.
    unsynced_names: Vec<(u64, NameChange)>,
    next_name_change: u64,
    locks: BTreeMap<PathBuf, u64>,
    /// Counts crashes: handles of an earlier life are dead.
    life: u64,
    capacity_bytes: u64,
    failing_syncs: u32,
    lies: bool,
    syncs: u64,
    waiting_syncs: usize,
    latency: Option<Latency>,
    damage: Damage,
}

/// How long syncs take.
struct Latency {
    random: SmallRng,
    min: Duration,
    max: Duration,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        SimulatedDisk::new()
    }
}

impl SimulatedDisk {
    /// An empty disk of 1 TiB.
    pub fn new() -> SimulatedDisk {
        let state = State { capacity_bytes: 1 << 40, ..State::default() };
        let inner = Inner { state: Mutex::new(state), held: watch::channel(false).0 };
        SimulatedDisk { inner: Arc::new(inner), life: 0 }
    }

    /// A handle for the process that starts after a crash.
    pub fn restarted(&self) -> SimulatedDisk {
        let life = self.inner.state.lock().life;
        SimulatedDisk { inner: Arc::clone(&self.inner), life }
    }

    /// The process dies: open handles and locks are gone, every byte written stays readable, and
    /// what was not synced stays at risk.
    pub fn process_crash(&self) {
        self.inner.state.lock().crash();
    }

    /// The power fails: of what was not synced, `seed` decides what is kept, lost or torn. Names
    /// that were not synced survive in the order in which they were changed.
    pub fn power_loss(&self, seed: u64) {
        let mut state = self.inner.state.lock();
        state.crash();
        let mut random = SmallRng::seed_from_u64(seed);
        let kept = random.random_range(0..=state.unsynced_names.len());
        let changes = std::mem::take(&mut state.unsynced_names);
        for (_, change) in &changes[..kept] {
            apply_name(&mut state.durable_names, change);
        }
        state.names = state.durable_names.clone();
        let mut damage = state.damage;
        for content in state.files.values_mut() {
            content.lose_power(&mut random, &mut damage);
        }
        state.damage = damage;
        state.forget_unnamed();
    }

    /// What all power losses so far have done.
    pub fn damage(&self) -> Damage {
        self.inner.state.lock().damage
    }

    /// From now on a sync takes from `min` to `max`, by `seed`, in tokio's time. What is written while it
    /// runs waits for the next one.
    pub fn set_sync_latency(&self, seed: u64, min: Duration, max: Duration) {
        let random = SmallRng::seed_from_u64(seed);
        self.inner.state.lock().latency = Some(Latency { random, min, max });
    }

    /// Bytes written and not yet synced, in all files.
    pub fn unsynced_bytes(&self) -> u64 {
        let state = self.inner.state.lock();
        let bytes = |(_, change): &(u64, Change)| match change {
            Change::Write { bytes, .. } => bytes.len() as u64,
            Change::Cut { .. } => 0,
        };
        state.files.values().flat_map(|content| &content.unsynced).map(bytes).sum()
    }

    /// The next `count` syncs of files answer with an I/O error. What they were to make durable is
    /// marked clean, as kernels do: it stays readable, later syncs succeed, and only a power loss
    /// shows that it never reached the disk.
    pub fn fail_syncs(&self, count: u32) {
        self.inner.state.lock().failing_syncs = count;
    }

    /// From now on syncs of files answer `Ok` and make nothing durable.
    pub fn lie(&self) {
        self.inner.state.lock().lies = true;
    }

    /// Syncs wait until `release_syncs`.
    pub fn hold_syncs(&self) {
        self.inner.held.send_replace(true);
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.inner.held.send_replace(false);
    }

    /// How many syncs are held now.
    pub fn waiting_syncs(&self) -> usize {
        self.inner.state.lock().waiting_syncs
    }

    /// How many syncs of files were asked for so far.
    pub fn syncs(&self) -> u64 {
        self.inner.state.lock().syncs
    }

    /// Sets the size of the disk: writes that need more fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.inner.state.lock().capacity_bytes = bytes;
    }

    /// Flips one bit, for good.
    ///
    /// # Errors
    /// `NotFound`: no such file. `UnexpectedEof`: it has no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        let file = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = state.files.get_mut(&file).ok_or(io::ErrorKind::NotFound)?;
        let at = offset as usize;
        *content.now.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1 << bit;
        if let Some(byte) = content.durable.get_mut(at) {
            *byte ^= 1 << bit;
        }
        Ok(())
    }
}

impl State {
    fn crash(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.waiting_syncs = 0;
        self.failing_syncs = 0;
        self.forget_unnamed();
    }

    /// Files without a name, now or after a power loss, go with the last handle.
    fn forget_unnamed(&mut self) {
        let mut named: BTreeSet<u64> = self.names.values().copied().collect();
        named.extend(self.durable_names.values());
        named.extend(self.unsynced_names.iter().filter_map(|(_, change)| match change {
            NameChange::Set { file, .. } => Some(*file),
            NameChange::Remove { .. } => None,
        }));
        self.files.retain(|file, _| named.contains(file));
    }

    fn rename(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.unsynced_names.push((self.next_name_change, change));
        self.next_name_change += 1;
    }

    fn used_bytes(&self) -> u64 {
        let size = |file: &u64| self.files.get(file).map_or(0, |content| content.now.len() as u64);
        self.names.values().map(size).sum()
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    match change {
        NameChange::Set { path, file } => names.insert(path.clone(), *file),
        NameChange::Remove { path } => names.remove(path),
    };
}

impl NameChange {
    fn path(&self) -> &Path {
        match self {
            NameChange::Set { path, .. } | NameChange::Remove { path } => path,
        }
    }
}

impl Inner {
    async fn wait_for_release(&self) {
        if !*self.held.borrow() {
            return;
        }
        let life = {
            let mut state = self.state.lock();
            state.waiting_syncs += 1;
            state.life
        };
        // The sender lives as long as the disk.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        let mut state = self.state.lock();
        if state.life == life {
            state.waiting_syncs -= 1;
        }
    }
}

impl Inner {
    async fn take_time(&self) {
        let time = self.state.lock().latency.as_mut().map(|latency| {
            let Latency { random, min, max } = latency;
            random.random_range(*min..=*max)
        });
        if let Some(time) = time {
            tokio::time::sleep(time).await;
        }
    }
}

impl SimulatedDisk {
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.inner.state.lock();
        if state.life == self.life { Ok(state) } else { Err(dead()) }
    }
}

fn dead() -> io::Error {
    io::Error::other("the process that opened this crashed")
}

impl Disk for SimulatedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.alive()?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.alive()?;
        let file = match (state.names.get(path).copied(), how) {
            (Some(file), Open::Existing) => file,
            (None, Open::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(_), Open::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::New) => {
                if path.parent().is_none_or(|dir| !state.dirs.contains(dir)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, Content::default());
                state.rename(NameChange::Set { path: path.to_owned(), file });
                file
            }
        };
        let life = state.life;
        Ok(Arc::new(SimulatedFile { inner: Arc::clone(&self.inner), file, life }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(NameChange::Remove { path: path.to_owned() });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.rename(NameChange::Set { path: to.to_owned(), file });
        state.rename(NameChange::Remove { path: from.to_owned() });
        Ok(())
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.inner.wait_for_release().await;
            let end = self.alive()?.next_name_change;
            self.inner.take_time().await;
            let mut state = self.alive()?;
            if !state.dirs.contains(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            for (number, change) in std::mem::take(&mut state.unsynced_names) {
                if number < end && change.path().parent() == Some(dir) {
                    apply_name(&mut state.durable_names, &change);
                } else {
                    state.unsynced_names.push((number, change));
                }
            }
            Ok(())
        })
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.alive()?;
        let (total_bytes, used) = (state.capacity_bytes, state.used_bytes());
        Ok(Space { free_bytes: total_bytes.saturating_sub(used), total_bytes })
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.alive()?;
        let life = state.life;
        if state.locks.contains_key(dir) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks.insert(dir.to_owned(), life);
        Ok(Box::new(Guard { inner: Arc::clone(&self.inner), dir: dir.to_owned(), life }))
    }
}

/// A taken folder.
struct Guard {
    inner: Arc<Inner>,
    dir: PathBuf,
    life: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        if state.locks.get(&self.dir) == Some(&self.life) {
            state.locks.remove(&self.dir);
        }
    }
}

struct SimulatedFile {
    inner: Arc<Inner>,
    file: u64,
    life: u64,
}

impl SimulatedFile {
    fn with<T>(&self, act: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.inner.state.lock();
        if state.life != self.life {
            return Err(dead());
        }
        act(state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?)
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut state = self.inner.state.lock();
        if state.life != self.life {
            return Err(dead());
        }
        let (used, capacity) = (state.used_bytes(), state.capacity_bytes);
        let content = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
        let grows = len.saturating_sub(content.now.len() as u64);
        if used + grows > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if grows > 0 {
            content.change(Change::Cut { len: len as usize });
        }
        Ok(())
    }

    fn write(&self, offset: u64, parts: Vec<Bytes>) -> io::Result<()> {
        let mut at = offset as usize;
        for bytes in parts {
            let mut state = self.inner.state.lock();
            if state.life != self.life {
                return Err(dead());
            }
            let len = state.files.get(&self.file).map_or(0, |content| content.now.len());
            let grows = (at + bytes.len()).saturating_sub(len) as u64;
            if state.used_bytes() + grows > state.capacity_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let content = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            let next = at + bytes.len();
            content.change(Change::Write { offset: at, bytes });
            at = next;
        }
        Ok(())
    }
}

impl File for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.now.len() as u64))
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let read = self.with(|content| {
            let from = offset as usize;
            let bytes = content.now.get(from..from + len).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(Bytes::copy_from_slice(bytes))
        });
        Box::pin(std::future::ready(read))
    }

    fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(std::future::ready(self.write(offset, parts)))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.inner.wait_for_release().await;
            let end = self.with(|content| Ok(content.next_change))?;
            self.inner.take_time().await;
            let mut state = self.inner.state.lock();
            if state.life != self.life {
                return Err(dead());
            }
            state.syncs += 1;
            let fails = state.failing_syncs > 0;
            state.failing_syncs -= u32::from(fails);
            let lies = state.lies;
            let content = state.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            if lies {
                return Ok(());
            }
            if fails {
                drop(content.take_unsynced(end));
                return Err(io::Error::other("injected I/O error in sync"));
            }
            content.sync(end);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        let cut = self.with(|content| {
            content.change(Change::Cut { len: len as usize });
            Ok(())
        });
        Box::pin(std::future::ready(cut))
    }

    fn allocate(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        let grown = self.grow(len);
        Box::pin(std::future::ready(grown))
    }
}
