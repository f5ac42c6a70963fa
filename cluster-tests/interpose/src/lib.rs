//! `getrandom` and `clock_gettime` of the C library, replaced on threads that ask for it.
//!
//! Hash maps, thread generators and HTTP/2's clocks ask the operating system behind everybody's back; a
//! run from a seed must answer them from the seed. Invariant: a thread that did not call [`replace`] gets
//! what the kernel says. Linux only. Must not know who asks.
//!
//! [`heap`] counts what a process has allocated: it lies here because only this crate may say `unsafe`.

pub mod heap;

use std::cell::Cell;
use std::time::Duration;

/// The realtime clock begins here: 2027-01-15.
pub const EPOCH_SECONDS: i64 = 1_800_000_000;
/// The monotonic clocks begin here.
const UPTIME_SECONDS: i64 = 1_000_000;

thread_local! {
    static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// From here on this thread's randomness comes from `seed`, and its clocks stand still at their epoch.
pub fn replace(seed: u64) {
    // Without a reference the linker may drop the two from an archive.
    std::hint::black_box(getrandom as *const ());
    std::hint::black_box(clock_gettime as *const ());
    RANDOM.set(Some(seed));
    NOW.set(Duration::ZERO);
}

/// Sets this thread's clocks to `since` their epoch. Only after [`replace`].
pub fn set_clock(since: Duration) {
    NOW.set(since);
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `getrandom(2)`.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes, as for the original.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    let Some(mut state) = RANDOM.get() else {
        // SAFETY: the caller's buffer, handed on as it came.
        return unsafe {
            libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t
        };
    };
    // SAFETY: the caller vouches for the buffer.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let word = next(&mut state).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    RANDOM.set(Some(state));
    length as libc::ssize_t
}

/// `clock_gettime(2)`.
///
/// # Safety
/// `time` must be valid for writes, as for the original.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    if RANDOM.get().is_none() {
        // SAFETY: the caller's pointer, handed on as it came.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int };
    }
    let now = NOW.get();
    let base = if clock == libc::CLOCK_REALTIME { EPOCH_SECONDS } else { UPTIME_SECONDS };
    let answer = libc::timespec {
        tv_sec: base + now.as_secs() as i64,
        tv_nsec: i64::from(now.subsec_nanos()),
    };
    // SAFETY: the caller vouches for the pointer.
    unsafe { time.write(answer) };
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().expect("the thread ends well")
    }

    fn order_of_a_map() -> Vec<u32> {
        (0..100).map(|n| (n, ())).collect::<HashMap<u32, ()>>().into_keys().collect()
    }

    #[test]
    fn hash_maps_are_ordered_by_the_seed() {
        let order = |seed| {
            on_a_thread(move || {
                replace(seed);
                order_of_a_map()
            })
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        assert_ne!(on_a_thread(order_of_a_map), on_a_thread(order_of_a_map), "by the kernel");
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "they are what is tested")]
    fn clocks_stand_where_they_are_put() {
        on_a_thread(|| {
            replace(1);
            let (begin, wall) = (Instant::now(), SystemTime::now());
            assert_eq!(begin, Instant::now());
            assert_eq!(wall.duration_since(UNIX_EPOCH).expect("after").as_secs(), 1_800_000_000);
            set_clock(Duration::from_millis(1_500));
            assert_eq!(begin.elapsed(), Duration::from_millis(1_500));
            assert_eq!(wall.elapsed().expect("forward"), Duration::from_millis(1_500));
        });
        assert_ne!(
            SystemTime::now().duration_since(UNIX_EPOCH).expect("after").as_secs(),
            1_800_000_000
        );
    }
}
