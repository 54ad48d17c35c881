//! The loop: batches, losses, steps, evaluations, checkpoints.
//!
//! On the CPU a run is the same bit for bit however often it was stopped and resumed: chance
//! follows from seed and epoch, rates from the epoch, and a [`Checkpoint`] holds all the rest.

mod evaluate;
mod network;
mod step;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Var};
use mtmc_models::{Description, Weights};

use super::TrainError;
use super::checkpoint::{Checkpoint, State};
use super::config::Config;
use super::data::{Loader, PkSampler, Probe, TrainSet};
use super::export;
use super::optim::{Gradients, Method, Optimizer, Parameter};
use super::watch::{Epoch, Step};

pub use self::evaluate::evaluate;
pub use self::network::{CLASSIFIER, Network, Output, Start, Variables, initial, is_learnt};

use self::step::{Figures, Sums, losses};

/// Batches that are loaded ahead.
const PREFETCH: usize = 4;

/// Name of the variable that holds the centres of the centre loss; no part of the network.
const CENTRES: &str = "centres";

/// Files of a run, in its folder.
#[derive(Debug, Clone)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        std::fs::create_dir_all(path).map_err(|error| TrainError::file(path, error))?;
        Ok(Self(path.to_path_buf()))
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    /// Weights after the epoch with the best mAP.
    pub fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    /// Weights after the last epoch.
    pub fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
    }

    /// The resolved settings.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }
}

