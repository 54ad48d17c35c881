//! Watching a training: what is shown, JSON lines, TensorBoard, MLflow, and a report.
//!
//! A [`Watcher`] is told of steps and epochs and never fails: what cannot be written is warned of
//! once, and training goes on.
//!
//! ```no_run
//! use mtmc::train::watch::{Epoch, RunInfo, Step, WatchSettings, Watcher};
//!
//! # let (losses, steps) = (vec![("id".to_string(), 6.6)], 200);
//! let settings = WatchSettings::new("runs/first");
//! let run = RunInfo { name: "first".into(), parameters: vec![], epochs: 120, steps_per_epoch: steps };
//! let mut watcher = Watcher::new(&settings, run, None);
//! watcher.step(&Step { epoch: 0, step: 0, losses, accuracy: 0.0, lr: 3.5e-4, images_per_second: 80.0 });
//! watcher.finish(None);
//! ```

mod chart;
mod hard;
mod lines;
pub mod mlflow;
mod report;
pub mod tensorboard;

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub use self::hard::{Hard, HardPerson, hardest, hardest_for};
use self::lines::Lines;
use self::mlflow::{Mlflow, MlflowSettings, Outcome};
use self::tensorboard::EventFile;

/// Name of the JSON lines in the run's folder.
pub const LINES: &str = "log.jsonl";
/// Name of the folder of event files in it.
pub const TENSORBOARD: &str = "tensorboard";
/// Name of the report in it.
pub const REPORT: &str = "report.html";

/// One optimiser step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step of the whole run, from 0.
    pub step: u64,
    /// Parts of the loss by name, weighted as they are summed, and their sum as `total`.
    pub losses: Vec<(String, f64)>,
    /// Share of the batch whose person was told right, 0..=1.
    pub accuracy: f64,
    /// Learning rate of the first group.
    pub lr: f64,
    /// Images learnt from in a second.
    pub images_per_second: f64,
}

/// One epoch; numbers are means over its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Epoch {
    /// Epoch, from 0.
    pub epoch: u64,
    /// The run's steps up to its end.
    pub step: u64,
    /// As [`Step::losses`].
    pub losses: Vec<(String, f64)>,
    /// As [`Step::accuracy`].
    pub accuracy: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Images learnt from in a second.
    pub images_per_second: f64,
    /// How long it took, evaluation aside.
    pub seconds: f64,
    /// Rank-1 of the evaluation after it, 0..=1, where there was one.
    pub rank1: Option<f64>,
    /// Mean average precision of it, 0..=1.
    pub map: Option<f64>,
}

/// What a run is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunInfo {
    /// Its name for people.
    pub name: String,
    /// All settings, resolved.
    pub parameters: Vec<(String, String)>,
    /// Epochs it will last.
    pub epochs: u64,
    /// Steps an epoch, as far as is known.
    pub steps_per_epoch: u64,
}

/// What is written, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchSettings {
    /// The run's folder.
    pub folder: PathBuf,
    /// Steps between two that are written; all of them are shown.
    pub every: u64,
    /// Write event files for TensorBoard.
    pub tensorboard: bool,
    /// Tell a server of MLflow.
    pub mlflow: Option<MlflowSettings>,
}

impl WatchSettings {
    /// Files alone, every tenth step.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            every: 10,
            tensorboard: true,
            mlflow: None,
        }
    }
}

/// What a progress bar shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Steps done, of all epochs.
    pub done: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// Epoch, losses, accuracy and so on, in one line.
    pub text: String,
}

/// Told of progress, shows it.
pub type Show = Box<dyn FnMut(&Shown) + Send>;

/// Told of warnings, each of them once.
pub type Warn = Box<dyn FnMut(&str) + Send>;

/// A part that may fail, after which it is left alone.
struct Part<T> {
    name: &'static str,
    inner: Option<T>,
}

/// Told of steps and epochs, tells everybody else.
pub struct Watcher {
    settings: WatchSettings,
    run: RunInfo,
    show: Show,
    warn: Warn,
    lines: Part<Lines>,
    events: Part<EventFile>,
    mlflow: Option<Mlflow>,
    epochs: Vec<Epoch>,
    started: Instant,
}

impl Watcher {
    /// Begins to watch; `resumed` is the epoch that a resumed run goes on with. The folder is made.
    pub fn new(settings: &WatchSettings, run: RunInfo, resumed: Option<u64>) -> Self {
        let mut warn: Warn = Box::new(|text| tracing::warn!("{text}"));
        let folder = &settings.folder;
        if let Err(error) = std::fs::create_dir_all(folder) {
            warn(&format!("{}: {error}", folder.display()));
        }
        let path = folder.join(LINES);
        let epochs = match resumed {
            Some(epoch) => lines::history(&path, epoch).unwrap_or_default(),
            None => Vec::new(),
        };
        let lines = Part::begin("the log", Lines::open(&path, resumed), &mut warn);
        let first = resumed.map(|_| epochs.last().map_or(0, |last| last.step));
        let events = if settings.tensorboard {
            let file = EventFile::create(&folder.join(TENSORBOARD), now(), first);
            Part::begin("the event file", file, &mut warn)
        } else {
            Part::none()
        };
        let mlflow = settings.mlflow.as_ref().map(|mlflow| {
            let known = resumed.and_then(|_| mlflow::read_run(folder));
            Mlflow::start(mlflow, &run, folder, known)
        });
        Self {
            settings: settings.clone(),
            run,
            show: Box::new(|_| ()),
            warn,
            lines,
            events,
            mlflow,
            epochs,
            started: Instant::now(),
        }
    }

