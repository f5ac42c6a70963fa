//! The native client: routes records by hash key straight to shard leaders, over gRPC.
//!
//! ```text
//!  producer  (lanes)   many records, in order per key     consumer  (walker)   all shards, parents first
//!     |                                                      |
//!    put                one request to one shard          subscription         one shard, from end to end
//!       \                                                  /
//!        client            one call: which node, again or not
//!       /   |   \
//!  map_cache connections retry        the shard map | one channel per node | when to try again
//! ```
//!
//! Invariant: a put whose outcome is unknown is sent again only with the origins it had, by which the shard
//! recognises it (and not at all without `Options::retry_unknown`). Must not know: Raft, logs, or anything
//! of a node but its addresses.

mod client;
mod connections;
mod connector;
mod consumer;
mod error;
mod lanes;
mod map_cache;
mod options;
mod producer;
mod put;
mod retry;
mod subscription;
#[cfg(test)]
mod tests;
mod walker;

pub use client::{Client, StreamSummary};
pub use connector::{Connection, Connector};
pub use consumer::Consumer;
pub use error::Error;
pub use map_cache::{StreamDescription, StreamStatus};
pub use options::Options;
pub use producer::{Producer, Receipt};
pub use subscription::{End, Event, Start, Subscription};
pub use tristream_proto::{domain, recording, wire};
