//! Files for segments, made ready before they are needed.
//!
//! A sync of a file that grows costs a commit of the file system's journal besides the data. A file
//! whose bytes were all written once does not. So the pool keeps a few such files: segments that
//! nobody needs any more, and one that it fills with zeros in the background.
//!
//! Owns the names `free-N.tmp` (ready), `fill-N.tmp` (being filled) and `new-N.tmp` (taken when none
//! was ready). What is taken keeps its name until the taker renames it: a crash before that leaves
//! no segment. Invariants: nothing is ready whose bytes another name may still show after a power
//! loss; nobody waits for a file to be filled. Must not know what segments hold.
//!
//! A ready file begins with a mark, written after its last name was durable and gone as soon as the
//! taker writes its header. So a file without a mark may be some segment's under a second name (a
//! rename that the power loss cut in two): the name is removed then, and the bytes are left alone.
//!
//! ```text
//!  0  8 bytes  "TSLOGFRE"
//!  8  u64      the file's length
//! 16  12 bytes zero
//! 28  u32      crc32c of bytes 0..28
//! ```

mod pace;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::disk::{Disk, File, Open};
use crate::metrics::Metrics;
use crate::tasks::{Kind, Tasks};

/// Ready files that are kept; what is given beyond is removed.
const READY_MAX: usize = 2;
/// Zeros are written and synced in pieces of this size, so that a commit never waits for many.
const PIECE_BYTES: u64 = 1 << 20;
/// One part in so many of the disk stays free of zeros: they must not make the disk full.
const SPARE_PART: u64 = 10;
/// A file that lacks at most one part in so many of a segment becomes ready again: the rest is filled.
const SHORT_PART: u64 = 16;
const MARK_BYTES: usize = 32;
const MARK_MAGIC: &[u8; 8] = b"TSLOGFRE";

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

const _: () = assert!(PIECE_BYTES.is_multiple_of(ZEROS.len() as u64));

/// The free files of a log. Dropping it ends its background work at the next step.
pub(super) struct Pool {
    shared: Arc<Shared>,
    _ends: DropGuard,
}

/// A file to write a segment into. What it holds is junk.
pub(super) struct Taken {
    /// Empty, or as long as a segment and written once from end to end.
    pub(super) file: Arc<dyn File>,
    /// Its temporary name, to be renamed when the segment's header is durable.
    pub(super) path: PathBuf,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Wakes the filling task.
    wanted: Notify,
    /// What the log wrote so far.
    written: AtomicU64,
}

#[derive(Default)]
struct State {
    ready: Vec<Taken>,
    /// Files that will be ready soon.
    coming: usize,
    /// The next name's number.
    next: u64,
    /// Files were taken before: the log goes through segments.
    took: bool,
}

