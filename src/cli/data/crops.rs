//! `mtmc data crops`: people cut out of a video whose truth is known.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use mtmc_models::preprocess::Region;
use mtmc_tools::dataset::Progress as _;
use mtmc_tools::dataset::crops::{self, PlannedCrop, Thing};
use mtmc_tools::dataset::folder::Staging;
use mtmc_tools::dataset::market1501::{GALLERY, QUERY, TRAIN};
use mtmc_tools::dataset::mot::{TruthFormat, read_truth};
use mtmc_tools::dataset::pictures::write_jpeg;

use super::Steps;
use crate::source::{self, OpenOptions};

/// Arguments of `mtmc data crops`.
#[derive(Debug, Args)]
pub struct CropsArgs {
    /// The video, or a folder of images
    #[arg(long, value_name = "SOURCE")]
    video: String,

    /// Its true boxes, as MOT Challenge text
    #[arg(long, value_name = "FILE")]
    gt: PathBuf,

    /// What the columns of --gt mean
    #[arg(long, default_value = "mot15")]
    benchmark: TruthColumns,

    /// New folder for `bounding_box_train`, query, `bounding_box_test` and manifest.json
    #[arg(short, long, env = "MTMC_OUT", value_name = "DIR")]
    out: PathBuf,

    /// Spans of time that stand for cameras
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=1000))]
    cameras: u32,

    /// Most crops of a person in a span; one of them becomes a query
    #[arg(long, default_value_t = 4)]
    per_camera: usize,

    /// Frames left out between spans: a person looks the same just before and after a cut
    #[arg(long, default_value_t = 14)]
    gap: u64,

    /// Least share of a person that can be seen (0..1); where the truth does not state it, it is
    /// estimated from the boxes of people in front
    #[arg(long, default_value_t = 0.7)]
    min_visibility: f64,

    /// Least width of a box in pixels
    #[arg(long, default_value_t = 12.0)]
    min_width: f64,

    /// Least height of a box in pixels
    #[arg(long, default_value_t = 32.0)]
    min_height: f64,

    /// People that are put into `bounding_box_train`; the others are queries and gallery
    #[arg(long, default_value_t = 0)]
    train_ids: usize,

    /// Which people are for training: another seed, others
    #[arg(long, env = "MTMC_SEED", default_value_t = 0)]
    seed: u64,

    /// Identities that are one person, who left and came back: such as 2=13; may be repeated
    #[arg(long, value_name = "ID=ID", value_parser = same_person)]
    same: Vec<Same>,

    /// A thing in the scene that hides people, such as a sign: its box in pixels, and where it
    /// meets the ground if that is not its lower edge; may be repeated
    #[arg(long, value_name = "LEFT,TOP,WIDTH,HEIGHT[,GROUND]", value_parser = thing)]
    hidden_by: Vec<Thing>,
}

/// Identities of one person.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Same(Vec<i64>);

/// `2=13` or `8=14=15`.
fn same_person(text: &str) -> Result<Same, String> {
    let ids: Option<Vec<i64>> = text.split('=').map(|id| id.trim().parse().ok()).collect();
    let group = ids.filter(|ids| ids.len() > 1).map(Same);
    group.ok_or_else(|| "not ID=ID, such as 2=13".to_string())
}

