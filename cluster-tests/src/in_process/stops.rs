//! Named points of a protocol at which a node is held until the test has done what it wants.
//!
//! Invariant: one point is armed at a time; the first node that reaches it is held there, every other goes on. A node
//! that dies while it is held is held no more. Must not know what happens at a point.

use std::sync::Arc;

use anyhow::bail;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tristream_node::failpoint::Failpoints;

/// All nodes' points. Clones are the same.
#[derive(Clone, Default)]
pub struct Stops {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: watch::Sender<State>,
    reached: Mutex<Vec<(usize, &'static str)>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Every node passes every point.
    #[default]
    Open,
    /// The next node to reach it is held.
    Armed(&'static str),
    /// A node is held there.
    Held { seat: usize, point: &'static str },
}

impl Stops {
    /// The next node that reaches `point` is held there.
    pub fn arm(&self, point: &'static str) {
        self.shared.state.send_replace(State::Armed(point));
    }

    /// Waits until a node is held, and tells which.
    pub async fn held(&self) -> anyhow::Result<usize> {
        let mut state = self.shared.state.subscribe();
        let held = state.wait_for(|state| matches!(state, State::Held { .. }));
        let held = tokio::time::timeout(super::PATIENCE, held).await;
        match held.map(|held| held.map(|state| *state)) {
            Ok(Ok(State::Held { seat, .. })) => Ok(seat),
            _ => {
                let (reached, state) = (self.reached(), *self.shared.state.borrow());
                bail!("nobody is held ({state:?}); reached so far: {reached:?}")
            }
        }
    }

    /// Whoever is held goes on, and nothing is armed.
    pub fn release(&self) {
        self.shared.state.send_replace(State::Open);
    }

    /// Every point that was reached since the last call, by whom, in order.
    pub fn take_reached(&self) -> Vec<(usize, &'static str)> {
        std::mem::take(&mut *self.shared.reached.lock())
    }

    fn reached(&self) -> Vec<(usize, &'static str)> {
        self.shared.reached.lock().clone()
    }

    /// One node's points.
    pub fn of(&self, seat: usize) -> NodeStops {
        NodeStops { seat, stops: self.clone() }
    }

    async fn pass(&self, seat: usize, point: &'static str) {
        self.shared.reached.lock().push((seat, point));
        let held = State::Held { seat, point };
        let caught = self.shared.state.send_if_modified(|state| {
            let caught = *state == State::Armed(point);
            if caught {
                *state = held;
            }
            caught
        });
        if !caught {
            return;
        }
        // Runs when the test releases, and when the node dies.
        let _free = Free { shared: &self.shared, held };
        let mut state = self.shared.state.subscribe();
        let _ = state.wait_for(|state| *state != held).await;
    }
}

struct Free<'a> {
    shared: &'a Shared,
    held: State,
}

impl Drop for Free<'_> {
    fn drop(&mut self) {
        self.shared.state.send_if_modified(|state| {
            let own = *state == self.held;
            if own {
                *state = State::Open;
            }
            own
        });
    }
}

/// The points of one node.
pub struct NodeStops {
    seat: usize,
    stops: Stops,
}

impl Failpoints for NodeStops {
    fn reach<'a>(&'a self, point: &'static str) -> BoxFuture<'a, ()> {
        Box::pin(self.stops.pass(self.seat, point))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_node_at_the_point_is_held_until_released() {
        let stops = Stops::default();
        stops.arm("here");
        stops.of(0).reach("elsewhere").await;
        let (one, other) = (stops.of(1), stops.of(2));
        let mut held = one.reach("here");
        assert!(futures::poll!(&mut held).is_pending());
        assert_eq!(stops.held().await.unwrap(), 1);
        other.reach("here").await;
        stops.release();
        held.await;
        assert_eq!(stops.take_reached(), [(0, "elsewhere"), (1, "here"), (2, "here")]);
    }

    #[tokio::test]
    async fn a_node_that_dies_is_held_no_more() {
        let stops = Stops::default();
        stops.arm("here");
        let one = stops.of(1);
        let mut held = one.reach("here");
        assert!(futures::poll!(&mut held).is_pending());
        drop(held);
        assert_eq!(*stops.shared.state.borrow(), State::Open);
    }
}
