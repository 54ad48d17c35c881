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
    // Whoever closed the pipe (`| head`) has read enough.
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return ExitCode::SUCCESS;
    }
    #[allow(clippy::print_stderr)]
    {
        eprintln!("error: {error:#}");
    }
    ExitCode::FAILURE
}
