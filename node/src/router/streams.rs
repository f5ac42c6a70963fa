//! Streams: finding them, creating and deleting them at the metadata leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};
use tristream_proto::domain::{GroupId, HashKey, MapVersion, NodeId, ShardId, StreamName};

use super::attempt::{Miss, at_leader};
use super::route::{Route, Search};
use super::{Error, NewStream, Router};
use crate::metadata::{self, Command, Outcome, Stream, StreamMode, StreamStatus, View};
use crate::raft::ProposeError;

/// How long a fresh view may take before the local one has to do.
const FRESH_TIME: Duration = Duration::from_millis(500);
/// How long a change waits for a view that is confirmed: failover takes less.
const CONFIRM_TIME: Duration = Duration::from_secs(2);

/// The newest view that this node could get.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The view.
    pub view: Arc<View>,
    /// Whether it has everything that was answered before it was asked for. Without that, what is not
    /// in it may be there all the same.
    pub is_confirmed: bool,
}

impl Fresh {
    /// The stream; an error where nobody can tell whether there is one.
    pub fn find(&self, name: &StreamName) -> Result<Option<Arc<Stream>>, Error> {
        self.find_if(name, |_| true)
    }

    /// The stream, if it is as `wanted`; an error where nobody can tell.
    pub fn find_if(
        &self,
        name: &StreamName,
        wanted: impl FnOnce(&Stream) -> bool,
    ) -> Result<Option<Arc<Stream>>, Error> {
        let found = self.view.streams.get(name).filter(|stream| wanted(stream)).cloned();
        if found.is_none() && !self.is_confirmed {
            let why = format!("no quorum of the metadata says whether stream {name} is there");
            return Err(Error::Unavailable(why));
        }
        Ok(found)
    }
}

impl Router {
    /// A view that has everything that was answered before this call; the local one when no quorum
    /// answers in time.
    pub async fn fresh_view(&self) -> Fresh {
        self.fresh_view_within(FRESH_TIME).await
    }

    /// A view that has everything that was answered before this call: to change a stream by. A change
    /// names the incarnation that its view has, and is told "not found" where there is another one by now;
    /// by an older view, that would deny a stream that is there.
    ///
    /// # Errors
    /// No quorum of the metadata answered in time. Nothing happened; trying again is safe.
    pub async fn confirmed_view(&self) -> Result<Arc<View>, Error> {
        let fresh = self.fresh_view_within(CONFIRM_TIME).await;
        if !fresh.is_confirmed {
            let why = "no quorum of the metadata says which streams there are";
            return Err(Error::Unavailable(why.to_owned()));
        }
        Ok(fresh.view)
    }

    async fn fresh_view_within(&self, time: Duration) -> Fresh {
        let until = Instant::now() + time;
        let nodes = self.inner.roster.ids();
        let is_confirmed = match self.barrier(GroupId::META, &nodes, until).await {
            Ok(index) => {
                let left = until.saturating_duration_since(Instant::now());
                self.inner.metadata.wait_applied(index, left).await
            }
            Err(_) => false,
        };
        Fresh { view: self.view(), is_confirmed }
    }

    /// What to answer where this node's view says that `stream`, which the caller found, is gone or being
    /// deleted: a view on its way to a newer one may have yet to come to its successor.
    pub async fn gone(&self, stream: &Stream, left: Duration) -> Error {
        let lives = |known: &Stream| known.status != StreamStatus::Deleting;
        let fresh = self.fresh_view_within(left.min(FRESH_TIME)).await;
        match fresh.find_if(&stream.name, lives) {
            Ok(None) => Error::StreamNotFound(stream.name.clone()),
            Ok(Some(_)) => {
                Error::Unavailable(format!("stream {} was deleted and created anew", stream.name))
            }
            Err(error) => error,
        }
    }

    /// The stream by name; when this node does not know it, it asks the metadata leader before it
    /// says no.
    pub async fn stream(&self, name: &StreamName) -> Result<Option<Arc<Stream>>, Error> {
        if let Some(stream) = self.view().streams.get(name) {
            return Ok(Some(stream.clone()));
        }
        self.fresh_view().await.find(name)
    }

