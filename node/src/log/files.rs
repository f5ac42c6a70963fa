//! Open segments for reading: a bounded number of them, the least recently used are closed.
//!
//! Invariant: the file of a segment that is on its way out is never handed out again, so that nobody
//! reads from a file while the pool writes it anew. Must not know what files hold.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::segment;
use crate::disk::{Disk, File, Open};

/// At most so many are kept open.
const OPEN_MAX: usize = 64;

/// The open files.
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<u64, (Arc<dyn File>, u64)>,
    /// Closed here, and still being read by somebody: a second handle would look unused.
    lent: BTreeMap<u64, Weak<dyn File>>,
    /// On their way out.
    leaving: BTreeSet<u64>,
    uses: u64,
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Files {
        Files { disk, dir, state: Mutex::new(State::default()) }
    }

    /// The file of a segment.
    ///
    /// # Errors
    /// `NotFound`: it is gone or going. Others: the disk's.
    pub(super) fn get(&self, sequence: u64) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        if state.leaving.contains(&sequence) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.uses += 1;
        let now = state.uses;
        if let Some((file, used)) = state.open.get_mut(&sequence) {
            *used = now;
            return Ok(Arc::clone(file));
        }
        let file = self.handle(&mut state, sequence)?;
        state.open.insert(sequence, (Arc::clone(&file), now));
        if state.open.len() > OPEN_MAX {
            state.close_oldest();
        }
        Ok(file)
    }

    /// The handle that somebody has, or a new one.
    fn handle(&self, state: &mut State, sequence: u64) -> io::Result<Arc<dyn File>> {
        match state.lent.remove(&sequence).and_then(|file| file.upgrade()) {
            Some(file) => Ok(file),
            None => self.disk.open(&segment::path(&self.dir, sequence), Open::Existing),
        }
    }

    /// Takes out the file of a segment that is to be removed: nobody gets it from here any more.
    pub(super) fn take(&self, sequence: u64) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.leaving.insert(sequence);
        match state.open.remove(&sequence) {
            Some((file, _)) => Ok(file),
            None => self.handle(&mut state, sequence),
        }
    }

    /// The segment is gone, or stays after all.
    pub(super) fn left(&self, sequence: u64) {
        self.state.lock().leaving.remove(&sequence);
    }
}

impl State {
    fn close_oldest(&mut self) {
        let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used);
        let Some(oldest) = oldest.map(|(sequence, _)| *sequence) else { return };
        if let Some((file, _)) = self.open.remove(&oldest) {
            self.lent.insert(oldest, Arc::downgrade(&file));
        }
        self.lent.retain(|_, file| file.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::SimulatedDisk;

    fn files(count: u64) -> Files {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let dir = Path::new("/log");
        disk.create_dir_all(dir).unwrap();
        for sequence in 0..count {
            disk.open(&segment::path(dir, sequence), Open::New).unwrap();
        }
        Files::new(disk, dir.to_owned())
    }

    #[test]
    fn the_least_recently_used_is_closed() {
        let files = files(OPEN_MAX as u64 + 1);
        for sequence in 0..OPEN_MAX as u64 {
            files.get(sequence).unwrap();
        }
        files.get(0).unwrap();
        files.get(OPEN_MAX as u64).unwrap();
        let state = files.state.lock();
        assert_eq!(state.open.len(), OPEN_MAX);
        assert!(state.open.contains_key(&0) && !state.open.contains_key(&1));
    }

    #[test]
    fn what_is_being_read_is_in_use_even_when_it_was_closed() {
        let files = files(OPEN_MAX as u64 + 3);
        let (held, again) = (files.get(0).unwrap(), files.get(1).unwrap());
        for sequence in 2..OPEN_MAX as u64 + 3 {
            files.get(sequence).unwrap();
        }
        let state = files.state.lock();
        assert!(!state.open.contains_key(&0) && !state.open.contains_key(&2));
        assert_eq!(state.lent.keys().copied().collect::<Vec<_>>(), [0, 1]);
        drop(state);
        let mut taken = files.take(0).unwrap();
        assert!(Arc::get_mut(&mut taken).is_none());
        drop(held);
        assert!(Arc::get_mut(&mut taken).is_some());
        assert!(Arc::ptr_eq(&files.get(1).unwrap(), &again));
        let mut unread = files.take(2).unwrap();
        assert!(Arc::get_mut(&mut unread).is_some());
    }

    #[test]
    fn what_leaves_is_not_handed_out() {
        let files = files(2);
        let held = files.get(1).unwrap();
        let mut taken = files.take(1).unwrap();
        assert!(Arc::get_mut(&mut taken).is_none());
        assert_eq!(files.get(1).err().unwrap().kind(), io::ErrorKind::NotFound);
        drop(held);
        assert!(Arc::get_mut(&mut taken).is_some());
        files.left(1);
        assert!(files.get(1).is_ok());
    }
}
