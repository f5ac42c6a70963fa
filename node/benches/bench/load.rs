//! Load: a closed loop of appends to many groups, with a set number outstanding.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tristream_node::log::{Entry, EntryId, EntryKind, GroupLog, Log};
use tristream_proto::domain::{GroupId, NodeId};

/// Appends that wait for their ack at any time, over all groups.
pub(crate) const OUTSTANDING: usize = 64;

/// What the payloads are cut from.
const STOCK_BYTES: usize = 4 << 20;

/// Where each group's log ends, and payloads for more.
pub(crate) struct Load {
    groups: Vec<(GroupLog, u64)>,
    /// What is purged next, and when: see `let_expire`.
    expiry: Option<Expiry>,
    stock: Bytes,
    random: SmallRng,
    entry_bytes: usize,
}

/// Entries that expire while others are appended.
struct Expiry {
    every_bytes: u64,
    since_bytes: u64,
    /// Where each group's log ended one period ago.
    ends: Vec<u64>,
    purging: Option<JoinHandle<()>>,
}

/// What a run did.
pub(crate) struct Done {
    /// Appends acked.
    pub(crate) acks: u64,
    /// Bytes of their payloads.
    pub(crate) user_bytes: u64,
    /// From the first append to the last ack.
    pub(crate) took: Duration,
}

impl Done {
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.user_bytes as f64 / self.took.as_secs_f64() / 1e6
    }

    pub(crate) fn acks_per_second(&self) -> f64 {
        self.acks as f64 / self.took.as_secs_f64()
    }
}

impl Load {
    /// Load for the groups 1 to `groups`, each entry `entry_bytes` long; its bytes are random, or
    /// zeros.
    pub(crate) fn new(log: &Log, groups: u64, entry_bytes: usize, zeros: bool) -> Load {
        let group = |id| {
            let group = log.group(GroupId(id));
            let next = group.state().last.map_or(0, |last| last.index + 1);
            (group, next)
        };
        let mut random = SmallRng::seed_from_u64(7);
        let mut stock = vec![0; STOCK_BYTES];
        if !zeros {
            random.fill_bytes(&mut stock);
        }
        let groups = (1..=groups).map(group).collect();
        Load { groups, expiry: None, stock: stock.into(), random, entry_bytes }
    }

    /// From now on what is older than `bytes` is purged, each time that as much again was appended.
    pub(crate) fn let_expire(&mut self, bytes: u64) {
        let ends = vec![0; self.groups.len()];
        self.expiry = Some(Expiry { every_bytes: bytes, since_bytes: 0, ends, purging: None });
    }

    /// Appends `entries`, each to a random group, and waits for all acks.
    #[allow(clippy::disallowed_methods)]
    pub(crate) async fn run(&mut self, entries: u64) -> Done {
        let began = Instant::now();
        let (acked, mut acks) = mpsc::channel(OUTSTANDING);
        let mut free = OUTSTANDING as u64;
        let (mut sent, mut done) = (0, 0);
        let mut came = Vec::with_capacity(OUTSTANDING);
        while done < entries {
            for _ in 0..free.min(entries - sent) {
                let acked = acked.clone();
                let flushed = Box::new(move |result: std::io::Result<()>| {
                    result.expect("the log takes appends");
                    acked.try_send(()).expect("as many places as outstanding appends");
                });
                let (group, entry) = self.next();
                group.append(vec![entry], flushed).await.expect("the log takes appends");
                sent += 1;
                self.expire().await;
            }
            came.clear();
            free = acks.recv_many(&mut came, OUTSTANDING).await as u64;
            done += free;
        }
        let user_bytes = entries * self.entry_bytes as u64;
        Done { acks: entries, user_bytes, took: began.elapsed() }
    }

    fn next(&mut self) -> (&GroupLog, Entry) {
        let at = self.random.random_range(0..self.groups.len());
        let from = self.random.random_range(0..=STOCK_BYTES - self.entry_bytes);
        let (group, next) = &mut self.groups[at];
        let id = EntryId { term: 1, node: NodeId(1), index: *next };
        *next += 1;
        let payload = self.stock.slice(from..from + self.entry_bytes);
        (group, Entry { id, kind: EntryKind::Command, stamp_ms: 1_000 + id.index, payload })
    }

    /// One entry more. The purges run beside the appends, one round at a time.
    #[allow(clippy::disallowed_methods)]
    async fn expire(&mut self) {
        let Some(mut expiry) = self.expiry.take() else { return };
        expiry.since_bytes += self.entry_bytes as u64;
        if expiry.since_bytes >= expiry.every_bytes {
            expiry.since_bytes = 0;
            if let Some(purging) = expiry.purging.take() {
                purging.await.expect("the purge ends well");
            }
            let now = self.groups.iter().map(|(_, next)| *next).collect();
            let ends = std::mem::replace(&mut expiry.ends, now);
            expiry.purging = Some(tokio::spawn(self.purge_below(&ends)));
        }
        self.expiry = Some(expiry);
    }

    /// Purges each group's entries before `ends`.
    fn purge_below(&self, ends: &[u64]) -> impl Future<Output = ()> + Send + use<> {
        let groups = self.groups.iter().zip(ends).filter(|(_, end)| **end > 0);
        let groups: Vec<(GroupLog, u64)> =
            groups.map(|((group, _), end)| (group.clone(), end - 1)).collect();
        async move {
            let purges = groups.iter().map(|(group, index)| {
                group.purge(EntryId { term: 1, node: NodeId(1), index: *index })
            });
            futures::future::try_join_all(purges).await.expect("the log purges");
        }
    }
}
