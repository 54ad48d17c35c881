//! Helpers of this project's tests: where the shared test material lies, made-up weights.
//!
//! Made-up weights and images are computed from names and seeds alone, here and in their Python
//! twin `tests/oracle/made_up.py`, so that parity tests store only outputs. Whoever changes a rule
//! here changes it there, and makes all goldens anew.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use crate::weights::FORMAT_VERSION;
use crate::{Description, Interpolation, ResizeMode, TensorSpec, Weights};

/// Path of `relative` inside the shared test material beside the repository (`../shared`).
///
/// Without that material a test is skipped: `None`, and a line on standard error that says so.
///
/// # Panics
/// If `CI=true` and the file is missing: there, a silent skip would hide a broken check.
pub fn shared(relative: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(
        !ci,
        "CI needs the shared test material: ../shared/{relative} is missing"
    );
    skipped(&format!("../shared/{relative}"));
    None
}

/// The same for a video that only `ffmpeg` opens: without that program a test is skipped, too.
///
/// # Panics
/// If `CI=true` and one of both is missing.
pub fn shared_video(relative: &str) -> Option<PathBuf> {
    shared(relative).filter(|_| has_ffmpeg())
}

/// Whether the program `ffmpeg` is there; if not, says that a test is skipped.
///
/// # Panics
/// If `CI=true` and it is missing.
pub fn has_ffmpeg() -> bool {
    let found = Command::new("ffmpeg").arg("-version").output().is_ok();
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(found || !ci, "CI needs ffmpeg");
    if !found {
        skipped("ffmpeg");
    }
    found
}

/// Says so. Not by `eprintln!`, which the test harness hides when a test passes.
fn skipped(needed: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: needs {needed}");
}

/// Three times the mean square of a convolution's weight times its fan-in: an activation follows
/// that takes about half of the power, and signals shall keep their size through deep networks.
const CONV_GAIN: f64 = 4.5;
/// The same for Ultralytics' networks (names under `model.`), where `SiLU` takes more of it.
const SILU_CONV_GAIN: f64 = 6.5;
/// The same for linear layers.
const LINEAR_GAIN: f64 = 3.0;

/// The generator splitmix64 (Steele, Lea, Flood 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// FNV-1a, 64 bits, of the name's UTF-8.
fn fnv1a(name: &str) -> u64 {
    let mut value: u64 = 0xCBF2_9CE4_8422_2325;
    for byte in name.bytes() {
        value = (value ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    }
    value
}

/// A made-up tensor, row-major: the same numbers as `tests/oracle/made_up.py` gives.
///
/// The name seeds the generator and with the shape decides the kind: running variances are in
/// 0.5..1.5, biases and running means in ±0.1, weights of two dimensions and more uniform around
/// zero with a spread that keeps signals their size, everything else (norms' weights, scales) in
/// 0.8..1.2. `…dfl.conv.weight`, which is not learnt, holds its indices.
pub fn made_up(name: &str, shape: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    if name.ends_with("dfl.conv.weight") {
        return (0..count).map(|index| index as f32).collect();
    }
    let (offset, scale) = if name.ends_with("running_var") {
        (0.5, 1.0)
    } else if name.ends_with("bias") || name.ends_with("running_mean") {
        (-0.1, 0.2)
    } else if shape.len() >= 2 {
        let gain = match (shape.len(), name.starts_with("model.")) {
            (..4, _) => LINEAR_GAIN,
            (_, true) => SILU_CONV_GAIN,
            (_, false) => CONV_GAIN,
        };
        let fan_in: usize = shape.iter().skip(1).product();
        let bound = (gain / fan_in as f64).sqrt();
        (-bound, 2.0 * bound)
    } else {
        (0.8, 0.4)
    };
    let mut random = SplitMix64(fnv1a(name));
    (0..count)
        .map(|_| {
            let u = (random.draw() >> 40) as f64 / f64::from(1_u32 << 24);
            (offset + scale * u) as f32
        })
        .collect()
}

/// What describes made-up weights of `architecture`: 80 nameless classes, images of 640×640.
pub fn made_up_description(architecture: &str) -> Description {
    Description {
        format: FORMAT_VERSION,
        architecture: architecture.to_string(),
        classes: vec![String::new(); 80],
        input_height: 640,
        input_width: 640,
        resize: ResizeMode::Stretch,
        interpolation: Interpolation::PilBilinear,
        mean: [0.0; 3],
        std: [1.0; 3],
        feature_dim: None,
        variant: None,
        batch_norm_eps: None,
        source: "made up".to_string(),
        licence: "none".to_string(),
    }
}

/// Made-up weights for the tensors `specs` of the network of `description`.
///
/// # Panics
/// If a shape is absurd.
pub fn made_up_weights(description: &Description, specs: &[TensorSpec]) -> Weights {
    let mut tensors = HashMap::new();
    for spec in specs {
        let values = made_up(&spec.name, &spec.shape);
        let tensor = Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu);
        #[allow(clippy::expect_used)]
        let tensor = tensor.expect("as many values as the shape says");
        tensors.insert(spec.name.clone(), tensor);
    }
    Weights::from_tensors(description.clone(), tensors)
}

