//! DEIMv2 (sizes atto, femto, pico and n): the authors' checkpoints and ONNX exports.
//!
//! Our names are those of the authors' training code, so that a checkpoint needs no renaming, only
//! sorting: [`plan`]. The ONNX export deploys the network first. [`map_onnx`] takes that back:
//!
//! - Batch norms have become a part of the convolutions before them. The weight goes back as it
//!   is, with a norm that does nothing but add the bias: scale 1, mean 0, variance 1 − 1e-5.
//! - A 3×3 and a 1×1 branch have become one 3×3 convolution. It goes back as the 3×3 branch; the
//!   1×1 branch is zero.
//! - Linear layers have become products with the transposed weight, under a number for a name.
//!   The bias added to the product keeps its name and tells which layer it is; the three packed
//!   into an attention's `in_proj` are told apart by the node's name.
//! - `decoder.up` has become the table of bin offsets. It is found again from the table's ends,
//!   and the whole table is checked against it.
//!
//! The anchors are left out: we compute them. The published files hold anchors that were averaged
//! along with the weights in training, which moved them by up to 2.4e-4 before the sigmoid; boxes
//! differ by that, at most 0.1 pixels in an image of 640.
//!
//! Otherwise a network from such a file computes what the export did. As its norms have lost their
//! statistics, it is no good starting point for training.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mtmc_models::deimv2::{Deimv2Config, NAMES, weighting_function};
use mtmc_models::{Description, Interpolation, ResizeMode, weights};

use super::{Dropped, MappedGraph, NamedTensor};
use crate::Malformed;
use crate::read::onnx::{Node, OnnxModel, OnnxTensor};

/// Epsilon of the authors' batch norms.
const NORM_EPS: f32 = 1e-5;

/// Layers of the decoder in all four sizes.
const LAYERS: usize = 3;

/// The bin offsets' largest deviation from the weighting function that is still rounding.
const TABLE_TOLERANCE: f32 = 1e-5;

/// The description of weights of `architecture`, one of [`NAMES`]: RGB in 0..=1 without further
/// normalisation, stretched as Pillow's bilinear filter does it (torchvision's `Resize` in the
/// authors' validation, `tools/inference/onnx_inf.py` for the lack of normalisation).
pub fn description(
    architecture: &str,
    classes: Vec<String>,
    source: &str,
    licence: &str,
) -> Option<Description> {
    let side = Deimv2Config::named(architecture, classes.len())?.input_side;
    Some(Description {
        format: weights::FORMAT_VERSION,
        architecture: architecture.to_string(),
        classes,
        input_height: side,
        input_width: side,
        resize: ResizeMode::Stretch,
        interpolation: Interpolation::PilBilinear,
        mean: [0.0; 3],
        std: [1.0; 3],
        feature_dim: None,
        variant: None,
        batch_norm_eps: None,
        source: source.to_string(),
        licence: licence.to_string(),
    })
}

/// Size and number of classes that a score head of shape `[classes, hidden]` belongs to.
fn identify(score_head: &[usize]) -> Option<(&'static str, usize)> {
    let &[classes, hidden] = score_head else {
        return None;
    };
    let fits = |name: &&str| {
        Deimv2Config::named(name, classes).is_some_and(|config| config.decoder.hidden == hidden)
    };
    NAMES.into_iter().find(fits).map(|name| (name, classes))
}

/// What becomes of a checkpoint's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One of [`NAMES`].
    pub architecture: &'static str,
    /// Number of classes.
    pub classes: usize,
    /// Name in the checkpoint and name in our file.
    pub kept: Vec<(String, String)>,
    /// What our file does not need.
    pub dropped: Vec<Dropped>,
}

