//! From the names of a weights file's origin to the names of `mtmc`'s networks.
//!
//! [`plan`] recognises the origin by its tensors' names, renames them, and checks the result
//! against the network's own list: every tensor there with its shape, none left over without a
//! reason. Nothing is folded.

pub mod change;
pub mod clip;
pub mod deimv2;
pub mod encoder;
pub mod huggingface;
pub mod osnet;
pub mod resnet_reid;
pub mod ultralytics;
pub mod variant;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mtmc_models::network::{DETECTORS, EMBEDDERS, is_embedder};
use mtmc_models::{Description, Interpolation, ResizeMode, expected_tensors, weights};

use crate::read::Checkpoint;
use crate::{Error, Result};

pub use change::Change;
pub use variant::EncoderOptions;

/// A tensor under the name that the network uses, with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Name in our file.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// A tensor of the origin's file that our file does not need, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Name in the origin's file.
    pub name: String,
    /// The reason in a few words, for the conversion's report.
    pub reason: String,
}

/// What a mapping makes out of an ONNX graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MappedGraph {
    /// All tensors of the network.
    pub tensors: Vec<NamedTensor>,
    /// Float initialisers that were left out, each with its reason.
    pub dropped: Vec<Dropped>,
}

/// Where the numbers of one of our tensors come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// Tensors of the origin's file, one after the other along the first dimension.
    Stored(Vec<String>),
    /// Made by the mapping.
    Made(Vec<f32>),
    /// A tensor of the origin's file that changes on its way.
    Changed(String, Change),
}

/// One tensor of the file that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub numbers: Numbers,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The network and its preprocessing.
    pub description: Description,
    /// Exactly the network's tensors, by name.
    pub tensors: BTreeMap<String, Planned>,
    /// What is left out, and why.
    pub dropped: Vec<Dropped>,
}

/// What the user says of a file, where it cannot or shall not say so itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Architecture; otherwise found from the tensors.
    pub architecture: Option<String>,
    /// Licence of the weights.
    pub licence: Option<String>,
    /// Where they come from; otherwise the file's name.
    pub source: Option<String>,
    /// Class names by index.
    pub classes: Option<Vec<String>>,
    /// What there is to say of an encoder.
    pub encoder: EncoderOptions,
}

/// Who named the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The authors of RT-DETR (lyuwenyu/RT-DETR); also our own files.
    Authors,
    /// Ultralytics' RT-DETR.
    UltralyticsRtDetr,
    /// Ultralytics' YOLOv8.
    Yolov8,
    /// Hugging Face transformers' RT-DETR.
    Transformers,
    /// The authors of DEIMv2.
    Deimv2,
    /// Whoever named a network that tells people apart.
    Encoder,
}

/// Tensors under our names, before anybody has compared them with a network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Renamed {
    /// Name in our file to names in the origin's, joined along the first dimension.
    pub kept: BTreeMap<String, Vec<String>>,
    /// What is left out, and why.
    pub dropped: Vec<Dropped>,
    /// Names that the mapping does not know.
    pub unknown: Vec<String>,
}

impl Renamed {
    /// Keeps `from` as `to`.
    pub fn keep(&mut self, from: &str, to: impl Into<String>) {
        self.kept
            .entry(to.into())
            .or_default()
            .push(from.to_string());
    }

    /// Leaves `from` out.
    pub fn drop(&mut self, from: &str, reason: &str) {
        self.dropped.push(Dropped {
            name: from.to_string(),
            reason: reason.to_string(),
        });
    }
}

