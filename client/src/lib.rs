//! The native client: routes records by hash key straight to shard leaders, over gRPC.
//!
//! ```text
//!  producer  (lanes)      many records, in order per shard     consumer  (subscription)   all shards, merged
//!       \                                                        /
//!        client            one call: which shard, which node, again or not
//!       /   |   \
//!  map_cache connections retry        the shard map | one channel per node | when to try again
//! ```
//!
//! Invariant: a request whose outcome is unknown is never sent again, unless the caller asked for it
//! (`Options::retry_unknown`). Must not know: Raft, logs, or anything of a node but its addresses.

mod client;
mod connections;
mod connector;
mod consumer;
mod error;
mod lanes;
mod map_cache;
mod options;
mod producer;
mod retry;
mod subscription;
#[cfg(test)]
mod tests;

pub use client::{Client, StreamSummary};
pub use connector::{Connection, Connector};
pub use consumer::Consumer;
pub use error::Error;
pub use map_cache::{StreamDescription, StreamStatus};
pub use options::Options;
pub use producer::{Producer, Receipt};
pub use subscription::{Event, Start, Subscription};
pub use tristream_proto::{domain, wire};
