//! A benchmark's folder with what was detected in it: from a file, from the cache, or from the
//! networks, whatever comes first.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use mtmc_models::{DetectOptions, Detection, Detector as _, LoadedDetector, LoadedEmbedder};
use mtmc_tools::fetch::{Fetcher, sha256};
use serde_json::json;

use crate::cli::options::{DetectionArgs, ModelArgs, unit, weights_path};
use crate::cli::progress::Progress;
use crate::eval::cache::{Cache, Content, Detections, Embeddings, Found, Key, Motions};
use crate::eval::folder::{Sequence, sequences};
use crate::eval::mot::{Benchmark, Boxes};
use crate::eval::track::SequenceInput;
use crate::reid::{Request, embed};
use crate::source::{self, Frame, FrameSource, OpenOptions};
use crate::tracker::camera_motion::{CameraMotion, MotionEstimator, MotionMethod, MotionSettings};
use crate::tracker::mot::read_detections;
use crate::tracker::{FrameDetections, TrackerSettings};

/// Detections from this score on count as people when the camera's motion is looked for.
const PEOPLE_FROM: f32 = 0.5;

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

/// Networks that are loaded when they are first needed, and the cache.
struct Work<'a> {
    args: &'a InputArgs,
    wishes: Wishes,
    cache: OnceCell<Cache>,
    detector: OnceCell<(LoadedDetector, DetectOptions)>,
    embedder: OnceCell<LoadedEmbedder>,
    threads: OnceCell<()>,
    /// Digests of the weights, part of the keys.
    detector_weights: String,
    embedder_weights: String,
}

/// What has to be computed from a sequence's pictures.
#[derive(Default)]
struct Missing {
    detections: Option<Key>,
    embeddings: Option<Key>,
    motion: Option<(Key, MotionMethod)>,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.detections.is_none() && self.embeddings.is_none() && self.motion.is_none()
    }
}

/// What there is of one sequence so far.
#[derive(Default)]
struct Parts {
    detections: Option<Vec<Vec<Detection>>>,
    embeddings: Option<Embeddings>,
    motion: Option<Vec<CameraMotion>>,
}

impl<'a> Work<'a> {
    fn new(args: &'a InputArgs, wishes: Wishes) -> anyhow::Result<Self> {
        let digest = |weights: &str| -> anyhow::Result<String> {
            let path = weights_path(weights)?;
            Ok(sha256(&path)?)
        };
        Ok(Self {
            args,
            wishes,
            cache: OnceCell::new(),
            detector: OnceCell::new(),
            embedder: OnceCell::new(),
            threads: OnceCell::new(),
            detector_weights: match args.detections {
                Some(_) => String::new(),
                None => digest(&args.model.weights)?,
            },
            embedder_weights: match &args.reid {
                Some(reid) if wishes.embeddings => digest(reid)?,
                _ => String::new(),
            },
        })
    }

    /// One sequence with everything that is wanted of it.
    fn sequence(&self, folder: &Sequence) -> anyhow::Result<SequenceInput> {
        let truth = Boxes::read_truth(&folder.truth(), self.args.benchmark)?;
        let mut parts = Parts::default();
        let mut missing = Missing::default();
        let detections_key = self.detections(folder, &mut parts, &mut missing)?;
        if self.wishes.embeddings {
            let key = self.embeddings_key(folder, &detections_key)?;
            parts.embeddings = self.look_up(folder, &key)?;
            if parts.embeddings.is_none() {
                missing.embeddings = Some(key);
            }
        }
        if self.wishes.motion {
            self.motion(folder, &detections_key, &mut parts, &mut missing)?;
        }
        if !missing.is_empty() {
            self.compute(folder, &missing, &mut parts)?;
        }
        self.together(folder, truth, parts)
    }

