//! The network that is learnt: an encoder in training mode, and what only training needs.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Result, Tensor, Var};
use mtmc_models::clip::{ClipVit, ClipVitConfig, Drops, Feature, Neck};
use mtmc_models::embed::EmbeddingNetwork;
use mtmc_models::layers::{Mode, Params, Precision};
use mtmc_models::network;
use mtmc_models::resnet50::{Layers, ResNet50, ResNet50Config};
use mtmc_models::{Description, Error, Weights};

use crate::random::SplitMix64;

/// Everything that a training changes, by the names in weights files: what is learnt, running
/// statistics, and the classifiers' tensors.
pub type Variables = BTreeMap<String, Var>;

/// First part of the names of the classifier over people.
const CLASSIFIER: &str = "classifier.";

/// The same for the second one of CLIP-ReID, which sees the projection.
const CLASSIFIER_PROJ: &str = "classifier_proj.";

/// Keeps the chance of what is left out apart from others' under the same seed.
const STREAM: u64 = 0x7E15_D20B_93AC_4F68;

/// What a training starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// Tensors that were taken from the weights.
    pub taken: usize,
    /// Tensors that the weights lack: they start at random.
    pub missing: Vec<String>,
    /// Tensors of the weights that the network has no place for, with their shapes.
    pub left_over: Vec<String>,
}

/// Whether a tensor keeps count of what went by, instead of being learnt.
pub fn is_statistic(name: &str) -> bool {
    name.ends_with(".running_mean") || name.ends_with(".running_var")
}

/// Variables for the network of `description` and a classifier of `classes` people: at random by
/// `seed`, then from `weights` where names and shapes agree.
///
/// # Errors
/// The architecture is unknown, or the device fails.
pub fn initial(
    description: &Description,
    classes: usize,
    seed: u64,
    weights: Option<&Weights>,
    device: &Device,
) -> mtmc_models::Result<(Variables, Start)> {
    let mut shapes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for spec in mtmc_models::expected_tensors(description)? {
        shapes.insert(spec.name, spec.shape);
    }
    if let Some(config) = both_vectors(description) {
        shapes.insert(format!("{CLASSIFIER}weight"), vec![classes, config.width]);
        let sizes = vec![classes, config.projection];
        shapes.insert(format!("{CLASSIFIER_PROJ}weight"), sizes);
    } else {
        let dim = network::embedding_dim(description)?;
        shapes.insert(format!("{CLASSIFIER}weight"), vec![classes, dim]);
        if classifier_has_bias(description) {
            shapes.insert(format!("{CLASSIFIER}bias"), vec![classes]);
        }
    }
    let mut start = Start::default();
    let mut variables = Variables::new();
    for (name, shape) in &shapes {
        let given = weights.and_then(|weights| weights.tensors().get(name));
        let given = given.filter(|tensor| tensor.dims() == shape.as_slice());
        let tensor = match given {
            Some(tensor) => {
                start.taken += 1;
                tensor.to_dtype(DType::F32)?.to_device(device)?
            }
            None => {
                start.missing.push(name.clone());
                Tensor::from_vec(at_random(name, shape, seed), shape.as_slice(), device)?
            }
        };
        variables.insert(name.clone(), Var::from_tensor(&tensor)?);
    }
    if let Some(weights) = weights {
        for (name, tensor) in weights.tensors() {
            if shapes.get(name).is_none_or(|shape| shape != tensor.dims()) {
                start.left_over.push(format!("{name} {:?}", tensor.dims()));
            }
        }
        start.left_over.sort();
    }
    Ok((variables, start))
}

/// Length of the features of metric losses.
///
/// # Errors
/// The architecture is unknown.
pub(super) fn metric_dim(description: &Description) -> mtmc_models::Result<usize> {
    let layers = Layers::named(&description.architecture);
    if let (Some(layers), false) = (layers, classifier_has_bias(description)) {
        return Ok(layers.channels());
    }
    network::embedding_dim(description)
}

/// The sizes of a CLIP that is learnt by both of its vectors with a batch norm each, as CLIP-ReID
/// does.
fn both_vectors(description: &Description) -> Option<ClipVitConfig> {
    ClipVitConfig::of(description).filter(|config| {
        let variant = &config.variant;
        (variant.feature, variant.neck) == (Feature::Full, Neck::After)
    })
}

/// A classifier after a bare batch norm needs no bias (BNNeck, Luo et al., 2019).
fn classifier_has_bias(description: &Description) -> bool {
    match ResNet50Config::of(description) {
        Some(config) => !config.neck || config.reduced.is_some(),
        None => true,
    }
}

/// First values as torchvision and reid-strong-baseline choose them: normal, by the outputs
/// (He et al., 2015), the classifier with deviation 0.001; norms change nothing.
pub(super) fn at_random(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let count = shape.iter().product();
    if shape.len() < 2 {
        let value = match name.rsplit('.').next() {
            Some("weight" | "running_var") => 1.0,
            // The exponent of a generalised mean.
            Some("p") => 3.0,
            _ => 0.0,
        };
        return vec![value; count];
    }
    let deviation = if name.starts_with(CLASSIFIER) || name.starts_with(CLASSIFIER_PROJ) {
        0.001
    } else if name.starts_with("prompt_learner.") {
        // As CLIP-ReID's and CLIP's words.
        0.02
    } else {
        let area: usize = shape[2..].iter().product();
        (2.0 / (shape[0] * area) as f64).sqrt()
    };
    let mut random = SplitMix64::new(seed, fnv1a(name));
    (0..count)
        .map(|_| (random.normal() * deviation) as f32)
        .collect()
}

