//! What a training does: a TOML file over the defaults, single settings over the file.
//!
//! The defaults are the strong recipe ("bag of tricks", Luo et al., 2019) for ResNet-50. Every
//! setting has a path such as `schedule.base`, by which the command line sets it.

mod check;
mod describe;

use std::path::Path;

use mtmc_models::clip::Feature;
use mtmc_models::layers::Precision;
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::loss::{Margin, TripletDistance};
use super::optim::Method;
use super::schedule::{Decay, Schedule, Warmup, WarmupKind};

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
    /// CLIP-ReID: texts of people are learnt first, then held against the images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PromptsConfig>,
}

/// CLIP-ReID's first stage (Li et al., AAAI 2023): for each person four vectors that make a text of
/// the prompt "A photo of a X X X X person.", while both encoders of CLIP stay as they are. The
/// second stage, all other settings are its own, learns the image encoder with the texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptsConfig {
    /// Passes over the data, before the others.
    pub epochs: u32,
    /// Images in a batch.
    pub batch: usize,
    /// The rule by which vectors move.
    pub method: Method,
    /// Weight decay.
    pub decay: f64,
    /// How fast.
    pub schedule: Schedule,
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
    /// CLIP: which vector the weights give in the end, `proj` or `full`; as the starting weights if
    /// it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature: Option<Feature>,
    /// CLIP: chance of a number to be left out (dropout).
    pub dropout: f64,
    /// CLIP: chance of an image to pass the last layer by (drop path); layers before it have less.
    pub drop_path: f64,
    /// What products are computed in while learning; parameters are f32 in either case.
    pub precision: Products,
}

/// What products are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Products {
    /// Single precision.
    F32,
    /// bfloat16 operands, sums in f32.
    Bf16,
}

impl From<Products> for Precision {
    fn from(products: Products) -> Self {
        match products {
            Products::F32 => Self::F32,
            Products::Bf16 => Self::Bf16,
        }
    }
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
    /// Whose rectangles those are.
    pub erase_like: EraseLike,
    /// Filter of the resize.
    pub resize: Resize,
    /// Strength of changes of brightness, contrast and saturation, 0..1.
    pub jitter: f32,
}

/// Whose way of erasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EraseLike {
    /// reid-strong-baseline's: 2 to 40 % of the area become light grey.
    StrongBaseline,
    /// timm's, which CLIP-ReID uses: 2 to 33 % become noise.
    Timm,
}

/// How images are brought to the network's size, as Pillow does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// A triangle.
    Bilinear,
    /// A cubic.
    Bicubic,
}

/// What is made small: the weighted sum of up to four losses.
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
    /// Weight of the cross-entropy of images over the texts of people, where there are texts.
    pub i2t: f64,
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
                first: 0,
            },
            run: RunConfig::default(),
            prompts: None,
        }
    }
}

impl Default for PromptsConfig {
    fn default() -> Self {
        Self {
            epochs: 120,
            batch: 64,
            method: Method::adam(),
            decay: 1e-4,
            schedule: Schedule {
                base: 3.5e-4,
                warmup: Some(Warmup {
                    kind: WarmupKind::LinearAlone,
                    epochs: 5,
                    // From 1e-5 on.
                    factor: 1.0 / 35.0,
                }),
                decay: Decay::Cosine {
                    epochs: 120,
                    lowest: 1e-6,
                },
                first: 1,
            },
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
            feature: None,
            dropout: 0.0,
            drop_path: 0.0,
            precision: Products::F32,
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
            erase_like: EraseLike::StrongBaseline,
            resize: Resize::Bilinear,
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
            i2t: 1.0,
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
            begin_prompts(&mut table, &own)?;
            merge(&mut table, own);
            // Told with the file's name, before other settings come in.
            Self::of_table(table.clone()).map_err(|reason| TrainError::file(path, reason))?;
        }
        for setting in settings {
            let own = parse_setting(setting)?;
            begin_prompts(&mut table, &own)?;
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

    /// Epochs of both stages.
    pub fn all_epochs(&self) -> u32 {
        self.epochs.saturating_add(self.prompt_epochs())
    }

    /// Epochs of the first stage.
    pub fn prompt_epochs(&self) -> u32 {
        self.prompts.as_ref().map_or(0, |prompts| prompts.epochs)
    }
}

fn table_of(config: &Config) -> Result<toml::Table, TrainError> {
    toml::Table::try_from(config).map_err(|error| TrainError::Setting(error.to_string()))
}

/// Whoever sets one thing about prompts gets the defaults of the others.
fn begin_prompts(base: &mut toml::Table, own: &toml::Table) -> Result<(), TrainError> {
    if own.contains_key("prompts") && !base.contains_key("prompts") {
        let defaults = toml::Table::try_from(PromptsConfig::default())
            .map_err(|error| TrainError::Setting(error.to_string()))?;
        base.insert("prompts".to_string(), toml::Value::Table(defaults));
    }
    Ok(())
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
mod tests;