impl Pool {
    /// Takes over the ready files in `dir`, which must exist, and removes the unfinished ones. To be
    /// called once the segments there made sense, and before any is written.
    ///
    /// # Errors
    /// The disk's; trying again is safe.
    pub(super) async fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u64,
        tasks: &Tasks,
        metrics: Arc<Metrics>,
    ) -> io::Result<Pool> {
        let state = recover(&*disk, &dir, segment_bytes).await?;
        let (state, wanted, written) = (Mutex::new(state), Notify::new(), AtomicU64::new(0));
        let shared = Arc::new(Shared { disk, dir, segment_bytes, metrics, state, wanted, written });
        let ended = CancellationToken::new();
        let work = fill_when_wanted(Arc::clone(&shared), ended.clone());
        tasks.spawn(Kind::LogKeeper, work);
        Ok(Pool { shared, _ends: ended.drop_guard() })
    }

    /// A file for a segment that is going to hold about `bytes`. A ready one if there is one and it
    /// is long enough; else a new, empty one. Never waits.
    ///
    /// Who does not use it gives it back with `give`, or leaves it to the next `open`.
    ///
    /// # Errors
    /// The disk's: nothing was taken.
    pub(super) fn take(&self, bytes: u64) -> io::Result<Taken> {
        let shared = &self.shared;
        let (ready, path) = {
            let mut state = shared.state.lock();
            let fits = bytes <= shared.segment_bytes;
            let ready = if fits { state.ready.pop() } else { None };
            let wanted = state.ready.is_empty() && std::mem::replace(&mut state.took, true);
            if wanted {
                shared.wanted.notify_one();
            }
            (ready, shared.path("new", state.number()))
        };
        match ready {
            Some(ready) => Ok(ready),
            None => Ok(Taken { file: shared.disk.open(&path, Open::New)?, path }),
        }
    }

    /// Has a file filled unless one is ready: to be called when the segment that is being written
    /// will soon be full. Does not wait.
    pub(super) fn prepare(&self) {
        self.shared.wanted.notify_one();
    }

    /// The log wrote so many bytes, which is how soon it will want a file.
    pub(super) fn wrote(&self, bytes: u64) {
        self.shared.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes a segment durably. Its file becomes ready again if it has the right length, there is
    /// room in the pool, and `file`, the only handle on it, is not in use: a reader would see the
    /// bytes change.
    ///
    /// # Errors
    /// The disk's: the segment may be there or not. When it returns `Ok`, it is gone for good.
    pub(super) async fn give(&self, path: &Path, mut file: Arc<dyn File>) -> io::Result<()> {
        let shared = &self.shared;
        let unused = Arc::get_mut(&mut file).is_some();
        let coming = match unused && shared.fits(&*file)? {
            true => Coming::reserve(shared, READY_MAX),
            false => None,
        };
        let Some(coming) = coming else {
            shared.disk.remove(path)?;
            return shared.disk.sync_dir(&shared.dir).await;
        };
        let free = shared.path("free", coming.number);
        shared.disk.rename(path, &free)?;
        // Before its bytes change, the segment's old name must be gone for good.
        shared.disk.sync_dir(&shared.dir).await?;
        match shared.make_ready(&*file).await {
            Ok(()) => coming.arrived(Taken { file, path: free }),
            Err(error) => shared.drop_free(&free, &error),
        }
        Ok(())
    }

    /// How many files are ready.
    #[cfg(test)]
    pub(super) fn ready(&self) -> usize {
        self.shared.state.lock().ready.len()
    }
}

/// Room for one more file in the pool, until it arrives or is given up.
struct Coming<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Coming<'_> {
    /// `None` when `upto` files are there or on their way.
    fn reserve(shared: &Shared, upto: usize) -> Option<Coming<'_>> {
        let mut state = shared.state.lock();
        if state.ready.len() + state.coming >= upto {
            return None;
        }
        state.coming += 1;
        Some(Coming { shared, number: state.number() })
    }

    fn arrived(self, file: Taken) {
        self.shared.state.lock().ready.push(file);
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().coming -= 1;
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Shared {
    fn path(&self, kind: &str, number: u64) -> PathBuf {
        self.dir.join(format!("{kind}-{number}.tmp"))
    }

    /// Whether a segment's file can be one again. Some are longer: large blocks, large footers. Those that
    /// grew end a little short, where the next block had no room.
    fn fits(&self, file: &dyn File) -> io::Result<bool> {
        let shortest = self.segment_bytes - self.segment_bytes / SHORT_PART;
        Ok((shortest..=2 * self.segment_bytes).contains(&file.len()?))
    }

    /// Whether zeros may take the room of a segment.
    fn has_room(&self) -> io::Result<bool> {
        let space = self.disk.space(&self.dir)?;
        Ok(space.free_bytes >= self.segment_bytes + space.total_bytes / SPARE_PART)
    }

    /// Gives a file that nobody else uses its length and its mark.
    async fn make_ready(&self, file: &dyn File) -> io::Result<()> {
        let mut len = file.len()?;
        if len > self.segment_bytes {
            file.set_len(self.segment_bytes).await?;
        }
        while len < self.segment_bytes {
            let piece = PIECE_BYTES.min(self.segment_bytes - len);
            file.write_synced(len, zeros(piece)).await?;
            self.metrics.observe_zero_fill(piece);
            len += piece;
        }
        file.write_synced(0, vec![mark(self.segment_bytes)]).await
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// A new file full of zeros, ready.
    async fn fill(&self, number: u64) -> io::Result<Taken> {
        let (unfinished, path) = (self.path("fill", number), self.path("free", number));
        let file = self.disk.open(&unfinished, Open::New)?;
        let filled = async {
            // In one step, so that the disk has it in one piece, and too little room shows now.
            file.allocate(self.segment_bytes).await?;
            let (mut at, mut since, mut written) = (0, Instant::now(), self.written());
            while at < self.segment_bytes {
                let piece = PIECE_BYTES.min(self.segment_bytes - at);
                file.write_synced(at, zeros(piece)).await?;
                self.metrics.observe_zero_fill(piece);
                at += piece;
                let (now, by_now) = (Instant::now(), self.written());
                let pause = pace::pause(piece, by_now - written, now - since);
                (since, written) = (now, by_now);
                tokio::time::sleep(pause).await;
            }
            self.make_ready(&*file).await?;
            self.disk.rename(&unfinished, &path)
        };
        if let Err(error) = filled.await {
            self.drop_free(&unfinished, &error);
            return Err(error);
        }
        Ok(Taken { file, path })
    }

    /// Removes a file that did not become ready. If that fails too, the next `open` does it.
    fn drop_free(&self, path: &Path, error: &io::Error) {
        tracing::warn!(path = %path.display(), %error, "no free segment: it is removed");
        let _ = self.disk.remove(path);
    }
}

/// Fills a file whenever one is wanted and none is there. Trouble waits for the next wish: the log
/// goes on with files that grow.
async fn fill_when_wanted(shared: Arc<Shared>, ended: CancellationToken) {
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            () = shared.wanted.notified() => {}
        }
        match shared.has_room() {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::warn!(%error, "no free segment: how much room is left is not known");
                continue;
            }
        }
        let Some(coming) = Coming::reserve(&shared, 1) else { continue };
        tokio::select! {
            () = ended.cancelled() => return,
            filled = shared.fill(coming.number) => {
                if let Ok(file) = filled {
                    coming.arrived(file);
                }
            }
        }
    }
}

