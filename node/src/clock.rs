//! Wall-clock time. Must not be used for waiting: timers are `tokio::time`'s.

use std::time::{SystemTime, UNIX_EPOCH};

use tristream_proto::domain::Timestamp;

/// Tells the wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// Now. May go back when somebody sets the clock.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    }
}
