//! What the saga asks of the cluster: the seam at which tests put a cluster of their own.

use std::sync::Arc;
use std::time::Duration;

use tristream_proto::domain::{GroupId, Shard, Timestamp};

use crate::clock::Clock;
use crate::failpoint::Failpoints;
use crate::metadata::{self, Command, Outcome};
use crate::placement;
use crate::raft::{Groups, ProposeError};
use crate::router::{self, Router};
use crate::shard::{Inheritance, Inherited, Sealed, WindowPart};

/// How long a step is tried at a shard's leader, through elections too.
const STEP_DEADLINE: Duration = Duration::from_secs(5);
const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What the saga asks of the cluster. A call that failed may have happened; each does nothing the
/// second time.
pub(super) trait Calls: Sync {
    /// Whether the group of a new shard takes entries, as this node sees it.
    fn takes_entries(&self, group: GroupId) -> bool;

    /// Wall-clock time here.
    fn now(&self) -> Timestamp;

    /// What a parent remembers of calls in entries behind `after`.
    fn copy_window(
        &self,
        parent: &Shard,
        after: u64,
    ) -> impl Future<Output = Result<WindowPart, router::Error>> + Send;

    /// Seals a parent; with what it remembers behind `after`.
    fn seal(
        &self,
        parent: &Shard,
        after: u64,
    ) -> impl Future<Output = Result<(Sealed, WindowPart), router::Error>> + Send;

    /// Gives a child what its parents hand over.
    fn inherit(
        &self,
        child: &Shard,
        inheritance: Inheritance,
    ) -> impl Future<Output = Result<Inherited, router::Error>> + Send;

    /// Proposes a metadata command here.
    fn propose(
        &self,
        command: &Command,
    ) -> impl Future<Output = Result<Outcome, ProposeError>> + Send;

    /// A named point was reached.
    fn reach(&self, point: &'static str) -> impl Future<Output = ()> + Send;
}

/// The cluster that this node is part of.
pub(super) struct Cluster {
    pub(super) metadata: metadata::Handle,
    pub(super) router: Router,
    pub(super) groups: Groups,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) failpoints: Arc<dyn Failpoints>,
}

impl Calls for Cluster {
    fn takes_entries(&self, group: GroupId) -> bool {
        placement::takes_entries(&self.groups, group)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn copy_window(&self, parent: &Shard, after: u64) -> Result<WindowPart, router::Error> {
        self.router.copy_window(parent, after, STEP_DEADLINE).await
    }

    async fn seal(
        &self,
        parent: &Shard,
        after: u64,
    ) -> Result<(Sealed, WindowPart), router::Error> {
        self.router.seal(parent, after, STEP_DEADLINE).await
    }

    async fn inherit(
        &self,
        child: &Shard,
        inheritance: Inheritance,
    ) -> Result<Inherited, router::Error> {
        self.router.inherit(child, inheritance, STEP_DEADLINE).await
    }

    async fn propose(&self, command: &Command) -> Result<Outcome, ProposeError> {
        let (_, outcome) = self.metadata.propose(command, PROPOSE_DEADLINE).await?;
        Ok(outcome)
    }

    async fn reach(&self, point: &'static str) {
        self.failpoints.reach(point).await;
    }
}