    /// Takes the detections from their file or from the cache; gives what they depend on.
    fn detections(
        &self,
        folder: &Sequence,
        parts: &mut Parts,
        missing: &mut Missing,
    ) -> anyhow::Result<Key> {
        if let Some(file) = &self.args.detections {
            let path = folder.folder.join(file);
            if !path.is_file() {
                bail!(
                    "{}: no such file; `--detections FILE` says where in a sequence's folder they are",
                    path.display()
                );
            }
            let frames = read_detections(&path)?;
            let lists = frames.into_iter().map(|frame| frame.detections);
            parts.detections = Some(lists.collect());
            let made_from = json!({ "detections": sha256(&path)? });
            return Ok(Key::new(made_from.to_string()));
        }
        let args = self.args;
        let (device, dtype) = args.model.compute.device()?;
        let made_from = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "frames": pictures(folder)?.identity,
            "weights": self.detector_weights,
            "input_size": args.model.input_size,
            "score_floor": args.score_floor,
            "nms": args.nms,
            "classes": args.classes,
            "numbers": format!("{dtype:?}, {}", if device.is_cpu() { "CPU" } else { "CUDA" }),
        });
        let key = Key::new(made_from.to_string());
        let found: Option<Detections> = self.look_up(folder, &key)?;
        match found {
            Some(found) => parts.detections = Some(found.0),
            None => missing.detections = Some(key.clone()),
        }
        Ok(key)
    }

    fn embeddings_key(&self, folder: &Sequence, detections: &Key) -> anyhow::Result<Key> {
        let (device, dtype) = self.args.model.compute.device()?;
        let made_from = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "frames": pictures(folder)?.identity,
            "detections": detections.digest(),
            "weights": self.embedder_weights,
            "above": self.args.embed_above,
            "numbers": format!("{dtype:?}, {}", if device.is_cpu() { "CPU" } else { "CUDA" }),
        });
        Ok(Key::new(made_from.to_string()))
    }

    /// Takes the camera's motion from gmc.txt or from the cache.
    fn motion(
        &self,
        folder: &Sequence,
        detections: &Key,
        parts: &mut Parts,
        missing: &mut Missing,
    ) -> anyhow::Result<()> {
        let file = folder.folder.join("gmc.txt");
        let method = match self.args.camera_motion {
            MotionFrom::None => return Ok(()),
            MotionFrom::File => None,
            MotionFrom::Auto if file.is_file() => None,
            MotionFrom::Auto if pictures(folder).is_err() => {
                self.note(&format!(
                    "{}: neither gmc.txt nor pictures; its camera counts as still",
                    folder.name
                ));
                return Ok(());
            }
            MotionFrom::Auto | MotionFrom::SparseFlow => Some(MotionMethod::SparseFlow),
            MotionFrom::Orb => Some(MotionMethod::Orb),
            MotionFrom::Ecc => Some(MotionMethod::Ecc),
        };
        let Some(method) = method else {
            parts.motion = Some(CameraMotion::read_file(&file)?);
            return Ok(());
        };
        let made_from = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "frames": pictures(folder)?.identity,
            "detections": detections.digest(),
            "people_from": PEOPLE_FROM,
            "method": method.name(),
            "settings": MotionSettings::default(),
        });
        let key = Key::new(made_from.to_string());
        let found: Option<Motions> = self.look_up(folder, &key)?;
        match found {
            Some(found) => parts.motion = Some(found.0),
            None => missing.motion = Some((key, method)),
        }
        Ok(())
    }

    /// Looks into the cache; a damaged file is told of and made again.
    fn look_up<T: Content>(&self, folder: &Sequence, key: &Key) -> anyhow::Result<Option<T>> {
        Ok(match self.cache()?.load(&folder.name, key)? {
            Found::Entry(content) => Some(content),
            Found::Nothing => None,
            Found::Damaged(reason) => {
                self.note(&format!("{reason}; made anew"));
                None
            }
        })
    }

    fn cache(&self) -> anyhow::Result<&Cache> {
        if let Some(cache) = self.cache.get() {
            return Ok(cache);
        }
        let folder = match &self.args.cache {
            Some(folder) => folder.clone(),
            None => Fetcher::from_env()?.cache.join("eval"),
        };
        let cache = Cache::open(&folder)?;
        Ok(self.cache.get_or_init(|| cache))
    }

    fn note(&self, text: &str) {
        use std::io::Write as _;
        if !self.args.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// The compute threads are started once, and only if a network runs.
    fn start_threads(&self) -> anyhow::Result<()> {
        if self.threads.get().is_none() {
            self.args.model.compute.start_threads()?;
            self.threads.get_or_init(|| ());
        }
        Ok(())
    }

    fn detector(&self) -> anyhow::Result<&(LoadedDetector, DetectOptions)> {
        if let Some(loaded) = self.detector.get() {
            return Ok(loaded);
        }
        self.start_threads()?;
        let detector = self.args.model.load()?;
        let wanted = DetectionArgs {
            confidence: self.args.score_floor,
            nms: self.args.nms,
            classes: self.args.classes.clone(),
        };
        let options = wanted.options(&detector, self.args.score_floor)?;
        Ok(self.detector.get_or_init(|| (detector, options)))
    }

    fn embedder(&self) -> anyhow::Result<&LoadedEmbedder> {
        if let Some(loaded) = self.embedder.get() {
            return Ok(loaded);
        }
        self.start_threads()?;
        let weights = self.args.reid.as_deref().unwrap_or_default();
        let embedder = self.args.model.compute.embedder(weights)?;
        Ok(self.embedder.get_or_init(|| embedder))
    }

    /// Goes through the pictures once for everything that is missing, and keeps it.
    fn compute(
        &self,
        folder: &Sequence,
        missing: &Missing,
        parts: &mut Parts,
    ) -> anyhow::Result<()> {
        let pictures = pictures(folder)?;
        let spec = pictures.path.to_string_lossy().into_owned();
        let mut source = source::open(&spec, &OpenOptions::default())?;
        let total = source.info().frame_count;
        let progress = Progress::new(total, "frames", self.args.quiet);
        progress.message(folder.name.clone());
        let mut pass = Pass::new(self, missing, parts.detections.take())?;
        loop {
            let frames = batch(source.as_mut(), usize::from(self.args.batch))?;
            let Some(last) = frames.last() else { break };
            pass.take(&frames)?;
            progress.update(last.number);
        }
        progress.finish();
        let skipped = source.skipped().count;
        if skipped > 0 {
            self.note(&format!(
                "{}: {skipped} frames could not be read; nothing is detected in them",
                folder.name
            ));
        }
        if let Some(key) = &missing.detections {
            let content = Detections(std::mem::take(&mut pass.detections));
            parts.detections = Some(self.keep(folder, key, &content)?.0);
        } else {
            parts.detections = Some(pass.detections);
        }
        if let Some(key) = &missing.embeddings {
            // Frames without pictures have detections of a file at most, and these no vectors.
            let wanted = parts.detections.iter().flatten().map(Vec::len).sum();
            pass.embeddings.resize(wanted, None);
            let content = Embeddings(pass.embeddings);
            parts.embeddings = Some(self.keep(folder, key, &content)?);
        }
        if let Some((key, _)) = &missing.motion {
            parts.motion = Some(self.keep(folder, key, &Motions(pass.motion))?.0);
        }
        Ok(())
    }

    /// Stores and reads back: what a run uses must not depend on where it comes from.
    fn keep<T: Content>(&self, folder: &Sequence, key: &Key, content: &T) -> anyhow::Result<T> {
        let cache = self.cache()?;
        cache.store(&folder.name, key, content)?;
        match cache.load(&folder.name, key)? {
            Found::Entry(content) => Ok(content),
            Found::Nothing => bail!("what was just written to the cache is gone"),
            Found::Damaged(reason) => bail!("just written: {reason}"),
        }
    }

    fn together(
        &self,
        folder: &Sequence,
        truth: Boxes,
        parts: Parts,
    ) -> anyhow::Result<SequenceInput> {
        let lists = parts.detections.unwrap_or_default();
        let known = (lists.len() as u64).max(truth.last_frame());
        let length = folder.length().unwrap_or(known);
        if known > length {
            bail!("boxes in frame {known}, but seqinfo.ini says that there are {length} frames");
        }
        let boxes: usize = lists.iter().map(Vec::len).sum();
        let mut embeddings = parts.embeddings.unwrap_or_default().0.into_iter();
        let wanted = embeddings.len();
        if wanted != 0 && wanted != boxes {
            bail!("{wanted} vectors for {boxes} detections");
        }
        let motion = parts.motion.unwrap_or_default();
        let mut lists = lists.into_iter();
        let mut frames = Vec::with_capacity(length as usize);
        for number in 1..=length {
            let detections = lists.next().unwrap_or_default();
            frames.push(FrameDetections {
                frame: number,
                embeddings: embeddings.by_ref().take(detections.len()).collect(),
                detections,
                camera_motion: motion.get(number as usize - 1).copied(),
            });
        }
        Ok(SequenceInput {
            name: folder.name.clone(),
            frame_rate: folder.info.as_ref().map_or(30.0, |info| info.frame_rate),
            frames,
            truth,
        })
    }
}

