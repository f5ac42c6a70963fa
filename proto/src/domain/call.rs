//! Which call a record came in with: what makes a retried put recognisable.
//!
//! A producer that got no answer sends the same call again. A call's id and a record's place in it stay
//! the same through every attempt, every router and every reshard, so a shard can tell the second
//! attempt from new records. Must not know what is done with them.

use std::fmt;

use sha2::{Digest, Sha256};

use super::Incarnation;

/// A call: the same in all of its attempts, and in no other call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub [u8; 16]);

impl CallId {
    /// The id of a call that an AWS SDK made: `caller` under its `invocation` id, on one incarnation of
    /// a stream, with this `body`. Another body under the same id is another call. SHA-256, cut to 128
    /// bits.
    pub fn of_invocation(
        caller: &str,
        stream: Incarnation,
        invocation: &str,
        body: &[u8],
    ) -> CallId {
        let mut hash = Sha256::new();
        for part in [caller.as_bytes(), &stream.0.to_be_bytes(), invocation.as_bytes()] {
            // Lengths first: no two lists of parts may run together into the same bytes.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(body);
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        CallId(id)
    }

    /// An id made of 128 random bits.
    pub fn minted(high: u64, low: u64) -> CallId {
        CallId((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A record's place: which call, and which record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The call.
    pub call: CallId,
    /// Place among the call's records, from 0.
    pub ordinal: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_tells_calls_apart() {
        let id = |caller, stream, invocation, body: &str| {
            CallId::of_invocation(caller, Incarnation(stream), invocation, body.as_bytes())
        };
        let first = id("a", 1, "x", "body");
        assert_eq!(first, id("a", 1, "x", "body"));
        for other in [
            id("b", 1, "x", "body"),
            id("a", 2, "x", "body"),
            id("a", 1, "y", "body"),
            id("a", 1, "x", "another"),
            id("a", 1, "xb", "ody"),
        ] {
            assert_ne!(first, other);
        }
    }
}
