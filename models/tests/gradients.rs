//! Networks built for training can be trained: gradients reach all weights that a loss on boxes
//! and scores depends on.

// A helper that cannot do its part must fail its test.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use mtmc_models::deimv2::{Deimv2, Deimv2Config};
use mtmc_models::detect::DetrNetwork;
use mtmc_models::expected_tensors;
use mtmc_models::layers::{Mode, Params};
use mtmc_models::rtdetr::{RtDetr, RtDetrConfig};
use mtmc_models::testing::{made_up, made_up_description, made_up_weights};

fn made_up_vars(name: &str) -> HashMap<String, Var> {
    let description = made_up_description(name);
    let made_up = made_up_weights(&description, &expected_tensors(&description).unwrap());
    made_up
        .tensors()
        .iter()
        .map(|(name, values)| (name.clone(), Var::from_tensor(values).unwrap()))
        .collect()
}

/// Names of the weights that the sum of all squared scores and boxes of a made-up image with
/// sides of `side` has no gradient for, running statistics aside.
fn without_gradient(
    name: &str,
    side: usize,
    build: impl Fn(&Params) -> Box<dyn DetrNetwork>,
) -> Vec<String> {
    let vars = made_up_vars(name);
    let tensors = vars
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().clone()));
    let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let network = build(&Params::new(vb, Mode::Training, 1e-5));
    // Made-up numbers of one dimension are in 0.8..1.2.
    let pixels = made_up("image", &[3 * side * side]);
    let image = Tensor::from_vec(pixels, (1, 3, side, side), &Device::Cpu).unwrap();
    let output = network.forward(&image.affine(2.5, -2.0).unwrap()).unwrap();
    let loss = output.logits.sqr().unwrap().mean_all().unwrap();
    let loss = (loss + output.boxes.sqr().unwrap().mean_all().unwrap()).unwrap();
    let gradients = loss.backward().unwrap();
    let mut without: Vec<String> = vars
        .iter()
        .filter(|(name, var)| {
            !name.contains("running_") && gradients.get(var.as_tensor()).is_none()
        })
        .map(|(name, _)| name.clone())
        .collect();
    without.sort();
    without
}

/// All but those under `expected` have a gradient.
fn assert_only(without: &[String], expected: &[&str], name: &str) {
    for found in without {
        let rest = found.strip_prefix("decoder.").unwrap_or_default();
        let explained = expected.iter().any(|head| rest.starts_with(head));
        assert!(explained, "{name}: no gradient for {found}");
    }
}

#[test]
fn gradients_reach_the_weights_of_deimv2() {
    // The first two are constants, the others choose among cells or stand before a detached box.
    let expected = [
        "up",
        "reg_scale",
        "enc_score_head.",
        "enc_bbox_head.",
        "query_pos_head.",
        "pre_bbox_head.",
    ];
    // The smallest images with cells for all queries.
    for (name, side) in [("deimv2-atto", 160), ("deimv2-n", 256)] {
        let config = Deimv2Config::named(name, 80).unwrap();
        let without = without_gradient(name, side, |params| {
            Box::new(Deimv2::new(&config, params).unwrap())
        });
        assert_only(&without, &expected, name);
    }
}

#[test]
fn gradients_reach_the_weights_of_rtdetr() {
    // What chooses queries is detached, and the scores of all layers but the last are the
    // auxiliary losses' matter.
    let expected = [
        "enc_output.",
        "enc_score_head.",
        "enc_bbox_head.",
        "dec_score_head.",
    ];
    for name in ["rtdetr-r18", "rtdetr-l"] {
        let config = RtDetrConfig::named(name, 80).unwrap();
        let without = without_gradient(name, 160, |params| {
            Box::new(RtDetr::new(&config, params).unwrap())
        });
        assert_only(&without, &expected, name);
        let last = format!(
            "decoder.dec_score_head.{}.weight",
            config.decoder.layers - 1
        );
        assert!(!without.contains(&last), "{name}: no gradient for {last}");
    }
}