/// One pass through a sequence's pictures.
struct Pass<'a> {
    detector: Option<&'a (LoadedDetector, DetectOptions)>,
    embedder: Option<(&'a LoadedEmbedder, f32)>,
    estimator: Option<MotionEstimator>,
    /// By frame: found here, or known before.
    detections: Vec<Vec<Detection>>,
    /// One a detection of the frames so far.
    embeddings: Vec<Option<mtmc_models::Embedding>>,
    motion: Vec<CameraMotion>,
    /// Frames that were gone through.
    done: usize,
}

impl<'a> Pass<'a> {
    fn new(
        work: &'a Work<'_>,
        missing: &Missing,
        known: Option<Vec<Vec<Detection>>>,
    ) -> anyhow::Result<Self> {
        let detector = match missing.detections {
            Some(_) => Some(work.detector()?),
            None => None,
        };
        let embedder = match missing.embeddings {
            Some(_) => Some((work.embedder()?, work.args.embed_above)),
            None => None,
        };
        let estimator = match missing.motion {
            Some((_, method)) => Some(MotionEstimator::new(method, MotionSettings::default())?),
            None => None,
        };
        Ok(Self {
            detector,
            embedder,
            estimator,
            detections: known.unwrap_or_default(),
            embeddings: Vec::new(),
            motion: Vec::new(),
            done: 0,
        })
    }