/// Sorts the tensors (name to shape) of an authors' checkpoint: the state dict of a `.pth` (its
/// `ema.module` or `model`) or the safetensors on Hugging Face, which leave out the second name of
/// a tensor that has two.
///
/// `None`: not a DEIMv2 of a known size.
pub fn plan(shapes: &BTreeMap<String, Vec<usize>>) -> Option<Plan> {
    let (architecture, classes) = identify(shapes.get("decoder.enc_score_head.weight")?)?;
    // Of the family members that share the decoder only these have gated feed-forward layers.
    shapes.get("decoder.decoder.layers.0.swish_ffn.w12.weight")?;
    let config = Deimv2Config::named(architecture, classes)?;
    let mut plan = Plan {
        architecture,
        classes,
        kept: Vec::new(),
        dropped: Vec::new(),
    };
    for name in shapes.keys() {
        if let Some(reason) = needless(name, config.decoder.shared_bbox_head) {
            plan.dropped.push(Dropped {
                name: name.clone(),
                reason: reason.to_string(),
            });
            continue;
        }
        // The decoder within the decoder holds these two a second time.
        let outer = match name.as_str() {
            "decoder.decoder.up" => "decoder.up",
            "decoder.decoder.reg_scale" => "decoder.reg_scale",
            _ => name,
        };
        if outer != name && shapes.contains_key(outer) {
            plan.dropped.push(Dropped {
                name: name.clone(),
                reason: format!("the same tensor as `{outer}`"),
            });
            continue;
        }
        plan.kept.push((name.clone(), outer.to_string()));
    }
    Some(plan)
}

/// Why a checkpoint's tensor is not needed, if it is not.
fn needless(name: &str, shared_bbox_head: bool) -> Option<&'static str> {
    if name.ends_with(".num_batches_tracked") {
        return Some("counts training steps");
    }
    if name == "decoder.denoising_class_embed.weight" {
        return Some("serves only training");
    }
    if matches!(name, "decoder.anchors" | "decoder.valid_mask") {
        return Some("computed from the image's size");
    }
    if name.ends_with(".cross_attn.num_points_scale") {
        return Some("computed from the number of points");
    }
    for index in 0..LAYERS {
        let early = index + 1 < LAYERS;
        let score = format!("decoder.dec_score_head.{index}.");
        let quality = format!("decoder.decoder.lqe_layers.{index}.");
        if early && (name.starts_with(&score) || name.starts_with(&quality)) {
            return Some("serves only training");
        }
        let boxes = format!("decoder.dec_bbox_head.{index}.");
        if shared_bbox_head && index > 0 && name.starts_with(&boxes) {
            return Some("the same tensor as that of `decoder.dec_bbox_head.0`");
        }
    }
    None
}

/// Size and number of classes of an ONNX export; `None` if it is no DEIMv2 of a known size.
pub fn identify_onnx(model: &OnnxModel) -> Option<(&'static str, usize)> {
    model
        .initializers
        .get("model.decoder.decoder.layers.0.swish_ffn.w12.bias")?;
    let classes = model
        .initializers
        .get("model.decoder.enc_score_head.bias")?;
    let hidden = model
        .initializers
        .get("model.decoder.enc_bbox_head.layers.0.bias")?;
    identify(&[*classes.shape.first()?, *hidden.shape.first()?])
}

/// The tensors of an export by the authors' `tools/deployment/export_onnx.py`, under our names.
///
/// # Errors
/// A node or a weight that such an export does not have; the message names it.
pub fn map_onnx(model: &OnnxModel) -> Result<MappedGraph, Malformed> {
    let mut mapping = OnnxMapping::new(model);
    for node in &model.nodes {
        match node.op_type.as_str() {
            "Conv" => mapping.convolution(node)?,
            "MatMul" => mapping.product(node)?,
            "Gemm" => mapping.gemm(node)?,
            "BatchNormalization" => {
                return Err(Malformed(format!(
                    "node `{}`: batch norms were expected to be folded; export with \
                     do_constant_folding",
                    node.name
                )));
            }
            _ => {}
        }
    }
    mapping.packed_projections()?;
    mapping.bins()?;
    mapping.rest()?;
    Ok(mapping.finish())
}

/// Weight `[features, size]` and bias `[features]` of one of an attention's three projections.
type Projection = (Vec<usize>, Vec<f32>, Vec<f32>);

struct OnnxMapping<'a> {
    model: &'a OnnxModel,
    /// Nodes that take a value, by the value's name.
    consumers: HashMap<&'a str, Vec<&'a Node>>,
    tensors: BTreeMap<String, NamedTensor>,
    /// Initialisers that have gone into a tensor.
    used: BTreeSet<&'a str>,
    /// Projections by attention and by place: query, key, value.
    projections: BTreeMap<String, [Option<Projection>; 3]>,
    /// Name of the table of bin offsets.
    table: Option<&'a str>,
    dropped: Vec<Dropped>,
}

