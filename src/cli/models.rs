//! `mtmc models`: list, describe, fetch and convert weights.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `mtmc models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Show what a weights file says of itself
    Info {
        /// Safetensors file that `mtmc` wrote
        file: PathBuf,
    },
}

/// Runs the sub-command.
///
/// # Errors
/// The file cannot be read or has no description.
pub fn run(args: &ModelsArgs) -> anyhow::Result<()> {
    let ModelsCommand::Info { file } = &args.command;
    let description = mtmc_models::weights::read_description(file)?;
    anyhow::bail!("{description:?}")
}
