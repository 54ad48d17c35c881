//! How many threads compute.

#![allow(unsafe_code)] // setting an environment variable

use candle_core::Tensor;

/// Sets the number of threads of this crate's kernels and of candle's own operations, once.
///
/// candle 0.11 asks for its number at every operation, by the environment variable
/// `RAYON_NUM_THREADS` or else by reading the system's list of processors, which costs more than
/// some of the operations; so the variable is set.
///
/// Call it at the start of a program, before it starts other threads.
///
/// # Errors
/// The threads could not be started, or were started already.
pub fn set_threads(threads: usize) -> Result<(), rayon::ThreadPoolBuildError> {
    // SAFETY: by this function's contract no other thread reads the environment meanwhile.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
}

/// Runs `pass` on one of the threads that compute, if `x` is on the CPU: every operation of a pass
/// that asks for threads from outside waits until one of them wakes up and answers.
pub fn on_threads<T: Send>(x: &Tensor, pass: impl FnOnce() -> T + Send) -> T {
    if x.device().is_cpu() {
        rayon::scope(|_| pass())
    } else {
        pass()
    }
}