/// Names and shapes of a file.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Plans the conversion of a checkpoint.
///
/// # Errors
/// The tensors belong to no network that is known (or not to the one asked for): the error names
/// the file and the first tensor that is missing, has another shape or has no place.
pub fn plan(checkpoint: &Checkpoint, options: &Options) -> Result<Plan> {
    let path = checkpoint.path();
    let mut shapes = Shapes::new();
    for (name, info) in checkpoint.tensors() {
        shapes.insert(name.clone(), info.shape.clone());
    }
    if let Some(graph) = checkpoint.graph()
        && let Some((architecture, classes)) = deimv2::identify_onnx(graph)
    {
        let mapped = deimv2::map_onnx(graph).map_err(|fault| fault.at(path))?;
        return plan_graph(checkpoint, options, architecture, classes, mapped);
    }
    if let Some(plan) = variant::plan(checkpoint, &shapes, options) {
        return plan;
    }
    let (origin, renamed, candidates) = rename(&shapes).ok_or_else(|| Error::Architecture {
        path: path.to_path_buf(),
        reason: unknown_network(checkpoint),
    })?;
    let candidates = match &options.architecture {
        Some(name) => vec![name.as_str()],
        None => candidates,
    };
    let classes = class_count(origin, &renamed, &shapes).ok_or_else(|| Error::Architecture {
        path: path.to_path_buf(),
        reason: "has no classification head that tells the number of its classes".to_string(),
    })?;
    let tensors = collect(path, &renamed, &shapes)?;
    let mut best: Option<(Vec<Problem>, Description)> = None;
    for name in candidates {
        let Some(description) = describe(checkpoint, options, origin, name, classes) else {
            continue;
        };
        let problems = compare(&description, &tensors, &renamed.unknown)?;
        if problems.is_empty() {
            return Ok(Plan {
                description,
                tensors,
                dropped: renamed.dropped,
            });
        }
        if best
            .as_ref()
            .is_none_or(|(fewest, _)| problems.len() < fewest.len())
        {
            best = Some((problems, description));
        }
    }
    Err(misfit(path, origin, best, options))
}

fn plan_graph(
    checkpoint: &Checkpoint,
    options: &Options,
    architecture: &str,
    classes: usize,
    mapped: MappedGraph,
) -> Result<Plan> {
    let path = checkpoint.path();
    let architecture = options.architecture.as_deref().unwrap_or(architecture);
    let mut tensors = BTreeMap::new();
    for tensor in mapped.tensors {
        let planned = Planned {
            shape: tensor.shape,
            numbers: Numbers::Made(tensor.values),
        };
        tensors.insert(tensor.name, planned);
    }
    let description = describe(checkpoint, options, Origin::Deimv2, architecture, classes);
    let Some(description) = description else {
        return Err(misfit(path, Origin::Deimv2, None, options));
    };
    let problems = compare(&description, &tensors, &[])?;
    if !problems.is_empty() {
        let best = Some((problems, description));
        return Err(misfit(path, Origin::Deimv2, best, options));
    }
    Ok(Plan {
        description,
        tensors,
        dropped: mapped.dropped,
    })
}

/// Recognises the origin; gives the tensors under our names and the architectures they may be.
fn rename(shapes: &Shapes) -> Option<(Origin, Renamed, Vec<&'static str>)> {
    let family = |prefix: &str| {
        let names = DETECTORS.iter().filter(|name| name.starts_with(prefix));
        names.copied().collect::<Vec<_>>()
    };
    if let Some(found) = deimv2::plan(shapes) {
        let mut renamed = Renamed {
            dropped: found.dropped,
            ..Renamed::default()
        };
        for (from, to) in found.kept {
            renamed.keep(&from, to);
        }
        return Some((Origin::Deimv2, renamed, vec![found.architecture]));
    }
    if let Some(renamed) = ultralytics::rename_rtdetr(shapes) {
        return Some((Origin::UltralyticsRtDetr, renamed, family("rtdetr-")));
    }
    if let Some(renamed) = ultralytics::rename_yolov8(shapes) {
        return Some((Origin::Yolov8, renamed, family("yolov8")));
    }
    if let Some(renamed) = huggingface::rename_rtdetr(shapes) {
        return Some((Origin::Transformers, renamed, family("rtdetr-r")));
    }
    if let Some((renamed, candidates)) = encoder::rename(shapes) {
        return Some((Origin::Encoder, renamed, candidates));
    }
    let renamed = rename_authors(shapes)?;
    Some((Origin::Authors, renamed, family("rtdetr-")))
}

/// The authors' names are ours: only what inference does not need goes.
fn rename_authors(shapes: &Shapes) -> Option<Renamed> {
    shapes.get("decoder.dec_score_head.0.weight")?;
    let mut renamed = Renamed::default();
    for name in shapes.keys() {
        match needless(name) {
            Some(reason) => renamed.drop(name, reason),
            None => renamed.keep(name, name),
        }
    }
    Some(renamed)
}

