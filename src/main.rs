//! `mtmc`: parses arguments and hands over to `cli`.

use std::process::ExitCode;

use clap::Parser as _;
use mtmc::cli::{self, Cli};

/// As shells say it: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Err(error) = cli::run(&cli) else {
        return ExitCode::SUCCESS;
    };
    if error.is::<mtmc::pipeline::Interrupted>() {
        return ExitCode::from(INTERRUPTED);
    }
    #[allow(clippy::print_stderr)]
    {
        eprintln!("error: {error:#}");
    }
    ExitCode::FAILURE
}
