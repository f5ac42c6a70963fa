//! The handover between shards <-> wire messages.

use tristream_proto::domain::{GroupId, ShardId, Timestamp};
use tristream_proto::wire;

use crate::shard::{Inheritance, Inherited, Opening, Sealed, WindowPart};

impl From<WindowPart> for wire::WindowPart {
    fn from(part: WindowPart) -> Self {
        let WindowPart { parent, after, upto, rows, more } = part;
        wire::WindowPart { parent: parent.index(), after, upto, rows, more }
    }
}

impl From<wire::WindowPart> for WindowPart {
    fn from(part: wire::WindowPart) -> Self {
        let wire::WindowPart { parent, after, upto, rows, more } = part;
        WindowPart { parent: ShardId::from(parent), after, upto, rows, more }
    }
}

impl From<Sealed> for wire::SealShardResponse {
    fn from(sealed: Sealed) -> Self {
        wire::SealShardResponse {
            closed_second: sealed.closed_second,
            last_arrival_ms: sealed.last_arrival.0,
            end: sealed.end,
            part: None,
            refusal: None,
        }
    }
}

impl From<&wire::SealShardResponse> for Sealed {
    fn from(answer: &wire::SealShardResponse) -> Self {
        Sealed {
            closed_second: answer.closed_second,
            last_arrival: Timestamp(answer.last_arrival_ms),
            end: answer.end,
        }
    }
}

/// What is asked of the child of this group; the deadline is left open.
pub(super) fn inherit_request(group: GroupId, inheritance: Inheritance) -> wire::InheritRequest {
    let Inheritance { parts, opening } = inheritance;
    wire::InheritRequest {
        group: group.0,
        parts: parts.into_iter().map(Into::into).collect(),
        opening: opening.map(Into::into),
        deadline_ms: 0,
    }
}

impl From<wire::InheritRequest> for Inheritance {
    fn from(request: wire::InheritRequest) -> Self {
        Inheritance {
            parts: request.parts.into_iter().map(Into::into).collect(),
            opening: request.opening.map(Into::into),
        }
    }
}

impl From<Opening> for wire::Opening {
    fn from(opening: Opening) -> Self {
        wire::Opening {
            creation_second: opening.creation_second,
            last_arrival_ms: opening.last_arrival.0,
            parents: to_ends(&opening.parents),
        }
    }
}

impl From<wire::Opening> for Opening {
    fn from(opening: wire::Opening) -> Self {
        Opening {
            creation_second: opening.creation_second,
            last_arrival: Timestamp(opening.last_arrival_ms),
            parents: from_ends(&opening.parents),
        }
    }
}

impl From<Inherited> for wire::InheritResponse {
    fn from(inherited: Inherited) -> Self {
        wire::InheritResponse {
            opened: inherited.opened,
            inherited: to_ends(&inherited.upto),
            refusal: None,
        }
    }
}

impl From<wire::InheritResponse> for Inherited {
    fn from(answer: wire::InheritResponse) -> Self {
        Inherited { opened: answer.opened, upto: from_ends(&answer.inherited) }
    }
}

fn to_ends(ends: &[(ShardId, u64)]) -> Vec<wire::ParentEnd> {
    ends.iter().map(|&(id, end)| wire::ParentEnd { parent: id.index(), end }).collect()
}

fn from_ends(ends: &[wire::ParentEnd]) -> Vec<(ShardId, u64)> {
    ends.iter().map(|at| (ShardId::from(at.parent), at.end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> WindowPart {
        WindowPart {
            parent: ShardId::from(7),
            after: 3,
            upto: 9,
            rows: bytes::Bytes::from_static(b"rows"),
            more: true,
        }
    }

    #[test]
    fn what_is_handed_over_survives_the_wire() {
        let opening = Opening {
            creation_second: 5,
            last_arrival: Timestamp(4_321),
            parents: vec![(ShardId::from(7), 9), (ShardId::from(8), 11)],
        };
        for opening in [None, Some(opening)] {
            let given = Inheritance { parts: vec![part(), part()], opening };
            let request = inherit_request(GroupId(2), given.clone());
            assert_eq!(request.group, 2);
            assert_eq!(Inheritance::from(request), given);
        }
        let sealed = Sealed { closed_second: 4, last_arrival: Timestamp(4_321), end: 9 };
        assert_eq!(Sealed::from(&wire::SealShardResponse::from(sealed)), sealed);
        assert_eq!(WindowPart::from(wire::WindowPart::from(part())), part());
        let inherited = Inherited { opened: true, upto: vec![(ShardId::from(7), 9)] };
        let answer = wire::InheritResponse::from(inherited.clone());
        assert_eq!(Inherited::from(answer), inherited);
    }
}
