//! Where a network's time goes: layer by layer, while it is asked for.
//!
//! Layers report in the order in which they end. What runs between them (sums, shapes, sigmoids) is
//! the difference to the whole pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::cpu::amx::{self, Tiles};
use super::cpu::block::{
    Block, COLUMNS, Factors, Next, Operands, Precision, ROWS, Unit, multiply_block,
};

/// One run of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTime {
    /// The kind of layer and its sizes.
    pub layer: String,
    /// Products and sums, as floating-point operations of the plain way to compute it.
    pub operations: f64,
    /// Seconds.
    pub seconds: f64,
}

/// All runs of like layers.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSum {
    /// The kind of layer and its sizes.
    pub layer: String,
    /// How many runs.
    pub count: usize,
    /// Operations of all of them.
    pub operations: f64,
    /// Seconds of all of them.
    pub seconds: f64,
}

/// Adds up the runs of like layers, the longest first.
pub fn sums(times: &[LayerTime]) -> Vec<LayerSum> {
    let mut sums: Vec<LayerSum> = Vec::new();
    for time in times {
        if let Some(sum) = sums.iter_mut().find(|sum| sum.layer == time.layer) {
            sum.count += 1;
            sum.operations += time.operations;
            sum.seconds += time.seconds;
        } else {
            sums.push(LayerSum {
                layer: time.layer.clone(),
                count: 1,
                operations: time.operations,
                seconds: time.seconds,
            });
        }
    }
    sums.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    sums
}

static WANTED: AtomicBool = AtomicBool::new(false);
static TIMES: Mutex<Vec<LayerTime>> = Mutex::new(Vec::new());

/// Layers report from now on. One pass at a time: those of several mix.
pub fn start() {
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    WANTED.store(true, Ordering::Relaxed);
}

/// Layers report no more; gives what they have.
pub fn stop() -> Vec<LayerTime> {
    WANTED.store(false, Ordering::Relaxed);
    std::mem::take(&mut TIMES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs a layer; if that is wanted, with its time and what `describe` says of it: the layer and its
/// operations.
pub(crate) fn timed<T>(describe: impl FnOnce() -> (String, f64), run: impl FnOnce() -> T) -> T {
    if !WANTED.load(Ordering::Relaxed) {
        return run();
    }
    let start = Instant::now();
    let result = run();
    let seconds = start.elapsed().as_secs_f64();
    let (layer, operations) = describe();
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.push(LayerTime {
        layer,
        operations,
        seconds,
    });
    result
}

/// How many threads layers run on.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Operations a second of one core by the kernel of matrix products, operands in its first cache:
/// what a layer could reach. `None` where there is no kernel.
pub fn peak(precision: Precision) -> Option<f64> {
    /// Steps of a sum: a panel of them takes 12 KiB.
    const STEPS: usize = 64;
    const ROUNDS: usize = 2000;
    let unit = Unit::of(precision)?;
    if let Some(tiles) = Tiles::of(unit) {
        return Some(peak_of(tiles));
    }
    let panel = [0; STEPS * COLUMNS];
    let numbers = if precision == Precision::Bf16 { 2 } else { 1 };
    let products = STEPS * COLUMNS * numbers;
    let factors = [0; STEPS * ROWS];
    let mut sums: Block = [[0.0; COLUMNS]; ROWS];
    let seconds = fastest(ROUNDS, || {
        let operands = Operands {
            panel: &panel,
            factors: Factors::Packed(std::hint::black_box(&factors)),
            steps: STEPS,
            next: Next::NONE,
            ahead: &[],
        };
        multiply_block(unit, &operands, &mut sums);
        std::hint::black_box(&sums);
    });
    Some(2.0 * (products * ROWS) as f64 / seconds)
}

/// The same of tiles.
fn peak_of(tiles: Tiles) -> f64 {
    /// Steps of 16 words: 32 KiB of operands.
    const STEPS: usize = 8;
    const ROUNDS: usize = 500;
    /// In whole lines of the cache.
    #[repr(align(64))]
    struct Operand([u32; STEPS * amx::FACTORS]);
    let factors = Operand([0; STEPS * amx::FACTORS]);
    let columns = Operand([0; STEPS * amx::FACTORS]);
    let offsets: Vec<usize> = (0..STEPS).map(|step| step * amx::FACTORS).collect();
    let mut session = tiles.session();
    let seconds = fastest(ROUNDS, || {
        session.square_alone(std::hint::black_box(&factors.0), &columns.0, &offsets);
    });
    // A word is two numbers.
    let products = STEPS * amx::FACTORS * amx::SIDE * 2;
    2.0 * products as f64 / seconds
}

/// Seconds of one run in the fastest of some series of `rounds`.
fn fastest(rounds: usize, mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..rounds {
            run();
        }
        best = best.min(start.elapsed().as_secs_f64() / rounds as f64);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    // No other test starts a profile, but layers of other tests may report while this one runs.
    // By hand.
    #[test]
    fn like_layers_add_up() {
        let time = |layer: &str, seconds: f64| LayerTime {
            layer: layer.to_string(),
            operations: 10.0,
            seconds,
        };
        let found = sums(&[time("a", 1.0), time("b", 2.5), time("a", 1.0)]);
        let found: Vec<_> = found
            .iter()
            .map(|s| (s.layer.as_str(), s.count, s.operations, s.seconds))
            .collect();
        assert_eq!(found, [("b", 1, 10.0, 2.5), ("a", 2, 20.0, 2.0)]);
    }

    #[test]
    fn layers_report_while_it_is_wanted() {
        let layer = |name: &str| timed(|| (name.to_string(), 8.0), || 3);
        assert_eq!(layer("before"), 3);
        start();
        assert_eq!(layer("profile test"), 3);
        let times = stop();
        assert_eq!(layer("after"), 3);
        let found: Vec<_> = times.iter().filter(|t| t.layer == "profile test").collect();
        assert_eq!((found.len(), found[0].operations), (1, 8.0));
        assert!(found[0].seconds >= 0.0 && stop().iter().all(|t| t.layer != "after"));
    }
}
