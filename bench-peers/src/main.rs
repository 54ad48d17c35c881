//! Compares mtmc's trackers with published ones, on the same detections and in the same run:
//! `quality` by the field's metrics, `speed` by the clock, and its search by looks with an
//! index. What came out is in docs/comparison.md and docs/benchmarks.md.
//!
//!     cargo run --release -- quality --data MOT17 --out DIR --python VENV/bin/python
//!     cargo run --release -- speed --python VENV/bin/python
//!     cargo run --release -- index

mod crates;
mod index;
mod peer;
mod python;
mod quality;
mod scene;
mod speed;

use clap::{Parser, Subcommand};

/// Compares trackers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tracks a benchmark's public detections and evaluates
    Quality(quality::QualityArgs),
    /// Times one update at several numbers of people
    Speed(speed::SpeedArgs),
    /// Times the gallery's search beside an approximate index
    Index(index::IndexArgs),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Quality(args) => quality::run(&args),
        Command::Speed(args) => speed::run(&args),
        Command::Index(args) => index::run(&args),
    }
}
