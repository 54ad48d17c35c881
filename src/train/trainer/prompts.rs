//! CLIP-ReID's first stage (Li et al., AAAI 2023): texts of people, learnt with both encoders fixed.
//!
//! Images are embedded once, without augmentation. A step takes some of them with their people's
//! texts, and moves the four vectors of each such person so that images and texts find each other, by
//! the supervised contrastive loss both ways. In the end every person's text is embedded once; the
//! second stage holds images against them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use mtmc_models::clip::{CONTEXT, ClipVit, ClipVitConfig, Feature, Neck, TextConfig, TextEncoder};
use mtmc_models::layers::{Mode, Params, Precision};
use mtmc_models::{Description, TensorSpec, Variant, Weights};

use super::network::at_random;
use super::step::{Figures, Losses, Sums};
use super::{Observer, PREFETCH, RunFolder, Start, Trainer, Variables, export};
use crate::train::TrainError;
use crate::train::checkpoint::Stage;
use crate::train::config::PromptsConfig;
use crate::train::data::{Augment, Loader, shuffled};
use crate::train::loss;
use crate::train::optim::{Gradients, Memory, Optimizer, Parameter};
use crate::train::watch::Epoch;

/// Name of what is learnt, as CLIP-ReID's.
pub(super) const CONTEXTS: &str = "prompt_learner.cls_ctx";

/// Images, or texts, that are embedded at once.
const BATCH: usize = 64;

/// What the first stage learns, and the text encoder that it needs.
pub(super) struct Prompts {
    settings: PromptsConfig,
    description: Description,
    sizes: TextConfig,
    /// The text encoder by its tensors' names.
    fixed: BTreeMap<String, Tensor>,
    optimizer: Optimizer,
}

/// Names and shapes of the text encoder beside a CLIP.
fn text_tensors(description: &Description) -> mtmc_models::Result<Vec<TensorSpec>> {
    let mut whole = description.clone();
    if let Some(Variant::ClipVit(variant)) = &mut whole.variant {
        variant.text = true;
    }
    let mut specs = mtmc_models::expected_tensors(&whole)?;
    specs.retain(|spec| is_text(&spec.name));
    Ok(specs)
}

fn is_text(name: &str) -> bool {
    name.starts_with("text_encoder.") || name.starts_with("prompt_learner.")
}

impl Prompts {
    /// Vectors at random by `seed` for so many `people`; the text encoder from `start`, which is told
    /// of it, else at random.
    ///
    /// # Errors
    /// The starting weights hold no text encoder, or the device fails.
    pub(super) fn new(
        settings: &PromptsConfig,
        description: &Description,
        people: usize,
        seed: u64,
        weights: Option<&Weights>,
        start: &mut Start,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let Some(config) = ClipVitConfig::of(description) else {
            let reason = format!("{} has no text encoder", description.architecture);
            return Err(TrainError::Setting(reason));
        };
        let mut fixed = BTreeMap::new();
        for spec in text_tensors(description)? {
            let shape = spec.shape.as_slice();
            let tensor = match weights {
                None => {
                    start.missing.push(spec.name.clone());
                    Tensor::from_vec(at_random(&spec.name, shape, seed), shape, device)?
                }
                Some(weights) => {
                    weights.check(std::slice::from_ref(&spec)).map_err(|error| {
                        TrainError::Setting(format!(
                            "{error}; learning prompts takes CLIP's own weights with their text \
                             encoder, which `mtmc models convert` keeps"
                        ))
                    })?;
                    start.taken += 1;
                    let tensor = weights.tensors()[&spec.name].to_dtype(DType::F32)?;
                    tensor.to_device(device)?
                }
            };
            fixed.insert(spec.name, tensor);
        }
        start.left_over.retain(|name| !is_text(name));
        let sizes = TextConfig::beside(&config);
        let shape = [people, CONTEXT, sizes.width];
        let contexts = Tensor::from_vec(at_random(CONTEXTS, &shape, seed), &shape, device)?;
        let parameter = Parameter {
            name: CONTEXTS.to_string(),
            var: Var::from_tensor(&contexts)?,
            rate_factor: 1.0,
            decay: settings.decay,
        };
        Ok(Self {
            settings: settings.clone(),
            description: description.clone(),
            sizes,
            fixed,
            optimizer: Optimizer::new(settings.method, vec![parameter])?,
        })
    }

    fn contexts(&self) -> &Var {
        &self.optimizer.parameters()[0].var
    }

