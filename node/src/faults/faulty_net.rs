//! The net with faults in it: every connection to a peer, and every one that the peer door takes in.
//!
//! A peer that is called is known by its address, one that calls by what its first request says (`rpc/gate.rs`).
//! Must not be given to doors of clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::carry::behind_faults;
use super::{Faults, Flow};
use crate::net::{Caller, Listener, Net, Stream};

/// A net whose connections pass through the faults of a node.
pub struct FaultyNet {
    inner: Arc<dyn Net>,
    faults: Faults,
}

impl FaultyNet {
    /// `inner` with `faults`.
    pub fn new(inner: Arc<dyn Net>, faults: Faults) -> FaultyNet {
        FaultyNet { inner, faults }
    }
}

impl Net for FaultyNet {
    fn bind<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = self.inner.bind(addr).await?;
            let faults = self.faults.clone();
            Ok(Box::new(FaultyListener { inner, faults }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let Some(zone) = self.faults.zone_at(addr) else {
                return self.inner.connect(addr).await;
            };
            if self.faults.toll(zone, Flow::To).is_none() {
                // As a SYN that nobody answers: who connects has a deadline.
                return std::future::pending().await;
            }
            // A SYN goes there, and its answer comes back.
            self.faults.wait_open(zone, Flow::To).await;
            self.faults.wait_open(zone, Flow::From).await;
            let stream = self.inner.connect(addr).await?;
            let caller = Caller::unknown();
            caller.is(zone);
            Ok(behind_faults(&self.faults, stream, caller))
        })
    }
}

/// A peer door behind the faults.
struct FaultyListener {
    inner: Box<dyn Listener>,
    faults: Faults,
}

impl Listener for FaultyListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Stream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.inner.accept().await?;
            Ok((behind_faults(&self.faults, stream, Caller::unknown()), from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
