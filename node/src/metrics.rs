//! Every metric of a node, named by what was observed, in Prometheus text.
//!
//! One `Metrics` per node, no globals, so that three nodes fit in one process. Names: `tristream_` prefix,
//! base units (seconds, bytes), `_total` on counters.

mod log;

use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Operation {
    operation: String,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: Refusal,
}

/// Why a put was refused.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Refusal {
    /// Queue full.
    Throttled,
    /// No leader or no quorum.
    Unavailable,
    /// Outcome unknown.
    Unknown,
    /// This node does not lead.
    NotLeader,
    /// The disk of a replica is nearly full.
    StorageFull,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Group {
    group: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Replica {
    group: u64,
    node: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DemandStep {
    step: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Fault {
    fault: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReshardStep {
    step: &'static str,
}

/// The metrics of one node.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Operation, Counter>,
    request_seconds: Histogram,
    puts: Counter,
    put_records: Counter,
    put_bytes: Counter,
    acks: Counter,
    ack_records: Counter,
    refusals: Family<Reason, Counter>,
    append_seconds: Histogram,
    deduplicated_records: Counter,
    forgotten_calls: Counter,
    read_records: Counter,
    read_bytes: Counter,
    fsyncs: Counter,
    fsync_seconds: Histogram,
    fsync_failures: Counter,
    log_bytes_written: Counter,
    log_zero_fill_bytes: Counter,
    log_user_bytes: Counter,
    log_padding_bytes: Counter,
    log_footer_bytes: Counter,
    log_rewritten_bytes: Counter,
    log_scrubbed_bytes: Counter,
    log_faulty_entries: Counter,
    log_repaired_entries: Counter,
    log_mended_footers: Counter,
    log_open_ms: Gauge,
    log_segments_by_kind: Family<log::SegmentKind, Gauge>,
    log_segments: Gauge,
    log_bytes: Gauge,
    torn_tails: Counter,
    groups: Gauge,
    led_groups: Gauge,
    terms: Family<Group, Gauge>,
    elections: Counter,
    reshards: Counter,
    reshard_step_seconds: Family<ReshardStep, Histogram>,
    reshard_pause_seconds: Histogram,
    replica_lag: Family<Replica, Gauge>,
    queue_depth: Family<Queue, Gauge>,
    on_demand_steps: Family<DemandStep, Counter>,
    hot_keys: Gauge,
    trims: Counter,
    purges: Counter,
    trimming_paused: Gauge,
    disk_free: Gauge,
    disk_reserve: Gauge,
    disk_low: Gauge,
    faults_on: Family<Fault, Gauge>,
    faults: Family<Fault, Counter>,
    fault_hits: Family<Fault, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

fn latency() -> Histogram {
    // 50 us to 26 s, doubling.
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Metrics {
        let metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("tristream")),
            requests: Family::default(),
            request_seconds: latency(),
            puts: Counter::default(),
            put_records: Counter::default(),
            put_bytes: Counter::default(),
            acks: Counter::default(),
            ack_records: Counter::default(),
            refusals: Family::default(),
            append_seconds: latency(),
            deduplicated_records: Counter::default(),
            forgotten_calls: Counter::default(),
            read_records: Counter::default(),
            read_bytes: Counter::default(),
            fsyncs: Counter::default(),
            fsync_seconds: latency(),
            fsync_failures: Counter::default(),
            log_bytes_written: Counter::default(),
            log_zero_fill_bytes: Counter::default(),
            log_user_bytes: Counter::default(),
            log_padding_bytes: Counter::default(),
            log_footer_bytes: Counter::default(),
            log_rewritten_bytes: Counter::default(),
            log_scrubbed_bytes: Counter::default(),
            log_faulty_entries: Counter::default(),
            log_repaired_entries: Counter::default(),
            log_mended_footers: Counter::default(),
            log_open_ms: Gauge::default(),
            log_segments_by_kind: Family::default(),
            log_segments: Gauge::default(),
            log_bytes: Gauge::default(),
            torn_tails: Counter::default(),
            groups: Gauge::default(),
            led_groups: Gauge::default(),
            terms: Family::default(),
            elections: Counter::default(),
            reshards: Counter::default(),
            reshard_step_seconds: Family::new_with_constructor(latency),
            reshard_pause_seconds: latency(),
            replica_lag: Family::default(),
            queue_depth: Family::default(),
            on_demand_steps: Family::default(),
            hot_keys: Gauge::default(),
            trims: Counter::default(),
            purges: Counter::default(),
            trimming_paused: Gauge::default(),
            disk_free: Gauge::default(),
            disk_reserve: Gauge::default(),
            disk_low: Gauge::default(),
            faults_on: Family::default(),
            faults: Family::default(),
            fault_hits: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut to = self.registry.lock();
        let r = &mut *to;
        r.register("requests", "Kinesis requests by operation and answer", self.requests.clone());
        r.register_with_unit(
            "request",
            "Time from a request's last byte to its answer",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        r.register("puts", "Puts taken in by shard leaders here", self.puts.clone());
        r.register(
            "put_records",
            "Records taken in by shard leaders here",
            self.put_records.clone(),
        );
        r.register("put_bytes", "Bytes (data and keys) taken in here", self.put_bytes.clone());
        r.register("acks", "Puts acked: durable on a majority", self.acks.clone());
        r.register("ack_records", "Records acked", self.ack_records.clone());
        r.register("refusals", "Puts not acked, by reason", self.refusals.clone());
        r.register_with_unit(
            "append",
            "Time from a put's arrival at the leader to its ack",
            Unit::Seconds,
            self.append_seconds.clone(),
        );
        r.register(
            "deduplicated_records",
            "Records that came in again, answered with the number they have",
            self.deduplicated_records.clone(),
        );
        r.register(
            "forgotten_calls",
            "Calls that shards led here forgot before their ten minutes, for want of room",
            self.forgotten_calls.clone(),
        );
        r.register("read_records", "Records given to readers", self.read_records.clone());
        r.register("read_bytes", "Bytes of data given to readers", self.read_bytes.clone());
        r.register("fsyncs", "Syncs of the shared log", self.fsyncs.clone());
        r.register_with_unit(
            "fsync",
            "Time of one write and sync of the shared log",
            Unit::Seconds,
            self.fsync_seconds.clone(),
        );
        r.register(
            "fsync_failures",
            "Failed syncs; the node stops at the first",
            self.fsync_failures.clone(),
        );
        r.register(
            "log_bytes_written",
            "Bytes written to the shared log",
            self.log_bytes_written.clone(),
        );
        r.register(
            "log_zero_fill_bytes",
            "Zeros written to make segments ready before they are needed",
            self.log_zero_fill_bytes.clone(),
        );
        self.register_log(r);
        r.register("log_segments", "Segments of the shared log", self.log_segments.clone());
        r.register("log_bytes", "Bytes of the shared log on disk", self.log_bytes.clone());
        r.register("torn_tails", "Torn tails cut at start", self.torn_tails.clone());
        r.register("groups", "Raft groups open here", self.groups.clone());
        r.register("led_groups", "Raft groups led from here", self.led_groups.clone());
        r.register("term", "Current term of a group", self.terms.clone());
        r.register("elections", "Leaderships won here", self.elections.clone());
        r.register("trims", "Times that records expired in a shard led here", self.trims.clone());
        r.register("purges", "Times that a group's log was purged here", self.purges.clone());
        r.register(
            "trimming_paused",
            "Shards led here whose records expire and stay, for clocks disagree",
            self.trimming_paused.clone(),
        );
        r.register("reshards", "Splits and merges published from here", self.reshards.clone());
        r.register_with_unit(
            "reshard_step",
            "Time of one step of a split or merge",
            Unit::Seconds,
            self.reshard_step_seconds.clone(),
        );
        r.register_with_unit(
            "reshard_pause",
            "Time from a seal's proposal to the children's publication",
            Unit::Seconds,
            self.reshard_pause_seconds.clone(),
        );
        r.register(
            "replica_lag_entries",
            "Entries a replica lacks, as its leader here knows",
            self.replica_lag.clone(),
        );
        r.register(
            "queue_depth",
            "What waits in a queue: bytes, or entries",
            self.queue_depth.clone(),
        );
        r.register(
            "on_demand_steps",
            "Splits and merges begun here because of the load",
            self.on_demand_steps.clone(),
        );
        r.register(
            "hot_keys",
            "Shards on demand with more load on one key than a split can help, as the metadata leader sees it",
            self.hot_keys.clone(),
        );
        self.register_disk(r);
        self.register_faults(r);
    }

    fn register_disk(&self, r: &mut Registry) {
        r.register("disk_free_bytes", "Bytes free on the log's disk", self.disk_free.clone());
        r.register(
            "disk_reserve_bytes",
            "Bytes of the log's disk that are kept free of records",
            self.disk_reserve.clone(),
        );
        r.register(
            "disk_low",
            "1 while puts are refused because this disk is nearly full",
            self.disk_low.clone(),
        );
    }

    fn register_faults(&self, r: &mut Registry) {
        r.register("faults_on", "Faults between nodes that are on here", self.faults_on.clone());
        r.register("faults", "Faults between nodes imposed here", self.faults.clone());
        r.register(
            "fault_hits",
            "Messages and connections held, delayed or lost by faults imposed here",
            self.fault_hits.clone(),
        );
    }

    /// Prometheus (OpenMetrics) text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }

    /// A Kinesis request was answered; `code` is `ok` or the exception's name.
    pub fn observe_request(&self, operation: &str, code: &str, took: Duration) {
        let labels = Operation { operation: operation.to_owned(), code: code.to_owned() };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// A shard leader took a put in.
    pub fn observe_put(&self, records: usize, bytes: usize) {
        self.puts.inc();
        self.put_records.inc_by(records as u64);
        self.put_bytes.inc_by(bytes as u64);
    }

    /// A put was acked.
    pub fn observe_ack(&self, records: usize, took: Duration) {
        self.acks.inc();
        self.ack_records.inc_by(records as u64);
        self.append_seconds.observe(took.as_secs_f64());
    }

    /// A put was refused or its outcome is unknown.
    pub fn observe_refusal(&self, reason: Refusal) {
        self.refusals.get_or_create(&Reason { reason }).inc();
    }

    /// Records that were stored before were answered with the numbers they have.
    pub fn observe_deduplicated(&self, records: usize) {
        self.deduplicated_records.inc_by(records as u64);
    }

    /// A shard led here forgot calls before their time.
    pub fn observe_forgotten(&self, calls: u32) {
        self.forgotten_calls.inc_by(u64::from(calls));
    }

    /// Records went to a reader.
    pub fn observe_read(&self, records: usize, bytes: usize) {
        self.read_records.inc_by(records as u64);
        self.read_bytes.inc_by(bytes as u64);
    }

    /// This node won a leadership.
    pub fn observe_election(&self) {
        self.elections.inc();
    }

    /// A step of a split or merge was taken.
    pub fn observe_reshard_step(&self, step: &'static str, took: Duration) {
        let labels = ReshardStep { step };
        self.reshard_step_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A split or merge was published; keys of its shards had no owner for `pause`.
    pub fn observe_reshard(&self, pause: Duration) {
        self.reshards.inc();
        self.reshard_pause_seconds.observe(pause.as_secs_f64());
    }

    /// Records of a shard led here expired.
    pub fn observe_trim(&self) {
        self.trims.inc();
    }

    /// A group's log was purged here.
    pub fn observe_purge(&self) {
        self.purges.inc();
    }

    /// Shards led here that are due to be trimmed, and are not because clocks disagree.
    pub fn set_trimming_paused(&self, shards: usize) {
        self.trimming_paused.set(shards as i64);
    }

    /// Groups open and led here.
    pub fn set_groups(&self, open: usize, led: usize) {
        self.groups.set(open as i64);
        self.led_groups.set(led as i64);
    }

    /// Term of a group.
    pub fn set_term(&self, group: u64, term: u64) {
        self.terms.get_or_create(&Group { group }).set(term as i64);
    }

    /// Entries that `node` lacks of a group led here.
    pub fn set_replica_lag(&self, group: u64, node: u64, entries: u64) {
        self.replica_lag.get_or_create(&Replica { group, node }).set(entries as i64);
    }

    /// A group was closed: its labels go.
    pub fn forget_group(&self, group: u64, nodes: &[u64]) {
        self.terms.remove(&Group { group });
        for &node in nodes {
            self.replica_lag.remove(&Replica { group, node });
        }
    }

    /// The load of a stream on demand made a `step` begin: `split` or `merge`.
    pub fn observe_on_demand_step(&self, step: &'static str) {
        self.on_demand_steps.get_or_create(&DemandStep { step }).inc();
    }

    /// A fault was imposed from outside.
    pub fn observe_fault(&self, fault: &'static str) {
        self.faults.get_or_create(&Fault { fault }).inc();
    }

    /// A fault met a message or a connection.
    pub fn observe_fault_hit(&self, fault: &'static str) {
        self.fault_hits.get_or_create(&Fault { fault }).inc();
    }

    /// So many faults of a kind are on.
    pub fn set_faults(&self, fault: &'static str, count: usize) {
        self.faults_on.get_or_create(&Fault { fault }).set(count as i64);
    }

    /// Shards whose load is on one key. Zero where this node does not lead the metadata.
    pub fn set_hot_keys(&self, shards: usize) {
        self.hot_keys.set(shards as i64);
    }

    /// Room of the log's disk.
    pub fn set_disk(&self, free_bytes: u64, reserve_bytes: u64, is_low: bool) {
        self.disk_free.set(free_bytes as i64);
        self.disk_reserve.set(reserve_bytes as i64);
        self.disk_low.set(i64::from(is_low));
    }

    /// What waits in a queue now.
    pub fn set_queue_depth(&self, queue: &'static str, depth: usize) {
        self.queue_depth.get_or_create(&Queue { queue }).set(depth as i64);
    }
}
