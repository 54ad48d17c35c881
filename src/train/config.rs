//! What a training does: a TOML file over the defaults, single settings over the file.
//!
//! The defaults are the strong recipe ("bag of tricks", Luo et al., 2019) for ResNet-50. Every
//! setting has a path such as `schedule.base`, by which the command line sets it.

use std::path::Path;

use mtmc_models::resnet50::{Layers, Pooling, ResNet50Config, Stem};
use mtmc_models::{Description, Interpolation, ResizeMode, Variant, network, weights};
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::data::{Augment, Erase, Jitter};
use super::loss::{Margin, TripletDistance};
use super::optim::Method;
use super::schedule::{Decay, Schedule, Warmup, WarmupKind};

/// Mean and deviation of `ImageNet`'s pixels in 0..=1, RGB.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// All settings of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Passes over the data.
    pub epochs: u32,
    /// What all chance follows from.
    pub seed: u64,
    /// The network.
    pub model: ModelConfig,
    /// Images and batches.
    pub data: DataConfig,
    /// What is made small.
    pub loss: LossConfig,
    /// How parameters move.
    pub optimizer: OptimizerConfig,
    /// How fast.
    pub schedule: Schedule,
    /// What happens between epochs.
    pub run: RunConfig,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A name of `mtmc models list`'s architectures, such as `resnet50-reid` or `osnet-x1.0`.
    pub architecture: String,
    /// Height and width of the input in pixels.
    pub height: usize,
    /// See `height`.
    pub width: usize,
    /// ResNet: stride of the last stage, 1 or 2.
    pub last_stride: usize,
    /// ResNet: a batch norm between the features of the metric loss and those of the classifier.
    pub neck: bool,
    /// ResNet: length that features are reduced to; 0 for none.
    pub reduced: usize,
}

/// Images and batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// People in a batch.
    pub people: usize,
    /// Images of each.
    pub images: usize,
    /// Share (0..1) of the people that are set apart to choose a checkpoint by; 0 learns from all
    /// and measures with the data set's own queries and gallery.
    pub validation: f64,
    /// Chance of the mirror image.
    pub flip: f64,
    /// Pixels around the image before a crop of the old size is taken.
    pub pad: u32,
    /// Chance that a rectangle is erased.
    pub erase: f64,
    /// Strength of changes of brightness, contrast and saturation, 0..1.
    pub jitter: f32,
}

/// What is made small: the weighted sum of up to three losses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the cross-entropy over people.
    pub id: f64,
    /// Label smoothing of it, 0..1.
    pub smoothing: f64,
    /// Weight of the triplets.
    pub triplet: f64,
    /// Their margin.
    pub margin: Margin,
    /// Their distance.
    pub distance: TripletDistance,
    /// Weight of the distance to centres.
    pub centre: f64,
    /// Rate at which centres move.
    pub centre_rate: f64,
}

/// How parameters move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The rule.
    pub method: Method,
    /// Weight decay.
    pub decay: f64,
    /// Weight decay of biases and norms.
    pub bias_decay: f64,
    /// What the rate of biases is multiplied by.
    pub bias_rate: f64,
    /// What the rate of tensors that the starting weights lack, the classifier among them, is
    /// multiplied by.
    pub new_rate: f64,
    /// Longest gradient, all parameters together; 0 for any.
    pub clip: f64,
    /// Batches whose gradients are averaged for a step.
    pub accumulate: usize,
}

/// What happens between epochs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Epochs between two evaluations; 0 for none but the last.
    pub evaluate_every: u32,
    /// Epochs between two checkpoints.
    pub checkpoint_every: u32,
    /// Evaluations without a better mAP after which training ends; 0 for never.
    pub patience: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            epochs: 120,
            seed: 0,
            model: ModelConfig::default(),
            data: DataConfig::default(),
            loss: LossConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: Schedule {
                base: 3.5e-4,
                warmup: Some(Warmup {
                    kind: WarmupKind::Linear,
                    epochs: 10,
                    factor: 0.01,
                }),
                decay: Decay::MultiStep {
                    milestones: vec![40, 70],
                    gamma: 0.1,
                },
            },
            run: RunConfig::default(),
        }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            architecture: "resnet50-reid".to_string(),
            height: 256,
            width: 128,
            last_stride: 1,
            neck: true,
            reduced: 0,
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            people: 16,
            images: 4,
            validation: 0.0,
            flip: 0.5,
            pad: 10,
            erase: 0.5,
            jitter: 0.0,
        }
    }
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            id: 1.0,
            smoothing: 0.1,
            triplet: 1.0,
            margin: Margin::Hard(0.3),
            distance: TripletDistance::Euclidean,
            centre: 0.0,
            centre_rate: 0.5,
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            method: Method::adam(),
            decay: 5e-4,
            bias_decay: 5e-4,
            bias_rate: 1.0,
            new_rate: 1.0,
            clip: 0.0,
            accumulate: 1,
        }
    }
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            evaluate_every: 10,
            checkpoint_every: 1,
            patience: 0,
        }
    }
}