impl<'a> OnnxMapping<'a> {
    fn new(model: &'a OnnxModel) -> Self {
        let mut consumers: HashMap<&str, Vec<&Node>> = HashMap::new();
        for node in &model.nodes {
            for input in &node.inputs {
                consumers.entry(input).or_default().push(node);
            }
        }
        Self {
            model,
            consumers,
            tensors: BTreeMap::new(),
            used: BTreeSet::new(),
            projections: BTreeMap::new(),
            table: None,
            dropped: Vec::new(),
        }
    }

    /// The float initialiser that is a node's input, marked as used.
    fn take(&mut self, name: &'a str) -> Option<&'a OnnxTensor> {
        let tensor = self.model.initializers.get(name)?;
        tensor.floats()?;
        self.used.insert(name);
        Some(tensor)
    }

    fn insert(
        &mut self,
        name: String,
        shape: Vec<usize>,
        values: Vec<f32>,
    ) -> Result<(), Malformed> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Malformed(format!(
                "tensor `{name}`: its parts make {} numbers, not {shape:?}",
                values.len()
            )));
        }
        let tensor = NamedTensor {
            name: name.clone(),
            shape,
            values,
        };
        // A module that runs several times gives the same weights each time.
        match self.tensors.insert(name, tensor.clone()) {
            Some(before) if before != tensor => Err(Malformed(format!(
                "tensor `{}` would come from two different weights",
                tensor.name
            ))),
            _ => Ok(()),
        }
    }

    /// A norm that only adds `bias`.
    fn insert_norm(&mut self, norm: &str, bias: &[f32]) -> Result<(), Malformed> {
        let parts = [
            ("weight", vec![1.0; bias.len()]),
            ("bias", bias.to_vec()),
            ("running_mean", vec![0.0; bias.len()]),
            ("running_var", vec![1.0 - NORM_EPS; bias.len()]),
        ];
        for (part, values) in parts {
            self.insert(format!("{norm}.{part}"), vec![values.len()], values)?;
        }
        Ok(())
    }

    fn convolution(&mut self, node: &'a Node) -> Result<(), Malformed> {
        let fault = |what: &str| Malformed(format!("node `{}`: {what}", node.name));
        let name = node.inputs.get(1).ok_or_else(|| fault("has no weight"))?;
        let weight = self.take(name);
        let weight = weight.ok_or_else(|| fault("its weight is no initialiser"))?;
        let values = weight.floats().unwrap_or_default();
        let &[output, input, ..] = weight.shape.as_slice() else {
            return Err(fault("its weight has no channels"));
        };
        let bias = match node.inputs.get(2).and_then(|name| self.take(name)) {
            Some(tensor) => tensor.floats().unwrap_or_default().to_vec(),
            None => vec![0.0; output],
        };
        if bias.len() != output {
            return Err(fault("its bias does not fit its weight"));
        }
        let module = match name
            .strip_prefix("model.")
            .and_then(|n| n.strip_suffix(".weight"))
        {
            Some(module) => module.to_string(),
            None => module_path(&node.name).ok_or_else(|| fault("is in no module"))?,
        };
        let (conv, norm) = places(&module).ok_or_else(|| fault("belongs to no known layer"))?;
        if let Some(block) = conv.strip_suffix(".conv1.conv")
            && block.contains(".bottlenecks.")
        {
            let zero = format!("{block}.conv2");
            let shape = vec![output, input, 1, 1];
            let zeros = vec![0.0; output * input];
            self.insert(format!("{zero}.conv.weight"), shape, zeros)?;
            self.insert_norm(&format!("{zero}.norm"), &vec![0.0; output])?;
        }
        self.insert(
            format!("{conv}.weight"),
            weight.shape.clone(),
            values.to_vec(),
        )?;
        self.insert_norm(&norm, &bias)
    }

    fn product(&mut self, node: &'a Node) -> Result<(), Malformed> {
        let fault = |what: &str| Malformed(format!("node `{}`: {what}", node.name));
        let Some(name) = node.inputs.get(1) else {
            return Err(fault("has no second factor"));
        };
        let Some(weight) = self.take(name) else {
            return Ok(()); // attention: both factors are computed
        };
        if weight.shape.len() == 1 {
            // The mean over the bins of an edge's distribution.
            if self.table.is_some_and(|table| table != name) {
                return Err(fault("a second table of bin offsets"));
            }
            self.table = Some(name);
            return Ok(());
        }
        let (shape, values) = transposed(weight).ok_or_else(|| fault("its weight is no matrix"))?;
        let (bias_name, bias) = self.added_bias(node).ok_or_else(|| fault("has no bias"))?;
        if let Some(module) = bias_name.strip_prefix("model.") {
            let module = module
                .strip_suffix(".bias")
                .ok_or_else(|| fault("its bias has a strange name"))?;
            self.insert(format!("{module}.weight"), shape, values)?;
            return self.insert(format!("{module}.bias"), bias.shape.clone(), floats(bias));
        }
        let path = module_path(&node.name).ok_or_else(|| fault("is in no module"))?;
        if !path.ends_with(".self_attn") {
            return Err(fault("belongs to no known layer"));
        }
        // PyTorch projects query, key and value in this order; a name's repetitions are counted.
        let place = match node.name.rsplit('/').next() {
            Some("MatMul") => 0,
            Some("MatMul_1") => 1,
            Some("MatMul_2") => 2,
            _ => return Err(fault("an attention has three projections")),
        };
        let attention = self.projections.entry(path).or_default();
        attention[place] = Some((shape, values, floats(bias)));
        Ok(())
    }

    /// The bias that is added to the product, by the node that takes it.
    fn added_bias(&mut self, product: &'a Node) -> Option<(&'a str, &'a OnnxTensor)> {
        let output = product.outputs.first()?;
        let takers = self.consumers.get(output.as_str())?;
        let add = *takers.iter().find(|node| node.op_type == "Add")?;
        let name = add.inputs.iter().find(|name| *name != output)?;
        Some((name, self.take(name)?))
    }

    /// A linear layer that kept its name: the attention's output projection.
    fn gemm(&mut self, node: &'a Node) -> Result<(), Malformed> {
        let fault = |what: &str| Malformed(format!("node `{}`: {what}", node.name));
        let [_, weight_name, bias_name] = node.inputs.as_slice() else {
            return Err(fault("has not three inputs"));
        };
        let weight = self.take(weight_name);
        let weight = weight.ok_or_else(|| fault("its weight is no initialiser"))?;
        let bias = self.take(bias_name);
        let bias = bias.ok_or_else(|| fault("its bias is no initialiser"))?;
        let module = bias_name
            .strip_prefix("model.")
            .and_then(|name| name.strip_suffix(".bias"))
            .ok_or_else(|| fault("its bias has a strange name"))?;
        let (shape, values) = if node.int("transB") == Some(1) {
            (weight.shape.clone(), floats(weight))
        } else {
            transposed(weight).ok_or_else(|| fault("its weight is no matrix"))?
        };
        self.insert(format!("{module}.weight"), shape, values)?;
        self.insert(format!("{module}.bias"), bias.shape.clone(), floats(bias))
    }

    /// Packs each attention's three projections into `in_proj_weight` and `in_proj_bias`.
    fn packed_projections(&mut self) -> Result<(), Malformed> {
        for (attention, parts) in std::mem::take(&mut self.projections) {
            let (mut weights, mut biases, mut columns) = (Vec::new(), Vec::new(), 0);
            for part in parts {
                let Some((shape, weight, bias)) = part else {
                    return Err(Malformed(format!("`{attention}` lacks a projection")));
                };
                columns = shape[1];
                weights.extend(weight);
                biases.extend(bias);
            }
            let rows = biases.len();
            self.insert(
                format!("{attention}.in_proj_weight"),
                vec![rows, columns],
                weights,
            )?;
            self.insert(format!("{attention}.in_proj_bias"), vec![rows], biases)?;
        }
        Ok(())
    }

    /// `up` and `reg_scale` from the table of bin offsets.
    fn bins(&mut self) -> Result<(), Malformed> {
        let name = "model.decoder.reg_scale";
        let scale = self.model.initializers.get(name);
        let reg_scale = match scale.map(|tensor| (tensor.ints(), tensor.floats())) {
            Some((Some(&[scale]), _)) => scale as f32,
            Some((_, Some(&[scale]))) => scale,
            _ => {
                return Err(Malformed(format!(
                    "tensor `{name}` is missing or no number"
                )));
            }
        };
        self.used.insert(name);
        let table = self
            .table
            .and_then(|name| self.model.initializers.get(name));
        let table = table.and_then(OnnxTensor::floats).unwrap_or_default();
        let Some(last) = table.last() else {
            return Err(Malformed::new("the table of bin offsets is missing"));
        };
        let up = last / (2.0 * reg_scale);
        let expected = weighting_function(up, reg_scale);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= TABLE_TOLERANCE * last.abs();
        if table.len() != expected.len() || !table.iter().zip(&expected).all(near) {
            return Err(Malformed::new(
                "the table of bin offsets is not D-FINE's weighting function",
            ));
        }
        self.insert("decoder.up".to_string(), vec![1], vec![up])?;
        self.insert("decoder.reg_scale".to_string(), vec![1], vec![reg_scale])
    }

    /// Tensors that kept their names (norms and affine blocks), and what is not needed.
    fn rest(&mut self) -> Result<(), Malformed> {
        let model = self.model;
        for (name, tensor) in &model.initializers {
            let Some(values) = tensor.floats() else {
                continue; // shapes and indices
            };
            if self.used.contains(name.as_str()) {
                continue;
            }
            if let Some(ours) = name.strip_prefix("model.") {
                self.insert(ours.to_string(), tensor.shape.clone(), values.to_vec())?;
                continue;
            }
            let reason = self.constant(name, values).ok_or_else(|| {
                Malformed(format!("tensor `{name}` {:?} is unexplained", tensor.shape))
            })?;
            self.dropped.push(Dropped {
                name: name.clone(),
                reason: reason.to_string(),
            });
        }
        Ok(())
    }

    /// What a constant that is no weight is there for.
    fn constant(&self, name: &str, values: &[f32]) -> Option<&'static str> {
        if name.starts_with('/') {
            return Some("a constant of the graph"); // anchors and plain numbers
        }
        let taker = self.consumers.get(name)?.first()?;
        if taker.op_type != "Mul" {
            return None;
        }
        if taker.name.contains("/cross_attn/") {
            return Some("computed from the number of points");
        }
        let mask = values.iter().all(|value| *value == 0.0 || *value == 1.0);
        mask.then_some("computed from the image's size")
    }

    fn finish(self) -> MappedGraph {
        MappedGraph {
            tensors: self.tensors.into_values().collect(),
            dropped: self.dropped,
        }
    }
}

