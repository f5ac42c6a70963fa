//! The names of segments, made again when the log opens.
//!
//! A folder's sync that failed may have lost names that are still to be seen, and a later sync that
//! succeeds does not bring them back. So a name that was read back proves nothing: every segment is
//! renamed there and back, which is news to the disk, and only then anything hangs on it. Invariant:
//! a segment always has one of its two names.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::disk::Disk;
use crate::log::segment;

/// What is added to a name while it is made again.
const MOVED: &str = ".moved";

/// Puts right what a crash left halfway.
pub(in crate::log) fn settle(dir: &Path, disk: &dyn Disk) -> io::Result<()> {
    disk.create_dir_all(dir)?;
    let names: BTreeSet<String> = disk.list(dir)?.into_iter().collect();
    for moved in &names {
        let Some(name) = moved.strip_suffix(MOVED).filter(|name| is_segment(name)) else {
            continue;
        };
        match names.contains(name) {
            // Two names of one file.
            true => disk.remove(&dir.join(moved))?,
            false => disk.rename(&dir.join(moved), &dir.join(name))?,
        }
    }
    Ok(())
}

/// Makes the names of all segments, and that of the folder, durable.
pub(super) async fn renew(dir: &Path, disk: &dyn Disk) -> io::Result<()> {
    let mut names = disk.list(dir)?;
    names.retain(|name| is_segment(name));
    let moved = |name: &String| dir.join(format!("{name}{MOVED}"));
    for name in &names {
        disk.rename(&dir.join(name), &moved(name))?;
    }
    disk.sync_dir(dir).await?;
    for name in &names {
        disk.rename(&moved(name), &dir.join(name))?;
    }
    disk.sync_dir(dir).await?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => disk.sync_dir(parent).await,
        _ => Ok(()),
    }
}

fn is_segment(name: &str) -> bool {
    segment::sequence_of(name).is_some()
}