/// `414,203,32,42` or, with the ground, `414,203,32,42,390`.
fn thing(text: &str) -> Result<Thing, String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    let finite = numbers.filter(|numbers| numbers.iter().all(|n| n.is_finite()));
    match finite.as_deref() {
        Some(&[left, top, width, height]) => Ok(Thing {
            tlwh: [left, top, width, height],
            base: top + height,
        }),
        Some(&[left, top, width, height, base]) => Ok(Thing {
            tlwh: [left, top, width, height],
            base,
        }),
        _ => Err("not LEFT,TOP,WIDTH,HEIGHT or LEFT,TOP,WIDTH,HEIGHT,GROUND".to_string()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TruthColumns {
    /// frame, id, left, top, width, height, flag
    Mot15,
    /// … and class and visibility (MOT16, MOT17, MOT20)
    Mot17,
}

impl From<TruthColumns> for TruthFormat {
    fn from(columns: TruthColumns) -> Self {
        match columns {
            TruthColumns::Mot15 => Self::Mot15,
            TruthColumns::Mot17 => Self::Mot17,
        }
    }
}

/// Cuts and writes.
///
/// # Errors
/// The truth is damaged, gives no query, or belongs to another video; something cannot be read or
/// written.
pub fn run(args: &CropsArgs, steps: &Steps) -> anyhow::Result<()> {
    let settings = crops::Settings {
        cameras: args.cameras,
        per_camera: args.per_camera,
        gap: args.gap,
        min_visibility: args.min_visibility,
        min_width: args.min_width,
        min_height: args.min_height,
        train_ids: args.train_ids,
        seed: args.seed,
        same: args.same.iter().map(|Same(ids)| ids.clone()).collect(),
        hiding: args.hidden_by.clone(),
    };
    let staging = Staging::begin(&args.out)?;
    let truth = read_truth(&args.gt, args.benchmark.into())?;
    let mut frames = source::open(&args.video, &OpenOptions::default())?;
    let (width, height) = frames.info().size;
    let plan = crops::plan(&truth, width, height, &settings)
        .with_context(|| args.gt.display().to_string())?;
    let mut open: BTreeMap<u64, Vec<&PlannedCrop>> = BTreeMap::new();
    for crop in &plan {
        open.entry(crop.frame).or_default().push(crop);
    }
    for folder in [TRAIN, QUERY, GALLERY] {
        let folder = staging.place(folder)?;
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    }
    steps.begin("crops cut", plan.len() as u64);
    while !open.is_empty() {
        let Some(frame) = frames.next_frame()? else {
            break;
        };
        for crop in open.remove(&frame.number).unwrap_or_default() {
            let region = Region::of(&crop.bbox, &frame.image)
                .with_context(|| format!("{}: no pixels in frame {}", crop.path(), frame.number))?;
            write_jpeg(&staging.place(crop.path())?, &region.cut(&frame.image))?;
            steps.advance();
        }
    }
    if !open.is_empty() {
        let missing: Vec<String> = open.keys().take(10).map(ToString::to_string).collect();
        bail!(
            "{}: {} frames with true boxes are not there or broken, such as {}; does {} belong \
             to this video?",
            args.video,
            open.len(),
            missing.join(", "),
            args.gt.display()
        );
    }
    // How the crops were chosen, so that they can be chosen again.
    let metadata = serde_json::json!({
        "data_set": "crops",
        "video": frames.info().name,
        "settings": settings,
        "crops": plan.len(),
    });
    staging.write_json("metadata.json", &metadata)?;
    staging.finish("crops", steps)?;
    steps.finish();
    print_crops(args, &plan)
}

fn print_crops(args: &CropsArgs, plan: &[PlannedCrop]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{:<18} {:>7} {:>7} {:>8}",
        "FOLDER", "IMAGES", "PEOPLE", "CAMERAS"
    )?;
    for folder in [TRAIN, QUERY, GALLERY] {
        let own = || plan.iter().filter(|crop| crop.folder == folder);
        let people: BTreeSet<i64> = own().map(|crop| crop.name.id).collect();
        let cameras: BTreeSet<u32> = own().map(|crop| crop.name.camera).collect();
        writeln!(
            stdout,
            "{folder:<18} {:>7} {:>7} {:>8}",
            own().count(),
            people.len(),
            cameras.len()
        )?;
    }
    writeln!(stdout, "written to {}", args.out.display())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_things_are_read() {
        assert_eq!(same_person("8=14=15"), Ok(Same(vec![8, 14, 15])));
        for text in ["8", "8=", "a=b", ""] {
            assert!(same_person(text).is_err(), "accepted {text}");
        }
        let sign = thing("414,203,32,42,390").unwrap();
        assert_eq!((sign.tlwh, sign.base), ([414.0, 203.0, 32.0, 42.0], 390.0));
        assert!((thing("1,2,3,4").unwrap().base - 6.0).abs() < 1e-9);
        for text in ["1,2,3", "1,2,3,4,5,6", "1,2,NaN,4", ""] {
            assert!(thing(text).is_err(), "accepted {text}");
        }
    }
}
