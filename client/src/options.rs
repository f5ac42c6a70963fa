//! What a caller may choose about the client's behaviour.

use std::time::Duration;

use tristream_proto::domain::limits;

use crate::connector::Connector;

/// Settings of a client. `Options::default()` suits a cluster in one region.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one call may take, all attempts together.
    pub deadline: Duration,
    /// How long one attempt of a call that may be repeated waits for its node: reads, and puts while
    /// `retry_unknown` holds.
    pub attempt_timeout: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// A subscription that hears nothing for this time, not even a heartbeat, goes to another node.
    pub silence_max: Duration,
    /// Upper bound of the first random wait before an attempt is repeated; doubles with each.
    pub backoff_min: Duration,
    /// The bound on the wait stops doubling here.
    pub backoff_max: Duration,
    /// Repeat a put whose outcome is not known, until the deadline; if that passes first, the outcome is
    /// still unknown. A shard recognises what it has stored and answers with the number it gave, so that a
    /// repeated put is stored once, as long as the shard remembers the first: for 10 minutes, 65,536 calls
    /// and 8 MiB, and through splits and merges. On by default.
    pub retry_unknown: bool,
    /// Bytes that a producer holds at a time, sent and not yet answered or still waiting; past it
    /// `Producer::send` waits.
    pub waiting_bytes_max: usize,
    /// Most records in one request to a shard.
    pub request_records_max: usize,
    /// A request to a shard takes no further record past this size, in bytes.
    pub request_bytes_max: usize,
    /// Shards that one consumer reads at a time; past it they take turns.
    pub subscriptions_max: usize,
    /// Opens connections in another way than over the operating system's TCP.
    pub connector: Option<Connector>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_millis(500),
            silence_max: Duration::from_secs(10),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            retry_unknown: true,
            waiting_bytes_max: 64 << 20,
            request_records_max: limits::PUT_RECORDS_COUNT_MAX,
            request_bytes_max: limits::BATCH_BYTES_TARGET,
            subscriptions_max: 512,
            connector: None,
        }
    }
}

const _: () = assert!(limits::BATCH_BYTES_TARGET <= limits::PUT_RECORDS_BYTES_MAX);
