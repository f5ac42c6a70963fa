//! Every task of a node, with its kind and what becomes of the node when it ends in failure.
//!
//! Owns spawning and shutdown. Invariant: no task outlives `Tasks::shutdown`; a task that panics or
//! reports failure has the fate of its kind. Must not know what the tasks do.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Brings the node up, floor by floor.
    Boot,
    /// Gathers puts of one shard into entries.
    Appender,
    /// Writes and syncs the shared log.
    Committer,
    /// Background work on the log: sealing, compaction.
    LogKeeper,
    /// Looks how much room the disk has.
    Room,
    /// Opens, closes and initialises groups as the metadata say.
    Reconciler,
    /// Carries streams through their life on the metadata leader.
    StreamKeeper,
    /// Carries splits and merges through their steps on the metadata leader.
    Resharder,
    /// The metadata group on this node.
    Metadata,
    /// Flushes the metadata tables.
    StateFlusher,
    /// Carries Raft frames to one peer.
    PeerStream,
    /// Serves one connection or one call.
    Connection,
    /// Accepts connections of a door.
    Door,
    /// Anything whose failure only deserves a line in the log.
    Helper,
}

/// What becomes of the node when a task of the kind fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The node stops itself: going on could break a promise.
    StopNode,
    /// A line in the log.
    LogOnly,
}

impl Kind {
    /// The fate of the kind.
    pub fn fate(self) -> Fate {
        match self {
            Kind::Boot
            | Kind::Committer
            | Kind::Appender
            | Kind::LogKeeper
            | Kind::Room
            | Kind::Reconciler
            | Kind::StreamKeeper
            | Kind::Resharder
            | Kind::Metadata
            | Kind::StateFlusher
            | Kind::Door => Fate::StopNode,
            Kind::PeerStream | Kind::Connection | Kind::Helper => Fate::LogOnly,
        }
    }
}

/// A node's tasks. Clones are handles to the same set.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failure: Arc<watch::Sender<Option<String>>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks::new()
    }
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Tasks {
        Tasks {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            failure: Arc::new(watch::channel(None).0),
        }
    }

    /// Runs `work` until it ends or the node stops (it is dropped then, at its next await).
    #[allow(clippy::disallowed_methods)]
    pub fn spawn(&self, kind: Kind, work: impl Future<Output = ()> + Send + 'static) {
        let (stop, tasks) = (self.stop.clone(), self.clone());
        self.tracker.spawn(async move {
            let work = AssertUnwindSafe(work).catch_unwind();
            let panicked = tokio::select! {
                biased;
                () = stop.cancelled() => false,
                done = work => done.is_err(),
            };
            if panicked {
                tasks.failed(kind, "panicked");
            }
        });
    }

    /// Runs `work` to its end even while the node stops: `shutdown` waits for it.
    #[allow(clippy::disallowed_methods)]
    pub fn spawn_to_end(&self, kind: Kind, work: impl Future<Output = ()> + Send + 'static) {
        let tasks = self.clone();
        self.tracker.spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tasks.failed(kind, "panicked");
            }
        });
    }

    /// A task of `kind` cannot go on.
    pub fn failed(&self, kind: Kind, reason: impl std::fmt::Display) {
        match kind.fate() {
            Fate::LogOnly => tracing::warn!(?kind, %reason, "task failed"),
            Fate::StopNode => {
                tracing::error!(?kind, %reason, "task failed, the node stops");
                let reason = format!("{kind:?}: {reason}");
                self.failure.send_if_modified(|first| {
                    let newest = first.is_none();
                    first.get_or_insert(reason);
                    newest
                });
            }
        }
    }

    /// Why the node must stop, once it must.
    pub async fn failure(&self) -> String {
        let mut watch = self.failure.subscribe();
        loop {
            if let Some(reason) = watch.borrow_and_update().clone() {
                return reason;
            }
            if watch.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when the node begins to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Stops every task and waits until all have ended.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
