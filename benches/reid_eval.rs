//! How long the Market-1501 protocol takes at the size of Market-1501: 3,368 queries, 15,913
//! gallery images, 2048 numbers each; 219 GFLOP of distances, 761 more for re-ranking.
//!
//!     cargo bench --bench reid_eval
//!
//! Median on two cores of an AMD EPYC server with other work beside it: cosine 4.8 s, Euclidean
//! 5.1 s, cosine with re-ranking 22.3 s; peak memory 269 MB, 158 of them the features.
//! `tests/oracle/reid/compare_full_size.py` runs the command and torchreid on the same files.

use std::io::Write as _;

use divan::{Bencher, black_box};
use mtmc::eval::reid::{Distance, Evaluation, Features, Metrics, Options, RerankOptions};

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    mtmc_models::ops::set_threads(threads, mtmc_models::layers::Mode::Inference)
        .expect("nothing has computed yet");
    divan::main();
    if let Some(peak) = peak_memory() {
        let _ = writeln!(std::io::stdout(), "peak memory of all: {peak}");
    }
}

const QUERIES: usize = 3_368;
const GALLERY: usize = 15_913;
const DIM: usize = 2_048;
const PEOPLE: u64 = 750;

/// The generator splitmix64 (Steele, Lea, Flood 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// -1..1.
    fn next(&mut self) -> f32 {
        (self.draw() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }
}

/// Each image is its person's direction and four times as much noise.
fn side(images: usize, seed: u64) -> Features {
    let mut rng = SplitMix64(seed);
    let mut values = Vec::with_capacity(images * DIM);
    let (mut ids, mut cameras) = (Vec::new(), Vec::new());
    for _ in 0..images {
        let id = rng.draw() % PEOPLE;
        let mut person = SplitMix64(id << 32);
        values.extend((0..DIM).map(|_| person.next() + 4.0 * rng.next()));
        ids.push(id as i64);
        cameras.push((rng.draw() % 6) as i64);
    }
    Features::new(values, DIM, ids, cameras).expect("made-up features are sound")
}

fn measure(query: &Features, gallery: &Features, options: Options) -> Metrics {
    let evaluation = Evaluation::new(query, gallery, options, &mut |_, _, _| ());
    let metrics = evaluation.and_then(|evaluation| evaluation.metrics(&mut |_, _, _| ()));
    metrics.expect("everybody is seen by several cameras")
}

#[divan::bench(args = ["cosine", "euclidean", "cosine, re-ranked"], sample_count = 3, sample_size = 1)]
fn market1501(bencher: Bencher, name: &str) {
    let (query, gallery) = (side(QUERIES, 1), side(GALLERY, 2));
    let options = Options {
        distance: if name == "euclidean" {
            Distance::Euclidean
        } else {
            Distance::Cosine
        },
        rerank: name.ends_with("re-ranked").then(RerankOptions::default),
    };
    bencher.bench_local(|| measure(black_box(&query), black_box(&gallery), options));
}

/// What the kernel says of this process.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" "),
    )
}
