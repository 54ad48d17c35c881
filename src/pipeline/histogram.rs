//! How long something took, how often: fixed buckets that many threads fill.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in milliseconds; what is above them all is counted in one more.
pub const BUCKETS_MS: [f64; 16] = [
    0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0,
    5000.0,
];

/// Durations, counted.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_ns: AtomicU64,
    min_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
            min_ns: AtomicU64::new(u64::MAX),
            max_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one duration in seconds.
    pub(super) fn observe(&self, seconds: f64) {
        let seconds = if seconds.is_finite() { seconds } else { 0.0 };
        let bucket = BUCKETS_MS.partition_point(|bound| *bound < seconds * 1e3);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = (seconds * 1e9).round() as u64;
        self.sum_ns.fetch_add(nanoseconds, Ordering::Relaxed);
        self.min_ns.fetch_min(nanoseconds, Ordering::Relaxed);
        self.max_ns.fetch_max(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let counts: Vec<u64> = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let milliseconds = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64 / 1e6;
        let count = counts.iter().sum();
        HistogramSnapshot {
            count,
            sum_ms: milliseconds(&self.sum_ns),
            min_ms: if count == 0 {
                0.0
            } else {
                milliseconds(&self.min_ns)
            },
            max_ms: milliseconds(&self.max_ns),
            counts,
        }
    }

    /// Goes on from what was counted before.
    pub(super) fn restore(&self, saved: &HistogramSnapshot) {
        for (counter, count) in self.counts.iter().zip(&saved.counts) {
            counter.store(*count, Ordering::Relaxed);
        }
        let nanoseconds = |milliseconds: f64| (milliseconds * 1e6).round() as u64;
        self.sum_ns
            .store(nanoseconds(saved.sum_ms), Ordering::Relaxed);
        if saved.count > 0 {
            self.min_ns
                .store(nanoseconds(saved.min_ms), Ordering::Relaxed);
            self.max_ns
                .store(nanoseconds(saved.max_ms), Ordering::Relaxed);
        }
    }
}

/// A histogram at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramSnapshot {
    /// How many durations.
    pub count: u64,
    /// Their sum in milliseconds.
    pub sum_ms: f64,
    /// The shortest in milliseconds; 0 if there is none.
    pub min_ms: f64,
    /// The longest in milliseconds; 0 if there is none.
    pub max_ms: f64,
    /// How many were in each bucket: above the bound before and at most its own of [`BUCKETS_MS`];
    /// the last, beyond them all.
    pub counts: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for milliseconds in [0.0, 0.05, 0.06, 5.0, 5000.0, 5001.0] {
            histogram.observe(milliseconds / 1e3);
        }
        let snapshot = histogram.snapshot();
        let filled: Vec<(usize, u64)> = snapshot
            .counts
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(filled, [(0, 2), (1, 1), (6, 1), (15, 1), (16, 1)]);
        assert_eq!((snapshot.count, snapshot.sum_ms), (6, 10_006.11));
        assert_eq!((snapshot.min_ms, snapshot.max_ms), (0.0, 5001.0));
        assert_eq!(Histogram::default().snapshot().min_ms, 0.0);
    }

    #[test]
    fn nonsense_does_no_harm() {
        let histogram = Histogram::default();
        for seconds in [f64::NAN, -1.0, f64::INFINITY] {
            histogram.observe(seconds);
        }
        assert_eq!(histogram.snapshot().count, 3);
    }
}
