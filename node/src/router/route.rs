//! Which node to ask next for what only a group's leader can do.
//!
//! Pure. Invariant: within a round every replica is asked at most once, so that stale hints that
//! point at each other cannot hold a request. Must not know what is asked, or time.

use tristream_proto::domain::NodeId;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// This node.
    Here,
    /// One hop away.
    There(NodeId),
    /// Every replica was asked in this round: back off, then begin another.
    NoLeader,
}

/// The search for a group's leader.
#[derive(Clone, Debug)]
pub(super) struct Search {
    me: NodeId,
    /// This node first, when it has a replica: asking it costs nothing.
    replicas: Vec<NodeId>,
    asked: Vec<NodeId>,
    hint: Option<NodeId>,
}

impl Search {
    /// A search among the group's replicas.
    pub(super) fn new(me: NodeId, replicas: &[NodeId]) -> Search {
        let mut replicas = replicas.to_vec();
        replicas.sort_by_key(|&node| node != me);
        Search { me, replicas, asked: vec![], hint: None }
    }

    /// Begins a round; `leader` is who leads as far as this node knows.
    pub(super) fn begin(&mut self, leader: Option<NodeId>) {
        self.asked.clear();
        // What the last round's answers said may be newer than what this node knows, and is kept
        // only while this node knows nothing.
        self.hint = leader.or(self.hint);
    }

    /// Where to go next: to the newest hint, else to any replica that was not asked yet.
    pub(super) fn next(&mut self) -> Route {
        let asked = &self.asked;
        let is_new = |node: &NodeId| self.replicas.contains(node) && !asked.contains(node);
        let hinted = self.hint.filter(is_new);
        let Some(node) = hinted.or_else(|| self.replicas.iter().copied().find(is_new)) else {
            return Route::NoLeader;
        };
        self.asked.push(node);
        if node == self.me { Route::Here } else { Route::There(node) }
    }

    /// A node that was asked does not lead, and names who does, or nobody.
    pub(super) fn learn(&mut self, leader: Option<NodeId>) {
        self.hint = leader;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a script like `begin 2 | 2? 3 | 3? -`: whom this node knows to lead, then who is asked
    /// and whom it names; gives what was really asked.
    fn play(me: u64, replicas: &[u64], script: &[(&str, u64)]) -> Vec<String> {
        let replicas: Vec<NodeId> = replicas.iter().copied().map(NodeId).collect();
        let mut search = Search::new(NodeId(me), &replicas);
        let known = |node: u64| (node != 0).then_some(NodeId(node));
        let mut asked = vec![];
        for &(what, leader) in script {
            match what {
                "begin" => search.begin(known(leader)),
                _ => {
                    asked.push(match search.next() {
                        Route::Here => "here".to_owned(),
                        Route::There(node) => node.to_string(),
                        Route::NoLeader => "nobody".to_owned(),
                    });
                    search.learn(known(leader));
                }
            }
        }
        asked
    }

    #[test]
    fn the_leader_is_asked_first() {
        assert_eq!(play(1, &[1, 2, 3], &[("begin", 1), ("ask", 0)]), ["here"]);
        assert_eq!(play(1, &[1, 2, 3], &[("begin", 3), ("ask", 0)]), ["3"]);
        assert_eq!(play(4, &[1, 2, 3], &[("begin", 2), ("ask", 0)]), ["2"]);
    }

    #[test]
    fn a_hint_goes_before_the_others() {
        let script = [("begin", 2), ("ask", 3), ("ask", 0), ("ask", 0), ("ask", 0)];
        assert_eq!(play(1, &[1, 2, 3], &script), ["2", "3", "here", "nobody"]);
    }

    #[test]
    fn hints_in_a_circle_end_the_round() {
        let script = [("begin", 2), ("ask", 3), ("ask", 2), ("ask", 2), ("ask", 1)];
        assert_eq!(play(1, &[1, 2, 3], &script), ["2", "3", "here", "nobody"]);
    }

    #[test]
    fn without_a_hint_every_replica_is_asked_once_and_again_in_the_next_round() {
        let script = [("begin", 0), ("a", 0), ("a", 0), ("a", 0), ("a", 0), ("begin", 0), ("a", 0)];
        assert_eq!(play(2, &[1, 2, 3], &script), ["here", "1", "3", "nobody", "here"]);
    }

    #[test]
    fn a_node_that_is_no_replica_is_never_asked() {
        let script = [("begin", 9), ("ask", 8), ("ask", 0), ("ask", 0)];
        assert_eq!(play(4, &[1, 2], &script), ["1", "2", "nobody"]);
        assert_eq!(play(4, &[], &[("begin", 4), ("ask", 0)]), ["nobody"]);
    }

    #[test]
    fn a_hint_of_the_last_round_is_used_while_nothing_better_is_known() {
        let script = [("begin", 0), ("a", 0), ("a", 0), ("a", 2), ("begin", 0), ("a", 0)];
        assert_eq!(play(1, &[1, 2, 3], &script), ["here", "2", "3", "2"]);
        let script = [("begin", 0), ("a", 0), ("a", 0), ("a", 2), ("begin", 3), ("a", 0)];
        assert_eq!(play(1, &[1, 2, 3], &script), ["here", "2", "3", "3"]);
    }
}
