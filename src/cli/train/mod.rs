//! `mtmc train`: networks learnt from images.

mod reid;

use clap::{Args, Subcommand};

/// Arguments of `mtmc train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(subcommand)]
    command: TrainCommand,
}

#[derive(Debug, Subcommand)]
enum TrainCommand {
    /// Train an encoder that tells people apart on a re-ID data set
    Reid(Box<reid::TrainReidArgs>),
}

/// Trains.
///
/// # Errors
/// Whatever could not be done, with what, where and why.
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    match &args.command {
        TrainCommand::Reid(args) => reid::run(args),
    }
}
