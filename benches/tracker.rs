//! How long one update takes in steady state: every person of a crowd is seen in every frame, with
//! a little jitter, and some with poor scores.
//!
//!     cargo bench --bench tracker
//!
//! BoT-SORT is told the camera's motion, and with looks a 512-D embedding of every person. Median
//! of one update on one core of an AMD EPYC server whose two cores were busy with builds beside it:
//!
//! | people              |     20 |     50 |   100 |    500 |
//! |---------------------|--------|--------|-------|--------|
//! | ByteTrack           | 1.8 µs | 6.2 µs | 20 µs | 430 µs |
//! | BoT-SORT            | 2.7 µs | 9.6 µs | 28 µs | 481 µs |
//! | BoT-SORT with looks | 7.9 µs |  26 µs | 71 µs | 868 µs |

mod crowd;

use crowd::{add_looks, add_motions, frames};
use divan::{Bencher, black_box};
use mtmc::tracker::{FrameDetections, TrackerSettings};

fn main() {
    divan::main();
}

/// Crowds.
const PEOPLE: [usize; 4] = [20, 50, 100, 500];

/// Shows the frames forth and back.
fn run(bencher: Bencher, tracker: &str, frames: &[FrameDetections]) {
    let settings: TrackerSettings = tracker.parse().expect("the name of a tracker");
    let mut tracker = settings.build().expect("the defaults are valid");
    let order: Vec<usize> = (0..frames.len()).chain((0..frames.len()).rev()).collect();
    for &i in &order {
        tracker.update(&frames[i]);
    }
    let mut next = 0;
    bencher.bench_local(|| {
        let tracks = tracker.update(black_box(&frames[order[next]]));
        next = (next + 1) % order.len();
        tracks
    });
}

#[divan::bench(args = PEOPLE, sample_count = 200, sample_size = 50)]
fn bytetrack(bencher: Bencher, people: usize) {
    run(bencher, "bytetrack", &frames(people));
}

#[divan::bench(args = PEOPLE, sample_count = 200, sample_size = 50)]
fn botsort(bencher: Bencher, people: usize) {
    let mut frames = frames(people);
    add_motions(&mut frames);
    run(bencher, "botsort", &frames);
}

#[divan::bench(args = PEOPLE, sample_count = 200, sample_size = 50)]
fn botsort_with_looks(bencher: Bencher, people: usize) {
    let mut frames = frames(people);
    add_motions(&mut frames);
    add_looks(&mut frames, people);
    run(bencher, "botsort", &frames);
}
