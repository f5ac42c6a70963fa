//! Why a call has no answer, in one enum that says whether to retry and whether it happened.

use std::error::Error as _;
use std::time::Duration;

use tonic::{ConnectError, Status};
use tristream_proto::domain::{Effect, MapVersion, NodeId, Retry};
use tristream_proto::wire::{self, refusal::Kind};

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stream is not there.
    #[error("stream not found: {0}")]
    StreamNotFound(String),
    /// A stream of this name exists.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// The stream is being created, changed or deleted.
    #[error("not active: {0}")]
    NotActive(String),
    /// A quota would be exceeded.
    #[error("limit exceeded: {0}")]
    LimitExceeded(String),
    /// The request breaks a rule and always will.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The shard's queue is full.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The disk of a replica is nearly full. It did not happen.
    #[error("no room: {0}")]
    StorageFull(String),
    /// The node asked does not lead the shard.
    #[error("the node does not lead the shard: {message}")]
    NotLeader {
        /// Who does, as far as that node knows.
        leader: Option<NodeId>,
        /// What the node said.
        message: String,
    },
    /// The shard map by which the request was routed is out of date.
    #[error("the shard map is out of date (the node has version {0})")]
    StaleMap(MapVersion),
    /// No node could be reached, or none that leads and has a quorum. It did not happen.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It may have happened, or may yet.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The answer makes no sense: a node of another version. The request may have happened.
    #[error("answer not understood: {0}")]
    Protocol(String),
}

impl Error {
    /// May the caller send the same request again?
    pub fn retry(&self) -> Retry {
        match self {
            Error::Throttled(_)
            | Error::StorageFull(_)
            | Error::Unavailable(_)
            | Error::Unknown(_) => Retry::Later,
            Error::NotLeader { .. } | Error::StaleMap(_) => Retry::Elsewhere,
            Error::StreamNotFound(_)
            | Error::AlreadyExists(_)
            | Error::NotActive(_)
            | Error::LimitExceeded(_)
            | Error::Invalid(_)
            | Error::Protocol(_) => Retry::Never,
        }
    }

    /// Did it happen?
    pub fn effect(&self) -> Effect {
        match self {
            Error::Unknown(_) | Error::Protocol(_) => Effect::Unknown,
            _ => Effect::None,
        }
    }

    /// What a failed gRPC call says about the request. Only a connection that never opened proves that
    /// the node did not see it.
    pub(crate) fn from_status(status: &Status) -> Error {
        let mut cause = status.source();
        while let Some(error) = cause {
            if error.is::<ConnectError>() {
                return Error::Unavailable(format!("cannot connect: {}", root_cause(error)));
            }
            cause = error.source();
        }
        match status.code() {
            tonic::Code::Unimplemented => {
                Error::Protocol(format!("the node does not know the call: {}", status.message()))
            }
            code => Error::Unknown(format!("the call broke off ({code:?}): {}", status.message())),
        }
    }

    /// The attempt got no answer in time.
    pub(crate) fn from_silence(waited: Duration) -> Error {
        Error::Unknown(format!("no answer within {} ms", waited.as_millis()))
    }

    /// The error that a caller sees when the deadline ends while this one says "again".
    pub(crate) fn at_deadline(self, deadline: Duration) -> Error {
        match self {
            Error::NotLeader { .. } | Error::StaleMap(_) | Error::Unavailable(_) => {
                Error::Unavailable(format!(
                    "no success within {} ms, last: {self}",
                    deadline.as_millis()
                ))
            }
            other => other,
        }
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}

impl From<wire::Refusal> for Error {
    fn from(refusal: wire::Refusal) -> Self {
        let kind = refusal.kind();
        let message = refusal.message;
        match kind {
            Kind::NotLeader => Error::NotLeader {
                leader: (refusal.leader != 0).then_some(NodeId(refusal.leader)),
                message,
            },
            Kind::StreamNotFound => Error::StreamNotFound(message),
            Kind::StaleMap => Error::StaleMap(MapVersion(refusal.map_version)),
            Kind::Throttled => Error::Throttled(message),
            Kind::StorageFull => Error::StorageFull(message),
            Kind::Unavailable => Error::Unavailable(message),
            Kind::Unknown => Error::Unknown(message),
            Kind::Invalid => Error::Invalid(message),
            Kind::AlreadyExists => Error::AlreadyExists(message),
            Kind::NotActive => Error::NotActive(message),
            Kind::LimitExceeded => Error::LimitExceeded(message),
            Kind::Unspecified => Error::Protocol(format!("a refusal without a kind: {message}")),
        }
    }
}

/// `Ok` where the answer carries no refusal.
pub(crate) fn accepted(refusal: Option<wire::Refusal>) -> Result<(), Error> {
    refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
}
