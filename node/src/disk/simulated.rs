//! A disk in memory that fails like a real one: for tests, and for simulation.
//!
//! Invariant: after `power_loss` only what was synced is certain; after `process_crash` everything
//! written is still readable, and no more durable than before. Handles opened before either are
//! dead. The same calls with the same seeds give the same bytes. Must not know what the files hold.
//!
//! | part | file |
//! |---|---|
//! | what can go wrong, and when | `simulated/faults.rs` |
//! | an open file | `simulated/file.rs` |
//! | files, names, room | `simulated/state.rs` |
//! | the bytes of one file | `simulated/content.rs` |
//! | bytes as such | `simulated/pages.rs` |

mod content;
mod faults;
mod file;
mod pages;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{Disk, File, Open, Space};
use file::SimulatedFile;
use state::{NameChange, State};

pub use content::Damage;
pub use faults::{Call, Flip, Lasting};

/// Of a new disk.
const CAPACITY_BYTES: u64 = 1 << 40;

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
    /// How many syncs still go through before the next ones are held; `None`: all.
    passing: watch::Sender<Option<u64>>,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        SimulatedDisk::new()
    }
}

impl SimulatedDisk {
    /// An empty disk of 1 TiB.
    pub fn new() -> SimulatedDisk {
        let state = Mutex::new(State::new(CAPACITY_BYTES));
        let inner = Inner { state, passing: watch::channel(None).0 };
        SimulatedDisk { inner: Arc::new(inner), life: 0 }
    }

    /// A handle for the process that starts after a crash.
    pub fn restarted(&self) -> SimulatedDisk {
        let life = self.state().life;
        SimulatedDisk { inner: Arc::clone(&self.inner), life }
    }

    /// The process dies: open handles and locks are gone, every byte written stays readable, and
    /// what was not synced stays at risk.
    pub fn process_crash(&self) {
        self.state().crash();
    }

    /// The power fails: of what was not synced, `seed` decides what is kept, lost or torn. Names
    /// that were not synced survive in the order in which they were changed.
    pub fn power_loss(&self, seed: u64) {
        let mut state = self.state();
        state.crash();
        state.lose_power(seed);
    }

    /// What all power losses so far have done.
    pub fn damage(&self) -> Damage {
        self.state().damage
    }

    /// Bytes written and not yet synced, in all files.
    pub fn unsynced_bytes(&self) -> u64 {
        self.state().unsynced_bytes()
    }

    /// How many syncs are held now.
    pub fn waiting_syncs(&self) -> usize {
        self.state().waiting_syncs
    }

    /// How many syncs of files were asked for so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Whoever asks, also after a crash.
    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        self.inner.alive(self.life)
    }

    fn passing(&self) -> &watch::Sender<Option<u64>> {
        &self.inner.passing
    }
}

impl Inner {
    /// The disk, for a process of this life.
    fn alive(&self, life: u64) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.life == life { Ok(state) } else { Err(dead()) }
    }

    async fn wait_for_release(&self) {
        let mut passes = true;
        self.passing.send_if_modified(|passing| {
            passes = *passing != Some(0);
            *passing = passing.map(|count| count.saturating_sub(1));
            // Nobody is held who could go now.
            false
        });
        if passes {
            return;
        }
        let life = {
            let mut state = self.state.lock();
            state.waiting_syncs += 1;
            state.life
        };
        // The sender lives as long as the disk.
        let _ = self.passing.subscribe().wait_for(Option::is_none).await;
        let mut state = self.state.lock();
        if state.life == life {
            state.waiting_syncs -= 1;
        }
    }

    async fn take_time(&self) {
        let time = self.state.lock().faults.sync_time();
        if let Some(time) = time {
            tokio::time::sleep(time).await;
        }
    }

    async fn wait_out_stall(&self) {
        let until = self.state.lock().faults.stalled_until();
        if let Some(until) = until.filter(|until| *until > tokio::time::Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("the process that opened this crashed")
}

impl Disk for SimulatedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        if !state.dirs.contains(dir) {
            state.take_space_for_a_name()?;
        }
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
            (None, Open::New) => state.create(path)?,
        };
        state.opened(file);
        Ok(Arc::new(SimulatedFile::new(Arc::clone(&self.inner), file, self.life)))
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
            self.inner.wait_out_stall().await;
            let end = self.alive()?.next_name_change;
            self.inner.take_time().await;
            let mut state = self.alive()?;
            if !state.dirs.contains(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let fails = state.faults.next_dir_sync_fails();
            state.sync_names(dir, end, fails);
            match fails {
                true => Err(io::Error::other("injected I/O error in sync")),
                false => Ok(()),
            }
        })
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.alive()?;
        Ok(Space { free_bytes: state.free_bytes(), total_bytes: state.capacity_bytes })
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
