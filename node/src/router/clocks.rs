//! What the other nodes' clocks say.
//!
//! Must not know what depends on it.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tristream_proto::domain::{NodeId, Timestamp};

use super::Router;

/// How far another node's clock is from this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// Whose clock.
    pub node: NodeId,
    /// At most this many milliseconds, in either direction: what was read, and the time that the answer
    /// took, which may all lie on one way.
    pub apart_ms_max: u64,
}

impl Router {
    /// This node's clock.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// The clocks of those other nodes that answer within `deadline`.
    pub async fn other_clocks(&self, deadline: Duration) -> Vec<ClockSample> {
        let ask = self.inner.roster.others().map(|member| async move {
            let (begun, asked) = (self.now(), Instant::now());
            let theirs = self.inner.forward.clock(member.node, deadline).await.ok()?;
            Some(sample(member.node, begun, theirs, asked.elapsed()))
        });
        join_all(ask).await.into_iter().flatten().collect()
    }
}

/// `theirs` was read some time after `begun` on this node's clock, at most `took` later.
fn sample(node: NodeId, begun: Timestamp, theirs: Timestamp, took: Duration) -> ClockSample {
    let latest = begun.0.saturating_add(took.as_millis() as u64);
    let apart_ms_max = theirs.0.abs_diff(begun.0).max(theirs.0.abs_diff(latest));
    ClockSample { node, apart_ms_max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_proves_little() {
        let apart = |theirs: u64, took: u64| {
            let took = Duration::from_millis(took);
            sample(NodeId(2), Timestamp(50_000), Timestamp(theirs), took).apart_ms_max
        };
        assert_eq!(apart(50_000, 0), 0);
        assert_eq!(apart(50_300, 0), 300);
        assert_eq!(apart(49_700, 0), 300);
        assert_eq!(apart(50_000, 900), 900, "it may have been read when the question came");
        assert_eq!(apart(50_900, 900), 900, "or when the answer left");
        assert_eq!(apart(52_000, 900), 2_000);
    }
}
