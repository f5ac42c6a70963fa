//! Who called: which zone a connection that was taken in comes from.
//!
//! A node says it with every request to another (as its user agent), so that the other can tell its peers from
//! clients on the same port. Must not be trusted: it is good for faults and for logs.

use std::sync::{Arc, OnceLock};

/// What a node's user agent begins with; its zone follows.
const AGENT: &str = "tristream-node/";

/// Who called, once it is known. The default is of a connection where nobody wants to know.
#[derive(Clone, Debug, Default)]
pub struct Caller(Option<Arc<OnceLock<Box<str>>>>);

impl Caller {
    /// One that somebody will name.
    pub fn unknown() -> Caller {
        Caller(Some(Arc::default()))
    }

    /// It is the node in this zone. Only the first word counts.
    pub fn is(&self, zone: &str) {
        if let Caller(Some(known)) = self {
            known.get_or_init(|| zone.into());
        }
    }

    /// The zone it is in, once known to be a node.
    pub fn zone(&self) -> Option<&str> {
        self.0.as_ref()?.get().map(AsRef::as_ref)
    }
}

/// What a node in `zone` calls itself.
pub(super) fn agent(zone: &str) -> String {
    format!("{AGENT}{zone}")
}

/// The zone of the node that calls itself so; `None` if no node does.
pub fn zone_of_agent(agent: &str) -> Option<&str> {
    agent.strip_prefix(AGENT)?.split_ascii_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_its_agent_and_nobody_else_is() {
        assert_eq!(zone_of_agent(&format!("{} tonic/0.14.9", agent("az-b"))), Some("az-b"));
        assert_eq!(zone_of_agent("tonic/0.14.9"), None);
        assert_eq!(zone_of_agent(AGENT), None);
    }

    #[test]
    fn the_first_word_counts() {
        let caller = Caller::unknown();
        assert_eq!(caller.zone(), None);
        caller.is("az-b");
        caller.clone().is("az-c");
        assert_eq!(caller.zone(), Some("az-b"));
        let nobody = Caller::default();
        nobody.is("az-b");
        assert_eq!(nobody.zone(), None);
    }
}
