//! A benchmark's folder with what was detected in it: from a file, from the cache, or from the
//! networks, whatever comes first.

mod pass;
mod pictures;
mod work;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use self::work::Work;
use crate::cli::options::{ModelArgs, unit};
use crate::eval::folder::sequences;
use crate::eval::mot::Benchmark;
use crate::eval::track::SequenceInput;
use crate::tracker::TrackerSettings;

/// Which benchmark, and what is detected in it.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// A benchmark's folder with SEQUENCE/gt/gt.txt, seqinfo.ini, and images (or a video), or
    /// detections; or one sequence's folder
    #[arg(long, env = "MTMC_EVAL_DATA", value_name = "DIR")]
    data: PathBuf,

    /// Only these sequences, separated by commas
    #[arg(
        long,
        env = "MTMC_EVAL_SEQUENCES",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    sequences: Vec<String>,

    /// Whose rules apply to classes and ignored boxes
    #[arg(long, env = "MTMC_EVAL_BENCHMARK", default_value = "mot17")]
    pub benchmark: Benchmark,

    /// Take detections from this file in each sequence's folder (det/det.txt if no FILE is given)
    /// instead of detecting
    #[arg(
        long,
        env = "MTMC_EVAL_DETECTIONS",
        value_name = "FILE",
        num_args = 0..=1,
        default_missing_value = "det/det.txt"
    )]
    detections: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    /// Lowest score of a detection that is kept (0..1)
    #[arg(long, env = "MTMC_SCORE_FLOOR", default_value_t = 0.1, value_parser = unit)]
    score_floor: f32,

    /// IoU above which the weaker of two boxes is dropped (0..1), see `mtmc track --help`
    #[arg(long, env = "RTDETR_NMS_THRESHOLD", value_parser = unit)]
    nms: Option<f32>,

    /// Classes to detect, by name or index, separated by commas
    #[arg(long, env = "MTMC_CLASSES", default_value = "person")]
    classes: String,

    /// Frames that the detector takes at once
    #[arg(long, env = "MTMC_BATCH", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,

    /// Re-ID weights: a .safetensors file, or a name of `mtmc models list`, fetched if absent.
    /// Trackers that use appearance get its vectors; off if not given
    #[arg(long, env = "REID_MODEL_PATH", value_name = "WEIGHTS")]
    reid: Option<String>,

    /// Detections above this score get a vector (0..1); no tracker's threshold may be below it
    #[arg(long, env = "MTMC_EMBED_ABOVE", default_value_t = 0.1, value_parser = unit)]
    embed_above: f32,

    /// Where trackers that want to know the camera's motion get it from
    #[arg(long, env = "MTMC_CAMERA_MOTION", default_value = "auto")]
    camera_motion: MotionFrom,

    /// Keep what networks find here, so that they run once; `eval` in the folder of weights if not
    /// given
    #[arg(long, env = "MTMC_EVAL_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,

    /// No progress, no notices
    #[arg(short, long, env = "MTMC_QUIET")]
    pub quiet: bool,
}

/// Where the camera's motion is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MotionFrom {
    /// gmc.txt in the sequence's folder if it is there, else sparse flow if there are pictures,
    /// else none
    Auto,
    /// The camera counts as still
    None,
    /// gmc.txt in the sequence's folder
    File,
    /// Corners followed through the pictures
    SparseFlow,
    /// Corners matched by their descriptors
    Orb,
    /// All pixels aligned
    Ecc,
}

/// What trackers run on.
pub struct Loaded {
    /// The sequences, sorted by name.
    pub sequences: Vec<SequenceInput>,
    /// In a few words, where detections and appearance come from: every report says it.
    pub made_from: String,
}

/// What the trackers want to know beside boxes.
#[derive(Debug, Clone, Copy, Default)]
struct Wishes {
    embeddings: bool,
    motion: bool,
}

impl InputArgs {
    /// Everything that `trackers` need, of every sequence.
    ///
    /// # Errors
    /// The folder, a file in it, the cache or the weights are not usable; the error names which.
    pub fn load(&self, trackers: &[TrackerSettings]) -> anyhow::Result<Loaded> {
        let folders = sequences(&self.data, &self.sequences)?;
        let wishes = self.wishes(trackers)?;
        let work = Work::new(self, wishes)?;
        let mut loaded = Vec::new();
        for folder in &folders {
            let input = work.sequence(folder).with_context(|| folder.name.clone())?;
            loaded.push(input);
        }
        let mut made_from = match &self.detections {
            Some(file) => format!("detections of {}", file.display()),
            None => format!("detections of {}", self.model.weights),
        };
        if let (true, Some(reid)) = (wishes.embeddings, &self.reid) {
            made_from.push_str(&format!(", appearance by {reid}"));
        }
        Ok(Loaded {
            sequences: loaded,
            made_from,
        })
    }

    fn wishes(&self, trackers: &[TrackerSettings]) -> anyhow::Result<Wishes> {
        let mut wishes = Wishes::default();
        for tracker in trackers {
            let needs = tracker.build()?.needs();
            if let Some(above) = needs.embeddings_above
                && self.reid.is_some()
            {
                if above < self.embed_above {
                    bail!(
                        "{} wants vectors of detections above {above}; --embed-above {} makes fewer",
                        tracker.name(),
                        self.embed_above
                    );
                }
                wishes.embeddings = true;
            }
            wishes.motion |= needs.camera_motion;
        }
        Ok(wishes)
    }
}
