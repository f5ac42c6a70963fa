//! Tables on sled, made to keep its word.
//!
//! Owns the folder `state`. As shipped, sled's `flush` is `sync_file_range` and some of its files
//! are never synced, so that a power cut loses what it called flushed. Here every file and folder
//! is synced after open, and after every flush `db` is synced through a descriptor of our own.
//! Everything in the folder can be rebuilt from the metadata log, so a store that will not open, or
//! whose rows do not add up, is moved aside and replaced by an empty one.
//!
//! sled keeps two trees here: `rows`, and `mark` with one row, written in the same transaction as
//! the rows:
//!
//! ```text
//! tree  key     value
//! rows  any     any                                               mutable
//! mark  "mark"  see `mark.rs`                                     with every batch
//! ```

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use ::sled::{Config, Db, Mode, Tree};
use bytes::Bytes;
use parking_lot::Mutex;

use super::folder::{files_of, parent, refuse_if_locked, set_aside};
use super::mark::Mark;
use super::{Change, Tables, check_rows};

/// Rows are few and small; sled's default of 1 GiB would be a promise to use it.
const CACHE_BYTES: u64 = 32 << 20;
const MARK_KEY: &[u8] = b"mark";

/// Tables in a folder on disk.
pub struct SledTables {
    dir: PathBuf,
    /// Ours, beside sled's: an fsync error is reported once per descriptor, and sled swallows its
    /// own.
    db_file: File,
    /// Taken out when the tables are dropped or can no longer be trusted.
    store: Mutex<Option<Store>>,
}

#[derive(Clone)]
struct Store {
    db: Db,
    rows: Tree,
    mark: Tree,
}

enum OpenError {
    /// The folder holds no usable store.
    Damaged(String),
    /// Somebody uses it, or the disk refuses: moving it aside would not help.
    Refused(io::Error),
}

impl SledTables {
    /// Opens the store in `dir`, making it when there is none. One that is damaged is set aside as
    /// `<dir>.damaged-N`, and the tables start empty. An error means that the folder is in use or
    /// the disk refuses; nothing was lost.
    pub fn open_or_rebuild(dir: &Path) -> io::Result<SledTables> {
        let reason = match SledTables::open(dir) {
            Ok(tables) => return Ok(tables),
            Err(OpenError::Refused(error)) => return Err(error),
            Err(OpenError::Damaged(reason)) => reason,
        };
        let aside = set_aside(dir)?;
        tracing::error!(
            dir = %dir.display(), aside = %aside.display(), reason,
            "the metadata tables are damaged; they are rebuilt from the log"
        );
        SledTables::open(dir).map_err(|error| match error {
            OpenError::Refused(error) => error,
            OpenError::Damaged(reason) => io::Error::other(format!("a new store fails: {reason}")),
        })
    }

    fn open(dir: &Path) -> Result<SledTables, OpenError> {
        fs::create_dir_all(dir).map_err(OpenError::Refused)?;
        refuse_if_locked(&dir.join("db")).map_err(OpenError::Refused)?;
        let store = guarded(|| {
            let config = Config::new()
                .path(dir)
                .mode(Mode::LowSpace)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(None);
            let db = config.open()?;
            let (rows, mark) = (db.open_tree("rows")?, db.open_tree("mark")?);
            Ok(Store { db, rows, mark })
        })
        .map_err(classify)?;
        let checked = guarded(|| Ok(store.check()));
        match checked {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return Err(give_up(store, OpenError::Damaged(reason))),
            Err(error) => return Err(give_up(store, classify(error))),
        }
        let db_file = match File::open(dir.join("db")) {
            Ok(file) => file,
            Err(error) => return Err(give_up(store, OpenError::Refused(error))),
        };
        let tables = SledTables { dir: dir.to_owned(), db_file, store: Mutex::new(Some(store)) };
        // The trees just made must be on disk as well, and every file's name in its folder.
        tables.flush().map_err(OpenError::Refused)?;
        Ok(tables)
    }

    fn store(&self) -> io::Result<Store> {
        self.store.lock().clone().ok_or_else(|| io::Error::other("the tables failed before"))
    }

    /// Runs `work` on the store. After a failure the tables answer nothing more, and the folder is
    /// moved aside: what a failed sync left in the page cache would look sound to the next open.
    fn run<T>(&self, work: impl FnOnce(&Store) -> ::sled::Result<T>) -> io::Result<T> {
        let store = self.store()?;
        let done = guarded(|| work(&store)).map_err(|error| self.distrust(io_error(error)));
        // After a failure this is the last handle.
        close(store);
        done
    }

    fn distrust(&self, error: io::Error) -> io::Error {
        let store = self.store.lock().take();
        if let Some(store) = store {
            close(store);
            if let Err(error) = set_aside(&self.dir) {
                tracing::error!(%error, dir = %self.dir.display(), "cannot set the tables aside");
            }
        }
        error
    }