    /// Who shows progress; nobody, if not called.
    pub fn on_show(&mut self, show: Show) {
        self.show = show;
    }

    /// Who hears warnings; the log, if not called.
    pub fn on_warn(&mut self, warn: Warn) {
        self.warn = warn;
    }

    /// One step is done.
    pub fn step(&mut self, step: &Step) {
        let shown = Shown {
            done: step.step + 1,
            total: self.run.epochs * self.run.steps_per_epoch,
            text: self.line(step),
        };
        (self.show)(&shown);
        if !step.step.is_multiple_of(self.settings.every.max(1)) {
            return;
        }
        let time = now();
        self.lines
            .write(&mut self.warn, |lines| lines.step(time, step));
        let values = step_values(step);
        self.tell(time, step.step, values);
    }

    /// One epoch is done, and evaluated if it was to be.
    pub fn epoch(&mut self, epoch: &Epoch) {
        let time = now();
        self.lines
            .write(&mut self.warn, |lines| lines.epoch(time, epoch));
        // At the epoch's last step: the next one is told again where a run is resumed there.
        self.tell(time, epoch.step.saturating_sub(1), epoch_values(epoch));
        self.epochs.push(epoch.clone());
    }

    /// The epochs so far, those before a resume too.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// The run is over, well: writes the report, with who was hard to tell apart if that is known,
    /// and tells MLflow, which is waited for a few seconds.
    pub fn finish(&mut self, hard: Option<&Hard>) {
        self.end(Outcome::Finished, hard);
    }

    /// The run is over, for `reason`.
    pub fn fail(&mut self, outcome: Outcome) {
        self.end(outcome, None);
    }

    fn end(&mut self, outcome: Outcome, hard: Option<&Hard>) {
        let path = self.settings.folder.join(REPORT);
        let html = report::html(&self.run, &self.epochs, outcome, hard);
        if let Err(error) = std::fs::write(&path, html) {
            (self.warn)(&format!("{}: {error}", path.display()));
        }
        if let Some(mut mlflow) = self.mlflow.take() {
            mlflow.file(&path);
            mlflow.file(&self.settings.folder.join(LINES));
            if let Some(problem) = mlflow.finish(outcome) {
                (self.warn)(&problem);
            }
        }
    }

    /// Sends a file of the run along to MLflow, such as the settings or the weights.
    pub fn artifact(&mut self, path: &Path) {
        if let Some(mlflow) = &mut self.mlflow {
            mlflow.file(path);
        }
    }

    fn tell(&mut self, time: f64, step: u64, mut values: Vec<(String, f64)>) {
        values.retain(|(_, value)| value.is_finite());
        self.events
            .write(&mut self.warn, |events| events.write(time, step, &values));
        let Some(mlflow) = &mut self.mlflow else {
            return;
        };
        mlflow.metrics(time, step, values);
        if let Some(problem) = mlflow.problem() {
            (self.warn)(&problem);
        }
    }

    /// What is shown of a step.
    fn line(&self, step: &Step) -> String {
        use std::fmt::Write as _;
        let mut text = format!("epoch {}/{}", step.epoch + 1, self.run.epochs);
        // Writing into a String cannot fail.
        for (name, value) in &step.losses {
            let _ = write!(text, "  {name} {value:.3}");
        }
        let _ = write!(
            text,
            "  accuracy {:.1} %  lr {:.2e}  {:.1} images/s",
            step.accuracy * 100.0,
            step.lr,
            step.images_per_second
        );
        if let Some(bytes) = crate::service::metrics::ProcessProbe::default().resident() {
            let _ = write!(text, "  {} MiB", bytes >> 20);
        }
        text
    }

    /// Time since watching began, in seconds.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

impl<T> Part<T> {
    fn none() -> Self {
        Self {
            name: "",
            inner: None,
        }
    }

    fn begin(name: &'static str, made: std::io::Result<T>, warn: &mut Warn) -> Self {
        let inner = match made {
            Ok(inner) => Some(inner),
            Err(error) => {
                warn(&format!("{name} cannot be written: {error}"));
                None
            }
        };
        Self { name, inner }
    }

    fn write(&mut self, warn: &mut Warn, write: impl FnOnce(&mut T) -> std::io::Result<()>) {
        let Some(inner) = &mut self.inner else {
            return;
        };
        if let Err(error) = write(inner) {
            warn(&format!("{} is not written any more: {error}", self.name));
            self.inner = None;
        }
    }
}

fn step_values(step: &Step) -> Vec<(String, f64)> {
    let losses = step.losses.iter();
    let mut values: Vec<_> = losses
        .map(|(name, value)| (format!("loss/{name}"), *value))
        .collect();
    values.push(("accuracy".to_string(), step.accuracy));
    values.push(("lr".to_string(), step.lr));
    values.push(("images_per_second".to_string(), step.images_per_second));
    values
}

fn epoch_values(epoch: &Epoch) -> Vec<(String, f64)> {
    let losses = epoch.losses.iter();
    let mut values: Vec<_> = losses
        .map(|(name, value)| (format!("epoch/loss/{name}"), *value))
        .collect();
    values.push(("epoch/accuracy".to_string(), epoch.accuracy));
    values.push(("epoch/seconds".to_string(), epoch.seconds));
    let found = [("val/rank1", epoch.rank1), ("val/map", epoch.map)];
    values.extend(
        found
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_string(), value?))),
    );
    values
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}