/// Why a tensor of RT-DETR or YOLOv8 is not needed, whoever named it; `None` if it is.
pub(crate) fn needless(name: &str) -> Option<&'static str> {
    if name.ends_with("num_batches_tracked") {
        return Some("counts training steps");
    }
    if name.ends_with("denoising_class_embed.weight") {
        return Some("serves only training");
    }
    match name.rsplit('.').next() {
        Some("anchors" | "valid_mask") => Some("computed from the image's size"),
        _ => None,
    }
}

/// Class count from the classification head, under our names; encoders have no classes.
fn class_count(origin: Origin, renamed: &Renamed, shapes: &Shapes) -> Option<usize> {
    if origin == Origin::Encoder {
        return Some(0);
    }
    let heads = ["decoder.enc_score_head.weight", "model.22.cv3.0.2.weight"];
    let sources = heads.iter().find_map(|head| renamed.kept.get(*head))?;
    let shape = shapes.get(sources.first()?)?;
    shape
        .first()
        .copied()
        .filter(|count| (1..=100_000).contains(count))
}

/// Shapes of our tensors out of those of the origin.
fn collect(path: &Path, renamed: &Renamed, shapes: &Shapes) -> Result<BTreeMap<String, Planned>> {
    let mut tensors = BTreeMap::new();
    for (name, sources) in &renamed.kept {
        let mut shape: Option<Vec<usize>> = None;
        for source in sources {
            let part = shapes.get(source).cloned().unwrap_or_default();
            shape = match shape {
                None => Some(part),
                Some(whole) => Some(join(&whole, &part).ok_or_else(|| {
                    let reason = format!("{part:?} cannot be joined to {whole:?} in `{name}`");
                    Error::tensor(path, source, reason)
                })?),
            };
        }
        let planned = Planned {
            shape: shape.unwrap_or_default(),
            numbers: Numbers::Stored(sources.clone()),
        };
        tensors.insert(name.clone(), planned);
    }
    Ok(tensors)
}

/// Shape of two tensors one after the other along the first dimension.
fn join(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let ([first, rest_a @ ..], [second, rest_b @ ..]) = (a, b) else {
        return None;
    };
    if rest_a != rest_b {
        return None;
    }
    let mut shape = a.to_vec();
    shape[0] = first.checked_add(*second)?;
    Some(shape)
}

/// One way in which tensors are not those of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    tensor: String,
    reason: String,
}

fn compare(
    description: &Description,
    tensors: &BTreeMap<String, Planned>,
    unknown: &[String],
) -> Result<Vec<Problem>> {
    let architecture = &description.architecture;
    let mut problems = Vec::new();
    let mut expected = BTreeSet::new();
    for spec in expected_tensors(description)? {
        let found = match tensors.get(&spec.name) {
            Some(tensor) if tensor.shape == spec.shape => None,
            Some(tensor) => Some(format!("{:?}", tensor.shape)),
            None => Some("nothing".to_string()),
        };
        if let Some(found) = found {
            problems.push(Problem {
                tensor: spec.name.clone(),
                reason: format!("{architecture} expects {:?}, found {found}", spec.shape),
            });
        }
        expected.insert(spec.name);
    }
    let extra = tensors.keys().filter(|name| !expected.contains(*name));
    for name in extra.chain(unknown) {
        problems.push(Problem {
            tensor: name.clone(),
            reason: format!("has no place in {architecture}"),
        });
    }
    Ok(problems)
}

fn misfit(
    path: &Path,
    origin: Origin,
    best: Option<(Vec<Problem>, Description)>,
    options: &Options,
) -> Error {
    let asked = options.architecture.as_deref();
    let Some((problems, description)) = best else {
        let known = match origin {
            Origin::Encoder => EMBEDDERS,
            _ => DETECTORS,
        };
        let reason = format!(
            "`{}` is no architecture of these weights' family; known are {}",
            asked.unwrap_or("?"),
            known.join(", ")
        );
        return Error::Architecture {
            path: path.to_path_buf(),
            reason,
        };
    };
    let count = problems.len();
    let nearest = if asked.is_some() {
        ""
    } else {
        "; no other known network is nearer"
    };
    match problems.into_iter().next() {
        Some(problem) => Error::Tensor {
            path: path.to_path_buf(),
            tensor: problem.tensor,
            reason: format!(
                "{} ({count} such tensors as {}{nearest})",
                problem.reason, description.architecture
            ),
        },
        None => Error::Architecture {
            path: path.to_path_buf(),
            reason: "fits no network".to_string(),
        },
    }
}

