//! Errors of the floors below, as the wire says them.

use tristream_proto::domain::{NodeId, StreamName};
use tristream_proto::wire;
use tristream_proto::wire::refusal::Kind;

use crate::router;
use crate::shard::{AppendError, ReadError};

pub(super) fn of(kind: Kind, message: impl std::fmt::Display) -> wire::Refusal {
    wire::Refusal { kind: kind.into(), message: message.to_string(), leader: 0, map_version: 0 }
}

pub(super) fn stream_not_found(name: &StreamName) -> wire::Refusal {
    of(Kind::StreamNotFound, name)
}

pub(super) fn not_leader(message: impl std::fmt::Display, leader: Option<NodeId>) -> wire::Refusal {
    let leader = leader.map_or(0, |node| node.0);
    wire::Refusal { leader, ..of(Kind::NotLeader, message) }
}

pub(super) fn of_append(error: AppendError) -> wire::Refusal {
    match &error {
        AppendError::NotLeader { leader } => not_leader(&error, *leader),
        AppendError::Throttled { .. } => of(Kind::Throttled, error),
        AppendError::Unavailable(_) => of(Kind::Unavailable, error),
        AppendError::Invalid(_) => of(Kind::Invalid, error),
        AppendError::Unknown(_) => of(Kind::Unknown, error),
        AppendError::Invalid(_) => of(Kind::Invalid, error),
    }
}

/// A read that failed here may well succeed at another replica, so none of these is final.
pub(super) fn of_read(error: ReadError) -> wire::Refusal {
    match &error {
        ReadError::NotLeader { leader } => not_leader(&error, *leader),
        ReadError::Unavailable(_) | ReadError::Damaged(_) => of(Kind::Unavailable, error),
    }
}

pub(super) fn of_router(error: router::Error) -> wire::Refusal {
    let kind = match &error {
        router::Error::StreamNotFound(_) => Kind::StreamNotFound,
        router::Error::AlreadyExists(_) => Kind::AlreadyExists,
        router::Error::ShardLimit { .. } => Kind::LimitExceeded,
        router::Error::Throttled(_) => Kind::Throttled,
        router::Error::Unavailable(_) | router::Error::Damaged(_) => Kind::Unavailable,
        router::Error::Unknown(_) => Kind::Unknown,
        router::Error::Invalid(_) => Kind::Invalid,
    };
    of(kind, error)
}
