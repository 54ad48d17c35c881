//! `mtmc train reid`: an encoder that tells people apart.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use candle_core::DType;
use clap::Args;
use mtmc_models::Weights;
use mtmc_models::layers::Mode;

use crate::cli::data::KindName;
use crate::cli::options::{ComputeArgs, weights_path};
use crate::cli::progress::{Progress, stop_on_ctrl_c};
use crate::train::config::Config;
use crate::train::data::TrainSet;
use crate::train::trainer::{Ending, Observer, RunFolder, Start, Trainer};
use crate::train::watch::mlflow::{MlflowSettings, Outcome};
use crate::train::watch::{Epoch, Hard, RunInfo, Step, WatchSettings, Watcher, hardest_for};

/// Experiment under which MLflow lists runs.
const EXPERIMENT: &str = "mtmc-reid";

/// Images that are embedded at once for the report, and ranked lists in it.
const HARD_BATCH: usize = 64;
const HARD_LISTS: usize = 6;

/// Names of tensors that a line tells; of more there is the number.
const NAMES: usize = 6;

/// Arguments of `mtmc train reid`.
#[derive(Debug, Args)]
pub struct TrainReidArgs {
    /// Data set: Market-1501 as downloaded or as `mtmc data prepare` writes it, DukeMTMC-reID,
    /// MSMT17, or what `mtmc data synth-reid` and `crops` write
    #[arg(long, env = "MTMC_DATA", value_name = "DIR")]
    data: PathBuf,

    /// How that folder is laid out
    #[arg(long, env = "MTMC_DATA_KIND", default_value = "detect")]
    kind: KindName,

    /// Settings as TOML, such as configs/strong.toml; without it the strong recipe
    #[arg(long, env = "MTMC_TRAIN_CONFIG", value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// One setting over the file's, such as schedule.base=1e-4; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,

    /// Folder of the run: settings, checkpoint, best and last weights, logs
    #[arg(short, long, env = "MTMC_OUT", value_name = "DIR")]
    out: PathBuf,

    /// Weights to start from: a .safetensors file, or a name of `mtmc models list`, fetched if
    /// absent; without them everything starts at random
    #[arg(long, env = "MTMC_TRAIN_START", value_name = "WEIGHTS")]
    start: Option<String>,

    /// Go on from the checkpoint in --out, with the settings of that run
    #[arg(long, env = "MTMC_RESUME", conflicts_with_all = ["config", "set", "start"])]
    resume: bool,

    /// Look at every image of the data set first
    #[arg(long, env = "MTMC_VERIFY_DATA")]
    verify: bool,

    /// MLflow server that hears of settings, figures and files
    #[arg(long, env = "MLFLOW_TRACKING_URI", value_name = "URL")]
    mlflow: Option<String>,

    /// Largest weights, in MiB, that go to that server at the end: the best, or the last where
    /// nothing was evaluated; 0 for none
    #[arg(
        long,
        env = "MTMC_MLFLOW_WEIGHTS",
        value_name = "MIB",
        default_value_t = 512
    )]
    mlflow_weights: u64,

    /// No progress, only the result
    #[arg(short, long, env = "MTMC_QUIET")]
    quiet: bool,

    #[command(flatten)]
    compute: ComputeArgs,
}

