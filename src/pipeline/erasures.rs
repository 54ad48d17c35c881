//! People who are to be erased from a run while it is under way.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between whoever erases people and the run that may know them. The run looks between two batches,
/// and several times a second while no frame comes.
#[derive(Debug, Default)]
pub struct Erasures {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Identities that the run has not taken yet.
    waiting: Vec<u64>,
    /// Calls so far, and of these the done ones.
    asked: u64,
    done: u64,
}

/// What became of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasing {
    /// The run knows nothing of the people any more, nor do its snapshots; its sinks have got all
    /// that came before.
    Done,
    /// No run is under way; the next one erases them before it does anything else.
    Idle,
    /// The run did not get to it in time; it still will.
    Late,
}

/// Identities that a run took over, and up to which call.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) ids: Vec<u64>,
    call: u64,
}

/// Marks a run as under way.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Erasures);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running = false;
        self.0.changed.notify_all();
    }
}

impl Erasures {
    /// Has people erased, and waits for that for at most `limit`.
    pub fn erase(&self, ids: &[u64], limit: Duration) -> Erasing {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        state.waiting.extend_from_slice(ids);
        state.asked += 1;
        let call = state.asked;
        loop {
            if state.done >= call {
                return Erasing::Done;
            }
            if !state.running {
                return Erasing::Idle;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Erasing::Late;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Does `work` while no run can begin; `None` if one is under way.
    pub fn while_idle<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let state = self.lock();
        (!state.running).then(work)
    }

    /// A run begins.
    pub(super) fn begin(&self) -> Running<'_> {
        self.lock().running = true;
        Running(self)
    }

    /// Who is to be erased, if anybody.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = self.lock();
        (state.asked > state.done).then(|| Taken {
            ids: std::mem::take(&mut state.waiting),
            call: state.asked,
        })
    }

    /// They are erased.
    pub(super) fn settle(&self, taken: &Taken) {
        self.lock().done = taken.call;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole, whatever panicked after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_run_takes_and_settles_what_waits() {
        let erasures = Erasures::default();
        assert!(erasures.take().is_none());
        assert_eq!(erasures.erase(&[7], LONG), Erasing::Idle);
        assert_eq!(erasures.while_idle(|| 3), Some(3));
        let running = erasures.begin();
        assert_eq!(erasures.while_idle(|| 3), None);
        assert_eq!(erasures.erase(&[8, 9], Duration::ZERO), Erasing::Late);
        let taken = erasures.take().unwrap();
        assert_eq!(taken.ids, [7, 8, 9]);
        std::thread::scope(|scope| {
            let late = scope.spawn(|| erasures.erase(&[10], LONG));
            while erasures.lock().asked < 3 {
                std::thread::yield_now();
            }
            // Settles the calls that were taken, not the one that came since.
            erasures.settle(&taken);
            let taken = erasures.take().unwrap();
            assert_eq!(taken.ids, [10]);
            erasures.settle(&taken);
            assert_eq!(late.join().unwrap(), Erasing::Done);
        });
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| erasures.erase(&[11], LONG));
            while erasures.lock().asked < 4 {
                std::thread::yield_now();
            }
            // A run that ends leaves it to the next one.
            drop(running);
            assert_eq!(waits.join().unwrap(), Erasing::Idle);
        });
        assert_eq!(erasures.take().unwrap().ids, [11]);
    }
}
