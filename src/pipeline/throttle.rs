//! Makes runs that are under way take less at once while memory is short.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared between whoever watches memory and the runs: while it is on, batches and queues of frames
/// hold a quarter. A run's results do not depend on it.
#[derive(Debug, Default)]
pub struct Throttle {
    on: AtomicBool,
}

impl Throttle {
    /// Turns it on or off.
    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// How many to take now where it would be `most`: at least one.
    pub fn limit(&self, most: usize) -> usize {
        if self.is_on() {
            (most / 4).max(1)
        } else {
            most
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_but_at_least_one_while_it_is_on() {
        let throttle = Throttle::default();
        assert_eq!(throttle.limit(8), 8);
        throttle.set(true);
        assert_eq!(
            [8, 7, 4, 3, 1, 0].map(|most| throttle.limit(most)),
            [2, 1, 1, 1, 1, 1]
        );
        throttle.set(false);
        assert_eq!(throttle.limit(3), 3);
    }
}
