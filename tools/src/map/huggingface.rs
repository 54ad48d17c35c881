//! Names of Hugging Face transformers' RT-DETR (`RTDetrForObjectDetection`, ResNet-vd backbones).
//!
//! The correspondence is that of transformers' own conversion script
//! (`models/rt_detr/convert_rt_detr_original_pytorch_checkpoint_to_hf.py`, Apache-2.0), backwards.
//! Query, key and value projections, apart there, are one `in_proj` here.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Renamed, Shapes, needless};

/// Our names; `None` if the file is something else.
pub fn rename_rtdetr(shapes: &Shapes) -> Option<Renamed> {
    shapes.get("model.backbone.model.embedder.embedder.0.convolution.weight")?;
    let mut renamed = Renamed::default();
    // Query, key and value in this order, whatever the file's.
    let mut projections: BTreeMap<String, [Option<&str>; 3]> = BTreeMap::new();
    for name in shapes.keys() {
        if let Some(reason) = needless(name) {
            renamed.drop(name, reason);
            continue;
        }
        // The heads have a second name outside the model; files may hold either or both.
        if second_name(name).is_some_and(|inner| shapes.contains_key(&inner)) {
            renamed.drop(name, "the same tensor as that within `model.decoder`");
            continue;
        }
        if let Some((to, place)) = projection(name) {
            projections.entry(to).or_default()[place] = Some(name);
            continue;
        }
        match rename_tensor(name) {
            Some(to) => renamed.keep(name, to),
            None => renamed.unknown.push(name.clone()),
        }
    }
    for (to, parts) in projections {
        for part in parts.into_iter().flatten() {
            renamed.keep(part, to.clone());
        }
    }
    Some(renamed)
}

fn second_name(name: &str) -> Option<String> {
    let outside = name.starts_with("class_embed.") || name.starts_with("bbox_embed.");
    outside.then(|| format!("model.decoder.{name}"))
}

/// Our name of the joint projection that `q_proj`, `k_proj` or `v_proj` is a third of, and which.
fn projection(name: &str) -> Option<(String, usize)> {
    for (place, part) in [".q_proj.", ".k_proj.", ".v_proj."].into_iter().enumerate() {
        if let Some((module, last)) = name.split_once(part) {
            let joint = format!("{module}.in_proj_{last}");
            return Some((rename_tensor(&joint)?, place));
        }
    }
    None
}

fn rename_tensor(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        [
            "model",
            "backbone",
            "model",
            "embedder",
            "embedder",
            index,
            part,
            last,
        ] => {
            let index: usize = index.parse().ok()?;
            let part = conv_part(part)?;
            Some(format!(
                "backbone.conv1.conv1_{}.{part}.{last}",
                index.checked_add(1)?
            ))
        }
        [
            "model",
            "backbone",
            "model",
            "encoder",
            "stages",
            stage,
            "layers",
            block,
            rest @ ..,
        ] => {
            let rest = backbone_block(rest)?;
            Some(format!("backbone.res_layers.{stage}.blocks.{block}.{rest}"))
        }
        ["model", "encoder_input_proj", rest @ ..] => {
            Some(format!("encoder.input_proj.{}", rest.join(".")))
        }
        [
            "model",
            "encoder",
            "encoder",
            index,
            "layers",
            layer,
            rest @ ..,
        ] => {
            let rest = attention_layer(rest, ["norm1", "", "norm2"])?;
            Some(format!("encoder.encoder.{index}.layers.{layer}.{rest}"))
        }
        ["model", "encoder", rest @ ..] => Some(format!("encoder.{}", rest.join("."))),
        ["model", "decoder_input_proj", level, part, last] => {
            let part = match *part {
                "0" => "conv",
                "1" => "norm",
                _ => return None,
            };
            Some(format!("decoder.input_proj.{level}.{part}.{last}"))
        }
        ["model", "decoder", "layers", layer, rest @ ..] => {
            let rest = attention_layer(rest, ["norm1", "norm2", "norm3"])?;
            Some(format!("decoder.decoder.layers.{layer}.{rest}"))
        }
        ["model", "decoder", "class_embed", rest @ ..] | ["class_embed", rest @ ..] => {
            Some(format!("decoder.dec_score_head.{}", rest.join(".")))
        }
        ["model", "decoder", "bbox_embed", rest @ ..] | ["bbox_embed", rest @ ..] => {
            Some(format!("decoder.dec_bbox_head.{}", rest.join(".")))
        }
        ["model", "decoder", "query_pos_head", rest @ ..] => {
            Some(format!("decoder.query_pos_head.{}", rest.join(".")))
        }
        ["model", head, rest @ ..] if head.starts_with("enc_") => {
            Some(format!("decoder.{head}.{}", rest.join(".")))
        }
        _ => None,
    }
}

fn conv_part(part: &str) -> Option<&'static str> {
    match part {
        "convolution" => Some("conv"),
        "normalization" => Some("norm"),
        _ => None,
    }
}

fn backbone_block(rest: &[&str]) -> Option<String> {
    match rest {
        ["layer", index, part, last] => {
            let branch = match *index {
                "0" => "branch2a",
                "1" => "branch2b",
                "2" => "branch2c",
                _ => return None,
            };
            Some(format!("{branch}.{}.{last}", conv_part(part)?))
        }
        ["shortcut", part, last] => Some(format!("short.{}.{last}", conv_part(part)?)),
        // Stages that halve the resolution pool first; the pool is number 0.
        ["shortcut", "1", part, last] => Some(format!("short.conv.{}.{last}", conv_part(part)?)),
        _ => None,
    }
}

/// The rest of a name within a transformer layer. `norms`: our names of the norms after
/// self-attention, cross-attention and the feed-forward part.
fn attention_layer(rest: &[&str], norms: [&str; 3]) -> Option<String> {
    // transformers 5 says `mlp.fc1` and `o_proj` inside, though it still saves the older names.
    let rest = rest.strip_prefix(&["mlp"]).unwrap_or(rest);
    let (first, tail) = rest.split_first()?;
    let first = match *first {
        "self_attn" => "self_attn",
        "encoder_attn" => "cross_attn",
        "fc1" => "linear1",
        "fc2" => "linear2",
        "self_attn_layer_norm" => norms[0],
        "encoder_attn_layer_norm" => norms[1],
        "final_layer_norm" => norms[2],
        _ => return None,
    };
    Some(match tail {
        ["o_proj", last] => format!("{first}.out_proj.{last}"),
        _ => format!("{first}.{}", tail.join(".")),
    })
}

/// Largest `config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Class names from the `config.json` that Hugging Face keeps beside a weights file.
pub fn config_classes(weights: &Path) -> Option<Vec<String>> {
    let path = weights.with_file_name("config.json");
    if std::fs::metadata(&path).ok()?.len() > MAX_CONFIG_BYTES {
        return None;
    }
    let text = std::fs::read_to_string(&path).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let labels = config.get("id2label")?.as_object()?;
    let mut names = BTreeMap::new();
    for (index, name) in labels {
        names.insert(index.parse::<usize>().ok()?, name.as_str()?.to_string());
    }
    let last = *names.keys().next_back()?;
    (last + 1 == names.len()).then(|| names.into_values().collect())
}