impl Config {
    /// The defaults, over them the TOML file, over it `settings` such as `schedule.base=1e-4`.
    ///
    /// # Errors
    /// The file cannot be read or is not TOML; a setting is unknown, of the wrong kind or out of
    /// its range.
    pub fn load(file: Option<&Path>, settings: &[String]) -> Result<Self, TrainError> {
        let mut table = table_of(&Self::default())?;
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|error| TrainError::file(path, error))?;
            let own = text
                .parse::<toml::Table>()
                .map_err(|error| TrainError::file(path, error))?;
            merge(&mut table, own);
            // Told with the file's name, before other settings come in.
            Self::of_table(table.clone()).map_err(|reason| TrainError::file(path, reason))?;
        }
        for setting in settings {
            let own = parse_setting(setting)?;
            merge(&mut table, own);
            Self::of_table(table.clone())
                .map_err(|reason| TrainError::Setting(format!("{setting}: {reason}")))?;
        }
        let config = Self::of_table(table).map_err(TrainError::Setting)?;
        config.check()?;
        Ok(config)
    }

    fn of_table(table: toml::Table) -> Result<Self, String> {
        let read = toml::Value::Table(table).try_into::<Self>();
        read.map_err(|error| error.to_string().trim().to_string())
    }

    /// As a TOML file.
    ///
    /// # Errors
    /// A fault of this program.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string_pretty(self).map_err(|error| TrainError::Setting(error.to_string()))
    }

    /// Every setting by its path, for those who show or store them.
    ///
    /// # Errors
    /// A fault of this program.
    pub fn settings(&self) -> Result<Vec<(String, String)>, TrainError> {
        let mut found = Vec::new();
        flatten("", &toml::Value::Table(table_of(self)?), &mut found);
        Ok(found)
    }

    /// Whether all settings make sense.
    ///
    /// # Errors
    /// The first that does not, by its path.
    pub fn check(&self) -> Result<(), TrainError> {
        let fault = self.fault().or_else(|| self.schedule.fault());
        match fault.or_else(|| self.optimizer.method.fault()) {
            Some(fault) => Err(TrainError::Setting(fault)),
            None => Ok(()),
        }
    }

    fn fault(&self) -> Option<String> {
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        let (model, data, loss, optimizer) = (&self.model, &self.data, &self.loss, &self.optimizer);
        let checks = [
            (self.epochs > 0, "epochs is 0"),
            (
                network::is_embedder(&model.architecture),
                "model.architecture is no encoder that `mtmc models list` knows",
            ),
            (
                (16..=1024).contains(&model.height) && (16..=1024).contains(&model.width),
                "model.height and model.width are within 16..=1024",
            ),
            (
                (1..=2).contains(&model.last_stride),
                "model.last_stride is 1 or 2",
            ),
            (
                (2..=1024).contains(&data.people) && (1..=1024).contains(&data.images),
                "data.people is within 2..=1024, data.images within 1..=1024",
            ),
            (
                (0.0..1.0).contains(&data.validation),
                "data.validation is within 0..1",
            ),
            (
                unit(data.flip) && unit(data.erase) && unit(f64::from(data.jitter)),
                "data.flip, data.erase and data.jitter are within 0..=1",
            ),
            (data.pad <= 256, "data.pad is at most 256"),
            (
                not_negative(loss.id) && not_negative(loss.triplet) && not_negative(loss.centre),
                "weights of losses are not negative",
            ),
            (
                loss.id + loss.triplet > 0.0,
                "loss.id or loss.triplet has to be above 0",
            ),
            (
                (0.0..1.0).contains(&loss.smoothing),
                "loss.smoothing is within 0..1",
            ),
            (
                not_negative(loss.centre_rate),
                "loss.centre_rate is not negative",
            ),
            (
                not_negative(optimizer.decay)
                    && not_negative(optimizer.bias_decay)
                    && not_negative(optimizer.bias_rate)
                    && not_negative(optimizer.new_rate)
                    && not_negative(optimizer.clip),
                "decays, rates and clip of the optimizer are not negative",
            ),
            (
                (1..=1024).contains(&optimizer.accumulate),
                "optimizer.accumulate is within 1..=1024",
            ),
            (
                self.run.checkpoint_every > 0,
                "run.checkpoint_every is at least 1",
            ),
        ];
        let broken = checks.iter().find(|(holds, _)| !holds);
        broken.map(|(_, fault)| (*fault).to_string())
    }

    /// What weights of the network say of themselves.
    pub fn description(&self) -> Description {
        let model = &self.model;
        let layers = Layers::named(&model.architecture);
        let variant = layers.map(|_| {
            Variant::Resnet50(ResNet50Config {
                last_stride: model.last_stride,
                stem: Stem::Standard,
                pooling: Pooling::Average,
                neck: model.neck,
                reduced: (model.reduced > 0).then_some(model.reduced),
                relu: false,
            })
        });
        let (mean, std) = IMAGENET;
        Description {
            format: weights::FORMAT_VERSION,
            architecture: model.architecture.clone(),
            classes: Vec::new(),
            input_height: model.height,
            input_width: model.width,
            resize: ResizeMode::Stretch,
            interpolation: Interpolation::PilBilinear,
            mean,
            std,
            feature_dim: None,
            variant,
            batch_norm_eps: None,
            source: "mtmc train reid".to_string(),
            licence: "unknown".to_string(),
        }
    }

    /// How images reach a network of that description.
    pub fn augment(&self, description: &Description) -> Augment {
        let data = &self.data;
        let plain = Augment::none(description.mean, description.std);
        Augment {
            height: description.input_height as u32,
            width: description.input_width as u32,
            flip: data.flip,
            pad: data.pad,
            jitter: (data.jitter > 0.0).then_some(Jitter {
                brightness: data.jitter,
                contrast: data.jitter,
                saturation: data.jitter,
                chance: 1.0,
            }),
            erase: (data.erase > 0.0).then(|| Erase {
                chance: data.erase,
                ..Erase::default()
            }),
            ..plain
        }
    }
}

