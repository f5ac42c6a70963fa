//! An open file of a simulated disk.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::Inner;
use super::content::{Change, Content};
use super::faults::{SyncFate, io_failure, meets_bad};
use super::state::FileId;
use crate::disk::File;

pub(super) struct SimulatedFile {
    inner: Arc<Inner>,
    file: FileId,
    life: u64,
}

impl SimulatedFile {
    /// The caller has counted it as open.
    pub(super) fn new(inner: Arc<Inner>, file: FileId, life: u64) -> SimulatedFile {
        SimulatedFile { inner, file, life }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        act(self.inner.alive(self.life)?.content(self.file)?)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut state = self.inner.alive(self.life)?;
        if state.faults.next_read_fails() {
            return Err(io_failure());
        }
        let content = state.content(self.file)?;
        let from = offset as usize;
        if meets_bad(&mut content.bad, &(offset..offset + len as u64)) {
            return Err(io_failure());
        }
        let bytes = content.now.read(from..from + len).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(bytes.into())
    }

    /// On a full disk as much as fits is written, as the operating system does.
    fn write(&self, offset: u64, parts: Vec<Bytes>) -> io::Result<()> {
        let mut at = offset as usize;
        for bytes in parts.into_iter().filter(|bytes| !bytes.is_empty()) {
            let mut state = self.inner.alive(self.life)?;
            let next = at + bytes.len();
            // A gap before the write takes room like everything else.
            let grows = next.saturating_sub(state.content(self.file)?.now.len()) as u64;
            let lacking = (grows - state.take_space(grows)) as usize;
            let bytes = bytes.slice(..bytes.len().saturating_sub(lacking));
            state.content(self.file)?.change(Change::Write { offset: at, bytes });
            if lacking > 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            at = next;
        }
        Ok(())
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        let mut state = self.inner.alive(self.life)?;
        let grows = len.saturating_sub(state.content(self.file)?.now.len() as u64);
        if state.take_space(grows) < grows {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.content(self.file)?.change(Change::Cut { len: len as usize });
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let is_longer = self.with(|content| Ok(content.now.len() as u64 >= len))?;
        if is_longer { Ok(()) } else { self.resize(len) }
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        if let Ok(mut state) = self.inner.alive(self.life) {
            state.closed(self.file);
        }
    }
}

impl File for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.now.len() as u64))
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            self.inner.wait_out_stall().await;
            self.read(offset, len)
        })
    }

    fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.inner.wait_out_stall().await;
            self.write(offset, parts)
        })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.inner.wait_for_release().await;
            self.inner.wait_out_stall().await;
            let end = self.with(|content| Ok(content.next_change))?;
            self.inner.take_time().await;
            let mut state = self.inner.alive(self.life)?;
            state.syncs += 1;
            let fate = state.faults.next_sync();
            let content = state.content(self.file)?;
            match fate {
                SyncFate::Lie => {}
                SyncFate::Done => content.sync(end),
                SyncFate::Fail => {
                    drop(content.take_unsynced(end));
                    return Err(io::Error::other("injected I/O error in sync"));
                }
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.inner.wait_out_stall().await;
            self.resize(len)
        })
    }

    fn allocate(&self, len: u64) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.inner.wait_out_stall().await;
            SimulatedFile::allocate(self, len)
        })
    }
}
