//! Tristream: a replicated Kinesis Data Streams.
//!
//! The house, top floor first. Imports only go down; siblings never import each other
//! (`cluster-tests/tests/house.rs` fails on an upward `use crate::`).
//!
//! ```text
//!  roof     main  cli  node  config  telemetry         may import every floor; nobody imports the roof
//!  floor 6  http   rpc                                 bytes <-> domain words; no business decisions
//!  floor 5  api  reshard  retention                    one file per Kinesis operation | splits and merges, step by step | what expires
//!  floor 4  router   placement                         who owns this key | which groups are open here
//!  floor 3  metadata   shard                           the two kinds of Raft group; they never import each other
//!  floor 2  raft                                       the only floor that may write the word `openraft`
//!  floor 1  log   state   founding                     the shared segmented log | metadata tables (sled) | first start
//!  floor 0  world disk net clock entropy tasks metrics roster identity failpoint faults planted     the outside world, replaceable in simulation
//!  ground   tristream_proto::domain                    pure vocabulary
//! ```

// First, so that its macro is known everywhere.
#[macro_use]
pub mod planted;

pub mod cli;
pub mod config;
pub mod node;
pub mod telemetry;

pub mod http;
pub mod rpc;

pub mod api;
pub mod reshard;
pub mod retention;

pub mod placement;
pub mod router;

pub mod metadata;
pub mod shard;

pub mod raft;

pub mod founding;
pub mod log;
pub mod state;

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod failpoint;
pub mod faults;
pub mod identity;
pub mod metrics;
pub mod net;
pub mod roster;
pub mod tasks;
pub mod world;

pub use config::Config;
pub use node::Node;
pub use world::World;
