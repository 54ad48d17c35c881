//! Weights of networks that tell people apart: which family they are, and how their images are
//! prepared.

use mtmc_models::network::{self, EMBEDDERS};
use mtmc_models::{Description, Interpolation, ResizeMode, weights};

use super::{Renamed, Shapes, osnet};

/// Mean of ImageNet's pixels in 0..=1, RGB.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Their standard deviation.
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Recognises an encoder; gives its tensors under our names and the architectures it may be.
pub fn rename(shapes: &Shapes) -> Option<(Renamed, Vec<&'static str>)> {
    osnet::rename(shapes)
}

/// Architectures whose names begin with `prefix`.
pub fn family(prefix: &str) -> Vec<&'static str> {
    let names = EMBEDDERS.iter().filter(|name| name.starts_with(prefix));
    names.copied().collect()
}

/// Why a tensor of an encoder is not needed, whoever named it; `None` if it is.
pub fn needless(name: &str) -> Option<&'static str> {
    if name.ends_with("num_batches_tracked") {
        return Some("counts training steps");
    }
    if name.starts_with("classifier.") {
        return Some("tells the identities of the training set apart");
    }
    None
}

/// What most encoders have in common: images of 256×128, normalised as ImageNet's; neither source
/// nor licence nor size of the vectors yet.
pub fn blank(name: &str) -> Description {
    Description {
        format: weights::FORMAT_VERSION,
        architecture: name.to_string(),
        classes: Vec::new(),
        input_height: 256,
        input_width: 128,
        resize: ResizeMode::Stretch,
        // torchvision's `Resize` of PIL images, which antialiases.
        interpolation: Interpolation::PilBilinear,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        feature_dim: None,
        variant: None,
        batch_norm_eps: None,
        source: String::new(),
        licence: String::new(),
    }
}

/// The description of weights as `name`; `None` if there is no such encoder.
pub fn description(name: &str, source: &str, licence: &str) -> Option<Description> {
    if !network::is_embedder(name) {
        return None;
    }
    let mut description = Description {
        source: source.to_string(),
        licence: licence.to_string(),
        ..blank(name)
    };
    description.feature_dim = Some(network::embedding_dim(&description).ok()?);
    Some(description)
}