/// FNV-1a, 64 bits: each tensor draws from a sequence of its own.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |value, byte| {
        (value ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// How a network is learnt, beside what its description says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learning {
    /// Of products.
    pub precision: Precision,
    /// Chance of a number of CLIP's to be left out.
    pub dropout: f64,
    /// Chance of an image to pass CLIP's last layer by.
    pub drop_path: f64,
    /// What that chance follows from.
    pub seed: u64,
}

impl Default for Learning {
    fn default() -> Self {
        Self {
            precision: Precision::F32,
            dropout: 0.0,
            drop_path: 0.0,
            seed: 0,
        }
    }
}

/// An encoder and classifiers over the variables.
pub struct Network {
    encoder: Encoder,
    heads: Vec<Head>,
    texts: Option<Tensor>, // [classes, projection]
    learning: Learning,
}

enum Encoder {
    /// Metric losses see the features before the neck.
    Neck(Box<ResNet50>),
    Clip(Box<ClipVit>),
    /// All losses see the same features.
    Plain(Box<dyn EmbeddingNetwork>),
}

/// A classifier over people.
struct Head {
    weight: Tensor,       // [classes, dim]
    bias: Option<Tensor>, // [classes]
}

/// What losses are computed on.
pub struct Output {
    /// `[batch, dim]` each, for triplets; centres are those of the first.
    pub metrics: Vec<Tensor>,
    /// `[batch, classes]` each.
    pub logits: Vec<Tensor>,
    /// Products with the texts of people, `[batch, classes]`, where there are some.
    pub texts: Option<Tensor>,
}

impl Network {
    /// A network in training mode that shares its numbers with the variables.
    ///
    /// # Errors
    /// The variables are not those of the description.
    pub fn new(
        description: &Description,
        variables: &Variables,
        learning: Learning,
        device: &Device,
    ) -> mtmc_models::Result<Self> {
        let mut tensors = HashMap::new();
        for (name, var) in variables {
            tensors.insert(name.clone(), var.as_tensor().clone());
        }
        let mut heads = Vec::new();
        for head in [CLASSIFIER, CLASSIFIER_PROJ] {
            if let Some(weight) = tensors.remove(&format!("{head}weight")) {
                let bias = tensors.remove(&format!("{head}bias"));
                heads.push(Head { weight, bias });
            }
        }
        let both = both_vectors(description).is_some();
        if heads.len() != 1 + usize::from(both) {
            return Err(Error::Input("a classifier is missing".to_string()));
        }
        let vb =
            Weights::from_tensors(description.clone(), tensors).var_builder(DType::F32, device);
        let eps = description.batch_norm_eps.unwrap_or(1e-5);
        let params = Params::new(vb, Mode::Training, eps).precision(learning.precision);
        let layers = Layers::named(&description.architecture);
        let encoder = match (layers, ResNet50Config::of(description)) {
            (Some(layers), Some(config)) if config.neck && config.reduced.is_none() => {
                Encoder::Neck(Box::new(ResNet50::with_layers(layers, &config, &params)?))
            }
            _ => match ClipVitConfig::of(description) {
                Some(config) => Encoder::Clip(Box::new(ClipVit::new(&config, &params)?)),
                None => Encoder::Plain(network::build_embedder(description, &params)?),
            },
        };
        Ok(Self {
            encoder,
            heads,
            texts: None,
            learning,
        })
    }

    /// Holds images against the vectors of people's texts, `[classes, projection]`, from now on.
    pub fn set_texts(&mut self, texts: Tensor) {
        self.texts = Some(texts);
    }

    /// `images`: `[batch, 3, height, width]`, normalised; `step`: number of the step, from which
    /// follows what is left out.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn forward(&self, images: &Tensor, step: u64) -> Result<Output> {
        let mut texts = None;
        let (metrics, features) = match &self.encoder {
            Encoder::Neck(network) => {
                let pooled = network.pooled(images)?;
                let features = network.finish(&pooled)?;
                (vec![pooled], vec![features])
            }
            Encoder::Clip(network) => {
                let mut random = SplitMix64::new(self.learning.seed ^ STREAM, step);
                let mut draw = || random.unit();
                let mut drops = Drops {
                    numbers: self.learning.dropout,
                    path: self.learning.drop_path,
                    draw: Some(&mut draw),
                };
                let class = network.class_tokens_dropped(images, None, &mut drops)?;
                if let Some(known) = &self.texts {
                    texts = Some(class.projected.matmul(&known.t()?)?);
                }
                if self.heads.len() == 2 {
                    let (full, projected) = network.normed(&class)?;
                    let metrics = vec![class.before_last, class.full, class.projected];
                    (metrics, vec![full, projected])
                } else {
                    let features = network.vectors_of(&class)?;
                    (vec![features.clone()], vec![features])
                }
            }
            Encoder::Plain(network) => {
                let features = network.forward(images)?;
                (vec![features.clone()], vec![features])
            }
        };
        let mut logits = Vec::new();
        for (head, features) in self.heads.iter().zip(&features) {
            logits.push(head.forward(features)?);
        }
        Ok(Output {
            metrics,
            logits,
            texts,
        })
    }
}

impl Head {
    fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let logits = features.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => logits.broadcast_add(bias),
            None => Ok(logits),
        }
    }
}

/// Whether a variable is learnt: statistics are not, nor is the bias of a neck that a classifier
/// without bias follows (BNNeck).
pub fn is_learnt(name: &str, variables: &Variables) -> bool {
    let bare_neck = !variables.contains_key(&format!("{CLASSIFIER}bias"));
    let necks = ["bn.bias", "bottleneck.bias", "bottleneck_proj.bias"];
    !(is_statistic(name) || (bare_neck && necks.contains(&name)))
}