    /// Syncs `db`, and then whatever else sled keeps: `conf`, `snap.*`, `blobs/*`, and the folders.
    fn sync(&self) -> io::Result<()> {
        self.db_file.sync_data()?;
        for path in files_of(&self.dir)? {
            match File::open(&path) {
                Ok(file) => file.sync_all()?,
                // sled removes old snapshots and blobs by itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let folders = [Some(self.dir.join("blobs")), Some(self.dir.clone()), parent(&self.dir)];
        for folder in folders.into_iter().flatten() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

impl Tables for SledTables {
    fn applied(&self) -> io::Result<Option<Bytes>> {
        let mark = self.run(|store| store.mark.get(MARK_KEY))?;
        Ok(mark.and_then(|bytes| Mark::decode(&bytes)).map(|mark| mark.applied))
    }

    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.run(|store| {
            let row = |row: ::sled::Result<(::sled::IVec, ::sled::IVec)>| {
                row.map(|(key, value)| {
                    (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))
                })
            };
            store.rows.scan_prefix(prefix).map(row).collect()
        })
    }

    fn apply(&self, changes: &[Change], applied: Bytes) -> io::Result<()> {
        check_rows(changes)?;
        self.run(|store| store.apply(changes, &applied))
    }

    fn flush(&self) -> io::Result<()> {
        self.run(|store| store.db.flush())?;
        self.sync().map_err(|error| self.distrust(error))
    }

    fn clear(&self) -> io::Result<()> {
        // The marker goes first: whatever a crash leaves of the rows then does not add up.
        self.run(|store| {
            store.mark.clear()?;
            store.rows.clear()
        })?;
        self.flush()
    }
}

impl Drop for SledTables {
    fn drop(&mut self) {
        if let Some(store) = self.store.lock().take() {
            close(store);
        }
    }
}

impl Store {
    fn apply(&self, changes: &[Change], applied: &Bytes) -> ::sled::Result<()> {
        let done = (&self.rows, &self.mark).transaction(|(rows, marks)| {
            let mut mark = marks
                .get(MARK_KEY)?
                .map_or_else(|| Some(Mark::default()), |bytes| Mark::decode(&bytes))
                .ok_or(ConflictableTransactionError::Abort(()))?;
            for change in changes {
                let (key, old) = match change {
                    Change::Put(key, value) => {
                        mark.add(key, value);
                        (key, rows.insert(&key[..], &value[..])?)
                    }
                    Change::Delete(key) => (key, rows.remove(&key[..])?),
                };
                if let Some(old) = old {
                    mark.remove(key, &old);
                }
            }
            mark.applied = applied.clone();
            marks.insert(MARK_KEY, mark.encode())?;
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        match done {
            Ok(()) => Ok(()),
            Err(TransactionError::Storage(error)) => Err(error),
            Err(TransactionError::Abort(())) => {
                Err(::sled::Error::ReportableBug("the marker is of an unknown format".to_owned()))
            }
        }
    }

    /// Reads every row and holds them against the marker.
    fn check(&self) -> Result<(), String> {
        let mut found = Mark::default();
        for row in self.rows.iter() {
            let (key, value) = row.map_err(|error| format!("a row cannot be read: {error}"))?;
            found.add(&key, &value);
        }
        let said = self.mark.get(MARK_KEY).map_err(|error| format!("no marker: {error}"))?;
        let said = match said {
            Some(bytes) => Mark::decode(&bytes).ok_or("the marker is of an unknown format")?,
            None => Mark::default(),
        };
        found.applied = said.applied.clone();
        if found == said {
            return Ok(());
        }
        Err(format!("{} rows do not add up to the {} of the marker", found.count, said.count))
    }
}

enum Failure {
    Store(::sled::Error),
    Panic,
}

/// sled panics where others give an error, on damage above all.
fn guarded<T>(work: impl FnOnce() -> ::sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(Failure::Store),
        Err(_) => Err(Failure::Panic),
    }
}

/// Dropping a store flushes and syncs, and panics when that fails.
fn close(store: Store) {
    let closed = catch_unwind(AssertUnwindSafe(|| drop(store)));
    if closed.is_err() {
        tracing::error!("closing the metadata tables failed");
    }
}

fn give_up(store: Store, error: OpenError) -> OpenError {
    close(store);
    error
}

fn io_error(failure: Failure) -> io::Error {
    match failure {
        Failure::Store(::sled::Error::Io(error)) => error,
        Failure::Store(error) => io::Error::other(error.to_string()),
        Failure::Panic => io::Error::other("the store panicked"),
    }
}

fn classify(failure: Failure) -> OpenError {
    use io::ErrorKind::{OutOfMemory, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    match failure {
        Failure::Store(::sled::Error::Io(error))
            if matches!(
                error.kind(),
                PermissionDenied | ReadOnlyFilesystem | StorageFull | OutOfMemory
            ) =>
        {
            OpenError::Refused(error)
        }
        // Somebody was quicker after we had asked for the lock. sled says it in no other way.
        Failure::Store(::sled::Error::Io(error))
            if error.to_string().contains("could not acquire lock") =>
        {
            OpenError::Refused(io::Error::new(io::ErrorKind::ResourceBusy, error))
        }
        failure => OpenError::Damaged(io_error(failure).to_string()),
    }
}

#[cfg(test)]
#[path = "sled_tests.rs"]
mod tests;
