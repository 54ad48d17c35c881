//! `mtmc data`: data sets prepared, verified, cut out of videos, and made up.

mod crops;
mod kind;
mod synth_reid;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::bail;
use clap::{Args, Subcommand};
use mtmc_tools::dataset::manifest::{Manifest, Verification};
use mtmc_tools::dataset::{Progress, market1501, mot17};

pub use self::kind::KindName;

use super::progress;
use crate::source::read_image;

/// Arguments of `mtmc data`.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,

    /// No progress, only the result
    #[arg(short, long, env = "MTMC_QUIET", global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Check a published data set and bring it to the form that training and evaluation read
    #[command(subcommand)]
    Prepare(PrepareCommand),
    /// Compare a prepared data set with its manifest: missing, changed and extra files
    Verify(VerifyArgs),
    /// Cut people out of a video with MOT ground truth: a small re-ID set as Market-1501
    Crops(crops::CropsArgs),
    /// Draw a made-up re-ID set as Market-1501: nobody real, any size, the same for a seed
    SynthReid(synth_reid::SynthReidArgs),
}

#[derive(Debug, Subcommand)]
enum PrepareCommand {
    /// MOT17: COCO annotations, split by sequence and by halves
    Mot17(Mot17Args),
    /// Market-1501: junk out, training people split, statistics, camera map
    Market1501(Market1501Args),
}

#[derive(Debug, Args)]
struct Mot17Args {
    /// The unpacked MOT17, with train/MOT17-02-FRCNN and so on
    dir: PathBuf,

    /// New folder for annotations/, images/ (hard links where possible) and manifest.json
    #[arg(
        short,
        long,
        env = "MTMC_OUT",
        value_name = "DIR",
        default_value = "data/processed/mot17"
    )]
    out: PathBuf,

    /// Go on with a warning where sequences are missing or of another length
    #[arg(long, env = "MTMC_ALLOW_INCOMPLETE")]
    allow_incomplete: bool,

    /// Write the annotations alone; the images need not be there
    #[arg(long, env = "MTMC_WITHOUT_IMAGES")]
    without_images: bool,
}

#[derive(Debug, Args)]
struct Market1501Args {
    /// The unpacked Market-1501, with `bounding_box_train`, query and `bounding_box_test`
    dir: PathBuf,

    /// New folder for train/, val/, query/, gallery/ (hard links where possible), labels and
    /// manifest.json
    #[arg(
        short,
        long,
        env = "MTMC_OUT",
        value_name = "DIR",
        default_value = "data/processed/market1501"
    )]
    out: PathBuf,

    /// Share of the training people that validation gets (0..1); 0 trains on all of them
    #[arg(long, env = "MTMC_VAL_SHARE", default_value_t = 0.2)]
    val_share: f64,

    /// Which people validation gets: another seed, others
    #[arg(long, env = "MTMC_SEED", default_value_t = 0)]
    seed: u64,

    /// Go on with a warning where counts are not the published ones
    #[arg(long, env = "MTMC_ALLOW_INCOMPLETE")]
    allow_incomplete: bool,

    /// Write the images in this size, such as 256x128, instead of as they are: encoders bring
    /// images to their size themselves, and resizing twice blurs
    #[arg(long, env = "MTMC_RESIZE", value_name = "HEIGHTxWIDTH", value_parser = height_and_width)]
    resize: Option<(u32, u32)>,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// A folder with a manifest.json, as `mtmc data prepare` and `crops` write it
    dir: PathBuf,

    /// Print JSON instead of lines
    #[arg(long, env = "MTMC_JSON")]
    json: bool,
}

/// `256x128` as width and height.
fn height_and_width(text: &str) -> Result<(u32, u32), String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=4096).contains(side));
    let sides = text.split_once('x');
    let parsed = sides.and_then(|(height, width)| Some((side(width)?, side(height)?)));
    parsed.ok_or_else(|| "not HEIGHTxWIDTH, such as 256x128".to_string())
}

/// Runs the sub-command.
///
/// # Errors
/// A data set is incomplete or damaged, differs from its manifest, or cannot be written.
pub fn run(args: &DataArgs) -> anyhow::Result<()> {
    let steps = Steps::new(args.quiet);
    match &args.command {
        DataCommand::Prepare(PrepareCommand::Mot17(args)) => prepare_mot17(args, &steps),
        DataCommand::Prepare(PrepareCommand::Market1501(args)) => prepare_market(args, &steps),
        DataCommand::Verify(args) => verify(args, &steps),
        DataCommand::Crops(args) => crops::run(args, &steps),
        DataCommand::SynthReid(args) => synth_reid::run(args, &steps),
    }
}

