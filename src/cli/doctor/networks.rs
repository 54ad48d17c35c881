//! The networks: their weights, whether they load, and how long a picture takes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use image::{Rgb, RgbImage};
use mtmc_models::{Crop, DetectOptions, Detector as _, Embedder as _};
use mtmc_models::{LoadedDetector, LoadedEmbedder};
use mtmc_tools::fetch::{Fetcher, sha256};

use super::{DoctorArgs, Findings};
use crate::cli::world;
use crate::config::Environment;

/// What could be loaded.
pub(super) struct Loaded {
    pub(super) detector: Option<LoadedDetector>,
    pub(super) embedder: Option<LoadedEmbedder>,
}

pub(super) fn look(
    args: &DoctorArgs,
    environments: &[Environment],
    findings: &mut Findings,
) -> Loaded {
    let mut loaded = Loaded {
        detector: None,
        embedder: None,
    };
    if file(&args.model.weights, "detector", findings).is_some() {
        loaded.detector = detector(args, findings);
    }
    let weights = match world::encoder_weights(args.reid.as_deref(), environments) {
        Ok(weights) => weights,
        Err(error) => {
            findings.fail("re-ID", error, "the service has one encoder: name it");
            return loaded;
        }
    };
    match weights {
        Some(weights) => {
            if file(&weights, "re-ID", findings).is_some() {
                loaded.embedder = embedder(args, &weights, environments, findings);
            }
        }
        None => findings.warn(
            "re-ID",
            "no weights are named: identities go by place alone",
            "name some with --reid; `mtmc models list` shows which there are",
        ),
    }
    loaded
}

/// The weights' file with its checksum; nothing is downloaded.
fn file(weights: &str, check: &str, findings: &mut Findings) -> Option<PathBuf> {
    let path = Path::new(weights);
    let path = if path.exists() {
        Some(path.to_path_buf())
    } else {
        let fetcher = Fetcher::from_env().ok();
        fetcher.and_then(|fetcher| fetcher.cached(weights))
    };
    let Some(path) = path else {
        let advice = format!("`mtmc models fetch {weights}`, or name a file that is there");
        findings.fail(check, format!("{weights}: not here"), advice);
        return None;
    };
    match sha256(&path) {
        Ok(digest) => {
            findings.ok(check, format!("{}: sha256 {digest}", path.display()));
            Some(path)
        }
        Err(error) => {
            findings.fail(check, error, "make the file readable, or fetch it again");
            None
        }
    }
}

/// A picture with something in it: the networks see edges and not a plain colour.
fn picture() -> RgbImage {
    RgbImage::from_fn(640, 480, |x, y| {
        let inside = (260..380).contains(&x) && (100..400).contains(&y);
        let shade = ((x / 8 + y / 8) % 2 * 60) as u8;
        if inside {
            Rgb([200, 60 + shade, 40])
        } else {
            Rgb([90, 110, 120 + shade])
        }
    })
}

fn detector(args: &DoctorArgs, findings: &mut Findings) -> Option<LoadedDetector> {
    let advice = "convert or fetch the weights again: `mtmc models --help`";
    let detector = match args.model.load() {
        Ok(detector) => detector,
        Err(error) => {
            findings.fail("detector", format!("{error:#}"), advice);
            return None;
        }
    };
    let image = picture();
    let options = DetectOptions::default();
    // The first time kernels and memory are made ready.
    let warm = detector.detect(&[&image], &options);
    let started = Instant::now();
    match warm.and_then(|_| detector.detect(&[&image], &options)) {
        Ok(_) => {
            let ms = started.elapsed().as_secs_f64() * 1e3;
            findings.ok("detector", format!("a picture takes {ms:.1} ms"));
            Some(detector)
        }
        Err(error) => {
            findings.fail("detector", error, advice);
            None
        }
    }
}

fn embedder(
    args: &DoctorArgs,
    weights: &str,
    environments: &[Environment],
    findings: &mut Findings,
) -> Option<LoadedEmbedder> {
    let advice = "convert or fetch the weights again: `mtmc models --help`";
    let embedder = match world::load_encoder(&args.model.compute, weights, environments) {
        Ok(embedder) => embedder,
        Err(error) => {
            findings.fail("re-ID", format!("{error:#}"), advice);
            return None;
        }
    };
    let image = picture();
    let crops = [Crop::whole(&image)];
    let warm = embedder.embed(&crops);
    let started = Instant::now();
    match warm.and_then(|_| embedder.embed(&crops)) {
        Ok(vectors) => {
            let ms = started.elapsed().as_secs_f64() * 1e3;
            let dim = vectors.first().map_or(0, |_| embedder.dim());
            findings.ok("re-ID", format!("a person takes {ms:.1} ms, {dim} numbers"));
            Some(embedder)
        }
        Err(error) => {
            findings.fail("re-ID", error, advice);
            None
        }
    }
}
