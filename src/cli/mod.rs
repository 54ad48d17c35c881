//! The command line: one file a sub-command, and what they share.

mod bench;
mod calibrate;
mod data;
mod detect;
mod doctor;
mod eval;
mod keeping;
mod keys;
mod live;
mod models;
mod operating;
mod options;
mod progress;
mod replay;
mod security;
mod serve;
mod settings;
mod sim;
mod snapshots;
mod sources;
mod track;
mod train;
mod tune;
mod uploads;
mod world;

use clap::{Parser, Subcommand};

/// Multi-target multi-camera tracking of people.
#[derive(Debug, Parser)]
#[command(name = "mtmc", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find people in images
    Detect(detect::DetectArgs),
    /// Track people through videos or folders of images
    Track(track::TrackArgs),
    /// Track recorded detections of an environment's cameras, without pictures
    Replay(replay::ReplayArgs),
    /// Serve tasks over REST and WebSocket
    Serve(Box<serve::ServeArgs>),
    /// Make, list and revoke the keys of the service
    Keys(keys::KeysArgs),
    /// Time the networks on this machine's processor or GPU
    Bench(bench::BenchArgs),
    /// Check that everything the service needs is there and works
    Doctor(Box<doctor::DoctorArgs>),
    /// Find where on the map a camera's pictures are
    Calibrate(calibrate::CalibrateArgs),
    /// Measure results against ground truth
    Eval(eval::EvalArgs),
    /// Search the settings of a tracker that suit a benchmark best
    Tune(tune::TuneArgs),
    /// Prepare and verify data sets
    Data(data::DataArgs),
    /// Train networks
    Train(train::TrainArgs),
    /// Simulate people seen by several cameras, with the truth
    Sim(sim::SimArgs),
    /// List, describe, fetch and convert weights
    Models(models::ModelsArgs),
}

/// Runs the command; what it prints is its result, errors go up.
///
/// # Errors
/// Whatever the command could not do, with what, where and why.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Detect(args) => detect::run(args),
        Command::Track(args) => track::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Data(args) => data::run(args),
        Command::Train(args) => train::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Models(args) => models::run(args),
    }
}
