//! `mtmc models`: list, describe, fetch and convert weights.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mtmc_models::clip::{Feature, Neck};
use mtmc_models::weights::read_description;
use mtmc_tools::fetch::{Fetcher, Progress};
use mtmc_tools::map::EncoderOptions;
use mtmc_tools::{Options, convert};

/// Arguments of `mtmc models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the weights that can be fetched by name, and which of them are here
    List,
    /// Show what a weights file says of itself
    Info {
        /// A .safetensors file that `convert` wrote, or a name of `list` that has been fetched
        weights: String,
    },
    /// Download, check and convert weights of `list`; prints where they are
    Fetch {
        /// Names of `list`
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Convert weights of another program to the file that this one reads
    Convert(ConvertArgs),
}

#[derive(Debug, Args)]
struct ConvertArgs {
    /// PyTorch (.pt, .pth), safetensors or ONNX file; nothing in it is executed
    file: PathBuf,

    /// The .safetensors file to write
    #[arg(long)]
    out: PathBuf,

    /// Architecture; found from the tensors if left out
    #[arg(long)]
    arch: Option<String>,

    /// Licence of the weights; taken from the file if it states one
    #[arg(long)]
    licence: Option<String>,

    /// Where the weights come from; the file's name if left out
    #[arg(long)]
    source: Option<String>,

    /// Text file with a class name on each line, where the weights have none of their own
    #[arg(long)]
    class_names: Option<PathBuf>,

    #[command(flatten)]
    encoder: EncoderArgs,
}

/// What no tensor of an encoder shows.
#[derive(Debug, Args)]
#[command(next_help_heading = "Encoders (CLIP-ReID, ResNet50)")]
struct EncoderArgs {
    /// Vector of a CLIP-ReID encoder: the projection (512 numbers, the default), or both the class
    /// token and its projection (1280)
    #[arg(long)]
    feature: Option<FeatureArg>,

    /// Side of the batch norm (BNNeck) that vectors are taken on; what the origin does if left out
    #[arg(long)]
    neck: Option<NeckArg>,

    /// Stride of a ResNet50's last stage, 1 or 2; what the origin does if left out
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    last_stride: Option<u8>,

    /// Height and width of the input in pixels; 256x128 if left out
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    input: Option<(usize, usize)>,