fn floats(tensor: &OnnxTensor) -> Vec<f32> {
    tensor.floats().unwrap_or_default().to_vec()
}

/// A matrix with rows and columns exchanged; `None` if it is no matrix.
fn transposed(tensor: &OnnxTensor) -> Option<(Vec<usize>, Vec<f32>)> {
    let &[rows, columns] = tensor.shape.as_slice() else {
        return None;
    };
    let values = tensor.floats()?;
    let mut out = Vec::with_capacity(values.len());
    for column in 0..columns {
        for row in 0..rows {
            out.push(values[row * columns + column]);
        }
    }
    Some((vec![columns, rows], out))
}

/// The module that a node stands for: `/model/backbone/stem/stem1/conv/Conv` is
/// `backbone.stem.stem1.conv`. A sequence repeats its own name before its parts'
/// (`blocks/blocks.0`); `None` for a node outside the network.
fn module_path(node: &str) -> Option<String> {
    let (path, _) = node.strip_prefix("/model/")?.rsplit_once('/')?;
    let parts: Vec<&str> = path.split('/').collect();
    let mut module = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let repeated = parts.get(index + 1).is_some_and(|next| {
            next.strip_prefix(part)
                .is_some_and(|rest| rest.starts_with('.'))
        });
        if !repeated {
            module.push(*part);
        }
    }
    Some(module.join("."))
}

