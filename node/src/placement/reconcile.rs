//! Opens the groups that the view places here, and destroys those that it proves deleted.
//!
//! Invariant: see `plan`. A view may be old, so a group that the view does not know is left alone
//! unless its id shows that the view is newer than the group. At most one thing is done to a group at a time;
//! a group that waits for the repair of its log takes one place of several, and goes last the next time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tristream_proto::domain::{GroupId, NodeId, Shard};

use super::retries::Retries;
use crate::metadata::{self, StreamStatus, View};
use crate::raft::Groups;
use crate::shard::Shards;
use crate::tasks::{Kind, Tasks};

/// Groups opened or destroyed at once.
const JOBS_AT_ONCE: usize = 8;
/// Jobs planned by one look at the view.
const JOBS_PLANNED_MAX: usize = 64;
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// After which a closed shard that had not got its seal here is looked at again.
const RETIRE_PAUSE: Duration = Duration::from_secs(1);
/// Failures of one group in a row after which the node stops: about 8 minutes.
const FAILURES_MAX: u32 = 20;

/// What is to be done here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Shards whose group is placed here and not open.
    pub(super) open: Vec<Shard>,
    /// How many of `open` are shards of a map, and not children of a reshard under way.
    pub(super) open_of_maps: usize,
    /// Groups that were deleted, by rising id.
    pub(super) destroy: Vec<GroupId>,
}

/// Compares the view with the groups that are here: `open`, and those of which something may be here,
/// in the log or in the making.
///
/// A group goes when its stream is DELETING, or when no stream has it although its id was given out
/// before this view: streams lose groups only by being deleted and by the expiry of closed shards,
/// and ids are never used again. An id from `next_group` on is news to this view and stays.
pub(super) fn plan(
    view: &View,
    open: &BTreeSet<GroupId>,
    here: &BTreeSet<GroupId>,
    me: NodeId,
) -> Plan {
    let mut plan = Plan::default();
    let mut alive = BTreeSet::new();
    for stream in view.streams.values().filter(|s| s.status != StreamStatus::Deleting) {
        for (place, shard) in stream.all_shards().enumerate() {
            alive.insert(shard.group);
            if shard.replicas.contains(&me) && !open.contains(&shard.group) {
                plan.open.push(shard.clone());
                plan.open_of_maps += usize::from(place < stream.map.shards().len());
            }
        }
    }
    let deleted =
        |group: &GroupId| !group.is_meta() && group.0 < view.next_group && !alive.contains(group);
    plan.destroy = open.union(here).copied().filter(deleted).collect();
    plan
}

/// Groups of shards that have given way to their children.
pub(super) fn closed(view: &View) -> impl Iterator<Item = GroupId> {
    let alive = view.streams.values().filter(|stream| stream.status != StreamStatus::Deleting);
    let shards = alive.flat_map(|stream| stream.map.shards());
    shards.filter(|shard| !shard.is_open()).map(|shard| shard.group)
}

/// Groups of which anything is left on this node.
pub(super) type Present = watch::Receiver<Arc<BTreeSet<GroupId>>>;

/// Starts reconciling; gives whether everything is open, and what is left here.
pub(super) fn spawn(
    me: NodeId,
    metadata: metadata::Handle,
    shards: Shards,
    groups: Groups,
    logged: Vec<GroupId>,
    tasks: &Tasks,
) -> (watch::Receiver<bool>, Present) {
    let (all_open, all_open_watch) = watch::channel(false);
    let (present, present_watch) = watch::channel(Arc::default());
    let reconciler = Reconciler {
        me,
        metadata,
        shards,
        groups,
        logged: logged.into_iter().collect(),
        planned: VecDeque::new(),
        busy: BTreeSet::new(),
        given_up: BTreeSet::new(),
        retries: Retries::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX),
        retired: BTreeSet::new(),
        all_open,
        present,
        tasks: tasks.clone(),
    };
    tasks.spawn(Kind::Reconciler, reconciler.run());
    (all_open_watch, present_watch)
}

struct Reconciler {
    me: NodeId,
    metadata: metadata::Handle,
    shards: Shards,
    groups: Groups,
    /// Groups that the log had at the start, or that failed to open, and that were not destroyed since.
    logged: BTreeSet<GroupId>,
    /// What is to be done, as of the last look.
    planned: VecDeque<Job>,
    /// Groups to which something is being done.
    busy: BTreeSet<GroupId>,
    /// Those of them whose opening was given up.
    given_up: BTreeSet<GroupId>,
    retries: Retries<(GroupId, bool)>,
    /// Closed shards that have forgotten here what they remembered of calls.
    retired: BTreeSet<GroupId>,
    all_open: watch::Sender<bool>,
    present: watch::Sender<Arc<BTreeSet<GroupId>>>,
    tasks: Tasks,
}

enum Job {
    /// The second says whether no replica may have entries yet.
    Open(Shard, bool),
    Destroy(GroupId),
}

impl Job {
    fn group(&self) -> GroupId {
        match self {
            Job::Open(shard, _) => shard.group,
            Job::Destroy(group) => *group,
        }
    }

    /// What is tried again: that a group did not open is forgotten when it is to be destroyed.
    fn key(&self) -> (GroupId, bool) {
        (self.group(), matches!(self, Job::Destroy(_)))
    }
}

/// What is under way.
type Jobs = FuturesUnordered<BoxFuture<'static, (anyhow::Result<()>, Job)>>;

