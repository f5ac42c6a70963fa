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
use super::frame::Frame;
use super::group::Place;
use super::segment::{Header, Writer};
use super::state::{Segment, Stop, Write};
use super::write::BATCH_BYTES_MAX;
use crate::entropy::Entropy;
use crate::tasks::Kind;

/// What the next file and the next block are called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// Sequence number of the next segment.
    pub(super) segment: u64,
    /// The next block.
    pub(super) batch: u64,
}

/// Owner of the segment that is being written.
pub(super) struct Committer {
    shared: Arc<Shared>,
    active: Option<Writer>,
    next: Numbers,
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
    pub(super) fn new(shared: Arc<Shared>, active: Option<Writer>, next: Numbers) -> Committer {
        Committer { shared, active, next }
    }

    /// Writes until the log is closed or the node stops, then what was accepted before that.
    pub(super) async fn run(mut self) {
        loop {
            let result = match self.next_event().await {
                Event::Batch(writes) => self.commit(writes).await,
                Event::Seal => {
                    self.seal();
                    Ok(())
                }
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

    async fn write(&mut self, frames: &[&Frame]) -> io::Result<Vec<Place>> {
        let full = |active: &Writer| active.len >= self.shared.config.segment_bytes;
        if self.active.as_ref().is_some_and(full) {
            self.seal();
        }
        let mut active = match self.active.take() {
            Some(active) => active,
            None => self.begin_segment().await?,
        };
        let began = Instant::now();
        let batch = self.next.batch;
        let block = active.encode(batch, batch - 1, frames);
        let (bytes, offsets) = (block.len, block.offsets.clone());
        active.write(block, true).await?;
        self.shared.metrics.observe_fsync(bytes as usize, began.elapsed());
        self.next.batch += 1;

        let segment = active.header.sequence;
        if let Some(account) = self.shared.state.lock().segments.get_mut(&segment) {
            account.len = active.len;
            account.last_batch = batch;
        }
        self.active = Some(active);
        let lens = frames.iter().map(|frame| frame.len() as u64);
        Ok(offsets.iter().zip(lens).map(|(&offset, len)| Place { segment, offset, len }).collect())
    }

    async fn begin_segment(&mut self) -> io::Result<Writer> {
        let follows = self.next.batch - 1;
        let header = Header {
            salt: salt(&*self.shared.entropy),
            sequence: self.next.segment,
            follows,
            whole_upto: follows,
        };
        let (disk, dir) = (&*self.shared.disk, &self.shared.config.dir);
        let writer = Writer::begin(disk, dir, header).await?;
        writer.finish(disk, dir).await?;
        self.next.segment += 1;
        let account = Segment::new(Arc::clone(&writer.file), header, header.encode().1);
        self.shared.state.lock().segments.insert(header.sequence, account);
        Ok(writer)
    }

    /// Ends the segment: the next block begins a new one, and the keeper may touch this one.
    fn seal(&mut self) {
        if let Some(active) = self.active.take() {
            let mut state = self.shared.state.lock();
            if let Some(account) = state.segments.get_mut(&active.header.sequence) {
                account.sealed = true;
            }
        }
        self.shared.keep.notify_one();
    }

    fn publish(&self, writes: &[Write], places: Vec<Place>) {
        let mut state = self.shared.state.lock();
        let mut places = places.into_iter();
        let mut changed = Vec::new();
        for write in writes {
            for (ticket, frame) in &write.frames {
                if let Some(place) = places.next() {
                    state.publish(*ticket, frame, place);
                }
                changed.extend(state.groups.get(&frame.group).map(|known| known.changed.clone()));
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