    /// Factor of the cameras' vectors in CLIP-ReID weights that hold some (SIE_COE)
    #[arg(long)]
    camera_weight: Option<f64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FeatureArg {
    Proj,
    Full,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NeckArg {
    Before,
    After,
}

impl EncoderArgs {
    fn options(&self) -> EncoderOptions {
        EncoderOptions {
            feature: self.feature.map(|feature| match feature {
                FeatureArg::Proj => Feature::Proj,
                FeatureArg::Full => Feature::Full,
            }),
            neck: self.neck.map(|neck| match neck {
                NeckArg::Before => Neck::Before,
                NeckArg::After => Neck::After,
            }),
            last_stride: self.last_stride.map(usize::from),
            input: self.input,
            camera_weight: self.camera_weight,
        }
    }
}

fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once('x').and_then(|(height, width)| {
        let side = |text: &str| text.parse().ok().filter(|side| (1..=8192).contains(side));
        Some((side(height)?, side(width)?))
    });
    sides.ok_or_else(|| "not height x width in pixels, such as 256x128".to_string())
}

/// Runs the sub-command.
///
/// # Errors
/// What could not be read, downloaded, converted or written, by file and tensor.
pub fn run(args: &ModelsArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match &args.command {
        ModelsCommand::List => list(&mut out),
        ModelsCommand::Info { weights } => info(&mut out, weights),
        ModelsCommand::Fetch { names } => {
            for name in names {
                let path = fetch(name)?;
                writeln!(out, "{}", path.display())?;
            }
            Ok(())
        }
        ModelsCommand::Convert(args) => run_convert(&mut out, args),
    }
}

fn list(out: &mut impl Write) -> anyhow::Result<()> {
    let fetcher = Fetcher::from_env()?;
    writeln!(
        out,
        "{:<26} {:>9}  {:<12} {:<8} FROM",
        "NAME", "MIB", "LICENCE", "HERE"
    )?;
    for entry in &fetcher.entries {
        let size = match entry.size {
            Some(size) => format!("{:.1}", size as f64 / f64::from(1 << 20)),
            None => "?".to_string(),
        };
        let here = if fetcher.cached(&entry.name).is_some() {
            "yes"
        } else {
            "no"
        };
        let (name, licence, origin) = (&entry.name, &entry.licence, entry.origin());
        writeln!(
            out,
            "{name:<26} {size:>9}  {licence:<12} {here:<8} {origin}"
        )?;
    }
    writeln!(out, "\nCache: {}", fetcher.cache.display())?;
    Ok(())
}

fn info(out: &mut impl Write, weights: &str) -> anyhow::Result<()> {
    let path = PathBuf::from(weights);
    let path = if path.exists() {
        path
    } else {
        let cached = Fetcher::from_env().ok().and_then(|f| f.cached(weights));
        cached.with_context(|| format!("{weights}: no such file, and not fetched by that name"))?
    };
    let about = read_description(&path)?;
    writeln!(out, "file          {}", path.display())?;
    writeln!(out, "architecture  {}", about.architecture)?;
    let (width, height) = (about.input_width, about.input_height);
    let (resize, interpolation) = (about.resize, about.interpolation);
    writeln!(
        out,
        "input         {width}×{height}, {resize:?}, {interpolation:?}"
    )?;
    writeln!(
        out,
        "normalisation mean {:?}, std {:?}",
        about.mean, about.std
    )?;
    if let Some(size) = about.feature_dim {
        writeln!(out, "gives         vectors of {size} numbers")?;
    }
    writeln!(out, "source        {}", about.source)?;
    writeln!(out, "licence       {}", about.licence)?;
    if !about.classes.is_empty() {
        let classes = about.classes.join(", ");
        writeln!(out, "classes       {}: {classes}", about.classes.len())?;
    }
    Ok(())
}

/// Fetches weights by name with progress on standard error; gives the converted file.
///
/// # Errors
/// As [`Fetcher::fetch`].
pub fn fetch(name: &str) -> anyhow::Result<PathBuf> {
    let fetcher = Fetcher::from_env()?;
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    let style = ProgressStyle::with_template(
        "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    )?;
    bar.set_message(name.to_string());
    let mut begun = false;
    let mut report = |progress: Progress| match progress {
        Progress::Download { done, total } => {
            if !begun {
                begun = true;
                note(&bar, &format!("{name}: downloading"));
            }
            if let Some(total) = total {
                bar.set_style(style.clone());
                bar.set_length(total);
            }
            bar.set_position(done);
        }
        Progress::Retry(reason) => note(&bar, &format!("{name}: {reason}; trying again")),
        Progress::Digest { known: true, .. } => note(&bar, &format!("{name}: sha256 is right")),
        Progress::Digest { sha256, .. } => {
            note(
                &bar,
                &format!("{name}: sha256 {sha256} (none is known to compare with)"),
            );
        }
        Progress::Convert => note(&bar, &format!("{name}: converting")),
    };
    let path = fetcher.fetch(name, &mut report);
    bar.finish_and_clear();
    Ok(path?)
}

/// A line on standard error, above the bar where there is one.
fn note(bar: &ProgressBar, line: &str) {
    bar.suspend(|| {
        // Nobody is left to hear of a closed standard error.
        let _ = writeln!(std::io::stderr(), "{line}");
    });
}

fn run_convert(out: &mut impl Write, args: &ConvertArgs) -> anyhow::Result<()> {
    let options = Options {
        architecture: args.arch.clone(),
        licence: args.licence.clone(),
        source: args.source.clone(),
        classes: args.class_names.as_deref().map(read_lines).transpose()?,
        encoder: args.encoder.options(),
    };
    let report = convert(&args.file, &args.out, &options)?;
    writeln!(out, "{report}")?;
    writeln!(out, "wrote {}", args.out.display())?;
    Ok(())
}

fn read_lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_string).collect())
}