impl Reconciler {
    async fn run(mut self) {
        let mut views = self.metadata.watch();
        let mut jobs = Jobs::new();
        let (mut is_stale, mut look_again) = (true, None);
        loop {
            if is_stale || self.planned.is_empty() {
                is_stale = false;
                let view = views.borrow_and_update().clone();
                self.look(&view);
                let all_retired = self.retire(&view);
                look_again = (!all_retired).then(|| Instant::now() + RETIRE_PAUSE);
            }
            self.start(&mut jobs);
            let retry = self.next_retry().filter(|_| self.planned.is_empty());
            let due = [retry, look_again].into_iter().flatten().min();
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // In this order, so that whatever was started can be given up when the view changes.
                biased;
                Some((result, job)) = jobs.next() => is_stale |= self.finish(result, &job),
                () = wait => is_stale = true,
                changed = views.changed() => if changed.is_err() {
                    return tracing::warn!("the metadata group is closed: groups stay as they are");
                } else {
                    is_stale = true;
                }
            }
        }
    }

    /// Compares, tells who watches, and plans what may be done now.
    fn look(&mut self, view: &View) {
        let open: BTreeSet<GroupId> = self.shards.ids().into_iter().collect();
        let present: BTreeSet<GroupId> = open.union(&self.logged).copied().collect();
        let here = present.union(&self.busy).copied().collect();
        let plan = plan(view, &open, &here, self.me);
        let all_open = plan.open_of_maps == 0;
        self.all_open.send_if_modified(|was| std::mem::replace(was, all_open) != all_open);
        self.present.send_if_modified(|was| {
            let modified = **was != present;
            *was = Arc::new(present);
            modified
        });
        for deleted in plan.destroy.iter().filter(|group| self.busy.contains(group)) {
            self.groups.give_up_opening(*deleted);
            self.given_up.insert(*deleted);
        }

        let new: BTreeSet<GroupId> = super::new_shards(view).map(|shard| shard.group).collect();
        let opens = plan.open.into_iter().map(|shard| {
            let is_new = new.contains(&shard.group);
            Job::Open(shard, is_new)
        });
        let mut jobs: Vec<Job> = plan.destroy.into_iter().map(Job::Destroy).chain(opens).collect();
        let wanted: BTreeSet<_> = jobs.iter().map(Job::key).collect();
        self.retries.retain(|key| wanted.contains(&key));
        jobs.sort_by_key(|job| self.retries.times(job.key()));
        let now = Instant::now();
        let may_start =
            |job: &Job| self.retries.is_due(job.key(), now) && !self.busy.contains(&job.group());
        self.planned = jobs.into_iter().filter(may_start).take(JOBS_PLANNED_MAX).collect();
    }

    /// Lets closed shards forget what only their children need; `false` when one has not got its seal
    /// here yet.
    fn retire(&mut self, view: &View) -> bool {
        let closed: BTreeSet<GroupId> = closed(view).collect();
        self.retired.retain(|group| closed.contains(group));
        for &group in closed.difference(&self.retired.clone()) {
            if self.shards.get(group).is_some_and(|shard| shard.retire()) {
                self.retired.insert(group);
            }
        }
        let is_open = |group: &&GroupId| self.shards.get(**group).is_some();
        closed.difference(&self.retired).find(is_open).is_none()
    }

    /// When something that failed is to be tried again, and is not being tried.
    fn next_retry(&self) -> Option<Instant> {
        self.retries.next_due(|(group, _)| !self.busy.contains(&group))
    }

    /// Starts what is planned, as much as may be under way.
    fn start(&mut self, jobs: &mut Jobs) {
        while self.busy.len() < JOBS_AT_ONCE
            && let Some(job) = self.planned.pop_front()
        {
            self.busy.insert(job.group());
            let shards = self.shards.clone();
            jobs.push(Box::pin(async move { (do_job(&shards, &job).await, job) }));
        }
    }

    /// Notes how it ended; `true` when there may be something else to do at once.
    fn finish(&mut self, result: anyhow::Result<()>, job: &Job) -> bool {
        let (group, key) = (job.group(), job.key());
        self.busy.remove(&group);
        let was_given_up = self.given_up.remove(&group);
        match (result, job) {
            (Ok(()), Job::Open(..)) => {
                self.retries.succeeded(key);
                was_given_up
            }
            (Ok(()), Job::Destroy(_)) => {
                self.retries.succeeded(key);
                self.logged.remove(&group);
                true
            }
            (Err(error), Job::Open(..)) if was_given_up => {
                tracing::debug!(%group, %error, "opening given up: the group was deleted");
                self.logged.insert(group);
                true
            }
            (Err(error), _) => {
                let step = if matches!(job, Job::Open(..)) { "open" } else { "destroy" };
                // What was done so far may have left something in the log.
                self.logged.insert(group);
                let times = self.retries.failed(key, Instant::now());
                let reason = format!("cannot {step} group {group}: {error:#}");
                tracing::warn!(%group, times, reason, "tried again after a pause");
                if times >= FAILURES_MAX {
                    self.tasks.failed(Kind::Reconciler, reason);
                }
                true
            }
        }
    }
}

async fn do_job(shards: &Shards, job: &Job) -> anyhow::Result<()> {
    match job {
        Job::Open(shard, is_new) => {
            shards.open(shard, *is_new).await?;
            tracing::info!(group = %shard.group, shard = %shard.id, "group opened");
        }
        Job::Destroy(group) => {
            // Also one that is only in the log: its deletion was cut short by a crash, or happened while we
            // were away.
            shards.destroy(*group).await?;
            tracing::info!(%group, "group destroyed: its stream was deleted, or its shard expired");
        }
    }
    Ok(())
}
