//! `node.pid`: which process runs the node of a data folder; `up.pid`: which `up` watches over a cluster's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file within a node's data folder.
pub(super) const NAME: &str = "node.pid";
/// Name of the file within a cluster's folder.
pub(super) const UP_NAME: &str = "up.pid";

/// The file of the running process; removed when this is dropped, unless it names another process by then.
pub(super) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes the number of this process. To be called only by the owner of the folder's lock: what the file
    /// said before was left by a process that was killed.
    pub(super) fn write(data_dir: &Path) -> io::Result<PidFile> {
        PidFile::write_at(data_dir.join(NAME))
    }

    /// The same for an `up` and its cluster's folder.
    pub(super) fn write_up(cluster_dir: &Path) -> io::Result<PidFile> {
        PidFile::write_at(cluster_dir.join(UP_NAME))
    }

    fn write_at(path: PathBuf) -> io::Result<PidFile> {
        fs::write(&path, format!("{}\n", std::process::id()))?;
        Ok(PidFile { path })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if read_at(&self.path) == Some(std::process::id()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The process that the file of `data_dir` names, alive or not.
pub(super) fn read(data_dir: &Path) -> Option<u32> {
    read_at(&data_dir.join(NAME))
}

/// The `up` that the file of a cluster's folder names, alive or not.
pub(super) fn read_up(cluster_dir: &Path) -> Option<u32> {
    read_at(&cluster_dir.join(UP_NAME))
}

fn read_at(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_there_while_the_node_runs() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(NAME), "1\n").expect("left by a killed process");
        let file = PidFile::write(dir.path()).expect("written");
        assert_eq!(read(dir.path()), Some(std::process::id()));
        drop(file);
        assert_eq!(read(dir.path()), None);
    }

    #[test]
    fn the_file_of_another_process_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = PidFile::write(dir.path()).expect("written");
        fs::write(dir.path().join(NAME), "1\n").expect("written");
        drop(file);
        assert_eq!(read(dir.path()), Some(1));
    }
}
