//! The folder of a store on disk: whose it is, what is in it, and setting it aside.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Damaged folders that are kept for a look; the oldest gives way.
pub(super) const DAMAGED_KEPT_MAX: u32 = 3;

/// How long a lock may outlive its holder: the store closes its files in the background.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Refuses a store that somebody uses: two processes on one folder must not take each other's store
/// for damaged. Blocks for up to a second.
pub(super) fn refuse_if_locked(db: &Path) -> io::Result<()> {
    use rustix::fs::{FlockOperation, flock};
    let file = match File::open(db) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for _ in 0..LOCK_PATIENCE.as_millis() / LOCK_PAUSE.as_millis() {
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(());
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(in_use(db))
}

/// Somebody else has the store open.
fn in_use(db: &Path) -> io::Error {
    let reason = format!("{} is in use by another process", db.display());
    io::Error::new(io::ErrorKind::ResourceBusy, reason)
}

/// Every file of the store's folder but `db`.
pub(super) fn files_of(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in [dir.to_owned(), dir.join("blobs")] {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && entry.file_name() != "db" {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

pub(super) fn parent(dir: &Path) -> Option<PathBuf> {
    dir.parent().map(|parent| {
        if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() }
    })
}

/// Moves `dir` to the next free `<dir>.damaged-N`; with all names taken, the one after the newest
/// gives way.
pub(super) fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let name = |n: u32| {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".damaged-{n}"));
        PathBuf::from(name)
    };
    let age = |n: u32| fs::metadata(name(n)).and_then(|meta| meta.modified());
    let slot = match (1..=DAMAGED_KEPT_MAX).find(|&n| !name(n).exists()) {
        Some(free) => free,
        None => (1..=DAMAGED_KEPT_MAX).min_by_key(|&n| age(n).ok()).unwrap_or(1),
    };
    let aside = name(slot);
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    fs::rename(dir, &aside)?;
    if let Some(parent) = parent(dir) {
        File::open(parent)?.sync_all()?;
    }
    Ok(aside)
}
