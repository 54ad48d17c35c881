//! How many threads compute.

#![allow(unsafe_code)] // setting an environment variable and the allocator

use std::ops::Range;

use candle_core::Tensor;

use super::awake;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
use super::pages::reserve_in_large_pages;
use crate::layers::Mode;

/// Sets the number of threads of this crate's kernels and of candle's own operations, once; `mode` is what
/// the program mostly computes.
///
/// candle 0.11 asks for its number at every operation, by the environment variable
/// `RAYON_NUM_THREADS` or else by reading the system's list of processors, which costs more than
/// some of the operations; so the variable is set.
///
/// Operations on 65,536 numbers and more, one by one, candle shares out to threads of its own, which then
/// turn in circles for up to a millisecond, at the cost of the threads here. Training with plain operations gains by
/// them all the same, inference has few such operations: there candle has no threads (`CANDLE_NUM_THREADS`).
///
/// On Linux with glibc, memory that a pass through a network frees is kept for the next one.
///
/// Call it at the start of a program, before it starts other threads.
///
/// # Errors
/// The threads could not be started, or were started already.
pub fn set_threads(threads: usize, mode: Mode) -> Result<(), rayon::ThreadPoolBuildError> {
    let of_candle = if mode.is_plain() { threads } else { 1 };
    // SAFETY: by this function's contract no other thread reads the environment meanwhile.
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", threads.to_string());
        std::env::set_var("CANDLE_NUM_THREADS", of_candle.to_string());
    }
    keep_memory();
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
}

/// Keeps the allocator from giving large pieces of memory back to the system, which would have to
/// clear them for every pass anew: a twentieth of the time that RT-DETR-l takes. All threads share
/// one heap, as those that glibc makes for further threads have no room for large pieces. It grows in
/// large pages.
///
/// Measured beside it: a pool of blocks by size took RT-DETR-l from 356 to 580 MB.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger than anything that a pass needs, in bytes.
        const MOST: i32 = 1 << 30;
        /// What a pass needs but for large batches, in bytes.
        const ROOM: usize = 1 << 29;
        /// `M_TRIM_THRESHOLD`, `M_MMAP_THRESHOLD` and `M_ARENA_MAX` of `malloc.h`.
        const SETTINGS: [(i32, i32); 3] = [(-1, MOST), (-3, MOST), (-8, 1)];
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        for (setting, value) in SETTINGS {
            // SAFETY: a function of the C library that this program is linked to; it takes these
            // two numbers and answers whether it knows the setting.
            unsafe { mallopt(setting, value) };
        }
        reserve_in_large_pages(ROOM);
    }
}

/// Runs `pass` on one of the threads that compute, if `x` is on the CPU: every operation of a pass
/// that asks for threads from outside waits until one of them wakes up and answers. For the same reason the
/// others stay awake until it has ended.
pub fn on_threads<T: Send>(x: &Tensor, pass: impl FnOnce() -> T + Send) -> T {
    if x.device().is_cpu() {
        rayon::scope(|_| {
            let _pass = awake::Pass::begin();
            pass()
        })
    } else {
        pass()
    }
}

/// Which of `count` things the share `index` of so many has: shares differ by one at most, so that as many
/// of them as there are threads take as long.
pub fn share(count: usize, shares: usize, index: usize) -> Range<usize> {
    index * count / shares..(index + 1) * count / shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_even_and_leave_nothing_out(count in 0_usize..1000, shares in 1_usize..50) {
            let ranges: Vec<Range<usize>> = (0..shares).map(|at| share(count, shares, at)).collect();
            prop_assert_eq!(ranges[0].start, 0);
            prop_assert_eq!(ranges[shares - 1].end, count);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            let even = count / shares;
            prop_assert!(ranges.iter().all(|range| range.len() == even || range.len() == even + 1));
        }
    }
}
