//! The system's allocator, counting what is live.
//!
//! A binary that wants to be counted names [`Counting`] as its `#[global_allocator]`. Invariant: what is counted is what
//! was asked for, not what malloc keeps; so a leak shows, and fragmentation does not. Must not know who asks.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

static BYTES: AtomicI64 = AtomicI64::new(0);
static ALLOCATIONS: AtomicI64 = AtomicI64::new(0);

/// What a process has allocated and not freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// As asked for.
    pub bytes: i64,
    /// How many pieces.
    pub allocations: i64,
}

/// What is live now; nothing at all where [`Counting`] is not the global allocator.
pub fn live() -> Live {
    // The two belong to moments that lie close together.
    Live { bytes: BYTES.load(Ordering::Relaxed), allocations: ALLOCATIONS.load(Ordering::Relaxed) }
}

/// The system's allocator, counting.
pub struct Counting;

fn count(allocations: i64, bytes: i64) {
    ALLOCATIONS.fetch_add(allocations, Ordering::Relaxed);
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

/// A layout's size fits: no allocation is larger than `isize::MAX`.
fn size(bytes: usize) -> i64 {
    bytes as i64
}

// SAFETY: every call is handed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller vouches for the layout.
        let at = unsafe { System.alloc(layout) };
        if !at.is_null() {
            count(1, size(layout.size()));
        }
        at
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller vouches for the layout.
        let at = unsafe { System.alloc_zeroed(layout) };
        if !at.is_null() {
            count(1, size(layout.size()));
        }
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller vouches for both; `System` gave it.
        unsafe { System.dealloc(at, layout) };
        count(-1, -size(layout.size()));
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller vouches for all three; `System` gave it.
        let moved = unsafe { System.realloc(at, layout, bytes) };
        if !moved.is_null() {
            count(0, size(bytes) - size(layout.size()));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one test that looks: others of this binary allocate less than the slack, and before or after.
    const PIECE: usize = 64 << 20;

    #[global_allocator]
    static HEAP: Counting = Counting;

    #[test]
    fn what_is_live_is_counted_through_growth_to_the_end() {
        let near = |bytes: i64, pieces: usize| {
            let expected = size(pieces * PIECE);
            assert!((bytes - expected).abs() < size(PIECE / 2), "{bytes}, not {expected}");
        };
        let before = live();
        let grown = |before: Live| live().bytes - before.bytes;
        let mut bytes: Vec<u8> = Vec::with_capacity(PIECE);
        near(grown(before), 1);
        bytes.reserve_exact(3 * PIECE);
        near(grown(before), 3);
        let zeroed = vec![0u8; PIECE];
        near(grown(before), 4);
        std::hint::black_box((&bytes, &zeroed));
        bytes.shrink_to(0);
        near(grown(before), 1);
        drop((bytes, zeroed));
        near(grown(before), 0);
        let many: Vec<Box<u64>> = (0..100_000).map(Box::new).collect();
        assert!(live().allocations - before.allocations > 90_000);
        drop(many);
        assert!(live().allocations - before.allocations < 10_000);
    }
}
