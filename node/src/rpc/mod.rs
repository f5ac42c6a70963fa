//! The inner door: gRPC, for native clients and peers.

pub mod client_service;
