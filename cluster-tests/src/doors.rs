//! The ways in which producers reach a cluster: each sends a call again by itself, as its kind does, and tells what became
//! of each record.
//!
//! Invariant: every attempt of a call carries the call's own id, which is the client's business in all but the raw one.
//! Must not judge, and must not know the history.
//!
//! | door | file |
//! |---|---|
//! | boto3, in a process of its own | `doors/boto3.rs`, `doors/boto3_door.py` |
//! | HTTP by hand, with invocation ids, that does not give up | `doors/raw.rs` |
//! | the AWS SDK for Rust | `doors/rust_sdk.rs` |
//! | the native client | `doors/native.rs` |

pub mod boto3;
pub mod native;
pub mod raw;
pub mod rust_sdk;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::history::Position;

/// A record to put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Its partition key.
    pub key: String,
    /// Its data: text.
    pub data: Bytes,
}

/// What became of a record.
pub type Outcome = Result<Position, Failure>;

/// Why a client gave a record up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// It is certainly not stored.
    pub nothing_stored: bool,
    /// The client was told, or must assume, that another try may succeed.
    pub retryable: bool,
    /// In the client's words.
    pub why: String,
}

impl Failure {
    /// May be stored or not.
    pub fn unknown(why: impl Into<String>) -> Failure {
        Failure { nothing_stored: false, retryable: true, why: why.into() }
    }
}

/// One producer's way in.
pub trait Door: Send {
    /// Puts these with one call (PutRecord for one, PutRecords for several): one outcome for each, in their order. An
    /// error is the test's own failure, not the cluster's.
    fn put<'a>(
        &'a mut self,
        stream: &'a str,
        records: &'a [Put],
    ) -> BoxFuture<'a, anyhow::Result<Vec<Outcome>>>;
}

/// Whether a client that is told this code (by AWS's rules) tries again.
pub fn is_retryable(status: u16, code: &str) -> bool {
    status >= 500 || matches!(code, "ProvisionedThroughputExceededException" | "InternalFailure")
}

/// The same failure for each of `count` records.
fn all(count: usize, failure: &Failure) -> Vec<Outcome> {
    vec![Err(failure.clone()); count]
}
