//! `mtmc eval`: results against ground truth, one file a kind of result.

mod handoffs;
pub mod inputs;
mod mot;
mod mtmc;
pub mod output;
mod reid;
mod track;

use clap::{Args, Subcommand};

/// Arguments of `mtmc eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Debug, Subcommand)]
enum EvalCommand {
    /// Tracks in MOT Challenge text: CLEAR, Identity, HOTA
    Mot(mot::MotArgs),
    /// Identities across cameras, on boxes and on the map: HOTA, CLEAR, Identity, handovers
    Mtmc(mtmc::MtmcArgs),
    /// Trackers on a benchmark's detections, measured in one go
    Track(track::EvalTrackArgs),
    /// Features of people under the Market-1501 protocol: CMC, mAP, mINP
    Reid(reid::ReidArgs),
}

/// Runs the sub-command.
///
/// # Errors
/// A file is missing or broken; the error names file and line.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    match &args.command {
        EvalCommand::Mot(args) => mot::run(args),
        EvalCommand::Mtmc(args) => mtmc::run(args),
        EvalCommand::Track(args) => track::run(args),
        EvalCommand::Reid(args) => reid::run(args),
    }
}
