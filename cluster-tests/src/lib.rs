//! Proof on real clusters: three processes (or three containers), real clients, real kills.
//!
//! What clients saw is kept as a [`history::History`]; each promise is one file that judges a history and
//! nothing else, so that the same check serves a walk, a test and a recording.
//!
//! | promise | file |
//! |---|---|
//! | an acked record is there, as acked | `promises/acked_records_survive.rs` |
//! | one order per shard, the same for every reader | `promises/order_within_shard.rs` |
//! | one order per key | `promises/order_per_key.rs` |
//! | nothing invented | `promises/no_phantom_records.rs` |
//! | a put, however often it is sent, is stored once | `promises/nothing_stored_twice.rs` |
//! | the end of a shard is told by who knows it | `promises/tips_are_fresh.rs` |
//! | who asks for a place in a shard begins there | `promises/iterators_begin_as_asked.rs` |
//! | open shards tile the key space, records lie where they belong | `promises/ranges_tile.rs` |
//!
//! | part | file |
//! |---|---|
//! | find or build the `tristream` binary, never a stale one | `binary.rs` |
//! | a cluster of three child processes | `processes.rs` |
//! | three nodes in one process, whose disks and links fail on demand | `in_process.rs` |
//! | ports of the loopback that nobody else takes | `ports.rs` |
//! | the same cluster as containers | `containers.rs` |
//! | `/admin/v1/cluster`, leaders, waiting | `admin.rs` |
//! | one raw HTTP request | `raw_http.rs` |
//! | the AWS SDK pointed at a node | `sdk.rs` |
//! | the AWS CLI pointed at a node | `aws_cli.rs` |
//! | run a command within a bound | `command.rs` |
//! | many producers, outcomes recorded | `workload.rs` |
//! | boto3, SDKs, raw HTTP and the native client, each with its own retries | `doors.rs` |
//! | producers through such doors, outcomes recorded | `producers.rs` |
//! | connections that break when the answer to a put comes back | `scissors.rs` |
//! | a stream read through all generations of its shards | `generations.rs` |
//! | a reader that follows it while all happens | `generations/live.rs` |
//! | producers without pause while all nodes die at once | `kill_all.rs` |
//! | clients while real processes are killed, paused, cut off and slowed | `chaos.rs` |
//! | recordings of users' own runs, judged | `recording.rs` |
//! | producers without pause while shards come and go | `soak.rs` |
//! | shards that come and go, and what nodes keep of them | `churn.rs` |
//! | records that expire under load, and what the logs take | `expiry.rs` |
//! | a process whose unsynced writes are lost when it is killed | `power_loss.rs` |
//! | whole clusters in simulation, from a seed | `simulation/` |
//! | the scripts of faults that find the planted bugs | `pinned.rs` |

pub mod admin;
pub mod aws_cli;
pub mod binary;
pub mod chaos;
pub mod churn;
pub mod command;
pub mod containers;
pub mod doors;
pub mod expiry;
pub mod generations;
pub mod history;
pub mod in_process;
pub mod kill_all;
#[cfg(target_os = "linux")]
pub mod pinned;
pub mod ports;
#[cfg(target_os = "linux")]
pub mod power_loss;
pub mod processes;
pub mod producers;
pub mod promises;
pub mod raw_http;
pub mod recording;
pub mod scissors;
pub mod sdk;
#[cfg(target_os = "linux")]
pub mod simulation;
pub mod soak;
pub mod workload;
