//! How long the tracking metrics take on a made-up sequence of a crowd: 600 frames, so many people
//! in each, all tracked, with an identity switch now and then.
//!
//!     cargo bench --bench eval
//!
//! `benches/peers/eval_mot.py` compares the whole command with TrackEval on MOT17.

use divan::{Bencher, black_box};
use mtmc::eval::EvalSequence;
use mtmc::eval::clear::{Clear, Rules};
use mtmc::eval::hota::Hota;
use mtmc::eval::identity::Identity;
use mtmc::eval::mot::{Benchmark, Boxes, prepare};

fn main() {
    divan::main();
}

const FRAMES: u64 = 600;

/// Truth and tracks: people who walk over a frame of 1920×1080, each box a little off.
fn boxes(people: i64) -> (Boxes, Boxes) {
    let (mut truth, mut tracks) = (Boxes::default(), Boxes::default());
    for frame in 1..=FRAMES {
        for person in 0..people {
            let (t, p) = (frame as f64, person as f64);
            let x = (137.0 * p + (p % 5.0 - 2.0) * t).rem_euclid(1880.0);
            let y = (61.0 * p).rem_euclid(800.0) + 30.0 * (0.01 * t + p).sin();
            let (w, h) = (40.0 + p % 7.0, 110.0 + p % 13.0);
            truth.push(frame, person, [x, y, w, h]);
            let error = 4.0 * (1.7 * t + 3.0 * p).sin();
            let identity = person + people * ((frame as i64 + 29 * person) / 200);
            tracks.push(frame, identity, [x + error, y - error, w, h + error]);
        }
    }
    (truth, tracks)
}

fn sequence(people: i64) -> EvalSequence {
    let (truth, tracks) = boxes(people);
    prepare(&truth, &tracks, Benchmark::Mot17, Some(FRAMES))
}

const PEOPLE: [i64; 3] = [10, 30, 100];

#[divan::bench(args = PEOPLE)]
fn preparation(bencher: Bencher, people: i64) {
    let (truth, tracks) = boxes(people);
    bencher.bench_local(|| prepare(black_box(&truth), &tracks, Benchmark::Mot17, Some(FRAMES)));
}

#[divan::bench(args = PEOPLE)]
fn clear(bencher: Bencher, people: i64) {
    let sequence = sequence(people);
    bencher.bench_local(|| Clear::of(black_box(&sequence), Rules::TrackEval));
}

#[divan::bench(args = PEOPLE)]
fn identity(bencher: Bencher, people: i64) {
    let sequence = sequence(people);
    bencher.bench_local(|| Identity::of(black_box(&sequence)));
}

#[divan::bench(args = PEOPLE)]
fn hota(bencher: Bencher, people: i64) {
    let sequence = sequence(people);
    bencher.bench_local(|| Hota::of(black_box(&sequence)));
}
