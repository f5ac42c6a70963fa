//! The public door: Kinesis for AWS clients, and health, metrics and the cluster view for people.
//!
//! Owns bytes and what surrounds them: connections, bodies, encodings, headers, exception names.
//! Invariant: every request is answered, also while the node is not ready, overloaded, or one of
//! its handlers panics. Must not know what an operation means.
//!
//! ```text
//!  server  accept, connections, drain -> service  one request: route, answer, headers
//!                                          |-> body     limits on size and memory
//!                                          |-> kinesis  order of checks; target, call, json, aws_error
//!                                          |-> admin    health, metrics, cluster
//!                                          `-> faults   what tests impose on messages between nodes
//! ```

mod admin;
mod aws_error;
mod body;
mod call;
mod faults;
mod json;
mod kinesis;
mod patience;
mod reply;
mod server;
mod service;
mod target;

#[cfg(test)]
mod tests;

pub use server::{Door, Limits};
