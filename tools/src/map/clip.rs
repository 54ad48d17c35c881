//! Vision transformers of CLIP: CLIP-ReID's checkpoints, and as a start for training OpenAI's and
//! Hugging Face transformers' weights, whose square position embedding is resampled as CLIP-ReID
//! does it. Those keep their text encoder, which CLIP-ReID's training needs; of the 49,408 words of
//! its vocabulary only the prompt's.

use std::collections::BTreeMap;

use mtmc_models::clip::{
    ClipVitConfig, ClipVitVariant, FILLING, Feature, NAME, Neck, PREFIX, SUFFIX, TextConfig,
};
use mtmc_models::{Description, Variant};

use super::variant::{Mapped, Origin};
use super::{Change, Numbers, Planned, Renamed, encoder};
use crate::Result;

/// Numbers a token.
const WIDTH: usize = 768;
/// Length of the projection.
const PROJECTION: usize = 512;
/// Side of a patch in pixels.
const PATCH: usize = 16;
/// Heights and widths of images that people are published with.
const IMAGES: [(usize, usize); 2] = [(256, 128), (384, 128)];
/// Strides of patches.
const STRIDES: [usize; 2] = [16, 12];

/// Words of the vocabulary.
const VOCABULARY: usize = 49408;
/// Where the vocabulary goes, until words are picked.
const WORDS: &str = "text_encoder.token_embedding.weight";

const TEXT: &str = "serves texts, which only training needs";
const TEMPERATURE: &str = "weighs images against texts, which re-ID does without";

/// Whose names they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Project {
    /// CLIP-ReID's, and ours.
    ClipReid,
    OpenAi,
    HuggingFace,
}

