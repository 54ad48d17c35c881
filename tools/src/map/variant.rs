//! Encoders of which the tensors say more than an architecture's name: their mappings describe the
//! network themselves.

use std::collections::BTreeMap;
use std::path::Path;

use mtmc_models::Description;
use mtmc_models::clip::{Feature, Neck};

use super::{
    Options, Plan, Planned, Renamed, Shapes, clip, compare, misfit, origin_of, resnet_reid, stated,
};
use crate::read::Checkpoint;
use crate::{Error, Result};

/// What the user says of an encoder that its tensors cannot tell, or wants otherwise.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncoderOptions {
    /// Which vector a CLIP-ReID encoder gives; the projection if nothing is said.
    pub feature: Option<Feature>,
    /// Whether vectors are taken before or after the batch norm that they were trained with.
    pub neck: Option<Neck>,
    /// Stride of a ResNet's last stage; what its origin used if nothing is said.
    pub last_stride: Option<usize>,
    /// Height and width of the input in pixels; 256×128 if nothing is said.
    pub input: Option<(usize, usize)>,
    /// Factor of the cameras' vectors in CLIP-ReID weights with side information.
    pub camera_weight: Option<f64>,
}

/// What a mapping makes of a file that it recognises.
pub struct Mapped {
    /// The network; source and licence are filled in later.
    pub description: Description,
    /// Tensors under our names.
    pub renamed: Renamed,
    /// Tensors that are no plain copies.
    pub made: BTreeMap<String, Planned>,
}

/// A file on its way through a mapping.
pub struct Origin<'a> {
    /// Names and shapes.
    pub shapes: &'a Shapes,
    /// The user's wishes.
    pub options: &'a EncoderOptions,
    /// What the file says of itself, if this program wrote it.
    pub stated: Option<Description>,
    /// The file.
    pub path: &'a Path,
}

impl Origin<'_> {
    /// An error about the file: it is known what it is, but it cannot be used.
    pub fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Architecture {
            path: self.path.to_path_buf(),
            reason: reason.into(),
        }
    }
}

/// Plans the conversion of such an encoder; `None` if the file is something else.
///
/// # Errors
/// As [`super::plan`].
pub fn plan(checkpoint: &Checkpoint, shapes: &Shapes, options: &Options) -> Option<Result<Plan>> {
    let origin = Origin {
        shapes,
        options: &options.encoder,
        stated: stated(checkpoint),
        path: checkpoint.path(),
    };
    let mapped = match resnet_reid::map(&origin) {
        Some(mapped) => mapped,
        None => clip::map(&origin)?,
    };
    Some(mapped.and_then(|mapped| finish(checkpoint, shapes, options, mapped)))
}

fn finish(
    checkpoint: &Checkpoint,
    shapes: &Shapes,
    options: &Options,
    mapped: Mapped,
) -> Result<Plan> {
    let path = checkpoint.path();
    let mut description = mapped.description;
    if let Some(asked) = &options.architecture
        && *asked != description.architecture
    {
        return Err(Error::Architecture {
            path: path.to_path_buf(),
            reason: format!(
                "its tensors are those of {}, not of {asked}",
                description.architecture
            ),
        });
    }
    (description.source, description.licence) =
        origin_of(checkpoint, options, stated(checkpoint).as_ref());
    if let Some((height, width)) = options.encoder.input {
        (description.input_height, description.input_width) = (height, width);
    }
    let mut tensors = super::collect(path, &mapped.renamed, shapes)?;
    tensors.extend(mapped.made);
    let problems = compare(&description, &tensors, &mapped.renamed.unknown)?;
    if !problems.is_empty() {
        let best = Some((problems, description));
        return Err(misfit(path, super::Origin::Encoder, best, options));
    }
    description.feature_dim = Some(mtmc_models::network::embedding_dim(&description)?);
    Ok(Plan {
        description,
        tensors,
        dropped: mapped.renamed.dropped,
    })
}