fn prepare_mot17(args: &Mot17Args, steps: &Steps) -> anyhow::Result<()> {
    let options = mot17::Options {
        allow_incomplete: args.allow_incomplete,
        without_images: args.without_images,
    };
    let prepared = mot17::prepare(&args.dir, &args.out, options, steps);
    let metadata = prepared.map_err(|error| hint_incomplete(error.into()))?;
    steps.finish();
    warn(&metadata.warnings);
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{:<16} {:>7} {:>8} {:>7}  SPLIT",
        "SEQUENCE", "FRAMES", "BOXES", "TRACKS"
    )?;
    for s in &metadata.sequences {
        writeln!(
            stdout,
            "{:<16} {:>7} {:>8} {:>7}  {}",
            s.name, s.frames, s.boxes, s.tracks, s.split
        )?;
    }
    for (split, counts) in &metadata.splits {
        writeln!(
            stdout,
            "{:<16} {:>7} {:>8} {:>7}",
            format!("{split}.json"),
            counts.images,
            counts.boxes,
            counts.tracks
        )?;
    }
    writeln!(stdout, "prepared in {}", args.out.display())?;
    Ok(())
}

fn prepare_market(args: &Market1501Args, steps: &Steps) -> anyhow::Result<()> {
    let options = market1501::Options {
        val_share: args.val_share,
        seed: args.seed,
        allow_incomplete: args.allow_incomplete,
        resize: args.resize,
    };
    let decode = |path: &Path| read_image(path).map_err(|error| error.to_string());
    let prepared = market1501::prepare(&args.dir, &args.out, &options, &decode, steps);
    let metadata = prepared.map_err(|error| hint_incomplete(error.into()))?;
    steps.finish();
    warn(&metadata.warnings);
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{:<8} {:>7} {:>7} {:>8}",
        "SPLIT", "IMAGES", "PEOPLE", "CAMERAS"
    )?;
    for (split, counts) in &metadata.splits {
        writeln!(
            stdout,
            "{split:<8} {:>7} {:>7} {:>8}",
            counts.images,
            counts.identities,
            counts.cameras.len()
        )?;
    }
    let colours = &metadata.normalisation;
    writeln!(stdout, "mean {:.4?}, std {:.4?}", colours.mean, colours.std)?;
    writeln!(
        stdout,
        "{} images of junk left out, {} distractors in the gallery, {} queries without a match",
        metadata.junk, metadata.distractors, metadata.queries_without_match
    )?;
    writeln!(stdout, "prepared in {}", args.out.display())?;
    Ok(())
}

fn verify(args: &VerifyArgs, steps: &Steps) -> anyhow::Result<()> {
    let manifest = Manifest::read(&args.dir)?;
    let found = manifest.verify(&args.dir, steps)?;
    steps.finish();
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&found)?)?;
    } else {
        let kinds = [
            ("missing", &found.missing),
            ("changed", &found.changed),
            ("extra", &found.extra),
        ];
        for (kind, files) in kinds {
            for file in files {
                writeln!(stdout, "{kind}: {file}")?;
            }
        }
    }
    let Verification { files, bytes, .. } = found;
    if !found.is_good() {
        bail!(
            "{}: {} of {files} files missing, {} changed, {} extra",
            args.dir.display(),
            found.missing.len(),
            found.changed.len(),
            found.extra.len()
        );
    }
    if !args.json {
        writeln!(
            stdout,
            "{}: {files} files of {}, {bytes} bytes, are as they were prepared",
            args.dir.display(),
            manifest.data_set
        )?;
    }
    Ok(())
}

/// An error about counts, with the way around it.
fn hint_incomplete(error: anyhow::Error) -> anyhow::Error {
    use mtmc_tools::dataset::DataError;
    match error.downcast_ref() {
        Some(DataError::Counts { .. }) => {
            anyhow::anyhow!("{error}\nTo prepare what there is, add --allow-incomplete.")
        }
        _ => error,
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        // Nobody is left to hear of a closed standard error.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}

/// The progress of one step after the other.
struct Steps {
    quiet: bool,
    /// The current step's, and how much of it is done.
    current: Mutex<Option<(progress::Progress, u64)>>,
}

impl Steps {
    fn new(quiet: bool) -> Self {
        Self {
            quiet,
            current: Mutex::new(None),
        }
    }

    /// Takes the bar away.
    fn finish(&self) {
        let Ok(mut current) = self.current.lock() else {
            return;
        };
        if let Some((bar, _)) = current.take() {
            bar.finish();
        }
    }
}

impl Progress for Steps {
    fn begin(&self, unit: &'static str, total: u64) {
        self.finish();
        if let Ok(mut current) = self.current.lock() {
            let bar = progress::Progress::new(Some(total), unit, self.quiet);
            *current = Some((bar, 0));
        }
    }

    fn advance(&self) {
        let Ok(mut current) = self.current.lock() else {
            return;
        };
        if let Some((bar, done)) = current.as_mut() {
            *done += 1;
            bar.update(*done);
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_height_by_width() {
        assert_eq!(height_and_width("256x128"), Ok((128, 256)));
        for text in ["256", "256x", "0x128", "256x-1", "9999x1", "256x128x3"] {
            assert!(height_and_width(text).is_err(), "accepted {text}");
        }
    }
}
