//! Ultralytics' names: `model.{layer}.…`, layers counted through the whole network.
//!
//! RT-DETR: which layer is what follows from the tensors a layer has and from the order, so that
//! sizes l and x need no tables. YOLOv8: our network uses the same names.

use std::collections::BTreeMap;

use super::{Renamed, Shapes, needless};

/// What a layer is, as its tensors tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stem,
    Block,
    Depthwise,
    Conv,
    Attention,
    Fusion,
    Decoder,
}

/// Layers with tensors that follow the backbone, and what we call them. Levels are counted from
/// the finest in `input_proj`, from the coarsest in the way down (`lateral_convs`, `fpn_blocks`).
const NECK: [(Kind, &str); 13] = [
    (Kind::Conv, "encoder.input_proj.2"),
    (Kind::Attention, "encoder.encoder.0.layers.0"),
    (Kind::Conv, "encoder.lateral_convs.0"),
    (Kind::Conv, "encoder.input_proj.1"),
    (Kind::Fusion, "encoder.fpn_blocks.0"),
    (Kind::Conv, "encoder.lateral_convs.1"),
    (Kind::Conv, "encoder.input_proj.0"),
    (Kind::Fusion, "encoder.fpn_blocks.1"),
    (Kind::Conv, "encoder.downsample_convs.0"),
    (Kind::Fusion, "encoder.pan_blocks.0"),
    (Kind::Conv, "encoder.downsample_convs.1"),
    (Kind::Fusion, "encoder.pan_blocks.1"),
    (Kind::Decoder, "decoder"),
];

/// A tensor's whole name, its name within its layer, and its shape.
type LayerTensor<'a> = (&'a str, &'a str, &'a [usize]);

/// Our names for Ultralytics' RT-DETR with an HGNetv2 backbone; `None` if it is something else.
pub fn rename_rtdetr(shapes: &Shapes) -> Option<Renamed> {
    shapes.get("model.0.stem1.conv.weight")?;
    let mut renamed = Renamed::default();
    let mut layers: BTreeMap<usize, Vec<LayerTensor>> = BTreeMap::new();
    for (name, shape) in shapes {
        if let Some(reason) = needless(name) {
            renamed.drop(name, reason);
            continue;
        }
        let parts = name
            .strip_prefix("model.")
            .and_then(|rest| rest.split_once('.'));
        let layer = parts.and_then(|(index, rest)| Some((index.parse().ok()?, rest)));
        match layer {
            Some((index, rest)) => layers.entry(index).or_default().push((name, rest, shape)),
            None => renamed.unknown.push(name.clone()),
        }
    }
    let mut places = Places::default();
    for tensors in layers.values() {
        let place = kind(tensors).and_then(|kind| Some((kind, places.next(kind)?)));
        for (name, rest, _) in tensors {
            let to = place.as_ref().and_then(|(kind, place)| {
                let rest = rename_within(*kind, place, rest)?;
                Some(format!("{place}.{rest}"))
            });
            match to {
                Some(to) => renamed.keep(name, to),
                None => renamed.unknown.push((*name).to_string()),
            }
        }
    }
    Some(renamed)
}

fn kind(tensors: &[LayerTensor]) -> Option<Kind> {
    for (_, rest, shape) in tensors {
        let kind = match *rest {
            "stem1.conv.weight" => Kind::Stem,
            "sc.conv.weight" => Kind::Block,
            "ma.in_proj_weight" => Kind::Attention,
            "cv1.conv.weight" => Kind::Fusion,
            "enc_score_head.weight" => Kind::Decoder,
            "conv.weight" if shape.get(1) == Some(&1) => Kind::Depthwise,
            "conv.weight" => Kind::Conv,
            _ => continue,
        };
        return Some(kind);
    }
    None
}

/// Where in our network the next layer belongs.
#[derive(Debug, Default)]
struct Places {
    stage: usize,
    block: usize,
    neck: usize,
}

impl Places {
    fn next(&mut self, kind: Kind) -> Option<String> {
        match kind {
            Kind::Stem => Some("backbone.stem".to_string()),
            Kind::Depthwise => {
                self.stage += 1;
                self.block = 0;
                Some(format!("backbone.stages.{}.downsample", self.stage))
            }
            Kind::Block => {
                self.block += 1;
                Some(format!(
                    "backbone.stages.{}.blocks.{}",
                    self.stage,
                    self.block - 1
                ))
            }
            _ => {
                let (expected, place) = NECK.get(self.neck)?;
                self.neck += 1;
                (*expected == kind).then(|| (*place).to_string())
            }
        }
    }
}

/// The rest of a tensor's name within its layer, as we call it.
fn rename_within(kind: Kind, place: &str, rest: &str) -> Option<String> {
    let parts: Vec<&str> = rest.split('.').collect();
    let renamed = match (kind, parts.as_slice()) {
        (Kind::Block, ["m", index, ..]) => format!("layers.{index}.{}", parts[2..].join(".")),
        (Kind::Block, ["sc", ..]) => format!("aggregation.0.{}", parts[1..].join(".")),
        (Kind::Block, ["ec", ..]) => format!("aggregation.1.{}", parts[1..].join(".")),
        (Kind::Conv, ["conv", last]) if place.contains("input_proj") => format!("0.{last}"),
        (Kind::Conv, ["bn", last]) if place.contains("input_proj") => format!("1.{last}"),
        (Kind::Conv, ["bn", last]) => format!("norm.{last}"),
        (Kind::Attention, ["ma", ..]) => format!("self_attn.{}", parts[1..].join(".")),
        (Kind::Attention, ["fc1", last]) => format!("linear1.{last}"),
        (Kind::Attention, ["fc2", last]) => format!("linear2.{last}"),
        (Kind::Fusion, ["m", index, conv, part, last]) => {
            format!("bottlenecks.{index}.{conv}.{}.{last}", norm(part))
        }
        (Kind::Fusion, [conv, part, last]) => {
            format!("conv{}.{}.{last}", conv.strip_prefix("cv")?, norm(part))
        }
        (Kind::Decoder, ["input_proj", level, "0", last]) => {
            format!("input_proj.{level}.conv.{last}")
        }
        (Kind::Decoder, ["input_proj", level, "1", last]) => {
            format!("input_proj.{level}.norm.{last}")
        }
        _ => rest.to_string(),
    };
    Some(renamed)
}

fn norm(part: &str) -> &str {
    if part == "bn" { "norm" } else { part }
}

/// YOLOv8's tensors keep their names; `None` if it is something else.
pub fn rename_yolov8(shapes: &Shapes) -> Option<Renamed> {
    shapes.get("model.0.conv.weight")?;
    shapes.get("model.22.cv3.0.2.weight")?;
    let mut renamed = Renamed::default();
    for name in shapes.keys() {
        if let Some(reason) = needless(name) {
            renamed.drop(name, reason);
        } else {
            renamed.keep(name, name);
        }
    }
    Some(renamed)
}