/// A made-up image as networks take it: `[1, 3, height, width]`, RGB in 0..=1.
///
/// # Panics
/// If a side is absurd.
pub fn made_up_input(width: u32, height: u32, seed: u32) -> Tensor {
    let image = made_up_image(width, height, seed);
    let shape = (1, height as usize, width as usize, 3);
    let planes = Tensor::from_vec(image.into_raw(), shape, &Device::Cpu)
        .and_then(|pixels| pixels.permute((0, 3, 1, 2))?.to_dtype(DType::F32)? / 255.0);
    #[allow(clippy::expect_used)]
    planes.expect("an image is three planes")
}

/// FNV-1a, 64 bits, of `name:d0,d1,…` lines sorted by name, as the oracle scripts compute it.
pub fn digest(specs: &[TensorSpec]) -> String {
    let mut lines = Vec::new();
    for spec in specs {
        let sizes: Vec<String> = spec.shape.iter().map(ToString::to_string).collect();
        lines.push(format!("{}:{}\n", spec.name, sizes.join(",")));
    }
    lines.sort();
    format!("{:016x}", fnv1a(&lines.concat()))
}

/// A made-up image: slow waves and some noise, in integers alone, so that
/// `tests/oracle/made_up.py` draws the same one.
pub fn made_up_image(width: u32, height: u32, seed: u32) -> RgbImage {
    let mut random = SplitMix64(u64::from(seed));
    let mut image = RgbImage::new(width, height);
    let seed = i64::from(seed);
    // Row by row, the order in which the noise is drawn.
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        let (x, y) = (i64::from(x), i64::from(y));
        for (channel, value) in (0_i64..).zip(&mut pixel.0) {
            let slow = wave(x + (channel + 1) * y + 37 * seed, 64);
            let quick = wave(
                (channel + 2) * x + 3 * y * (seed % 5 + 1),
                96 - 16 * channel,
            );
            let noise = (random.draw() >> 58) as i64;
            // At most 191 + 63.
            *value = ((slow * 2 + quick) / 4 + noise) as u8;
        }
    }
    image
}

/// A triangle wave of period `2 * half` between 0 and 255, by integer division.
fn wave(t: i64, half: i64) -> i64 {
    (t.rem_euclid(2 * half) - half).abs() * 255 / half
}

#[cfg(test)]
mod tests {
    use super::*;

    // First and last value and the sum, as printed by `made_up.made_up(name, shape)` of
    // tests/oracle/made_up.py.
    #[test]
    fn made_up_tensors_are_those_of_the_python_twin() {
        let cases: [(&str, &[usize], f32, f32, f64); 8] = [
            (
                "model.0.conv.weight",
                &[2, 3, 3, 3],
                -0.34716737,
                0.39597115,
                0.5861450578086078,
            ),
            (
                "a.weight",
                &[2, 5],
                0.26418674,
                0.10279043,
                1.5803264826536179,
            ),
            (
                "a.conv.weight",
                &[2, 3, 1, 1],
                0.093757875,
                0.66341525,
                3.711174912750721,
            ),
            ("n.weight", &[4], 0.96831614, 0.9644682, 4.185439944267273),
            (
                "n.bias",
                &[4],
                0.072027266,
                -0.098010994,
                -0.14853239059448242,
            ),
            (
                "n.running_mean",
                &[4],
                0.08290447,
                -0.08887549,
                -0.06531226634979248,
            ),
            (
                "n.running_var",
                &[4],
                1.0657227,
                0.5581459,
                3.3435781598091125,
            ),
            ("model.22.dfl.conv.weight", &[1, 16, 1, 1], 0.0, 15.0, 120.0),
        ];
        for (name, shape, first, last, sum) in cases {
            let values = made_up(name, shape);
            assert_eq!(values.first(), Some(&first), "{name}");
            assert_eq!(values.last(), Some(&last), "{name}");
            let found: f64 = values.iter().map(|&value| f64::from(value)).sum();
            assert!((found - sum).abs() < 1e-9, "{name}: {found}");
        }
    }

    // As printed by `made_up.made_up_image(320, 256, 3)` of tests/oracle/made_up.py.
    #[test]
    fn made_up_images_are_those_of_the_python_twin() {
        let image = made_up_image(320, 256, 3);
        assert_eq!(image.get_pixel(0, 0).0, [164, 201, 196]);
        assert_eq!(image.get_pixel(200, 100).0, [108, 177, 101]);
        assert_eq!(image.get_pixel(319, 255).0, [111, 116, 111]);
        let sum: u64 = image.as_raw().iter().map(|&value| u64::from(value)).sum();
        assert_eq!(sum, 31_067_718);
    }
}
