//! Entries that are damaged on this node's disk, fetched again from the replicas that hold them.
//!
//! Owns the asking, of peers and by peers. Invariants: only what the log's own ids and checksums
//! vouch for is written back, so it does not matter how old the replica is that sent it; while a
//! group has damaged entries it does not stand for election here, for it could not hand them on. Where it
//! leads, it goes on if they are committed: a majority has them, and the others may be damaged, too. If not,
//! nobody else may have them, and it lets others lead; so it does if a follower may need what the peers that answer
//! have purged, for they can do without what it could not send. An entry is given up only where a peer shows that it
//! was never committed, and only before consensus begins here.
//! What nobody has to hold any longer may be nowhere: then, too, and only before consensus begins here, the group
//! begins again at a peer's checkpoint (`overtaken`).
//! Reads wait for a repair, up to their patience: to openraft a failed read is the end of the group.
//! Must not know what is in an entry.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tristream_proto::domain::limits::REPLICATION_BYTES_TARGET;
use tristream_proto::domain::{GroupId, NodeId};
use tristream_proto::wire;

use super::groups::Groups;
use super::network::{Connection, Transport};
use super::{Status, convert, overtaken};
use crate::log::{Entry, EntryId, Faulty, GroupLog, Log};

/// How often damaged entries are looked for; scrubbing finds them at about this pace.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Entries asked of a peer in one call.
pub(super) const ENTRIES_MAX: usize = 64;
/// How long a peer's answer is waited for.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a peer's checkpoint is waited for.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts of one read.
const PAUSE: Duration = Duration::from_millis(200);
/// Groups that are repaired at a time.
const GROUPS_AT_ONCE: usize = 8;

/// How long consensus waits for a damaged entry: a read that fails ends the group here. A node that
/// restarts with damage may be the first of all to be back.
const CONSENSUS_PATIENCE: Duration = Duration::from_secs(600);
/// How long the opening of a shard's group waits: others wait for their turn, and it is tried again.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a reader's page waits; the reader may ask again.
pub(super) const READER_PATIENCE: Duration = Duration::from_secs(2);

/// What a peer has of the entries that it was asked for.
pub(super) struct Given {
    /// Those that are intact there, as many as one answer takes.
    pub(super) entries: Vec<Entry>,
    /// Ids of all that its log says are there, intact or not.
    pub(super) ids: Vec<EntryId>,
    /// The newest that it knows to be committed.
    pub(super) committed: Option<EntryId>,
}

impl Given {
    /// Whether the peer has no longer what it knows to be committed.
    fn has_purged(&self, index: u64) -> bool {
        let is_there = self.ids.iter().any(|id| id.index == index);
        !is_there && self.committed.is_some_and(|committed| index <= committed.index)
    }
}

/// Indexes of entries, by group.
type Indexes = BTreeMap<GroupId, Vec<u64>>;

/// What came of asking the peers for damaged entries.
#[derive(Default)]
struct Mend {
    /// How many were repaired.
    repaired: usize,
    /// Those that were not, and that all peers that answered have purged.
    purged: Vec<u64>,
}

/// Fetches damaged entries of all groups.
pub(super) struct Repair {
    log: Log,
    others: Vec<NodeId>,
    transport: Arc<Transport>,
}

impl Repair {
    pub(super) fn new(log: Log, others: Vec<NodeId>, transport: Arc<Transport>) -> Repair {
        Repair { log, others, transport }
    }

    /// Asks the peers for these entries of `group`, until all are repaired or all peers were asked.
    async fn mend(&self, group: GroupId, mut indexes: Vec<u64>) -> Mend {
        indexes.truncate(ENTRIES_MAX);
        let asked = indexes.len();
        let mut purged: Option<Vec<u64>> = None;
        for &peer in &self.others {
            if let Some(given) = self.ask(group, peer, &indexes).await {
                let before = purged.as_ref().unwrap_or(&indexes);
                let too = before.iter().copied().filter(|&index| given.has_purged(index));
                purged = Some(too.collect());
                self.write_back(group, peer, given.entries, &mut indexes).await;
            }
            if indexes.is_empty() {
                break;
            }
        }
        let mut purged = purged.unwrap_or_default();
        purged.retain(|index| indexes.contains(index));
        Mend { repaired: asked - indexes.len(), purged }
    }

