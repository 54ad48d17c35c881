//! The loop: batches, losses, steps, evaluations, checkpoints.
//!
//! On the CPU a run is the same bit for bit however often it was stopped and resumed: chance
//! follows from seed and epoch, rates from the epoch, and a checkpoint holds all the rest.

mod evaluate;
mod folder;
mod network;
mod parameters;
mod prompts;
mod save;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use mtmc_models::layers::check_mixed;
use mtmc_models::{Description, Weights};

use super::TrainError;
use super::checkpoint::{Stage, State};
use super::config::{Config, Products};
use super::data::{Loader, PkSampler, Probe, TrainSet};
use super::export;
use super::optim::{Gradients, Optimizer};
use super::watch::{Epoch, Step};

pub use self::evaluate::evaluate;
pub use self::folder::RunFolder;
pub use self::network::{Learning, Network, Output, Start, Variables, initial, is_learnt};

pub use self::prompts::prompt_losses;
pub use self::step::{Losses, losses};

use self::parameters::{centres, parameters};
use self::prompts::Prompts;
use self::step::{Figures, Sums};

/// Batches that are loaded ahead.
const PREFETCH: usize = 4;

/// Name of the variable that holds the centres of the centre loss; no part of the network.
const CENTRES: &str = "centres";

/// Name under which a checkpoint of the second stage holds the texts of people.
const TEXTS: &str = "texts";

/// Hears how a training goes.
pub trait Observer {
    /// A step is made.
    fn step(&mut self, step: &Step);
    /// An epoch is over, and evaluated if its turn has come.
    fn epoch(&mut self, epoch: &Epoch);
    /// Something takes a while.
    fn note(&mut self, _text: &str) {}
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// After its last epoch.
    Complete,
    /// No better mAP for `run.patience` evaluations.
    Early,
    /// It was asked to stop; a checkpoint is there.
    Stopped,
}

/// A training in memory.
pub struct Trainer {
    config: Config,
    description: Description,
    device: Device,
    threads: usize,
    set: TrainSet,
    sampler: PkSampler,
    loader: Loader,
    variables: Variables,
    network: Network,
    optimizer: Optimizer,
    centres: Option<Optimizer>,
    /// Until the first stage is over, if there is one.
    prompts: Option<Prompts>,
    /// Of people, `[people, projection]`, from the second stage on.
    texts: Option<Tensor>,
    state: State,
}

impl Trainer {
    /// A training that begins: from `start`'s weights where there are some, else at random.
    ///
    /// `set` is split already; `threads` decode images.
    ///
    /// # Errors
    /// Settings, weights and data do not fit together, or the device fails.
    pub fn new(
        config: Config,
        set: TrainSet,
        start: Option<&Weights>,
        device: &Device,
        threads: usize,
    ) -> Result<(Self, Start), TrainError> {
        let description = config.description_from(start.map(Weights::description))?;
        Self::build(config, set, description, start, None, device, threads)
    }

    /// `new`: the parameters that starting weights did not have, where that is known already.
    fn build(
        config: Config,
        set: TrainSet,
        description: Description,
        start: Option<&Weights>,
        new: Option<BTreeSet<String>>,
        device: &Device,
        threads: usize,
    ) -> Result<(Self, Start), TrainError> {
        config.check()?;
        if config.model.precision == Products::Bf16 {
            check_mixed(device)?;
        }
        let people = set.people().to_vec();
        let learnt = config.learnt(&description);
        let (variables, mut from) = initial(&learnt, people.len(), config.seed, start, device)?;
        let network = Network::new(&learnt, &variables, learning(&config), device)?;
        let new = new.unwrap_or_else(|| match start {
            Some(_) => from.missing.iter().cloned().collect(),
            None => BTreeSet::new(),
        });
        let optimizer = Optimizer::new(
            config.optimizer.method,
            parameters(&config, &variables, &new),
        )?;
        let centres = centres(&config, &learnt, people.len(), device)?;
        let (count, seed) = (people.len(), config.seed);
        let prompts = match &config.prompts {
            Some(settings) => Some(Prompts::new(
                settings,
                &description,
                count,
                seed,
                start,
                &mut from,
                device,
            )?),
            None => None,
        };
        let data = &config.data;
        let sampler = PkSampler::new(&set, data.people, data.images, seed)?;
        let augment = config.augment(&description);
        let loader = Loader::new(set.samples(), augment, threads, PREFETCH);
        let state = State {
            format: State::format(),
            stage: match prompts {
                Some(_) => Stage::Prompts,
                None => Stage::Images,
            },
            epoch: 0,
            batch: 0,
            step: 0,
            best: None,
            since_best: 0,
            steps: BTreeMap::new(),
            people,
            config: config.to_toml()?,
            description: Some(description.clone()),
            new,
        };
        let trainer = Self {
            config,
            description,
            device: device.clone(),
            threads,
            set,
            sampler,
            loader,
            variables,
            network,
            optimizer,
            centres,
            prompts,
            texts: None,
            state,
        };
        Ok((trainer, from))
    }

