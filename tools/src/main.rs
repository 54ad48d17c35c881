//! `mtmc-convert`: foreign weights in, described safetensors out. The same as `mtmc models
//! convert`, without the rest of `mtmc`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use mtmc_tools::{Options, convert};

const USAGE: &str = "usage: mtmc-convert FILE --out FILE.safetensors [--arch NAME] \
                     [--licence TEXT] [--source TEXT]";

struct Arguments {
    input: PathBuf,
    output: PathBuf,
    options: Options,
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut input, mut output) = (None, None);
    let mut options = Options::default();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--out" => output = Some(PathBuf::from(value()?)),
            "--arch" => options.architecture = Some(value()?),
            "--licence" => options.licence = Some(value()?),
            "--source" => options.source = Some(value()?),
            flag if flag.starts_with("--") => return Err(format!("{flag} is no option")),
            _ if input.is_none() => input = Some(PathBuf::from(argument)),
            extra => return Err(format!("`{extra}` is one file too many")),
        }
    }
    Ok(Arguments {
        input: input.ok_or("no file given")?,
        output: output.ok_or("--out is missing")?,
        options,
    })
}

fn main() -> ExitCode {
    let mut errors = std::io::stderr();
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(reason) => {
            let _ = writeln!(errors, "error: {reason}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match convert(&arguments.input, &arguments.output, &arguments.options) {
        Ok(report) => {
            let _ = writeln!(std::io::stdout(), "{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(errors, "error: {error}");
            ExitCode::FAILURE
        }
    }
}
