//! ResNet50 encoders: torchvision's names alone (torchvision, torchreid), under `base`
//! (reid-strong-baseline) or under `backbone` (fastreid, and our own), and each project's head.
//!
//! What no tensor shows is what the origin does: stride of the last stage, the first convolution's
//! ReLU, how the maxima after it are taken, how crops are resized.

use mtmc_models::clip::Neck;
use mtmc_models::resnet50::{CHANNELS, NAME, Pooling, ResNet50Config, Stem};
use mtmc_models::{Description, Interpolation, Variant};

use super::variant::{Mapped, Origin};
use super::{Renamed, encoder};
use crate::{Error, Result};

/// A name that all backbones end with, and no other known network.
const LANDMARK: &str = "layer4.2.conv3.weight";

/// Whose names they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Project {
    Torchvision,
    Torchreid,
    StrongBaseline,
    FastReid,
    /// Ours, and those of the requirement document's 512-D network.
    Own,
}

/// Where a tensor belongs.
enum Place {
    Keep(String),
    Drop(&'static str),
    Unknown,
}

/// Our tensors; `None` if the file is something else.
pub fn map(origin: &Origin) -> Option<Result<Mapped>> {
    let landmark = origin.shapes.keys().find(|name| name.ends_with(LANDMARK))?;
    if origin.shapes.get(landmark)?.first() != Some(&CHANNELS) {
        return None;
    }
    let prefix = landmark.strip_suffix(LANDMARK)?;
    let (parallel, inner) = match prefix.strip_prefix("module.") {
        Some(inner) => ("module.", inner),
        None => ("", prefix),
    };
    let has = |name: &str| origin.shapes.contains_key(&format!("{parallel}{name}"));
    let head_of_fastreid = || {
        origin
            .shapes
            .keys()
            .any(|name| name.starts_with(&format!("{parallel}heads.")))
    };
    let project = match inner {
        "" if has("classifier.weight") || has("fc.0.weight") => Project::Torchreid,
        "" => Project::Torchvision,
        "base." => Project::StrongBaseline,
        "backbone." if head_of_fastreid() => Project::FastReid,
        "backbone." => Project::Own,
        _ => return None,
    };
    Some(map_project(origin, project, parallel))
}

fn map_project(origin: &Origin, project: Project, parallel: &str) -> Result<Mapped> {
    if let Some(error) = unsupported(origin) {
        return Err(error);
    }
    let fully = |name: &str| origin.shapes.get(&format!("{parallel}{name}"));
    let reduced = match project {
        Project::FastReid => fully("heads.bottleneck.0.weight").filter(|shape| shape.len() == 4),
        Project::Torchreid => fully("fc.0.weight"),
        Project::Own => fully("fc.weight"),
        Project::Torchvision | Project::StrongBaseline => None,
    };
    let reduced = reduced.and_then(|shape| shape.first().copied());
    let mut config = config(origin, project, reduced);
    let before = origin.options.neck == Some(Neck::Before);
    let mut renamed = Renamed::default();
    let mut made = std::collections::BTreeMap::new();
    for name in origin.shapes.keys() {
        let own = name.strip_prefix(parallel).unwrap_or(name);
        match place(project, own, reduced.is_some()) {
            Place::Keep(to) if to.starts_with("bn.") && before && reduced.is_none() => {
                renamed.drop(name, "comes after the vector that was asked for");
            }
            Place::Keep(to) => renamed.keep(name, to),
            Place::Drop(reason) => renamed.drop(name, reason),
            Place::Unknown => renamed.unknown.push(name.clone()),
        }
    }
    config.neck = renamed.kept.contains_key("bn.weight");
    if renamed.kept.contains_key("pool.p") {
        config.pooling = Pooling::GeneralizedMean;
    }
    if let (Project::FastReid, Some(dim)) = (project, reduced) {
        // A convolution over one pixel, without bias.
        renamed.kept.remove("fc.weight");
        let source = format!("{parallel}heads.bottleneck.0.weight");
        made.insert(
            "fc.weight".to_string(),
            super::Planned {
                shape: vec![dim, CHANNELS],
                numbers: super::Numbers::Stored(vec![source]),
            },
        );
        made.insert(
            "fc.bias".to_string(),
            super::Planned {
                shape: vec![dim],
                numbers: super::Numbers::Made(vec![0.0; dim]),
            },
        );
    }
    let description = description(origin, project, config)?;
    Ok(Mapped {
        description,
        renamed,
        made,
    })
}

/// What the origin's network has that ours has not.
fn unsupported(origin: &Origin) -> Option<Error> {
    let parts = [
        (".NL_", "non-local blocks (fastreid's WITH_NL)"),
        (".IN.", "instance norms (IBN)"),
        (".se.", "squeeze-and-excitation blocks"),
    ];
    for (part, words) in parts {
        let dotted = |name: &&String| format!(".{name}").contains(part);
        if let Some(name) = origin.shapes.keys().find(dotted) {
            return Some(origin.refuse(format!(
                "a ResNet50 with {words}, such as `{name}`, is not supported"
            )));
        }
    }
    None
}

/// What the origin does, but for the tensors that are there or not.
fn config(origin: &Origin, project: Project, reduced: Option<usize>) -> ResNet50Config {
    let stated = origin.stated.as_ref().and_then(ResNet50Config::of);
    let (last_stride, stem) = match project {
        Project::Torchvision => (2, Stem::Standard),
        // `resnet50` and `resnet50_fc512`.
        Project::Torchreid => (if reduced.is_some() { 1 } else { 2 }, Stem::Standard),
        Project::StrongBaseline => (1, Stem::WithoutRelu),
        Project::FastReid => (1, Stem::Ceiling),
        Project::Own => (2, Stem::Standard),
    };
    let base = ResNet50Config {
        last_stride,
        stem,
        pooling: Pooling::Average,
        neck: false,
        reduced,
        relu: project == Project::Torchreid && reduced.is_some(),
    };
    let base = match stated {
        Some(stated) if project == Project::Own => ResNet50Config { reduced, ..stated },
        _ => base,
    };
    ResNet50Config {
        last_stride: origin.options.last_stride.unwrap_or(base.last_stride),
        ..base
    }
}

fn place(project: Project, name: &str, reduced: bool) -> Place {
    if let Some(reason) = encoder::needless(name) {
        return Place::Drop(reason);
    }
    let after = |prefix: &str| name.strip_prefix(prefix);
    match project {
        Project::Own => {
            let heads = ["backbone.", "pool.", "bn.", "fc.", "bn_feat."];
            match heads.iter().any(|head| name.starts_with(head)) {
                true => Place::Keep(name.to_string()),
                false => Place::Unknown,
            }
        }
        Project::StrongBaseline => match (after("base."), after("bottleneck.")) {
            (Some(rest), _) => Place::Keep(format!("backbone.{rest}")),
            (_, Some(rest)) => Place::Keep(format!("bn.{rest}")),
            _ => Place::Unknown,
        },
        Project::Torchvision => match after("fc.") {
            Some(_) => Place::Drop("tells ImageNet's classes apart"),
            None => Place::Keep(format!("backbone.{name}")),
        },
        Project::Torchreid => match (after("fc.0."), after("fc.1.")) {
            (Some(rest), _) => Place::Keep(format!("fc.{rest}")),
            (_, Some(rest)) => Place::Keep(format!("bn_feat.{rest}")),
            _ => Place::Keep(format!("backbone.{name}")),
        },
        Project::FastReid => place_fastreid(name, reduced),
    }
}

fn place_fastreid(name: &str, reduced: bool) -> Place {
    if name.starts_with("backbone.") {
        return Place::Keep(name.to_string());
    }
    let Some(part) = name.strip_prefix("heads.") else {
        return match name {
            "pixel_mean" | "pixel_std" => Place::Drop("stands in the description"),
            _ => Place::Unknown,
        };
    };
    // The norm comes after a reduction if there is one.
    let (norm, ours) = if reduced {
        ("bottleneck.1.", "bn_feat")
    } else {
        ("bottleneck.0.", "bn")
    };
    if let Some(rest) = part.strip_prefix(norm) {
        return Place::Keep(format!("{ours}.{rest}"));
    }
    match part {
        "weight" | "classifier.weight" => {
            Place::Drop("tells the identities of the training set apart")
        }
        "pool_layer.p" => Place::Keep("pool.p".to_string()),
        "bottleneck.0.weight" => Place::Keep("fc.weight".to_string()),
        _ => Place::Unknown,
    }
}

fn description(origin: &Origin, project: Project, config: ResNet50Config) -> Result<Description> {
    let blank = match (&origin.stated, project) {
        (Some(stated), Project::Own) if stated.architecture == NAME => Some(stated.clone()),
        _ => None,
    };
    // By hand, because what is blank has no variant yet.
    let mut description = match blank {
        Some(stated) => stated,
        None => encoder::blank(NAME),
    };
    if project == Project::FastReid {
        description.interpolation = Interpolation::PilBicubic;
    }
    description.variant = Some(Variant::Resnet50(config));
    Ok(description)
}
