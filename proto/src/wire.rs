//! Generated messages and services of `v1/*.proto`, and nothing else.

#![allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub)]

tonic::include_proto!("tristream.v1");