    /// As `mend`; and what a peer shows to be void is removed from the log, with all that follows it.
    /// Whether anything changed. Only while nobody else works on the group's log.
    async fn mend_or_drop(&self, group: GroupId, mut indexes: Vec<u64>) -> io::Result<bool> {
        indexes.truncate(ENTRIES_MAX);
        let (log, asked) = (self.log.group(group), indexes.len());
        for &peer in &self.others {
            let Some(given) = self.ask(group, peer, &indexes).await else { continue };
            self.write_back(group, peer, given.entries, &mut indexes).await;
            let there =
                |index: u64| given.ids.iter().chain(&given.committed).find(|id| id.index == index);
            let void = indexes.iter().copied().find(|&index| {
                let here = log.id(index);
                let is_known = self.are_committed(group, &[index]);
                let is_void = |here| is_void(here, there(index).copied(), given.committed);
                !is_known && here.is_some_and(is_void)
            });
            if let Some(index) = void {
                log.truncate_after(index.checked_sub(1)).await?;
                tracing::info!(%group, index, %peer, "damaged log entry was never committed: dropped");
                return Ok(true);
            }
            if indexes.is_empty() {
                break;
            }
        }
        Ok(indexes.len() < asked)
    }

    /// Begins the group's log again at the checkpoint of a peer's that covers `index`, if one has such a
    /// checkpoint. Only while nobody else changes the log.
    async fn begin_again(&self, group: GroupId, index: u64) -> io::Result<bool> {
        for &peer in &self.others {
            let connection = Connection::new(self.transport.clone(), group, peer);
            let (at, state) = match connection.fetch_checkpoint(index, CHECKPOINT_TIMEOUT).await {
                Ok(Some(given)) if given.0.index >= index => given,
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%group, %peer, %error, "cannot fetch a checkpoint");
                    continue;
                }
            };
            match overtaken::begin_at(&self.log.group(group), at, state).await {
                Ok(()) => {
                    tracing::warn!(%group, index, ?at, from = %peer, "damaged, and trimmed meanwhile: began again at a peer's checkpoint");
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(%group, ?at, %peer, %error, "cannot begin at a peer's checkpoint");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What a peer has of these entries.
    async fn ask(&self, group: GroupId, peer: NodeId, indexes: &[u64]) -> Option<Given> {
        let connection = Connection::new(self.transport.clone(), group, peer);
        let given = connection.fetch_entries(indexes, FETCH_TIMEOUT).await;
        given
            .inspect_err(|error| tracing::debug!(%group, %peer, %error, "cannot fetch entries"))
            .ok()
    }

    /// Takes out of `damaged` what is repaired with these.
    async fn write_back(
        &self,
        group: GroupId,
        peer: NodeId,
        entries: Vec<Entry>,
        damaged: &mut Vec<u64>,
    ) {
        for entry in entries {
            let index = entry.id.index;
            match self.log.group(group).repair(entry).await {
                Ok(()) => {
                    damaged.retain(|&damaged| damaged != index);
                    tracing::info!(%group, index, from = %peer, "damaged log entry repaired");
                }
                // A replica that was left behind may hold another entry there.
                Err(error) => tracing::debug!(%group, index, %peer, %error, "not repaired"),
            }
        }
    }

    /// Says who may stand for election, and who may go on leading; gives those that may not.
    fn judge(&self, here: &Groups, damaged: &Indexes, purged: &Indexes) -> Vec<GroupId> {
        here.let_stand(|group| !damaged.contains_key(&group));
        let is_stuck = |group: GroupId, at: &[u64]| {
            let gone = purged.get(&group).and_then(|gone| gone.last());
            let status = gone.and_then(|_| here.status(group));
            let needed = |gone: &u64| status.is_some_and(|status| is_needed(&status, *gone));
            !self.are_committed(group, at) || gone.is_some_and(needed)
        };
        let stuck = damaged.iter().filter(|(group, at)| is_stuck(**group, at));
        let stuck: Vec<GroupId> = stuck.map(|(group, _)| *group).collect();
        here.let_lead(|group| !stuck.contains(&group));
        stuck
    }

    fn are_committed(&self, group: GroupId, indexes: &[u64]) -> bool {
        let committed = self.log.group(group).state().committed.map(|id| id.index);
        indexes.iter().all(|index| committed >= Some(*index))
    }

    /// The damaged entries that are known, by group.
    fn damaged(&self) -> Indexes {
        let mut damaged = Indexes::new();
        for (group, index) in self.log.faulty() {
            damaged.entry(group).or_default().push(index);
        }
        damaged
    }
}

/// Whether the entry `here` was never committed and never will be, seen from a peer that has `there` at its
/// index and knows of `committed`.
///
/// Where committed entries lie, all logs agree. And a leader's log ends below its first own entry when it is
/// elected, with all that was committed before: so what an earlier leader made, and lies above a later
/// one's committed entry, was not (Ongaro, Consensus: Bridging Theory and Practice, 2014, section 3.6.3).
fn is_void(here: EntryId, there: Option<EntryId>, committed: Option<EntryId>) -> bool {
    let Some(committed) = committed else { return false };
    match here.index <= committed.index {
        true => there.is_some_and(|there| there != here),
        false => (here.term, here.node) < (committed.term, committed.node),
    }
}

/// One group's log, whose reads wait for the repair of what they meet.
#[derive(Clone)]
pub(super) struct Mended {
    log: GroupLog,
    group: GroupId,
    repair: Arc<Repair>,
    /// The group is being closed: nobody waits any longer.
    closing: CancellationToken,
    is_open: Arc<AtomicBool>,
}

impl Mended {
    pub(super) fn new(group: GroupId, repair: Arc<Repair>, closing: CancellationToken) -> Mended {
        let (log, is_open) = (repair.log.group(group), Arc::default());
        Mended { log, group, repair, closing, is_open }
    }

    /// Of a log that nobody can repair.
    #[cfg(test)]
    pub(super) fn without_peers(log: Log, group: GroupId) -> Mended {
        let repair = Repair::new(log, Vec::new(), Arc::new(Transport::nowhere()));
        Mended::new(group, Arc::new(repair), CancellationToken::new())
    }

    /// The log itself.
    pub(super) fn log(&self) -> &GroupLog {
        &self.log
    }

    /// The group is open: whoever waits for a repair no longer holds up other groups, and the log is consensus's
    /// to change. To be called before any peer can reach the group.
    pub(super) fn set_open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// `read`, as consensus waits.
    pub(super) async fn read_patiently(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<Entry>> {
        self.read(range, bytes_max, self.patience()).await
    }

    fn patience(&self) -> Duration {
        // The metadata group is opened alone, and nothing goes on without it.
        let waits_alone = self.is_open.load(Ordering::Relaxed) || self.group.is_meta();
        if waits_alone { CONSENSUS_PATIENCE } else { OPEN_PATIENCE }
    }

    /// Reads what is not known to be committed: what is damaged there is repaired, or dropped if it
    /// never was committed. Nobody may hold it then, and whoever leads cannot replace it before the group
    /// is open here. What was trimmed meanwhile is replaced by a peer's checkpoint. To be called before consensus
    /// begins.
    ///
    /// Of the metadata group everything is read: what keeps it from opening ends the node.
    pub(super) async fn settle(&self) -> io::Result<()> {
        let until = Instant::now() + self.patience();
        let state = self.log.state();
        let known = if self.group.is_meta() { None } else { state.committed };
        let mut next = known.max(state.purged).map_or(0, |id| id.index + 1);
        loop {
            let Err(error) = self.read_on(&mut next).await else { return Ok(()) };
            let Some(Faulty { index, .. }) = Faulty::of(&error) else { return Err(error) };
            let damaged = self.damaged_from(index);
            let change = async {
                Ok::<_, io::Error>(
                    self.repair.mend_or_drop(self.group, damaged).await?
                        || self.repair.begin_again(self.group, index).await?,
                )
            };
            let changed = tokio::select! {
                changed = change => changed?,
                () = self.closing.cancelled() => return Err(error),
            };
            if !changed {
                sleep(PAUSE).await;
                if Instant::now() >= until {
                    return Err(error);
                }
            }
        }
    }

    /// Reads from `next` to the end of the log, as far as it is intact.
    async fn read_on(&self, next: &mut u64) -> io::Result<()> {
        loop {
            let purged = self.log.state().purged;
            *next = purged.map_or(0, |purged| purged.index + 1).max(*next);
            let entries = self.log.read(*next..u64::MAX, REPLICATION_BYTES_TARGET).await?;
            let Some(last) = entries.last() else { return Ok(()) };
            *next = last.id.index + 1;
        }
    }

    /// Begins the log again at a peer's checkpoint, for this log is purged and its own cannot be read.
    /// Waits for one; gives back `lost` when none came. To be called before consensus begins.
    pub(super) async fn replace_checkpoint(&self, lost: io::Error) -> io::Result<()> {
        let until = Instant::now() + self.patience();
        let Some(purged) = self.log.state().purged else { return Err(lost) };
        loop {
            let is_replaced = tokio::select! {
                is_replaced = self.repair.begin_again(self.group, purged.index) => is_replaced?,
                () = self.closing.cancelled() => return Err(lost),
            };
            if is_replaced {
                return Ok(());
            }
            if self.repair.others.is_empty() || Instant::now() >= until {
                return Err(lost);
            }
            sleep(PAUSE).await;
        }
    }

    /// `GroupLog::read`. Damage is repaired first, if that takes no longer than `patience`.
    ///
    /// If the group is not open yet and what is damaged was trimmed meanwhile, the log begins again at a
    /// peer's checkpoint. The read fails all the same, and so does the opening: it is another log now.
    pub(super) async fn read(
        &self,
        range: Range<u64>,
        bytes_max: usize,
        patience: Duration,
    ) -> io::Result<Vec<Entry>> {
        let until = Instant::now() + patience;
        loop {
            let error = match self.log.read(range.clone(), bytes_max).await {
                Ok(entries) => return Ok(entries),
                Err(error) => error,
            };
            let Some(Faulty { index, .. }) = Faulty::of(&error) else { return Err(error) };
            let mend = async {
                if self.repair.mend(self.group, self.damaged_from(index)).await.repaired > 0 {
                    return Ok(false);
                }
                let is_open = self.is_open.load(Ordering::Relaxed);
                if !is_open && self.repair.begin_again(self.group, index).await? {
                    return Ok(true);
                }
                sleep(PAUSE).await;
                Ok::<_, io::Error>(false)
            };
            let began_again = tokio::select! {
                began_again = mend => began_again?,
                () = self.closing.cancelled() => return Err(error),
            };
            if began_again || Instant::now() >= until {
                return Err(error);
            }
        }
    }

    /// `index`, and what else is known to be damaged behind it.
    fn damaged_from(&self, index: u64) -> Vec<u64> {
        let known = self.repair.damaged().remove(&self.group).unwrap_or_default();
        let behind = known.into_iter().filter(|&damaged| damaged > index);
        std::iter::once(index).chain(behind).take(ENTRIES_MAX).collect()
    }
}

/// Repairs what is found damaged, for as long as the groups are there.
///
/// `groups` gives them, until they are gone.
pub(super) async fn run(repair: Arc<Repair>, groups: impl Fn() -> Option<Groups>) {
    // What of it the peers have purged.
    let mut purged = Indexes::new();
    for look in 0.. {
        sleep(INTERVAL).await;
        let damaged = repair.damaged();
        let Some(here) = groups() else { return };
        here.let_stand(|group| !damaged.contains_key(&group));
        let mend = |(group, indexes)| {
            let mend = repair.mend(group, window(indexes, look));
            async move { (group, mend.await.purged) }
        };
        let mends = futures::stream::iter(damaged).map(mend).buffer_unordered(GROUPS_AT_ONCE);
        let mends: Vec<(GroupId, Vec<u64>)> = mends.collect().await;
        let still = repair.damaged();
        mends.into_iter().for_each(|(group, gone)| purged.entry(group).or_default().extend(gone));
        for (group, gone) in &mut purged {
            gone.retain(|index| {
                still.get(group).is_some_and(|still| still.binary_search(index).is_ok())
            });
            gone.sort_unstable();
            gone.dedup();
        }
        purged.retain(|_, gone| !gone.is_empty());
        let stuck = futures::stream::iter(repair.judge(&here, &still, &purged));
        stuck.for_each_concurrent(GROUPS_AT_ONCE, |group| here.yield_leadership(group)).await;
    }
}

/// Whether a leader may have to send this entry: a follower is not known to have it.
fn is_needed(status: &Status, index: u64) -> bool {
    status.leader.is_some() && status.matched.iter().any(|(_, matched)| *matched < Some(index))
}

/// As many as are asked for in one call: others at each look, for nobody may hold the first.
fn window(mut indexes: Vec<u64>, look: usize) -> Vec<u64> {
    let begin = look.wrapping_mul(ENTRIES_MAX) % indexes.len().max(1);
    indexes.rotate_left(begin);
    indexes.truncate(ENTRIES_MAX);
    indexes
}

/// What a peer asked for, as far as it is here and intact, up to about a replication's worth of
/// bytes; and what is known to be committed.
pub(super) async fn serve(log: &GroupLog, indexes: &[u64]) -> wire::GroupEntries {
    let state = log.state();
    // Before the entries: what is committed by then does not change any more.
    let committed = state.committed.max(state.purged).map(convert::log_id);
    let mut entries = Vec::new();
    let mut bytes = 0;
    for &index in indexes.iter().take(ENTRIES_MAX) {
        // Purged, not there yet, or damaged here too: others are asked.
        let Ok(read) = log.read(index..index.saturating_add(1), 1).await else { continue };
        for entry in read {
            bytes += entry.payload.len();
            entries.push(convert::to_wire_log_entry(entry));
        }
        if bytes >= REPLICATION_BYTES_TARGET {
            break;
        }
    }
    let asked = indexes.iter().take(ENTRIES_MAX);
    let ids = asked
        .filter_map(|&index| log.id(index))
        .map(|id| convert::to_wire_id(&convert::log_id(id)));
    let committed = committed.as_ref().map(convert::to_wire_id);
    wire::GroupEntries { entries, committed, ids: ids.collect() }
}

/// The planted bug: what is damaged, and all behind it, goes, as if nobody had been told of it.
#[cfg(planted)]
pub(super) async fn cut_at_damage(log: &GroupLog) -> io::Result<()> {
    let mut next = log.state().purged.map_or(0, |purged| purged.index + 1);
    loop {
        match log.read(next..u64::MAX, 1 << 20).await.map_err(|error| (Faulty::of(&error), error)) {
            Ok(entries) if entries.is_empty() => return Ok(()),
            Ok(entries) => next += entries.len() as u64,
            Err((Some(faulty), _)) => return log.truncate_after(faulty.index.checked_sub(1)).await,
            Err((None, error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, node: u64, index: u64) -> EntryId {
        EntryId { term, node: NodeId(node), index }
    }

    #[test]
    fn void_is_what_a_peer_shows_to_be_uncommitted_for_ever() {
        let here = id(3, 1, 10);
        assert!(!is_void(here, None, None), "the peer knows nothing");
        assert!(!is_void(here, Some(id(4, 2, 10)), Some(id(2, 1, 9))), "nor is that committed");
        assert!(is_void(here, Some(id(4, 2, 10)), Some(id(4, 2, 10))), "another one is, there");
        assert!(!is_void(here, Some(here), Some(id(4, 2, 20))), "so is this one");
        assert!(!is_void(here, None, Some(id(4, 2, 20))), "the peer cannot say which is");
        assert!(is_void(here, None, Some(id(4, 2, 9))), "a later leader's log had no such entry");
        assert!(is_void(here, None, Some(id(3, 2, 9))), "of the same term, and later");
        assert!(!is_void(here, None, Some(id(3, 1, 9))), "its own leader may commit it yet");
    }

    #[test]
    fn other_entries_are_asked_for_at_each_look() {
        assert_eq!(window(vec![], 3), [0; 0]);
        assert_eq!(window(vec![7, 9], 3), [7, 9]);
        let many: Vec<u64> = (0..150).collect();
        let asked: Vec<u64> = (0..3).flat_map(|look| window(many.clone(), look)).collect();
        assert!(many.iter().all(|index| asked.contains(index)));
        assert!((0..3).all(|look| window(many.clone(), look).len() == ENTRIES_MAX));
    }
}
