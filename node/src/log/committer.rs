//! The committer: the one task that writes the log.
//!
//! Invariants: one block at a time: written and synced before the next is begun; callbacks are
//! called in the order of the queue, each exactly once; after a failed write or sync nothing is
//! written ever again. Batching comes from the sync itself: while one runs, the next batch gathers.
//! Must not read files.

use std::io;
use std::sync::Arc;

use tokio::time::Instant;

use super::Shared;
use super::frame::{Frame, Head};
use super::group::Place;
use super::pool;
use super::segment::{HEADER_BYTES, Header, block};
use super::state::{Segment, Stage, Stop, Write};
use super::write::BATCH_BYTES_MAX;
use super::writer::Writer;
use crate::entropy::Entropy;
use crate::tasks::Kind;

/// Owner of the segment that is being written.
pub(super) struct Committer {
    shared: Arc<Shared>,
    active: Option<Writer>,
    /// The next block's number.
    next_batch: u64,
}

/// What woke the committer.
enum Event {
    Batch(Vec<Write>),
    Seal,
    Close,
}

impl Drop for Committer {
    // Also when it panicked: nobody may wait for an answer that never comes.
    fn drop(&mut self) {
        self.shared.stop(Stop::Closed);
        self.shared.ended.cancel();
    }
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, active: Option<Writer>, next_batch: u64) -> Committer {
        Committer { shared, active, next_batch }
    }

    /// Writes until the log is closed or the node stops, then what was accepted before that.
    pub(super) async fn run(mut self) {
        loop {
            let result = match self.next_event().await {
                Event::Batch(writes) => self.commit(writes).await,
                Event::Seal => self.begin_next().await,
                Event::Close => {
                    if let Err(error) = self.close().await {
                        self.fail(&error);
                    }
                    return;
                }
            };
            if let Err(error) = result {
                self.fail(&error);
                return;
            }
        }
    }

    async fn next_event(&self) -> Event {
        let stopping = self.shared.tasks.stopping();
        loop {
            {
                let mut state = self.shared.state.lock();
                let writes = state.take(BATCH_BYTES_MAX);
                if !writes.is_empty() {
                    return Event::Batch(writes);
                }
                if std::mem::take(&mut state.seal) {
                    return Event::Seal;
                }
                if stopping.is_cancelled() {
                    state.stop.get_or_insert(Stop::Closed);
                }
                if state.stop.is_some() {
                    return Event::Close;
                }
            }
            tokio::select! {
                () = self.shared.work.notified() => {}
                () = stopping.cancelled() => {}
            }
        }
    }

    /// Makes a batch durable and tells those who wait for it.
    async fn commit(&mut self, writes: Vec<Write>) -> io::Result<()> {
        let frames: Vec<&Frame> =
            writes.iter().flat_map(|write| &write.frames).map(|(_, frame)| frame).collect();
        let written =
            if frames.is_empty() { Ok(None) } else { self.write(&frames).await.map(Some) };
        match written {
            Ok(places) => {
                self.publish(&writes, places.unwrap_or_default());
                for write in writes {
                    drop(write.room);
                    if let Some(done) = write.done {
                        done.call(Ok(()));
                    }
                }
                Ok(())
            }
            Err(error) => {
                // From here on nothing is taken in: stop first, then answer.
                self.shared.state.lock().stop = Some(Stop::Failed(error.to_string()));
                for done in writes.into_iter().filter_map(|write| write.done) {
                    done.call(Err(self.shared.stopped()));
                }
                Err(error)
            }
        }
    }

    async fn write(&mut self, frames: &[&Frame]) -> io::Result<Vec<(Place, Head)>> {
        let block_bytes = block::block_bytes(frames.iter().copied());
        if self.active.as_ref().is_some_and(|active| !self.fits(active, block_bytes, frames.len()))
        {
            self.seal();
        }
        let mut active = match self.active.take() {
            Some(active) => active,
            None => self.begin_segment(block_bytes).await?,
        };
        let began = Instant::now();
        let batch = self.next_batch;
        let mut block = active.encode(batch, batch - 1, frames);
        let zeros = active.zeros_behind(block.len, self.shared.config.segment_bytes);
        block.parts.extend(pool::zeros(zeros));
        active.write(block.parts, block.len, block.crc, true).await?;
        self.shared.metrics.observe_fsync(block.len as usize, began.elapsed());
        self.shared.metrics.observe_zero_fill(zeros);
        self.shared.metrics.observe_log_padding(block.padding);
        self.shared.pool.wrote(block.len);
        self.next_batch += 1;

        let half = self.shared.config.segment_bytes / 2;
        if active.len >= half && active.len - block.len < half {
            self.shared.pool.prepare();
        }
        let segment = active.header.sequence;
        if let Some(account) = self.shared.state.lock().segments.get_mut(&segment) {
            account.len = active.len;
            account.last_batch = batch;
        }
        let begins = active.len - block.len;
        self.active = Some(active);
        let heads = block.heads.into_iter();
        Ok(heads.map(|(at, head)| (Place { segment, offset: begins + at }, head)).collect())
    }

    /// Whether a block has room in the segment, and its footer behind it. Any block has, in an empty
    /// one.
    fn fits(&self, active: &Writer, block_bytes: u64, frames: usize) -> bool {
        let state = self.shared.state.lock();
        let account = state.segments.get(&active.header.sequence);
        let footer = account.map_or(0, |account| account.footer_bytes_about(frames));
        active.len + block_bytes + footer <= self.shared.config.segment_bytes
            || active.len == HEADER_BYTES
    }

    async fn begin_segment(&mut self, block_bytes: u64) -> io::Result<Writer> {
        let follows = self.next_batch - 1;
        let header = Header {
            salt: salt(&*self.shared.entropy),
            sequence: self.shared.state.lock().take_sequence(),
            log: self.shared.log,
            follows,
            whole_upto: follows,
            rewritten: false,
        };
        let (disk, dir) = (&*self.shared.disk, &self.shared.config.dir);
        let taken = self.shared.pool.take(HEADER_BYTES + block_bytes)?;
        let writer = Writer::begin(taken.file, header).await?;
        writer.name(disk, dir, &taken.path).await?;
        self.shared.state.lock().segments.insert(header.sequence, Segment::new(header));
        self.shared.sealer.notify_one();
        Ok(writer)
    }

    /// Ends the segment and begins the next one: the keeper may touch what is full.
    async fn begin_next(&mut self) -> io::Result<()> {
        if self.active.is_some() {
            self.seal();
            self.active = Some(self.begin_segment(0).await?);
        }
        Ok(())
    }

    /// Ends the segment: the next block begins a new one.
    fn seal(&mut self) {
        if let Some(active) = self.active.take()
            && let Some(account) =
                self.shared.state.lock().segments.get_mut(&active.header.sequence)
        {
            account.stage = Stage::Full;
        }
        self.shared.sealer.notify_one();
    }

    fn publish(&self, writes: &[Write], places: Vec<(Place, Head)>) {
        let mut state = self.shared.state.lock();
        let mut places = places.into_iter();
        let mut changed = Vec::new();
        for write in writes {
            for (ticket, frame) in &write.frames {
                if let Some((place, head)) = places.next() {
                    state.publish(*ticket, &head, place);
                }
                let group = state.groups.get(&frame.head.group);
                changed.extend(group.map(|known| known.changed.clone()));
            }
            state.bury(&write.dying);
        }
        state.trim_tail(self.shared.config.tail_bytes);
        let ((segments, bytes), queued) = (state.size(), state.queued_bytes);
        drop(state);
        self.shared.metrics.set_log_size(segments, bytes);
        self.shared.metrics.set_queue_depth("log_bytes", queued);
        changed.iter().for_each(|changed| changed.notify_waiters());
        if writes.iter().any(|write| !write.dying.0.is_empty()) {
            self.shared.keep.notify_one();
        }
    }

    /// Writes what only rides along, and a last, empty block that proves the one before it durable.
    async fn close(&mut self) -> io::Result<()> {
        let noted = self.shared.state.lock().take_noted();
        if let Some(noted) = noted {
            self.commit(vec![noted]).await?;
        }
        if self.active.is_some() {
            self.write(&[]).await?;
        }
        Ok(())
    }

    fn fail(&self, error: &io::Error) {
        self.shared.metrics.observe_fsync_failure();
        self.shared.stop(Stop::Failed(error.to_string()));
        self.shared.tasks.failed(Kind::Committer, error);
    }
}

/// A random salt.
pub(super) fn salt(entropy: &dyn Entropy) -> u32 {
    entropy.u64() as u32
}