/// Where a tensor belongs.
enum Place {
    Keep(String),
    Drop(&'static str),
    Unknown,
}

/// Our tensors; `None` if the file is something else.
pub fn map(origin: &Origin) -> Option<Result<Mapped>> {
    let landmarks = [
        ("image_encoder.class_embedding", Project::ClipReid),
        ("visual.class_embedding", Project::OpenAi),
        (
            "vision_model.embeddings.class_embedding",
            Project::HuggingFace,
        ),
    ];
    for parallel in ["", "module."] {
        for (landmark, project) in landmarks {
            if origin.shapes.contains_key(&format!("{parallel}{landmark}")) {
                return Some(map_project(origin, project, parallel));
            }
        }
        if origin
            .shapes
            .contains_key(&format!("{parallel}image_encoder.attnpool.c_proj.weight"))
        {
            let reason = "CLIP-ReID's encoder with a ResNet50 is not supported; ViT-B/16 is";
            return Some(Err(origin.refuse(reason)));
        }
    }
    None
}

fn map_project(origin: &Origin, project: Project, parallel: &str) -> Result<Mapped> {
    let mut renamed = Renamed::default();
    // Query, key and value in this order, whatever the file's.
    let mut joined: BTreeMap<String, [Option<&str>; 3]> = BTreeMap::new();
    for name in origin.shapes.keys() {
        let own = name.strip_prefix(parallel).unwrap_or(name);
        if let (Project::HuggingFace, Some((to, part))) = (project, projection(own)) {
            joined.entry(to).or_default()[part] = Some(name);
            continue;
        }
        match place(project, own) {
            Place::Keep(to) => renamed.keep(name, to),
            Place::Drop(reason) => renamed.drop(name, reason),
            Place::Unknown => renamed.unknown.push(name.clone()),
        }
    }
    for (to, parts) in joined {
        for part in parts.into_iter().flatten() {
            renamed.keep(part, to.clone());
        }
    }
    let mut variant = variant(origin, project);
    leave_out_norms(&mut renamed, &variant);
    let mut made = BTreeMap::new();
    let mut image = IMAGES[0];
    if let Some(sources) = renamed.kept.get("cv_embed") {
        let shape = sources.first().and_then(|source| origin.shapes.get(source));
        variant.cameras = shape.and_then(|shape| shape.first().copied()).unwrap_or(0);
    }
    if project == Project::ClipReid {
        (image, variant.stride) = layout(origin, &renamed)?;
    } else {
        resample(origin, &mut renamed, &mut made)?;
    }
    if project == Project::HuggingFace {
        let sizes = [WIDTH, PROJECTION];
        transpose(origin, "image_encoder.proj", sizes, &mut renamed, &mut made);
        let name = "text_encoder.text_projection";
        transpose(origin, name, [PROJECTION; 2], &mut renamed, &mut made);
    }
    variant.text = pick_words(&mut renamed, &mut made);
    let description = description(origin, variant, image);
    Ok(Mapped {
        description,
        renamed,
        made,
    })
}

/// What is wished, or what the file says of itself, or what the reference's configurations say.
fn variant(origin: &Origin, project: Project) -> ClipVitVariant {
    let stated = match origin
        .stated
        .as_ref()
        .and_then(|stated| stated.variant.as_ref())
    {
        Some(Variant::ClipVit(stated)) if project == Project::ClipReid => *stated,
        _ => ClipVitVariant::default(),
    };
    let options = origin.options;
    ClipVitVariant {
        feature: options.feature.unwrap_or(stated.feature),
        neck: options.neck.unwrap_or(stated.neck),
        camera_weight: options.camera_weight.unwrap_or(stated.camera_weight),
        cameras: 0,
        ..stated
    }
}

fn description(origin: &Origin, variant: ClipVitVariant, image: (usize, usize)) -> Description {
    let stated = origin
        .stated
        .clone()
        .filter(|stated| stated.architecture == NAME);
    let mut description = stated.unwrap_or_else(|| Description {
        mean: [0.5; 3],
        std: [0.5; 3],
        ..encoder::blank(NAME)
    });
    (description.input_height, description.input_width) = image;
    description.variant = Some(Variant::ClipVit(variant));
    description
}

/// Batch norms that come after the vectors, or belong to one that nobody wants.
fn leave_out_norms(renamed: &mut Renamed, variant: &ClipVitVariant) {
    let mut wanted = Vec::new();
    if variant.neck == Neck::After {
        wanted.push("bottleneck_proj.");
        if variant.feature == Feature::Full {
            wanted.push("bottleneck.");
        }
    }
    let needless = |name: &String| {
        name.starts_with("bottleneck") && !wanted.iter().any(|part| name.starts_with(part))
    };
    let names: Vec<String> = renamed
        .kept
        .keys()
        .filter(|name| needless(name))
        .cloned()
        .collect();
    for name in names {
        for source in renamed.kept.remove(&name).unwrap_or_default() {
            renamed.drop(&source, "comes after the vector that was asked for");
        }
    }
}

const POSITIONS: &str = "image_encoder.positional_embedding";

/// Size of the images and step of the patches, from the number of positions.
fn layout(origin: &Origin, renamed: &Renamed) -> Result<((usize, usize), usize)> {
    let rows = positions(origin, renamed);
    let images = match origin.options.input {
        Some(image) => vec![image],
        None => IMAGES.to_vec(),
    };
    for &image in &images {
        for stride in STRIDES {
            let (down, across) = grid(image, stride);
            if rows == 1 + down * across {
                return Ok((image, stride));
            }
        }
    }
    let sizes: Vec<String> = images
        .iter()
        .map(|(height, width)| format!("{height}×{width}"))
        .collect();
    Err(origin.refuse(format!(
        "its {rows} positions are those of no image of {} with patches every 16 or 12 pixels; \
         say which it is",
        sizes.join(" or ")
    )))
}

fn grid((height, width): (usize, usize), stride: usize) -> (usize, usize) {
    let count = |size: usize| size.checked_sub(PATCH).map_or(0, |room| room / stride + 1);
    (count(height), count(width))
}

/// Rows of the position embedding; 0 if there is none.
fn positions(origin: &Origin, renamed: &Renamed) -> usize {
    let source = renamed
        .kept
        .get(POSITIONS)
        .and_then(|sources| sources.first());
    let shape = source.and_then(|source| origin.shapes.get(source));
    shape.and_then(|shape| shape.first().copied()).unwrap_or(0)
}

/// From the square grid that CLIP was trained with to the one of images of people.
fn resample(
    origin: &Origin,
    renamed: &mut Renamed,
    made: &mut BTreeMap<String, Planned>,
) -> Result<()> {
    let rows = positions(origin, renamed);
    let side = rows.saturating_sub(1).isqrt();
    if side == 0 || 1 + side * side != rows {
        return Err(origin.refuse(format!(
            "its {rows} positions are no square and a class token"
        )));
    }
    let to = grid(origin.options.input.unwrap_or(IMAGES[0]), PATCH);
    let source = renamed
        .kept
        .remove(POSITIONS)
        .and_then(|mut sources| sources.pop());
    let Some(source) = source else {
        return Ok(());
    };
    let change = Change::Positions {
        side,
        to,
        width: WIDTH,
    };
    made.insert(
        POSITIONS.to_string(),
        Planned {
            shape: vec![1 + to.0 * to.1, WIDTH],
            numbers: Numbers::Changed(source, change),
        },
    );
    Ok(())
}

/// transformers keeps a projection as a linear layer's weight, output first; ours is
/// `[input, output]`.
fn transpose(
    origin: &Origin,
    name: &str,
    [input, output]: [usize; 2],
    renamed: &mut Renamed,
    made: &mut BTreeMap<String, Planned>,
) {
    let Some(sources) = renamed.kept.get(name) else {
        return;
    };
    let Some(source) = sources.first().cloned() else {
        return;
    };
    if origin.shapes.get(&source).map(Vec::as_slice) != Some(&[output, input]) {
        // Kept as it is, for the comparison to say what is wrong.
        return;
    }
    renamed.kept.remove(name);
    let change = Change::Transpose {
        rows: output,
        columns: input,
    };
    made.insert(
        name.to_string(),
        Planned {
            shape: vec![input, output],
            numbers: Numbers::Changed(source, change),
        },
    );
}

/// The prompt's words out of the vocabulary, as CLIP-ReID's checkpoints have them; whether there is
/// one.
fn pick_words(renamed: &mut Renamed, made: &mut BTreeMap<String, Planned>) -> bool {
    let sources = renamed.kept.remove(WORDS);
    let Some(source) = sources.and_then(|mut sources| sources.pop()) else {
        return false;
    };
    let images = ClipVitConfig::base(IMAGES[0], ClipVitVariant::default());
    let text = TextConfig::beside(&images);
    let mut suffix = SUFFIX.to_vec();
    suffix.resize(text.suffix(), FILLING);
    for (name, rows) in [("token_prefix", PREFIX.to_vec()), ("token_suffix", suffix)] {
        let shape = vec![1, rows.len(), text.width];
        let change = Change::Rows {
            rows,
            of: VOCABULARY,
            width: text.width,
        };
        made.insert(
            format!("prompt_learner.{name}"),
            Planned {
                shape,
                numbers: Numbers::Changed(source.clone(), change),
            },
        );
    }
    true
}

fn place(project: Project, name: &str) -> Place {
    match project {
        Project::ClipReid => place_clip_reid(name),
        Project::OpenAi => place_openai(name),
        Project::HuggingFace => place_hugging_face(name),
    }
}

fn place_clip_reid(name: &str) -> Place {
    if let Some(reason) = encoder::needless(name) {
        return Place::Drop(reason);
    }
    let (part, _) = name.split_once('.').unwrap_or((name, ""));
    match part {
        "image_encoder" | "cv_embed" | "bottleneck" | "bottleneck_proj" => {
            Place::Keep(name.to_string())
        }
        "classifier_proj" => Place::Drop("tells the identities of the training set apart"),
        "prompt_learner" | "text_encoder" => Place::Drop(TEXT),
        _ => Place::Unknown,
    }
}

fn place_openai(name: &str) -> Place {
    if let Some(rest) = name.strip_prefix("visual.") {
        return Place::Keep(format!("image_encoder.{rest}"));
    }
    let texts = ["transformer.", "token_embedding.", "ln_final."];
    let alone = ["positional_embedding", "text_projection"];
    match name {
        "input_resolution" | "context_length" | "vocab_size" => {
            Place::Drop("a size, which the tensors show")
        }
        "logit_scale" => Place::Drop(TEMPERATURE),
        _ if alone.contains(&name) || texts.iter().any(|text| name.starts_with(text)) => {
            Place::Keep(format!("text_encoder.{name}"))
        }
        _ => Place::Unknown,
    }
}

fn place_hugging_face(name: &str) -> Place {
    let (rest, part) = match (
        name.strip_prefix("vision_model."),
        name.strip_prefix("text_model."),
    ) {
        (Some(rest), _) => (rest, "image_encoder"),
        (None, Some(rest)) => (rest, "text_encoder"),
        (None, None) => {
            return match name {
                "visual_projection.weight" => Place::Keep("image_encoder.proj".to_string()),
                "text_projection.weight" => Place::Keep("text_encoder.text_projection".to_string()),
                "logit_scale" => Place::Drop(TEMPERATURE),
                _ => Place::Unknown,
            };
        }
    };
    if rest == "embeddings.position_ids" {
        return Place::Drop("counts positions");
    }
    match rename_part(rest) {
        Some(to) => Place::Keep(format!("{part}.{to}")),
        None => Place::Unknown,
    }
}

/// A name within transformers' `vision_model` or `text_model`, as CLIP has it.
fn rename_part(rest: &str) -> Option<String> {
    let parts: Vec<&str> = rest.split('.').collect();
    Some(match parts.as_slice() {
        ["embeddings", "class_embedding"] => "class_embedding".to_string(),
        ["embeddings", "patch_embedding", "weight"] => "conv1.weight".to_string(),
        ["embeddings", "position_embedding", "weight"] => "positional_embedding".to_string(),
        ["embeddings", "token_embedding", "weight"] => "token_embedding.weight".to_string(),
        ["final_layer_norm", last] => format!("ln_final.{last}"),
        // Spelt so.
        ["pre_layrnorm", last] => format!("ln_pre.{last}"),
        ["post_layernorm", last] => format!("ln_post.{last}"),
        ["encoder", "layers", layer, part @ .., last] => {
            let part = match part {
                ["layer_norm1"] => "ln_1",
                ["layer_norm2"] => "ln_2",
                ["mlp", "fc1"] => "mlp.c_fc",
                ["mlp", "fc2"] => "mlp.c_proj",
                ["self_attn", "out_proj"] => "attn.out_proj",
                _ => return None,
            };
            format!("transformer.resblocks.{layer}.{part}.{last}")
        }
        _ => return None,
    })
}

/// Our name of the joint projection that transformers' `q_proj`, `k_proj` or `v_proj` is a third
/// of, and which.
fn projection(name: &str) -> Option<(String, usize)> {
    let (rest, encoder) = match name.strip_prefix("vision_model.encoder.layers.") {
        Some(rest) => (rest, "image_encoder"),
        None => (
            name.strip_prefix("text_model.encoder.layers.")?,
            "text_encoder",
        ),
    };
    let (layer, rest) = rest.split_once(".self_attn.")?;
    let (part, last) = rest.split_once('.')?;
    let part = ["q_proj", "k_proj", "v_proj"]
        .iter()
        .position(|name| *name == part)?;
    let to = format!("{encoder}.transformer.resblocks.{layer}.attn.in_proj_{last}");
    Some((to, part))
}
