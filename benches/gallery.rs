//! How long an exact search takes: `k` = 10 best of 1,000 to 1,000,000 entries of 512 numbers, for
//! one query and for 100 at once.
//!
//!     cargo bench --bench gallery            # one thread; MTMC_THREADS=2 for two
//!
//! And how long a time step of a gallery takes that knows 10,000 people on a map, 2,000 of whom 100
//! cameras see: without vectors, with those of every 20th track, and with those of all.
//!
//! Results are in docs/benchmarks.md. The largest search takes 2 GB.

use std::io::Write as _;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use mtmc::gallery::search::ExactSearch;
use mtmc::gallery::{CameraInput, Gallery, GallerySettings, Observation, Topology};
use mtmc::sim::{Layout, SimSettings, Simulation, Step};
use mtmc_models::Embedding;

fn main() {
    let threads = std::env::var("MTMC_THREADS").ok();
    let threads = threads.and_then(|text| text.parse().ok()).unwrap_or(1);
    mtmc_models::ops::set_threads(threads, mtmc_models::layers::Mode::Inference)
        .expect("nothing has computed yet");
    divan::main();
}

const DIM: usize = 512;

/// The generator splitmix64 (Steele, Lea, Flood 2014), -1..1.
fn vector(seed: u64) -> Embedding {
    let mut state = seed << 20;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    Embedding::new((0..DIM).map(|_| next()).collect()).expect("it is not zero")
}

#[divan::bench(args = [1_000, 10_000, 100_000, 1_000_000], consts = [1, 100], max_time = 5)]
fn top_10<const QUERIES: usize>(bencher: Bencher, entries: usize) {
    let mut search = ExactSearch::new(DIM);
    search.reserve(entries);
    for seed in 0..entries as u64 {
        search.push(&vector(seed)).expect("all are of one size");
    }
    let queries: Vec<Embedding> = (0..QUERIES as u64).map(|q| vector(q | 1 << 40)).collect();
    let queries: Vec<&Embedding> = queries.iter().collect();
    bencher
        .counter(ItemsCount::new(QUERIES))
        .bench_local(|| search.top_k(black_box(&queries), 10));
}

/// Everyone in this many shifts: one shift at a time is in sight.
const SHIFTS: u64 = 5;

/// Steps of a shift: enough for everyone to get an identity.
const SHIFT_STEPS: u64 = 6;

/// A place with 10,000 people, 100 rooms and a camera in each.
fn place() -> Simulation {
    let mut settings = SimSettings {
        layout: Layout::Grid,
        cameras: 100,
        people: 10_000,
        seconds: 10.0,
        frame_rate: 10.0,
        ..SimSettings::default()
    };
    settings.walk.present = 1.0;
    // Nobody looks like anyone else: so many people are known as there are.
    settings.looks = settings.clone().without_noise().looks;
    settings.looks.dim = DIM;
    Simulation::new(settings).expect("the settings are valid")
}

/// What the cameras see of a shift, by the true identities; a vector of every `every`-th track.
fn shift(step: &Step, every: u64) -> Vec<Vec<Observation<'_>>> {
    let now = (step.frame - 1) / SHIFT_STEPS % SHIFTS;
    let mut all = Vec::with_capacity(step.cameras.len());
    for camera in &step.cameras {
        let mut row: Vec<Observation<'_>> = Vec::new();
        for (index, truth) in camera.truth.iter().enumerate() {
            let Some(id) = truth.filter(|id| id % SHIFTS == now) else {
                continue;
            };
            if row.iter().all(|seen| seen.track_id != id) {
                row.push(Observation {
                    track_id: id,
                    bbox: camera.detections[index].bbox,
                    embedding: camera
                        .embeddings
                        .get(index)
                        .filter(|_| (id / SHIFTS).is_multiple_of(every)),
                });
            }
        }
        all.push(row);
    }
    all
}

fn inputs<'a>(all: &'a [Vec<Observation<'a>>], size: [f64; 2]) -> Vec<CameraInput<'a>> {
    let input = |(camera, row): (usize, &'a Vec<Observation<'a>>)| CameraInput {
        camera,
        frame_size: size,
        observations: row,
    };
    all.iter().enumerate().map(input).collect()
}

/// One more step of the last shift.
#[divan::bench(args = ["no vectors", "every 20th", "all"], sample_count = 5, sample_size = 1)]
fn step_of_10_000_people(bencher: Bencher, vectors: &str) {
    let mut simulation = place();
    let size = simulation.settings().image_size.map(f64::from);
    let views = simulation.views().iter().cloned().map(Some).collect();
    let settings = GallerySettings {
        least_views: 1,
        similarity_threshold: 0.95,
        ..GallerySettings::default()
    };
    let mut gallery = Gallery::new(settings, Topology::default(), views).expect("valid settings");
    for step in simulation
        .by_ref()
        .take((SHIFTS * SHIFT_STEPS - 1) as usize)
    {
        let all = shift(&step, 1);
        gallery.step(step.time, &inputs(&all, size));
    }
    let last = simulation.next().expect("it lasts long enough");
    let every = match vectors {
        "all" => 1,
        "every 20th" => 20,
        _ => u64::MAX,
    };
    let mut all = shift(&last, every);
    if vectors == "no vectors" {
        for observation in all.iter_mut().flatten() {
            observation.embedding = None;
        }
    }
    let inputs = inputs(&all, size);
    let boxes: usize = all.iter().map(Vec::len).sum();
    let _ = writeln!(
        std::io::stderr(),
        "{} people known, {boxes} boxes",
        gallery.people().len()
    );
    bencher
        .with_inputs(|| gallery.clone())
        .bench_local_values(|mut gallery| gallery.step(last.time, black_box(&inputs)));
}
