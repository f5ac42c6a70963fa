//! Named points in a protocol at which a test may stop a node, kill it, or look around.
//!
//! Production reaches every point without pause. Must not know what happens at a point.

use futures::future::BoxFuture;

/// Told whenever a point is reached; the node goes on when the future is done.
pub trait Failpoints: Send + Sync + 'static {
    /// `point` names the point, as `reshard.sealed`.
    fn reach<'a>(&'a self, point: &'static str) -> BoxFuture<'a, ()>;
}

/// Nothing happens at any point.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFailpoints;

impl Failpoints for NoFailpoints {
    fn reach<'a>(&'a self, _point: &'static str) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
