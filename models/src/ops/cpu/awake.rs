//! Threads that stay awake while a pass through a network goes on.
//!
//! Between two operations that all threads share, one thread alone takes some ten microseconds, and rayon's
//! others go to sleep. To wake one takes tens of microseconds, on a virtual machine hundreds: longer than many of
//! the operations.

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a thread looks for work until it may sleep after all: operations of one thread alone mostly take far
/// less.
const PATIENCE: Duration = Duration::from_millis(2);

/// Looks for work before other programs may have the processor, and the turns of a wait between two looks.
const LOOKS: usize = 64;
const TURNS: usize = 8;

thread_local! {
    /// Passes that this thread is in.
    static PASSES: Cell<usize> = const { Cell::new(0) };
}

/// A pass of this thread; until it is dropped the pool's other threads stay awake, but for those in a pass of
/// their own.
pub struct Pass {
    ended: Arc<AtomicBool>,
}

impl Pass {
    /// Begins one, on a thread of the pool.
    pub fn begin() -> Self {
        PASSES.set(PASSES.get() + 1);
        let ended = Arc::new(AtomicBool::new(false));
        if rayon::current_num_threads() > 1 {
            let ended = ended.clone();
            rayon::spawn_broadcast(move |_| stay_awake(&ended));
        }
        Self { ended }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        PASSES.set(PASSES.get() - 1);
    }
}

/// Does what work there is. Not on a thread that is in a pass: it waits for its own work to be done, and would
/// wait here for another's.
fn stay_awake(ended: &AtomicBool) {
    let mut last = Instant::now();
    while PASSES.get() == 0 && last.elapsed() < PATIENCE {
        for _ in 0..LOOKS {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            if rayon::yield_now() == Some(rayon::Yield::Executed) {
                last = Instant::now();
            }
            (0..TURNS).for_each(|_| spin_loop());
        }
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap()
    }

    fn sum(numbers: usize) -> usize {
        (0..numbers).into_par_iter().with_max_len(1).sum()
    }

    // By hand: the numbers below 1,000 add up to 499,500.
    #[test]
    fn passes_on_all_threads_at_once_end() {
        let pool = pool(3);
        let pass = || {
            let _pass = Pass::begin();
            (0..50).map(|_| sum(1000)).sum::<usize>()
        };
        thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        assert_eq!(pool.install(pass), 50 * 499_500);
                    }
                });
            }
        });
        // Nor is one that waits for work of another pass lost.
        let inner = || (0..8).into_par_iter().map(|_| pass()).sum::<usize>();
        let nested = pool.install(|| {
            let _pass = Pass::begin();
            inner()
        });
        assert_eq!(nested, 8 * 50 * 499_500);
    }

    #[test]
    fn threads_are_free_after_a_pass() {
        let pool = pool(3);
        pool.install(|| drop(Pass::begin()));
        // A thread that stayed in it would not answer.
        assert_eq!(pool.broadcast(|_| PASSES.get()), [0, 0, 0]);
    }
}
