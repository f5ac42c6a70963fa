//! gRPC: what the nodes ask of each other, and what native clients ask.
//!
//! Owns the translation between messages and the floors below. Must not decide anything: no
//! retries, no forwarding.

pub mod peer_service;
pub mod status;
