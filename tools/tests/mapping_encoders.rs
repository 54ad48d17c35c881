//! Mappings of ResNet50 and CLIP-ReID encoders against the tensor lists of their origins
//! (`tests/oracle/resnet50/make_goldens.py`, `tests/oracle/clip/make_goldens.py`).

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device};
use mtmc_models::clip::{ClipVitVariant, Feature, Neck};
use mtmc_models::resnet50::{Pooling, ResNet50Config, Stem};
use mtmc_models::testing::{made_up, made_up_image};
use mtmc_models::{Crop, Description, Embedder, Interpolation, LoadedEmbedder, Variant, Weights};
use mtmc_tools::convert::convert_checkpoint;
use mtmc_tools::map::{Change, EncoderOptions, Numbers, Plan, plan};
use mtmc_tools::read::Checkpoint;
use mtmc_tools::{Options, convert};

use common::{Shapes, checkpoint, shapes, sources};

fn with(encoder: EncoderOptions) -> Options {
    Options {
        encoder,
        ..Options::default()
    }
}

/// Every tensor of the origin is used once or left out with a reason.
fn assert_complete(plan: &Plan, all: &Shapes, what: &str) {
    let mut seen: Vec<&str> = plan
        .tensors
        .keys()
        .flat_map(|name| sources(plan, name))
        .collect();
    seen.extend(plan.dropped.iter().map(|dropped| dropped.name.as_str()));
    seen.sort_unstable();
    let all: Vec<&str> = all.keys().map(String::as_str).collect();
    let mut expected = all.clone();
    expected.sort_unstable();
    assert_eq!(seen, expected, "{what}");
}

fn resnet(plan: &Plan) -> ResNet50Config {
    assert_eq!(plan.description.architecture, "resnet50-reid");
    ResNet50Config::of(&plan.description).unwrap()
}

fn clip(plan: &Plan) -> ClipVitVariant {
    assert_eq!(plan.description.architecture, "clip-reid-vit-b16");
    match plan.description.variant {
        Some(Variant::ClipVit(variant)) => variant,
        ref other => panic!("{other:?}"),
    }
}

const PLAIN: ResNet50Config = ResNet50Config {
    last_stride: 1,
    stem: Stem::Standard,
    pooling: Pooling::Average,
    neck: false,
    reduced: None,
    relu: false,
};

#[test]
fn every_resnet_is_recognised_and_complete() {
    let expected = [
        (
            "torchvision",
            ResNet50Config {
                last_stride: 2,
                ..PLAIN
            },
        ),
        (
            "torchreid",
            ResNet50Config {
                last_stride: 2,
                ..PLAIN
            },
        ),
        (
            "torchreid-512",
            ResNet50Config {
                reduced: Some(512),
                relu: true,
                ..PLAIN
            },
        ),
        (
            "strong-baseline",
            ResNet50Config {
                stem: Stem::WithoutRelu,
                neck: true,
                ..PLAIN
            },
        ),
        (
            "fastreid",
            ResNet50Config {
                stem: Stem::Ceiling,
                neck: true,
                ..PLAIN
            },
        ),
        (
            "fastreid-gem-512",
            ResNet50Config {
                stem: Stem::Ceiling,
                pooling: Pooling::GeneralizedMean,
                reduced: Some(512),
                ..PLAIN
            },
        ),
        (
            "512",
            ResNet50Config {
                last_stride: 2,
                neck: true,
                reduced: Some(512),
                ..PLAIN
            },
        ),
    ];
    for (origin, config) in expected {
        let all = shapes(&format!("resnet50-{origin}.txt"));
        let parallel: Shapes = all
            .iter()
            .map(|(name, s)| (format!("module.{name}"), s.clone()))
            .collect();
        for all in [all, parallel] {
            let plan = plan(&checkpoint(all.clone()), &Options::default()).unwrap();
            assert_eq!(resnet(&plan), config, "{origin}");
            assert_complete(&plan, &all, origin);
            let about = &plan.description;
            assert_eq!(about.feature_dim, Some(config.reduced.unwrap_or(2048)));
            assert_eq!((about.input_height, about.input_width), (256, 128));
            let bicubic = about.interpolation == Interpolation::PilBicubic;
            assert_eq!(bicubic, origin.starts_with("fastreid"), "{origin}");
        }
    }
}

// Where shapes alone could not tell.
#[test]
fn tensors_of_resnets_come_from_where_they_should() {
    for (origin, ours, theirs) in [
        (
            "torchvision",
            "backbone.layer3.5.bn2.bias",
            "layer3.5.bn2.bias",
        ),
        ("torchreid-512", "bn_feat.running_mean", "fc.1.running_mean"),
        ("strong-baseline", "bn.bias", "bottleneck.bias"),
        (
            "strong-baseline",
            "backbone.layer4.0.downsample.1.weight",
            "base.layer4.0.downsample.1.weight",
        ),
        ("fastreid", "bn.weight", "heads.bottleneck.0.weight"),
        ("fastreid-gem-512", "fc.weight", "heads.bottleneck.0.weight"),
        (
            "fastreid-gem-512",
            "bn_feat.weight",
            "heads.bottleneck.1.weight",
        ),
        ("fastreid-gem-512", "pool.p", "heads.pool_layer.p"),
        ("512", "bn_feat.bias", "bn_feat.bias"),
    ] {
        let plan = plan(
            &checkpoint(shapes(&format!("resnet50-{origin}.txt"))),
            &Options::default(),
        );
        assert_eq!(sources(&plan.unwrap(), ours), [theirs], "{origin}");
    }
}

