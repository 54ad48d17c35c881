//! `mtmc detect`: people in single images.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use image::RgbImage;
use mtmc_models::layers::Mode;
use mtmc_models::{Detection, Detector as _, LoadedDetector};

use super::options::{DetectionArgs, ModelArgs};
use crate::annotate::{Annotator, Label};
use crate::sink::detection_data;
use crate::source::read_image;

/// Arguments of `mtmc detect`.
#[derive(Debug, Args)]
pub struct DetectArgs {
    /// Images (JPEG or PNG)
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    detection: DetectionArgs,

    /// Write the images with boxes drawn on them into this folder, as PNG
    #[arg(short, long, env = "MTMC_OUT", value_name = "DIR")]
    out: Option<PathBuf>,

    /// Print JSON, one object an image, instead of a table
    #[arg(long, env = "MTMC_JSON")]
    json: bool,
}

/// Detects and prints.
pub fn run(args: &DetectArgs) -> anyhow::Result<()> {
    args.model.compute.start_threads(Mode::Inference)?;
    let detector = args.model.load()?;
    let options = args
        .detection
        .options(&detector, args.detection.confidence)?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    }
    let annotator = Annotator::new();
    let mut stdout = std::io::stdout().lock();
    for path in &args.images {
        let mut image = read_image(path)?;
        let started = std::time::Instant::now();
        let detections = detector
            .detect(&[&image], &options)
            .with_context(|| path.display().to_string())?
            .pop()
            .unwrap_or_default();
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        if args.json {
            let data = detection_data(&detections, &[], &[], detector.classes(), milliseconds);
            let object = serde_json::json!({"image": path, "detection_data": data});
            writeln!(stdout, "{object}")?;
        } else {
            write!(
                stdout,
                "{}",
                table(path, &detections, &detector, milliseconds)
            )?;
        }
        if let Some(out) = &args.out {
            draw(&annotator, &mut image, &detections, &detector);
            let name = path.file_stem().unwrap_or_default();
            let target = out.join(name).with_extension("png");
            image
                .save(&target)
                .with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}

fn class_name(detector: &LoadedDetector, detection: &Detection) -> String {
    let name = detector.classes().get(detection.class as usize);
    name.cloned().unwrap_or_else(|| detection.class.to_string())
}

fn table(
    path: &Path,
    detections: &[Detection],
    detector: &LoadedDetector,
    milliseconds: f64,
) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "{}: {} found in {milliseconds:.0} ms",
        path.display(),
        detections.len()
    );
    for detection in detections {
        let b = &detection.bbox;
        let _ = writeln!(
            text,
            "  {:<14} {:.3}  {:>7.1} {:>7.1} {:>7.1} {:>7.1}",
            class_name(detector, detection),
            detection.score,
            b.x1,
            b.y1,
            b.x2,
            b.y2
        );
    }
    text
}

fn draw(
    annotator: &Annotator,
    image: &mut RgbImage,
    detections: &[Detection],
    detector: &LoadedDetector,
) {
    let labels: Vec<Label> = detections
        .iter()
        .map(|detection| Label {
            bbox: detection.bbox,
            text: format!("{} {:.2}", class_name(detector, detection), detection.score),
            color_key: u64::from(detection.class),
        })
        .collect();
    annotator.annotate(image, &labels);
}