/// Hears how a training goes.
pub trait Observer {
    /// A step is made.
    fn step(&mut self, step: &Step);
    /// An epoch is over, and evaluated if its turn has come.
    fn epoch(&mut self, epoch: &Epoch);
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
        config.check()?;
        let description = describe(&config, start)?;
        let people = set.people().to_vec();
        let (variables, from) = initial(&description, people.len(), config.seed, start, device)?;
        let network = Network::new(&description, &variables, device)?;
        let parameters = parameters(&config, &variables, &from);
        let optimizer = Optimizer::new(config.optimizer.method, parameters)?;
        let centres = centres(&config, &description, people.len(), device)?;
        let data = &config.data;
        let sampler = PkSampler::new(&set, data.people, data.images, config.seed)?;
        let augment = config.augment(&description);
        let loader = Loader::new(set.samples(), augment, threads, PREFETCH);
        let state = State {
            format: State::format(),
            epoch: 0,
            batch: 0,
            step: 0,
            best: None,
            since_best: 0,
            steps: std::collections::BTreeMap::new(),
            people,
            config: config.to_toml()?,
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
            state,
        };
        Ok((trainer, from))
    }

    /// Goes on from a checkpoint of the same settings and people.
    ///
    /// # Errors
    /// It is of another training.
    pub fn resume(&mut self, path: &Path) -> Result<(), TrainError> {
        let saved = Checkpoint::read(path, &self.device)?;
        let fault = |reason: String| TrainError::file(path, reason);
        if saved.state.people != self.state.people {
            return Err(fault("a training of other people".to_string()));
        }
        for (name, var) in &self.variables {
            let tensor = saved.variables.get(name);
            let tensor = tensor.filter(|tensor| tensor.dims() == var.dims());
            let tensor = tensor.ok_or_else(|| fault(format!("`{name}` is of another network")))?;
            var.set(tensor)?;
        }
        let mut memory = saved.memory;
        if let Some(centres) = &mut self.centres {
            let own = memory.remove(CENTRES);
            let tensor = saved.variables.get(CENTRES);
            let (Some(own), Some(tensor)) = (own, tensor) else {
                return Err(fault("no centres in it".to_string()));
            };
            centres.parameters()[0].var.set(tensor)?;
            centres.remember([(CENTRES.to_string(), own)].into())?;
        }
        self.optimizer
            .remember(memory)
            .map_err(|error| fault(error.to_string()))?;
        let config = std::mem::take(&mut self.state.config);
        self.state = State {
            config,
            steps: std::collections::BTreeMap::new(),
            ..saved.state
        };
        Ok(())
    }

    /// Steps of an epoch; a few more or less in some.
    pub fn steps_per_epoch(&self) -> usize {
        self.sampler
            .epoch(0)
            .len()
            .div_ceil(self.config.optimizer.accumulate)
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
        while self.state.epoch < self.config.epochs {
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
            let last = self.state.epoch == self.config.epochs;
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
        let rate = self.config.schedule.rate(epoch);
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
        let output = self.network.forward(pixels)?;
        let centres = self.centres.as_ref().map(|one| &one.parameters()[0].var);
        let losses = losses(&self.config.loss, &output, labels, centres)?;
        let figures = losses.figures(labels.len())?;
        if let Some((loss, value)) = figures.not_finite() {
            return Err(TrainError::NotFinite {
                epoch: self.state.epoch,
                step: index,
                what: format!("the loss `{loss}`"),
                value,
            });
        }
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
        let last = epoch + 1 == self.config.epochs;
        let due = last || (every > 0 && (epoch + 1).is_multiple_of(every));
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

    /// Lays the training down.
    ///
    /// # Errors
    /// The file cannot be written, or a number is NaN or infinite: the old file stays.
    pub fn save(&self, folder: &RunFolder) -> Result<(), TrainError> {
        self.check_finite()?;
        let mut variables = std::collections::BTreeMap::new();
        for (name, var) in &self.variables {
            variables.insert(name.clone(), var.as_detached_tensor());
        }
        let mut memory = self.optimizer.memory();
        if let Some(centres) = &self.centres {
            memory.extend(centres.memory());
            let tensor = centres.parameters()[0].var.as_detached_tensor();
            variables.insert(CENTRES.to_string(), tensor);
        }
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            variables,
            memory,
        };
        checkpoint.write(&folder.checkpoint())
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

/// The settings' description; starting weights bring their own way of preparing images, and what
/// else their names leave open.
fn describe(config: &Config, start: Option<&Weights>) -> Result<Description, TrainError> {
    let own = config.description();
    let Some(start) = start.map(Weights::description) else {
        return Ok(own);
    };
    if start.architecture != own.architecture {
        return Err(TrainError::Setting(format!(
            "the starting weights are of {}, model.architecture is {}",
            start.architecture, own.architecture
        )));
    }
    Ok(Description {
        input_height: own.input_height,
        input_width: own.input_width,
        variant: own.variant.or_else(|| start.variant.clone()),
        source: format!("mtmc train reid, from {}", start.source),
        ..start.clone()
    })
}

/// What is learnt, each with its rate and decay.
fn parameters(config: &Config, variables: &Variables, start: &Start) -> Vec<Parameter> {
    let settings = &config.optimizer;
    let mut found = Vec::new();
    for (name, var) in variables {
        if !is_learnt(name, variables) {
            continue;
        }
        let mut rate_factor = 1.0;
        if name.ends_with("bias") {
            rate_factor *= settings.bias_rate;
        }
        if start.taken > 0 && start.missing.contains(name) {
            rate_factor *= settings.new_rate;
        }
        found.push(Parameter {
            name: name.clone(),
            var: var.clone(),
            rate_factor,
            // Biases and the weights of norms have one dimension.
            decay: if var.rank() < 2 {
                settings.bias_decay
            } else {
                settings.decay
            },
        });
    }
    found
}

fn centres(
    config: &Config,
    description: &Description,
    people: usize,
    device: &Device,
) -> Result<Option<Optimizer>, TrainError> {
    if config.loss.centre == 0.0 {
        return Ok(None);
    }
    let dim = network::metric_dim(description)?;
    let zeros = candle_core::Tensor::zeros((people, dim), candle_core::DType::F32, device)?;
    let parameter = Parameter {
        name: CENTRES.to_string(),
        var: Var::from_tensor(&zeros)?,
        rate_factor: 1.0,
        decay: 0.0,
    };
    let optimizer = Optimizer::new(Method::plain_sgd(), vec![parameter])?;
    Ok(Some(optimizer))
}