fn table_of(config: &Config) -> Result<toml::Table, TrainError> {
    toml::Table::try_from(config).map_err(|error| TrainError::Setting(error.to_string()))
}

/// `a.b=1` as a table; what is no TOML value is text.
fn parse_setting(setting: &str) -> Result<toml::Table, TrainError> {
    let Some((path, value)) = setting.split_once('=') else {
        return Err(TrainError::Setting(format!(
            "{setting}: not PATH=VALUE, such as schedule.base=1e-4"
        )));
    };
    let (path, value) = (path.trim(), value.trim());
    let typed = format!("{path} = {value}").parse::<toml::Table>();
    typed
        .or_else(|_| format!("{path} = {value:?}").parse::<toml::Table>())
        .map_err(|error| TrainError::Setting(format!("{setting}: {}", error.message())))
}

/// Puts `own` over `base`, table by table; a table of another `kind` replaces the old one.
fn merge(base: &mut toml::Table, own: toml::Table) {
    for (name, value) in own {
        let old = base.get_mut(&name);
        match (old, value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) if !replaces(old, &new) => {
                merge(old, new);
            }
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

/// Whether `new` is another variant of what `old` is.
fn replaces(old: &toml::Table, new: &toml::Table) -> bool {
    if let Some(kind) = new.get("kind") {
        return old.get("kind") != Some(kind);
    }
    // A margin is written `{ hard = 0.3 }`.
    old.len() == 1 && new.len() == 1 && new.keys().next() != old.keys().next()
}

fn flatten(path: &str, value: &toml::Value, found: &mut Vec<(String, String)>) {
    let toml::Value::Table(table) = value else {
        let text = match value {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        found.push((path.to_string(), text));
        return;
    };
    for (name, value) in table {
        let dot = if path.is_empty() { "" } else { "." };
        flatten(&format!("{path}{dot}{name}"), value, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(settings: &[&str]) -> Result<Config, TrainError> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        Config::load(None, &settings)
    }

    #[test]
    fn settings_go_over_the_defaults() {
        let config = load(&[
            "schedule.base=0.001",
            "loss.margin=soft",
            "model.architecture=osnet-x0.25",
            "schedule.decay={kind=\"step\",every=40,gamma=0.1}",
        ])
        .unwrap();
        assert_eq!(config.schedule.base, 0.001);
        assert_eq!(config.loss.margin, Margin::Soft);
        assert_eq!(config.model.architecture, "osnet-x0.25");
        assert!(matches!(
            config.schedule.decay,
            Decay::Step { every: 40, .. }
        ));
        assert_eq!(config.optimizer, OptimizerConfig::default());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = load(&["loss.margin=soft", "epochs=3"]).unwrap();
        let text = config.to_toml().unwrap();
        let again = Config::of_table(text.parse().unwrap()).unwrap();
        assert_eq!(again, config);
        let settings = config.settings().unwrap();
        assert!(settings.contains(&("data.people".to_string(), "16".to_string())));
    }

    #[test]
    fn the_files_beside_the_program_can_be_loaded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let load = |name: &str| Config::load(Some(&folder.join(name)), &[]).unwrap();
        assert_eq!(load("strong.toml"), Config::default());
        let plain = load("plain.toml");
        assert!(matches!(
            plain.schedule.decay,
            Decay::Step { every: 40, .. }
        ));
        assert_eq!((plain.model.reduced, plain.data.people), (512, 8));
        assert_eq!(load("small.toml").model.architecture, "resnet18-reid-x0.25");
        assert_eq!(load("fine-tune-osnet.toml").optimizer.new_rate, 10.0);
    }

    #[test]
    fn wrong_settings_are_told_by_name() {
        for (setting, part) in [
            ("epochs", "PATH=VALUE"),
            ("epochs=0", "epochs"),
            ("schedule.bsae=1", "bsae"),
            ("model.architecture=vgg", "model.architecture"),
            ("optimizer.accumulate=0", "optimizer.accumulate"),
            ("schedule.base=-1", "schedule.base"),
        ] {
            let error = load(&[setting]).unwrap_err().to_string();
            assert!(error.contains(part), "{setting}: {error}");
        }
    }
}
