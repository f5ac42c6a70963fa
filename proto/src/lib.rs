//! Tristream's vocabulary (`domain`) and its wire messages (`wire`, generated from `v1/*.proto`).
//!
//! And the form in which a run is recorded (`recording`).
//!
//! Owns the words every other crate uses and the one translation between them and the wire (`convert`).
//! Invariant: a value of a domain type is valid by construction; untrusted bytes become domain values
//! only in `convert` and in the `parse`/`decode` functions of `domain`.
//! Must not know: any runtime, clock, socket or file.

pub mod convert;
pub mod domain;
pub mod recording;
pub mod wire;
