//! Errors of the floors below as refusals on the wire. (What a router does about a refusal it
//! receives is its own business: `router/forward.rs`.)
//!
//! Invariant: an error whose effect is unknown becomes `KIND_UNKNOWN` and nothing else does.

use tristream_proto::domain::{MapVersion, NodeId, StreamName};
use tristream_proto::wire;
use tristream_proto::wire::refusal::Kind;

use crate::raft::ProposeError;
use crate::router;
use crate::shard::{AppendError, ReadError};

/// A refusal without a leader or a map version.
pub fn refusal(kind: Kind, message: impl std::fmt::Display) -> wire::Refusal {
    wire::Refusal { kind: kind.into(), message: message.to_string(), leader: 0, map_version: 0 }
}

/// The request was routed by another map, or another stream of the name, than this node knows.
pub fn stale_map(message: impl std::fmt::Display, known: MapVersion) -> wire::Refusal {
    wire::Refusal { map_version: known.0, ..refusal(Kind::StaleMap, message) }
}

/// There is no such stream, or no longer.
pub fn stream_not_found(name: &StreamName) -> wire::Refusal {
    refusal(Kind::StreamNotFound, name)
}

/// Somebody else leads.
pub fn not_leader(message: impl std::fmt::Display, leader: Option<NodeId>) -> wire::Refusal {
    let leader = leader.map_or(0, |leader| leader.0);
    wire::Refusal { leader, ..refusal(Kind::NotLeader, message) }
}

/// Why an append failed.
pub fn of_append(error: &AppendError) -> wire::Refusal {
    let text = error.to_string();
    match error {
        AppendError::NotLeader { leader } => not_leader(text, *leader),
        AppendError::Throttled { .. } => refusal(Kind::Throttled, text),
        AppendError::StorageFull(_) => refusal(Kind::StorageFull, text),
        AppendError::Unavailable(_) => refusal(Kind::Unavailable, text),
        AppendError::Sealed => refusal(Kind::StaleMap, text),
        AppendError::Invalid(_) => refusal(Kind::Invalid, text),
        AppendError::Unknown(_) => refusal(Kind::Unknown, text),
    }
}

/// Why a read or a barrier failed. Reads have no effect.
pub fn of_read(error: &ReadError) -> wire::Refusal {
    let text = error.to_string();
    match error {
        ReadError::NotLeader { leader } => not_leader(text, *leader),
        ReadError::Unavailable(_) | ReadError::Damaged(_) => refusal(Kind::Unavailable, text),
    }
}

/// Why a proposal failed.
pub fn of_propose(error: &ProposeError) -> wire::Refusal {
    let text = error.to_string();
    match error {
        ProposeError::NotLeader { leader } => not_leader(text, *leader),
        ProposeError::Unavailable(_) => refusal(Kind::Unavailable, text),
        ProposeError::Unknown(_) => refusal(Kind::Unknown, text),
    }
}

/// Why the router has no answer.
pub fn of_router(error: &router::Error) -> wire::Refusal {
    let kind = match error {
        router::Error::StreamNotFound(_) => Kind::StreamNotFound,
        router::Error::AlreadyExists(_) => Kind::AlreadyExists,
        router::Error::ShardLimit { .. } => Kind::LimitExceeded,
        router::Error::NotActive(_) => Kind::NotActive,
        router::Error::OnDemand(_)
        | router::Error::NoShard(_)
        | router::Error::NotEligible(_)
        | router::Error::BadRange(_) => Kind::Invalid,
        router::Error::ChangeLimit(_) => Kind::LimitExceeded,
        router::Error::Throttled(_) => Kind::Throttled,
        router::Error::StorageFull(_) => Kind::StorageFull,
        router::Error::Unavailable(_) | router::Error::Damaged(_) => Kind::Unavailable,
        router::Error::Unknown(_) => Kind::Unknown,
        router::Error::Invalid(_) => Kind::Invalid,
    };
    refusal(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use tristream_proto::domain::Effect;

    use super::*;

    #[test]
    fn unknown_effects_and_only_those_are_told_as_unknown() {
        let text = || "why".to_owned();
        let name: tristream_proto::domain::StreamName = "s".parse().expect("a legal name");
        let errors = [
            router::Error::StreamNotFound(name.clone()),
            router::Error::AlreadyExists(name),
            router::Error::ShardLimit { open: 1, limit: 1 },
            router::Error::Throttled(text()),
            router::Error::StorageFull(text()),
            router::Error::Unavailable(text()),
            router::Error::Unknown(text()),
            router::Error::Invalid(text()),
            router::Error::Damaged(text()),
        ];
        for error in errors {
            let is_told = of_router(&error).kind() == Kind::Unknown;
            assert_eq!(is_told, error.effect() == Effect::Unknown, "{error:?}");
        }
        assert_eq!(of_append(&AppendError::Unknown(text())).kind(), Kind::Unknown);
        assert_eq!(of_append(&AppendError::Unavailable(text())).kind(), Kind::Unavailable);
        assert_eq!(of_append(&AppendError::StorageFull(text())).kind(), Kind::StorageFull);
        assert_eq!(of_propose(&ProposeError::Unknown(text())).kind(), Kind::Unknown);
        assert_eq!(of_propose(&ProposeError::Unavailable(text())).kind(), Kind::Unavailable);
    }

    #[test]
    fn hints_travel() {
        let leader = Some(NodeId(7));
        assert_eq!(of_append(&AppendError::NotLeader { leader }).leader, 7);
        assert_eq!(of_propose(&ProposeError::NotLeader { leader }).leader, 7);
        assert_eq!(of_read(&ReadError::NotLeader { leader: None }).leader, 0);
        assert_eq!(stale_map("newer", MapVersion(9)).map_version, 9);
    }
}
