//! Mappings against the tensor lists of other programs (`tests/oracle/weights/make_goldens.py`).

#![allow(clippy::unwrap_used)]

mod common;

use mtmc_models::{Interpolation, ResizeMode};
use mtmc_tools::Options;
use mtmc_tools::map::{Plan, plan};

use common::{Shapes, checkpoint, shapes, sources};

fn planned(golden: &str) -> Plan {
    plan(&checkpoint(shapes(golden)), &Options::default()).unwrap()
}

#[test]
fn every_origin_is_recognised_and_complete() {
    for (golden, architecture) in [
        ("rtdetr-r18-authors.txt", "rtdetr-r18"),
        ("rtdetr-r101-authors.txt", "rtdetr-r101"),
        ("rtdetr-r18-huggingface.txt", "rtdetr-r18"),
        ("rtdetr-r50-huggingface.txt", "rtdetr-r50"),
        ("rtdetr-x-ultralytics.txt", "rtdetr-x"),
        ("yolov8n-ultralytics.txt", "yolov8n"),
    ] {
        let all = shapes(golden).len();
        let plan = planned(golden);
        assert_eq!(plan.description.architecture, architecture, "{golden}");
        assert_eq!(plan.description.classes.len(), 80);
        assert_eq!(plan.description.classes[0], "person");
        // Nothing is lost: each tensor is either used once or left out with a reason.
        let used: usize = plan
            .tensors
            .keys()
            .map(|name| sources(&plan, name).len())
            .sum();
        assert_eq!(used + plan.dropped.len(), all, "{golden}");
        for dropped in &plan.dropped {
            let name = &dropped.name;
            let counter = name.ends_with("num_batches_tracked");
            assert!(
                counter || name.contains("denoising_class_embed"),
                "{golden}: {name}"
            );
        }
    }
}

#[test]
fn preprocessing_is_the_origins() {
    let about = planned("rtdetr-r18-huggingface.txt").description;
    assert_eq!(about.interpolation, Interpolation::PilBilinear);
    assert_eq!(
        (about.resize, about.batch_norm_eps),
        (ResizeMode::Stretch, None)
    );
    let about = planned("yolov8n-ultralytics.txt").description;
    assert_eq!(about.interpolation, Interpolation::OpencvBilinear);
    assert_eq!(
        (about.resize, about.batch_norm_eps),
        (ResizeMode::Letterbox, Some(1e-3))
    );
    let about = planned("rtdetr-x-ultralytics.txt").description;
    assert_eq!(about.resize, ResizeMode::Stretch);
    assert_eq!((about.input_width, about.input_height), (640, 640));
}

/// Where shapes alone could not tell: pairs out of transformers' conversion script.
#[test]
fn hugging_face_names_are_those_of_its_own_script() {
    let plan = planned("rtdetr-r50-huggingface.txt");
    let attention = "model.decoder.layers.1.self_attn";
    let parts = ["q_proj", "k_proj", "v_proj"].map(|part| format!("{attention}.{part}.weight"));
    assert_eq!(
        sources(&plan, "decoder.decoder.layers.1.self_attn.in_proj_weight"),
        parts
    );
    for (ours, theirs) in [
        (
            "decoder.decoder.layers.0.norm1.weight",
            "model.decoder.layers.0.self_attn_layer_norm.weight",
        ),
        (
            "decoder.decoder.layers.0.norm2.weight",
            "model.decoder.layers.0.encoder_attn_layer_norm.weight",
        ),
        (
            "decoder.decoder.layers.0.norm3.weight",
            "model.decoder.layers.0.final_layer_norm.weight",
        ),
        (
            "encoder.encoder.0.layers.0.norm2.bias",
            "model.encoder.encoder.0.layers.0.final_layer_norm.bias",
        ),
        (
            "backbone.conv1.conv1_2.norm.running_var",
            "model.backbone.model.embedder.embedder.1.normalization.running_var",
        ),
        (
            "backbone.res_layers.1.blocks.0.short.conv.conv.weight",
            "model.backbone.model.encoder.stages.1.layers.0.shortcut.1.convolution.weight",
        ),
        (
            "backbone.res_layers.3.blocks.2.branch2c.norm.bias",
            "model.backbone.model.encoder.stages.3.layers.2.layer.2.normalization.bias",
        ),
        (
            "decoder.dec_bbox_head.4.layers.1.weight",
            "model.decoder.bbox_embed.4.layers.1.weight",
        ),
        (
            "decoder.input_proj.2.norm.weight",
            "model.decoder_input_proj.2.1.weight",
        ),
    ] {
        assert_eq!(sources(&plan, ours), [theirs]);
    }
}

/// The heads' second names: used where they are the only ones.
#[test]
fn shared_heads_may_have_either_name() {
    let mut shapes = shapes("rtdetr-r18-huggingface.txt");
    let (inner, outer) = ("model.decoder.class_embed.0.bias", "class_embed.0.bias");
    shapes.insert(outer.to_string(), vec![80]);
    let both = plan(&checkpoint(shapes.clone()), &Options::default()).unwrap();
    assert_eq!(sources(&both, "decoder.dec_score_head.0.bias"), [inner]);
    shapes.remove(inner);
    let one = plan(&checkpoint(shapes), &Options::default()).unwrap();
    assert_eq!(sources(&one, "decoder.dec_score_head.0.bias"), [outer]);
}

fn fails_with(shapes: Shapes, options: &Options, words: &[&str]) {
    let text = plan(&checkpoint(shapes), options).unwrap_err().to_string();
    for word in words.iter().chain(&["made-up.pt"]) {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn errors_name_file_tensor_expected_and_found() {
    let golden = "rtdetr-r18-authors.txt";
    let tensor = "encoder.fpn_blocks.0.conv3.conv.weight";
    let auto = Options::default();
    let mut missing = shapes(golden);
    missing.remove(tensor);
    fails_with(
        missing,
        &auto,
        &[tensor, "[256, 128, 1, 1]", "nothing", "rtdetr-r18"],
    );
    let mut other = shapes(golden);
    other.insert(tensor.to_string(), vec![256, 127, 1, 1]);
    fails_with(
        other,
        &auto,
        &[tensor, "[256, 128, 1, 1]", "[256, 127, 1, 1]"],
    );
    let mut extra = shapes(golden);
    extra.insert("encoder.surprise.weight".to_string(), vec![1]);
    fails_with(extra, &auto, &["encoder.surprise.weight", "no place"]);
    let wrong = Options {
        architecture: Some("rtdetr-r50".to_string()),
        ..Options::default()
    };
    fails_with(shapes(golden), &wrong, &["rtdetr-r50", "branch2"]);
    let unknown = Options {
        architecture: Some("resnet".to_string()),
        ..Options::default()
    };
    fails_with(shapes(golden), &unknown, &["resnet", "rtdetr-r50"]);
    let strange = Shapes::from([("a.b".to_string(), vec![1])]);
    fails_with(strange, &auto, &["a.b", "no network"]);
}
