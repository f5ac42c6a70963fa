//! Everything outside the process, behind four narrow seams. Production passes the real ones;
//! simulation and tests pass their own. Nothing above floor 0 touches a file, a socket, the wall clock or
//! randomness in any other way.

use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, RealDisk};
use crate::entropy::{Entropy, OsEntropy};
use crate::failpoint::{Failpoints, NoFailpoints};
use crate::net::{Net, TcpNet};

/// What a node runs in.
#[derive(Clone)]
pub struct World {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Wall-clock time. (Durations and timers come from `tokio::time`, which simulation controls.)
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Where tests may stop and kill.
    pub failpoints: Arc<dyn Failpoints>,
}

impl World {
    /// The world as the operating system gives it.
    pub fn real() -> World {
        World {
            disk: Arc::new(RealDisk),
            net: Arc::new(TcpNet),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            failpoints: Arc::new(NoFailpoints),
        }
    }
}
