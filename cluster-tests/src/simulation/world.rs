//! What a simulated node has instead of the operating system, but for its disk.
//!
//! Must not know what the node does with it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tristream_client::domain::Timestamp;
use tristream_node::clock::Clock;
use tristream_node::entropy::Entropy;
use tristream_node::net::{Listener, Net, Stream};
use turmoil::net::{TcpListener, TcpStream};

/// turmoil's network, as seen by whichever host asks.
pub(super) struct SimulatedNet;

struct Door(TcpListener);

impl Net for SimulatedNet {
    fn bind<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(addr).await?;
            Ok(Box::new(Door(listener)) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move { Ok(Stream::new(TcpStream::connect(addr).await?)) })
    }
}

impl Listener for Door {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Stream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            Ok((Stream::new(stream), from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A wall clock that follows the simulation, except as it is told to err.
#[derive(Default)]
pub(super) struct SimulatedClock {
    ahead_ms: AtomicI64,
    drift_ppm: AtomicI64,
}

impl SimulatedClock {
    /// Somebody sets the clock, forward or back.
    pub(super) fn jump(&self, ms: i64) {
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// From now on the clock runs too fast or too slow, by parts in a million of all time.
    pub(super) fn drift(&self, ppm: i64) {
        self.drift_ppm.store(ppm, Ordering::Relaxed);
    }
}

impl SimulatedClock {
    /// What it shows so many milliseconds after the simulation's beginning.
    pub(super) fn at(&self, elapsed: u64) -> Timestamp {
        let elapsed = elapsed.cast_signed();
        let drift = elapsed * self.drift_ppm.load(Ordering::Relaxed) / 1_000_000;
        let epoch = tristream_interpose::EPOCH_SECONDS * 1000;
        let now = epoch + elapsed + drift + self.ahead_ms.load(Ordering::Relaxed);
        Timestamp(u64::try_from(now).unwrap_or_default())
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.at(turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64)
    }
}

/// How far clocks may be apart and agree, where records are kept for seconds: `retention/clocks.rs` of the node.
const APART_MS: u64 = 2_000;

/// The lowest of these clocks, and the highest that a majority agrees with, itself included.
pub(super) fn clocks(shown: [Timestamp; 3]) -> (u64, Option<u64>) {
    let mut shown = shown.map(|clock| clock.0);
    shown.sort_unstable();
    let pairs = [(shown[1], shown[2]), (shown[0], shown[1])];
    let agreeing = pairs.into_iter().find(|(one, other)| other - one <= APART_MS);
    (shown[0], agreeing.map(|(_, higher)| higher))
}

/// Randomness of one life of a node.
pub(super) struct SeededEntropy(Mutex<SmallRng>);

impl SeededEntropy {
    pub(super) fn new(seed: u64) -> Arc<SeededEntropy> {
        Arc::new(SeededEntropy(Mutex::new(SmallRng::seed_from_u64(seed))))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_agrees_with_the_higher_of_two_that_are_near() {
        for (shown, expected) in [
            ([9_000, 9_000, 9_000], (9_000, Some(9_000))),
            ([12_000, 9_000, 10_000], (9_000, Some(12_000))),
            ([12_001, 9_000, 10_000], (9_000, Some(10_000))),
            ([50_000, 9_000, 20_000], (9_000, None)),
        ] {
            assert_eq!(clocks(shown.map(Timestamp)), expected, "{shown:?}");
        }
    }
}