/// Where a deployed convolution's weight and norm belong: names without `.weight`, `.bias` ….
fn places(module: &str) -> Option<(String, String)> {
    if let Some(layer) = module.strip_suffix(".conv_bn_fused") {
        return Some((format!("{layer}.conv"), format!("{layer}.norm")));
    }
    if let Some(layer) = module.strip_suffix(".1") {
        // Second place of the pooling sequences; the norm is in the third.
        return layer
            .starts_with("encoder.down_sample")
            .then(|| (module.to_string(), format!("{layer}.2")));
    }
    let layer = module.strip_suffix(".conv")?;
    if layer.starts_with("backbone.") {
        return Some((module.to_string(), format!("{layer}.bn")));
    }
    if layer.contains(".bottlenecks.") {
        return Some((format!("{layer}.conv1.conv"), format!("{layer}.conv1.norm")));
    }
    Some((module.to_string(), format!("{layer}.norm")))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Node names of the published atto export.
    #[test]
    fn node_names_give_module_paths() {
        let cases = [
            (
                "/model/backbone/stem/stem1/conv/Conv",
                "backbone.stem.stem1.conv",
            ),
            (
                "/model/backbone/stages.2/blocks/blocks.0/layers.0/conv1/conv/Conv",
                "backbone.stages.2.blocks.0.layers.0.conv1.conv",
            ),
            (
                "/model/encoder/down_sample1/down_sample1.1/Conv",
                "encoder.down_sample1.1",
            ),
            (
                "/model/decoder/decoder/layers.1/self_attn/MatMul_2",
                "decoder.decoder.layers.1.self_attn",
            ),
        ];
        for (node, module) in cases {
            assert_eq!(module_path(node).as_deref(), Some(module));
        }
        assert_eq!(module_path("/postprocessor/TopK"), None);
        assert_eq!(module_path(""), None);
    }

    #[test]
    fn a_norm_that_only_adds_folds_to_its_bias() {
        let folded = 1.0 / (f64::from(1.0 - NORM_EPS) + 1e-5).sqrt();
        assert_eq!((0.7 * folded) as f32, 0.7);
    }

    /// The tensors of a checkpoint of `name` as the authors' code saves it: what the network
    /// asks for, plus what only training has.
    fn checkpoint(name: &str) -> BTreeMap<String, Vec<usize>> {
        let classes = vec![String::new(); 80];
        let description = description(name, classes, "", "").unwrap();
        let specs = mtmc_models::expected_tensors(&description).unwrap();
        let mut shapes: BTreeMap<_, _> = specs
            .into_iter()
            .map(|spec| (spec.name, spec.shape))
            .collect();
        for extra in [
            "decoder.anchors",
            "decoder.valid_mask",
            "decoder.denoising_class_embed.weight",
            "decoder.dec_score_head.0.weight",
            "decoder.decoder.lqe_layers.1.reg_conf.layers.0.bias",
            "decoder.decoder.layers.2.cross_attn.num_points_scale",
            "backbone.stem.stem1.bn.num_batches_tracked",
            "decoder.decoder.up",
            "decoder.decoder.reg_scale",
        ] {
            shapes.insert(extra.to_string(), vec![1]);
        }
        shapes
    }

    #[test]
    fn a_checkpoint_keeps_exactly_what_the_network_needs() {
        for name in NAMES {
            let mut shapes = checkpoint(name);
            let total = shapes.len();
            let plan = plan(&shapes).unwrap();
            assert_eq!((plan.architecture, plan.classes), (name, 80));
            assert_eq!(plan.dropped.len(), 9);
            assert_eq!(plan.kept.len(), total - 9);
            assert!(plan.kept.iter().all(|(from, to)| from == to));
            // Safetensors keep the alphabetically first of a tensor's names.
            shapes.remove("decoder.up");
            let plan = super::plan(&shapes).unwrap();
            let renamed = ("decoder.decoder.up".to_string(), "decoder.up".to_string());
            assert!(plan.kept.contains(&renamed));
        }
    }

    #[test]
    fn a_shared_box_head_is_kept_once() {
        let mut shapes = checkpoint("deimv2-femto");
        shapes.insert(
            "decoder.dec_bbox_head.2.layers.0.bias".to_string(),
            vec![96],
        );
        let femto = plan(&shapes).unwrap();
        assert!(
            femto
                .dropped
                .iter()
                .any(|d| d.name.contains("dec_bbox_head.2"))
        );
        let n = plan(&checkpoint("deimv2-n")).unwrap();
        assert!(
            n.kept
                .iter()
                .any(|(_, to)| to == "decoder.dec_bbox_head.2.layers.0.bias")
        );
    }

    #[test]
    fn other_networks_are_none_of_ours() {
        assert_eq!(plan(&BTreeMap::new()), None);
        assert_eq!(identify(&[80, 256]), None);
        assert!(map_onnx(&OnnxModel::default()).is_err());
    }
}