    /// The text encoder, which nothing of is learnt.
    fn encoder(&self, precision: Precision) -> Result<TextEncoder, TrainError> {
        let tensors: HashMap<String, Tensor> = self.fixed.clone().into_iter().collect();
        let weights = Weights::from_tensors(self.description.clone(), tensors);
        let vb = weights.var_builder(DType::F32, self.contexts().device());
        let params = Params::new(vb, Mode::Training, 1e-5).precision(precision);
        Ok(TextEncoder::new(&self.sizes, &params)?)
    }

    /// Everybody's text, `[people, projection]`.
    fn texts(&self, precision: Precision) -> Result<Tensor, TrainError> {
        let encoder = self.encoder(precision)?;
        let contexts = self.contexts().as_detached_tensor();
        let people = contexts.dim(0)?;
        let mut parts = Vec::new();
        for first in (0..people).step_by(BATCH) {
            let some = contexts.narrow(0, first, BATCH.min(people - first))?;
            parts.push(encoder.vectors(&some)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// All that a checkpoint needs of it.
    pub(super) fn save(
        &self,
        variables: &mut BTreeMap<String, Tensor>,
    ) -> BTreeMap<String, Memory> {
        variables.extend(self.fixed.clone());
        let contexts = self.contexts().as_detached_tensor();
        variables.insert(CONTEXTS.to_string(), contexts);
        self.optimizer.memory()
    }

    /// Goes on from what was saved; tells what does not fit.
    pub(super) fn resume(
        &mut self,
        saved: &BTreeMap<String, Tensor>,
        memory: BTreeMap<String, Memory>,
    ) -> Result<(), TrainError> {
        let contexts = self.contexts().clone();
        let found = |name: &str, shape: &[usize]| {
            let tensor = saved.get(name).filter(|tensor| tensor.dims() == shape);
            let missing = || TrainError::Setting(format!("`{name}` is of another network"));
            tensor.cloned().ok_or_else(missing)
        };
        for (name, tensor) in &mut self.fixed {
            *tensor = found(name, tensor.dims())?;
        }
        contexts.set(&found(CONTEXTS, contexts.dims())?)?;
        Ok(self.optimizer.remember(memory)?)
    }
}

/// Images as the first stage sees them.
struct Embedded {
    vectors: Tensor, // [images, projection]
    people: Vec<u32>,
}

impl Trainer {
    /// The first stage, or what is left of it; whether it was stopped.
    pub(super) fn learn_prompts(
        &mut self,
        folder: &RunFolder,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let Some(mut prompts) = self.prompts.take() else {
            return Ok(false);
        };
        let learnt = self.learn_contexts(&mut prompts, folder, observer, stop);
        let precision = self.learning().precision;
        let texts = match learnt {
            Ok(true) => Some(prompts.texts(precision)),
            Ok(false) | Err(_) => None,
        };
        self.prompts = Some(prompts);
        let Some(texts) = texts.transpose()? else {
            return learnt.map(|_| true);
        };
        self.begin_images(texts);
        self.save(folder)?;
        Ok(false)
    }

    /// From the first stage to the second.
    pub(super) fn begin_images(&mut self, texts: Tensor) {
        self.state.stage = Stage::Images;
        self.prompts = None;
        self.network.set_texts(texts.clone());
        self.texts = Some(texts);
    }

    /// Epochs of vectors; whether all are done.
    fn learn_contexts(
        &mut self,
        prompts: &mut Prompts,
        folder: &RunFolder,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        observer.note(&format!(
            "embedding {} images once, for the texts of {} people",
            self.set.samples().len(),
            self.state.people.len()
        ));
        let embedded = self.embed(stop)?;
        let encoder = prompts.encoder(self.learning().precision)?;
        while self.state.epoch < prompts.settings.epochs {
            let figures = match &embedded {
                Some(images) => self.contexts_epoch(prompts, &encoder, images, observer, stop)?,
                None => None,
            };
            let Some(figures) = figures else {
                self.save_with(folder, Some(prompts))?;
                return Ok(false);
            };
            self.state.epoch += 1;
            self.state.batch = 0;
            if self
                .state
                .epoch
                .is_multiple_of(self.config.run.checkpoint_every)
            {
                self.save_with(folder, Some(prompts))?;
            }
            observer.epoch(&figures);
        }
        Ok(true)
    }

    fn contexts_epoch(
        &mut self,
        prompts: &mut Prompts,
        encoder: &TextEncoder,
        images: &Embedded,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Epoch>, TrainError> {
        let epoch = self.state.epoch;
        let rate = prompts.settings.schedule.rate(epoch);
        let (count, batch) = (images.people.len(), prompts.settings.batch);
        let batches = shuffled(count, batch, self.config.seed, u64::from(epoch));
        let steps = batches.len();
        let started = Instant::now();
        let mut sums = Sums::default();
        for (index, batch) in batches.into_iter().enumerate().skip(self.state.batch) {
            if stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            let since = Instant::now();
            let figures = self.contexts_step(prompts, encoder, images, &batch, rate)?;
            self.state.batch = index + 1;
            let seconds = since.elapsed().as_secs_f64();
            observer.step(&figures.step(epoch, self.state.step, rate, seconds));
            sums.add(&figures);
            self.state.step += 1;
            if stop.load(Ordering::SeqCst) && index + 1 < steps {
                return Ok(None);
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(Some(sums.epoch(epoch, self.state.step, rate, seconds)))
    }

    fn contexts_step(
        &self,
        prompts: &mut Prompts,
        encoder: &TextEncoder,
        images: &Embedded,
        batch: &[usize],
        rate: f64,
    ) -> Result<Figures, TrainError> {
        let people: Vec<u32> = batch.iter().map(|image| images.people[*image]).collect();
        let rows: Vec<u32> = batch.iter().map(|image| *image as u32).collect();
        let rows = Tensor::new(rows, &self.device)?;
        let vectors = images.vectors.index_select(&rows, 0)?;
        let losses = prompt_losses(encoder, prompts.contexts(), &vectors, &people)?;
        let figures = losses.figures(batch.len())?;
        self.check_loss(&figures, self.state.batch)?;
        let mut store = losses.total.backward()?;
        let gradients = Gradients::take(&mut store, prompts.optimizer.parameters());
        prompts.optimizer.step(&gradients, rate)?;
        Ok(figures)
    }

    /// All images once, by the image encoder as it starts; `None` if it was stopped.
    fn embed(&self, stop: &AtomicBool) -> Result<Option<Embedded>, TrainError> {
        let network = image_encoder(&self.description, &self.variables, &self.device)?;
        let samples = self.set.samples();
        let all: Vec<usize> = (0..samples.len()).collect();
        let batches = all.chunks(BATCH).map(<[usize]>::to_vec).collect();
        let description = &self.description;
        let plain = Augment {
            height: description.input_height as u32,
            width: description.input_width as u32,
            ..Augment::none(description.mean, description.std)
        };
        let loader = Loader::new(samples, plain, self.threads, PREFETCH);
        let mut parts = Vec::new();
        let mut people = Vec::new();
        for batch in loader.epoch(batches, self.config.seed, 0) {
            if stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            let batch = batch?;
            let pixels = batch.tensor(&self.device)?;
            parts.push(network.class_tokens(&pixels, None)?.projected);
            people.extend(batch.labels);
        }
        let vectors = Tensor::cat(&parts, 0)?;
        Ok(Some(Embedded { vectors, people }))
    }
}

/// Losses of a batch of embedded `images`, `[batch, projection]`, and their `people`'s texts, both
/// ways: `i2t` finds texts for images, `t2i` images for texts. `contexts`: `[all people, 4, width]`.
///
/// # Errors
/// The shapes do not fit, or somebody has no context.
pub fn prompt_losses(
    encoder: &TextEncoder,
    contexts: &Tensor,
    images: &Tensor,
    people: &[u32],
) -> candle_core::Result<Losses> {
    let labels = Tensor::new(people, images.device())?;
    let texts = encoder.vectors(&contexts.index_select(&labels, 0)?)?;
    let to_texts = loss::contrastive(images, &texts, people, people)?;
    let to_images = loss::contrastive(&texts, images, people, people)?;
    // Texts of one person are the same, so the first of the likeliest will do.
    let likeliest = images.matmul(&texts.detach().t()?)?.argmax(1)?;
    let likeliest = likeliest.to_vec1::<u32>()?;
    let mut right = 0_usize;
    for (found, person) in likeliest.iter().zip(people) {
        right += usize::from(people.get(*found as usize) == Some(person));
    }
    let accuracy = right as f64 / people.len().max(1) as f64;
    Losses::of(vec![("i2t", to_texts), ("t2i", to_images)], accuracy)
}

/// The image encoder for inference, with its projection alone.
fn image_encoder(
    description: &Description,
    variables: &Variables,
    device: &Device,
) -> Result<ClipVit, TrainError> {
    let mut plain = description.clone();
    if let Some(Variant::ClipVit(variant)) = &mut plain.variant {
        (variant.feature, variant.neck) = (Feature::Proj, Neck::Before);
    }
    let Some(config) = ClipVitConfig::of(&plain) else {
        let reason = format!("{} has no text encoder", plain.architecture);
        return Err(TrainError::Setting(reason));
    };
    let weights = export::weights(&plain, variables)?;
    let params = Params::new(
        weights.var_builder(DType::F32, device),
        Mode::Inference,
        1e-5,
    );
    Ok(ClipVit::new(&config, &params)?)
}