/// Trains and prints what was reached.
///
/// # Errors
/// Settings, data or weights that do not fit; an image that cannot be read; a loss that is no
/// number any more.
pub fn run(args: &TrainReidArgs) -> anyhow::Result<()> {
    args.compute.start_threads(Mode::Training)?;
    let (device, dtype) = args.compute.device()?;
    if dtype != DType::F32 {
        bail!("--precision is of inference; to learn in bfloat16: --set model.precision=bf16");
    }
    let folder = RunFolder::create(&args.out)?;
    if !args.resume && folder.checkpoint().exists() {
        bail!(
            "{}: a run is there already; --resume goes on with it",
            folder.checkpoint().display()
        );
    }
    let config = args.settings(&folder)?;
    let set = args.open(&config)?;
    let start = match &args.start {
        Some(name) => Some(Weights::load(&weights_path(name)?, &device)?),
        None => None,
    };
    let threads = rayon::current_num_threads();
    let (mut trainer, from) = Trainer::new(config.clone(), set, start.as_ref(), &device, threads)?;
    if let Some(start) = &start {
        tell_start(start.path(), &from);
    }
    let mut resumed = None;
    if args.resume {
        trainer.resume(&folder.checkpoint())?;
        resumed = Some(u64::from(trainer.state().epoch));
    } else {
        let text = config.to_toml()?;
        let path = folder.config();
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    let stop = stop_on_ctrl_c("a checkpoint is written after this step")?;
    let mut watch = args.watch(&config, &trainer, resumed)?;
    watch.watcher.artifact(&folder.config());
    let ended = trainer.run(&folder, &mut watch, &stop);
    watch.progress.finish();
    match &ended {
        Ok(Ending::Complete | Ending::Early) => {
            args.send_weights(&folder, &mut watch.watcher);
            let hard = args.hardest(&folder, &trainer);
            watch.watcher.finish(hard.as_ref());
        }
        Ok(Ending::Stopped) => watch.watcher.fail(Outcome::Interrupted),
        Err(_) => watch.watcher.fail(Outcome::Failed),
    }
    report(&folder, &trainer, ended?)
}

impl TrainReidArgs {
    fn settings(&self, folder: &RunFolder) -> anyhow::Result<Config> {
        if self.resume {
            return Ok(Config::load(Some(&folder.config()), &[])?);
        }
        Ok(Config::load(self.config.as_deref(), &self.set)?)
    }

    fn open(&self, config: &Config) -> anyhow::Result<TrainSet> {
        let mut set = TrainSet::open(&self.data, self.kind.into())?;
        for warning in set.warnings() {
            say(&format!("warning: {warning}"));
        }
        if config.data.validation > 0.0 {
            set = set.hold_out(config.data.validation, config.seed)?;
        }
        if self.verify {
            set.verify(&())?;
        }
        Ok(set)
    }

    fn watch(
        &self,
        config: &Config,
        trainer: &Trainer,
        resumed: Option<u64>,
    ) -> anyhow::Result<Watch> {
        let name = self.out.file_name().unwrap_or_default().to_string_lossy();
        let (epochs, total) = (u64::from(config.all_epochs()), trainer.steps());
        let run = RunInfo {
            name: name.into_owned(),
            parameters: config.settings()?,
            epochs,
            // CLIP-ReID's stages differ.
            steps_per_epoch: total.div_ceil(epochs.max(1)),
        };
        let warn = |text: &str| say(&format!("warning: {text}"));
        let mut settings = WatchSettings::new(&self.out);
        settings.mlflow = self
            .mlflow
            .as_ref()
            .map(|uri| MlflowSettings::new(uri, EXPERIMENT));
        let mut watcher = Watcher::new(&settings, run, resumed);
        watcher.on_warn(Box::new(warn));
        Ok(Watch {
            watcher,
            progress: Progress::new(Some(total), "steps", self.quiet),
            quiet: self.quiet,
        })
    }
}

impl TrainReidArgs {
    /// The weights to MLflow, unless they are too large.
    fn send_weights(&self, folder: &RunFolder, watcher: &mut Watcher) {
        if self.mlflow.is_none() || self.mlflow_weights == 0 {
            return;
        }
        let weights = finished(folder);
        let size = std::fs::metadata(&weights).map_or(0, |file| file.len());
        if size > self.mlflow_weights << 20 {
            say(&format!(
                "warning: {} has {} MiB, more than --mlflow-weights {}: it stays here",
                weights.display(),
                size >> 20,
                self.mlflow_weights
            ));
            return;
        }
        watcher.artifact(&weights);
    }

    /// Whom the best weights tell apart worst, for the report. It is not worth failing for once
    /// training is over.
    fn hardest(&self, folder: &RunFolder, trainer: &Trainer) -> Option<Hard> {
        let probe = trainer.probe()?;
        let weights = finished(folder);
        let found = self
            .compute
            .embedder(&weights.display().to_string())
            .and_then(|embedder| Ok(hardest_for(&embedder, probe, HARD_BATCH, HARD_LISTS)?));
        match found {
            Ok(hard) => Some(hard),
            Err(error) => {
                say(&format!(
                    "warning: no hardest people in the report: {error:#}"
                ));
                None
            }
        }
    }
}

/// The weights to use: the best, or the last where nothing was evaluated.
fn finished(folder: &RunFolder) -> PathBuf {
    let best = folder.best();
    if best.exists() { best } else { folder.last() }
}

/// Shows steps, passes everything on.
struct Watch {
    watcher: Watcher,
    progress: Progress,
    quiet: bool,
}

impl Observer for Watch {
    fn note(&mut self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    fn step(&mut self, step: &Step) {
        self.watcher.step(step);
        let mut text = format!("epoch {}", step.epoch + 1);
        for (name, value) in &step.losses {
            text.push_str(&format!("  {name} {value:.3}"));
        }
        text.push_str(&format!(
            "  accuracy {:.0} %  {:.1} images/s",
            step.accuracy * 100.0,
            step.images_per_second
        ));
        self.progress.message(text);
        self.progress.update(step.step + 1);
    }

    fn epoch(&mut self, epoch: &Epoch) {
        self.watcher.epoch(epoch);
        let (Some(rank1), Some(map), false) = (epoch.rank1, epoch.map, self.quiet) else {
            return;
        };
        say(&format!(
            "epoch {}: rank-1 {:.2} %, mAP {:.2} %",
            epoch.epoch + 1,
            rank1 * 100.0,
            map * 100.0
        ));
    }
}

/// What was taken from the starting weights, and what not.
fn tell_start(path: &Path, start: &Start) {
    say(&format!(
        "{}: {} tensors taken; at random: {}; left over: {}",
        path.display(),
        start.taken,
        few(&start.missing),
        few(&start.left_over)
    ));
}

fn few(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_string();
    }
    let mut text = names[..names.len().min(NAMES)].join(", ");
    if names.len() > NAMES {
        text.push_str(&format!(" and {} more", names.len() - NAMES));
    }
    text
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn report(folder: &RunFolder, trainer: &Trainer, ending: Ending) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let state = trainer.state();
    let end = match ending {
        Ending::Complete => "complete",
        Ending::Early => "ended early, for mAP has not become better",
        Ending::Stopped => "stopped; --resume goes on",
    };
    writeln!(
        stdout,
        "{} epochs, {} steps: {end}",
        state.epoch, state.step
    )?;
    if let Some((map, epoch)) = state.best {
        writeln!(
            stdout,
            "best mAP {:.2} % after epoch {}: {}",
            map * 100.0,
            epoch + 1,
            folder.best().display()
        )?;
    }
    Ok(())
}
