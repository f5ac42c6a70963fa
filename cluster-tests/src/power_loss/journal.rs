//! What a process asked of its files, as `shim/journal.c` wrote it down, and the same done to a simulated disk.
//!
//! ```text
//! record  kind u8 | file u64 le | value u64 le | bytes u32 le | that many bytes
//!
//! kind  file   value   bytes
//! c     inode  -       path         created and opened
//! o     inode  -       path         opened
//! w     inode  offset  what         written
//! t     inode  length  -            cut or extended
//! s     inode  token   -            sync of the file begins
//! d     -      token   path         sync of the folder begins
//! e     -      token   -            that sync has ended
//! r     -      -       from 0 to    renamed
//! u     -      -       path         removed
//! m     -      -       path         folder made
//! ```
//!
//! Invariant: a record that is not whole is the last one, and the call it tells of never returned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use tristream_node::disk::{Disk, File, Open, SimulatedDisk};

/// Kind, file, value, bytes.
const HEAD_BYTES: usize = 1 + 8 + 8 + 4;

/// One call of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A file was created, or opened.
    Open {
        /// Its inode.
        file: u64,
        /// Its name.
        path: PathBuf,
        /// Whether it was not there before.
        new: bool,
    },
    /// Bytes were written.
    Write {
        /// Into this file.
        file: u64,
        /// From here on.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// A file was cut or extended.
    Resize {
        /// Which.
        file: u64,
        /// Its length from now on.
        len: u64,
    },
    /// A sync of a file began.
    Sync {
        /// Which.
        file: u64,
        /// Names the sync.
        token: u64,
    },
    /// A sync of a folder began.
    SyncDir {
        /// Which.
        path: PathBuf,
        /// Names the sync.
        token: u64,
    },
    /// A sync ended.
    Synced(u64),
    /// A name was changed.
    Rename(PathBuf, PathBuf),
    /// A name was removed.
    Remove(PathBuf),
    /// A folder was made.
    MakeDir(PathBuf),
}

fn path(bytes: &[u8]) -> anyhow::Result<PathBuf> {
    Ok(PathBuf::from(std::str::from_utf8(bytes).context("a path that is no text")?))
}

/// The calls of a journal, in order.
pub fn parse(mut journal: Bytes) -> anyhow::Result<Vec<Call>> {
    let mut calls = Vec::new();
    while journal.len() >= HEAD_BYTES {
        let kind = journal.get_u8();
        let (file, value) = (journal.get_u64_le(), journal.get_u64_le());
        let len = journal.get_u32_le() as usize;
        if journal.len() < len {
            break;
        }
        let bytes = journal.split_to(len);
        calls.push(match kind {
            b'c' | b'o' => Call::Open { file, path: path(&bytes)?, new: kind == b'c' },
            b'w' => Call::Write { file, offset: value, bytes },
            b't' => Call::Resize { file, len: value },
            b's' => Call::Sync { file, token: value },
            b'd' => Call::SyncDir { path: path(&bytes)?, token: value },
            b'e' => Call::Synced(value),
            b'r' => {
                let middle = bytes.iter().position(|byte| *byte == 0).context("one path only")?;
                Call::Rename(path(&bytes[..middle])?, path(&bytes[middle + 1..])?)
            }
            b'u' => Call::Remove(path(&bytes)?),
            b'm' => Call::MakeDir(path(&bytes)?),
            other => bail!("a record of unknown kind {other}"),
        });
    }
    Ok(calls)
}

/// A folder on a simulated disk: what was there, and then what the calls made of it.
pub struct Replay {
    disk: SimulatedDisk,
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<u64, Arc<dyn File>>,
    syncs: BTreeMap<u64, BoxFuture<'static, std::io::Result<()>>>,
}

/// Any time will do: between the beginning of a sync and its end the replay decides what happens.
const SYNC_TIME: Duration = Duration::from_millis(1);

impl Replay {
    /// A disk that holds the folder `root`, all of it synced, and nothing else.
    pub async fn of(root: &Path) -> anyhow::Result<Replay> {
        let disk = SimulatedDisk::new();
        disk.create_dir_all(root)?;
        let (files, syncs) = (BTreeMap::new(), BTreeMap::new());
        let mut replay = Replay { disk, dirs: BTreeSet::from([root.to_owned()]), files, syncs };
        replay.load(root).await?;
        replay.disk.set_sync_latency(0, SYNC_TIME, SYNC_TIME);
        Ok(replay)
    }

    async fn load(&mut self, root: &Path) -> anyhow::Result<()> {
        let mut waiting = vec![root.to_owned()];
        while let Some(dir) = waiting.pop() {
            for entry in std::fs::read_dir(&dir)? {
                let path = entry?.path();
                if path.is_dir() {
                    self.make_dir(&path)?;
                    waiting.push(path);
                    continue;
                }
                let file = self.disk.open(&path, Open::New)?;
                file.write_synced(0, vec![std::fs::read(&path)?.into()]).await?;
            }
            self.disk.sync_dir(&dir).await?;
        }
        Ok(())
    }

    fn make_dir(&mut self, path: &Path) -> anyhow::Result<()> {
        self.disk.create_dir_all(path)?;
        self.dirs.insert(path.to_owned());
        Ok(())
    }

    fn file(&self, file: u64) -> anyhow::Result<&Arc<dyn File>> {
        self.files.get(&file).with_context(|| format!("file {file} was never opened"))
    }