#[test]
fn what_the_user_says_of_a_resnet_counts() {
    let options = with(EncoderOptions {
        last_stride: Some(2),
        neck: Some(Neck::Before),
        input: Some((384, 128)),
        ..EncoderOptions::default()
    });
    let all = shapes("resnet50-strong-baseline.txt");
    let plan = plan(&checkpoint(all.clone()), &options).unwrap();
    let expected = ResNet50Config {
        last_stride: 2,
        stem: Stem::WithoutRelu,
        ..PLAIN
    };
    assert_eq!(resnet(&plan), expected);
    assert_complete(&plan, &all, "without neck");
    assert_eq!(
        (plan.description.input_height, plan.description.input_width),
        (384, 128)
    );
}

fn error(all: Shapes, options: &Options) -> String {
    plan(&checkpoint(all), options).unwrap_err().to_string()
}

#[test]
fn resnets_that_are_built_otherwise_are_refused() {
    for (name, words) in [
        ("backbone.NL_2.0.g.weight", "non-local"),
        ("backbone.layer1.0.bn1.IN.weight", "IBN"),
        ("backbone.layer1.0.se.fc.0.weight", "squeeze"),
        ("heads.extra.weight", "no place in resnet50-reid"),
    ] {
        let mut all = shapes("resnet50-fastreid.txt");
        all.insert(name.to_string(), vec![1]);
        let error = error(all, &Options::default());
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
    let mut all = shapes("resnet50-512.txt");
    all.insert("fc.bias".to_string(), vec![500]);
    let wrong = error(all, &Options::default());
    assert!(
        wrong.contains("fc.bias") && wrong.contains("[512]") && wrong.contains("[500]"),
        "{wrong}"
    );
    let asked = Options {
        architecture: Some("osnet-x1.0".to_string()),
        ..Options::default()
    };
    let wrong = error(shapes("resnet50-torchreid.txt"), &asked);
    assert!(
        wrong.contains("resnet50-reid") && wrong.contains("osnet-x1.0"),
        "{wrong}"
    );
}

#[test]
fn clip_reids_checkpoints_are_recognised_and_complete() {
    for (feature, neck, tensors, dim) in [
        (None, None, 152, 512),
        (Some(Feature::Full), None, 152, 1280),
        (None, Some(Neck::After), 156, 512),
        (Some(Feature::Full), Some(Neck::After), 160, 1280),
    ] {
        let all = shapes("clip-reid-market1501.txt");
        let options = with(EncoderOptions {
            feature,
            neck,
            ..EncoderOptions::default()
        });
        let plan = plan(&checkpoint(all.clone()), &options).unwrap();
        let expected = ClipVitVariant {
            feature: feature.unwrap_or(Feature::Proj),
            neck: neck.unwrap_or(Neck::Before),
            ..ClipVitVariant::default()
        };
        assert_eq!(clip(&plan), expected);
        assert_eq!(plan.tensors.len(), tensors);
        assert_eq!(plan.description.feature_dim, Some(dim));
        assert_complete(&plan, &all, "CLIP-ReID");
    }
    let all = shapes("clip-reid-market1501.txt");
    let about = plan(&checkpoint(all), &Options::default())
        .unwrap()
        .description;
    assert_eq!((about.input_height, about.input_width), (256, 128));
    assert_eq!((about.mean, about.std), ([0.5; 3], [0.5; 3]));
    assert_eq!(about.interpolation, Interpolation::PilBilinear);
}

#[test]
fn overlap_and_cameras_show_in_the_tensors() {
    let all = shapes("clip-reid-msmt17-overlap.txt");
    let options = with(EncoderOptions {
        camera_weight: Some(1.0),
        ..EncoderOptions::default()
    });
    let plan = plan(&checkpoint(all.clone()), &options).unwrap();
    let expected = ClipVitVariant {
        stride: 12,
        cameras: 15,
        camera_weight: 1.0,
        ..ClipVitVariant::default()
    };
    assert_eq!(clip(&plan), expected);
    assert_complete(&plan, &all, "CLIP-ReID with side information");
    let mut all = all;
    all.insert(
        "image_encoder.positional_embedding".to_string(),
        vec![200, 768],
    );
    let wrong = error(all, &options);
    assert!(wrong.contains("200 positions"), "{wrong}");
}

#[test]
fn clips_own_weights_are_a_start() {
    for origin in ["clip-openai", "clip-huggingface"] {
        let all = shapes(&format!("{origin}.txt"));
        let mut plan = plan(&checkpoint(all.clone()), &Options::default()).unwrap();
        let expected = ClipVitVariant {
            text: true,
            ..ClipVitVariant::default()
        };
        assert_eq!(clip(&plan), expected);
        // Words of the prompt out of one table; the ID of each is that of CLIP's tokenizer.
        let prefix = plan.tensors.remove("prompt_learner.token_prefix").unwrap();
        let suffix = &plan.tensors["prompt_learner.token_suffix"];
        assert_eq!(
            (prefix.shape, suffix.shape.as_slice()),
            (vec![1, 5, 512], &[1, 68, 512][..])
        );
        let rows = |numbers: &Numbers| match numbers {
            Numbers::Changed(_, Change::Rows { rows, .. }) => rows.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(rows(&prefix.numbers), [49406, 320, 1125, 539, 320]);
        assert_eq!(rows(&suffix.numbers)[..4], [2533, 269, 49407, 0]);
        assert_complete(&plan, &all, origin);
        let texts = plan
            .tensors
            .keys()
            .filter(|name| name.starts_with("text_encoder."));
        assert_eq!(texts.count(), 12 * 12 + 4);
        let positions = &plan.tensors["image_encoder.positional_embedding"];
        assert_eq!(positions.shape, [129, 768]);
        let resampled = Change::Positions {
            side: 14,
            to: (16, 8),
            width: 768,
        };
        assert!(matches!(&positions.numbers, Numbers::Changed(_, change) if *change == resampled));
    }
    let plan = plan(
        &checkpoint(shapes("clip-huggingface.txt")),
        &Options::default(),
    )
    .unwrap();
    let layer = "vision_model.encoder.layers.3";
    let block = "image_encoder.transformer.resblocks.3";
    let parts = ["q_proj", "k_proj", "v_proj"].map(|part| format!("{layer}.self_attn.{part}.bias"));
    assert_eq!(sources(&plan, &format!("{block}.attn.in_proj_bias")), parts);
    for (ours, theirs) in [
        (
            format!("{block}.ln_1.weight"),
            format!("{layer}.layer_norm1.weight"),
        ),
        (
            format!("{block}.ln_2.weight"),
            format!("{layer}.layer_norm2.weight"),
        ),
        (
            format!("{block}.attn.out_proj.bias"),
            format!("{layer}.self_attn.out_proj.bias"),
        ),
        (
            "image_encoder.ln_pre.bias".into(),
            "vision_model.pre_layrnorm.bias".into(),
        ),
        (
            "image_encoder.ln_post.bias".into(),
            "vision_model.post_layernorm.bias".into(),
        ),
        (
            "image_encoder.proj".into(),
            "visual_projection.weight".into(),
        ),
        (
            "text_encoder.ln_final.bias".into(),
            "text_model.final_layer_norm.bias".into(),
        ),
        (
            "text_encoder.positional_embedding".into(),
            "text_model.embeddings.position_embedding.weight".into(),
        ),
        (
            "text_encoder.text_projection".into(),
            "text_projection.weight".into(),
        ),
    ] {
        assert_eq!(sources(&plan, &ours), [theirs.as_str()]);
    }
}

#[test]
fn a_clip_with_a_resnet_is_refused() {
    let mut all = Shapes::new();
    all.insert(
        "image_encoder.attnpool.c_proj.weight".to_string(),
        vec![1024, 2048],
    );
    let wrong = error(all, &Options::default());
    assert!(wrong.contains("ViT-B/16"), "{wrong}");
}

// Converted, loaded and run; converted once more, the description and the vectors stay.
#[test]
fn a_converted_file_works_and_converts_to_itself() {
    let mut tensors = HashMap::new();
    for (name, shape) in shapes("resnet50-strong-baseline.txt") {
        let values = made_up(&name, &shape);
        tensors.insert(name, (shape, values));
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (
        folder.path().join("1.safetensors"),
        folder.path().join("2.safetensors"),
    );
    let mut checkpoint = Checkpoint::from_memory(Path::new("baseline.pth"), tensors);
    convert_checkpoint(&mut checkpoint, &first, &Options::default()).unwrap();
    let relicensed = Options {
        licence: Some("MIT".to_string()),
        ..Options::default()
    };
    convert(&first, &second, &relicensed).unwrap();
    let image = made_up_image(128, 256, 4);
    let load = |path: &Path| {
        let weights = Weights::load(path, &Device::Cpu).unwrap();
        let embedder = LoadedEmbedder::new(&weights, &Device::Cpu, DType::F32).unwrap();
        let vector = embedder
            .embed(&[Crop::whole(&image)])
            .unwrap()
            .remove(0)
            .unwrap();
        (weights.description().clone(), vector)
    };
    let ((about, vector), (again, same)) = (load(&first), load(&second));
    assert_eq!(about.source, "baseline.pth");
    assert_eq!(
        again,
        Description {
            licence: "MIT".to_string(),
            ..about
        }
    );
    assert_eq!(vector, same);
}