    /// The same, once this node's view has a map of it at least as new as `version`; after `wait`
    /// whatever there is.
    pub async fn stream_since(
        &self,
        name: &StreamName,
        version: MapVersion,
        wait: Duration,
    ) -> Result<Option<Arc<Stream>>, Error> {
        let mut views = self.inner.metadata.watch();
        // Whether it came in time is for the caller to see.
        let _ = timeout(wait, views.wait_for(|view| knows(view, name, version))).await;
        self.stream(name).await
    }

    /// Creates a stream (status CREATING) and waits until this node's view has it.
    pub async fn create_stream(&self, stream: NewStream, deadline: Duration) -> Result<(), Error> {
        let NewStream { name, shard_count, mode, record_bytes_max, tags } = stream;
        let command = Command::CreateStream {
            name: name.clone(),
            shard_count,
            mode,
            now: self.inner.clock.now(),
            record_bytes_max,
            tags: BTreeMap::from_iter(tags),
            nodes: rotated(self.inner.roster.ids(), self.view().next_group),
        };
        self.change(command, name, deadline).await
    }

    /// Begins to delete a stream, of a confirmed view, and waits until this node's view says so.
    pub async fn delete_stream(&self, stream: &Stream, deadline: Duration) -> Result<(), Error> {
        let incarnation = Some(stream.incarnation);
        let command = Command::DeleteStream { name: stream.name.clone(), incarnation };
        self.change(command, stream.name.clone(), deadline).await
    }

    /// Begins to split a shard so that the second child begins at `at`; the stream, of a confirmed view as for
    /// every change, is UPDATING until it is done.
    pub async fn split_shard(
        &self,
        stream: &Stream,
        shard: ShardId,
        at: HashKey,
        deadline: Duration,
    ) -> Result<(), Error> {
        let command = Command::SplitShard {
            name: stream.name.clone(),
            incarnation: stream.incarnation,
            shard,
            at,
            now: self.inner.clock.now(),
            while_updating: false,
        };
        self.change(command, stream.name.clone(), deadline).await
    }

    /// Begins to merge two neighbours.
    pub async fn merge_shards(
        &self,
        stream: &Stream,
        shard: ShardId,
        adjacent: ShardId,
        deadline: Duration,
    ) -> Result<(), Error> {
        let command = Command::MergeShards {
            name: stream.name.clone(),
            incarnation: stream.incarnation,
            shard,
            adjacent,
            now: self.inner.clock.now(),
            while_updating: false,
        };
        self.change(command, stream.name.clone(), deadline).await
    }

    /// Begins to bring the stream to `target` open shards.
    pub async fn update_shard_count(
        &self,
        stream: &Stream,
        target: u32,
        deadline: Duration,
    ) -> Result<(), Error> {
        let command = Command::Rescale {
            name: stream.name.clone(),
            incarnation: stream.incarnation,
            map_version: stream.map_version(),
            goal: metadata::plan::goal(&stream.map, target),
            now: self.inner.clock.now(),
            limited: self.inner.limited,
        };
        self.change(command, stream.name.clone(), deadline).await
    }

    /// Changes the stream's mode.
    pub async fn update_mode(
        &self,
        stream: &Stream,
        mode: StreamMode,
        deadline: Duration,
    ) -> Result<(), Error> {
        let command = Command::SetMode {
            name: stream.name.clone(),
            incarnation: stream.incarnation,
            mode,
            now: self.inner.clock.now(),
            limited: self.inner.limited,
        };
        self.change(command, stream.name.clone(), deadline).await
    }

    /// Proposes a metadata command here. Only the leader succeeds.
    pub async fn propose_here(
        &self,
        command: &Command,
        deadline: Duration,
    ) -> Result<(u64, Outcome), ProposeError> {
        self.inner.metadata.propose(command, deadline).await
    }

    /// Refuses what needs room for records to come. The metadata leader hears of every disk; a node that
    /// follows knows of its own at least.
    pub fn check_room(&self, command: &Command) -> Result<(), Error> {
        match (command, self.inner.groups.room().refusal()) {
            (Command::CreateStream { .. }, Some(why)) => Err(Error::StorageFull(why)),
            _ => Ok(()),
        }
    }

    /// Carries a command out at the metadata leader, and waits for it here.
    async fn change(
        &self,
        command: Command,
        name: StreamName,
        deadline: Duration,
    ) -> Result<(), Error> {
        let until = Instant::now() + deadline;
        let (index, outcome) = self.propose(&command, until).await?;
        judge(outcome, name)?;
        // It happened, whether this node sees it in time or not.
        let left = until.saturating_duration_since(Instant::now());
        self.inner.metadata.wait_applied(index, left).await;
        Ok(())
    }