fn unknown_network(checkpoint: &Checkpoint) -> String {
    let names: Vec<_> = checkpoint
        .tensors()
        .keys()
        .take(3)
        .map(String::as_str)
        .collect();
    let module = match &checkpoint.facts().module {
        Some(module) => format!(" of a `{module}`"),
        None => String::new(),
    };
    format!(
        "its {} tensors{module} (`{}`, …) are those of no network known here; known are {}, {}",
        checkpoint.tensors().len(),
        names.join("`, `"),
        DETECTORS.join(", "),
        EMBEDDERS.join(", ")
    )
}

/// What a file that this program wrote says of itself.
fn stated(checkpoint: &Checkpoint) -> Option<Description> {
    let text = checkpoint.facts().metadata.get(weights::METADATA_KEY)?;
    serde_json::from_str(text).ok()
}

/// Source and licence: what the user says, what the file says of itself, else its name and
/// `unknown`.
fn origin_of(
    checkpoint: &Checkpoint,
    options: &Options,
    own: Option<&Description>,
) -> (String, String) {
    let file_name = checkpoint.path().file_name();
    let file_name = file_name.map(|name| name.to_string_lossy().into_owned());
    let source = options
        .source
        .clone()
        .or_else(|| own.map(|own| own.source.clone()))
        .or(file_name)
        .unwrap_or_default();
    let licence = options
        .licence
        .clone()
        .or_else(|| own.map(|own| own.licence.clone()))
        .or_else(|| checkpoint.facts().licence.clone())
        .unwrap_or_else(|| "unknown".to_string());
    (source, licence)
}

/// The description of weights as `name`; `None` if there is no such architecture.
fn describe(
    checkpoint: &Checkpoint,
    options: &Options,
    origin: Origin,
    name: &str,
    classes: usize,
) -> Option<Description> {
    let of_this_kind = match origin {
        Origin::Encoder => is_embedder(name),
        _ => DETECTORS.contains(&name),
    };
    if !of_this_kind {
        return None;
    }
    let facts = checkpoint.facts();
    let own =
        stated(checkpoint).filter(|own| own.architecture == name && own.classes.len() == classes);
    let (source, licence) = origin_of(checkpoint, options, own.as_ref());
    if let Some(own) = own {
        return Some(Description {
            source,
            licence,
            ..own
        });
    }
    if origin == Origin::Encoder {
        return encoder::description(name, &source, &licence);
    }
    let classes = class_names(checkpoint, options, classes);
    if origin == Origin::Deimv2 {
        return deimv2::description(name, classes, &source, &licence);
    }
    let ultralytics = matches!(origin, Origin::UltralyticsRtDetr | Origin::Yolov8);
    let side = facts.image_size.unwrap_or(640);
    Some(Description {
        format: weights::FORMAT_VERSION,
        architecture: name.to_string(),
        classes,
        input_height: side,
        input_width: side,
        resize: if origin == Origin::Yolov8 {
            ResizeMode::Letterbox
        } else {
            ResizeMode::Stretch
        },
        interpolation: if ultralytics {
            Interpolation::OpencvBilinear
        } else {
            Interpolation::PilBilinear
        },
        mean: [0.0; 3],
        std: [1.0; 3],
        feature_dim: None,
        variant: None,
        batch_norm_eps: if ultralytics {
            Some(facts.batch_norm_eps.unwrap_or(1e-3))
        } else {
            facts.batch_norm_eps
        },
        source,
        licence,
    })
}

/// Class names: the user's, the file's, those of the `config.json` beside it, COCO's for 80, else
/// numbers.
fn class_names(checkpoint: &Checkpoint, options: &Options, count: usize) -> Vec<String> {
    let found = [
        options.classes.clone(),
        checkpoint.facts().classes.clone(),
        huggingface::config_classes(checkpoint.path()),
    ];
    for names in found.into_iter().flatten() {
        if names.len() == count {
            return names;
        }
    }
    if count == COCO_CLASSES.len() {
        return COCO_CLASSES.iter().map(ToString::to_string).collect();
    }
    (0..count).map(|index| format!("class {index}")).collect()
}

/// The 80 classes of COCO detection in the order of their category numbers.
pub const COCO_CLASSES: [&str; 80] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];