/// Finds the ready files, and removes what is not.
async fn recover(disk: &dyn Disk, dir: &Path, segment_bytes: u64) -> io::Result<State> {
    let (mut state, mut removed) = (State::default(), false);
    for name in disk.list(dir)? {
        let Some((kind, number)) = parse(&name) else { continue };
        state.next = state.next.max(number);
        let path = dir.join(&name);
        if kind == "free" && state.ready.len() < READY_MAX {
            let file = disk.open(&path, Open::Existing)?;
            // What cannot be read is no loss.
            if is_ready(&*file, segment_bytes).await.unwrap_or(false) {
                state.ready.push(Taken { file, path });
                continue;
            }
        }
        disk.remove(&path)?;
        removed = true;
    }
    if removed {
        disk.sync_dir(dir).await?;
    }
    Ok(state)
}

/// Kind and number in a name of ours.
fn parse(name: &str) -> Option<(&str, u64)> {
    let (kind, number) = name.strip_suffix(".tmp")?.split_once('-')?;
    let ours = matches!(kind, "free" | "fill" | "new");
    ours.then(|| Some((kind, number.parse::<u32>().ok()?.into()))).flatten()
}

/// Whether a file has the mark of a ready one, under whatever name.
pub(super) async fn is_marked(file: &dyn File) -> io::Result<bool> {
    if file.len()? < MARK_BYTES as u64 {
        return Ok(false);
    }
    let begin = file.read_at(0, MARK_BYTES).await?;
    Ok(begin == mark((&begin[8..16]).get_u64_le()))
}

async fn is_ready(file: &dyn File, segment_bytes: u64) -> io::Result<bool> {
    if file.len()? != segment_bytes {
        return Ok(false);
    }
    let begin = file.read_at(0, MARK_BYTES).await?;
    Ok(begin == mark(segment_bytes))
}

pub(super) fn mark(len: u64) -> Bytes {
    let mut to = BytesMut::with_capacity(MARK_BYTES);
    to.put_slice(MARK_MAGIC);
    to.put_u64_le(len);
    to.put_bytes(0, 12);
    let crc = crc32c::crc32c(&to);
    to.put_u32_le(crc);
    to.freeze()
}

/// So many zeros, to be written.
pub(super) fn zeros(len: u64) -> Vec<Bytes> {
    let part = ZEROS.len() as u64;
    let lens = (0..len.div_ceil(part)).map(|at| part.min(len - at * part));
    lens.map(|len| Bytes::from_static(&ZEROS[..len as usize])).collect()
}
