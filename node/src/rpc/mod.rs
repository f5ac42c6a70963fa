//! The inner door: gRPC for peers and native clients.
//!
//! Owns the translation between wire messages and domain words. Must not decide anything.

pub mod raft_service;

pub use raft_service::RaftService;
