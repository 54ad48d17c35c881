//! What settings say of the network and its images.

use mtmc_models::clip::{self, ClipVitVariant, Feature, Neck};
use mtmc_models::preprocess::Filter;
use mtmc_models::resnet50::{Layers, Pooling, ResNet50Config, Stem};
use mtmc_models::{Description, Interpolation, ResizeMode, Variant, weights};

use super::{Config, EraseLike, Resize};
use crate::train::TrainError;
use crate::train::data::{Augment, Erase, Jitter};

/// Mean and deviation of `ImageNet`'s pixels in 0..=1, RGB.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// What CLIP-ReID takes for them.
const CLIP: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);

/// Whether that is CLIP's image encoder.
pub(super) fn is_clip(architecture: &str) -> bool {
    [clip::NAME, clip::TINY].contains(&architecture)
}

impl Config {
    /// What weights of the network say of themselves.
    pub fn description(&self) -> Description {
        let model = &self.model;
        let layers = Layers::named(&model.architecture);
        let resnet = layers.map(|_| {
            Variant::Resnet50(ResNet50Config {
                last_stride: model.last_stride,
                stem: Stem::Standard,
                pooling: Pooling::Average,
                neck: model.neck,
                reduced: (model.reduced > 0).then_some(model.reduced),
                relu: false,
            })
        });
        let (mean, std) = if is_clip(&model.architecture) {
            CLIP
        } else {
            IMAGENET
        };
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
            variant: resnet,
            batch_norm_eps: None,
            source: "mtmc train reid".to_string(),
            licence: "unknown".to_string(),
        }
    }

    /// The same for a training that begins from weights: those bring their own way of preparing
    /// images, and what else their names leave open.
    ///
    /// # Errors
    /// The weights are of another architecture.
    pub fn description_from(&self, start: Option<&Description>) -> Result<Description, TrainError> {
        let own = self.description();
        if let Some(start) = start
            && start.architecture != own.architecture
        {
            return Err(TrainError::Setting(format!(
                "the starting weights are of {}, model.architecture is {}",
                start.architecture, own.architecture
            )));
        }
        let variant = start.and_then(|start| start.variant.clone());
        let mut description = match start {
            None => own.clone(),
            Some(start) => Description {
                input_height: own.input_height,
                input_width: own.input_width,
                source: format!("mtmc train reid, from {}", start.source),
                ..start.clone()
            },
        };
        description.variant = if is_clip(&own.architecture) {
            Some(Variant::ClipVit(self.clip_variant(variant.as_ref())))
        } else {
            own.variant.or(variant)
        };
        Ok(description)
    }

    fn clip_variant(&self, start: Option<&Variant>) -> ClipVitVariant {
        let start = match start {
            Some(Variant::ClipVit(start)) => *start,
            _ => ClipVitVariant::default(),
        };
        ClipVitVariant {
            feature: self.model.feature.unwrap_or(start.feature),
            // As the reference measures.
            neck: if self.prompts.is_some() {
                Neck::Before
            } else {
                start.neck
            },
            text: false,
            ..start
        }
    }

    /// What the network holds while it learns: CLIP-ReID's losses see both vectors, before and after
    /// a batch norm each, whatever its weights give in the end.
    pub fn learnt(&self, description: &Description) -> Description {
        let mut learnt = description.clone();
        if let (Some(_), Some(Variant::ClipVit(variant))) = (&self.prompts, &mut learnt.variant) {
            variant.feature = Feature::Full;
            variant.neck = Neck::After;
        }
        learnt
    }

    /// How images reach a network of that description.
    pub fn augment(&self, description: &Description) -> Augment {
        let data = &self.data;
        let plain = Augment::none(description.mean, description.std);
        Augment {
            height: description.input_height as u32,
            width: description.input_width as u32,
            filter: match data.resize {
                Resize::Bilinear => Filter::Bilinear,
                Resize::Bicubic => Filter::Bicubic,
            },
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
                ..match data.erase_like {
                    EraseLike::StrongBaseline => Erase::default(),
                    EraseLike::Timm => Erase::timm(),
                }
            }),
            ..plain
        }
    }
}
