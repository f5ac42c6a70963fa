//! Whole clusters in one thread, from a seed: production nodes in a simulated world.
//!
//! Invariant: a seed (and a script of faults, where one is given) means the same run, to the byte of the debug
//! log, in every process of the same build. One seed per process: libraries count tasks and runtimes in
//! globals. Linux only. Must not know how a verdict is shown.
//!
//! | part | file |
//! |---|---|
//! | what can happen to the cluster, drawn from a seed | `fault.rs` |
//! | network, clock and randomness of a node | `world.rs` |
//! | a node's disk and clock, and its lives | `place.rs` |
//! | metadata tables that outlive a process | `tables.rs` |
//! | which bits may rot | `rot.rs` |
//! | which records a disk has promised to keep | `watched.rs` |
//! | the blocks of a log, as they lie on a disk | `blocks.rs` |
//! | three nodes through time: start, undo, mend | `cluster.rs` |
//! | how each fault is carried out | `strike.rs` |
//! | a producer and a reader that speak Kinesis, at any node | `kinesis.rs` |
//! | somebody who creates and deletes streams | `operator.rs` |
//! | somebody who splits and merges shards | `resharder.rs` |
//! | somebody who begins to read in the middle | `seeker.rs` |
//! | one subscription to one node | `subscription.rs` |
//! | those who look at each node's list of shards | `surveyor.rs` |
//! | what clients share with the run | `board.rs` |
//! | producers and readers, and the last reading of every replica | `clients.rs` |
//! | what the run logs, as a hash | `trace.rs` |
//! | safety, calm, liveness, verdict | `run.rs` |
//! | what a run shows | `report.rs` |
//! | faults that were written down | `script.rs` |
//! | mistakes made on purpose | `plant.rs` |
//! | which faults a failure takes | `shrink.rs` |

mod blocks;
mod board;
mod clients;
mod cluster;
mod fault;
mod kinesis;
mod operator;
mod place;
mod plant;
mod report;
mod resharder;
mod rot;
mod run;
mod script;
mod seeker;
mod shrink;
mod strike;
mod subscription;
mod surveyor;
mod tables;
mod trace;
mod watched;
mod world;

pub use fault::{Event, Fault, Storm, schedule};
pub use plant::Plant;
pub use report::{EVERYWHERE, Report, Sum};
pub use run::{Settings, retention_seconds, run};
pub use script::Script;
pub use shrink::{broken, shrink};
