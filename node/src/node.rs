//! A node: builds the floors bottom-up, tears them down top-down.

use crate::config::Config;
use crate::world::World;

/// A running node.
pub struct Node {}

impl Node {
    /// Starts a node in `world`. Returns when its doors are open; `ready` tells when the cluster serves.
    pub async fn start(_config: Config, _world: World) -> anyhow::Result<Node> {
        unimplemented!()
    }

    /// Why the node must stop, once it must.
    pub async fn failure(&self) -> String {
        unimplemented!()
    }

    /// Closes the doors, hands over leadership, flushes, ends.
    pub async fn shutdown(self) {
        unimplemented!()
    }
}