    /// Takes in the next frames.
    fn take(&mut self, frames: &[Frame]) -> anyhow::Result<()> {
        if let Some((detector, options)) = self.detector {
            let images: Vec<_> = frames.iter().map(|frame| &frame.image).collect();
            let lists = detector.detect(&images, options)?;
            for (frame, list) in frames.iter().zip(lists) {
                // Frames that could not be read before this one are there, and empty.
                self.detections
                    .resize(frame.number as usize - 1, Vec::new());
                self.detections.push(list);
            }
        }
        self.embed(frames)?;
        for frame in frames {
            self.done = frame.number as usize;
            let Some(estimator) = &mut self.estimator else {
                continue;
            };
            let list = self.detections.get(self.done - 1);
            let people = list
                .into_iter()
                .flatten()
                .filter(|d| d.score >= PEOPLE_FROM);
            let people: Vec<_> = people.map(|detection| detection.bbox).collect();
            self.motion.resize(self.done - 1, CameraMotion::STILL);
            self.motion.push(estimator.next(&frame.image, &people));
        }
        Ok(())
    }

    /// Embeds the frames' detections in one batch.
    fn embed(&mut self, frames: &[Frame]) -> anyhow::Result<()> {
        let Some((embedder, above)) = self.embedder else {
            return Ok(());
        };
        let list = |number: usize| {
            self.detections
                .get(number - 1)
                .map_or(&[][..], Vec::as_slice)
        };
        let requests: Vec<Request<'_>> = frames
            .iter()
            .map(|frame| Request {
                image: &frame.image,
                detections: list(frame.number as usize),
                above: Some(above),
            })
            .collect();
        let mut last = self.done;
        for (frame, embedded) in frames.iter().zip(embed(embedder, &requests)?) {
            let number = frame.number as usize;
            for skipped in last + 1..number {
                let count = self.embeddings.len() + list(skipped).len();
                self.embeddings.resize(count, None);
            }
            self.embeddings.extend(embedded.embeddings);
            last = number;
        }
        Ok(())
    }
}

fn batch(source: &mut dyn FrameSource, size: usize) -> anyhow::Result<Vec<Frame>> {
    let mut frames = Vec::with_capacity(size);
    while frames.len() < size {
        match source.next_frame()? {
            Some(frame) => frames.push(frame),
            None => break,
        }
    }
    Ok(frames)
}

/// Where a sequence's pictures are.
struct Pictures {
    path: PathBuf,
    /// Names, sizes and times of change of all their files.
    identity: serde_json::Value,
}

/// The folder of images that seqinfo.ini names (img1 where there is none), or the only video.
fn pictures(folder: &Sequence) -> anyhow::Result<Pictures> {
    let name = folder
        .info
        .as_ref()
        .map_or("img1", |info| &info.image_folder);
    let images = folder.folder.join(name);
    if images.is_dir() {
        let mut files = list_files(&images)?;
        files.sort();
        let digest = Key::new(json!(files).to_string());
        return Ok(Pictures {
            path: images,
            identity: json!({ "files": files.len(), "list": digest.digest() }),
        });
    }
    let mut videos = list_files(&folder.folder)?;
    videos.retain(|file| is_video(Path::new(&file.0)));
    match videos.as_slice() {
        [video] => Ok(Pictures {
            path: folder.folder.join(&video.0),
            identity: json!(video),
        }),
        videos => bail!(
            "{}: no folder {name} of images and {} videos, so nothing can be detected; \
             `--detections FILE` takes detections from a file",
            folder.folder.display(),
            if videos.is_empty() {
                "no".to_string()
            } else {
                videos.len().to_string()
            }
        ),
    }
}

fn is_video(path: &Path) -> bool {
    let endings = [
        "mp4", "avi", "mkv", "mov", "webm", "m4v", "mpg", "mpeg", "ts",
    ];
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    ending.is_some_and(|ending| endings.iter().any(|known| ending == *known))
}

/// Name, size and nanoseconds since 1970 of the last change of every file in a folder.
fn list_files(folder: &Path) -> anyhow::Result<Vec<(String, u64, u64)>> {
    let name = || folder.display().to_string();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(name)? {
        let entry = entry.with_context(name)?;
        // Follows links, as data sets often are.
        let metadata = std::fs::metadata(entry.path()).with_context(name)?;
        if !metadata.is_file() {
            continue;
        }
        let changed = metadata.modified().ok();
        let since = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let nanoseconds = since.map_or(0, |since| since.as_nanos() as u64);
        let file = entry.file_name().to_string_lossy().into_owned();
        files.push((file, metadata.len(), nanoseconds));
    }
    Ok(files)
}
