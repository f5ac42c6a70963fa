//! Wire <-> domain: the only place where untrusted messages become domain values.

mod types;

/// A message that breaks the protocol: a peer or client of another version, or a broken one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad message: {0}")]
pub struct BadMessage(pub String);

impl BadMessage {
    fn new(what: impl std::fmt::Display) -> BadMessage {
        BadMessage(what.to_string())
    }
}
