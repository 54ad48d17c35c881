//! One sequence after the other: what is in files and in the cache is taken, the rest computed.

use std::cell::OnceCell;

use anyhow::bail;
use mtmc_models::layers::Mode;
use mtmc_models::{DetectOptions, Detection, LoadedDetector, LoadedEmbedder};
use mtmc_tools::fetch::{Fetcher, sha256};
use serde_json::json;

use super::pass::{PEOPLE_FROM, Pass, batch};
use super::pictures::pictures;
use super::{InputArgs, MotionFrom, Wishes};
use crate::cli::options::{DetectionArgs, weights_path};
use crate::cli::progress::Progress;
use crate::eval::cache::{Cache, Content, Detections, Embeddings, Found, Key, Motions};
use crate::eval::folder::Sequence;
use crate::eval::mot::Boxes;
use crate::eval::track::SequenceInput;
use crate::source::{self, OpenOptions};
use crate::tracker::FrameDetections;
use crate::tracker::camera_motion::{CameraMotion, MotionMethod, MotionSettings};
use crate::tracker::mot::read_detections;

/// Networks that are loaded when they are first needed, and the cache.
pub(super) struct Work<'a> {
    pub(super) args: &'a InputArgs,
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
pub(super) struct Missing {
    pub(super) detections: Option<Key>,
    pub(super) embeddings: Option<Key>,
    pub(super) motion: Option<(Key, MotionMethod)>,
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
    pub(super) fn new(args: &'a InputArgs, wishes: Wishes) -> anyhow::Result<Self> {
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
    pub(super) fn sequence(&self, folder: &Sequence) -> anyhow::Result<SequenceInput> {
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
        let made_from = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "frames": pictures(folder)?.identity,
            "weights": self.detector_weights,
            "input_size": args.model.input_size,
            "score_floor": args.score_floor,
            "nms": args.nms,
            "classes": args.classes,
            "numbers": args.model.compute.numbers()?,
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
        let made_from = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "frames": pictures(folder)?.identity,
            "detections": detections.digest(),
            "weights": self.embedder_weights,
            "above": self.args.embed_above,
            "numbers": self.args.model.compute.numbers()?,
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
            self.args.model.compute.start_threads(Mode::Inference)?;
            self.threads.get_or_init(|| ());
        }
        Ok(())
    }

    pub(super) fn detector(&self) -> anyhow::Result<&(LoadedDetector, DetectOptions)> {
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

    pub(super) fn embedder(&self) -> anyhow::Result<&LoadedEmbedder> {
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
