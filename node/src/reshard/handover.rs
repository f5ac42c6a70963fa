//! What a child's answer leaves to be done. Pure.

use tristream_proto::domain::{ShardId, Timestamp};

use crate::shard::{Inherited, Opening, Sealed};

/// What opens the children of parents that ended like this: the same whoever asks, and whenever.
pub(super) fn opening(ends: &[(ShardId, Sealed)]) -> Opening {
    let sealed = || ends.iter().map(|(_, sealed)| sealed);
    Opening {
        creation_second: sealed().map(|s| s.closed_second).max().unwrap_or_default() + 1,
        last_arrival: sealed().map(|s| s.last_arrival).max().unwrap_or(Timestamp(0)),
        parents: ends.iter().map(|(parent, sealed)| (*parent, sealed.end)).collect(),
    }
}

/// Up to which entry of `parent` a child has the window.
pub(super) fn reached(child: &Inherited, parent: ShardId) -> u64 {
    let of_parent = child.upto.iter().find(|(id, _)| *id == parent);
    of_parent.map_or(0, |(_, upto)| *upto)
}

/// From where on a child that did not open lacks which parents' windows; `ends` are the parents'.
pub(super) fn missing(child: &Inherited, ends: &[(ShardId, u64)]) -> Vec<(ShardId, u64)> {
    if child.opened {
        return vec![];
    }
    let has = |parent| reached(child, parent);
    let lacks = |&&(parent, end): &&(ShardId, u64)| has(parent) < end;
    ends.iter().filter(lacks).map(|&(parent, _)| (parent, has(parent))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u32) -> ShardId {
        ShardId::from(index)
    }

    #[test]
    fn children_begin_behind_the_later_parent() {
        let ended = |closed_second, last_arrival, end| Sealed {
            closed_second,
            last_arrival: Timestamp(last_arrival),
            end,
        };
        let ends = [(id(3), ended(10, 9_900, 7)), (id(4), ended(12, 8_000, 5))];
        let both = Opening {
            creation_second: 13,
            last_arrival: Timestamp(9_900),
            parents: vec![(id(3), 7), (id(4), 5)],
        };
        assert_eq!(opening(&ends), both);
        assert_eq!(opening(&ends[..1]).creation_second, 11);
    }

    #[test]
    fn a_child_lacks_what_it_has_not_reached() {
        let ends = [(id(3), 7), (id(4), 5)];
        let lacks = |opened, upto: &[(u32, u64)]| {
            let upto = upto.iter().map(|&(parent, upto)| (id(parent), upto)).collect();
            missing(&Inherited { opened, upto }, &ends)
        };
        assert_eq!(lacks(false, &[]), [(id(3), 0), (id(4), 0)]);
        assert_eq!(lacks(false, &[(3, 6), (4, 5)]), [(id(3), 6)]);
        assert_eq!(lacks(false, &[(4, 4), (3, 8)]), [(id(4), 4)]);
        assert_eq!(lacks(false, &[(3, 7), (4, 5)]), []);
        assert_eq!(lacks(true, &[]), [], "whatever it says: it takes records");
    }
}