    /// Steps of an epoch; a few more or less in some.
    pub fn steps_per_epoch(&self) -> usize {
        self.sampler
            .epoch(0)
            .len()
            .div_ceil(self.config.optimizer.accumulate)
    }

    /// Steps of the whole run; a few more or less.
    pub fn steps(&self) -> u64 {
        let images = self.set.samples().len();
        let prompts = self.config.prompts.as_ref().map_or(0, |prompts| {
            images.div_ceil(prompts.batch) * prompts.epochs as usize
        });
        (prompts + self.steps_per_epoch() * self.config.epochs as usize) as u64
    }

    fn learning(&self) -> Learning {
        learning(&self.config)
    }

    /// Where it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is learnt, and its statistics.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// What weights of it say of themselves.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Learns until the last epoch, until nothing gets better, or until `stop` is raised; what is
    /// left in the folder are a checkpoint, the best and the last weights.
    ///
    /// # Errors
    /// An image or a file fails; the loss is no number any more (the last checkpoint stays).
    pub fn run(
        &mut self,
        folder: &RunFolder,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Ending, TrainError> {
        if self.state.stage == Stage::Prompts && self.learn_prompts(folder, observer, stop)? {
            return Ok(Ending::Stopped);
        }
        while self.state.epoch < self.config.all_epochs() {
            let patience = self.config.run.patience;
            if patience > 0 && self.state.since_best >= patience {
                return Ok(Ending::Early);
            }
            if stop.load(Ordering::SeqCst) {
                self.save(folder)?;
                return Ok(Ending::Stopped);
            }
            let epoch = self.state.epoch;
            let Some(figures) = self.learn_epoch(observer, stop)? else {
                self.save(folder)?;
                return Ok(Ending::Stopped);
            };
            self.check_finite()?;
            self.state.epoch += 1;
            self.state.batch = 0;
            let figures = self.measure(folder, epoch, figures)?;
            let every = self.config.run.checkpoint_every;
            let last = self.state.epoch == self.config.all_epochs();
            if self.state.epoch.is_multiple_of(every) || last {
                self.save(folder)?;
            }
            observer.epoch(&figures);
        }
        export::write(&folder.last(), &self.description, &self.variables)?;
        Ok(Ending::Complete)
    }

    /// One epoch, or what is left of it; `None` if it was stopped.
    fn learn_epoch(
        &mut self,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Option<Epoch>, TrainError> {
        let epoch = self.state.epoch;
        let rate = self
            .config
            .schedule
            .rate(epoch - self.config.prompt_epochs());
        let batches = self.sampler.epoch(u64::from(epoch));
        let count = batches.len();
        let loaded = self
            .loader
            .epoch(batches, self.config.seed, u64::from(epoch));
        let started = Instant::now();
        let mut sums = Sums::default();
        let mut pending: Option<Gradients> = None;
        let mut waiting = Figures::default();
        let mut since = Instant::now();
        for (index, batch) in loaded.enumerate() {
            let batch = batch?;
            // Chance depends on the position in the epoch, so what is done already is passed over.
            if index < self.state.batch {
                since = Instant::now();
                continue;
            }
            let pixels = batch.tensor(&self.device)?;
            let (figures, gradients) = self.learn(&pixels, &batch.labels, index)?;
            waiting.add(&figures);
            match &mut pending {
                Some(pending) => pending.add(gradients)?,
                None => pending = Some(gradients),
            }
            let together = index + 1 - self.state.batch;
            if together < self.config.optimizer.accumulate && index + 1 < count {
                continue;
            }
            if let Some(gradients) = pending.take() {
                self.step(gradients, together, rate)?;
            }
            self.state.batch = index + 1;
            let figures = std::mem::take(&mut waiting).mean();
            let seconds = since.elapsed().as_secs_f64();
            since = Instant::now();
            observer.step(&figures.step(epoch, self.state.step, rate, seconds));
            sums.add(&figures);
            self.state.step += 1;
            if stop.load(Ordering::SeqCst) && index + 1 < count {
                return Ok(None);
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(Some(sums.epoch(epoch, self.state.step, rate, seconds)))
    }

    /// Losses and gradients of a batch.
    fn learn(
        &mut self,
        pixels: &candle_core::Tensor,
        labels: &[u32],
        index: usize,
    ) -> Result<(Figures, Gradients), TrainError> {
        // Of batches that make one step together, each leaves out other things.
        let draw = (u64::from(self.state.epoch) << 32) + index as u64;
        let output = self.network.forward(pixels, draw)?;
        let centres = self.centres.as_ref().map(|one| &one.parameters()[0].var);
        let losses = losses(&self.config.loss, &output, labels, centres)?;
        let figures = losses.figures(labels.len())?;
        self.check_loss(&figures, index)?;
        let mut store = losses.total.backward()?;
        let gradients = Gradients::take(&mut store, self.optimizer.parameters());
        if let Some(centres) = &mut self.centres {
            let gradients = Gradients::take(&mut store, centres.parameters());
            // Centres move by their own rate, whatever their loss weighs.
            let rate = self.config.loss.centre_rate / self.config.loss.centre;
            centres.step(&gradients, rate)?;
        }
        Ok((figures, gradients))
    }

    /// Moves the parameters by the mean gradient of `batches`.
    fn step(
        &mut self,
        mut gradients: Gradients,
        batches: usize,
        rate: f64,
    ) -> Result<(), TrainError> {
        if batches > 1 {
            gradients.scale(1.0 / batches as f64)?;
        }
        let most = self.config.optimizer.clip;
        if most > 0.0 {
            gradients.clip(most)?;
        }
        self.optimizer.step(&gradients, rate)?;
        Ok(())
    }

    /// Evaluates if it is the epoch's turn, and keeps the best weights.
    fn measure(
        &mut self,
        folder: &RunFolder,
        epoch: u32,
        figures: Epoch,
    ) -> Result<Epoch, TrainError> {
        let every = self.config.run.evaluate_every;
        let done = epoch + 1 - self.config.prompt_epochs();
        let last = done == self.config.epochs;
        let due = last || (every > 0 && done.is_multiple_of(every));
        let Some(probe) = self.probe().filter(|_| due) else {
            return Ok(figures);
        };
        let metrics = evaluate(&self.description, &self.variables, probe, &self.device)?;
        if self.state.best.is_none_or(|(best, _)| metrics.map > best) {
            self.state.best = Some((metrics.map, epoch));
            self.state.since_best = 0;
            export::write(&folder.best(), &self.description, &self.variables)?;
        } else {
            self.state.since_best += 1;
        }
        Ok(Epoch {
            rank1: Some(metrics.rank(1)),
            map: Some(metrics.map),
            ..figures
        })
    }

    /// What measures: people set apart, else the data set's own queries.
    pub fn probe(&self) -> Option<&Probe> {
        self.set.validation().or_else(|| self.set.test())
    }

    /// A loss that is no number ends the run.
    fn check_loss(&self, figures: &Figures, step: usize) -> Result<(), TrainError> {
        match figures.not_finite() {
            None => Ok(()),
            Some((loss, value)) => Err(TrainError::NotFinite {
                epoch: self.state.epoch,
                step,
                what: format!("the loss `{loss}`"),
                value,
            }),
        }
    }

    /// A step may break weights although its loss was a number.
    fn check_finite(&self) -> Result<(), TrainError> {
        for (name, var) in &self.variables {
            let sum = var.as_tensor().abs()?.sum_all()?.to_scalar::<f32>()?;
            if !sum.is_finite() {
                return Err(TrainError::NotFinite {
                    epoch: self.state.epoch,
                    step: self.state.batch,
                    what: format!("`{name}`"),
                    value: f64::from(sum),
                });
            }
        }
        Ok(())
    }

    /// Threads that decode images.
    pub fn threads(&self) -> usize {
        self.threads
    }
}

/// How the settings want networks to be learnt.
fn learning(config: &Config) -> Learning {
    Learning {
        precision: config.model.precision.into(),
        dropout: config.model.dropout,
        drop_path: config.model.drop_path,
        seed: config.seed,
    }
}