    async fn propose(&self, command: &Command, until: Instant) -> Result<(u64, Outcome), Error> {
        let json = serde_json::to_vec(command).map_err(|e| Error::Invalid(e.to_string()))?;
        let json = Bytes::from(json);
        let search = Search::new(self.inner.roster.me, &self.inner.roster.ids());
        let leader = || self.leader_of(GroupId::META);
        let attempt = |route, left| -> BoxFuture<'_, Result<(u64, Outcome), Miss>> {
            let json = json.clone();
            Box::pin(async move {
                match route {
                    Route::Here => {
                        self.check_room(command).map_err(Miss::Final)?;
                        Ok(self.propose_here(command, left).await?)
                    }
                    Route::There(node) => {
                        self.inner.forward.propose_metadata(node, json, left).await
                    }
                    Route::NoLeader => Err(Miss::elsewhere("nobody leads the metadata")),
                }
            })
        };
        at_leader(search, leader, until, &*self.inner.entropy, attempt).await
    }
}

/// Whether a view has a map of the stream at least as new as `version`, or will never have one: the
/// version was given out, and the stream is gone.
fn knows(view: &View, name: &StreamName, version: MapVersion) -> bool {
    let newest = match view.streams.get(name) {
        Some(stream) => stream.map_version(),
        None => MapVersion(view.map_version),
    };
    newest >= version
}

/// The nodes, beginning with another one for successive streams, so that their first leaders
/// spread.
fn rotated(mut nodes: Vec<NodeId>, next_group: u64) -> Vec<NodeId> {
    if let Some(by) = next_group.checked_rem(nodes.len() as u64) {
        nodes.rotate_left(by as usize);
    }
    nodes
}

fn judge(outcome: Outcome, name: StreamName) -> Result<(), Error> {
    match outcome {
        Outcome::Done => Ok(()),
        // Of a confirmed view, so it went since the caller asked.
        Outcome::NotFound => Err(Error::StreamNotFound(name)),
        Outcome::AlreadyExists => Err(Error::AlreadyExists(name)),
        Outcome::ShardLimit { open, limit } => Err(Error::ShardLimit { open, limit }),
        Outcome::NotActive => Err(Error::NotActive(name)),
        Outcome::OnDemand => Err(Error::OnDemand(name)),
        Outcome::NoShard { shard } => Err(Error::NoShard(shard)),
        Outcome::NotEligible { shard } => Err(Error::NotEligible(shard)),
        Outcome::BadRange { reason } => Err(Error::BadRange(reason)),
        Outcome::ChangeLimit { reason } => Err(Error::ChangeLimit(reason)),
        Outcome::StaleMap => Err(Error::NotActive(name)),
        Outcome::Invalid { reason } => Err(Error::Invalid(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_version_is_known_when_it_is_here_or_was_given_out_and_is_gone() {
        use tristream_proto::domain::HashKeyRange;
        let name: StreamName = "orders".parse().expect("a name");
        let mut view = View { map_version: 7, ..View::default() };
        let asks = |view: &View| [7, 8].map(|version| knows(view, &name, MapVersion(version)));
        assert_eq!(asks(&view), [true, false], "deleted; a later version may yet come");
        let range = HashKeyRange::uniform(1)[0];
        let mut stream = crate::router::puts::stream(6, &[(0, range, None)]);
        stream.name = name.clone();
        view.streams.insert(name.clone(), Arc::new(stream));
        assert_eq!(asks(&view), [false, false], "7 was another stream's, or is to come");
        assert!(knows(&view, &name, MapVersion(6)) && knows(&view, &name, MapVersion(0)));
    }

    #[test]
    fn leaders_of_successive_one_shard_streams_spread_over_all_nodes() {
        let nodes = || [4, 5, 6].map(NodeId).to_vec();
        let firsts: Vec<u64> = (1..=6).map(|group| rotated(nodes(), group)[0].0).collect();
        assert_eq!(firsts, [5, 6, 4, 5, 6, 4]);
        assert_eq!(rotated(nodes(), 2), [6, 4, 5].map(NodeId));
        assert_eq!(rotated(vec![], 2), []);
    }
}