    /// Does one call. In a runtime whose time stands still while there is work.
    pub async fn apply(&mut self, call: Call) -> anyhow::Result<()> {
        match call {
            Call::Open { file, path, new } => {
                let how = if new { Open::New } else { Open::Existing };
                let opened = self.disk.open(&path, how);
                self.files.insert(file, opened.with_context(|| path.display().to_string())?);
            }
            Call::Write { file, offset, bytes } => {
                self.file(file)?.write_at(offset, vec![bytes]).await?;
            }
            Call::Resize { file, len } => self.file(file)?.set_len(len).await?,
            Call::Sync { file, token } => {
                let file = self.file(file)?.clone();
                self.begin(token, Box::pin(async move { file.sync().await }));
            }
            Call::SyncDir { path, token } => {
                let disk = self.disk.clone();
                self.begin(token, Box::pin(async move { disk.sync_dir(&path).await }));
            }
            Call::Synced(token) => {
                let sync = self.syncs.remove(&token).context("a sync ends that never began")?;
                sync.await?;
            }
            Call::Rename(from, to) => self.disk.rename(&from, &to)?,
            Call::Remove(path) => self.disk.remove(&path)?,
            Call::MakeDir(path) => self.make_dir(&path)?,
        }
        Ok(())
    }

    /// A sync covers what was written before it began: the first look takes note of that.
    fn begin(&mut self, token: u64, mut sync: BoxFuture<'static, std::io::Result<()>>) {
        if futures::FutureExt::now_or_never(&mut sync).is_none() {
            self.syncs.insert(token, sync);
        }
    }

    /// The power fails. Writes what is left below `root` of this disk to `to`, and says what was lost.
    pub async fn lose_power(
        self,
        seed: u64,
        root: &Path,
        to: &Path,
    ) -> anyhow::Result<tristream_node::disk::Damage> {
        drop(self.syncs);
        self.disk.power_loss(seed);
        let disk = self.disk.restarted();
        for dir in &self.dirs {
            let target = to.join(dir.strip_prefix(root)?);
            std::fs::create_dir_all(&target)?;
            for name in disk.list(dir)? {
                let file = disk.open(&dir.join(&name), Open::Existing)?;
                let bytes = file.read_at(0, file.len()? as usize).await?;
                std::fs::write(target.join(name), bytes)?;
            }
        }
        Ok(disk.damage())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;

    fn record(kind: u8, file: u64, value: u64, bytes: &[u8]) -> Vec<u8> {
        let mut record = vec![kind];
        record.put_u64_le(file);
        record.put_u64_le(value);
        record.put_u32_le(bytes.len() as u32);
        record.extend_from_slice(bytes);
        record
    }

    #[test]
    fn a_journal_is_read_up_to_the_record_that_was_cut() {
        let records = [
            record(b'm', 0, 0, b"/r/d"),
            record(b'c', 7, 0, b"/r/d/f"),
            record(b'w', 7, 3, b"bytes"),
            record(b's', 7, 1, b""),
            record(b'e', 0, 1, b""),
            record(b'r', 0, 0, b"/r/d/f\0/r/d/g"),
        ];
        let whole: Vec<u8> = records.concat();
        let calls = parse(whole.clone().into()).unwrap();
        assert_eq!(calls.len(), records.len());
        assert_eq!(calls[1], Call::Open { file: 7, path: "/r/d/f".into(), new: true });
        assert_eq!(calls[2], Call::Write { file: 7, offset: 3, bytes: "bytes".into() });
        assert_eq!(calls[5], Call::Rename("/r/d/f".into(), "/r/d/g".into()));
        for cut in 1..records[5].len() {
            let calls = parse(Bytes::copy_from_slice(&whole[..whole.len() - cut])).unwrap();
            assert_eq!(calls.len(), records.len() - 1, "{cut} bytes are missing");
        }
        assert!(parse(record(b'?', 0, 0, b"").into()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_a_sync_covers_is_sure_to_survive() {
        let root = Path::new("/no/such/folder");
        let bytes = |letter: u8| Bytes::from(vec![letter; 1000]);
        let calls = [
            Call::Open { file: 1, path: root.join("f"), new: true },
            Call::SyncDir { path: root.to_owned(), token: 1 },
            Call::Synced(1),
            Call::Write { file: 1, offset: 0, bytes: bytes(b'a') },
            Call::Sync { file: 1, token: 2 },
            Call::Write { file: 1, offset: 1000, bytes: bytes(b'b') },
            Call::Synced(2),
            Call::Sync { file: 1, token: 3 },
        ];
        let mut lost = 0;
        for seed in 0..20 {
            let disk = SimulatedDisk::new();
            disk.create_dir_all(root).unwrap();
            disk.set_sync_latency(0, SYNC_TIME, SYNC_TIME);
            let dirs = BTreeSet::from([root.to_owned()]);
            let mut replay = Replay { disk, dirs, files: BTreeMap::new(), syncs: BTreeMap::new() };
            for call in calls.clone() {
                replay.apply(call).await.unwrap();
            }
            let to = tempfile::tempdir().unwrap();
            replay.lose_power(seed, root, to.path()).await.unwrap();
            let left = std::fs::read(to.path().join("f")).unwrap();
            assert_eq!(&left[..1000], &bytes(b'a')[..], "synced");
            lost += usize::from(left[1000..].iter().filter(|byte| **byte == b'b').count() < 1000);
        }
        assert!(lost > 0, "what came after the sync began is not covered by it");
    }
}
