//! Open segments for reading: a bounded number of them, the least recently used are closed.
//!
//! Invariant: the file of a segment that is on its way out is never handed out again, so that nobody
//! reads from a file while the pool writes it anew. Must not know what files hold.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

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
        let file = self.disk.open(&segment::path(&self.dir, sequence), Open::Existing)?;
        state.open.insert(sequence, (Arc::clone(&file), now));
        if state.open.len() > OPEN_MAX {
            let oldest = state.open.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(sequence, _)| *sequence) {
                state.open.remove(&oldest);
            }
        }
        Ok(file)
    }

    /// Takes out the file of a segment that is to be removed: nobody gets it from here any more.
    pub(super) fn take(&self, sequence: u64) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.leaving.insert(sequence);
        match state.open.remove(&sequence) {
            Some((file, _)) => Ok(file),
            None => self.disk.open(&segment::path(&self.dir, sequence), Open::Existing),
        }
    }

    /// The segment is gone, or stays after all.
    pub(super) fn left(&self, sequence: u64) {
        self.state.lock().leaving.remove(&sequence);
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
