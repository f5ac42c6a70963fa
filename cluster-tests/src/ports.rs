//! Ports for clusters of tests on the loopback.
//!
//! Invariant: below the range that the system hands out by itself, or an outgoing connection of anybody could take
//! one while the node it belongs to is down. Must not know who listens.

use std::net::TcpListener;
use std::ops::Range;

use anyhow::bail;

/// Where ports are taken from: Linux hands out 32768 and more, macOS and Windows 49152 and more.
const RANGE: Range<u16> = 10_000..32_000;
const ATTEMPTS: usize = 200;

/// The first of `count` neighbouring ports that nobody listens on now, none of which is among as many from
/// `taken` on.
///
/// # Errors
/// When none were found.
pub fn free(count: u16, taken: Option<u16>) -> anyhow::Result<u16> {
    for _ in 0..ATTEMPTS {
        let first = rand::random_range(RANGE);
        if taken.is_some_and(|taken| first.abs_diff(taken) < count) {
            continue;
        }
        let bind = |port| TcpListener::bind(("127.0.0.1", port)).ok();
        // All are held until the last one is known to be free.
        if (first..first + count).map(bind).collect::<Option<Vec<_>>>().is_some() {
            return Ok(first);
        }
    }
    bail!("no {count} neighbouring free ports in {RANGE:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_do_not_overlap() {
        let first = free(3, None).unwrap();
        assert!(first.abs_diff(free(3, Some(first)).unwrap()) >= 3);
    }

    #[test]
    fn they_are_free() {
        let first = free(6, None).unwrap();
        let held: Vec<TcpListener> = (first..first + 6)
            .map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap())
            .collect();
        assert_eq!(held.len(), 6);
    }
}
